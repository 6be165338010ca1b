//! What a document says, with aliases and merge keys resolved, as Kubernetes' own reader (YAML 1.1) takes it.

use serde_json::{Map, Number, Value};

use super::error::{Cause, Error, Place};
use super::path::{Path, Step};
use super::source::{Id, Kind, Source, Style};

/// The key whose value is merged into the mapping.
pub(super) const MERGE: &str = "<<";

/// How many values aliases may add to a document.
const BUDGET: usize = 1_000_000;

/// How deep aliases may nest values.
const DEPTH: usize = 400;

/// A key that stands twice in one mapping.
#[derive(Clone, Debug)]
pub(super) struct Duplicate {
    pub(super) key: String,
    pub(super) first: usize,
    pub(super) line: usize,
}

/// What the document that begins at `root` says, and the keys that say something twice; of those the last counts.
pub(super) fn read(source: &Source<'_>, document: usize, root: Id) -> Result<(Value, Vec<Duplicate>), Error> {
    let limit = source.len() + BUDGET;
    let mut reader = Reader { source, document, left: limit, limit, duplicates: Vec::new() };
    let value = reader.value(root, 0)?;
    reader.duplicates.sort_by_key(|duplicate| duplicate.line);
    Ok((value, reader.duplicates))
}

/// The text of a key. One that is no scalar has its source as a text, which is the text of nobody's field.
pub(super) fn key<'a>(source: &'a Source<'_>, id: Id) -> &'a str {
    let node = source.node(source.target(id));
    match &node.kind {
        Kind::Scalar(text, _) => text,
        _ => &source.text[node.span.clone()],
    }
}

/// Whether `key` is the merge key.
pub(super) fn is_merge(source: &Source<'_>, key: Id) -> bool {
    matches!(&source.node(key).kind, Kind::Scalar(text, Style::Plain) if text == MERGE)
}

/// The line of the field that `path` leads to, or of the last step on the way that is there.
pub(super) fn line(source: &Source<'_>, root: Id, path: &Path) -> usize {
    let mut line = source.node(root).line;
    let mut id = root;
    for step in path.steps() {
        match (step, &source.node(source.target(id)).kind) {
            (Step::Index(index), Kind::Sequence { items, .. }) if *index < items.len() => {
                id = items[*index];
                line = source.node(id).line;
            }
            (Step::Key(wanted), Kind::Mapping { .. }) => match field(source, id, wanted) {
                Some((key, value)) => {
                    line = source.node(key).line;
                    id = value;
                }
                None => break,
            },
            _ => break,
        }
    }
    line
}

/// The key and value that count for `wanted` in the mapping `id`: its own, else a merged one.
fn field(source: &Source<'_>, id: Id, wanted: &str) -> Option<(Id, Id)> {
    let mut open = vec![id];
    // Merges nest no deeper than values do, or the document would have been refused.
    while let Some(id) = open.pop() {
        match &source.node(source.target(id)).kind {
            Kind::Mapping { entries, .. } => {
                if let Some(entry) = entries.iter().rev().find(|(name, _)| !is_merge(source, *name) && key(source, *name) == wanted) {
                    return Some(*entry);
                }
                open.extend(entries.iter().filter(|(name, _)| is_merge(source, *name)).map(|(_, value)| *value));
            }
            Kind::Sequence { items, .. } => open.extend(items.iter().rev()),
            _ => {}
        }
    }
    None
}

struct Reader<'a> {
    source: &'a Source<'a>,
    document: usize,
    left: usize,
    limit: usize,
    duplicates: Vec<Duplicate>,
}

impl Reader<'_> {
    fn value(&mut self, id: Id, depth: usize) -> Result<Value, Error> {
        let source = self.source;
        if depth > DEPTH {
            return Err(self.error(id, Cause::TooDeep(DEPTH)));
        }
        self.left = self.left.checked_sub(1).ok_or_else(|| self.error(id, Cause::TooLarge(self.limit)))?;
        let node = source.node(source.target(id));
        Ok(match &node.kind {
            Kind::Scalar(text, style) if is_resolved(*style, node.tag.as_deref()) => plain(text),
            Kind::Scalar(text, _) => Value::String(text.clone()),
            Kind::Sequence { items, .. } => Value::Array(items.iter().map(|item| self.value(*item, depth + 1)).collect::<Result<_, _>>()?),
            Kind::Mapping { entries, .. } => Value::Object(self.mapping(entries, depth)?),
            // A target is no alias.
            Kind::Alias(_) => Value::Null,
        })
    }

    fn mapping(&mut self, entries: &[(Id, Id)], depth: usize) -> Result<Map<String, Value>, Error> {
        let source = self.source;
        let mut own = Map::new();
        let mut merged = Map::new();
        for (at, (name, value)) in entries.iter().enumerate() {
            if is_merge(source, *name) {
                self.merge(*value, depth, &mut merged)?;
                continue;
            }
            let text = key(source, *name);
            let value = self.value(*value, depth + 1)?;
            if own.insert(text.to_owned(), value).is_some() {
                let first = entries[..at].iter().find(|(other, _)| key(source, *other) == text).unwrap_or(&entries[at]).0;
                let (first, line) = (source.node(first).line, source.node(*name).line);
                self.duplicates.push(Duplicate { key: text.to_owned(), first, line });
            }
        }
        for (key, value) in merged {
            own.entry(key).or_insert(value);
        }
        Ok(own)
    }

    /// Adds the fields of `id` to those merged before it, which win.
    fn merge(&mut self, id: Id, depth: usize, merged: &mut Map<String, Value>) -> Result<(), Error> {
        match self.value(id, depth + 1)? {
            Value::Object(fields) => add(fields, merged),
            Value::Array(items) => {
                for item in items {
                    let Value::Object(fields) = item else { return Err(self.error(id, Cause::Merge)) };
                    add(fields, merged);
                }
            }
            _ => return Err(self.error(id, Cause::Merge)),
        }
        Ok(())
    }

    fn error(&self, id: Id, cause: Cause) -> Error {
        Error::at(Place { document: self.document, line: self.source.node(id).line }, cause)
    }
}

