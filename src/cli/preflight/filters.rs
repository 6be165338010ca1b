//! What the packet filters could do with a plan, and what they hold.

use crate::cli::check::{Check, Verdict};
use crate::cli::failure::{Code, Failure};
use crate::cli::options::Common;
use crate::cli::session::{self, MeshOptions};
use crate::host::kernel_config::KernelConfig;
use crate::host::machine::Machine;
use crate::kernel::route::policy_routing_option;
use crate::kernel::{self, Answer, BackendName, Finding, Kernel, Means, Need, Presence, Survey, places};
use crate::mesh::Mesh;
use crate::ruleset::{Family, Routing};

/// The checks that are about the plan of `options`. `may_ask`: the capability to do so is there.
pub(super) fn of_plan(
    options: &MeshOptions,
    common: &Common,
    kernel: &mut Kernel,
    presence: &Presence,
    machine: &Machine,
    config: Option<&KernelConfig>,
    may_ask: bool,
) -> Result<Vec<Check>, Failure> {
    let plan = match session::plan(options, common, Some(&mut *kernel)) {
        Ok((plan, _)) => plan,
        Err(failure) if failure.code == Code::Usage => return Err(failure),
        Err(failure) => return Ok(vec![Check::failed("plan", Verdict::Blocker, failure)]),
    };
    let mut checks: Vec<Check> = super::machine::ids(&plan, machine).into_iter().collect();
    let mut wanted = session::wanted(plan);
    let routing = wanted.routing.clone();
    let means = Means { may_try: machine.may_try_rules(), config };
    let survey = match kernel.survey(&mut wanted, &presence.held, &means) {
        Ok(survey) => survey,
        Err(error) => return Ok(vec![Check::failed("ipv6", Verdict::Blocker, error)]),
    };
    checks.push(ipv6(&survey, &routing, machine));
    let families: Vec<Family> = survey.assigned.iter().map(|(family, _)| *family).collect();
    for (backend, answers) in &survey.filters {
        match answers {
            Ok(answers) => checks.extend(answers.iter().map(|answer| filter(*backend, answer, &survey))),
            Err(error) => checks.extend(families.iter().map(|family| unanswered(name(*backend, *family), error, may_ask))),
        }
    }
    for family in survey.no_policy_routing {
        checks.push(Check::new(
            "policy-routing",
            Verdict::Blocker,
            format!("the kernel has no policy routing for {family}, which TPROXY needs"),
            Some(format!("build the kernel with {}=y", policy_routing_option(family))),
        ));
    }
    Ok(checks)
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

/// What a packet filter says of a family's rules.
fn filter(backend: BackendName, answer: &Answer, survey: &Survey) -> Check {
    let name = name(backend, answer.family);
    let taken_by = survey.assigned(answer.family);
    let left_out = answer.family == Family::V6 && survey.left_out.is_some();
    match &answer.finding {
        Finding::Refuses(error) => {
            let evidence = error.to_string();
            match taken_by {
                Some(other) => Check::ok(name, format!("not needed, since {other} takes the rules: {evidence}")),
                None if left_out => Check::ok(name, format!("not needed, since IPv6 is left out: {evidence}")),
                None => Check::new(name, Verdict::Blocker, evidence, error.hint()),
            }
        }
        Finding::Takes(unasked) => {
            let known: Vec<String> = answer.needs.iter().filter(|need| !unasked.tables.contains(need)).map(Need::to_string).collect();
            let has = format!("it has {}", known.join(", "));
            let mut unknown: Vec<String> = unasked.tables.iter().map(Need::to_string).collect();
            if unasked.untried {
                unknown.push("whether it agrees to the rules".to_owned());
            }
            let whether =
                if unknown.is_empty() { String::new() } else { format!("; unknown without asking for it: {}", unknown.join(", ")) };
            let rules = answer.rules;
            match taken_by {
                Some(other) if other != backend => Check::ok(name, format!("not needed, since {other} takes the rules; {has}{whether}")),
                _ if unknown.is_empty() => Check::ok(name, format!("takes the {rules} rules; {has}")),
                _ => Check::new(name, Verdict::Warning, format!("may take the {rules} rules; {has}{whether}"), Some(TRY.to_owned())),
            }
        }
    }
}

/// Tables are only there once they are asked for.
const TRY: &str = "apply finds it out, and changes nothing if the kernel does not have it";

/// What a packet filter says to nobody, or not to us.
fn unanswered(name: &'static str, error: &kernel::Error, may_ask: bool) -> Check {
    if error.is_denied() && !may_ask {
        return Check::new(name, Verdict::Warning, format!("unknown, since CAP_NET_ADMIN is missing: {error}"), None);
    }
    Check::failed(name, Verdict::Blocker, Failure::of_kernel(error))
}

/// Whether there is IPv6 for what is planned.
fn ipv6(survey: &Survey, routing: &Routing, machine: &Machine) -> Check {
    const NAME: &str = "ipv6";
    if let Some(why) = survey.left_out {
        return Check::new(NAME, Verdict::Warning, format!("IPv6 is left out: {why}"), None);
    }
    if !survey.assigned.iter().any(|(family, _)| *family == Family::V6) {
        return Check::ok(NAME, "no IPv6 rules are planned");
    }
    let is_off = |device: &str| machine.text(&format!("sys/net/ipv6/conf/{device}/disable_ipv6")).is_ok_and(|text| text.trim() == "1");
    if is_off("lo") && routing.passthrough_v6 {
        return Check::new(
            NAME,
            Verdict::Blocker,
            "lo has IPv6 disabled, where the plan needs the address ::6",
            Some("set net.ipv6.conf.lo.disable_ipv6=0".to_owned()),
        );
    }
    Check::ok(NAME, if is_off("lo") { "the kernel has IPv6, and lo has it disabled" } else { "the kernel has IPv6, and so has lo" })
}

/// The rules that are there, and whose they are.
pub(super) fn present(presence: &Presence, plans: &[MeshOptions]) -> Check {
    const NAME: &str = "rules";
    let mut parts = Vec::new();
    let mut others = None;
    for mesh in Mesh::ALL {
        let forms = kernel::forms(&presence.held, mesh);
        if !forms.is_empty() {
            parts.push(places(mesh, &forms));
            if plans.iter().all(|options| options.mesh() != mesh) {
                others = Some(mesh);
            }
        }
    }
    for held in &presence.held {
        let ownerships = Mesh::ALL.map(|mesh| held.ownership(mesh, None));
        let mut foreign = 0;
        for table in &held.ruleset.tables {
            for chain in &table.chains {
                let is_foreign = |index: &usize| !ownerships.iter().any(|ownership| ownership.owns_rule(table.name, chain, *index));
                foreign += (0..chain.rules.len()).filter(is_foreign).count();
            }
        }
        if foreign > 0 {
            parts.push(format!("{foreign} foreign {} rules are in {}", held.ruleset.family, held.form.describe()));
        }
    }
    for table in presence.tables.iter().filter(|table| !table.is_a_meshs()) {
        parts.push(format!("the nf_tables table {} {} is somebody else's", table.family, table.name));
    }
    parts.extend(presence.unknown.iter().cloned());
    if parts.is_empty() {
        parts.push("none are there".to_owned());
    }
    let remedy = others.map(|mesh| format!("take them out with mesh-init remove {}, if the pod has left that mesh", mesh.as_str()));
    let verdict = if others.is_some() || !presence.unknown.is_empty() { Verdict::Warning } else { Verdict::Ok };
    Check::new(NAME, verdict, parts.join("; "), remedy)
}
