//! From this machine's apt sources to sources for the pinned suites (sources.list(5)): the same mirror, transport and
//! keyring, other suites. So no host is named in this tree.

use std::fmt::Write as _;

/// Debian's own releases, as suites and as code names; derivatives' archives do not carry our suites.
const RELEASES: &[&str] = &[
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "sid",
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
];

/// Debian's archive keys, where the `debian-archive-keyring` package puts them.
pub const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Fields that are about which part of an archive is used, not about how it is reached.
const REPLACED: &[&str] =
    &["types", "uris", "suites", "components", "architectures", "enabled", "languages", "targets"];

/// How to reach a Debian archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Its addresses, as apt takes them.
    pub uris: String,
    /// Other deb822 fields of its entry, such as `Signed-By`; a value may have several lines.
    pub fields: Vec<(String, String)>,
}

impl Archive {
    /// An archive at that address, signed with Debian's keys.
    pub fn at(uri: &str) -> Self {
        Self { uris: uri.to_owned(), fields: Vec::new() }
    }

    /// The first entry of these files (name, text) that is Debian's main archive.
    pub fn find(files: &[(String, String)]) -> Option<Self> {
        files.iter().find_map(|(name, text)| {
            if name.ends_with(".sources") { stanzas(text).find_map(|s| s.archive()) } else { one_line(text) }
        })
    }

    /// A `.sources` file for these suites.
    pub fn render(&self, suites: &[&str], architecture: &str) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nArchitectures: {architecture}\n",
            self.uris,
            suites.join(" ")
        );
        for (name, value) in &self.fields {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{name}: {value}");
        }
        if !self.has("signed-by") && !self.has("trusted") {
            let _ = writeln!(text, "Signed-By: {DEBIAN_KEYRING}");
        }
        text
    }

    fn has(&self, field: &str) -> bool {
        self.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case(field))
    }
}

fn is_debian_suite(suite: &str) -> bool {
    let release = suite.split_once('-').map_or(suite, |(release, _)| release);
    RELEASES.contains(&release) && !suite.ends_with("-security")
}

struct Stanza(Vec<(String, String)>);

impl Stanza {
    fn get(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(field)).map(|(_, value)| value.as_str())
    }

    fn archive(&self) -> Option<Archive> {
        let has =
            |field: &str, word: &str| self.get(field)?.split_whitespace().any(|w| w == word).then_some(());
        has("Types", "deb")?;
        has("Components", "main")?;
        if self
            .get("Enabled")
            .is_some_and(|v| matches!(v, "no" | "false" | "0" | "off" | "without" | "disable"))
        {
            return None;
        }
        self.get("Suites")?.split_whitespace().find(|suite| is_debian_suite(suite))?;
        let kept = |name: &str| !REPLACED.contains(&name.to_ascii_lowercase().as_str());
        let fields =
            self.0.iter().filter(|(name, _)| kept(name) && !name.starts_with("X-")).cloned().collect();
        Some(Archive { uris: self.get("URIs")?.split_whitespace().collect::<Vec<_>>().join(" "), fields })
    }
}

/// deb822 stanzas: fields, continuation lines that start with a space, `#` comments anywhere.
fn stanzas(text: &str) -> impl Iterator<Item = Stanza> + '_ {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let blocks: Vec<Vec<&str>> =
        lines.split(|line| line.trim().is_empty()).map(<[&str]>::to_vec).filter(|b| !b.is_empty()).collect();
    blocks.into_iter().map(|block| {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in block {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push('\n');
                    value.push_str(line);
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim().to_owned(), value.trim().to_owned()));
            }
        }
        Stanza(fields)
    })
}

/// `deb [option=value …] URI SUITE COMPONENT…`
fn one_line(text: &str) -> Option<Archive> {
    text.lines().find_map(|line| {
        let line = line.split('#').next()?.trim();
        let rest = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t']))?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        if !is_debian_suite(suite) || !words.any(|component| component == "main") {
            return None;
        }
        let fields = options
            .split_whitespace()
            .filter_map(|option| option.split_once('='))
            .filter(|(name, _)| !matches!(*name, "arch" | "lang" | "target"))
            // The same names in both forms, but for case (sources.list(5), OPTIONS); lists are joined with commas here.
            .map(|(name, value)| (name.to_owned(), value.replace(',', " ")))
            .collect();
        Some(Archive { uris: uri.to_owned(), fields })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str, text: &str) -> Option<Archive> {
        Archive::find(&[("empty.list".into(), String::new()), (name.into(), text.into())])
    }

    #[test]
    fn deb822_entries_keep_how_and_change_what() {
        let text = "Types: deb\n# a comment\nURIs: https://mirror.invalid/security\nSuites: bookworm-security\n\
                    Components: main\n\n\
                    Types: deb deb-src\nURIs: mirror+file:/etc/apt/mirrors/debian.list\n\
                    Suites: bookworm bookworm-updates\nComponents: main contrib\nArchitectures: arm64\n\
                    Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n x\n";
        let archive = find("debian.sources", text).unwrap();
        assert_eq!(
            archive.render(&["trixie", "trixie-backports"], "amd64"),
            "Types: deb\nURIs: mirror+file:/etc/apt/mirrors/debian.list\nSuites: trixie trixie-backports\n\
             Components: main\nArchitectures: amd64\n\
             Signed-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n x\n"
        );
    }

    #[test]
    fn one_line_entries_too() {
        let text = "# deb http://old.invalid/debian stable main\ndeb-src http://m.invalid/debian bookworm main\n\
                    deb http://m.invalid/security bookworm-security main\n\
                    deb [arch=amd64 signed-by=/k/debian.gpg check-valid-until=no] http://m.invalid/debian bookworm main # x\n";
        let archive = find("sources.list", text).unwrap();
        assert_eq!(
            archive.render(&["trixie"], "amd64"),
            "Types: deb\nURIs: http://m.invalid/debian\nSuites: trixie\nComponents: main\nArchitectures: amd64\n\
             signed-by: /k/debian.gpg\ncheck-valid-until: no\n"
        );
        let archive = find("sources.list", "deb http://m.invalid/debian stable main\n").unwrap();
        assert!(archive.render(&["trixie"], "amd64").contains(DEBIAN_KEYRING));
    }

    #[test]
    fn what_is_not_debian_is_not_taken() {
        for text in [
            "deb http://m.invalid/ubuntu noble main\n",
            "deb http://m.invalid/debian-security bookworm-security main\n",
            "deb http://m.invalid/debian bookworm contrib\n",
            "deb http://m.invalid/flat ./\n",
            "",
        ] {
            assert_eq!(find("x.list", text), None, "{text}");
        }
        let off = "Types: deb\nEnabled: no\nURIs: http://m.invalid\nSuites: bookworm\nComponents: main\n";
        assert_eq!(find("x.sources", off), None);
    }
}
