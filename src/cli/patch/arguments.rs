//! What mesh-patch can be told.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::accepted::accepts;
use crate::cli::failure::Failure;
use crate::cli::flags;
use crate::manifest::{DEFAULT_IMAGE, Kata, Resources, Settings};

/// What mesh-patch was told.
#[derive(Debug)]
pub(super) struct Arguments {
    /// Files and folders; `-` for stdin.
    pub(super) files: Vec<PathBuf>,
    pub(super) settings: Settings,
    pub(super) mode: Mode,
}

/// What is to be done with what was patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Write it to stdout.
    Print(Format),
    /// Write the differences to stdout.
    Diff,
    /// Say whether anything would change, with the differences if `diff`.
    Check { diff: bool },
    /// Write it where it came from.
    InPlace,
}

/// The form of what is written to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// The manifests.
    Yaml,
    /// RFC 6902.
    JsonPatch,
    /// A kustomization with patches.
    Kustomize,
}

/// The help of --output.
const OUTPUT: &str = "yaml, json-patch (RFC 6902: of one object the patch, of several a JSON array of {\"target\": {apiVersion, kind, \
                      namespace, name}, \"patch\": [...]}) or kustomize (a kustomization.yaml for the current folder) [default: yaml]";

/// The command line as clap knows it.
pub(super) fn command() -> Command {
    let value = |name: &'static str, value: &'static str, help: String| Arg::new(name).long(name).value_name(value).help(help);
    let switch = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new("mesh-patch")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Patches injected Kubernetes manifests: mesh-init in the place of istio-init and linkerd-init, NET_ADMIN alone, ready for Kata Containers")
        .after_help(
            "Patched manifests go to stdout, what was changed and why to stderr. Nothing is written if any manifest is wrong.\n\
             Exit codes: 0 done, 1 a manifest cannot be patched, 2 usage, 3 --check found something.",
        )
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .num_args(0..)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Manifests, YAML or JSON: files, folders (the *.yaml, *.yml and *.json in them), or - for stdin [default: -]"),
        )
        .arg(value("image", "IMAGE", format!("The image with mesh-init [default: {DEFAULT_IMAGE}]")))
        .arg(switch("non-root", "Leave the init container to a user other than root, where the image's file capability counts (not in Kata guests)"))
        .arg(value(
            "resources",
            "LIST",
            "The init container's requests and limits: cpu=10m,memory=16Mi for both, requests.cpu=1m,limits.memory=16Mi for one".to_owned(),
        ))
        .arg(value("keep-privileged", "NAME", "Leave the container of this name privileged; may be repeated".to_owned()).action(ArgAction::Append))
        .arg(value("runtime-class", "NAME", "Run the pods in Kata Containers by this runtime class, such as kata-qemu".to_owned()))
        .arg(
            value("untrusted", "RUNTIME", "Run the pods in Kata Containers by the annotation of old: cri-o or containerd".to_owned())
                .conflicts_with("runtime-class"),
        )
        .arg(switch("check", "Write nothing but a list of what would change; exit code 3 if anything would, or a pod has yet to be injected"))
        .arg(switch("diff", "Write a unified diff instead of the manifests"))
        .arg(value("output", "FORMAT", OUTPUT.to_owned()))
        .arg(switch("in-place", "Change the files themselves"))
}

impl Arguments {
    pub(super) fn new(matches: &ArgMatches) -> Result<Arguments, Failure> {
        let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
        let all = |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned().collect::<Vec<_>>();
        let bad = |flag: &str, value: &str, allowed: &str| Failure::usage(format!("--{flag}: {value:?} is not {allowed}"));
        let image = text("image").unwrap_or(DEFAULT_IMAGE);
        if image.is_empty() || image.starts_with('-') || image.contains(|char: char| char.is_whitespace() || char.is_control()) {
            return Err(bad("image", image, "the name of an image"));
        }
        let resources =
            text("resources").map(Resources::parse).transpose().map_err(|error| Failure::usage(format!("--resources: {error}")))?;
        let kata = match (text("runtime-class"), text("untrusted")) {
            (Some(name), _) if !is_name(name) => return Err(bad("runtime-class", name, "the name of a runtime class")),
            (Some(name), _) => Some(Kata::RuntimeClass(name.to_owned())),
            (None, Some("cri-o")) => Some(Kata::CriO),
            (None, Some("containerd")) => Some(Kata::Containerd),
            (None, Some(other)) => return Err(bad("untrusted", other, "cri-o or containerd")),
            (None, None) => None,
        };
        let non_root = matches.get_flag("non-root");
        if let Some(kata) = kata.as_ref().filter(|_| non_root) {
            return Err(Failure::usage(format!(
                "--non-root does not go with {kata}: the image's file capability does not reach a Kata guest"
            )));
        }
        let settings = Settings { image: image.to_owned(), non_root, resources, keep_privileged: all("keep-privileged"), kata, accepts };
        let mut files: Vec<PathBuf> = matches.get_many::<PathBuf>("files").into_iter().flatten().cloned().collect();
        if files.is_empty() {
            files.push(PathBuf::from("-"));
        }
        Ok(Arguments { files, settings, mode: mode(matches)? })
    }
}

fn mode(matches: &ArgMatches) -> Result<Mode, Failure> {
    let output = matches.get_one::<String>("output").map(String::as_str);
    let format = match output {
        None | Some("yaml") => Format::Yaml,
        Some("json-patch") => Format::JsonPatch,
        Some("kustomize") => Format::Kustomize,
        Some(other) => return Err(Failure::usage(format!("--output: {other:?} is not yaml, json-patch or kustomize"))),
    };
    let (check, diff, in_place) = (matches.get_flag("check"), matches.get_flag("diff"), matches.get_flag("in-place"));
    let clash = |one: &str, other: &str| Err(Failure::usage(format!("{one} does not go with {other}")));
    match (check, diff, in_place) {
        (true, _, true) => clash("--in-place", "--check"),
        (_, true, true) => clash("--in-place", "--diff"),
        _ if format != Format::Yaml && (check || diff || in_place) => {
            let other = if check {
                "--check"
            } else if diff {
                "--diff"
            } else {
                "--in-place"
            };
            clash(&format!("--output {}", output.unwrap_or_default()), other)
        }
        (true, diff, false) => Ok(Mode::Check { diff }),
        (false, true, false) => Ok(Mode::Diff),
        (false, false, true) => Ok(Mode::InPlace),
        (false, false, false) => Ok(Mode::Print(format)),
    }
}

/// Whether Kubernetes takes it for an object's name: lower case letters, digits, `-` and `.`.
fn is_name(text: &str) -> bool {
    let within = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'));
    let edge = |char: char| char.is_ascii_alphanumeric();
    within && text.len() <= 253 && text.starts_with(edge) && text.ends_with(edge)
}

/// A command line that cannot be read, in one line.
pub(super) fn one_line(error: &clap::Error) -> String {
    flags::one_line(error, &[], &[])
}
