//! One packet on its way through the rules: which it meets, whether they match and why not, and what becomes of it.
//!
//! The way is the kernel's. A packet that is sent passes OUTPUT and POSTROUTING; if it goes to the pod itself (its
//! destination is the pod's, or a rule made it so) it comes back by lo, through PREROUTING and INPUT. One that is received
//! passes PREROUTING, then INPUT, or FORWARD and POSTROUTING. At each hook the tables of both packet filters have their
//! turns by priority, and one accepting verdict ends one table's chain, a drop the packet.
//!
//! - Chains of nat are asked for the first packet of a connection, and only until one has an answer. All of a hook have
//!   their turn together, whatever their priorities. What OUTPUT decided, redirected or not, is not asked again in
//!   PREROUTING.
//! - A mark that is changed in mangle's OUTPUT, or a destination that is changed, makes the kernel look for a route again.
//!   The tables behind in OUTPUT go on seeing the device that was found first.
//! - A packet that comes back by lo keeps mark, connection and route, and has no socket.
//!
//! Rules that cannot be evaluated are tried both ways. If that makes a difference, the outcome depends on them, which is
//! said; nothing is guessed.

mod condition;
mod layer;
mod packet;
mod questions;

pub use self::layer::{Layer, Layers};
pub use self::packet::{APPLICATION, Packet, Pod, Way, loopback};
pub use self::questions::{AIMED, Question, aimed, elsewhere, questions, unnamed};

use std::cell::Cell;
use std::fmt;
use std::net::IpAddr;

use self::condition::{Device, Effect, Facts, Truth};
use self::layer::CONNECTION_TRACKING;
use super::{Family, Hook, Match, Mesh, Ownership, Rule, StateSet, Target};

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Sent to another port of the pod; the program there is told where it was going.
    Redirected {
        /// The port.
        port: u16,
        /// Where it was going.
        original: (Option<IpAddr>, Option<u16>),
    },
    /// Handed to the transparent socket of that port, whatever its destination.
    Tproxied {
        /// The port.
        port: u16,
    },
    /// Goes where it was going.
    Delivered,
    /// Goes to lo unchanged, for the mark that a rule gave it or because its socket is bound to lo.
    RoutedToLo {
        /// The mark, or 0.
        mark: u32,
    },
    /// Not for the pod: passed on, if the pod passes packets on at all.
    Forwarded,
    /// Dropped.
    Dropped,
    /// It depends on what cannot be known here, a reason each.
    DependsOn(Vec<String>),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Redirected { port, original: (address, original) } => {
                write!(f, "sent to port {port}, original destination ")?;
                packet::write_end(f, *address, *original)
            }
            Outcome::Tproxied { port } => write!(f, "handed to the transparent socket of port {port}"),
            Outcome::Delivered => f.write_str("delivered as is"),
            Outcome::RoutedToLo { mark: 0 } => f.write_str("routed to lo"),
            Outcome::RoutedToLo { mark } => write!(f, "marked {mark:#x} and routed to lo"),
            Outcome::Forwarded => f.write_str("not for the pod: passed on, if it passes packets on"),
            Outcome::Dropped => f.write_str("dropped"),
            Outcome::DependsOn(reasons) => write!(f, "depends on {}", reasons.join("; ")),
        }
    }
}

/// One thing that happens to a packet.
#[derive(Clone, Debug)]
pub enum Step<'a> {
    /// A base chain's turn.
    Chain(&'a Layer<'a>),
    /// The turn of a nat chain that is not asked: the connection's translation has been decided.
    Skipped(&'a Layer<'a>),
    /// A rule is met.
    Rule(Visit<'a>),
    /// A chain is left by its end, or by RETURN, for the one that led there.
    Back(&'a str),
    /// The policy of a base chain is the verdict.
    Policy(&'a Layer<'a>),
    /// The packet goes to lo.
    ToLoopback,
}

/// A rule that is met.
#[derive(Clone, Debug)]
pub struct Visit<'a> {
    /// The table.
    pub layer: &'a Layer<'a>,
    /// The chain.
    pub chain: &'a str,
    /// Its place in the chain, from 0.
    pub index: usize,
    /// The rule.
    pub rule: &'a Rule,
    /// Whether it matches.
    pub met: Met<'a>,
}

