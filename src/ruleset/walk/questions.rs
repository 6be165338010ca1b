//! The usual questions: packets that tell what a set of rules does, made from what the rules mention.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::layer::Layers;
use super::packet::{APPLICATION, Packet, Pod, is_of, loopback};
use crate::ruleset::{Condition, Family, Hook, Protocol};

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

/// The usual questions about the rules of `family`.
pub fn questions(layers: &Layers<'_>, family: Family, pod: &Pod) -> Vec<Question> {
    let (out, incoming) = (Mentioned::at(layers, Hook::Output), Mentioned::at(layers, Hook::Prerouting));
    let far = elsewhere(family);
    let is_ours = |address: &&IpAddr| is_of(family, **address);
    // Which of them it is makes a difference only where a rule asks.
    let usual = Some("eth0".to_owned()).filter(|_| !(out.devices.is_empty() && incoming.devices.is_empty()));
    let mut questions: Vec<Question> = Vec::new();
    let mut ask = |what: String, packet: Packet| {
        let packet = Packet { device: packet.device.or_else(|| usual.clone()), ..packet };
        if !questions.iter().any(|known| known.packet == packet) {
            questions.push(Question { what, packet });
        }
    };
    for (uid, gid) in out.owners() {
        let is_application = (uid, gid) == (APPLICATION, APPLICATION);
        let who = match (uid, gid) {
            _ if is_application => "an application".to_owned(),
            (APPLICATION, _) => format!("group {gid}"),
            _ => format!("user {uid}"),
        };
        let send = |protocol, to, port| Packet::out(protocol, to, port).by(uid, gid);
        ask(format!("{who} to another host"), send(Protocol::TCP, far, 443));
        if is_application {
            for address in out.destinations.iter().filter(is_ours) {
                ask(format!("{who} to {address}"), send(Protocol::TCP, *address, 443));
            }
            for port in &out.ports {
                ask(format!("{who} to port {port}"), send(Protocol::TCP, far, *port));
            }
            for device in &out.devices {
                let packet = Packet { device: Some(device.clone()), ..send(Protocol::TCP, far, 443) };
                ask(format!("{who} by {device}"), packet);
            }
        }
        if let Some(own) = pod.address(family) {
            ask(format!("{who} to the pod's own address"), send(Protocol::TCP, own, USUAL));
        }
        ask(format!("{who} to loopback"), send(Protocol::TCP, loopback(family), USUAL));
        let servers = out.destinations.iter().filter(is_ours).copied().filter(|_| is_application);
        for server in [far].into_iter().chain(servers) {
            ask(format!("{who} to DNS over UDP"), send(Protocol::UDP, server, DNS));
            ask(format!("{who} to DNS over TCP"), send(Protocol::TCP, server, DNS));
        }
    }
    let receive = |protocol, from, port| Packet::incoming(protocol, from, port);
    ask("another host to the pod".to_owned(), receive(Protocol::TCP, far, USUAL));
    for port in &incoming.ports {
        ask(format!("another host to port {port}"), receive(Protocol::TCP, far, *port));
    }
    for from in incoming.sources.iter().filter(is_ours) {
        ask(format!("{from} to the pod"), receive(Protocol::TCP, *from, USUAL));
    }
    for device in &incoming.devices {
        let packet = Packet { device: Some(device.clone()), ..receive(Protocol::TCP, far, USUAL) };
        ask(format!("another host by {device}"), packet);
    }
    ask("another host over UDP".to_owned(), receive(Protocol::UDP, far, DNS));
    questions
}
