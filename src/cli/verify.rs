//! `mesh-init verify`: what the kernel holds, compared with the plan.

use clap::ArgMatches;
use tracing::warn;

use super::failure::{Code, Failure};
use super::flags;
use super::help::REPORT_OPTIONS;
use super::options::Common;
use super::probe::{self, Probing};
use super::report::Report;
use super::session::{self, Environment, MeshOptions};
use crate::mesh::Mesh;

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
    let (drift, settled) = kernel.check(&mut wanted)?;
    session::close_kernel(kernel);

    session::announce(&settled);
    report.settled(&wanted, &settled);
    report.compared(&drift);
    let summary = session::summary(&wanted, &settled);
    let mut words = String::new();
    for difference in &drift {
        words.push_str(&format!("{difference}\n"));
    }
    match drift.len() {
        0 => words.push_str(&format!("in place: {summary}\n")),
        1 => words.push_str(&format!("1 difference from the plan of {summary}\n")),
        many => words.push_str(&format!("{many} differences from the plan of {summary}\n")),
    }
    if !report.is_printed() {
        super::print(&words)?;
    }
    Ok(if drift.is_empty() { Code::Done } else { Code::Differs })
}
