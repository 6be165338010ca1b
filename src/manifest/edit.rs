//! Edits of a manifest's text that make its documents say something else, and leave every other byte.
//!
//! An edit is a range of bytes and what takes its place. The edits are found by walking a document's nodes along with what
//! it says and what it shall say. Then the edited text is read again: unless every document says exactly what it shall,
//! nothing is returned.

mod parts;
mod walk;

use std::ops::Range;

use serde_json::Value;

use self::walk::{Editor, Spot};
use super::error::{Cause, Error, Place};
use super::source::{Id, Kind, Source};
use super::value;

/// What a document says and what it shall say.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// What it says.
    pub(super) old: &'a Value,
    /// What it shall say, if that is something else.
    pub(super) new: Option<Value>,
}

/// The text of `source` with its documents changed as `wanted` has it, one entry for each document.
pub(super) fn edit(source: &Source<'_>, wanted: &[Wanted<'_>]) -> Result<String, Error> {
    if wanted.iter().all(|wanted| wanted.new.is_none()) {
        return Ok(source.text.to_owned());
    }
    // Whoever shares a value by alias as a rule shares the change too. Otherwise the alias becomes a copy.
    let mut last = None;
    for aliases in [Aliases::Follow, Aliases::Copy] {
        match attempt(source, wanted, aliases) {
            Ok(text) => return Ok(text),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::at(Place::default(), Cause::Unfaithful)))
}

fn attempt(source: &Source<'_>, wanted: &[Wanted<'_>], aliases: Aliases) -> Result<String, Error> {
    let mut edits = Vec::new();
    for (at, (document, wanted)) in source.documents.iter().zip(wanted).enumerate() {
        let Some(new) = &wanted.new else { continue };
        let mut editor = Editor::new(source, document.root, aliases);
        editor.node(document.root, &Spot::Root, wanted.old, new);
        if let Some(id) = editor.conflict {
            return Err(refusal(source, at, source.node(id).outer, &editor.edits));
        }
        edits.extend(editor.edits.into_iter().map(|edit| (at, edit)));
    }
    edits.sort_by_key(|(_, edit)| (edit.range.start, edit.range.end));
    let mut text = String::with_capacity(source.text.len() + edits.len() * 64);
    let mut done = 0;
    for (document, edit) in &edits {
        if edit.range.start < done {
            return Err(refusal(source, *document, edit.range.start, std::slice::from_ref(edit)));
        }
        text.push_str(&source.text[done..edit.range.start]);
        text.push_str(&edit.text);
        done = edit.range.end;
    }
    text.push_str(&source.text[done..]);
    match disagreeing(&text, wanted) {
        None => Ok(text),
        Some(at) => {
            let own: Vec<Edit> = edits.into_iter().filter(|(document, _)| *document == at).map(|(_, edit)| edit).collect();
            let first = own.first().map_or(0, |edit| edit.range.start);
            Err(refusal(source, at, first, &own))
        }
    }
}

/// The first document of `text` that does not say what is wanted.
fn disagreeing(text: &str, wanted: &[Wanted<'_>]) -> Option<usize> {
    let source = match Source::read(text) {
        Ok(source) if source.documents.len() == wanted.len() => source,
        Ok(_) => return Some(0),
        Err(error) => return Some((error.place.document - 1).min(wanted.len() - 1)),
    };
    source.documents.iter().zip(wanted).enumerate().position(|(at, (document, wanted))| {
        value::read(&source, at + 1, document.root).map_or(true, |(says, _)| says != *wanted.new.as_ref().unwrap_or(wanted.old))
    })
}

/// Why the edits of a document cannot be made; `at` is where the trouble is.
fn refusal(source: &Source<'_>, document: usize, at: usize, edits: &[Edit]) -> Error {
    let touched = |anchored: &Id| {
        let span = source.node(*anchored).outer..source.node(*anchored).span.end;
        edits.iter().any(|edit| edit.range.start < span.end && span.start < edit.range.end.max(edit.range.start + 1))
    };
    let shared = (0..source.len()).find_map(|alias| match source.node(alias).kind {
        Kind::Alias(target) if touched(&target) => Some((target, alias)),
        _ => None,
    });
    let cause = match shared {
        Some((target, alias)) => {
            let anchored = source.node(target);
            let name = anchored.anchor.as_deref().unwrap_or_default();
            Cause::Shared(format!(
                "the anchor &{name} on line {} is used on line {} too, where the change does not belong; write one of them out",
                source.line_of(anchored.outer),
                source.node(alias).line
            ))
        }
        None => Cause::Unfaithful,
    };
    Error::at(Place { document: document + 1, line: source.line_of(at) }, cause)
}

/// What becomes of an alias whose value changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aliases {
    /// The anchored value is changed.
    Follow,
    /// The changed value is written in the alias's place.
    Copy,
}

#[derive(Clone, Debug)]
struct Edit {
    range: Range<usize>,
    text: String,
}
