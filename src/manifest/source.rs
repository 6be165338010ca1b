//! A manifest's text as nodes that know where they stand, so that an edit can leave every other byte as it is.
//!
//! The parser speaks in events, so that no depth of nesting can exhaust the stack; it refuses more than [`DEPTH`] levels.
//! JSON is read by it as well: YAML's flow style is a superset of JSON.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, Span, StructureStyle, options};

use super::error::{Cause, Error, Place};

/// How deep collections may nest. What walks the nodes may recurse.
const DEPTH: usize = 200;

/// How long a key in flow style may be. YAML says 1024 characters, JSON has no limit.
const KEY_LENGTH: usize = 64 * 1024;

/// What ends a line: either of them, or both in this order.
pub(super) const BREAKS: [char; 2] = ['\r', '\n'];

/// A node's index in [`Source::nodes`].
pub(super) type Id = usize;

/// The text of a file and what was read in it.
#[derive(Debug)]
pub(super) struct Source<'a> {
    /// All of it.
    pub(super) text: &'a str,
    /// The documents in order, empty ones among them.
    pub(super) documents: Vec<Document>,
    nodes: Vec<Node>,
}

/// One document of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Document {
    /// Its outermost node.
    pub(super) root: Id,
}

/// A value, or the reference to one.
#[derive(Debug)]
pub(super) struct Node {
    /// What it is.
    pub(super) kind: Kind,
    /// From the first byte of the value, without anchor and tag, to the last one. A block scalar ends with its last line.
    pub(super) span: Range<usize>,
    /// Where its anchor or tag begins, whichever is first; where the value begins if it has none.
    pub(super) outer: usize,
    /// The line on which it begins, counted from 1.
    pub(super) line: usize,
    /// The name by which aliases can refer to it.
    pub(super) anchor: Option<String>,
    /// Its explicit tag: the last part, such as `str` of `!!str`.
    pub(super) tag: Option<String>,
}

/// The kinds of nodes.
#[derive(Debug)]
pub(super) enum Kind {
    /// A scalar: its text without quotes and escapes.
    Scalar(String, Style),
    /// A sequence; `flow` if it is written `[…]`.
    Sequence { items: Vec<Id>, flow: bool },
    /// A mapping: keys and values; `flow` if it is written `{…}`.
    Mapping { entries: Vec<(Id, Id)>, flow: bool },
    /// A reference to an anchored node.
    Alias(Id),
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Without quotes: it may stand for a number, a truth value or nothing.
    Plain,
    /// `'…'`
    Single,
    /// `"…"`
    Double,
    /// `|` or `>`.
    Block,
}

impl<'a> Source<'a> {
    /// Reads all documents of `text`.
    pub(super) fn read(text: &'a str) -> Result<Source<'a>, Error> {
        let mut reader =
            Reader { text, nodes: Vec::new(), documents: Vec::new(), open: Vec::new(), anchors: HashMap::new(), base: Base::default() };
        let mut parser = Parser::new_from_str_with_options(text, how());
        loop {
            match parser.next() {
                None => break,
                Some(Ok((event, span))) => reader.take(event, span)?,
                Some(Err(error)) => {
                    let at = reader.base.offset + error.marker().byte_offset().unwrap_or_default();
                    let line = reader.base.line + error.marker().line();
                    let place = Place { document: reader.documents.len().max(1), line };
                    // JSON values may follow each other with nothing between them; in YAML they may not.
                    if matches!(error.kind(), ErrorKind::ExpectedDocumentStart) && reader.follows_json(at) {
                        reader.base = Base { offset: at, line: line - 1 };
                        reader.anchors.clear();
                        parser = Parser::new_from_str_with_options(&text[at..], how());
                        continue;
                    }
                    let cause = match error.kind() {
                        ErrorKind::RecursionLimitExceeded => Cause::TooDeep(DEPTH),
                        _ => Cause::Syntax(error.info()),
                    };
                    return Err(Error::at(place, cause));
                }
            }
        }
        Ok(Source { text, documents: reader.documents, nodes: reader.nodes })
    }

    /// A node.
    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// How many nodes there are.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The node that `id` stands for: itself unless it is an alias.
    pub(super) fn target(&self, id: Id) -> Id {
        match self.nodes[id].kind {
            Kind::Alias(target) => target,
            _ => id,
        }
    }

    /// The first position from `at` on that is neither white space nor a comment.
    pub(super) fn skip_blank(&self, at: usize) -> usize {
        skip_blank(self.text, at)
    }

    /// The line of `at`, counted from 1.
    pub(super) fn line_of(&self, at: usize) -> usize {
        let bytes = self.text.as_bytes();
        (0..at).filter(|before| bytes[*before] == b'\n' || (bytes[*before] == b'\r' && bytes.get(before + 1) != Some(&b'\n'))).count() + 1
    }

    /// Where the line of `at` ends, before its line break.
    pub(super) fn line_end(&self, at: usize) -> usize {
        line_end(self.text, self.outside(at))
    }

    /// Where the line after that of `at` begins: behind the line break, or at the end of the text.
    pub(super) fn next_line(&self, at: usize) -> usize {
        let end = self.line_end(at);
        let rest = &self.text[end..];
        end + if rest.starts_with("\r\n") { 2 } else { usize::from(!rest.is_empty()) }
    }

    /// Where the line of `at` begins.
    pub(super) fn line_start(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..self.outside(at)];
        before.iter().rposition(|byte| matches!(byte, b'\r' | b'\n')).map_or(0, |before| before + 1)
    }

