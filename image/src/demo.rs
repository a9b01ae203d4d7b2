//! The demonstration's workload: the pinned static busybox and the pages in `configs/demo/www`.

use std::path::Path;

use crate::deb::Deb;
use crate::error::{ImageError, Result};
use crate::io::directory;
use crate::lock::Pinned;
use crate::path::MemberPath;
use crate::tree::{Node, Tree};
use crate::workload::PROVENANCE;

/// What the demonstration's commands and tests call.
const APPLETS: &[&str] =
    &["cat", "echo", "env", "false", "httpd", "id", "kill", "ls", "nc", "sh", "sleep", "true", "wget"];
/// Mount points of every service, and of its temporary files.
const DIRECTORIES: &[&str] = &["dev", "proc", "tmp"];
/// Where Debian's package has the program.
const PROGRAM: &str = "usr/bin/busybox";

/// The package's licence text, which travels with the program.
const COPYRIGHT: &str = "usr/share/doc/busybox-static/copyright";

/// A root directory with busybox, links for its applets, and `www`.
///
/// # Errors
/// If the package has no static busybox, or the pages cannot be read.
pub fn busybox(package: &Pinned, bytes: &[u8], www: &Path) -> Result<Tree> {
    let name = package.pool_name();
    let files = Deb::parse(&name, bytes)?.files(|path| matches!(path.as_str(), PROGRAM | COPYRIGHT))?;
    let file = |wanted: &str| {
        let found =
            files.iter().find(|(path, node)| path.as_str() == wanted && matches!(node, Node::File { .. }));
        found.map(|(_, node)| node.clone()).ok_or_else(|| ImageError::form(&name, wanted, "a file", "none"))
    };
    let mut tree = Tree::new();
    let mut add = |path: &str, node: Node| {
        let path = MemberPath::parse(path).map_err(|why| ImageError::member(&name, path, why.to_string()))?;
        tree.insert(path.clone(), node)
            .map_err(|why| ImageError::member(&name, path.as_str(), why.to_string()))
    };
    add("bin/busybox", file(PROGRAM)?)?;
    add(COPYRIGHT, file(COPYRIGHT)?)?;
    add(PROVENANCE, Node::plain(package.to_json()?.into_bytes()))?;
    for applet in APPLETS {
        add(&format!("bin/{applet}"), Node::Symlink { target: "busybox".into() })?;
    }
    for directory in DIRECTORIES {
        add(directory, Node::Directory)?;
    }
    for (path, node) in directory::read(www)?.iter() {
        add(&format!("www/{path}"), node.clone())?;
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use tar::EntryType::Regular;

    use super::*;
    use crate::deb::tests::deb;
    use crate::lock::Role;
    use crate::lock::tests::pinned;
    use crate::workload::provenance;

    #[test]
    fn the_applets_and_the_pages_are_there() {
        let www = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/demo/www");
        let bytes = deb(
            "Package: busybox-static\n",
            &[
                ("./usr/bin/busybox", Regular, 0o755, "elf"),
                ("./usr/share/doc/busybox-static/copyright", Regular, 0o644, "GPL"),
            ],
        );
        let package = pinned(Role::DemoWorkload, &bytes);
        let tree = busybox(&package, &bytes, &www).unwrap();
        assert_eq!(provenance("demo", &tree).unwrap(), Some(package));
        let resolve =
            |path| tree.resolve(&MemberPath::parse(path).unwrap()).unwrap().map(|(path, _)| path.to_string());
        assert_eq!(resolve("bin/sh").as_deref(), Some("bin/busybox"));
        assert_eq!(resolve("bin/httpd").as_deref(), Some("bin/busybox"));
        let whoami = MemberPath::parse("www/cgi-bin/whoami").unwrap();
        assert!(matches!(tree.get(&whoami), Some(Node::File { executable: true, .. })));
        assert_eq!(resolve("www/index.html").as_deref(), Some("www/index.html"));
    }
}
