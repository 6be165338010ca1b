//! The command of a mesh's init container: what it would run in mesh-init's image, and whether mesh-init takes its arguments.
//!
//! The image has one program, under the names by which the meshes' own templates call theirs. Older templates rely on the entry
//! point of an image of their own, or call the program by a name that is not there; those are put right.

use std::collections::HashMap;

use super::draft::{Draft, Fault};
use super::error::Cause;
use super::init::Role;
use super::path::Path;
use super::settings::{Accepts, Original};
use crate::mesh::Mesh;

/// The program under its own name, and under the names of the originals.
const OWN: &str = "/mesh-init";
const VALIDATOR: &str = "/usr/lib/linkerd/linkerd2-network-validator";
const IN_IMAGE: [&str; 5] =
    [OWN, "/usr/local/bin/pilot-agent", "/usr/lib/linkerd/linkerd2-proxy-init", VALIDATOR, "/usr/local/bin/proxy-init"];

/// The command of Istio's agent that installs the rules.
const ISTIO_COMMAND: &str = "istio-iptables";

const WHY_COMMAND: &str = "the image has this program under another name";
const WHY_ISTIO: &str = "says which of the originals is stood in for";

/// Sees to it that the container at `path` runs what it ran before.
pub(super) fn keep_working(draft: &mut Draft, path: &Path, role: Role, accepts: Accepts) -> Result<(), Fault> {
    let (at_command, at_args) = (path.key("command"), path.key("args"));
    let command = draft.texts(&at_command)?;
    let args = draft.texts(&at_args)?;
    // A container that is there for the injector to fill in, as an overlay of its image is.
    if command.is_empty() && args.is_empty() {
        return Ok(());
    }
    let program = command.first().map(|program| program.rsplit('/').next().unwrap_or_default());
    // What the program is given, and where that is written.
    let rest: Vec<String> = command.iter().skip(1).chain(&args).cloned().collect();
    let at_rest = if command.len() > 1 { &at_command } else { &at_args };
    let foreign = |at: &Path| {
        let words: Vec<&str> = command.iter().chain(&args).map(String::as_str).collect();
        let text = format!("{:?} is not what the mesh's template runs here, and the image has no other program", words.join(" "));
        Err(Fault::new(at, Cause::Command(text)))
    };
    let flags = match (role, program) {
        (Role::IstioInit | Role::IstioValidation, None | Some("pilot-agent")) => match rest.first().map(String::as_str) {
            Some(ISTIO_COMMAND) => rest[1..].to_vec(),
            // Images of Istio before 1.4 run the script of that name.
            Some(first) if first.starts_with('-') && program.is_none() => {
                prepend(draft, path, "args", &args, ISTIO_COMMAND, WHY_ISTIO)?;
                rest
            }
            Some(_) | None => return foreign(at_rest),
        },
        (Role::IstioInit | Role::IstioValidation, Some(ISTIO_COMMAND)) => {
            let mut words = command.clone();
            words.splice(0..1, [OWN.to_owned(), ISTIO_COMMAND.to_owned()]);
            draft.set(path, "command", words, WHY_COMMAND)?;
            rest
        }
        (Role::LinkerdInit, None | Some("linkerd2-proxy-init" | "proxy-init")) => {
            if program.is_none() && rest.first().is_some_and(|first| !first.starts_with('-')) {
                return foreign(&at_args);
            }
            rest
        }
        (Role::LinkerdValidator, None) => {
            draft.set(path, "command", vec![VALIDATOR.to_owned()], WHY_COMMAND)?;
            rest
        }
        (Role::LinkerdValidator, Some("linkerd2-network-validator")) => rest,
        (_, Some("mesh-init")) => return name_in_image(draft, path, &command),
        _ => return foreign(if command.is_empty() { &at_args } else { &at_command }),
    };
    if program.is_some_and(|program| program != ISTIO_COMMAND) {
        name_in_image(draft, path, &command)?;
    }
    let original = match role {
        Role::IstioInit | Role::IstioValidation => Original::Installer(Mesh::Istio),
        Role::LinkerdInit => Original::Installer(Mesh::Linkerd),
        Role::LinkerdValidator => Original::Validator,
    };
    let environment = environment(draft, path)?;
    // What comes from elsewhere in the cluster cannot be looked at.
    let Some(flags) = flags.iter().map(|flag| expand(flag, &environment)).collect::<Option<Vec<_>>>() else { return Ok(()) };
    accepts(original, &flags, &|name| environment.get(name).cloned().flatten()).map_err(|why| {
        Fault::new(
            if flags.is_empty() { path } else { at_rest },
            Cause::Command(format!("mesh-init would not take these arguments: {why}")),
        )
    })
}

