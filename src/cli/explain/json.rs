//! Answers as JSON. Names and their meanings stay; new ones may be added.
//!
//! ```json
//! { "subject": "live", "packets": [ { … } ] }
//! ```
//!
//! `subject` is `istio`, `linkerd`, or `live` for what a kernel holds. `packets` has one answer for each packet that was given,
//! in order; without any, one for each of the usual questions. Of an answer:
//!
//! | member | what it is |
//! |---|---|
//! | `question` | of a usual question: who sends what where |
//! | `packet` | the packet in the words that `--packet` takes |
//! | `family` | 4 or 6 |
//! | `outcome` | `redirected`, `tproxied`, `delivered`, `routed-to-lo`, `forwarded`, `dropped` or `depends` |
//! | `port` | the port, if it is `redirected` or `tproxied` |
//! | `original_address`, `original_port` | what `redirected` tells the program there of where the packet was going |
//! | `mark` | the mark of `routed-to-lo`, 0 if the device lo was given instead |
//! | `depends_on` | what `depends` depends on |
//! | `answer` | the outcome in words |
//! | `steps` | what happened on the way, for packets that were given |
//!
//! Of a step:
//!
//! | member | what it is |
//! |---|---|
//! | `step` | `chain` (a base chain's turn), `skipped` (that of a nat chain once the connection's translation was decided), `rule`, `back` (to the chain that led here), `policy`, `to-lo` |
//! | `chain` | the chain |
//! | `table`, `hook`, `priority` | where a `chain`, or one that was `skipped`, stands; in nf_tables the table with its family |
//! | `filter` | its packet filter with `live`: `legacy` or `nftables` |
//! | `number`, `rule` | a rule's place in its chain, from 1, and the rule as the program prints it that writes such tables |
//! | `matched` | `yes`, `no` or `unknown`; what is unknown was taken for no here |
//! | `failed` | the match that failed |
//! | `because` | what the packet is instead, or why nothing is known |
//! | `policy` | `accept` or `drop` |

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::Asked;
use crate::cli::failure::Failure;
use crate::ruleset::walk::{Layer, Met, Outcome, Packet, Step, Walk};

/// A value.
enum Field {
    Text(String),
    Number(i64),
    Texts(Vec<String>),
    Objects(Vec<Object>),
}

/// An object's members in order. There are many kinds of objects here and few of any: one type for all is the least code.
#[derive(Default)]
struct Object(Vec<(&'static str, Field)>);

impl Object {
    fn add(&mut self, name: &'static str, value: Field) {
        self.0.push((name, value));
    }

    fn text(&mut self, name: &'static str, text: impl Into<String>) {
        self.add(name, Field::Text(text.into()));
    }

    fn number(&mut self, name: &'static str, number: impl Into<i64>) {
        self.add(name, Field::Number(number.into()));
    }
}

impl Serialize for Field {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Field::Text(text) => serializer.serialize_str(text),
            Field::Number(number) => serializer.serialize_i64(*number),
            Field::Texts(texts) => texts.serialize(serializer),
            Field::Objects(objects) => objects.serialize(serializer),
        }
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

pub(super) fn answer(asked: &Asked<'_>) -> Result<String, Failure> {
    let mut packets: Vec<Object> = asked.packets.iter().map(|packet| view(asked, None, packet)).collect();
    if packets.is_empty() {
        packets.extend(asked.usual().into_iter().map(|question| view(asked, Some(question.what), &question.packet)));
    }
    let mut answers = Object::default();
    answers.text("subject", asked.subject);
    answers.add("packets", Field::Objects(packets));
    crate::cli::json(&answers)
}

fn view(asked: &Asked<'_>, question: Option<String>, packet: &Packet) -> Object {
    let (family, Walk { steps, outcome, .. }) = asked.walk(packet);
    let mut answer = Object::default();
    let is_given = question.is_none();
    if let Some(question) = question {
        answer.text("question", question);
    }
    answer.text("packet", packet.to_string());
    answer.number("family", family.number());
    answer.text("outcome", name(&outcome));
    answer.text("answer", outcome.to_string());
    match outcome {
        Outcome::Redirected { port, original: (address, original) } => {
            answer.number("port", port);
            if let Some(address) = address {
                answer.text("original_address", address.to_string());
            }
            if let Some(port) = original {
                answer.number("original_port", port);
            }
        }
        Outcome::Tproxied { port } => answer.number("port", port),
        Outcome::RoutedToLo { mark } => answer.number("mark", mark),
        Outcome::DependsOn(reasons) => answer.add("depends_on", Field::Texts(reasons)),
        _ => {}
    }
    if is_given {
        answer.add("steps", Field::Objects(steps.iter().map(|step| step_view(step, asked.subject == "live")).collect()));
    }
    answer
}

fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Redirected { .. } => "redirected",
        Outcome::Tproxied { .. } => "tproxied",
        Outcome::Delivered => "delivered",
        Outcome::RoutedToLo { .. } => "routed-to-lo",
        Outcome::Forwarded => "forwarded",
        Outcome::Dropped => "dropped",
        Outcome::DependsOn(_) => "depends",
    }
}

fn step_view(step: &Step<'_>, is_live: bool) -> Object {
    let mut view = Object::default();
    let mut begin = |kind: &str, chain: &str| {
        view.text("step", kind);
        if !chain.is_empty() {
            view.text("chain", chain);
        }
    };
    match step {
        Step::Chain(layer) => begin("chain", layer.chain()),
        Step::Skipped(layer) => begin("skipped", layer.chain()),
        Step::Policy(layer) => begin("policy", layer.chain()),
        Step::Back(chain) => begin("back", chain),
        Step::ToLoopback => begin("to-lo", ""),
        Step::Rule(visit) => begin("rule", visit.chain),
    }
    match step {
        Step::Chain(layer) | Step::Skipped(layer) => write_place(&mut view, layer, is_live),
        Step::Policy(layer) => view.text("policy", if layer.drops() { "drop" } else { "accept" }),
        Step::Rule(visit) => {
            // No chain has so many rules that this fails.
            view.number("number", i64::try_from(visit.index + 1).unwrap_or(i64::MAX));
            view.text("rule", visit.layer.text(visit.rule));
            let (matched, because) = match &visit.met {
                Met::Yes => ("yes", None),
                Met::No(failed, is) => {
                    view.text("failed", visit.layer.match_text(visit.rule, failed));
                    ("no", Some(is))
                }
                Met::Unknown { reason, .. } => ("unknown", Some(reason)),
            };
            view.text("matched", matched);
            if let Some(because) = because {
                view.text("because", because.as_str());
            }
        }
        _ => {}
    }
    view
}

fn write_place(view: &mut Object, layer: &Layer<'_>, is_live: bool) {
    if is_live {
        view.text("filter", layer.filter());
    }
    view.text("table", layer.table());
    view.text("hook", layer.hook().chain().to_ascii_lowercase());
    view.number("priority", layer.priority());
}
