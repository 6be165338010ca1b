//! What Istio's own tool leaves in nf_tables with `--native-nftables`, written from its behaviour as scripts for `nft`.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::Namespace;
use super::program::Program;
use super::routing::PolicyRoute;

/// A command line, and the rules that the original leaves for it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Native {
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    addresses: Vec<String>,
    resolv_conf: Option<String>,
    /// Lines for `nft -f`.
    script: Vec<String>,
    policy_routes: Vec<PolicyRoute>,
    lo_has_6: bool,
}

/// All of them, and those that were recorded from the original, where they are kept beside the project.
pub(crate) fn natives() -> Vec<Native> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("tests/fixtures/istio-native/native.json")).unwrap();
    let mut all: Vec<Native> = serde_json::from_str(&text).unwrap();
    match fs::read_to_string(root.join("../shared/examples/istio-native-nft.json")) {
        Ok(text) => all.extend(serde_json::from_str::<Vec<Value>>(&text).unwrap().iter().filter_map(recorded)),
        Err(_) => eprintln!("no recorded nft rules of Istio's own tool beside the project"),
    }
    all
}

fn recorded(example: &Value) -> Option<Native> {
    let texts = |value: &Value| -> Vec<String> { value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect() };
    // Environment variables are another fixture's affair.
    let plain = example["env"].as_object()?.is_empty();
    let args = texts(&example["args"]);
    let tproxy = args.iter().any(|arg| arg == "TPROXY");
    let lo_has_6 = texts(&example["addresses"]).iter().any(|address| address.contains(':'));
    let route = |family| PolicyRoute { family, mark: 1337, table: 133 };
    plain.then(|| Native {
        name: format!("recorded {}", example["name"]),
        args: args.into_iter().filter(|arg| arg != "--native-nftables").collect(),
        addresses: texts(&example["addresses"]),
        resolv_conf: example["resolv_conf"].as_str().map(str::to_owned),
        script: texts(&example["nft_list_ruleset"]),
        policy_routes: if tproxy { vec![route(4), route(6)] } else { Vec::new() },
        lo_has_6,
    })
}

impl Native {
    /// A pod as the original leaves it.
    pub(crate) fn pod(&self) -> Namespace {
        let pod = Namespace::pod(&self.addresses.iter().map(String::as_str).collect::<Vec<_>>());
        self.load(&pod);
        pod
    }

    /// Leaves in `pod` what the original leaves.
    pub(crate) fn load(&self, pod: &Namespace) {
        pod.nft_load(&self.script.iter().map(|line| format!("{line}\n")).collect::<String>());
        pod.give_routing(&self.policy_routes, self.lo_has_6);
    }

    /// A verb with the same arguments, in the pod's surroundings.
    pub(crate) fn program<'a>(&self, pod: &'a Namespace, verb: &str) -> Program<'a> {
        let words: Vec<&str> = [verb, "istio"].into_iter().chain(self.args.iter().map(String::as_str)).collect();
        let program = pod.mesh_init(&words).env("MESH_INIT_BACKEND", "auto");
        match &self.resolv_conf {
            Some(text) => program.with_file("/etc/resolv.conf", text),
            None => program,
        }
    }
}
