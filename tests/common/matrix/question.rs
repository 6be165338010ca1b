//! What is asked: who connects where, how.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::super::namespace::first_address;
use super::super::traffic::{APP, Who};
use super::mentioned::Mentioned;

/// Addresses that no vector speaks of.
const FAR: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1))];
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// Where Istio's proxy calls its application from.
const PASSED_ON: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)), IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6))];
/// A port with nobody on it, that no vector speaks of.
const CLOSED: u16 = 33_333;
/// The first of the ports that several users ask from, one after the other, and of those that one question is asked
/// from. Were they left to the kernel, two might clash, and what then happens is not always the same.
const SHARED: u16 = 39_000;
const FROM: u16 = 40_000;

/// The transport, or a segment that belongs to no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Means {
    Tcp,
    Udp,
    Stray,
}

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Pod,
    Outside,
}

/// One connection, or datagram, to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) place: Place,
    pub(crate) who: Who,
    /// The client's own address, if it is to be a certain one.
    pub(crate) source: Option<IpAddr>,
    /// Its port, which is its own unless it is to be shared.
    pub(crate) source_port: u16,
    /// What the client marks its packets with.
    pub(crate) mark: Option<u32>,
    pub(crate) means: Means,
    pub(crate) to: SocketAddr,
}

impl Question {
    pub(crate) fn is_from_outside(&self) -> bool {
        self.place == Place::Outside
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (uid, gid) = self.who;
        match self.place {
            Place::Pod => write!(f, "{uid}:{gid} in the pod")?,
            Place::Outside => write!(f, "somebody outside")?,
        }
        if let Some(source) = self.source {
            write!(f, " at {source}")?;
        }
        if self.source_port < FROM {
            write!(f, " at port {}", self.source_port)?;
        }
        if let Some(mark) = self.mark {
            write!(f, " with mark {mark}")?;
        }
        write!(f, " to {} over {:?}", self.to, self.means)
    }
}

/// Collects questions, each once.
#[derive(Default)]
struct List {
    questions: Vec<Question>,
    seen: HashSet<Question>,
}

impl List {
    fn add(&mut self, mut question: Question) {
        if self.seen.insert(question) {
            if question.source_port == 0 {
                question.source_port = FROM + u16::try_from(self.questions.len()).unwrap();
            }
            self.questions.push(question);
        }
    }

    fn ask(&mut self, from: Question, means: Means, to: IpAddr, ports: &[u16]) {
        for &port in ports {
            self.add(Question { means, to: SocketAddr::new(to, port), ..from });
        }
    }
}

/// The questions for a pod with these devices, the first of which leads to the world.
pub(crate) fn questions(mentioned: &Mentioned, devices: &[(&str, Vec<IpNet>)]) -> Vec<Question> {
    let mut list = List::default();
    for &who in &mentioned.clients {
        from_the_pod(&mut list, who, mentioned, devices);
    }
    handed_on(&mut list, mentioned, devices);
    from_outside(&mut list, mentioned, devices);
    list.questions
}

fn from(place: Place, who: Who) -> Question {
    Question { place, who, source: None, source_port: 0, mark: None, means: Means::Tcp, to: SocketAddr::new(LOOPBACK[0], 0) }
}

fn from_the_pod(list: &mut List, who: Who, mentioned: &Mentioned, devices: &[(&str, Vec<IpNet>)]) {
    let own = devices[0].1.iter().map(IpNet::addr);
    let far = FAR.into_iter().filter(|far| own.clone().any(|own| own.is_ipv4() == far.is_ipv4()));
    let links = devices.iter().flat_map(|(_, networks)| networks.iter().map(|net| first_address(*net)));
    let near: Vec<IpAddr> = LOOPBACK.into_iter().chain(own.clone()).collect();
    let addresses = near.iter().copied().chain(PASSED_ON).chain(far.clone()).chain(links).chain(mentioned.resolvers.iter().copied());
    let addresses = addresses.chain(mentioned.networks.iter().flat_map(|net| inside_and_beside(*net)));
    let client = from(Place::Pod, who);
    for address in addresses {
        if who == APP {
            list.ask(client, Means::Tcp, address, &mentioned.ports);
        }
        list.ask(client, Means::Tcp, address, &[80, 53, 15008]);
        list.ask(client, Means::Udp, address, &[53, 80]);
    }
    // Who asks from where somebody else has just asked has to get an answer of his own.
    for (server, port) in mentioned.resolvers.iter().copied().chain(far.clone()).zip(SHARED..) {
        list.ask(Question { source_port: port, ..client }, Means::Udp, server, &[53]);
    }
    if who != APP && who != mentioned.proxy {
        return;
    }
    for address in near.iter().copied().chain(far) {
        list.ask(client, Means::Tcp, address, &mentioned.ports);
        list.ask(client, Means::Udp, address, &mentioned.udp_ports);
    }
    for &source in &PASSED_ON {
        for address in near.iter().chain(&PASSED_ON).filter(|address| address.is_ipv4() == source.is_ipv4()) {
            list.ask(Question { source: Some(source), ..client }, Means::Tcp, *address, &[80, 8080]);
        }
    }
}