fn add(fields: Map<String, Value>, merged: &mut Map<String, Value>) {
    for (key, value) in fields {
        merged.entry(key).or_insert(value);
    }
}

/// Whether a scalar may stand for something else than its text: its tag says so, or that it has neither tag nor quotes.
fn is_resolved(style: Style, tag: Option<&str>) -> bool {
    match tag {
        Some(tag) => matches!(tag, "bool" | "int" | "float" | "null"),
        None => style == Style::Plain,
    }
}

/// What a scalar without quotes stands for.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    let digits = digits.replace('_', "");
    let radix = |prefix: &str, radix| digits.strip_prefix(prefix).map(|rest| i128::from_str_radix(rest, radix));
    let whole = radix("0x", 16).or_else(|| radix("0b", 2)).or_else(|| radix("0o", 8));
    let octal = || (digits.len() > 1).then(|| radix("0", 8)).flatten().and_then(Result::ok);
    let whole = match whole {
        Some(parsed) => Some(parsed.ok()?),
        None => octal().or_else(|| digits.parse::<i128>().ok()),
    };
    match whole {
        Some(whole) => Number::from_i128(if negative { -whole } else { whole }),
        None => {
            let is_float = digits.chars().all(|char| char.is_ascii_digit() || matches!(char, '.' | 'e' | 'E' | '+' | '-'));
            let float = digits.parse::<f64>().ok().filter(|_| is_float)?;
            Number::from_f64(if negative { -float } else { float })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Value {
        let source = Source::read(text).unwrap();
        read(&source, 1, source.documents[0].root).unwrap().0
    }

    #[test]
    fn scalars_are_what_kubernetes_takes_them_for() {
        assert_eq!(
            value(
                "[1, -2, +3, 0x10, 0644, 1_000, 1.5, .5, 1e3, yes, Off, true, ~, null, '', \"true\", !!str 1, !!bool \"yes\", 1.2.3, 10m, 0, 08, '0']"
            ),
            json!([
                1, -2, 3, 16, 420, 1000, 1.5, 0.5, 1000.0, true, false, true, null, null, "", "true", "1", true, "1.2.3", "10m", 0, 8, "0"
            ])
        );
    }

    #[test]
    fn aliases_and_merges_are_resolved() {
        let text =
            "base: &base {a: 1, b: {c: 2}}\nmore: &more {b: 3, d: 4}\none: {<<: *base, a: 5}\ntwo:\n  <<: [*more, *base]\n  e: *base\n";
        let value = value(text);
        assert_eq!(value["one"], json!({"a": 5, "b": {"c": 2}}));
        assert_eq!(value["two"], json!({"a": 1, "b": 3, "d": 4, "e": {"a": 1, "b": {"c": 2}}}));
    }

    #[test]
    fn a_line_is_found_through_aliases_and_merges() {
        let text = "base: &base\n  a: 1\n  b:\n  - x: 2\none:\n  <<: *base\n  c: 3\n";
        let source = Source::read(text).unwrap();
        let at = |path: Path| line(&source, source.documents[0].root, &path);
        assert_eq!(at(Path::of(&["one", "c"])), 7);
        assert_eq!(at(Path::of(&["one", "b"]).index(0).key("x")), 4);
        assert_eq!(at(Path::of(&["one", "gone", "x"])), 5);
    }

    #[test]
    fn keys_that_stand_twice_are_known() {
        let source = Source::read("a:\n  b: 1\n  c: 2\n  b: 3\n").unwrap();
        let (value, duplicates) = read(&source, 1, source.documents[0].root).unwrap();
        assert_eq!(value, json!({"a": {"b": 3, "c": 2}}));
        assert_eq!(duplicates.iter().map(|twice| (twice.key.as_str(), twice.first, twice.line)).collect::<Vec<_>>(), [("b", 2, 4)]);
    }

    #[test]
    fn bombs_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        let source = Source::read(&text).unwrap();
        let error = read(&source, 1, source.documents[0].root).unwrap_err();
        assert!(matches!(error.cause, Cause::TooLarge(_)), "{error}");

        let mut text = String::new();
        for level in 0..20 {
            let inner = if level == 0 { "x".to_owned() } else { format!("*a{}", level - 1) };
            text.push_str(&format!("a{level}: &a{level} {}{inner}{}\n", "[".repeat(100), "]".repeat(100)));
        }
        let source = Source::read(&text).unwrap();
        let error = read(&source, 1, source.documents[0].root).unwrap_err();
        assert!(matches!(error.cause, Cause::TooDeep(_)), "{error}");
        let source = Source::read("a: 1\nb: {<<: x}\n").unwrap();
        assert_eq!(
            read(&source, 1, 0).unwrap_err().to_string(),
            "document 1, line 2: the merge key << takes a mapping or a list of mappings"
        );
    }
}
