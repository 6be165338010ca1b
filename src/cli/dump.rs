//! `mesh-init dump`: planned rules, or with `live` those that the kernel holds, as text.

use clap::ArgMatches;
use serde::Serialize;

use super::failure::{Code, Failure};
use super::flags;
use super::help::DUMP_OPTIONS;
use super::options::Common;
use super::session::{self, Environment, MeshOptions};
use crate::kernel::{self, Form, Held, Live};
use crate::mesh::flag::{BadValue, Given};
use crate::mesh::{self, Mesh, Plan};
use crate::ruleset::native::native;
use crate::ruleset::print::iptables::{self, Style};
use crate::ruleset::print::json::{ForeignTableView, RulesetView};
use crate::ruleset::print::nft_tables;
use crate::ruleset::routing::PASSTHROUGH_V6;
use crate::ruleset::{Family, NftTable, Routing, Ruleset};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Iptables,
    Nft,
    Json,
}

pub(super) fn run(mesh: Option<Mesh>, matches: &ArgMatches, common: &Common, environment: Environment<'_>) -> Result<Code, Failure> {
    let given = flags::read(DUMP_OPTIONS, matches, environment);
    let (format, families) = read(&given).map_err(mesh::Error::from)?;
    let options = mesh.map(|mesh| MeshOptions::read(mesh, matches, environment)).transpose()?;
    session::enter_namespace(common)?;
    let text = match options {
        Some(options) => {
            let (mut plan, _) = session::plan(&options, common, None)?;
            plan.rulesets.retain(|ruleset| families.contains(&ruleset.family));
            planned(&plan, format, families)?
        }
        None => {
            let mut kernel = session::open_kernel(common, common.choice(None))?;
            let live = kernel.live()?;
            session::close_kernel(kernel);
            held(live, format, families)?
        }
    };
    super::print(&text)?;
    Ok(Code::Done)
}

fn read(given: &Given<'_>) -> Result<(Format, &'static [Family]), BadValue> {
    let format = given.get("format").read(|text| match text {
        "iptables" => Ok(Format::Iptables),
        "nft" => Ok(Format::Nft),
        "json" => Ok(Format::Json),
        _ => Err("is not a format (iptables, nft or json)".to_owned()),
    })?;
    let families: &'static [Family] = given.get("family").read(|text| match text {
        "4" => Ok(&[Family::V4][..]),
        "6" => Ok(&[Family::V6][..]),
        "all" => Ok(&Family::ALL[..]),
        _ => Err("is not a family (4, 6 or all)".to_owned()),
    })?;
    Ok((format, families))
}

/// A plan, in the form asked for.
fn planned(plan: &Plan, format: Format, families: &[Family]) -> Result<String, Failure> {
    match format {
        Format::Iptables => Ok(text(&plan.rulesets)),
        Format::Nft => {
            // What is not planned is taken out, as `apply` does.
            let of = |family: &Family| plan.rulesets.iter().find(|ruleset| ruleset.family == *family).map(native);
            let all: Vec<Ruleset> = families.iter().map(|family| of(family).unwrap_or_else(|| Ruleset::new(*family))).collect();
            Ok(nft_tables::script(&all))
        }
        Format::Json => super::json(&Dump {
            subject: plan.mesh.as_str(),
            backends: None,
            rulesets: plan.rulesets.iter().map(|ruleset| RulesetView::new(ruleset, &[])).collect(),
            foreign_tables: None,
            routing: Some(RoutingView::new(&plan.routing)),
        }),
    }
}

/// All rule sets as iptables-restore text. A comment says which program a family's part is for.
pub(super) fn text(rulesets: &[Ruleset]) -> String {
    let mut text = String::new();
    for ruleset in rulesets.iter().filter(|ruleset| !ruleset.tables.is_empty()) {
        text.push_str(&format!("# {}: {} --noflush\n", ruleset.family, restore_program(ruleset.family)));
        text.push_str(&iptables::ruleset(ruleset, Style::default()));
    }
    text
}

fn restore_program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    }
}

