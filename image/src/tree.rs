//! A file tree in memory: what packages and workloads are unpacked into and what the initramfs is made of.
//!
//! It knows only what an image may carry: directories, regular files (executable or not) and symbolic links, all of
//! them root's. Owners, times and finer permissions of the sources do not exist here, so they cannot leak into an image.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use crate::path::MemberPath;

/// The most links that are followed for one path (MAXSYMLINKS of Linux, `include/linux/namei.h`).
const MAX_LINKS: usize = 40;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory, mode 0755.
    Directory,
    /// A regular file, mode 0755 or 0644.
    File {
        /// Whether it may be executed.
        executable: bool,
        /// Its bytes.
        content: Arc<[u8]>,
    },
    /// A symbolic link; it is never followed out of the tree.
    Symlink {
        /// Where it points.
        target: String,
    },
}

impl Node {
    /// A file that is not executable.
    pub fn plain(content: impl Into<Arc<[u8]>>) -> Self {
        Self::File { executable: false, content: content.into() }
    }

    /// An executable file.
    pub fn executable(content: impl Into<Arc<[u8]>>) -> Self {
        Self::File { executable: true, content: content.into() }
    }

    /// What it is, in a word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File { .. } => "file",
            Self::Symlink { .. } => "symbolic link",
        }
    }
}

/// Why something could not be put into a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// There is something already.
    #[error("there is a {0} of that name already")]
    Exists(&'static str),
    /// A part of the path above is no directory.
    #[error("{0} is not a directory")]
    NotDirectory(MemberPath),
    /// Links in a circle, or too many.
    #[error("more than {MAX_LINKS} symbolic links on the way")]
    Links,
}

/// The tree. Every ancestor of a node is a directory in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<MemberPath, Node>);

impl Tree {
    /// An empty one.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Nodes by path, sorted by bytes: parents before children.
    pub fn iter(&self) -> impl Iterator<Item = (&MemberPath, &Node)> {
        self.0.iter()
    }

