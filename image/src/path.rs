//! Paths inside an image or archive: relative, without `.`, `..`, empty parts or NUL.

use std::fmt;

/// The longest path: PATH_MAX of Linux (`include/uapi/linux/limits.h`) less the NUL.
const MAX_LEN: usize = 4095;

/// A checked path. Nothing but [`MemberPath::parse`] and [`MemberPath::join`] makes one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberPath(String);

/// Why a path was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Starts with a slash.
    #[error("an absolute path")]
    Absolute,
    /// Has a `..` in it.
    #[error("a path with `..`")]
    Parent,
    /// Names the root itself, or nothing.
    #[error("an empty path")]
    Empty,
    /// NUL, or too long.
    #[error("a path with a NUL byte, or longer than 4095 bytes")]
    Unusable,
}

impl MemberPath {
    /// Checks. `./a//b/` is `a/b`.
    ///
    /// # Errors
    /// If it is absolute, leaves its root, is empty, too long or has a NUL byte.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.len() > MAX_LEN || text.contains('\0') {
            return Err(PathError::Unusable);
        }
        if text.starts_with('/') {
            return Err(PathError::Absolute);
        }
        let mut parts = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => return Err(PathError::Parent),
                part => parts.push(part),
            }
        }
        if parts.is_empty() {
            return Err(PathError::Empty);
        }
        Ok(Self(parts.join("/")))
    }

    /// The text, without a leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `self/other`.
    #[must_use]
    pub fn join(&self, other: &Self) -> Self {
        Self(format!("{}/{}", self.0, other.0))
    }

    /// The directory it lies in; `None` at the top.
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.to_owned()))
    }

    /// Its last part.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(self.0.as_str(), |(_, name)| name)
    }

    /// Every directory above it, outermost first.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        self.0.match_indices('/').filter_map(|(at, _)| self.0.get(..at)).map(|part| Self(part.to_owned()))
    }

    /// Whether it lies below `other`.
    pub fn is_below(&self, other: &Self) -> bool {
        self.0.strip_prefix(other.as_str()).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for MemberPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_stay_inside_are_made() {
        assert_eq!(MemberPath::parse("./a//b/./c/").unwrap().as_str(), "a/b/c");
        for (text, why) in [
            ("/etc/passwd", PathError::Absolute),
            ("../x", PathError::Parent),
            ("a/../../x", PathError::Parent),
            ("", PathError::Empty),
            ("./", PathError::Empty),
            ("a\0b", PathError::Unusable),
        ] {
            assert_eq!(MemberPath::parse(text), Err(why), "{text:?}");
        }
        assert_eq!(MemberPath::parse(&"a/".repeat(2048)), Err(PathError::Unusable));
    }

    #[test]
    fn relations() {
        let path = MemberPath::parse("a/b/c").unwrap();
        let above: Vec<String> = path.ancestors().map(|p| p.to_string()).collect();
        assert_eq!(above, ["a", "a/b"]);
        assert!(path.is_below(&MemberPath::parse("a").unwrap()));
        assert!(!MemberPath::parse("ab").unwrap().is_below(&MemberPath::parse("a").unwrap()));
        assert_eq!((path.name(), path.parent().unwrap().as_str()), ("c", "a/b"));
    }
}
