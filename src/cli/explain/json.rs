//! Answers as JSON. Names and their meanings stay; new ones may be added.

use serde::Serialize;

use super::Asked;
use crate::cli::failure::Failure;
use crate::ruleset::walk::{Layer, Met, Outcome, Packet, Step, Walk};

#[derive(Serialize)]
struct Answers {
    /// `istio`, `linkerd`, or `live` for what a kernel holds.
    subject: &'static str,
    /// One for each packet that was given, in order; without any, one for each of the usual questions.
    packets: Vec<Answer>,
}

#[derive(Serialize)]
struct Answer {
    /// Of a usual question: who sends what where.
    #[serde(skip_serializing_if = "Option::is_none")]
    question: Option<String>,
    /// The packet in the words that `--packet` takes.
    packet: String,
    /// 4 or 6.
    family: u8,
    /// `redirected`, `tproxied`, `delivered`, `routed-to-lo`, `forwarded`, `dropped` or `depends`.
    outcome: &'static str,
    /// The port, if it is `redirected` or `tproxied`.
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// What `redirected` tells the program there of where the packet was going.
    #[serde(skip_serializing_if = "Option::is_none")]
    original_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_port: Option<u16>,
    /// The mark of `routed-to-lo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<u32>,
    /// What `depends` depends on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    depends_on: Vec<String>,
    /// The outcome in words.
    answer: String,
    /// What happened on the way, for packets that were given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<StepView>,
}

/// One thing that happened.
#[derive(Default, Serialize)]
struct StepView {
    /// `chain` (a base chain's turn), `skipped` (the turn of a nat chain after the connection's translation was decided),
    /// `rule`, `back` (to the chain that led here), `policy`, `to-lo`.
    step: &'static str,
    /// `legacy` or `nftables`: the packet filter of a `chain` or of one that was `skipped`, with `live`.
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<&'static str>,
    /// Its table; in nf_tables with the table's family.
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hook: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i32>,
    /// The chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<String>,
    /// A rule's place in its chain, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<usize>,
    /// The rule as the program prints it that writes such tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// `yes`, `no` or `unknown`: whether it matched. What is unknown was taken for no here.
    #[serde(skip_serializing_if = "Option::is_none")]
    matched: Option<&'static str>,
    /// The match that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
    /// What the packet is instead, or why nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
    /// `accept` or `drop`.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'static str>,
}

pub(super) fn answer(asked: &Asked<'_>) -> Result<String, Failure> {
    let mut packets: Vec<Answer> = asked.packets.iter().map(|packet| view(asked, None, packet)).collect();
    if packets.is_empty() {
        packets.extend(asked.usual().into_iter().map(|question| view(asked, Some(question.what), &question.packet)));
    }
    super::super::json(&Answers { subject: asked.subject, packets })
}

fn view(asked: &Asked<'_>, question: Option<String>, packet: &Packet) -> Answer {
    let (family, Walk { steps, outcome }) = asked.walk(packet);
    let is_live = asked.subject == "live";
    let mut answer = Answer {
        steps: if question.is_none() { steps.iter().map(|step| step_view(step, is_live)).collect() } else { Vec::new() },
        question,
        packet: packet.to_string(),
        family: family.number(),
        outcome: "",
        port: None,
        original_address: None,
        original_port: None,
        mark: None,
        depends_on: Vec::new(),
        answer: outcome.to_string(),
    };
    answer.outcome = match outcome {
        Outcome::Redirected { port, original: (address, original_port) } => {
            (answer.port, answer.original_port) = (Some(port), original_port);
            answer.original_address = address.map(|address| address.to_string());
            "redirected"
        }
        Outcome::Tproxied { port } => {
            answer.port = Some(port);
            "tproxied"
        }
        Outcome::Delivered => "delivered",
        Outcome::RoutedToLo { mark } => {
            answer.mark = Some(mark);
            "routed-to-lo"
        }
        Outcome::Forwarded => "forwarded",
        Outcome::Dropped => "dropped",
        Outcome::DependsOn(reasons) => {
            answer.depends_on = reasons;
            "depends"
        }
    };
    answer
}

fn step_view(step: &Step<'_>, is_live: bool) -> StepView {
    let place = |step, layer: &Layer<'_>| StepView {
        step,
        filter: is_live.then(|| layer.filter()),
        table: Some(layer.table()),
        hook: Some(layer.hook().chain()),
        priority: Some(layer.priority()),
        chain: Some(layer.chain().to_owned()),
        ..StepView::default()
    };
    match step {
        Step::Chain(layer) => place("chain", layer),
        Step::Skipped(layer) => place("skipped", layer),
        Step::Policy(layer) => {
            let policy = Some(if layer.drops() { "drop" } else { "accept" });
            StepView { step: "policy", chain: Some(layer.chain().to_owned()), policy, ..StepView::default() }
        }
        Step::Back(chain) => StepView { step: "back", chain: Some((*chain).to_owned()), ..StepView::default() },
        Step::ToLoopback => StepView { step: "to-lo", ..StepView::default() },
        Step::Rule(visit) => {
            let (matched, failed, because) = match &visit.met {
                Met::Yes => ("yes", None, None),
                Met::No(failed, is) => ("no", Some(visit.layer.match_text(visit.rule, failed)), Some(is.clone())),
                Met::Unknown { reason, .. } => ("unknown", None, Some(reason.clone())),
            };
            StepView {
                step: "rule",
                chain: Some(visit.chain.to_owned()),
                number: Some(visit.index + 1),
                rule: Some(visit.layer.text(visit.rule)),
                matched: Some(matched),
                failed,
                because,
                ..StepView::default()
            }
        }
    }
}