impl Visit<'_> {
    /// Whether it matches, as far as is known.
    pub fn may_match(&self) -> bool {
        !matches!(self.met, Met::No(..))
    }

    /// Whose it is; `legacy` tells that of rules in the legacy packet filter.
    pub fn owner(&self, legacy: &[Ownership]) -> Option<Mesh> {
        self.layer.owner(self.chain, self.index, legacy)
    }

    /// Rule, chain, table and packet filter in words.
    pub fn place(&self) -> String {
        let Visit { layer, chain, index, rule, .. } = self;
        format!("rule {} of {} {chain} ({}), {},", index + 1, layer.table(), layer.filter(), layer.text(rule))
    }
}

/// Whether a rule matches.
#[derive(Clone, Debug)]
pub enum Met<'a> {
    /// It does.
    Yes,
    /// It does not: this match fails, since the packet is otherwise.
    No(&'a Match, String),
    /// That cannot be known; what it was taken for here.
    Unknown {
        /// Why.
        reason: String,
        /// What it was taken for.
        taken_for: bool,
    },
}

/// A packet's way.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    /// What happened, in order. Where rules cannot be evaluated, what happens if they do not match.
    pub steps: Vec<Step<'a>>,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Whether a translation that is not understood certainly sends it somewhere.
    pub is_elsewhere: bool,
}

impl<'a> Walk<'a> {
    /// The rules that matched.
    pub fn matched(&self) -> impl Iterator<Item = &Visit<'a>> {
        self.steps.iter().filter_map(|step| match step {
            Step::Rule(visit) if visit.may_match() => Some(visit),
            _ => None,
        })
    }
}

/// The targets of xtables and the statements of nf_tables that translate destinations.
const TRANSLATIONS: [&str; 5] = ["DNAT", "REDIRECT", "NETMAP", "nat", "redir"];

/// So many ways are tried where rules cannot be evaluated.
const WAYS: usize = 64;

/// So many chains may lead to each other: it is no loop.
const DEPTH: usize = 64;

/// What is left out of a walk, to find out what it does.
pub struct Omission<'t, 'a> {
    /// Whether a rule that matches, or may, is as good as not there.
    pub is_absent: &'t dyn Fn(&Visit<'a>) -> bool,
    /// Whether policies are.
    pub policies: bool,
    /// So many rules may be met yet. Where none is left, no further ways are tried.
    pub budget: &'t Cell<u32>,
}

/// Walks `packet` through `layers`.
pub fn walk<'a>(layers: &'a Layers<'a>, packet: &Packet, pod: &Pod) -> Walk<'a> {
    walk_without(layers, packet, pod, &Omission { is_absent: &|_| false, policies: false, budget: &Cell::new(u32::MAX) })
}

/// The same but for an omission.
pub fn walk_without<'a>(layers: &'a Layers<'a>, packet: &Packet, pod: &Pod, omission: &Omission<'_, 'a>) -> Walk<'a> {
    let mut first: Option<Walk<'a>> = None;
    let mut ways = vec![Vec::new()];
    let mut reasons: Vec<String> = Vec::new();
    let (mut tried, mut differ, mut is_elsewhere) = (0, false, true);
    while let Some(choices) = ways.pop() {
        let given = choices.len();
        let mut run = Run::new(layers, packet, pod, choices, omission);
        let outcome = run.go(packet);
        for made in given..run.choices.len() {
            let mut other = run.choices[..made].to_vec();
            other.push(!run.choices[made]);
            ways.push(other);
        }
        for reason in run.reasons {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        is_elsewhere &= run.is_elsewhere;
        tried += 1;
        match &first {
            None => first = Some(Walk { steps: run.steps, outcome, is_elsewhere: false }),
            Some(first) => differ |= first.outcome != outcome,
        }
        if (tried == WAYS || omission.budget.get() == 0) && !ways.is_empty() {
            (differ, is_elsewhere) = (true, false);
            break;
        }
    }
    // At least one way was tried.
    let mut walk = first.unwrap_or(Walk { steps: Vec::new(), outcome: Outcome::Delivered, is_elsewhere });
    walk.is_elsewhere = is_elsewhere;
    if differ || matches!(walk.outcome, Outcome::DependsOn(_)) {
        walk.outcome = Outcome::DependsOn(reasons);
    }
    walk
}

/// Why a packet's way ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Dropped,
    /// Nobody knows.
    Unknown,
}

