//! cargo's own configuration files: those that could change the bytes of the init are refused, not followed.
//!
//! cargo reads `.cargo/config.toml` in the workspace and in every folder above it, and `config.toml` in its home (The Cargo
//! Book, "Configuration"). The environment that a user sets for it is not passed on; these files would be.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{ImageError, Result};

/// Tables that say where crates come from and how cargo talks. Every other can change what is compiled, or how.
const HARMLESS: [&str; 11] = [
    "alias",
    "cache",
    "cargo-new",
    "credential-alias",
    "future-incompat-report",
    "http",
    "net",
    "registries",
    "registry",
    "source",
    "term",
];

/// Looks at every file that cargo would read.
///
/// # Errors
/// The first table that is not known to be harmless, or a file that cannot be read.
pub(crate) fn check(workspace: &Path, cargo_home: Option<&Path>) -> Result<()> {
    let above = workspace.ancestors().map(|folder| folder.join(".cargo"));
    for folder in above.chain(cargo_home.map(PathBuf::from)) {
        // The older name without an ending comes first, for cargo and for us.
        for name in ["config", "config.toml"] {
            let path = folder.join(name);
            match fs::read_to_string(&path) {
                Ok(text) => tables(&path, &text)?,
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => return Err(ImageError::at(&path)(error)),
            }
        }
    }
    Ok(())
}

fn tables(path: &Path, text: &str) -> Result<()> {
    let file = path.display().to_string();
    let parsed = toml_span::parse(text)
        .map_err(|error| ImageError::form(file.clone(), "content", "TOML", error.to_string()))?;
    let found = parsed.as_table().and_then(|table| {
        table.keys().map(|key| key.name.as_ref()).find(|name| !HARMLESS.contains(name)).map(str::to_owned)
    });
    match found {
        None => Ok(()),
        Some(name) => Err(ImageError::form(
            file,
            name,
            "nothing that could change the init's bytes: move it away, or set CARGO_HOME to another folder",
            "such a table",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(text: &str) -> std::result::Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("config.toml"), text).unwrap();
        let judged = check(&dir.path().join("none"), Some(&home));
        judged.map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn mirrors_are_followed_and_profiles_are_refused() {
        assert_eq!(judge("[source.x]\nregistry = \"sparse+file:///x\"\n[net]\nretry = 1\n"), Ok(()));
        for (text, table) in [
            ("[profile.release]\nopt-level = 0\n", "profile"),
            ("[build]\nrustc-wrapper = \"x\"\n", "build"),
            ("target.x86_64-unknown-linux-gnu.linker = \"x\"\n", "target"),
            ("[net]\n[env]\nA = \"1\"\n", "env"),
            ("paths = [\"x\"]\n", "paths"),
        ] {
            let error = judge(text).unwrap_err();
            assert!(error.starts_with(&format!("home/config.toml: {table}: expected nothing")), "{error}");
        }
        assert!(judge("[build\n").unwrap_err().contains("expected TOML"));
    }

    #[test]
    fn a_folder_above_the_workspace_counts() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = dir.path().join("a/b");
        fs::create_dir_all(&workspace).unwrap();
        fs::create_dir_all(dir.path().join(".cargo")).unwrap();
        assert!(check(&workspace, None).is_ok());
        fs::write(dir.path().join(".cargo/config"), "[profile.release]\n").unwrap();
        assert!(check(&workspace, None).unwrap_err().to_string().contains(".cargo/config: profile"));
    }
}
