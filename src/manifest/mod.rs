//! Kubernetes manifests: what a mesh has injected into them, made to fit mesh-init, CAP_NET_ADMIN alone and Kata Containers.
//!
//! 1. `source` reads a file's text into nodes that know their bytes, `value` what its documents say;
//! 2. `object` finds the pods in them; `pod`, `init`, `command`, `kata` and `injection` decide what they shall say, in a `draft`
//!    that records every change and the reason for it;
//! 3. `edit` finds the edits of the text that bring exactly this about, or [`patches`] writes them for other programs.
//!
//! Nothing here reads or writes a file.

mod align;
mod command;
mod draft;
mod edit;
mod error;
mod init;
mod injection;
mod kata;
mod object;
pub mod patches;
mod path;
mod pod;
mod render;
mod settings;
mod source;
mod value;

use std::collections::BTreeSet;

use serde_json::Value;

use self::draft::{Draft, Fault};
use self::edit::Wanted;
pub use self::error::{Cause, Error, Place};
pub use self::injection::Namespaces;
pub use self::object::Object;
pub use self::path::{Path, Step};
pub use self::settings::{Accepts, BadResources, DEFAULT_IMAGE, Kata, Original, Resources, Settings};
use self::source::Source;
use self::value::Duplicate;

/// A file of manifests that was read.
#[derive(Debug)]
pub struct Manifest<'a> {
    source: Source<'a>,
    values: Vec<(Value, Vec<Duplicate>)>,
}

/// A file of manifests that was patched.
#[derive(Debug)]
pub struct Patched {
    /// Its text.
    pub text: String,
    /// The objects that its documents are; those in lists are not among them.
    pub documents: Vec<Object>,
    /// The objects that changed.
    pub objects: Vec<PatchedObject>,
    /// What somebody should know.
    pub warnings: Vec<Warning>,
    /// The names of all containers in it, of pods without a mesh too.
    pub containers: BTreeSet<String>,
}

/// An object that changed.
#[derive(Debug)]
pub struct PatchedObject {
    /// Which.
    pub object: Object,
    /// What it was.
    pub old: Value,
    /// What it is now.
    pub new: Value,
    /// Every change.
    pub changes: Vec<Change>,
}

/// A change of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where it is in the file.
    pub place: Place,
    /// Which field.
    pub path: Path,
    /// What was there.
    pub old: Option<Value>,
    /// What is there now.
    pub new: Option<Value>,
    /// The reason.
    pub why: &'static str,
}

/// Something to know about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where it is in the file.
    pub place: Place,
    /// Which object.
    pub object: Object,
    /// Which field.
    pub path: Path,
    /// What to know.
    pub text: String,
    /// Whether the object is one that a webhook has yet to inject, so that the patch cannot reach it.
    pub is_marked: bool,
}

impl<'a> Manifest<'a> {
    /// Reads the documents in `text`.
    pub fn read(text: &'a str) -> Result<Manifest<'a>, Error> {
        let source = Source::read(text)?;
        let mut values = Vec::with_capacity(source.documents.len());
        for (at, document) in source.documents.iter().enumerate() {
            let (value, duplicates) = value::read(&source, at + 1, document.root)?;
            if !matches!(value, Value::Object(_) | Value::Null) {
                let fault = draft::wrong(&Path::default(), &value, "an object");
                return Err(Error::at(Place { document: at + 1, line: source.node(document.root).line }, fault.cause));
            }
            values.push((value, duplicates));
        }
        Ok(Manifest { source, values })
    }

    /// Takes note of the namespaces in it.
    pub fn add_namespaces(&self, namespaces: &mut Namespaces) {
        for (value, _) in &self.values {
            object::each(value, &mut |object, value| namespaces.add(&object, value));
        }
    }

    /// Patches every pod in it that has a mesh. Either all of it can be patched, or nothing is.
    pub fn patch(&self, settings: &Settings, namespaces: &Namespaces) -> Result<Patched, Vec<Error>> {
        let mut patched =
            Patched { text: String::new(), documents: Vec::new(), objects: Vec::new(), warnings: Vec::new(), containers: BTreeSet::new() };
        let mut errors = Vec::new();
        let mut wanted = Vec::with_capacity(self.values.len());
        for at in 0..self.values.len() {
            let new = self.document(at, settings, namespaces, &mut patched, &mut errors);
            wanted.push(Wanted { old: &self.values[at].0, new });
        }
        if errors.is_empty() {
            match edit::edit(&self.source, &wanted) {
                Ok(text) => patched.text = text,
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(patched) } else { Err(errors) }
    }

    /// What the document at `at` shall say, if that is something else.
    fn document(
        &self,
        at: usize,
        settings: &Settings,
        namespaces: &Namespaces,
        patched: &mut Patched,
        errors: &mut Vec<Error>,
    ) -> Option<Value> {
        let (old, duplicates) = &self.values[at];
        let root = self.source.documents[at].root;
        let mut objects = Vec::new();
        object::each(old, &mut |object, _| objects.push(object));
        patched.documents.extend(objects.first().filter(|object| object.path.is_empty()).cloned());
        let mut draft = Draft::new(old.clone());
        for object in &objects {
            let place = |path: &Path| Place { document: at + 1, line: value::line(&self.source, root, path) };
            let error = |fault: Fault| Error {
                place: place(&fault.path),
                object: object.to_string(),
                path: fault.path.below(&object.path),
                cause: fault.cause,
            };
            let pods = match object::pods(&draft, object) {
                Ok(pods) => pods,
                Err(fault) => {
                    errors.push(error(fault));
                    continue;
                }
            };
            for pod in &pods {
                let findings = pod::patch(&mut draft, pod, settings, |draft| injection::mark(draft, object, pod, namespaces));
                for error in findings.faults.into_iter().map(error) {
                    // Two may have looked at the same field.
                    if !errors.contains(&error) {
                        errors.push(error);
                    }
                }
                let mut warn = |(path, text): (Path, String), is_marked| {
                    let warning = Warning { place: place(&path), object: object.clone(), path: path.below(&object.path), text, is_marked };
                    patched.warnings.push(warning);
                };
                findings.warnings.into_iter().for_each(|warning| warn(warning, false));
                patched.containers.extend(findings.containers);
                findings.marked.into_iter().for_each(|marked| warn(marked, true));
            }
            let changes: Vec<Change> = draft
                .take_changes()
                .into_iter()
                .map(|change| Change {
                    place: place(&change.path),
                    path: change.path.below(&object.path),
                    old: change.old,
                    new: change.new,
                    why: change.why,
                })
                .collect();
            if !changes.is_empty() {
                let part = |value: &Value| value.pointer(&object.path.pointer()).cloned().unwrap_or_default();
                let new = draft.get(&object.path).cloned().unwrap_or_default();
                patched.objects.push(PatchedObject { object: object.clone(), old: part(old), new, changes });
            }
        }
        let new = draft.into_value();
        if new == *old {
            return None;
        }
        // What is read here and what the cluster reads have to be the same.
        errors.extend(duplicates.iter().map(|twice| {
            let cause = Cause::Duplicate { key: twice.key.clone(), first: twice.first };
            Error::at(Place { document: at + 1, line: twice.line }, cause)
        }));
        Some(new)
    }
}
