//! The usual questions: packets that tell what a set of rules does, made from what the rules mention.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::layer::Layers;
use super::packet::{APPLICATION, Packet, Pod, Way, is_of, loopback};
use super::{Met, Visit};
use crate::ruleset::{Condition, Family, Hook, Protocol, Target};

/// A packet, and who sends it where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// In words.
    pub what: String,
    /// The packet.
    pub packet: Packet,
}

/// Of each kind of thing that rules mention, so many are asked about.
const MANY: usize = 8;

/// The port of DNS.
const DNS: u16 = 53;

/// A port that no rule of a mesh is about.
const USUAL: u16 = 8080;

/// An address that is nobody's, as another host's: those of documentation (RFC 5737, RFC 3849).
pub fn elsewhere(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// What the rules that packets meet from a hook on look at.
#[derive(Default)]
struct Mentioned {
    ports: Vec<u16>,
    sources: Vec<IpAddr>,
    destinations: Vec<IpAddr>,
    uids: Vec<u32>,
    gids: Vec<u32>,
    devices: Vec<String>,
}

fn note<T: PartialEq>(list: &mut Vec<T>, value: T) {
    if list.len() < MANY && !list.contains(&value) {
        list.push(value);
    }
}

impl Mentioned {
    fn at(layers: &Layers<'_>, hook: Hook) -> Mentioned {
        let mut mentioned = Mentioned::default();
        for layer in layers.at(hook, 0) {
            for (_, rule) in layer.all_rules() {
                for wanted in &rule.matches {
                    mentioned.add(&wanted.condition);
                }
            }
        }
        mentioned
    }

    fn add(&mut self, condition: &Condition) {
        match condition {
            Condition::Source(net) => note_some(&mut self.sources, *net),
            Condition::Destination(net) => note_some(&mut self.destinations, *net),
            Condition::Sources(set) => set.ranges().iter().take(MANY).for_each(|range| note(&mut self.sources, range.last())),
            Condition::Destinations(set) => set.ranges().iter().take(MANY).for_each(|range| note(&mut self.destinations, range.last())),
            Condition::DestinationPort(range) => note(&mut self.ports, range.first),
            Condition::DestinationPorts(list) => list.iter().for_each(|range| note(&mut self.ports, range.first)),
            Condition::Uid(ids) => note(&mut self.uids, ids.first),
            Condition::Gid(ids) => note(&mut self.gids, ids.first),
            Condition::InInterface(interface) | Condition::OutInterface(interface) if interface.as_str() != "lo" => {
                note(&mut self.devices, interface.as_str().replace('+', "0"));
            }
            _ => {}
        }
    }

    /// Users with their groups: those of one number belong together.
    fn owners(&self) -> Vec<(u32, u32)> {
        let mut owners = vec![(APPLICATION, APPLICATION)];
        for uid in &self.uids {
            note(&mut owners, (*uid, if self.gids.contains(uid) { *uid } else { APPLICATION }));
        }
        for gid in self.gids.iter().filter(|gid| !self.uids.contains(gid)) {
            note(&mut owners, (APPLICATION, *gid));
        }
        owners
    }
}

/// An address of the network, unless it is the pod's own loopback or every address there is.
fn note_some(list: &mut Vec<IpAddr>, net: IpNet) {
    if !net.addr().is_loopback() && net.prefix_len() > 0 {
        note(list, net.hosts().next().unwrap_or_else(|| net.addr()));
    }
}

/// Collects questions, each packet once.
#[derive(Default)]
struct List {
    questions: Vec<Question>,
}

impl List {
    /// Asks of a packet of a user and a group to another host, or without them of one from another host, by a device or
    /// any.
    fn ask(
        &mut self,
        what: (&str, &str),
        owner: Option<(u32, u32)>,
        (protocol, address, port): (Protocol, IpAddr, u16),
        device: Option<&String>,
    ) {
        let mut packet = match owner {
            Some((uid, gid)) => Packet::out(protocol, address, port).by(uid, gid),
            None => Packet::incoming(protocol, address, port),
        };
        packet.device = device.cloned();
        if !self.questions.iter().any(|known| known.packet == packet) {
            self.questions.push(Question { what: [what.0, what.1].concat(), packet });
        }
    }
}

/// The usual questions about the rules of `family`.
pub fn questions(layers: &Layers<'_>, family: Family, pod: &Pod) -> Vec<Question> {
    let (out, incoming) = (Mentioned::at(layers, Hook::Output), Mentioned::at(layers, Hook::Prerouting));
    let far = elsewhere(family);
    let of_family = |list: &[IpAddr]| -> Vec<IpAddr> { list.iter().copied().filter(|address| is_of(family, *address)).collect() };
    let mut list = List::default();
    for (uid, gid) in out.owners() {
        let is_application = (uid, gid) == (APPLICATION, APPLICATION);
        let who = match (uid, gid) {
            _ if is_application => "an application".to_owned(),
            (APPLICATION, _) => format!("group {gid}"),
            _ => format!("user {uid}"),
        };
        let mut ask = |whither, protocol, to, port, device| list.ask((&who, whither), Some((uid, gid)), (protocol, to, port), device);
        ask(" to another host", Protocol::TCP, far, 443, None);
        if let Some(own) = pod.address(family) {
            ask(" to the pod's own address", Protocol::TCP, own, USUAL, None);
        }
        ask(" to loopback", Protocol::TCP, loopback(family), USUAL, None);
        let mut servers = vec![far];
        if is_application {
            servers.extend(of_family(&out.destinations));
            for address in &servers[1..] {
                ask(" to a network that rules mention", Protocol::TCP, *address, 443, None);
            }
            for port in &out.ports {
                ask(" to a port that rules mention", Protocol::TCP, far, *port, None);
            }
            for device in &out.devices {
                ask(" by a device that rules mention", Protocol::TCP, far, 443, Some(device));
            }
        }
        for server in servers {
            ask(" to DNS over UDP", Protocol::UDP, server, DNS, None);
            ask(" to DNS over TCP", Protocol::TCP, server, DNS, None);
        }
    }
    let mut ask = |whither, protocol, from, port, device| list.ask(("another host", whither), None, (protocol, from, port), device);
    ask(" to the pod", Protocol::TCP, far, USUAL, None);
    for port in &incoming.ports {
        ask(" to a port that rules mention", Protocol::TCP, far, *port, None);
    }
    for from in of_family(&incoming.sources) {
        ask(" from a network that rules mention", Protocol::TCP, from, USUAL, None);
    }
    for device in &incoming.devices {
        ask(" by a device that rules mention", Protocol::TCP, far, USUAL, Some(device));
    }
    ask(" to the pod over UDP", Protocol::UDP, far, DNS, None);
    let mut questions = list.questions;
    // Which device it is makes a difference only where a rule asks.
    if !out.devices.is_empty() || !incoming.devices.is_empty() {
        for question in &mut questions {
            question.packet.device.get_or_insert_with(|| "eth0".to_owned());
        }
    }
    questions
}

/// Packets that no rule names: of a user and to a port that no rule asks for, far away. They meet what is left after all
/// exemptions.
pub fn unnamed(layers: &Layers<'_>, family: Family, device: Option<&String>) -> Vec<Packet> {
    let rules: Vec<_> = Hook::ALL.into_iter().flat_map(|hook| layers.at(hook, 0)).flat_map(|layer| layer.all_rules()).collect();
    let is_named = |number: u32| {
        let port = u16::try_from(number).unwrap_or_default();
        let names = |condition: &Condition| match condition {
            Condition::Uid(ids) | Condition::Gid(ids) => (ids.first..=ids.last).contains(&number),
            Condition::DestinationPort(range) => (range.first..=range.last).contains(&port),
            Condition::DestinationPorts(list) => list.iter().any(|range| (range.first..=range.last).contains(&port)),
            _ => false,
        };
        rules.iter().any(|(_, rule)| rule.matches.iter().any(|wanted| !wanted.negated && names(&wanted.condition)))
    };
    // One number serves as a port and as a user.
    let Some(number) = (20_000..u32::from(u16::MAX)).step_by(7).find(|number| !is_named(*number)) else { return Vec::new() };
    let (address, port) = (far_away(family), u16::try_from(number).unwrap_or(USUAL));
    let out = Packet::out(Protocol::TCP, address, port).by(number, number);
    [out, Packet::incoming(Protocol::TCP, address, port)].map(|packet| Packet { device: device.cloned(), ..packet }).into()
}

/// Another address that is nobody's, seldom written into an example.
fn far_away(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 51, 100, 201).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x7a7a, 0, 0, 0, 0, 0xc9).into(),
    }
}

