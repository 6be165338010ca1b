//! Answers as text.

use std::fmt::Write as _;
use std::io::IsTerminal;

use super::Asked;
use crate::ruleset::Hook;
use crate::ruleset::walk::{Layer, Met, Outcome, Step, Visit, Walk};

/// The colours of a terminal, as the numbers that select them there.
#[derive(Clone, Copy)]
enum Colour {
    Green = 32,
    Yellow = 33,
    Red = 31,
    Faint = 2,
    Bold = 1,
}

/// What is coloured if it is on.
struct Paint(bool);

impl Paint {
    /// On for a terminal, unless <https://no-color.org> asks for none.
    fn new() -> Paint {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        Paint(std::io::stdout().is_terminal() && !is_set("NO_COLOR"))
    }

    fn text(&self, colour: Colour, text: &str) -> String {
        if self.0 { format!("\x1b[{}m{text}\x1b[0m", colour as u8) } else { text.to_owned() }
    }

    fn outcome(&self, outcome: &Outcome) -> String {
        let colour = match outcome {
            Outcome::Redirected { .. } | Outcome::Tproxied { .. } => Colour::Green,
            Outcome::Dropped => Colour::Red,
            Outcome::DependsOn(_) => Colour::Yellow,
            _ => Colour::Bold,
        };
        self.text(colour, &outcome.to_string())
    }
}

/// Each packet's way, or without packets a table of the usual questions.
pub(super) fn answer(asked: &Asked<'_>) -> String {
    let paint = Paint::new();
    let mut text = String::new();
    for packet in &asked.packets {
        if !text.is_empty() {
            text.push('\n');
        }
        let (family, walk) = asked.walk(packet);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} ({family}, {})", paint.text(Colour::Bold, &packet.to_string()), asked.place());
        write_way(&mut text, &walk, asked.subject != "live", &paint);
    }
    if asked.packets.is_empty() {
        write_table(&mut text, asked, &paint);
    }
    text
}

fn write_table(text: &mut String, asked: &Asked<'_>, paint: &Paint) {
    let lines: Vec<(String, String, String)> = asked
        .usual()
        .into_iter()
        .map(|question| (question.what, question.packet.to_string(), paint.outcome(&asked.walk(&question.packet).1.outcome)))
        .collect();
    let widest = |width: fn(&(String, String, String)) -> usize| lines.iter().map(width).max().unwrap_or_default();
    let (first, second) = (widest(|line| line.0.len()), widest(|line| line.1.len()));
    for (what, packet, outcome) in &lines {
        let _ = writeln!(text, "{what:first$}  {packet:second$}  {outcome}");
    }
}

fn write_way(text: &mut String, walk: &Walk<'_>, is_plan: bool, paint: &Paint) {
    // The chain whose rules are being told.
    let mut told = "";
    for step in &walk.steps {
        let _ = match step {
            Step::Chain(layer) => {
                told = layer.chain();
                writeln!(text, "{}", place(layer, is_plan))
            }
            Step::Skipped(layer) => {
                let why = if layer.hook() == Hook::Prerouting || layer.hook() == Hook::Output {
                    "not asked, the destination has been decided"
                } else {
                    "not asked, the source has been decided"
                };
                writeln!(text, "{}: {why}", place(layer, is_plan))
            }
            Step::Rule(visit) => {
                if told != visit.chain {
                    told = visit.chain;
                    let _ = writeln!(text, "  {told}");
                }
                write_rule(text, visit, paint)
            }
            Step::Back(_) => Ok(()),
            Step::Policy(layer) => {
                let verdict = if layer.drops() { "drop" } else { "accept" };
                writeln!(text, "       the policy of {} is to {verdict}", layer.chain())
            }
            Step::ToLoopback => writeln!(text, "it comes back by lo"),
        };
    }
    let _ = writeln!(text, "=> {}", paint.outcome(&walk.outcome));
}

fn write_rule(text: &mut String, visit: &Visit<'_>, paint: &Paint) -> std::fmt::Result {
    let (rule, number) = (visit.layer.text(visit.rule), visit.index + 1);
    match &visit.met {
        Met::Yes => writeln!(text, "  {number:>4} {} {rule}", paint.text(Colour::Green, "yes")),
        Met::No(failed, is) => {
            let line = format!("no  {rule}  [{}: {is}]", visit.layer.match_text(visit.rule, failed));
            writeln!(text, "  {number:>4} {}", paint.text(Colour::Faint, &line))
        }
        Met::Unknown { reason, .. } => writeln!(text, "  {number:>4} {} {rule}  [{reason}]", paint.text(Colour::Yellow, "?  ")),
    }
}

/// Where a base chain stands.
fn place(layer: &Layer<'_>, is_plan: bool) -> String {
    let (table, chain) = (layer.table(), layer.chain());
    if is_plan {
        return format!("{chain} of {table}");
    }
    // Chains of nf_tables may be called anything.
    let hook = Some(layer.hook().chain()).filter(|hook| *hook != chain).map(|hook| format!("{hook}, ")).unwrap_or_default();
    format!("{chain} of {table} ({hook}{}, priority {})", layer.filter(), layer.priority())
}

impl Asked<'_> {
    fn place(&self) -> String {
        if self.subject == "live" { "as the kernel holds the rules".to_owned() } else { format!("as planned for {}", self.subject) }
    }
}
