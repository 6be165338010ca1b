//! Option vectors, and what each has to leave in the kernel. The rules in `tests/fixtures` were written from the
//! originals' behaviour, as text for `iptables-restore`; no code of this program had a hand in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::namespace::Namespace;
use super::program::{Outcome, Privilege, Program};
use super::routing::PolicyRoute;
use super::{Family, Saved};

/// One command line of an original tool in one pod, and its outcome.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Vector {
    pub(crate) name: String,
    /// What it is there for.
    pub(crate) why: String,
    /// Arguments after `istio-iptables`, or after the name of Linkerd's program.
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    /// On the pod's `eth0`.
    pub(crate) addresses: Vec<String>,
    /// The text of /etc/resolv.conf, /etc/group and /etc/passwd, where they matter.
    pub(crate) resolv_conf: Option<String>,
    pub(crate) groups: Option<String>,
    pub(crate) passwd: Option<String>,
    /// The user to run as, with no capabilities; otherwise user 0 with CAP_NET_ADMIN.
    pub(crate) user: Option<u32>,
    pub(crate) exit: i32,
    pub(crate) rules: Rules,
    pub(crate) policy_routes: Vec<PolicyRoute>,
    pub(crate) lo_has_6: bool,
    /// Whether only the drop-in takes such a command line.
    #[serde(default)]
    pub(crate) drop_in_only: bool,
    /// The file that it is from.
    #[serde(skip)]
    pub(crate) file: String,
    #[serde(skip)]
    pub(crate) mesh: &'static str,
}

/// Lines for `iptables-restore`, a list for each family.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Rules {
    v4: Vec<String>,
    v6: Vec<String>,
}

/// All vectors of a mesh.
pub(crate) fn vectors(mesh: &'static str) -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(mesh);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut all = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let list: Vec<Vector> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        all.extend(list.into_iter().map(|vector| Vector { file: file.clone(), mesh, ..vector }));
    }
    all
}

/// All vectors of both meshes.
pub(crate) fn all_vectors() -> Vec<Vector> {
    [vectors("istio"), vectors("linkerd")].concat()
}

/// The vector of that name.
pub(crate) fn vector(name: &str) -> Vector {
    all_vectors().into_iter().find(|vector| vector.name == name).unwrap()
}

impl Vector {
    /// The name for reports.
    pub(crate) fn title(&self) -> String {
        format!("{}/{} {} ({})\n   args {:?} env {:?}", self.mesh, self.file, self.name, self.why, self.args, self.env)
    }

    /// The expected rules as text for `iptables-restore`.
    pub(crate) fn text(&self, family: Family) -> String {
        let lines = match family {
            Family::V4 => &self.rules.v4,
            Family::V6 => &self.rules.v6,
        };
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Whether anything is expected in the kernel.
    pub(crate) fn installs(&self) -> bool {
        !self.rules.v4.is_empty()
    }

    /// Whether our own verbs install something when told the same.
    pub(crate) fn suits_verbs(&self) -> bool {
        self.installs() && !self.drop_in_only
    }

    /// A pod with the vector's addresses.
    pub(crate) fn pod(&self) -> Namespace {
        Namespace::pod(&self.addresses.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A namespace in which the real iptables has loaded the expected rules, and what it then prints.
    pub(crate) fn expected(&self) -> (Namespace, [Saved; 2]) {
        let namespace = Namespace::new();
        let saved = Family::BOTH.map(|family| {
            namespace.legacy_restore(family, &self.text(family));
            namespace.legacy_save(family)
        });
        (namespace, saved)
    }

    /// The program in the pod's surroundings: environment, files, user.
    pub(crate) fn program<'a>(&self, pod: &'a Namespace, args: &[&str]) -> Program<'a> {
        let words: Vec<&str> = args.iter().copied().chain(self.args.iter().map(String::as_str)).collect();
        let mut program = pod.mesh_init(&words);
        for (name, value) in &self.env {
            program = program.env(name, value);
        }
        if let Some(text) = &self.resolv_conf {
            program = program.with_file("/etc/resolv.conf", text);
        }
        if let Some(text) = &self.groups {
            program = program.with_file("/etc/group", text);
        }
        if let Some(text) = &self.passwd {
            program = program.with_file("/etc/passwd", text);
        }
        match self.user {
            Some(uid) => program.with(Privilege::None(uid)),
            None => program,
        }
    }

    /// Runs the drop-in as the pod would.
    pub(crate) fn drop_in(&self, pod: &Namespace) -> Outcome {
        match self.mesh {
            "istio" => self.program(pod, &["istio-iptables"]).run(),
            _ => self.program(pod, &[]).called("linkerd2-proxy-init").run(),
        }
    }

    /// Runs one of the program's own verbs.
    pub(crate) fn verb(&self, pod: &Namespace, verb: &str) -> Outcome {
        self.program(pod, &[verb, self.mesh]).run()
    }

    /// What is wrong with the rules, routes and addresses of a pod, in the words of a report.
    pub(crate) fn wrong_in(&self, pod: &Namespace, expected: &[Saved; 2]) -> Vec<String> {
        let mut problems = Vec::new();
        for (family, expected) in Family::BOTH.into_iter().zip(expected) {
            let differences = expected.differences(&pod.legacy_save(family));
            if !differences.is_empty() {
                problems.push(format!("{}: rules differ (- missing, + too much)\n{}", family.iptables(), differences.join("\n")));
            }
        }
        if pod.policy_routes() != self.policy_routes {
            problems.push(format!("policy routes {:?}, expected {:?}", pod.policy_routes(), self.policy_routes));
        }
        if pod.lo_has_6() != self.lo_has_6 {
            problems.push(format!("::6 on lo: {}, expected {}", pod.lo_has_6(), self.lo_has_6));
        }
        problems
    }
}

/// What an original tool was seen to leave: command line and outcome, with the rules as `iptables-save` prints them.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) name: String,
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    addresses: Vec<String>,
    #[serde(default)]
    resolv_conf: Option<String>,
    exit: i32,
    rules: Option<BTreeMap<String, BTreeMap<String, Vec<String>>>>,
    #[serde(default)]
    lo_has_6: bool,
}