/// One way of a packet, as far as choices go.
struct Run<'a, 'p> {
    layers: &'a Layers<'a>,
    pod: &'p Pod,
    omission: &'p Omission<'p, 'a>,
    facts: Facts,
    /// What was taken for true where nothing is known, in order, and how many of them have been used.
    choices: Vec<bool>,
    made: usize,
    reasons: Vec<String>,
    steps: Vec<Step<'a>>,
    /// Which of the tables with the same turn is asked first.
    rotation: usize,
    /// Whether the route that the kernel has found leads to lo.
    to_loopback: bool,
    /// Whether a translation that is not understood was met.
    is_elsewhere: bool,
    /// Whether it has been decided if the connection's destination is translated, and its source.
    is_decided: [bool; 2],
    redirected: Option<Outcome>,
    tproxied: Option<u16>,
}

impl<'a, 'p> Run<'a, 'p> {
    fn new(layers: &'a Layers<'a>, packet: &Packet, pod: &'p Pod, choices: Vec<bool>, omission: &'p Omission<'p, 'a>) -> Self {
        let facts = Facts::of(packet, packet.family(pod));
        let mut run = Run {
            layers,
            pod,
            omission,
            facts,
            choices,
            made: 0,
            reasons: Vec::new(),
            steps: Vec::new(),
            rotation: 0,
            to_loopback: false,
            is_elsewhere: false,
            is_decided: [false; 2],
            redirected: None,
            tproxied: None,
        };
        for rotation in 1..layers.tied() {
            if run.choose("which table came last, of those with the same priority") {
                run.rotation = rotation;
                break;
            }
        }
        run
    }

    /// What is taken for true where nothing is known.
    fn choose(&mut self, reason: impl Into<String>) -> bool {
        self.reasons.push(reason.into());
        if self.made == self.choices.len() {
            self.choices.push(false);
        }
        self.made += 1;
        self.choices[self.made - 1]
    }

    fn go(&mut self, packet: &Packet) -> Outcome {
        let device = packet.device.clone().map_or(Device::Some, Device::Named);
        let end = match packet.way {
            Way::Out => self.send(device),
            Way::In => self.receive(device),
        };
        match end {
            // A socket that a packet was given stays its own, wherever nat sends it then.
            Ok(outcome) if self.tproxied.is_some() => outcome,
            Ok(outcome) => self.redirected.take().unwrap_or(outcome),
            Err(End::Unknown) => Outcome::DependsOn(Vec::new()),
            Err(End::Dropped) => Outcome::Dropped,
        }
    }

    fn send(&mut self, device: Device) -> Result<Outcome, End> {
        self.route();
        // IPv6 has no route by lo to others: nothing is sent. IPv4 takes the whole world to be there.
        if self.facts.family == Family::V6 && device.is_loopback() && !self.to_loopback {
            return Err(End::Dropped);
        }
        self.facts.out_device = if self.to_loopback { Device::loopback() } else { device.clone() };
        if self.facts.source.is_none() {
            let own = self.facts.destination.filter(|address| self.pod.owns(*address));
            self.facts.source = match own {
                Some(IpAddr::V4(address)) if address.is_loopback() => Some(packet::loopback(Family::V4)),
                Some(own) => Some(own),
                None => self.pod.address(self.facts.family),
            };
        }
        self.hook(Hook::Output)?;
        self.facts.out_device = if self.to_loopback { Device::loopback() } else { device };
        self.hook(Hook::Postrouting)?;
        if !self.facts.out_device.is_loopback() {
            return Ok(Outcome::Delivered);
        }
        self.steps.push(Step::ToLoopback);
        self.facts.in_device = std::mem::replace(&mut self.facts.out_device, Device::None);
        (self.facts.uid, self.facts.gid) = (None, None);
        self.hook(Hook::Prerouting)?;
        self.hook(Hook::Input)?;
        Ok(match self.tproxied {
            Some(port) => Outcome::Tproxied { port },
            None if self.is_own() => Outcome::Delivered,
            None => Outcome::RoutedToLo { mark: self.facts.mark },
        })
    }

