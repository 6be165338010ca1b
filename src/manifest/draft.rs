//! A document that is being changed: typed access to its fields, and a record of every change.

use serde_json::{Map, Value};

use super::error::Cause;
use super::path::{Path, Step};

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) path: Path,
    pub(super) cause: Cause,
}

impl Fault {
    pub(super) fn new(path: &Path, cause: Cause) -> Fault {
        Fault { path: path.clone(), cause }
    }
}

/// A change, with the reason for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) path: Path,
    /// What was there; nothing if it is new.
    pub(super) old: Option<Value>,
    /// What is there now; nothing if it is gone.
    pub(super) new: Option<Value>,
    pub(super) why: &'static str,
}

/// The document as it is and as it shall be.
#[derive(Debug)]
pub(super) struct Draft {
    value: Value,
    changes: Vec<Change>,
}

impl Draft {
    pub(super) fn new(value: Value) -> Draft {
        Draft { value, changes: Vec::new() }
    }

    /// What it has become.
    pub(super) fn into_value(self) -> Value {
        self.value
    }

    /// The changes since this was asked last.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// What is at `path`; nothing if it is not there or null.
    pub(super) fn get(&self, path: &Path) -> Option<&Value> {
        let mut value = &self.value;
        for step in path.steps() {
            value = match step {
                Step::Key(key) => value.get(key)?,
                Step::Index(index) => value.get(index)?,
            };
        }
        (!value.is_null()).then_some(value)
    }

    /// The object at `path`.
    pub(super) fn object(&self, path: &Path) -> Result<Option<&Map<String, Value>>, Fault> {
        self.typed(path, "an object", Value::as_object)
    }

    /// The list at `path`, empty if there is none.
    pub(super) fn list(&self, path: &Path) -> Result<&[Value], Fault> {
        Ok(self.typed(path, "a list", Value::as_array)?.map_or(&[], Vec::as_slice))
    }

    /// The text at `path`.
    pub(super) fn text(&self, path: &Path) -> Result<Option<&str>, Fault> {
        self.typed(path, "a text", Value::as_str)
    }

    /// The truth value at `path`, false if there is none.
    pub(super) fn is(&self, path: &Path) -> Result<bool, Fault> {
        Ok(self.typed(path, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// The texts in the list at `path`.
    pub(super) fn texts(&self, path: &Path) -> Result<Vec<String>, Fault> {
        let items = self.list(path)?.iter().enumerate();
        items.map(|(at, item)| item.as_str().map(str::to_owned).ok_or_else(|| wrong(&path.index(at), item, "a text"))).collect()
    }

    fn typed<'a, T>(&'a self, path: &Path, wanted: &'static str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>, Fault> {
        let Some(value) = self.get(path) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| wrong(path, value, wanted))
    }

    /// Sets the field `key` of the object at `parent`, which is made if it is not there.
    pub(super) fn set(&mut self, parent: &Path, key: &str, new: impl Into<Value>, why: &'static str) -> Result<(), Fault> {
        let new = new.into();
        let path = parent.key(key);
        let old = self.get(&path).cloned();
        if old.as_ref() == Some(&new) {
            return Ok(());
        }
        // An object that the way to the field needs may have to be made.
        self.object(parent)?;
        let mut value = &mut self.value;
        for step in path.steps() {
            value = match step {
                Step::Key(key) => {
                    if value.is_null() {
                        *value = Value::Object(Map::new());
                    }
                    let Value::Object(fields) = value else { return Err(wrong(parent, value, "an object")) };
                    fields.entry(key.clone()).or_insert(Value::Null)
                }
                Step::Index(index) => match value.get_mut(*index) {
                    Some(item) => item,
                    None => return Ok(()),
                },
            };
        }
        *value = new.clone();
        self.changes.push(Change { path, old, new: Some(new), why });
        Ok(())
    }

    /// Takes a field or an item out.
    pub(super) fn remove(&mut self, path: &Path, why: &'static str) {
        let Some((last, parent)) = path.steps().split_last() else { return };
        let mut value = &mut self.value;
        for step in parent {
            let next = match step {
                Step::Key(key) => value.get_mut(key),
                Step::Index(index) => value.get_mut(*index),
            };
            let Some(next) = next else { return };
            value = next;
        }
        let old = match (last, value) {
            (Step::Key(key), Value::Object(fields)) => fields.remove(key),
            (Step::Index(index), Value::Array(items)) if *index < items.len() => Some(items.remove(*index)),
            _ => None,
        };
        if old.is_some() {
            self.changes.push(Change { path: path.clone(), old, new: None, why });
        }
    }
}

/// The complaint that `value` is not `wanted`.
pub(super) fn wrong(path: &Path, value: &Value, wanted: &'static str) -> Fault {
    let found = match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Fault::new(path, Cause::Type { found, wanted })
}