/// So many packets are made for rules at most.
pub const AIMED: usize = 256;

/// Packets that the rules that `is_wanted` names match, as far as one can make them: with the first and with the last of
/// what these rules, and those that lead to them, ask for; [`AIMED`] at most. What comes in or goes out by is `device`.
pub fn aimed<'a>(layers: &'a Layers<'a>, family: Family, device: Option<&String>, is_wanted: &dyn Fn(&Visit<'a>) -> bool) -> Vec<Packet> {
    let far = elsewhere(family);
    let mut packets = Vec::new();
    for hook in [Hook::Output, Hook::Postrouting, Hook::Prerouting, Hook::Input] {
        let mut usual = match hook {
            Hook::Output | Hook::Postrouting => Packet::out(Protocol::TCP, far, 443),
            _ => Packet::incoming(Protocol::TCP, far, USUAL),
        };
        usual.device = device.cloned();
        for (layer, is_last) in layers.at(hook, 0).into_iter().flat_map(|layer| [(layer, false), (layer, true)]) {
            let mut chains = vec![(layer.chain(), usual.clone())];
            let mut at = 0;
            while let Some((chain, packet)) = chains.get(at).cloned() {
                for (index, rule) in layer.rules(chain) {
                    let next = match &rule.target {
                        Target::Jump(to) | Target::Goto(to) => layer.own_name(to).filter(|to| !chains.iter().any(|(known, _)| known == to)),
                        _ => None,
                    };
                    let is_wanted = packets.len() < AIMED && is_wanted(&Visit { layer, chain, index, rule, met: Met::Yes });
                    if next.is_none() && !is_wanted {
                        continue;
                    }
                    let mut packet = packet.clone();
                    for wanted in rule.matches.iter().filter(|wanted| !wanted.negated) {
                        aim(&mut packet, &wanted.condition, is_last);
                    }
                    if is_wanted && !packets.contains(&packet) {
                        packets.push(packet.clone());
                    }
                    chains.extend(next.map(|name| (name, packet)));
                }
                at += 1;
            }
        }
    }
    packets
}

