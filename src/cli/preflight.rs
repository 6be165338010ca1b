//! `mesh-init preflight`: whether the mesh's rules can be put here and will do their work, without anything being changed.

mod filters;
mod machine;
mod registry;

use clap::ArgMatches;
use serde::Serialize;

use self::registry::Registry;
use super::check::{Check, Verdict, worst};
use super::failure::{Code, Failure};
use super::help::PREFLIGHT_OPTIONS;
use super::options::Common;
use super::session::{self, Environment, MeshOptions};
use super::{flags, help};
use crate::host::kernel_config::KernelConfig;
use crate::host::machine::Machine;
use crate::host::{capability, termination_log};
use crate::mesh::flag::{BadValue, Given};
use crate::mesh::{self, Mesh};

#[derive(Debug, Serialize)]
struct Content<'a> {
    verb: &'static str,
    mesh: Option<&'static str>,
    verdict: Verdict,
    exit_code: u8,
    checks: &'a [Check],
}

/// The flags with which the meshes' injectors start their originals, as far as a plan needs any.
const USUAL: [&[(&str, &str)]; 2] = [
    &[("proxy-uid", "1337"), ("istio-inbound-ports", "*"), ("istio-service-cidr", "*"), ("istio-local-exclude-ports", "15090,15021,15020")],
    &[("incoming-proxy-port", "4143"), ("outgoing-proxy-port", "4140"), ("proxy-uid", "2102")],
];

pub(super) fn run(mesh: Option<Mesh>, matches: &ArgMatches, common: &Common, environment: Environment<'_>) -> Result<Code, Failure> {
    let given = flags::read(PREFLIGHT_OPTIONS, matches, environment);
    let in_json = read(given.get("format").read(|text| match text {
        "text" => Ok(false),
        "json" => Ok(true),
        _ => Err("is not a format (text or json)".to_owned()),
    }))?;
    let registry = read(given.get("registry").read(registry::parse))?;
    let plans = match mesh {
        Some(mesh) => vec![MeshOptions::read(mesh, matches, environment)?],
        None => usual()?,
    };
    session::enter_namespace(common)?;

    let checks = checks(&plans, mesh.is_none(), registry.as_ref(), common)?;
    let verdict = worst(&checks);
    let code = if verdict == Verdict::Blocker { Code::CannotWork } else { Code::Done };
    if let Some(first) = checks.iter().find(|check| check.verdict == Verdict::Blocker) {
        termination_log::write(first.line().trim_end());
    }
    if in_json {
        let mesh = mesh.map(Mesh::as_str);
        super::print(&super::json(&Content { verb: "preflight", mesh, verdict, exit_code: code as u8, checks: &checks })?)?;
    } else {
        let lines: String = checks.iter().map(Check::line).collect();
        super::print(&lines)?;
    }
    Ok(code)
}

fn read<T>(value: Result<T, BadValue>) -> Result<T, Failure> {
    value.map_err(|error| mesh::Error::from(error).into())
}

/// What both meshes are usually told.
fn usual() -> Result<Vec<MeshOptions>, Failure> {
    let options = |(mesh, said): (Mesh, &[(&'static str, &str)])| {
        let said = said.iter().map(|(long, text)| (*long, (*text).to_owned())).collect();
        MeshOptions::new(mesh, &Given::new(help::mesh_flags(mesh), said, &|_| None))
    };
    Ok(Mesh::ALL.into_iter().zip(USUAL).map(options).collect::<Result<_, _>>()?)
}

/// Every check; those that are about a plan for each of `plans`, which are `named` in them if there are several.
fn checks(plans: &[MeshOptions], named: bool, registry: Option<&Registry>, common: &Common) -> Result<Vec<Check>, Failure> {
    let machine = Machine::default();
    let mut checks = vec![machine::release(&machine, common.trusts_upstream_fixes)];
    let missing = capability::raise_net_admin().err();
    let may_ask = missing.is_none();
    checks.push(match missing {
        None => Check::ok("capability", "CAP_NET_ADMIN is effective"),
        Some(error) => Check::failed("capability", Verdict::Blocker, error),
    });
    checks.extend(machine::foreign_namespace());
    let choices: Vec<_> = plans.iter().map(|options| common.choice(options.preference())).collect();
    let mut kernel = session::kernel_as_permitted(common, choices.first().copied().unwrap_or_default())?;
    let presence = kernel.presence();
    let config = KernelConfig::read(&machine);
    for (options, choice) in plans.iter().zip(choices) {
        kernel.choose(choice);
        let of_plan = filters::of_plan(options, common, &mut kernel, &presence, &machine, config.as_ref(), may_ask)?;
        let sysctl = machine::sysctl(options);
        let mesh = named.then_some(options.mesh().as_str());
        checks.extend(of_plan.into_iter().chain(sysctl).map(|check| Check { mesh, ..check }));
    }
    session::close_kernel(kernel);
    checks.push(filters::present(&presence, plans));
    checks.push(machine::gvisor(&machine));
    let kata_sign = machine.kata_sign();
    checks.push(machine::kata(&machine, kata_sign.as_deref(), presence.has_nftables));
    if registry.is_some() || kata_sign.is_some() {
        let pulled = machine.image_was_pulled_in_guest();
        for options in plans {
            let mesh = named.then_some(options.mesh().as_str());
            checks.push(Check { mesh, ..registry::check(options, registry, pulled) });
        }
    }
    Ok(checks)
}
