//! What has to hold for any document.

use proptest::prelude::*;

use crate::program::{mesh_patch, patched};

/// Any text that can be a key or a value, as its YAML.
fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9_./-]{0,8}",
        "[0-9]{1,4}",
        Just("yes".to_owned()),
        Just("~".to_owned()),
        Just("''".to_owned()),
        "[ -~é🙂]{0,12}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        "[a-z ,:#é]{0,12}".prop_map(|text| format!("'{text}'")),
    ]
}

/// Lines of a block node, indented from their first to their last.
#[derive(Clone, Debug)]
enum Node {
    Scalar(String),
    Block(Vec<String>),
    Flow(String),
    Map(Vec<(String, Node)>),
    List(Vec<Node>),
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        scalar().prop_map(Node::Scalar),
        proptest::collection::vec("[a-z][ -~]{0,10}", 1..4).prop_map(Node::Block),
        proptest::collection::vec(scalar(), 0..4).prop_map(|items| Node::Flow(format!("[{}]", items.join(" , ")))),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(("[a-z]{1,6}", inner.clone()), 1..4).prop_map(Node::Map),
            proptest::collection::vec(inner, 1..4).prop_map(Node::List),
        ]
    })
}

impl Node {
    /// Writes what stands behind a colon or a dash.
    fn write(&self, indent: usize, noise: &str, text: &mut String) {
        let pad = " ".repeat(indent);
        match self {
            Node::Scalar(scalar) => text.push_str(&format!(" {scalar}  {noise}\n")),
            Node::Flow(flow) => text.push_str(&format!("   {flow}\n")),
            Node::Block(lines) => {
                text.push_str(" |-\n");
                lines.iter().for_each(|line| text.push_str(&format!("{pad}{line}\n")));
            }
            Node::Map(entries) => {
                text.push_str(&format!("  {noise}\n"));
                for (at, (key, value)) in entries.iter().enumerate() {
                    text.push_str(&format!("{pad}{key}{at}:"));
                    value.write(indent + 3, noise, text);
                }
            }
            Node::List(items) => {
                text.push('\n');
                for item in items {
                    text.push_str(&format!("{pad}-"));
                    item.write(indent + 2, noise, text);
                }
            }
        }
    }
}

/// An object of some kind, with any fields.
fn object() -> impl Strategy<Value = String> {
    let kind = prop_oneof![Just("Deployment"), Just("Pod"), Just("ConfigMap"), Just("Anything")];
    let noise = prop_oneof![Just(""), Just("# a: [comment"), Just("\t# 'x")];
    (kind, proptest::collection::vec(node(), 0..4), noise).prop_map(|(kind, fields, noise)| {
        let mut text = format!("apiVersion: apps/v1\nkind: {kind}\n");
        for (at, field) in fields.iter().enumerate() {
            text.push_str(&format!("field{at}:"));
            field.write(2, noise, &mut text);
        }
        text
    })
}

/// What ends a line.
fn newline() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("\n"), Just("\r\n"), Just("\r")]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn documents_without_a_mesh_come_out_byte_for_byte(documents in proptest::collection::vec(object(), 1..4), newline in newline()) {
        let text = documents.join("---\n").replace('\n', newline);
        let ran = mesh_patch(&["--runtime-class", "kata"], &text);
        prop_assert_eq!((ran.code, ran.stdout.as_str()), (0, text.as_str()), "{}", ran.stderr);
    }

    #[test]
    fn whatever_stands_beside_a_mesh_stays(extra in proptest::collection::vec(node(), 4), before in object(), noise in prop_oneof![Just(""), Just("# c")], newline in newline()) {
        let field = |key: &str, at: usize, indent: usize| {
            let mut text = format!("{}{key}:", " ".repeat(indent));
            extra[at].write(indent + 2, noise, &mut text);
            text
        };
        let text = [
            before,
            "---\napiVersion: v1\nkind: Pod\nspec:\n".to_owned(),
            field("affinity", 0, 2),
            "  initContainers:\n  - name: istio-init\n    args: [istio-iptables]\n".to_owned(),
            field("lifecycle", 1, 4),
            "    image: 'x'\n    securityContext:\n      privileged: true\n".to_owned(),
            field("seLinuxOptions", 2, 6),
            field("tolerations", 3, 2),
        ]
        .concat();
        let input = text.replace('\n', newline);
        let output = patched(&input, &["--runtime-class", "kata"]);
        prop_assert_eq!(output.replace(newline, "").find(['\r', '\n']), None, "{:?}", output);
        prop_assert_eq!(&patched(&output, &["--runtime-class", "kata"]), &output);
        let after = output.replace(newline, "\n");
        // Every line of before is there after, in the same order, but those two whose values change.
        let mut rest = after.lines();
        for line in text.lines().filter(|line| !["    image: 'x'", "      privileged: true"].contains(line)) {
            prop_assert!(rest.any(|other| other == line), "{}\nbecame\n{}\nlost: {}", text, after, line);
        }
    }

    #[test]
    fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "[ \\-\\[\\]{}a-c:#&*!|>'\"%@`,?\r\n\t]{0,80}") {
        for input in [bytes, text.into_bytes()] {
            let ran = mesh_patch::<&str>(&[], &input);
            prop_assert!(ran.code == 0 || ran.code == 1, "{:?}", ran);
            prop_assert!(ran.code == 1 || ran.stdout.as_bytes() == input, "{:?}", ran);
        }
    }
}