/// Calls the program by the name that the image has for it.
fn name_in_image(draft: &mut Draft, path: &Path, command: &[String]) -> Result<(), Fault> {
    let Some(program) = command.first() else { return Ok(()) };
    let name = program.rsplit('/').next().unwrap_or_default();
    // Names without a folder are looked for in /usr/local/bin among others.
    let found = |in_image: &&str| *in_image == program || (name == program && in_image.strip_prefix("/usr/local/bin/") == Some(name));
    let known = IN_IMAGE.iter().find(|in_image| in_image.rsplit('/').next() == Some(name));
    match known {
        Some(in_image) if !IN_IMAGE.iter().any(found) => {
            let mut words = command.to_vec();
            words[0] = (*in_image).to_owned();
            draft.set(path, "command", words, WHY_COMMAND)
        }
        _ => Ok(()),
    }
}

fn prepend(draft: &mut Draft, path: &Path, key: &str, words: &[String], word: &str, why: &'static str) -> Result<(), Fault> {
    let words: Vec<String> = std::iter::once(word.to_owned()).chain(words.iter().cloned()).collect();
    draft.set(path, key, words, why)
}

/// The container's variables; nothing for a value that comes from elsewhere.
fn environment(draft: &Draft, path: &Path) -> Result<HashMap<String, Option<String>>, Fault> {
    let at = path.key("env");
    let mut environment = HashMap::new();
    for index in 0..draft.list(&at)?.len() {
        let at = at.index(index);
        let Some(name) = draft.text(&at.key("name"))? else { continue };
        let value = match draft.get(&at.key("valueFrom")) {
            Some(_) => None,
            None => Some(draft.text(&at.key("value"))?.unwrap_or_default().to_owned()),
        };
        environment.insert(name.to_owned(), value);
    }
    Ok(environment)
}

/// `text` with `$(NAME)` replaced as Kubernetes does it, unless a value is not known.
fn expand(text: &str, environment: &HashMap<String, Option<String>>) -> Option<String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            expanded.push('$');
            rest = after;
            continue;
        }
        let name = rest.strip_prefix("$(").and_then(|inside| inside.split_once(')'));
        match name.map(|(name, after)| (environment.get(name), after)) {
            Some((Some(value), after)) => {
                expanded.push_str(value.as_deref()?);
                rest = after;
            }
            // A name that nobody has stays as it is.
            _ => {
                expanded.push('$');
                rest = &rest[1..];
            }
        }
    }
    expanded.push_str(rest);
    Some(expanded)
}