    fn receive(&mut self, device: Device) -> Result<Outcome, End> {
        let to_self = self.facts.destination.is_none();
        if to_self {
            self.facts.destination = self.pod.address(self.facts.family);
        }
        self.facts.in_device = device;
        self.hook(Hook::Prerouting)?;
        self.route();
        if to_self || self.to_loopback {
            self.hook(Hook::Input)?;
            return Ok(match self.tproxied {
                Some(port) => Outcome::Tproxied { port },
                None if to_self || self.is_own() => Outcome::Delivered,
                None => Outcome::RoutedToLo { mark: self.facts.mark },
            });
        }
        self.facts.out_device = Device::Some;
        self.hook(Hook::Forward)?;
        self.facts.in_device = Device::None;
        self.hook(Hook::Postrouting)?;
        Ok(Outcome::Forwarded)
    }

    fn is_own(&self) -> bool {
        self.facts.destination.is_some_and(|address| self.pod.owns(address))
    }

    /// Looks for a route for the packet as it is now.
    fn route(&mut self) {
        self.to_loopback = self.is_own() || self.pod.routes_to_lo(self.facts.family, self.facts.mark);
    }

    fn hook(&mut self, hook: Hook) -> Result<(), End> {
        let side = usize::from(matches!(hook, Hook::Input | Hook::Postrouting));
        let layers = self.layers;
        for layer in layers.at(hook, self.rotation) {
            self.facts.is_tracked |= layer.turn > CONNECTION_TRACKING && self.facts.has_connection();
            if layer.is_nat && !self.asks_nat(side)? {
                self.steps.push(Step::Skipped(layer));
                continue;
            }
            let mark = self.facts.mark;
            self.layer(layer, side)?;
            if layer.reroutes && mark != self.facts.mark {
                self.route();
            }
        }
        // Also where no chain was asked, or none had an answer.
        self.is_decided[side] = true;
        Ok(())
    }

    /// Whether a chain of nat is asked, which changes destinations (side 0) or sources.
    fn asks_nat(&mut self, side: usize) -> Result<bool, End> {
        match self.facts.state {
            StateSet::ESTABLISHED if side == 0 && !self.is_decided[side] => {
                self.reasons.push("where the connection's first packet was sent (leave the state out to ask that)".to_owned());
                Err(End::Unknown)
            }
            StateSet::ESTABLISHED if !self.is_decided[side] => {
                self.forget_source();
                Ok(false)
            }
            StateSet::NEW | StateSet::RELATED => Ok(!self.is_decided[side]),
            _ => Ok(false),
        }
    }

    /// Source nat gives it another address and perhaps another port, which are not known.
    fn forget_source(&mut self) {
        (self.facts.source, self.facts.source_port) = (None, None);
    }

