//! Parts of a collection put in and taken out: lines in block style, what stands between commas in flow style.

use std::ops::Range;

use super::walk::Editor;
use crate::manifest::source::{BREAKS, Id};

impl Editor<'_> {
    /// A line, or several, into a block collection whose parts are `parts`, behind the first `before` of them.
    pub(super) fn insert_line(&mut self, parts: &[Range<usize>], before: usize, column: usize, text: String) {
        let indent = " ".repeat(column);
        match before.checked_sub(1).map(|last| self.behind(parts[last].end)) {
            None => self.push(parts[0].start..parts[0].start, format!("{text}{}{indent}", self.newline)),
            Some(at) if at == self.source.text.len() && !self.source.text.ends_with(BREAKS) => {
                self.push(at..at, format!("{}{indent}{text}", self.newline));
            }
            Some(at) => self.push(at..at, format!("{indent}{text}{}", self.newline)),
        }
    }

    /// Where the line after a part of a block collection begins that ends at `end`.
    fn behind(&self, end: usize) -> usize {
        // A block scalar ends with its line break.
        if self.source.text[..end].ends_with(BREAKS) { end } else { self.source.next_line(end) }
    }

    /// Something between the brackets of the collection `id` whose parts are `parts`, behind the first `before` of them.
    pub(super) fn insert_flow(&mut self, id: Id, parts: &[Range<usize>], before: usize, text: String) {
        // What stands between parts: a space, or a line break and an indentation.
        let gap = |from: usize, to: usize| {
            let between = &self.source.text[from..to];
            let blank = &between[between.rfind(|char: char| !char.is_whitespace()).map_or(0, |at| at + 1)..];
            if blank.contains(BREAKS) { blank.to_owned() } else { " ".to_owned() }
        };
        let opening = self.source.node(id).span.start + 1;
        match before.checked_sub(1) {
            None => {
                let gap = gap(opening, parts[0].start);
                self.push(parts[0].start..parts[0].start, format!("{text},{gap}"));
            }
            Some(last) => {
                let from = last.checked_sub(1).map_or(opening, |earlier| parts[earlier].end);
                let gap = gap(from, parts[last].start);
                let end = parts[last].end;
                let Some((comma, behind)) = self.last_comment(end).filter(|_| gap.contains(BREAKS)) else {
                    self.push(end..end, format!(",{gap}{text}"));
                    return;
                };
                // Behind the comment on the last part's line, which has a comma before it or gets one.
                if comma {
                    self.push(behind..behind, format!("{gap}{text},"));
                } else if self.edits.iter().any(|edit| edit.range == (end..end)) {
                    self.push(behind..behind, format!(",{gap}{text}"));
                } else {
                    self.push(end..end, ",".to_owned());
                    self.push(behind..behind, format!("{gap}{text}"));
                }
            }
        }
    }

    /// Where the comment ends that stands on the line of `end`, behind the last part of a flow collection, and whether a comma
    /// is before it.
    fn last_comment(&self, end: usize) -> Option<(bool, usize)> {
        let line = &self.source.text[end..self.source.line_end(end)];
        let (before, _) = line.split_once('#')?;
        let comma = match before.trim() {
            "" => false,
            "," => true,
            _ => return None,
        };
        let next = self.source.skip_blank(end + line.len());
        self.source.text[next..].starts_with(['}', ']']).then_some((comma, end + line.len()))
    }

    /// Takes those parts out that are `gone`; some part stays.
    pub(super) fn remove(&mut self, flow: bool, parts: &[Range<usize>], gone: &[bool]) {
        if flow {
            self.remove_flow(parts, gone);
        } else {
            self.remove_lines(parts, gone);
        }
    }

    /// Takes the lines of those parts of a block collection out that are `gone`.
    fn remove_lines(&mut self, parts: &[Range<usize>], gone: &[bool]) {
        for (part, _) in parts.iter().zip(gone).filter(|(_, gone)| **gone) {
            let end = self.behind(part.end);
            if !self.before(part.start).trim().is_empty() {
                // The line has the dash of the item in which the collection stands: what comes next, a comment perhaps, takes its place.
                let rest = &self.source.text[end..];
                let next = end + rest.len() - rest.trim_start().len();
                self.push(part.start..next, String::new());
                continue;
            }
            let mut start = self.source.line_start(part.start);
            if end == self.source.text.len() && !self.source.text.ends_with(BREAKS) {
                // The file goes on to end without a line break.
                start = self.source.line_end(start.saturating_sub(1));
            }
            self.push(start..end, String::new());
        }
    }

    /// Takes those parts of a flow collection out that are `gone`, each with one comma.
    fn remove_flow(&mut self, parts: &[Range<usize>], gone: &[bool]) {
        let mut at = 0;
        while at < parts.len() {
            if !gone[at] {
                at += 1;
                continue;
            }
            let run = gone[at..].iter().take_while(|gone| **gone).count();
            let last = at + run - 1;
            match (parts.get(last + 1), at.checked_sub(1)) {
                (Some(next), _) => {
                    let end = self.before_next(parts[at].start, parts[last].end, next.start);
                    // A comment is one behind white space only.
                    let glued = end < next.start && self.source.text[..parts[at].start].ends_with(['[', '{', ',']);
                    self.push(parts[at].start..end, if glued { " ".to_owned() } else { String::new() });
                }
                (None, Some(before)) => {
                    let comma = self.source.skip_blank(parts[before].end);
                    if self.source.text[parts[before].end..parts[at].start].contains('#') && self.source.text[comma..].starts_with(',') {
                        // What is said between them belongs to the part that stays.
                        self.push(comma..comma + 1, String::new());
                        self.push(parts[at].start..parts[last].end, String::new());
                    } else {
                        self.push(parts[before].end..parts[last].end, String::new());
                    }
                }
                (None, None) => self.push(parts[at].start..parts[last].end, String::new()),
            }
            at = last + 1;
        }
    }

    /// Where that ends which goes with the parts from `start` to `end`, at `next` or before it: comments on lines of their own
    /// belong to the part at `next`.
    fn before_next(&self, start: usize, end: usize, next: usize) -> usize {
        let text = self.source.text;
        let comma = self.source.skip_blank(end);
        if !text[comma..].starts_with(',') {
            return next;
        }
        let mut at = comma + 1;
        // The comment behind a part that has its line to itself is about that part.
        if self.before(start).trim().is_empty() && text[at..self.source.line_end(at)].trim_start().starts_with('#') {
            at = self.source.line_end(at);
        }
        at += text[at..].len() - text[at..].trim_start().len();
        at.min(next)
    }
}