/// The flag among a container's words that changes a kernel setting, and where it is.
pub(super) fn close_wait_timeout(draft: &Draft, path: &Path) -> Result<Option<Path>, Fault> {
    const FLAG: &str = "--timeout-close-wait-secs";
    for key in ["command", "args"] {
        let at = path.key(key);
        let words = draft.texts(&at)?;
        for (index, word) in words.iter().enumerate() {
            let value = match word.strip_prefix(FLAG) {
                Some("") => words.get(index + 1).map_or("", String::as_str),
                Some(value) => value.trim_start_matches('='),
                None => continue,
            };
            if value != "0" {
                return Ok(Some(at.index(index)));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn kept(role: Role, container: Value) -> Result<Value, String> {
        let mut draft = Draft::new(json!({"c": container}));
        let accepts: Accepts = |_, flags, environment| match flags.iter().find(|flag| flag.contains("bad")) {
            Some(flag) => Err(format!("{flag} {:?}", environment("A"))),
            None => Ok(()),
        };
        keep_working(&mut draft, &Path::of(&["c"]), role, accepts).map_err(|fault| format!("{}: {}", fault.path, fault.cause))?;
        Ok(draft.into_value()["c"].clone())
    }

    #[test]
    fn todays_templates_stay_as_they_are() {
        for (role, container) in [
            (Role::IstioInit, json!({"args": ["istio-iptables", "-p", "15001"]})),
            (Role::IstioInit, json!({"command": ["pilot-agent"], "args": ["istio-iptables"]})),
            (Role::IstioValidation, json!({"command": ["/usr/local/bin/pilot-agent", "istio-iptables", "-n"]})),
            (Role::LinkerdInit, json!({"command": ["/usr/lib/linkerd/linkerd2-proxy-init"], "args": ["-p", "4143"]})),
            (Role::LinkerdInit, json!({"args": ["--ipv6=false"]})),
            (Role::LinkerdValidator, json!({"command": ["/usr/lib/linkerd/linkerd2-network-validator"], "args": ["--timeout", "10s"]})),
            (Role::IstioInit, json!({"command": ["/mesh-init", "apply", "istio"]})),
            // The injector has yet to fill in the rest.
            (Role::IstioInit, json!({"name": "istio-init"})),
            (Role::LinkerdInit, json!({"args": []})),
        ] {
            assert_eq!(kept(role, container.clone()).unwrap(), container);
        }
    }

    #[test]
    fn older_ones_are_put_right() {
        for (role, before, after) in [
            (Role::IstioInit, json!({"args": ["-p", "15001"]}), json!({"args": ["istio-iptables", "-p", "15001"]})),
            (Role::IstioInit, json!({"command": ["istio-iptables", "-p"]}), json!({"command": ["/mesh-init", "istio-iptables", "-p"]})),
            (
                Role::IstioInit,
                json!({"command": ["/usr/local/bin/istio-iptables"], "args": ["-p"]}),
                json!({"command": ["/mesh-init", "istio-iptables"], "args": ["-p"]}),
            ),
            (Role::LinkerdInit, json!({"command": ["/bin/proxy-init"]}), json!({"command": ["/usr/local/bin/proxy-init"]})),
            (Role::LinkerdInit, json!({"command": ["linkerd2-proxy-init"]}), json!({"command": ["/usr/lib/linkerd/linkerd2-proxy-init"]})),
            (Role::LinkerdValidator, json!({"args": ["--timeout"]}), json!({"args": ["--timeout"], "command": [VALIDATOR]})),
        ] {
            assert_eq!(kept(role, before).unwrap(), after);
        }
    }

    #[test]
    fn what_the_image_cannot_run_is_refused() {
        for (role, container, at) in [
            (Role::IstioInit, json!({"args": ["my", "custom args"]}), "c.args: "),
            (Role::IstioInit, json!({"command": ["pilot-agent"]}), "c.args: "),
            (Role::IstioInit, json!({"command": ["/bin/sh", "-c", "x"]}), "c.command: "),
            (Role::LinkerdInit, json!({"args": ["wait"]}), "c.args: "),
            (
                Role::IstioInit,
                json!({"args": ["istio-iptables", "$(A)bad"], "env": [{"name": "A", "value": "x"}]}),
                "c.args: mesh-init would not take these arguments: xbad Some(\"x\")",
            ),
            (Role::IstioInit, json!({"args": ["istio-iptables", 15001]}), "c.args[1]: a number where a text has to be"),
        ] {
            let error = kept(role, container).unwrap_err();
            assert!(error.starts_with(at), "{error}");
        }
        let elsewhere = json!({"args": ["istio-iptables", "$(A)bad"], "env": [{"name": "A", "valueFrom": {}}]});
        assert_eq!(kept(Role::IstioInit, elsewhere.clone()).unwrap(), elsewhere);
    }

    #[test]
    fn variables_are_expanded_as_kubernetes_does_it() {
        let environment = HashMap::from([("A".to_owned(), Some("1".to_owned())), ("B".to_owned(), None)]);
        assert_eq!(expand("$(A)-$$(A)-$(C)-$x$", &environment).unwrap(), "1-$(A)-$(C)-$x$");
        assert_eq!(expand("$(B)", &environment), None);
    }
}
