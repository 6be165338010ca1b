//! What keeps a manifest from being patched, and where.

use std::fmt;

use super::path::Path;

/// Where in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Which document of the file, counted from 1.
    pub document: usize,
    /// Which line of the file, counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}, line {}", self.document, self.line)
    }
}

/// A manifest that cannot be patched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Where.
    pub place: Place,
    /// The object, such as `Deployment shop/web`; empty if it is not known.
    pub object: String,
    /// The field of the object.
    pub path: Path,
    /// What is wrong.
    pub cause: Cause,
}

impl Error {
    pub(super) fn at(place: Place, cause: Cause) -> Error {
        Error { place, object: String::new(), path: Path::default(), cause }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.object.is_empty() {
            write!(f, "{}: ", self.object)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        self.cause.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// Why a manifest cannot be patched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The parser's words.
    #[error("not YAML: {0}")]
    Syntax(String),
    /// Too many levels.
    #[error("nested more than {0} levels deep")]
    TooDeep(usize),
    /// An anchor that contains its own alias.
    #[error("an alias stands inside the very node that it refers to")]
    Recursive,
    /// Aliases of aliases of aliases.
    #[error("aliases make more than {0} values of this document")]
    TooLarge(usize),
    /// `<<` with something else than mappings.
    #[error("the merge key << takes a mapping or a list of mappings")]
    Merge,
    /// The same key twice in one mapping.
    #[error("the key {key:?} stands here a second time (the first is on line {first}); which one counts depends on who reads it")]
    Duplicate {
        /// The key.
        key: String,
        /// The line of the first.
        first: usize,
    },
    /// A field of another type than Kubernetes has it.
    #[error("{found} where {wanted} has to be")]
    Type {
        /// What is there.
        found: &'static str,
        /// What has to be there.
        wanted: &'static str,
    },
    /// A container's command or arguments that this program would not take.
    #[error("{0}")]
    Command(String),
    /// Something that a Kata Containers guest does not have.
    #[error("Kata Containers cannot do this: {0}")]
    Kata(&'static str),
    /// A container that works with more privileges only.
    #[error("{0}")]
    Privilege(String),
    /// A runtime class where the annotation for another one is asked for.
    #[error("containerd refuses a pod that has both this and the annotation {annotation}; take one of them out")]
    RuntimeClass {
        /// The annotation.
        annotation: &'static str,
    },
    /// The change would reach other places through an anchor.
    #[error("{0}")]
    Shared(String),
    /// The text cannot be edited so that exactly the wanted changes come about.
    #[error("this cannot be edited without touching something else; write it in plain block style")]
    Unfaithful,
}
