//! `mesh-init verify`: what the kernel holds, compared with the plan.

use std::net::SocketAddr;

use clap::ArgMatches;
use tracing::warn;

use super::failure::{Code, Failure};
use super::flags;
use super::help::REPORT_OPTIONS;
use super::options::Common;
use super::probe::{self, Probing};
use super::report::Report;
use super::session::{self, Environment, MeshOptions};
use crate::host::connections::{Connection, connections};
use crate::host::termination_log;
use crate::kernel::Drift;
use crate::mesh::Mesh;
use crate::ruleset::walk::{Layers, loopback};
use crate::ruleset::{Hook, Ruleset};

pub(super) fn run(mesh: Mesh, matches: &ArgMatches, common: &Common, environment: Environment<'_>) -> Result<Code, Failure> {
    let to = flags::read(REPORT_OPTIONS, matches, environment).get("report").text;
    let mut report = Report::begin("verify", mesh, &to)?;
    let result = Probing::read(mesh, matches, common, environment).and_then(|probing| {
        let compared = compare(mesh, matches, common, environment, &mut report);
        match probing {
            Some(probing) => tried(probing, compared, common, &mut report),
            None => compared,
        }
    });
    report.write(result)
}

/// Tries what was compared.
fn tried(probing: Probing, compared: Result<Code, Failure>, common: &Common, report: &mut Report) -> Result<Code, Failure> {
    let code = match compared {
        // Trying needs no privilege, and says what it says without the comparison.
        Err(failure) if failure.code == Code::NoCapability => {
            warn!("the rules are not compared with the plan: {failure}");
            Code::Done
        }
        compared => compared?,
    };
    let tries = probing.run(common)?;
    probe::record(&tries, report.checks());
    if !report.is_printed() {
        super::print(&(probe::lines(&tries).join("\n") + "\n"))?;
    }
    let judged = probe::judge(&tries, common);
    // Rules that differ say more than traffic that therefore goes elsewhere.
    if code == Code::Done { judged.map(|()| code) } else { Ok(code) }
}

/// Compares and says what differs, in words unless the report takes their place.
fn compare(mesh: Mesh, matches: &ArgMatches, common: &Common, environment: Environment<'_>, report: &mut Report) -> Result<Code, Failure> {
    let options = MeshOptions::read(mesh, matches, environment)?;
    session::enter_namespace(common)?;
    let mut kernel = session::open_kernel(common, common.choice(options.preference()))?;
    let (plan, _) = session::plan(&options, common, Some(&mut kernel))?;
    let mut wanted = session::wanted(plan);
    let (mut drift, settled) = kernel.check(&mut wanted)?;
    session::close_kernel(kernel);
    match connections(&|one| one.listens) {
        Ok(found) => drift.extend(wanted.planned().flat_map(|plan| unheard(plan, &found)).map(Drift::Finding)),
        Err(error) => warn!("where the proxy listens is not known: {error}"),
    }

    session::announce(&settled);
    report.settled(&wanted, &settled);
    report.compared(&drift);
    let summary = session::summary(&wanted, &settled);
    let mut words = String::new();
    for difference in &drift {
        words.push_str(&format!("{difference}\n"));
    }
    let end = match drift.len() {
        0 => format!("in place: {summary}"),
        1 => format!("1 difference from the plan of {summary}"),
        many => format!("{many} differences from the plan of {summary}"),
    };
    if let Some(first) = drift.first() {
        // All that a pod tells of a check that failed. A failure that comes later takes its place.
        termination_log::write(&format!("{end}: {first}"));
    }
    words.push_str(&end);
    words.push('\n');
    if !report.is_printed() {
        super::print(&words)?;
    }
    Ok(if drift.is_empty() { Code::Done } else { Code::Differs })
}

/// Ports to which connections are redirected on their way out, which leads to loopback, while a proxy listens on them at
/// other addresses alone.
fn unheard(plan: &Ruleset, listeners: &[Connection]) -> Vec<String> {
    let loopback = loopback(plan.family);
    let unheard = |port: u16| {
        let mut there = listeners.iter().filter(|found| found.local.port() == port);
        let elsewhere = there.clone().find(|found| found.local.is_ipv4() == loopback.is_ipv4() && !found.hears(loopback))?.local;
        let text = || {
            let to = SocketAddr::new(loopback, port);
            let any = if loopback.is_ipv4() { "0.0.0.0" } else { "::" };
            format!("unheard: connections are redirected to {to}, and the proxy listens on {elsewhere} alone; let it listen on {any}")
        };
        (!there.any(|found| found.hears(loopback))).then(text)
    };
    Layers::of_plan(plan).redirects(Hook::Output).into_iter().filter_map(unheard).collect()
}