    /// How many nodes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.0
            .values()
            .map(|node| match node {
                Node::File { content, .. } => content.len() as u64,
                Node::Directory | Node::Symlink { .. } => 0,
            })
            .fold(0, u64::saturating_add)
    }

    /// What is at exactly that path.
    pub fn get(&self, path: &MemberPath) -> Option<&Node> {
        self.0.get(path)
    }

    /// Adds a node and the directories above it. A directory that is there already is no error; everything else is.
    ///
    /// # Errors
    /// If there is something at the path, or a non-directory above it.
    pub fn insert(&mut self, path: MemberPath, node: Node) -> Result<(), TreeError> {
        self.make_parents(&path)?;
        match self.0.entry(path) {
            Entry::Vacant(slot) => {
                slot.insert(node);
                Ok(())
            }
            Entry::Occupied(slot) if *slot.get() == Node::Directory && node == Node::Directory => Ok(()),
            Entry::Occupied(slot) => Err(TreeError::Exists(slot.get().kind())),
        }
    }

    fn make_parents(&mut self, path: &MemberPath) -> Result<(), TreeError> {
        for parent in path.ancestors() {
            match self.0.entry(parent.clone()).or_insert(Node::Directory) {
                Node::Directory => {}
                Node::File { .. } | Node::Symlink { .. } => return Err(TreeError::NotDirectory(parent)),
            }
        }
        Ok(())
    }

    /// Adds a node over what is there, as a later layer does: links above it are followed inside the tree; a directory
    /// over a directory leaves its content; anything else replaces.
    ///
    /// # Errors
    /// If a part above is a file, or links go in circles.
    pub fn overlay(&mut self, path: &MemberPath, node: Node) -> Result<(), TreeError> {
        let path = self.real_parent(path)?;
        self.make_parents(&path)?;
        if !(node == Node::Directory && self.0.get(&path) == Some(&Node::Directory)) {
            self.remove(&path);
            self.0.insert(path, node);
        }
        Ok(())
    }

    /// Removes what is at that exact path and everything below it.
    pub fn remove(&mut self, path: &MemberPath) {
        self.0.remove(path);
        self.clear(path);
    }

    /// Removes everything below a directory.
    pub fn clear(&mut self, path: &MemberPath) {
        self.0.retain(|other, _| !other.is_below(path));
    }

    /// Puts a whole tree below `at`.
    ///
    /// # Errors
    /// As [`Tree::insert`], with the path it happened at.
    pub fn graft(&mut self, at: &MemberPath, other: &Self) -> Result<(), (MemberPath, TreeError)> {
        self.insert(at.clone(), Node::Directory).map_err(|error| (at.clone(), error))?;
        for (path, node) in other.iter() {
            let path = at.join(path);
            self.insert(path.clone(), node.clone()).map_err(|error| (path, error))?;
        }
        Ok(())
    }

    /// The tree below a directory.
    #[must_use]
    pub fn below(&self, at: &MemberPath) -> Self {
        let inside = self.0.iter().filter(|(path, _)| path.is_below(at));
        Self(
            inside
                .filter_map(|(path, node)| {
                    let rest = path.as_str().get(at.as_str().len()..)?.trim_start_matches('/');
                    Some((MemberPath::parse(rest).ok()?, node.clone()))
                })
                .collect(),
        )
    }

    /// The path with every link in it followed, the last part included, as a process whose root is this tree sees it;
    /// `None` if there is nothing.
    ///
    /// # Errors
    /// If links go in circles.
    pub fn resolve(&self, path: &MemberPath) -> Result<Option<(MemberPath, &Node)>, TreeError> {
        let Some(real) = self.walk(path)? else { return Ok(None) };
        Ok(self.0.get_key_value(&real).map(|(path, node)| (path.clone(), node)))
    }

    /// The path with every link above its last part followed.
    pub(crate) fn real_parent(&self, path: &MemberPath) -> Result<MemberPath, TreeError> {
        let Some(parent) = path.parent() else { return Ok(path.clone()) };
        let name = MemberPath::parse(path.name()).map_err(|_| TreeError::NotDirectory(parent.clone()))?;
        match self.walk(&parent)? {
            Some(real) => Ok(real.join(&name)),
            // A link to `/`.
            None => Ok(name),
        }
    }

    /// Follows links; `None` is the root itself. What does not exist is kept as it is written.
    fn walk(&self, path: &MemberPath) -> Result<Option<MemberPath>, TreeError> {
        let mut todo: Vec<String> = path.as_str().split('/').rev().map(str::to_owned).collect();
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(part),
            }
            let Ok(here) = MemberPath::parse(&done.join("/")) else { continue };
            if let Some(Node::Symlink { target }) = self.0.get(&here) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(TreeError::Links);
                }
                done.pop();
                if target.starts_with('/') {
                    done.clear();
                }
                todo.extend(target.split('/').rev().map(str::to_owned));
            }
        }
        Ok(MemberPath::parse(&done.join("/")).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> MemberPath {
        MemberPath::parse(text).unwrap()
    }

    fn link(target: &str) -> Node {
        Node::Symlink { target: target.into() }
    }

    #[test]
    fn parents_are_made_and_never_walked_through_a_link() {
        let mut tree = Tree::new();
        tree.insert(path("a/b/c"), Node::plain(*b"x")).unwrap();
        assert_eq!(tree.get(&path("a/b")), Some(&Node::Directory));
        tree.insert(path("l"), link("/a")).unwrap();
        assert_eq!(tree.insert(path("l/x"), Node::Directory), Err(TreeError::NotDirectory(path("l"))));
        assert_eq!(tree.insert(path("a/b/c"), Node::Directory), Err(TreeError::Exists("file")));
    }

    #[test]
    fn an_overlay_follows_links_inside_the_tree_only() {
        let mut tree = Tree::new();
        tree.insert(path("usr/lib/a"), Node::plain(*b"1")).unwrap();
        tree.insert(path("lib"), link("usr/lib")).unwrap();
        tree.insert(path("out"), link("../../../../etc")).unwrap();
        tree.overlay(&path("lib/b"), Node::plain(*b"2")).unwrap();
        tree.overlay(&path("out/shadow"), Node::plain(*b"3")).unwrap();
        assert!(tree.get(&path("usr/lib/b")).is_some());
        assert!(
            tree.get(&path("etc/shadow")).is_some(),
            "as with a root directory, .. at the top stays there"
        );
        tree.overlay(&path("usr/lib"), Node::Directory).unwrap();
        assert!(tree.get(&path("usr/lib/a")).is_some());
        tree.overlay(&path("usr/lib"), Node::plain(*b"4")).unwrap();
        assert!(tree.get(&path("usr/lib/a")).is_none());
    }

    #[test]
    fn circles_end() {
        let mut tree = Tree::new();
        tree.insert(path("a"), link("b")).unwrap();
        tree.insert(path("b"), link("a")).unwrap();
        assert_eq!(tree.resolve(&path("a")), Err(TreeError::Links));
    }

    #[test]
    fn resolve_ends_at_what_a_process_would_see() {
        let mut tree = Tree::new();
        tree.insert(path("bin/busybox"), Node::executable(*b"elf")).unwrap();
        tree.insert(path("bin/sh"), link("busybox")).unwrap();
        tree.insert(path("sbin"), link("/bin")).unwrap();
        let (real, node) = tree.resolve(&path("sbin/sh")).unwrap().unwrap();
        assert_eq!((real.as_str(), node.kind()), ("bin/busybox", "file"));
        assert_eq!(tree.resolve(&path("bin/no")).unwrap(), None);
    }

    #[test]
    fn grafts_come_back() {
        let mut inner = Tree::new();
        inner.insert(path("x/y"), Node::plain(*b"z")).unwrap();
        let mut outer = Tree::new();
        outer.graft(&path("services/web"), &inner).unwrap();
        assert_eq!(outer.below(&path("services/web")), inner);
        assert_eq!(outer.size(), 1);
    }
}
