//! What the packet filters could do with a plan, and what they hold.

use crate::cli::check::{Checks, Verdict};
use crate::cli::failure::{Code, Failure};
use crate::cli::options::Common;
use crate::cli::session::{self, MeshOptions};
use crate::host::kernel_config::KernelConfig;
use crate::host::machine::Machine;
use crate::kernel::route::policy_routing_option;
use crate::kernel::{self, Answer, BackendName, Finding, Held, Kernel, Means, Presence, Survey, places};
use crate::mesh::Mesh;
use crate::ruleset::Family;

/// What is known when a plan is looked at.
pub(super) struct Facts<'a> {
    pub(super) machine: &'a Machine,
    pub(super) config: Option<&'a KernelConfig>,
    /// The rules that are there.
    pub(super) held: &'a [Held],
    /// Whether the capability to ask the kernel is there.
    pub(super) may_ask: bool,
}

/// Asks what is about the plan of `options`.
pub(super) fn of_plan(
    checks: &mut Checks,
    options: &MeshOptions,
    common: &Common,
    kernel: &mut Kernel,
    facts: &Facts<'_>,
) -> Result<(), Failure> {
    let machine = facts.machine;
    let mut wanted = match session::plan(options, common, Some(&mut *kernel)) {
        Ok((plan, _)) => session::wanted(plan),
        Err(failure) if failure.code == Code::Usage => return Err(failure),
        Err(failure) => {
            checks.failed("plan", Verdict::Blocker, &failure);
            return Ok(());
        }
    };
    super::machine::user_namespace(checks, &wanted.rulesets, machine);
    let needs_passthrough = wanted.routing.passthrough_v6;
    let means = Means { may_try: machine.may_try_rules(), config: facts.config };
    let survey = match kernel.survey(&mut wanted, facts.held, &means) {
        Ok(survey) => survey,
        Err(error) => {
            checks.failed(IPV6, Verdict::Blocker, &error.into());
            return Ok(());
        }
    };
    ipv6(checks, &survey, needs_passthrough, machine);
    for answer in &survey.answers {
        filter(checks, answer, &survey, facts.may_ask);
    }
    for (backend, error) in &survey.silent {
        for (family, _) in &survey.assigned {
            let name = name(*backend, *family);
            match error.is_denied() && !facts.may_ask {
                true => checks.add(name, Verdict::Warning, &format!("unknown, since CAP_NET_ADMIN is missing: {error}"), ""),
                false => checks.failed(name, Verdict::Blocker, &Failure::of_kernel(error)),
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
    Ok(())
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

/// What a packet filter says of a family's rules. What another one says of them is not known if it may not be asked.
fn filter(checks: &mut Checks, answer: &Answer, survey: &Survey, may_ask: bool) {
    let name = name(answer.backend, answer.family);
    let is_left_out = answer.family == Family::V6 && survey.left_out.is_some();
    // Why nothing depends on the answer, if so.
    let needless = match survey.taker(answer.family) {
        Some(taker) if taker != answer.backend => format!("; not needed, since {taker} takes the rules"),
        None if is_left_out => "; not needed, since IPv6 is left out".to_owned(),
        _ => String::new(),
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
    if !needless.is_empty() {
        (verdict, remedy) = (Verdict::Ok, String::new());
    }
    checks.add(name, verdict, &(evidence + &needless), &remedy);
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
    for held in &presence.held {
        let ownerships = Mesh::ALL.map(|mesh| held.ownership(mesh, None));
        let mut foreign = 0;
        for table in &held.ruleset.tables {
            for chain in &table.chains {
                for index in 0..chain.rules.len() {
                    foreign += usize::from(!ownerships.iter().any(|ownership| ownership.owns_rule(table.name, chain, index)));
                }
            }
        }
        if foreign > 0 {
            say(&format!("{foreign} foreign {} rules are in {}", held.ruleset.family, held.form.describe()));
        }
    }
    for table in presence.tables.iter().filter(|table| !table.is_a_meshs()) {
        say(&format!("the nf_tables table {} {} is somebody else's", table.family, table.name));
    }
    for unknown in &presence.unknown {
        say(unknown);
    }
    let verdict = if remedy.is_empty() && presence.unknown.is_empty() { Verdict::Ok } else { Verdict::Warning };
    checks.add("rules", verdict, if text.is_empty() { "none are there" } else { &text }, remedy);
}