    /// The turn of a base chain.
    fn layer(&mut self, layer: &'a Layer<'a>, side: usize) -> Result<(), End> {
        self.steps.push(Step::Chain(layer));
        let base = layer.chain();
        // The chains that led to the present one, each with the rules that are left of it, and with how many led there.
        let mut stack = vec![(base, layer.rules(base).into_iter(), 0)];
        while let Some((chain, rules, depth)) = stack.last_mut() {
            let (chain, depth) = (*chain, *depth);
            let Some((index, rule)) = rules.next() else {
                stack.pop();
                self.steps.extend(stack.last().map(|(back, ..)| Step::Back(back)));
                continue;
            };
            if !self.meets(Visit { layer, chain, index, rule, met: Met::Yes })? {
                continue;
            }
            match &rule.target {
                Target::Continue => {}
                Target::Accept => return Ok(()),
                Target::Drop => return Err(End::Dropped),
                Target::Return => {
                    stack.pop();
                    self.steps.extend(stack.last().map(|(back, ..)| Step::Back(back)));
                }
                Target::Jump(to) | Target::Goto(to) => {
                    let Some(name) = layer.own_name(to).filter(|_| depth < DEPTH) else {
                        self.reasons.push(format!("the chain {to}, which is not known"));
                        return Err(End::Unknown);
                    };
                    if matches!(rule.target, Target::Goto(_)) {
                        stack.pop();
                    }
                    stack.push((name, layer.rules(name).into_iter(), depth + 1));
                }
                Target::Redirect(port) => {
                    self.redirect(*port, side);
                    return Ok(());
                }
                Target::Tproxy { port, mark } => {
                    self.facts.mark = (self.facts.mark & !mark.mask) ^ mark.value;
                    self.tproxied = Some(*port);
                    return Ok(());
                }
                Target::Mark(mark) => self.facts.mark = (self.facts.mark & !mark.mask) ^ mark.value,
                Target::SaveMark if self.facts.is_tracked => self.facts.connmark = self.facts.mark,
                Target::RestoreMark if self.facts.is_tracked => self.facts.mark = self.facts.connmark,
                Target::SaveMark | Target::RestoreMark | Target::CtZone(_) => {}
                Target::Opaque(opaque) => match condition::effect(&opaque.name) {
                    Effect::None => {}
                    Effect::Translates => {
                        self.forget_source();
                        return Ok(());
                    }
                    Effect::Drops => return Err(End::Dropped),
                    Effect::Untracks if self.facts.is_tracked => {}
                    Effect::Untracks => self.facts.state = StateSet::UNTRACKED,
                    Effect::Unknown => {
                        self.is_elsewhere = layer.is_nat && side == 0 && TRANSLATIONS.contains(&opaque.name.as_str());
                        self.reasons.push(format!("what {} does, which mesh-init does not know", layer.text(rule)));
                        return Err(End::Unknown);
                    }
                },
            }
        }
        self.steps.push(Step::Policy(layer));
        if layer.drops && !self.omission.policies { Err(End::Dropped) } else { Ok(()) }
    }

    /// Whether the packet is what the rule asks for.
    fn meets(&mut self, mut visit: Visit<'a>) -> Result<bool, End> {
        let budget = self.omission.budget;
        let Some(left) = budget.get().checked_sub(1) else {
            self.reasons.push("more rules than are walked through".to_owned());
            return Err(End::Unknown);
        };
        budget.set(left);
        let is_xtables = visit.layer.is_xtables();
        let mut unknown = None;
        for wanted in &visit.rule.matches {
            match self.facts.meet(wanted, is_xtables) {
                Truth::Yes => {}
                Truth::Unknown => unknown = unknown.or(Some(wanted)),
                Truth::No => {
                    visit.met = Met::No(wanted, self.facts.value(&wanted.condition));
                    self.steps.push(Step::Rule(visit));
                    return Ok(false);
                }
            }
        }
        if (self.omission.is_absent)(&visit) {
            return Ok(false);
        }
        let mut matches = true;
        if let Some(wanted) = unknown {
            let reason = format!("{}, {}", visit.layer.match_text(visit.rule, wanted), self.facts.doubt(&wanted.condition));
            matches = self.choose(reason.clone());
            visit.met = Met::Unknown { reason, taken_for: matches };
        }
        self.steps.push(Step::Rule(visit));
        Ok(matches)
    }

    fn redirect(&mut self, port: u16, side: usize) {
        let original = (self.facts.destination, self.facts.destination_port);
        self.redirected = Some(Outcome::Redirected { port, original });
        self.is_decided[side] = true;
        // To lo where it was sent, to the device's own address where it was received.
        let here = if self.facts.in_device == Device::None || self.facts.in_device.is_loopback() {
            Some(packet::loopback(self.facts.family))
        } else {
            self.pod.address(self.facts.family)
        };
        (self.facts.destination, self.facts.destination_port) = (here, Some(port));
        self.to_loopback = true;
    }
}

#[cfg(test)]
mod tests;
