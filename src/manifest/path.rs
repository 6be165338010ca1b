//! The way to a field.

use std::fmt;

/// One step of a [`Path`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A field of an object.
    Key(String),
    /// An item of a list, counted from 0.
    Index(usize),
}

/// The way from an object to one of its fields. Shown as `spec.initContainers[0].image`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Vec<Step>);

impl Path {
    /// The way that these fields are.
    #[cfg(test)]
    pub(super) fn of(keys: &[&str]) -> Path {
        Path(keys.iter().map(|key| Step::Key((*key).to_owned())).collect())
    }

    /// One field further.
    pub(super) fn key(&self, key: &str) -> Path {
        self.and(Step::Key(key.to_owned()))
    }

    /// One item further.
    pub(super) fn index(&self, index: usize) -> Path {
        self.and(Step::Index(index))
    }

    fn and(&self, step: Step) -> Path {
        let mut path = self.clone();
        path.0.push(step);
        path
    }

    /// What is left of the way behind `start`, the beginning of it.
    pub(super) fn below(&self, start: &Path) -> Path {
        Path(self.0.iter().skip(start.0.len()).cloned().collect())
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same as a JSON pointer (RFC 6901).
    pub(super) fn pointer(&self) -> String {
        let mut pointer = String::new();
        for step in &self.0 {
            pointer.push('/');
            match step {
                Step::Key(key) => pointer.push_str(&key.replace('~', "~0").replace('/', "~1")),
                Step::Index(index) => pointer.push_str(&index.to_string()),
            }
        }
        pointer
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if key.contains(['.', '/']) => write!(f, "[{key:?}]")?,
                Step::Key(key) if at == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_as_people_write_it_and_as_a_pointer() {
        let path = Path::of(&["metadata", "annotations", "a.b/c~d"]);
        assert_eq!(path.to_string(), "metadata.annotations[\"a.b/c~d\"]");
        assert_eq!(path.pointer(), "/metadata/annotations/a.b~1c~0d");
        assert_eq!(Path::of(&["items"]).index(2).key("spec").to_string(), "items[2].spec");
    }
}