/// With TPROXY the proxy, as root, hands connections on in the name of whoever made them, and gets the answers by a mark.
fn handed_on(list: &mut List, mentioned: &Mentioned, devices: &[(&str, Vec<IpNet>)]) {
    let client = Question { mark: mentioned.mark, ..from(Place::Pod, (0, mentioned.proxy.1)) };
    for address in devices[0].1.iter().map(IpNet::addr).filter(|_| client.mark.is_some()) {
        let source = FAR[usize::from(address.is_ipv6())];
        list.ask(Question { source: Some(source), ..client }, Means::Tcp, address, &[80, 8080]);
    }
}

fn from_outside(list: &mut List, mentioned: &Mentioned, devices: &[(&str, Vec<IpNet>)]) {
    let client = from(Place::Outside, (0, 0));
    for address in devices[0].1.iter().map(IpNet::addr) {
        list.ask(client, Means::Tcp, address, &mentioned.ports);
        list.ask(client, Means::Udp, address, &mentioned.udp_ports);
        let sources = mentioned.networks.iter().flat_map(|net| inside_and_beside(*net));
        for source in sources.filter(|source| source.is_ipv4() == address.is_ipv4() && is_from_afar(source)) {
            list.ask(Question { source: Some(source), ..client }, Means::Tcp, address, &[80, 8080, 15008]);
            list.ask(Question { source: Some(source), ..client }, Means::Udp, address, &[53]);
        }
    }
    for (_, networks) in &devices[1..] {
        for address in networks.iter().map(IpNet::addr) {
            list.ask(client, Means::Tcp, address, &mentioned.ports);
            list.ask(client, Means::Udp, address, &[53, 80]);
        }
    }
    for (_, address) in transit(mentioned, devices) {
        list.ask(client, Means::Tcp, address, &[80, 443, 15008]);
    }
    for address in devices[0].1.iter().map(IpNet::addr) {
        list.ask(client, Means::Stray, address, &[CLOSED]);
    }
}

/// Addresses that somebody behind a device talks to through the pod, as a virtual machine does; each with the pod's
/// address that is the way to it. Nothing comes of those that no rule wants, which takes time: the first device is left
/// out where rules have to do with them no more than with others.
pub(crate) fn transit(mentioned: &Mentioned, devices: &[(&str, Vec<IpNet>)]) -> Vec<(IpAddr, IpAddr)> {
    let mut ways = Vec::new();
    for ((_, networks), number) in devices.iter().zip(0x70..).skip(usize::from(mentioned.mark.is_none())) {
        for via in networks.iter().map(IpNet::addr) {
            let fits = |net: &&IpNet| {
                net.addr().is_ipv4() == via.is_ipv4() && net.prefix_len() + 8 <= net.max_prefix_len() && is_from_afar(&net.addr())
            };
            let unmentioned = ["203.0.113.0/24", "2001:db8:eeee::/48"].map(|net| net.parse::<IpNet>().unwrap());
            let networks: Vec<IpNet> = mentioned.networks.iter().chain(&unmentioned).filter(fits).copied().collect();
            ways.extend(networks.into_iter().map(|net| (via, numbered(net.network(), number))));
        }
    }
    ways
}

fn numbered(network: IpAddr, number: u32) -> IpAddr {
    match network {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() | number).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() | u128::from(number)).into(),
    }
}

/// An address in the network, and the next one after it.
fn inside_and_beside(net: IpNet) -> Vec<IpAddr> {
    let inside = if net.prefix_len() == 0 {
        FAR[usize::from(net.addr().is_ipv6())]
    } else if net.prefix_len() == net.max_prefix_len() {
        net.addr()
    } else {
        first_address(net)
    };
    let beside: Option<IpAddr> = match net.broadcast() {
        IpAddr::V4(last) => last.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(last) => last.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    };
    std::iter::once(inside).chain(beside).collect()
}

/// Whether packets may come from, or go to, there over a wire.
fn is_from_afar(address: &IpAddr) -> bool {
    let is_low = matches!(address, IpAddr::V6(address) if address.segments()[..7] == [0; 7]);
    !address.is_loopback() && !address.is_unspecified() && !is_low
}
