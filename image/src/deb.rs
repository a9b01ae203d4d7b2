//! Debian packages (deb(5)): an `ar` archive of `debian-binary`, `control.tar.*` and `data.tar.*`.

use crate::error::{ImageError, Result};
use crate::path::MemberPath;
use crate::tree::Tree;
use crate::unpack;

/// ar(5): the magic of an archive and of each 60-byte header.
const AR_MAGIC: &[u8] = b"!<arch>\n";
const AR_HEADER_LEN: usize = 60;
const AR_HEADER_END: &[u8] = b"`\n";

/// A package in memory.
#[derive(Clone, Copy, Debug)]
pub struct Deb<'a> {
    name: &'a str,
    control: &'a [u8],
    data: &'a [u8],
}

impl<'a> Deb<'a> {
    /// Finds the parts. `name` is for errors.
    ///
    /// # Errors
    /// If it is no package of format 2.
    pub fn parse(name: &'a str, bytes: &'a [u8]) -> Result<Self> {
        let mut rest = bytes
            .strip_prefix(AR_MAGIC)
            .ok_or_else(|| ImageError::form(name, "ar archive", "magic \"!<arch>\"", "something else"))?;
        let mut format = None;
        let (mut control, mut data) = (None, None);
        while !rest.is_empty() {
            let (member, content, after) = ar_member(name, rest)?;
            match member {
                "debian-binary" => format = Some(content),
                _ if member.starts_with("control.tar") => control = Some(content),
                _ if member.starts_with("data.tar") => data = Some(content),
                // deb(5): members that start with an underscore are local and skipped.
                _ => {}
            }
            rest = after;
        }
        if !format.is_some_and(|f| f.starts_with(b"2.")) {
            return Err(ImageError::form(name, "debian-binary", "format 2.x", "another or none"));
        }
        let missing = |what: &str| ImageError::form(name, "ar archive", format!("a member {what}.*"), "none");
        Ok(Self {
            name,
            control: control.ok_or_else(|| missing("control.tar"))?,
            data: data.ok_or_else(|| missing("data.tar"))?,
        })
    }

    /// The files of the package for which `wanted` says yes.
    ///
    /// # Errors
    /// If the data archive is broken or holds what an image must not carry.
    pub fn files(&self, wanted: impl Fn(&MemberPath) -> bool) -> Result<Tree> {
        unpack::tree(self.name, &unpack::decompress(self.name, self.data)?, wanted)
    }

    /// A field of its control file, such as `Version`; the first line of it.
    ///
    /// # Errors
    /// If the control archive is broken.
    pub fn control_field(&self, field: &str) -> Result<Option<String>> {
        let archive = unpack::decompress(self.name, self.control)?;
        let tree = unpack::tree(self.name, &archive, |path| path.as_str() == "control")?;
        let Some((_, crate::tree::Node::File { content, .. })) = tree.iter().next() else {
            return Err(ImageError::form(self.name, "control.tar", "a file control", "none"));
        };
        let text = String::from_utf8_lossy(content);
        Ok(text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name == field).then(|| value.trim().to_owned())
        }))
    }

    /// The newest modification time of its files, in seconds since 1970.
    ///
    /// # Errors
    /// If the data archive is broken.
    pub fn newest(&self) -> Result<u64> {
        let archive = unpack::decompress(self.name, self.data)?;
        let broken = |error: std::io::Error| {
            ImageError::form(self.name, "data.tar", "intact members", error.to_string())
        };
        let mut newest = 0;
        for entry in tar::Archive::new(&archive[..]).entries().map_err(broken)? {
            newest = newest.max(entry.map_err(broken)?.header().mtime().map_err(broken)?);
        }
        Ok(newest)
    }
}

/// Name, content, and what follows.
fn ar_member<'a>(name: &str, bytes: &'a [u8]) -> Result<(&'a str, &'a [u8], &'a [u8])> {
    let broken = |what: &str| ImageError::form(name, "ar member", what, "something else");
    let (header, rest) =
        bytes.split_at_checked(AR_HEADER_LEN).ok_or_else(|| broken("a header of 60 bytes"))?;
    let text = |range: std::ops::Range<usize>| {
        header.get(range).and_then(|b| std::str::from_utf8(b).ok()).map(str::trim_end)
    };
    if header.get(58..) != Some(AR_HEADER_END) {
        return Err(broken("a header that ends with \"`\\n\""));
    }
    let member = text(0..16).ok_or_else(|| broken("a name in ASCII"))?.trim_end_matches('/');
    let size = text(48..58).and_then(|t| t.parse::<usize>().ok()).ok_or_else(|| broken("a decimal size"))?;
    let (content, rest) = rest.split_at_checked(size).ok_or_else(|| broken("a size that fits the file"))?;
    let rest = if size % 2 == 1 { rest.get(1..).unwrap_or_default() } else { rest };
    Ok((member, content, rest))
}

#[cfg(test)]
pub(crate) mod tests {
    use tar::EntryType;

    use super::*;
    use crate::tree::Node;
    use crate::unpack::tests::{archive, xz};

    /// A small package with these files.
    pub(crate) fn deb<T: AsRef<[u8]>>(control: &str, files: &[(&str, EntryType, u32, T)]) -> Vec<u8> {
        let control = xz(&archive(&[("./control", EntryType::Regular, 0o644, control)]));
        let data = zstd::encode_all(&archive(files)[..], 3).unwrap();
        let mut bytes = AR_MAGIC.to_vec();
        for (name, content) in
            [("debian-binary", b"2.0\n".to_vec()), ("control.tar.xz", control), ("data.tar.zst", data)]
        {
            bytes.extend(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).bytes(),
            );
            bytes.extend(&content);
            if content.len() % 2 == 1 {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    #[test]
    fn a_package_is_read_in_process() {
        let bytes = deb(
            "Package: x\nVersion: 1:2.0-1\n",
            &[
                ("./usr/share/x/data", EntryType::Regular, 0o644, "hello"),
                ("./usr/bin/x", EntryType::Regular, 0o755, "elf"),
            ],
        );
        let deb = Deb::parse("x.deb", &bytes).unwrap();
        assert_eq!(deb.control_field("Version").unwrap().as_deref(), Some("1:2.0-1"));
        assert_eq!(deb.newest().unwrap(), 99);
        let tree = deb.files(|path| path.as_str().starts_with("usr/bin/")).unwrap();
        assert_eq!(tree.get(&MemberPath::parse("usr/bin/x").unwrap()), Some(&Node::executable(*b"elf")));
        assert!(tree.get(&MemberPath::parse("usr/share/x/data").unwrap()).is_none());
    }

    #[test]
    fn every_cut_is_an_error() {
        let bytes = deb("Package: x\n", &[("./a", EntryType::Regular, 0o644, "hello")]);
        for length in (0..bytes.len() - 1).step_by(7) {
            let cut = &bytes[..length];
            let outcome = Deb::parse("x.deb", cut).and_then(|deb| deb.files(|_| true));
            assert!(outcome.is_err(), "{length}");
        }
    }
}
