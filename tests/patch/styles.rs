//! The same pods in any style of YAML: another reader has to find the same changes in all of them.

use serde_json::{Value, json};

use crate::program::{Folder, judge, patched};

/// How many documents are written.
const DOCUMENTS: u64 = 400;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.below(sides) == 0
    }

    fn shuffled<T>(&mut self, mut items: Vec<T>) -> Vec<T> {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at as u64 + 1) as usize);
        }
        items
    }
}

/// A pod with a mesh, with some of its fields there and some not.
fn pod(dice: &mut Dice) -> Value {
    let mut init = match dice.below(4) {
        0 => json!({"name": "istio-init", "args": ["istio-iptables", "-p", "15001", "-i", "*", "-x", ""]}),
        1 => json!({"name": "istio-validation", "args": ["istio-iptables", "--run-validation", "--skip-rule-apply"]}),
        2 => {
            json!({"name": "linkerd-network-validator", "command": ["/usr/lib/linkerd/linkerd2-network-validator"], "args": ["--timeout", "10s"]})
        }
        _ => json!({"name": "linkerd-init", "args": ["--incoming-proxy-port", "4143", "--outgoing-proxy-port", "4140"],
            "volumeMounts": [{"name": "linkerd-proxy-init-xtables-lock", "mountPath": "/run"}]}),
    };
    let mut volumes = vec![json!({"name": "data", "emptyDir": {}})];
    if init.get("volumeMounts").is_some() {
        volumes.push(json!({"name": "linkerd-proxy-init-xtables-lock", "emptyDir": {}}));
        if dice.one_in(2) {
            init["volumeMounts"].as_array_mut().unwrap().push(json!({"name": "data", "mountPath": "/data"}));
        }
    }
    if !dice.one_in(4) {
        init["image"] = json!("docker.io/istio/proxyv2:1.27");
    }
    let mut context = json!({});
    for (key, value) in [
        ("privileged", json!(dice.one_in(2))),
        ("allowPrivilegeEscalation", json!(dice.one_in(2))),
        ("readOnlyRootFilesystem", json!(false)),
        ("runAsUser", json!(1337)),
        ("runAsNonRoot", json!(true)),
        ("seccompProfile", json!({"type": "Unconfined"})),
        ("capabilities", json!({"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]})),
        ("capabilities", json!({"add": ["NET_RAW"]})),
        ("capabilities", json!({"drop": ["MKNOD", "KILL"]})),
    ] {
        if dice.one_in(2) {
            context[key] = value;
        }
    }
    if !dice.one_in(5) {
        init["securityContext"] = context;
    }
    let other =
        json!({"name": "other", "image": "x", "command": ["sh", "-c", "a: b # c\nd"], "securityContext": {"privileged": dice.one_in(2)}});
    let inits = dice.shuffled(vec![init, other]);
    let spec = json!({"initContainers": inits, "containers": [{"name": "app", "args": ["#", "- x", "é🙂", "yes", "1"]}], "volumes": dice.shuffled(volumes)});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

/// Writes what stands behind a colon or dash whose line is indented by `indent`; in block style `fresh` if it may not begin there.
fn write(dice: &mut Dice, value: &Value, indent: usize, behind_dash: bool, text: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() && !dice.one_in(5) => {
            let mut inline = behind_dash && !dice.one_in(4);
            if !inline {
                end(dice, text);
            }
            let step = if inline { 0 } else { 1 + dice.below(3) as usize };
            for (key, value) in dice.shuffled(fields.iter().collect::<Vec<_>>()) {
                let quote = ["", "", "\"", "'"][dice.below(4) as usize];
                let pad = if inline { String::new() } else { noise(dice, indent + step, text) };
                text.push_str(&format!("{pad}{quote}{key}{quote}:"));
                // A list may stand no further than its key.
                write(dice, value, indent + step, false, text);
                inline = false;
            }
        }
        Value::Array(items) if !items.is_empty() && !dice.one_in(4) => {
            end(dice, text);
            let step = if behind_dash { 1 } else { dice.below(3) as usize };
            for item in items {
                let pad = noise(dice, indent + step, text);
                text.push_str(&format!("{pad}- "));
                write(dice, item, indent + step + 2, true, text);
            }
        }
        _ => {
            text.push(' ');
            flow(dice, value, text);
            end(dice, text);
        }
    }
}

/// The end of a line, with or without a comment.
fn end(dice: &mut Dice, text: &mut String) {
    text.push_str(["\n", "\n", "\n", "   # it's: [a comment\n", "  \n"][dice.below(5) as usize]);
}

/// Empty lines and comments before a line, and its indentation.
fn noise(dice: &mut Dice, indent: usize, text: &mut String) -> String {
    if dice.one_in(6) {
        text.push_str(&format!("{}# - above: {{\n\n", " ".repeat(dice.below(9) as usize)));
    }
    " ".repeat(indent)
}

fn flow(dice: &mut Dice, value: &Value, text: &mut String) {
    let gap = |dice: &mut Dice| ["", " ", "  "][dice.below(3) as usize];
    match value {
        Value::Object(fields) => {
            text.push('{');
            for (at, (key, value)) in dice.shuffled(fields.iter().collect::<Vec<_>>()).into_iter().enumerate() {
                text.push_str(if at > 0 { "," } else { "" });
                text.push_str(gap(dice));
                text.push_str(&format!("{key}: "));
                flow(dice, value, text);
            }
            text.push_str(gap(dice));
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                text.push_str(if at > 0 { "," } else { "" });
                text.push_str(gap(dice));
                flow(dice, item, text);
            }
            text.push_str(if !items.is_empty() && dice.one_in(5) { " ,]" } else { "]" });
        }
        Value::String(word) => {
            let bare = word.chars().all(|char| char.is_ascii_alphabetic() || "/_".contains(char)) && !["", "yes"].contains(&word.as_str());
            match dice.below(3) {
                0 if bare => text.push_str(word),
                1 if !word.contains('\n') => text.push_str(&format!("'{word}'")),
                _ => text.push_str(&value.to_string()),
            }
        }
        Value::Bool(truth) => text.push_str(match (truth, dice.below(3)) {
            (true, 0) => "yes",
            (true, _) => "true",
            (false, 0) => "Off",
            (false, _) => "false",
        }),
        other => text.push_str(&other.to_string()),
    }
}

#[test]
fn another_reader_finds_the_same_changes_in_any_style() {
    let mut dice = Dice(4143);
    let mut text = String::new();
    for _ in 0..DOCUMENTS {
        text.push_str("---");
        let pod = pod(&mut dice);
        write(&mut dice, &pod, 0, false, &mut text);
    }
    let folder = Folder::new();
    for (flags, options) in [(&["--runtime-class", "kata"][..], &["class=kata"][..]), (&["--keep-privileged", "other"], &["keep=other"])] {
        let after = patched(&text, flags);
        assert_eq!(patched(&after, flags), after);
        // What was there of lines that nobody means to change is there still.
        let comments = |text: &str| text.matches("# it's: [a comment").count() + text.matches("# - above: {").count();
        assert!(comments(&after) * 10 >= comments(&text) * 9, "{} of {}", comments(&after), comments(&text));
        let (before, after) = (folder.file("before.yaml", &text), folder.file("after.yaml", after));
        judge(&[&["same", before.to_str().unwrap(), after.to_str().unwrap()], options].concat());
    }
}
