//! `mesh-init dump`: planned rules, or with `live` those that the kernel holds, as text.

use clap::ArgMatches;
use serde::Serialize;

use super::failure::{Code, Failure};
use super::flags;
use super::help::DUMP_OPTIONS;
use super::options::Common;
use super::session::{self, Environment, MeshOptions};
use crate::mesh::flag::{BadValue, Given};
use crate::mesh::{self, Mesh};
use crate::ruleset::print::iptables::{self, Style};
use crate::ruleset::print::json::RulesetView;
use crate::ruleset::routing::PASSTHROUGH_V6;
use crate::ruleset::{Family, Ownership, Routing, Ruleset};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Iptables,
    Json,
}

pub(super) fn run(mesh: Option<Mesh>, matches: &ArgMatches, common: &Common, environment: Environment<'_>) -> Result<Code, Failure> {
    let given = flags::read(DUMP_OPTIONS, matches, environment);
    let (format, families) = read(&given).map_err(mesh::Error::from)?;
    let options = mesh.map(|mesh| MeshOptions::read(mesh, matches, environment)).transpose()?;
    session::enter_namespace(common)?;
    let (mut rulesets, routing) = match options {
        Some(options) => {
            let (plan, _) = session::plan(&options, common, None)?;
            (plan.rulesets, Some(plan.routing))
        }
        None => {
            let mut kernel = session::open_kernel(common, common.choice(None))?;
            let held = session::live(&mut kernel)?;
            session::close_kernel(kernel);
            (held.into_iter().map(|held| held.ruleset).collect(), None)
        }
    };
    rulesets.retain(|ruleset| families.contains(&ruleset.family));
    let text = match format {
        Format::Iptables => text(&rulesets, Style { counters: mesh.is_none() }),
        Format::Json => json(mesh, &rulesets, routing.as_ref())?,
    };
    super::print(&text)?;
    Ok(Code::Done)
}

fn read(given: &Given<'_>) -> Result<(Format, &'static [Family]), BadValue> {
    let format = given.get("format").read(|text| match text {
        "iptables" => Ok(Format::Iptables),
        "json" => Ok(Format::Json),
        _ => Err("is not a format (iptables or json)".to_owned()),
    })?;
    let families: &'static [Family] = given.get("family").read(|text| match text {
        "4" => Ok(&[Family::V4][..]),
        "6" => Ok(&[Family::V6][..]),
        "all" => Ok(&Family::ALL[..]),
        _ => Err("is not a family (4, 6 or all)".to_owned()),
    })?;
    Ok((format, families))
}

/// All rule sets as iptables-restore text. A comment says which program a family's part is for.
pub(super) fn text(rulesets: &[Ruleset], style: Style) -> String {
    let mut text = String::new();
    for ruleset in rulesets.iter().filter(|ruleset| !ruleset.tables.is_empty()) {
        let program = match ruleset.family {
            Family::V4 => "iptables-restore",
            Family::V6 => "ip6tables-restore",
        };
        text.push_str(&format!("# {}: {program} --noflush\n", ruleset.family));
        text.push_str(&iptables::ruleset(ruleset, style));
    }
    text
}

#[derive(Serialize)]
struct Dump {
    /// `istio`, `linkerd`, or `live` for what a kernel holds.
    subject: &'static str,
    rulesets: Vec<RulesetView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing: Option<RoutingView>,
}

#[derive(Serialize)]
struct RoutingView {
    /// Addresses that have to be on `lo`.
    loopback_addresses: Vec<String>,
    policy: Vec<PolicyView>,
}

#[derive(Serialize)]
struct PolicyView {
    family: u8,
    mark: u32,
    table: u32,
}

fn json(mesh: Option<Mesh>, rulesets: &[Ruleset], routing: Option<&Routing>) -> Result<String, Failure> {
    let view = |ruleset: &Ruleset| {
        let owners = Mesh::ALL.map(|mesh| Ownership::of(mesh, ruleset, None));
        RulesetView::new(ruleset, if mesh.is_none() { &owners } else { &[] })
    };
    let dump = Dump {
        subject: mesh.map_or("live", Mesh::as_str),
        rulesets: rulesets.iter().map(view).collect(),
        routing: routing.map(|routing| RoutingView {
            loopback_addresses: routing.passthrough_v6.then(|| format!("{PASSTHROUGH_V6}/128")).into_iter().collect(),
            policy: routing
                .policy
                .iter()
                .map(|policy| PolicyView { family: policy.family.number(), mark: policy.mark, table: policy.table })
                .collect(),
        }),
    };
    let mut text = serde_json::to_string_pretty(&dump).map_err(|error| Failure::new(Code::Failed, error.to_string(), None))?;
    text.push('\n');
    Ok(text)
}
