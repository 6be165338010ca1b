//! New values as YAML or JSON text.

use serde_json::Value;

use super::value;

/// How nested values are laid out in block style.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout<'a> {
    /// The line break of the file.
    pub(super) newline: &'a str,
    /// How much further than its key a list's dash stands: 0 or 2 as a rule.
    pub(super) list: usize,
    /// How much further than its key a mapping stands: 2 as a rule.
    pub(super) mapping: usize,
}

/// How values are written in flow style.
#[derive(Clone, Debug)]
pub(super) enum Flow {
    /// `{a: [b, c]}`, on one line.
    Yaml,
    /// `{"a": ["b", "c"]}`, on one line.
    Json,
    /// JSON with a line for each value.
    Lines {
        /// The line break.
        newline: String,
        /// What the line of the key begins with.
        indent: String,
        /// What every level adds to it.
        unit: String,
    },
}

/// The length of a dash and the space behind it.
const DASH: usize = 2;

impl Layout<'_> {
    /// `value` behind the colon of a key at `column`, with the space or line break before it.
    pub(super) fn value(&self, value: &Value, column: usize) -> String {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                let column = column + self.mapping;
                fields.iter().map(|(key, value)| self.line(column) + &self.entry(key, value, column)).collect()
            }
            Value::Array(items) if !items.is_empty() => {
                let column = column + self.list;
                items.iter().map(|item| self.line(column) + &self.item(item, column)).collect()
            }
            _ => format!(" {}", flow(value, &Flow::Yaml)),
        }
    }

    /// A key at `column` and its value.
    pub(super) fn entry(&self, key: &str, value: &Value, column: usize) -> String {
        format!("{}:{}", string(key), self.value(value, column))
    }

    /// A list's item with its dash at `column`.
    pub(super) fn item(&self, item: &Value, column: usize) -> String {
        let inner = column + DASH;
        match item {
            Value::Object(fields) if !fields.is_empty() => {
                let entries: Vec<String> = fields.iter().map(|(key, value)| self.entry(key, value, inner)).collect();
                format!("- {}", entries.join(&self.line(inner)))
            }
            Value::Array(items) if !items.is_empty() => {
                let items: Vec<String> = items.iter().map(|item| self.item(item, inner)).collect();
                format!("- {}", items.join(&self.line(inner)))
            }
            _ => format!("- {}", flow(item, &Flow::Yaml)),
        }
    }

    /// The break before a line that is indented to `column`.
    fn line(&self, column: usize) -> String {
        format!("{}{}", self.newline, " ".repeat(column))
    }
}

/// `value` in flow style.
pub(super) fn flow(value: &Value, style: &Flow) -> String {
    match value {
        Value::Object(fields) => {
            let entries = fields.iter().map(|(key, value)| entry(key, value, &style.inner())).collect();
            style.bracket("{", entries, "}")
        }
        Value::Array(items) => style.bracket("[", items.iter().map(|item| flow(item, &style.inner())).collect(), "]"),
        Value::String(text) => match style {
            Flow::Yaml => string(text),
            Flow::Json | Flow::Lines { .. } => quoted(text),
        },
        other => other.to_string(),
    }
}

/// A key and its value in flow style.
pub(super) fn entry(key: &str, value: &Value, style: &Flow) -> String {
    let name = if matches!(style, Flow::Yaml) { string(key) } else { quoted(key) };
    format!("{name}: {}", flow(value, style))
}

impl Flow {
    /// The style of what stands inside a value of this style.
    fn inner(&self) -> Flow {
        match self {
            Flow::Lines { newline, indent, unit } => {
                Flow::Lines { newline: newline.clone(), indent: format!("{indent}{unit}"), unit: unit.clone() }
            }
            other => other.clone(),
        }
    }

    fn bracket(&self, open: &str, items: Vec<String>, close: &str) -> String {
        match self {
            Flow::Lines { newline, indent, unit } if !items.is_empty() => {
                let separator = format!(",{newline}{indent}{unit}");
                format!("{open}{newline}{indent}{unit}{}{newline}{indent}{close}", items.join(&separator))
            }
            _ => format!("{open}{}{close}", items.join(", ")),
        }
    }
}

/// A text as a YAML scalar, without quotes if every reader takes it for a text then.
pub(super) fn string(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

/// A text in double quotes, the same in YAML and JSON.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Stricter than YAML has it: what might be a number, a time or an indicator to anyone is not plain.
fn is_plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let harmless = text.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.' | '/' | ':' | '@' | '+'));
    let begins = first.is_ascii_alphabetic() || first == '/' || first.is_ascii_digit();
    let numeric = |char: char| char.is_ascii_digit() || matches!(char, '.' | ':' | '-' | '+' | '_' | 'e' | 'E' | 'x' | 'T' | 'Z');
    let like_number = first.is_ascii_digit() && text.chars().all(numeric);
    harmless && begins && !like_number && !text.ends_with(':') && matches!(value::plain(text), Value::String(_))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_values_in_block_style() {
        let value = json!({"a": {"b": ["x", {"c": 1, "d": {}}, []], "e": "true"}});
        let layout = Layout { newline: "\n", list: 0, mapping: 2 };
        assert_eq!(
            layout.entry("k", &value, 2),
            "k:\n    a:\n      b:\n      - x\n      - c: 1\n        d: {}\n      - []\n      e: \"true\""
        );
        let layout = Layout { newline: "\r\n", list: 2, mapping: 4 };
        assert_eq!(layout.entry("k", &json!(["x"]), 0), "k:\r\n  - x");
        assert_eq!(layout.entry("k", &json!({"a": [{"b": {"c": 1}}]}), 1), "k:\r\n     a:\r\n       - b:\r\n             c: 1");
    }

    #[test]
    fn values_in_flow_style() {
        let value = json!({"a": ["x", 1], "b": {}});
        assert_eq!(flow(&value, &Flow::Yaml), "{a: [x, 1], b: {}}");
        assert_eq!(flow(&value, &Flow::Json), "{\"a\": [\"x\", 1], \"b\": {}}");
        let lines = Flow::Lines { newline: "\n".into(), indent: "  ".into(), unit: "  ".into() };
        assert_eq!(entry("k", &value, &lines), "\"k\": {\n    \"a\": [\n      \"x\",\n      1\n    ],\n    \"b\": {}\n  }");
    }

    #[test]
    fn quotes_where_a_reader_may_take_it_for_something_else() {
        for text in ["abc", "registry.io:5000/a/b:v1.2@sha256:0a", "/mesh-init", "10m", "16Mi", "NET_ADMIN"] {
            assert_eq!(string(text), text);
        }
        for text in
            ["", "true", "No", "y", "null", "1", "1.5", "1e3", "12:30:00", "2024-01-01", "0x1f", "-a", "a: b", "a #b", "*x", "a:", "é"]
        {
            assert_eq!(string(text), quoted(text), "{text}");
        }
    }
}
