//! What goes to stdout.

use similar::TextDiff;

use super::arguments::Format;
use super::{Done, kustomize};
use crate::cli::failure::Failure;
use crate::manifest::{PatchedObject, patches};

/// How many lines a diff shows around a change.
const CONTEXT: usize = 3;

/// A byte order mark.
const MARK: char = '\u{feff}';

/// What was patched, in the form that was asked for.
pub(super) fn text(done: &[Done<'_>], format: Format) -> Result<String, Failure> {
    match format {
        Format::Yaml => Ok(manifests(done)),
        Format::JsonPatch => {
            let objects: Vec<&PatchedObject> = done.iter().flat_map(|done| &done.patched.objects).collect();
            Ok(patches::json_patches(&objects))
        }
        Format::Kustomize => kustomize::kustomization(done),
    }
}

/// The files one behind the other. Each byte is as it was in its file; what separates documents comes between files.
///
/// kubectl takes whatever begins with a brace for a stream of JSON and refuses `---` in it. So nothing but JSON stays such a
/// stream, and anything else that begins with a brace gets a `---` in front.
fn manifests(done: &[Done<'_>]) -> String {
    let mut all = String::new();
    // Whether there has been more than comments.
    let mut begun = false;
    let is_json = done.iter().all(|done| is_json(&done.patched.text));
    for text in done.iter().map(|done| done.patched.text.as_str()) {
        let text = text.strip_prefix(MARK).filter(|_| !all.is_empty()).unwrap_or(text);
        // Its own mark may stand behind comments.
        let first = text.trim_start_matches(MARK).lines().find(|line| !line.trim_start().is_empty() && !line.trim_start().starts_with('#'));
        if !all.is_empty() {
            if !all.ends_with('\n') {
                all.push('\n');
            }
            match first {
                _ if is_json => {}
                Some(first) if first.starts_with("---") => {}
                // Before a directive the document above has to be ended.
                Some(first) if first.starts_with('%') => all.push_str(if begun { "...\n" } else { "" }),
                _ => all.push_str("---\n"),
            }
        }
        begun |= first.is_some();
        all.push_str(text);
    }
    if done.len() > 1 && !is_json && all.trim_start().starts_with('{') {
        all.insert_str(0, "---\n");
    }
    all
}

/// Whether a file holds JSON objects and nothing else.
fn is_json(text: &str) -> bool {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Map<String, serde_json::Value>>();
    values.all(|value| value.is_ok())
}

/// A unified diff of every file that changes.
pub(super) fn diff(done: &[Done<'_>]) -> String {
    let mut all = String::new();
    for done in done.iter().filter(|done| done.patched.text != done.input.text) {
        let name = done.input.name.as_str();
        let diff = TextDiff::from_lines(done.input.text.as_str(), done.patched.text.as_str());
        all.push_str(&diff.unified_diff().context_radius(CONTEXT).header(name, name).to_string());
    }
    all
}