    /// `at`, or the beginning of the line break in whose middle it is.
    fn outside(&self, at: usize) -> usize {
        let bytes = self.text.as_bytes();
        let is_inside = bytes[at..].starts_with(b"\n") && bytes[..at].ends_with(b"\r");
        if is_inside { at - 1 } else { at }
    }
}

/// What the parser is told.
fn how() -> Options {
    options! {
        emit_anchor_events: true,
        flow_nesting_limit: DEPTH,
        block_nesting_limit: DEPTH,
        simple_key_max_lookahead: KEY_LENGTH,
    }
}

/// Where the parser was started, when JSON values follow each other.
#[derive(Default)]
struct Base {
    offset: usize,
    /// Lines before it.
    line: usize,
}

/// Collects what the events tell.
struct Reader<'a> {
    text: &'a str,
    nodes: Vec<Node>,
    documents: Vec<Document>,
    /// Collections that have begun and not ended, the outermost first, with the key that waits for its value.
    open: Vec<(Id, Option<Id>)>,
    /// The parser's number of an anchor, and its node.
    anchors: HashMap<usize, Id>,
    base: Base,
}

impl Reader<'_> {
    /// Whether a JSON value has ended before `at` and another begins there.
    fn follows_json(&self, at: usize) -> bool {
        let before = self.documents.last().map(|document| &self.nodes[document.root].kind);
        let json = matches!(before, Some(Kind::Mapping { flow: true, .. } | Kind::Sequence { flow: true, .. }));
        json && at > self.base.offset && self.text[at..].starts_with(['{', '['])
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Error> {
        match event {
            Event::Scalar(value, style, anchor, tag) => {
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted => Style::Single,
                    ScalarStyle::DoubleQuoted => Style::Double,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                };
                let mut range = self.range(&span);
                // A value that is not there: the parser has a text for it, the file has none.
                let value = if range.is_empty() && style == Style::Plain { String::new() } else { value.into_owned() };
                if style == Style::Block {
                    // The parser goes on into the next line's indentation.
                    range.end = range.start + self.text[range.clone()].rfind(BREAKS).map_or(range.len(), |end| end + 1);
                }
                self.add(Kind::Scalar(value, style), range, &span, anchor, tag.map(|tag| tag.suffix().to_owned()))?;
            }
            Event::SequenceStart(style, anchor, tag) => {
                let flow = style == StructureStyle::Flow;
                let kind = Kind::Sequence { items: Vec::new(), flow };
                let id = self.add(kind, self.range(&span), &span, anchor, tag.map(|tag| tag.suffix().to_owned()))?;
                self.open.push((id, None));
            }
            Event::MappingStart(style, anchor, tag) => {
                let flow = style == StructureStyle::Flow;
                let kind = Kind::Mapping { entries: Vec::new(), flow };
                let id = self.add(kind, self.range(&span), &span, anchor, tag.map(|tag| tag.suffix().to_owned()))?;
                self.open.push((id, None));
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(&span),
            Event::Alias(anchor) => {
                let Some(target) = self.anchors.get(&anchor).copied() else {
                    return Err(self.error(&span, Cause::Syntax("an alias of an anchor that is not there".to_owned())));
                };
                if self.open.iter().any(|(open, _)| *open == target) {
                    return Err(self.error(&span, Cause::Recursive));
                }
                self.add(Kind::Alias(target), self.range(&span), &span, 0, None)?;
            }
            Event::Anchor(_, name) => {
                let at = self.range(&span).start;
                if let Some(node) = self.nodes.last_mut() {
                    node.anchor = Some(name.into_owned());
                    node.outer = node.outer.min(at);
                }
            }
            Event::DocumentStart(..) => {
                self.anchors.clear();
                self.documents.push(Document { root: self.nodes.len() });
            }
            _ => {}
        }
        Ok(())
    }

    fn range(&self, span: &Span) -> Range<usize> {
        let range = span.byte_range().unwrap_or_default();
        range.start + self.base.offset..range.end + self.base.offset
    }

    fn error(&self, span: &Span, cause: Cause) -> Error {
        let place = Place { document: self.documents.len().max(1), line: self.base.line + span.start.line() };
        Error::at(place, cause)
    }

    fn add(&mut self, kind: Kind, range: Range<usize>, span: &Span, anchor: usize, tag: Option<String>) -> Result<Id, Error> {
        let id = self.nodes.len();
        if self.open.len() > DEPTH {
            return Err(self.error(span, Cause::TooDeep(DEPTH)));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
        if let Some((parent, key)) = self.open.last_mut() {
            match &mut self.nodes[*parent].kind {
                Kind::Sequence { items, .. } => items.push(id),
                Kind::Mapping { entries, .. } => match key.take() {
                    Some(key) => entries.push((key, id)),
                    None => *key = Some(id),
                },
                Kind::Scalar(..) | Kind::Alias(_) => {}
            }
        }
        let tagged = span.tag_span().and_then(|tag| tag.byte_range()).map(|tag| tag.start + self.base.offset);
        let line = self.base.line + span.start.line();
        self.nodes.push(Node { kind, outer: tagged.unwrap_or(range.start).min(range.start), span: range, line, anchor: None, tag });
        Ok(id)
    }

    /// Ends the innermost collection: in flow style with its bracket, in block style with the last value in it.
    fn close(&mut self, span: &Span) {
        let Some((id, _)) = self.open.pop() else { return };
        let last = match &self.nodes[id].kind {
            Kind::Sequence { items, flow: false } => items.last().copied(),
            Kind::Mapping { entries, flow: false } => entries.last().map(|(_, value)| *value),
            _ => None,
        };
        self.nodes[id].span.end = last.map_or(self.range(span).end, |last| self.nodes[last].span.end);
        if let Kind::Sequence { flow: false, .. } = self.nodes[id].kind
            && let Some(key) = self.open.last().and_then(|(parent, _)| self.key_of(*parent, id))
            && let Some(dash) = self.first_dash(key)
        {
            // A list that stands no further than its key begins, for the parser, behind its first dash.
            let node = &mut self.nodes[id];
            if node.outer == node.span.start {
                node.outer = dash;
            }
            node.span.start = dash;
        }
    }

    /// The key whose value is the last one of the mapping `parent`, if that is `value`.
    fn key_of(&self, parent: Id, value: Id) -> Option<Id> {
        match &self.nodes[parent].kind {
            Kind::Mapping { entries, .. } => entries.last().filter(|(_, last)| *last == value).map(|(key, _)| *key),
            _ => None,
        }
    }

    /// The first dash of the list that is the value of `key`: behind the colon, and an anchor or tag.
    fn first_dash(&self, key: Id) -> Option<usize> {
        let mut at = skip_blank(self.text, self.nodes[key].span.end);
        at = skip_blank(self.text, self.text[at..].starts_with(':').then_some(at + 1)?);
        while self.text[at..].starts_with(['&', '!']) {
            let length = self.text[at..].find([' ', '\t', '\r', '\n'])?;
            at = skip_blank(self.text, at + length);
        }
        self.text[at..].starts_with('-').then_some(at)
    }
}

/// The first position from `at` on that is neither white space nor a comment.
fn skip_blank(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    let mut at = at;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => at += 1,
            b'#' => at = line_end(text, at),
            _ => break,
        }
    }
    at
}

