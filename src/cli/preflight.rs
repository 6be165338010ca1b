//! `mesh-init preflight`: whether the mesh's rules can be put here and will do their work, without anything being changed.

mod filters;
mod machine;
mod registry;

use clap::ArgMatches;
use serde::Serialize;

use self::registry::Registry;
use super::check::{Checks, Verdict};
use super::failure::{Code, Failure};
use super::help::PREFLIGHT_OPTIONS;
use super::options::Common;
use super::session::{self, Environment, MeshOptions};
use super::{flags, help};
use crate::host::kernel_config::KernelConfig;
use crate::host::machine::Machine;
use crate::host::{capability, termination_log};
use crate::kernel::Kernel;
use crate::mesh::flag::{BadValue, Given};
use crate::mesh::{self, Mesh};
use crate::ruleset::Ruleset;

#[derive(Debug, Serialize)]
struct Content<'a> {
    verb: &'static str,
    mesh: Option<&'static str>,
    verdict: Verdict,
    exit_code: u8,
    checks: &'a Checks,
}

/// The flags with which the meshes' injectors start their originals, as far as a plan needs any.
const USUAL: [&[(&str, &str)]; 2] = [
    &[("proxy-uid", "1337"), ("istio-inbound-ports", "*"), ("istio-service-cidr", "*"), ("istio-local-exclude-ports", "15090,15021,15020")],
    &[("incoming-proxy-port", "4143"), ("outgoing-proxy-port", "4140"), ("proxy-uid", "2102")],
];

pub(super) fn run(mesh: Option<Mesh>, matches: &ArgMatches, common: &Common, environment: Environment<'_>) -> Result<Code, Failure> {
    let given = flags::read(PREFLIGHT_OPTIONS, matches, environment);
    let bad = |error: BadValue| Failure::from(mesh::Error::from(error));
    let format = given.get("format");
    if !matches!(format.text.as_str(), "text" | "json") {
        return Err(bad(format.bad(&format.text, "is not a format (text or json)")));
    }
    let registry = given.get("registry").read(registry::parse).map_err(bad)?;
    let mut plans = Vec::new();
    match mesh {
        Some(mesh) => plans.push(MeshOptions::read(mesh, matches, environment)?),
        None => {
            for (mesh, usual) in Mesh::ALL.into_iter().zip(USUAL) {
                let said = usual.iter().map(|(long, text)| (*long, (*text).to_owned())).collect();
                plans.push(MeshOptions::new(mesh, &Given::new(help::mesh_flags(mesh), said, &|_| None))?);
            }
        }
    }
    session::enter_namespace(common)?;

    let checks = ask(&plans, registry.as_ref(), common)?;
    let verdict = checks.verdict();
    let code = if verdict == Verdict::Blocker { Code::CannotWork } else { Code::Done };
    let (mut text, mut is_first) = (String::new(), true);
    for check in &checks.list {
        let line = check.line();
        if check.verdict == Verdict::Blocker && std::mem::take(&mut is_first) {
            termination_log::write(&line);
        }
        text.push_str(&line);
        text.push('\n');
    }
    if format.text == "json" {
        let mesh = mesh.map(Mesh::as_str);
        text = super::json(&Content { verb: "preflight", mesh, verdict, exit_code: code as u8, checks: &checks })?;
    }
    super::print(&text)?;
    Ok(code)
}

/// Asks everything; what is about a plan for each of `plans`, whose mesh is named if there are several.
fn ask(plans: &[MeshOptions], registry: Option<&Registry>, common: &Common) -> Result<Checks, Failure> {
    let machine = Machine::default();
    let mut checks = Checks::default();
    machine::release(&mut checks, &machine, common.trusts_upstream_fixes);
    let missing = capability::raise_net_admin().err().map(Failure::from);
    match &missing {
        None => checks.ok(CAPABILITY, CAPABLE),
        Some(failure) => checks.failed(CAPABILITY, Verdict::Blocker, failure),
    }
    let name = |checks: &mut Checks, options: &MeshOptions| checks.mesh = Some(options.mesh().as_str()).filter(|_| plans.len() > 1);
    let first = plans.first().and_then(MeshOptions::preference);
    let mut kernel = session::kernel_as_permitted(common, common.choice(first)).map_err(|failure| silent(&mut checks, &failure)).ok();
    let presence = kernel.as_mut().map(Kernel::presence);
    let config = KernelConfig::read(&machine);
    let held = presence.as_ref().map(|presence| presence.held.as_slice()).unwrap_or_default();
    let facts = filters::Facts { machine: &machine, config: config.as_ref(), held, may_ask: missing.is_none() };
    let mut planned = Vec::new();
    for options in plans {
        name(&mut checks, options);
        if let Some(kernel) = &mut kernel {
            kernel.choose(common.choice(options.preference()));
        }
        planned.push(filters::of_plan(&mut checks, options, common, kernel.as_mut(), &facts)?);
        machine::sysctl(&mut checks, options);
    }
    kernel.into_iter().for_each(session::close_kernel);
    checks.mesh = None;
    if let Some(presence) = &presence {
        filters::present(&mut checks, presence, plans);
    }
    machine::gvisor(&mut checks, &machine);
    let kata = machine::kata(&machine, presence.and_then(|presence| presence.has_nftables));
    checks.ok("kata", kata.as_deref().unwrap_or("nothing shows that this is a Kata guest"));
    if registry.is_some() || kata.is_some() {
        let pulled = machine.image_was_pulled_in_guest();
        for (options, planned) in plans.iter().zip(&planned) {
            name(&mut checks, options);
            registry::check(&mut checks, options, planned.as_ref(), registry, pulled);
        }
    }
    Ok(checks)
}

/// Says that the kernel tells nothing of the network namespace.
fn silent(checks: &mut Checks, failure: &Failure) {
    let (evidence, hint) = failure.parts();
    let remedy = if hint.is_empty() { "run the pod on a kernel that has netlink, and with a seccomp profile that allows it" } else { hint };
    checks.add("netlink", Verdict::Blocker, evidence, remedy);
}

const CAPABILITY: &str = "capability";
const CAPABLE: &str = "CAP_NET_ADMIN is effective";

/// The questions that cost next to nothing, of a machine on which rules are about to be installed.
pub(super) fn of_machine(checks: &mut Checks, machine: &Machine, common: &Common, plan: &[Ruleset]) {
    machine::release(checks, machine, common.trusts_upstream_fixes);
    checks.ok(CAPABILITY, CAPABLE);
    machine::user_namespace(checks, plan, machine);
    machine::gvisor(checks, machine);
}

/// `failure` with what may have brought it about, where it does not tell itself. `is_rule_invalid`: the legacy packet filter
/// refused a rule and did not say why.
pub(super) fn explained(mut failure: Failure, is_rule_invalid: bool, machine: &Machine, plan: &[Ruleset], kernel: &mut Kernel) -> Failure {
    let is_lacking = matches!(failure.code, Code::NoFilter | Code::NoFeature);
    if !is_lacking && failure.code != Code::Failed {
        return failure;
    }
    if machine.is_gvisor() {
        return failure.because(Some(machine::GVISOR.to_owned()));
    }
    if is_lacking {
        return failure.because(machine::kata(machine, kernel.presence().has_nftables));
    }
    let Some((kind, id)) = machine::unmapped(plan, machine) else { return failure };
    if is_rule_invalid {
        failure.code = Code::UserNamespace;
    }
    failure.because(Some(format!("{kind} {id} of the plan is not mapped in this user namespace")))
}
