//! The ports, networks, users and devices that a vector speaks of: those are what there is to ask about.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::Family;
use super::super::fixture::Vector;
use super::super::traffic::{APP, ISTIO_PROXY, LINKERD_PROXY, Who};

/// How many ports are looked at, so that a vector with a long list does not take longer than all others.
const MOST: usize = 64;

/// Everything a vector mentions, on its command line, in its environment or in its rules. Numbers are taken for ports
/// whatever the flag is: one question too many does no harm, and rules for what the vector does *not* have a rule for
/// would otherwise go unnoticed.
#[derive(Debug)]
pub(crate) struct Mentioned {
    /// With one beside each, the proxy's, and the usual ones.
    pub(crate) ports: Vec<u16>,
    /// Those of which a rule speaks for UDP, and the usual ones.
    pub(crate) udp_ports: Vec<u16>,
    pub(crate) proxy_ports: Vec<u16>,
    pub(crate) networks: Vec<IpNet>,
    pub(crate) resolvers: Vec<IpAddr>,
    pub(crate) devices: Vec<String>,
    pub(crate) proxy: Who,
    /// Everybody whose traffic may be treated differently.
    pub(crate) clients: Vec<Who>,
    /// The mark of connections that TPROXY has caught.
    pub(crate) mark: Option<u32>,
}

/// A user or a group that nobody speaks of.
const NOBODY: u32 = 5000;

impl Mentioned {
    pub(crate) fn by(vector: &Vector) -> Mentioned {
        let text = Family::BOTH.map(|family| vector.text(family)).concat();
        let values = |flags: &[&str]| -> Vec<&str> { values(&text, flags) };

        let mut ports = BTreeSet::new();
        let said: Vec<String> = said_on_the_command_line(vector);
        let said_ports = said.iter().map(|word| word.trim_start_matches(|letter: char| letter == '-' || letter.is_ascii_alphabetic()));
        for range in said_ports.chain(values(&["--dport", "--dports", "--sport"]).into_iter().flat_map(|list| list.split(','))) {
            if let Some((first, last)) = port_range(range) {
                ports.extend([first, last, last.saturating_add(1)]);
            }
        }
        let mut ports: BTreeSet<u16> = ports.into_iter().filter(|&port| port != 0).take(MOST).collect();
        let targets: Vec<u16> = values(&["--to-ports", "--on-port"]).into_iter().map(|port| port.parse().unwrap()).collect();
        ports.extend([80, 443, 8080, 15008, 53, 15053].iter().chain(&targets));
        let proxy_ports = BTreeSet::from_iter([15008, 15020, 15021, 15053, 15090].into_iter().chain(targets));
        let mut udp_ports = BTreeSet::from([53, 80, 15053]);
        for rule in text.lines().filter(|line| line.contains("-p udp")) {
            udp_ports.extend(self::values(rule, &["--dport"]).into_iter().filter_map(port_range).flat_map(|(first, last)| [first, last]));
        }

        let in_rules = values(&["-s", "-d"]);
        let in_rules = in_rules.iter().map(|word| if word.contains('/') { (*word).to_owned() } else { format!("{word}/32") });
        let networks: Vec<IpNet> = unique(in_rules.chain(said).filter_map(|word| word.parse().ok()));
        // Comments included: nobody may take what they say for a server.
        let resolvers = vector.resolv_conf.iter().flat_map(|text| text.split_whitespace()).filter_map(|word| word.parse().ok());
        let devices = values(&["-i", "-o"]).into_iter().filter(|device| !["lo", "eth0"].contains(device) && !device.ends_with('+'));

        let users = ids(values(&["--uid-owner"]));
        let groups = ids(values(&["--gid-owner"]));
        let default = if vector.mesh == "istio" { ISTIO_PROXY } else { LINKERD_PROXY };
        let user = users.first().copied().unwrap_or(default.0);
        let group = groups.first().copied().unwrap_or(default.1);
        let mut clients = vec![(0, 0), APP, (user, group), (user, NOBODY), (NOBODY, group)];
        clients.extend(bounded(users).into_iter().map(|user| (user, NOBODY)));
        clients.extend(bounded(groups).into_iter().map(|group| (NOBODY, group)));
        clients.extend(owner_groups(vector).into_iter().flat_map(|group| [(APP.0, group), (user, group)]));

        Mentioned {
            ports: ports.into_iter().collect(),
            udp_ports: udp_ports.into_iter().take(MOST).collect(),
            proxy_ports: proxy_ports.into_iter().collect(),
            networks: networks.into_iter().take(8).collect(),
            resolvers: unique(resolvers),
            devices: unique(devices.map(str::to_owned)),
            proxy: (user, group),
            clients: unique(clients.into_iter()),
            mark: values(&["--mark"]).first().map(|mark| number(mark)),
        }
    }
}

/// The words after these flags, wherever they are in rules.
fn values<'a>(rules: &'a str, flags: &[&str]) -> Vec<&'a str> {
    let words: Vec<&str> = rules.split_whitespace().collect();
    words.windows(2).filter(|pair| flags.contains(&pair[0])).map(|pair| pair[1]).collect()
}

/// The single values of flags and variables, those of groups left out.
fn said_on_the_command_line(vector: &Vector) -> Vec<String> {
    let variables = vector.env.iter().filter(|(name, _)| !name.contains("OWNER_GROUPS")).map(|(_, value)| value);
    let lists = vector.args.iter().chain(variables);
    lists.flat_map(|list| list.split([',', ' ', '='])).map(str::to_owned).collect()
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once([':', '-']).unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Both ends of each range, and one beside those that are ranges.
fn ids(values: Vec<&str>) -> Vec<u32> {
    let range = |text: &str| -> Vec<u32> {
        let parse = |text: &str| text.parse::<u32>().unwrap();
        text.split_once('-').map_or_else(|| vec![parse(text)], |(first, last)| vec![parse(first), parse(last), parse(last) + 1])
    };
    unique(values.into_iter().flat_map(range))
}

/// The first few and the last: it is the order of rules that may matter.
fn bounded(mut ids: Vec<u32>) -> Vec<u32> {
    if ids.len() > 4 {
        ids.drain(3..ids.len() - 1);
    }
    ids
}

/// The groups whose traffic is to be captured, or not to be.
fn owner_groups(vector: &Vector) -> Vec<u32> {
    let lists = vector.env.iter().filter(|(name, _)| name.contains("OWNER_GROUPS"));
    let numbers = lists.flat_map(|(_, list)| list.split(',')).filter_map(|group| {
        let file = vector.groups.as_deref().unwrap_or_default();
        let named = file.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(':')?.split(':').nth(1)).next();
        named.unwrap_or(group).parse().ok()
    });
    bounded(unique(numbers))
}

/// Decimal or, after `0x`, hexadecimal.
fn number(text: &str) -> u32 {
    text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u32::from_str_radix(digits, 16)).unwrap()
}

/// In their order, each once.
pub(crate) fn unique<T: Clone + PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}