/// The first line break from `at` on, or the end of the text.
fn line_end(text: &str, at: usize) -> usize {
    text.as_bytes()[at..].iter().position(|byte| matches!(byte, b'\r' | b'\n')).map_or(text.len(), |length| at + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Source<'_> {
        Source::read(text).unwrap()
    }

    /// The text of the node that `path` leads to from the first document's root.
    fn at<'a>(source: &Source<'a>, path: &[&str]) -> &'a str {
        let mut id = source.documents[0].root;
        for step in path {
            id = source.target(id);
            id = match &source.node(id).kind {
                Kind::Sequence { items, .. } => items[step.parse::<usize>().unwrap()],
                Kind::Mapping { entries, .. } => {
                    entries.iter().find(|(key, _)| matches!(&source.node(*key).kind, Kind::Scalar(text, _) if text == step)).unwrap().1
                }
                other => panic!("{other:?} at {step}"),
            };
        }
        &source.text[source.node(id).span.clone()]
    }

    #[test]
    fn nodes_know_where_they_stand() {
        let text = "é: &x # c\n  b: !!str  plain text   # cc\n  d: |\n    block\n\n  # no\n  e:\n  f: {a: [1, 2 ]}  # x\nl:\n- *x\n- multi\n  line # y\n";
        let source = read(text);
        assert_eq!(at(&source, &["é"]), "b: !!str  plain text   # cc\n  d: |\n    block\n\n  # no\n  e:\n  f: {a: [1, 2 ]}");
        assert_eq!(at(&source, &["é", "b"]), "plain text");
        assert_eq!(at(&source, &["é", "d"]), "block\n\n");
        assert_eq!(at(&source, &["é", "e"]), "");
        assert_eq!(at(&source, &["é", "f", "a"]), "[1, 2 ]");
        assert_eq!(at(&source, &["l", "0"]), "*x");
        assert_eq!(at(&source, &["l", "0", "b"]), "plain text");
        assert_eq!(at(&source, &["l", "1"]), "multi\n  line");
    }

    #[test]
    fn json_values_may_follow_each_other() {
        let source = read("{\n\t\"a\": \"\\ud83d\\ude00 \\/\"}\n{\"b\"\n:1}[2]\n");
        assert_eq!(source.documents.iter().map(|document| source.node(document.root).line).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(at(&source, &["a"]), "\"\\ud83d\\ude00 \\/\"");
        assert!(source.nodes.iter().any(|node| matches!(&node.kind, Kind::Scalar(text, Style::Double) if text == "😀 /")));
        assert_eq!(&source.text[source.node(source.documents[2].root).span.clone()], "[2]");
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_place() {
        let said = |text: &str| Source::read(text).map(|_| ()).unwrap_err().to_string();
        assert_eq!(said("a: 1\n---\nb: [\n"), "document 2, line 3: not YAML: unclosed bracket '['");
        assert!(said("a: 1\nb: *x\n").starts_with("document 1, line 2: "));
        assert_eq!(said("a: &x\n  b: *x\n"), "document 1, line 2: an alias stands inside the very node that it refers to");
        assert!(said(&"[".repeat(1_000_000)).contains("line 1: nested more than 200 levels deep"));
        assert!(said(&(0..1000).map(|level| format!("{}a:\n", " ".repeat(level))).collect::<String>()).contains("line 201"));
        assert!(said("a: 1\n{b: 2}\n").starts_with("document 1, line 2: not YAML: "));
    }
}
