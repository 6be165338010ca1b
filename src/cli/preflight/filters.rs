//! What the packet filters could do with a plan, and what they hold.

use crate::cli::check::{Checks, Verdict};
use crate::cli::failure::{Code, Failure};
use crate::cli::options::Common;
use crate::cli::session::{self, MeshOptions};
use crate::host::kernel_config::KernelConfig;
use crate::host::machine::Machine;
use crate::kernel::route::policy_routing_option;
use crate::kernel::{self, Answer, BackendName, Finding, Form, Held, Kernel, Means, Presence, Survey, Wanted, places};
use crate::mesh::Mesh;
use crate::ruleset::walk::Pod;
use crate::ruleset::{Family, NftTable, Ruleset};

/// What is known when a plan is looked at.
pub(super) struct Facts<'a> {
    pub(super) machine: &'a Machine,
    pub(super) config: Option<&'a KernelConfig>,
    /// The rules that are there.
    pub(super) held: &'a [Held],
    /// Whether the capability to ask the kernel is there.
    pub(super) may_ask: bool,
}

/// What is planned, as far as the kernel has room for it, and for which pod.
pub(super) struct Planned {
    pub(super) rulesets: Vec<Ruleset>,
    pub(super) pod: Pod,
}

/// Asks what is about the plan of `options`, which is the answer where there is one: without a `kernel`, only the command
/// line can tell the local addresses.
pub(super) fn of_plan(
    checks: &mut Checks,
    options: &MeshOptions,
    common: &Common,
    mut kernel: Option<&mut Kernel>,
    facts: &Facts<'_>,
) -> Result<Option<Planned>, Failure> {
    if kernel.is_none() && common.pod_ips.is_none() {
        return Ok(None);
    }
    let machine = facts.machine;
    let (mut wanted, pod) = match session::planned(options, common, kernel.as_deref_mut()) {
        Ok((plan, surroundings)) => {
            for warning in &plan.warnings {
                checks.add("plan", Verdict::Warning, warning, "");
            }
            let pod = Pod::new(surroundings.addresses, &plan.routing);
            (session::wanted(plan), pod)
        }
        Err(failure) if failure.code == Code::Usage => return Err(failure),
        Err(failure) => {
            checks.failed("plan", Verdict::Blocker, &failure);
            return Ok(None);
        }
    };
    super::machine::user_namespace(checks, &wanted.rulesets, machine);
    if let Some(kernel) = kernel {
        ask(checks, &mut wanted, kernel, facts);
    }
    Ok(Some(Planned { rulesets: wanted.rulesets, pod }))
}

/// Asks the kernel what it could do with what is wanted.
fn ask(checks: &mut Checks, wanted: &mut Wanted, kernel: &mut Kernel, facts: &Facts<'_>) {
    let machine = facts.machine;
    let needs_passthrough = wanted.routing.passthrough_v6;
    let means = Means { may_try: machine.may_try_rules(), config: facts.config };
    let survey = match kernel.survey(wanted, facts.held, &means) {
        Ok(survey) => survey,
        Err(error) => return checks.failed(IPV6, Verdict::Blocker, &error.into()),
    };
    ipv6(checks, &survey, needs_passthrough, machine);
    for answer in &survey.answers {
        filter(checks, answer, &survey, facts.may_ask);
    }
    for (backend, error) in &survey.silent {
        for (family, _) in &survey.assigned {
            let name = name(*backend, *family);
            if let Some(taker) = survey.taker_before(*backend, *family) {
                checks.ok(name, &format!("{error}; {}", needless(taker)));
            } else if error.is_denied() && !facts.may_ask {
                checks.add(name, Verdict::Warning, &format!("unknown, since CAP_NET_ADMIN is missing: {error}"), "");
            } else {
                checks.failed(name, Verdict::Blocker, &Failure::of_kernel(error));
            }
        }
    }
    for family in survey.no_policy_routing {
        checks.add(
            "policy-routing",
            Verdict::Blocker,
            &format!("the kernel has no policy routing for {family}, which TPROXY needs"),
            &format!("build the kernel with {}=y", policy_routing_option(family)),
        );
    }
}

fn name(backend: BackendName, family: Family) -> &'static str {
    match (backend, family) {
        (BackendName::Nftables, Family::V4) => "nftables-ipv4",
        (BackendName::Nftables, Family::V6) => "nftables-ipv6",
        (BackendName::Legacy, Family::V4) => "legacy-ipv4",
        (BackendName::Legacy, Family::V6) => "legacy-ipv6",
        (BackendName::Iptables, Family::V4) => "iptables-ipv4",
        (BackendName::Iptables, Family::V6) => "iptables-ipv6",
    }
}

/// Why nothing depends on another packet filter than `taker`.
fn needless(taker: BackendName) -> String {
    format!("not needed, since {taker} takes the rules")
}

