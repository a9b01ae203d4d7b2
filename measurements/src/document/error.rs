//! What can be wrong with a document: every problem names where it is, what was expected and what was found.

use super::json::{MAX_BYTES, MAX_DEPTH};

/// Why a document was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct DocumentError {
    /// The file as the caller named it.
    pub file: String,
    /// What is wrong with it: the first thing found.
    pub problem: Problem,
}

/// What is wrong. A `path` is a JSON path such as `casemate.mesh.backends[0].listen`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The document is too long to be read at all.
    #[error("expected at most {MAX_BYTES} bytes, found {found}")]
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// The document is no UTF-8 text.
    #[error("expected UTF-8, found another byte at offset {offset}")]
    NotUtf8 {
        /// Where the first such byte lies.
        offset: usize,
    },
    /// The document is no JSON (RFC 8259), or something follows it.
    #[error("expected one JSON document, found {found}")]
    NotJson {
        /// What the JSON reader says, with line and column.
        found: String,
    },
    /// Too many objects and lists inside one another.
    #[error("{path}: expected at most {MAX_DEPTH} levels of nesting, found more")]
    TooDeep {
        /// Where.
        path: String,
    },
    /// A key that the object already has, whatever its spelling.
    #[error("{path}: expected each key once, found it twice")]
    DuplicateKey {
        /// Where, with the key.
        path: String,
    },
    /// A key that is not in the table of keys.
    #[error("{path}: expected one of the keys {expected}, found this unknown one")]
    UnknownKey {
        /// Where, with the key.
        path: String,
        /// The keys that may stand there.
        expected: String,
    },
    /// A value that is not what its key needs.
    #[error("{path}: expected {expected}, found {found}")]
    Invalid {
        /// Where.
        path: String,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A right value whose stage this version does not have.
    #[error("not implemented in this version: {path} {found} (implemented: {implemented})")]
    NotImplemented {
        /// Where.
        path: String,
        /// What is there.
        found: String,
        /// What would be accepted.
        implemented: String,
    },
}

impl Problem {
    /// A value that is not what its key needs.
    pub fn invalid(path: &str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), expected: expected.into(), found: found.into() }
    }
}
