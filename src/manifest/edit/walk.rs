//! The walk over a document's nodes along with what it says and what it shall say.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::{Map, Value};

use super::{Aliases, Edit};
use crate::manifest::align::{Fate, align};
use crate::manifest::render::{self, Flow, Layout};
use crate::manifest::source::{BREAKS, Id, Kind, Source, Style};
use crate::manifest::value::{is_merge, key};

type Fields = Map<String, Value>;

/// Where a node stands.
pub(super) enum Spot {
    /// It is the whole document.
    Root,
    /// It is the value of `key`, which begins at `column`, in a block mapping.
    Value { key: Id, column: usize },
    /// It is the item whose dash is at `dash`, in a block sequence.
    Item { dash: usize, column: usize },
    /// It stands between brackets.
    Flow(Flow),
}

/// Finds the edits of one document.
pub(super) struct Editor<'a> {
    pub(super) source: &'a Source<'a>,
    aliases: Aliases,
    pub(super) edits: Vec<Edit>,
    /// Nodes that were walked over already, and what they shall say.
    walked: HashMap<Id, Value>,
    /// A node of which two different things are wanted.
    pub(super) conflict: Option<Id>,
    json: bool,
    pub(super) newline: &'a str,
    list: usize,
    mapping: usize,
}

impl<'a> Editor<'a> {
    pub(super) fn new(source: &'a Source<'a>, root: Id, aliases: Aliases) -> Editor<'a> {
        let first = &source.text[source.line_end(0)..source.next_line(0)];
        let node = source.node(root);
        let json = match &node.kind {
            Kind::Mapping { entries, flow: true } => {
                entries.iter().all(|(key, _)| matches!(source.node(*key).kind, Kind::Scalar(_, Style::Double)))
            }
            _ => false,
        };
        let newline = if first.is_empty() { "\n" } else { first };
        let mut editor =
            Editor { source, aliases, edits: Vec::new(), walked: HashMap::new(), conflict: None, json, newline, list: 0, mapping: 2 };
        editor.list = editor.indent(root, true).unwrap_or(editor.list);
        editor.mapping = editor.indent(root, false).filter(|indent| *indent > 0).unwrap_or(editor.mapping);
        editor
    }

    /// How much further than its key the first list in `root`, or mapping, stands that is written in block style.
    fn indent(&self, root: Id, of_list: bool) -> Option<usize> {
        let mut open = vec![root];
        while let Some(id) = open.pop() {
            match &self.source.node(id).kind {
                Kind::Mapping { entries, flow: false } => {
                    for (key, value) in entries.iter().rev() {
                        let first = match &self.source.node(*value).kind {
                            Kind::Sequence { flow: false, .. } if of_list => Some(self.source.node(*value).span.start),
                            Kind::Mapping { flow: false, entries } if !of_list => {
                                entries.first().map(|(key, _)| self.source.node(*key).outer)
                            }
                            _ => None,
                        };
                        if let Some(first) = first {
                            return self.column(first).checked_sub(self.column(self.source.node(*key).outer)).filter(|indent| *indent <= 8);
                        }
                        open.push(*value);
                    }
                }
                Kind::Sequence { items, flow: false } => open.extend(items.iter().rev()),
                _ => {}
            }
        }
        None
    }

    fn layout(&self) -> Layout<'a> {
        Layout { newline: self.newline, list: self.list, mapping: self.mapping }
    }

    /// The column of `at`, counted in characters: all before it on its line are ASCII if it is a line's first value.
    fn column(&self, at: usize) -> usize {
        self.source.text[self.source.line_start(at)..at].chars().count()
    }

    /// What stands before `at` on its line.
    pub(super) fn before(&self, at: usize) -> &'a str {
        &self.source.text[self.source.line_start(at)..at]
    }

    pub(super) fn push(&mut self, range: Range<usize>, text: String) {
        self.edits.push(Edit { range, text });
    }

    /// Makes the node say `new` instead of `old`.
    pub(super) fn node(&mut self, id: Id, spot: &Spot, old: &Value, new: &Value) {
        if old == new {
            return;
        }
        let node = self.source.node(id);
        let is_alias = matches!(node.kind, Kind::Alias(_));
        if self.aliases == Aliases::Copy || (node.anchor.is_none() && !is_alias) {
            self.change(id, spot, old, new);
            return;
        }
        // Whoever comes here by another way has to want the same. Who wants no change does not come here; that is found out
        // when the edited text is read.
        let target = self.source.target(id);
        match self.walked.get(&target) {
            None => {
                self.walked.insert(target, new.clone());
                self.change(target, if is_alias { &Spot::Root } else { spot }, old, new);
            }
            Some(said) if said == new => {}
            Some(_) => self.conflict = self.conflict.or(Some(id)),
        }
    }

    fn change(&mut self, id: Id, spot: &Spot, old: &Value, new: &Value) {
        match (&self.source.node(id).kind, old, new) {
            (Kind::Mapping { entries, flow }, Value::Object(old), Value::Object(new)) if !entries.is_empty() && !new.is_empty() => {
                self.mapping(id, spot, entries, *flow, (old, new));
            }
            (Kind::Sequence { items, flow }, Value::Array(old), Value::Array(new)) if !items.is_empty() && !new.is_empty() => {
                self.sequence(id, spot, items, *flow, (old, new));
            }
            _ => self.replace(id, spot, new),
        }
    }

    fn mapping(&mut self, id: Id, spot: &Spot, entries: &'a [(Id, Id)], flow: bool, (old, new): (&Fields, &Fields)) {
        let source = self.source;
        let direct = entries.iter().enumerate().filter(|(_, (name, _))| !is_merge(source, *name));
        let own: HashMap<&str, usize> = direct.map(|(at, (name, _))| (key(source, *name), at)).collect();
        let gone: Vec<bool> = entries
            .iter()
            .map(|(name, _)| !is_merge(source, *name) && old.contains_key(key(source, *name)) && !new.contains_key(key(source, *name)))
            .collect();
        if !gone.contains(&false) {
            self.replace(id, spot, &Value::Object(new.clone()));
            return;
        }
        for (name, before) in old {
            let (Some(at), Some(after)) = (own.get(name.as_str()), new.get(name)) else { continue };
            if before != after {
                let (key, value) = entries[*at];
                let spot = if flow {
                    Spot::Flow(self.flow_style(id, entries[0].0))
                } else {
                    Spot::Value { key, column: self.column(source.node(key).outer) }
                };
                self.node(value, &spot, before, after);
            }
        }
        let parts: Vec<Range<usize>> = entries.iter().map(|(key, value)| source.node(*key).outer..self.entry_end(*key, *value)).collect();
        self.remove(flow, &parts, &gone);
        let kept = |at: &usize| !gone[*at];
        let names: Vec<&str> = (0..entries.len()).filter(kept).map(|at| key(source, entries[at].0)).collect();
        let parts: Vec<Range<usize>> = (0..entries.len()).filter(kept).map(|at| parts[at].clone()).collect();
        // Into the order of the keys where they have one, else behind them all.
        let ordered = entries.is_sorted_by_key(|(name, _)| key(source, *name));
        for (name, value) in new.iter().filter(|(name, value)| !own.contains_key(name.as_str()) && old.get(*name) != Some(*value)) {
            let before = if ordered { names.iter().take_while(|other| **other < name.as_str()).count() } else { names.len() };
            if flow {
                let text = render::entry(name, value, &self.flow_style(id, entries[0].0));
                self.insert_flow(id, &parts, before, text);
            } else {
                let column = self.column(parts[0].start);
                let outside = if let Spot::Value { column, .. } = spot { *column } else { column };
                let own = column.checked_sub(outside).filter(|indent| (1..=8).contains(indent));
                let layout = Layout { mapping: own.unwrap_or(self.mapping), ..self.layout() };
                let text = layout.entry(name, value, column);
                self.insert_line(&parts, before, column, text);
            }
        }
    }

    /// Where an entry of a mapping ends; one without a value ends with its colon.
    fn entry_end(&self, key: Id, value: Id) -> usize {
        let end = self.source.node(value).span.end;
        if self.source.node(value).span.is_empty() { end.max(self.colon(key).map_or(0, |colon| colon + 1)) } else { end }
    }

    /// The colon behind a key.
    fn colon(&self, key: Id) -> Option<usize> {
        let at = self.source.skip_blank(self.source.node(key).span.end);
        self.source.text[at..].starts_with(':').then_some(at)
    }

    /// How values are written in the flow collection `id`, whose first part is `first`.
    fn flow_style(&self, id: Id, first: Id) -> Flow {
        if !self.json {
            return Flow::Yaml;
        }
        let first = self.source.node(first).outer;
        let indent = self.before(first);
        let own_line = indent.trim().is_empty() && self.source.line_start(first) > self.source.node(id).span.start;
        if !own_line {
            return Flow::Json;
        }
        let outside = self.before(self.source.node(id).span.start);
        let outside = &outside[..outside.len() - outside.trim_start().len()];
        let unit = indent.strip_prefix(outside).filter(|unit| !unit.is_empty()).unwrap_or("  ");
        Flow::Lines { newline: self.newline.to_owned(), indent: indent.to_owned(), unit: unit.to_owned() }
    }

    fn sequence(&mut self, id: Id, spot: &Spot, items: &'a [Id], flow: bool, (old, new): (&[Value], &[Value])) {
        let source = self.source;
        let mut parts: Vec<Range<usize>> = items.iter().map(|item| source.node(*item).outer..source.node(*item).span.end).collect();
        if !flow {
            // The dash is the first thing behind the item before.
            let mut from = source.node(id).span.start;
            for part in &mut parts {
                let dash = source.skip_blank(from);
                *part = dash..part.end.max(dash + 1);
                from = part.end;
            }
        }
        let mut gone = vec![false; items.len()];
        let mut kept = Vec::new();
        let mut added = Vec::new();
        for fate in align(old, new) {
            match fate {
                Fate::Kept { old: before, new: after } => {
                    let spot = if flow {
                        Spot::Flow(self.flow_style(id, items[0]))
                    } else {
                        Spot::Item { dash: parts[before].start, column: self.column(parts[before].start) }
                    };
                    self.node(items[before], &spot, &old[before], &new[after]);
                    kept.push(parts[before].clone());
                }
                Fate::Removed { old } => gone[old] = true,
                Fate::Added { new } => added.push((kept.len(), new)),
            }
        }
        if kept.is_empty() {
            self.replace(id, spot, &Value::Array(new.to_vec()));
            return;
        }
        self.remove(flow, &parts, &gone);
        for (before, at) in added {
            if flow {
                let text = render::flow(&new[at], &self.flow_style(id, items[0]));
                self.insert_flow(id, &kept, before, text);
            } else {
                let column = self.column(kept[0].start);
                let text = self.layout().item(&new[at], column);
                self.insert_line(&kept, before, column, text);
            }
        }
    }

    /// Where the value `id` ends, which stands behind `mark`, and the comments that outlast it: on its line, at the head of a
    /// block scalar or else behind the value, which then ends with it, and in empty brackets.
    fn with_comment(&self, id: Id, mark: usize) -> (usize, String) {
        let node = self.source.node(id);
        let text = self.source.text;
        let end = node.span.end.max(mark);
        let is_block = matches!(node.kind, Kind::Scalar(_, Style::Block));
        // A block scalar ends with its line break, and so does what it is the last of.
        let ends_line = text[..end].ends_with(BREAKS);
        let from = if is_block { mark } else { end };
        let line = &text[from..self.source.line_end(from)];
        let comment = match [" #", "\t#"].iter().filter_map(|sign| line.find(sign)).min() {
            Some(at) if is_block || (!ends_line && line[..at].trim().is_empty()) => &line[line[..at].trim_end().len()..],
            _ => "",
        };
        let end = match (ends_line, is_block) {
            (true, _) => self.source.line_end(end - 1),
            (false, true) => end,
            (false, false) => end + comment.len(),
        };
        (end, format!("{}{comment}", self.inside(id).trim_end()))
    }

    /// The comments between the brackets of an empty collection, with what is around them.
    fn inside(&self, id: Id) -> &'a str {
        let node = self.source.node(id);
        let is_empty = match &node.kind {
            Kind::Mapping { entries, flow: true } => entries.is_empty(),
            Kind::Sequence { items, flow: true } => items.is_empty(),
            _ => false,
        };
        let inside = if is_empty { &self.source.text[node.span.start + 1..node.span.end - 1] } else { "" };
        if inside.contains('#') { inside } else { "" }
    }

    /// Writes `new` in the place of a whole node.
    fn replace(&mut self, id: Id, spot: &Spot, new: &Value) {
        let node = self.source.node(id);
        let is_scalar =
            !matches!(new, Value::Object(fields) if !fields.is_empty()) && !matches!(new, Value::Array(items) if !items.is_empty());
        // An anchor stays with the value that has its name now; a tag belonged to the old value.
        let start = if node.anchor.is_some() { node.span.start } else { node.outer };
        let json = self.json;
        match (&node.kind, spot) {
            (Kind::Scalar(_, style), _) if is_scalar && !node.span.is_empty() && *style != Style::Block => {
                let text = match (new, style) {
                    (Value::String(text), Style::Single) if !text.contains(['\'', '\r', '\n']) => format!("'{text}'"),
                    (Value::String(text), Style::Double) => render::quoted(text),
                    (Value::String(text), _) if json => render::quoted(text),
                    _ => render::flow(new, &Flow::Yaml),
                };
                self.push(start..node.span.end, text);
            }
            // What was written between brackets goes on to be; empty brackets stand for nothing.
            (Kind::Mapping { entries, flow: true }, Spot::Value { .. } | Spot::Item { .. }) if !entries.is_empty() => {
                self.push(start..node.span.end, render::flow(new, &Flow::Yaml));
            }
            (_, Spot::Flow(style)) => {
                let space = if node.span.is_empty() { " " } else { "" };
                self.push(start..node.span.end, format!("{space}{}{}", render::flow(new, style), self.inside(id)));
            }
            (_, Spot::Value { key, column }) => {
                let text = self.layout().value(new, *column);
                match self.colon(*key) {
                    Some(colon) if node.anchor.is_none() => {
                        let (end, comment) = self.with_comment(id, colon + 1);
                        // A comment stays on the line that it is on.
                        let first = text.find(BREAKS).unwrap_or(text.len());
                        self.push(colon + 1..end, format!("{}{comment}{}", &text[..first], &text[first..]));
                    }
                    _ => self.conflict = self.conflict.or(Some(id)),
                }
            }
            (_, Spot::Item { dash, column }) => {
                let text = self.layout().item(new, *column);
                let (end, comment) = self.with_comment(id, dash + 1);
                if node.anchor.is_some() {
                    self.conflict.get_or_insert(id);
                }
                let first = text.find(BREAKS).unwrap_or(text.len());
                self.push(*dash..end, format!("{}{comment}{}", &text[..first], &text[first..]));
            }
            (_, Spot::Root) => {
                self.conflict.get_or_insert(id);
            }
        }
    }
}