/// What a packet filter says of a family's rules. What another one says of them is not known if it may not be asked.
fn filter(checks: &mut Checks, answer: &Answer, survey: &Survey, may_ask: bool) {
    let name = name(answer.backend, answer.family);
    let is_left_out = answer.family == Family::V6 && survey.left_out.is_some();
    // Why nothing depends on the answer, if so.
    let needless = match survey.taker(answer.family) {
        Some(taker) if taker != answer.backend => Some(needless(taker)),
        None if is_left_out => Some("not needed, since IPv6 is left out".to_owned()),
        _ => None,
    };
    let (mut verdict, mut remedy) = (Verdict::Ok, String::new());
    let evidence = match &answer.finding {
        Finding::Refuses(error) => {
            verdict = if may_ask { Verdict::Blocker } else { Verdict::Warning };
            remedy = error.hint().unwrap_or_default();
            error.to_string()
        }
        Finding::Takes(unasked) => {
            let (mut has, mut unknown) = (String::new(), String::new());
            for need in &answer.needs {
                let (list, word) = if unasked.tables.contains(need) { (&mut unknown, UNKNOWN) } else { (&mut has, "; has ") };
                list.push_str(if list.is_empty() { word } else { ", " });
                list.push_str(&need.to_string());
            }
            if unasked.untried {
                unknown.push_str("; unknown whether it agrees to the rules");
            }
            if !unknown.is_empty() {
                verdict = Verdict::Warning;
                "apply finds it out, and changes nothing if the kernel does not have it".clone_into(&mut remedy);
            }
            let takes = if unknown.is_empty() { "takes" } else { "may take" };
            let text = format!("{takes} the {} rules{has}{unknown}", answer.rules);
            text
        }
    };
    let Some(needless) = needless else { return checks.add(name, verdict, &evidence, &remedy) };
    // What is not known of it is no question then.
    let is_unknown = matches!(answer.finding, Finding::Takes(_)) && verdict != Verdict::Ok;
    checks.ok(name, &if is_unknown { needless } else { evidence + "; " + &needless });
}

/// Tables are only there once they are asked for.
const UNKNOWN: &str = "; unknown without asking for it: ";

const IPV6: &str = "ipv6";

/// Whether there is IPv6 for what is planned.
fn ipv6(checks: &mut Checks, survey: &Survey, needs_passthrough: bool, machine: &Machine) {
    if let Some(why) = survey.left_out {
        return checks.add(IPV6, Verdict::Warning, &format!("IPv6 is left out: {why}"), "");
    }
    if !survey.assigned.iter().any(|(family, _)| *family == Family::V6) {
        return checks.ok(IPV6, "no IPv6 rules are planned");
    }
    let is_off = machine.text("sys/net/ipv6/conf/lo/disable_ipv6").is_ok_and(|text| text.starts_with('1'));
    match (is_off, needs_passthrough) {
        (false, _) => checks.ok(IPV6, "the kernel has IPv6, and so has lo"),
        (true, false) => checks.ok(IPV6, "the kernel has IPv6; lo has it disabled, which matters to nothing that is planned"),
        (true, true) => checks.add(
            IPV6,
            Verdict::Blocker,
            "lo has IPv6 disabled, where the plan needs the address ::6",
            "set net.ipv6.conf.lo.disable_ipv6=0",
        ),
    }
}

/// The rules that are there, and whose they are.
pub(super) fn present(checks: &mut Checks, presence: &Presence, plans: &[MeshOptions]) {
    let mut text = String::new();
    let mut say = |part: &str| {
        text.push_str(if text.is_empty() { "" } else { "; " });
        text.push_str(part);
    };
    let mut remedy = "";
    for mesh in Mesh::ALL {
        let forms = kernel::forms(&presence.held, mesh);
        if !forms.is_empty() {
            say(&places(mesh, &forms));
            if plans.iter().all(|options| options.mesh() != mesh) {
                remedy = match mesh {
                    Mesh::Istio => "if the pod has left that mesh, take them out: mesh-init remove istio",
                    Mesh::Linkerd => "if the pod has left that mesh, take them out: mesh-init remove linkerd",
                };
            }
        }
    }
    // Tables of iptables-nft whose foreign rules are told.
    let mut told = Vec::new();
    for held in &presence.held {
        let ownerships = Mesh::ALL.map(|mesh| held.ownership(mesh, None));
        let mut foreign = 0;
        for table in &held.ruleset.tables {
            let before = foreign;
            for chain in &table.chains {
                for index in 0..chain.rules.len() {
                    foreign += usize::from(!ownerships.iter().any(|ownership| ownership.owns_rule(table.name, chain, index)));
                }
            }
            if foreign > before && held.form == Form::IptablesNft {
                told.push((if held.ruleset.family == Family::V4 { "ip" } else { "ip6" }, table.name.as_str()));
            }
        }
        if foreign > 0 {
            let are = if foreign == 1 { "rule is" } else { "rules are" };
            say(&format!("{foreign} foreign {} {are} in {}", held.ruleset.family, held.form.describe()));
        }
    }
    let is_told = |table: &NftTable| table.is_a_meshs() || told.contains(&(table.family, table.name.as_str()));
    for table in presence.tables.iter().filter(|table| !is_told(table)) {
        say(&format!("the nf_tables table {} {} is somebody else's", table.family, table.name));
    }
    for unknown in &presence.unknown {
        say(unknown);
    }
    let verdict = if remedy.is_empty() && presence.unknown.is_empty() { Verdict::Ok } else { Verdict::Warning };
    checks.add("rules", verdict, if text.is_empty() { "none are there" } else { &text }, remedy);
}