/// What the kernel holds, in the form asked for: what has no words in it is a comment.
fn held(live: Live, format: Format, families: &[Family]) -> Result<String, Failure> {
    let Live { mut held, mut tables } = live;
    held.retain(|held| families.contains(&held.ruleset.family));
    tables.retain(|table| match table.family {
        "ip" => families.contains(&Family::V4),
        "ip6" => families.contains(&Family::V6),
        _ => true,
    });
    let (ours, foreign): (Vec<NftTable>, Vec<NftTable>) = tables.into_iter().partition(NftTable::is_a_meshs);
    Ok(match format {
        Format::Iptables => {
            let mut text: String = held.iter().map(in_iptables_words).collect();
            if !foreign.is_empty() {
                text.push_str(&format!("# foreign nf_tables tables\n{}", commented(&nft_tables::listing(&foreign))));
            }
            text
        }
        Format::Nft => {
            let legacy = held.iter().filter(|held| held.form == Form::Legacy);
            let legacy: String = legacy.map(|held| commented(&in_iptables_words(held))).collect();
            format!("{legacy}{}{}", nft_tables::listing(&ours), nft_tables::listing(&foreign))
        }
        Format::Json => super::json(&Dump {
            subject: "live",
            backends: Some(Mesh::ALL.into_iter().filter_map(|mesh| BackendView::new(mesh, &held)).collect()),
            rulesets: held.iter().map(view).collect(),
            foreign_tables: Some(foreign.iter().map(ForeignTableView::new).collect()),
            routing: None,
        })?,
    })
}

fn in_iptables_words(held: &Held) -> String {
    let Held { form, ruleset, faults } = held;
    let mut text = format!("# {}, in {}", ruleset.family, form.describe());
    if matches!(form, Form::Legacy | Form::IptablesNft) {
        text.push_str(&format!(": {} --noflush", restore_program(ruleset.family)));
    }
    text.push('\n');
    for fault in faults {
        text.push_str(&format!("# {}\n", fault.text));
    }
    let owners = Mesh::ALL.map(|mesh| held.ownership(mesh, None));
    text.push_str(&iptables::ruleset(ruleset, Style { counters: true, owners: &owners }));
    text
}

fn commented(text: &str) -> String {
    text.lines().map(|line| if line.starts_with('#') { format!("{line}\n") } else { format!("# {line}\n") }).collect()
}

fn view(held: &Held) -> RulesetView {
    let faults = held.faults.iter().map(|fault| fault.text.clone()).collect();
    let owners = Mesh::ALL.map(|mesh| held.ownership(mesh, None));
    RulesetView::new(&held.ruleset, &owners).in_form(held.form.backend().as_str(), held.form.as_str(), faults)
}

#[derive(Serialize)]
struct Dump {
    /// `istio`, `linkerd`, or `live` for what a kernel holds.
    subject: &'static str,
    /// Where the meshes' rules are.
    #[serde(skip_serializing_if = "Option::is_none")]
    backends: Option<Vec<BackendView>>,
    rulesets: Vec<RulesetView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign_tables: Option<Vec<ForeignTableView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing: Option<RoutingView>,
}

/// Where a mesh's rules are: what the next `apply` goes by.
#[derive(Serialize)]
struct BackendView {
    mesh: &'static str,
    backend: &'static str,
    why: String,
}

impl BackendView {
    fn new(mesh: Mesh, held: &[Held]) -> Option<BackendView> {
        let forms = kernel::forms(held, mesh);
        let backend = kernel::stays_with(&forms)?;
        Some(BackendView { mesh: mesh.as_str(), backend: backend.as_str(), why: kernel::places(mesh, &forms) })
    }
}

#[derive(Serialize)]
struct RoutingView {
    /// Addresses that have to be on `lo`.
    loopback_addresses: Vec<String>,
    policy: Vec<PolicyView>,
}

impl RoutingView {
    fn new(routing: &Routing) -> RoutingView {
        let policy = routing.policy.iter();
        RoutingView {
            loopback_addresses: routing.passthrough_v6.then(|| format!("{PASSTHROUGH_V6}/128")).into_iter().collect(),
            policy: policy.map(|policy| PolicyView { family: policy.family.number(), mark: policy.mark, table: policy.table }).collect(),
        }
    }
}

#[derive(Serialize)]
struct PolicyView {
    family: u8,
    mark: u32,
    table: u32,
}