impl Recorded {
    /// Whether it is the same command line in the same pod.
    pub(crate) fn is_like(&self, vector: &Vector) -> bool {
        (&self.args, &self.env, &self.addresses, &self.resolv_conf) == (&vector.args, &vector.env, &vector.addresses, &vector.resolv_conf)
    }

    /// As a vector without expected text: [`rules`](Self::rules) has what to compare with.
    pub(crate) fn as_vector(&self, mesh: &'static str) -> Vector {
        Vector {
            name: self.name.clone(),
            why: "recorded from the original".to_owned(),
            args: self.args.clone(),
            env: self.env.clone(),
            addresses: self.addresses.clone(),
            resolv_conf: self.resolv_conf.clone(),
            groups: None,
            passwd: None,
            user: None,
            exit: self.exit,
            rules: Rules { v4: Vec::new(), v6: Vec::new() },
            policy_routes: Vec::new(),
            lo_has_6: self.lo_has_6,
            drop_in_only: false,
            file: "recorded".to_owned(),
            mesh,
        }
    }

    /// `-A` lines by table, in the order of the chains' names, for one family.
    pub(crate) fn rules(&self, family: Family) -> BTreeMap<String, Vec<String>> {
        let name = if family == Family::V4 { "v4" } else { "v6" };
        let mut tables = self.rules.as_ref().and_then(|rules| rules.get(name)).cloned().unwrap_or_default();
        tables.retain(|_, rules| !rules.is_empty());
        for rules in tables.values_mut() {
            rules.sort_by_key(|rule| chain_of(rule));
        }
        tables
    }
}

/// The same view of what the kernel holds.
pub(crate) fn rules_by_table(saved: &Saved) -> BTreeMap<String, Vec<String>> {
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (table, chains) in &saved.tables {
        let mut rules: Vec<String> = chains.values().flat_map(|chain| chain.rules.clone()).collect();
        rules.sort_by_key(|rule| chain_of(rule));
        if !rules.is_empty() {
            tables.insert(table.clone(), rules);
        }
    }
    tables
}

fn chain_of(rule: &str) -> String {
    rule.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

/// Outcomes recorded from the originals, where they are kept beside the project; none elsewhere.
pub(crate) fn recorded(mesh: &str) -> Vec<Recorded> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/examples").join(format!("{mesh}.json"));
    let Ok(text) = fs::read_to_string(&path) else {
        eprintln!("no recorded outcomes of {mesh}'s own tool beside the project");
        return Vec::new();
    };
    serde_json::from_str(&text).unwrap()
}

/// Names that are used twice in one file: reports would not tell them apart.
pub(crate) fn repeated_names(vectors: &[Vector]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    vectors.iter().filter(|vector| !seen.insert((&vector.mesh, &vector.file, &vector.name))).map(Vector::title).collect()
}