/// Makes the packet one for which the condition holds. Devices and marks stay what they are: a rule may ask for some that
/// no packet here has.
fn aim(packet: &mut Packet, condition: &Condition, is_last: bool) {
    let in_net = |net: &IpNet| if is_last { net.broadcast() } else { net.hosts().next().unwrap_or_else(|| net.addr()) };
    let is_out = packet.way == Way::Out;
    match condition {
        Condition::Source(net) if !is_out => packet.source = Some(in_net(net)),
        Condition::Destination(net) if is_out => packet.destination = Some(in_net(net)),
        Condition::Sources(set) if !is_out => packet.source = end(set.ranges(), is_last).map_or(packet.source, |range| Some(range.last())),
        Condition::Destinations(set) if is_out => {
            packet.destination = end(set.ranges(), is_last).map_or(packet.destination, |range| Some(range.last()));
        }
        Condition::Protocol(protocol) => {
            packet.protocol = *protocol;
            if *protocol == Protocol::UDP {
                packet.destination_port = Some(DNS);
            }
        }
        Condition::DestinationPort(range) => packet.destination_port = Some(if is_last { range.last } else { range.first }),
        Condition::DestinationPorts(list) => {
            let port = end(list, is_last).map(|range| if is_last { range.last } else { range.first });
            packet.destination_port = port.or(packet.destination_port);
        }
        Condition::Uid(ids) if is_out => packet.uid = Some(if is_last { ids.last } else { ids.first }),
        Condition::Gid(ids) if is_out => packet.gid = Some(if is_last { ids.last } else { ids.first }),
        _ => {}
    }
}

fn end<T>(list: &[T], is_last: bool) -> Option<&T> {
    if is_last { list.last() } else { list.first() }
}
