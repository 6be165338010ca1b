//! The traffic matrix: who connects where lands where. The same questions are asked in two pods, and the answers compared.

pub(crate) mod client;
pub(crate) mod listeners;
pub(crate) mod mentioned;
pub(crate) mod question;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;

use super::Family;
use super::fixture::Vector;
use super::namespace::Network;
use client::{SILENCE, ask};
use listeners::Listeners;
use mentioned::{Mentioned, unique};
use question::{Place, Question, questions, transit};

/// How long an answer is waited for, and how long where that made a difference: the machine may have been busy.
pub(crate) const PATIENCE: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(1500)];

/// The table of connection tracking, in a process's folder.
const TRACKED: &str = "net/nf_conntrack";

/// A pod like a vector's in a world that is at home at every address, with servers on all ports that matter.
pub(crate) struct Scene {
    _listeners: [Listeners; 3],
    pub(crate) network: Network,
    questions: Vec<Question>,
}

/// Questions and their answers.
pub(crate) type Answers = BTreeMap<String, String>;

impl Scene {
    /// The pod's rules are `install`'s business.
    pub(crate) fn new(vector: &Vector, install: impl FnOnce(&Network)) -> Scene {
        let mentioned = Mentioned::by(vector);
        let devices = devices(vector, &mentioned);
        let network = Network::with(&devices);
        for (via, to) in transit(&mentioned, &devices) {
            network.outside.ip(&[&format!("route add {} via {via}", IpNet::from(to))]);
        }
        install(&network);
        let (proxy_ports, app_ports) = mentioned.ports.iter().partition::<Vec<u16>, _>(|port| mentioned.proxy_ports.contains(port));
        let (proxy_udp, app_udp) = mentioned.udp_ports.iter().partition::<Vec<u16>, _>(|port| mentioned.proxy_ports.contains(port));
        let listeners = [
            Listeners::start("the proxy", &network.pod, mentioned.proxy, mentioned.mark.is_some(), &proxy_ports, &proxy_udp),
            Listeners::start("the application", &network.pod, super::traffic::APP, false, &app_ports, &app_udp),
            Listeners::start("the world", &network.outside, (0, 0), true, &mentioned.ports, &mentioned.udp_ports),
        ];
        Scene { _listeners: listeners, network, questions: questions(&mentioned, &devices) }
    }

    /// A pod in which the real iptables has loaded the vector's rules.
    pub(crate) fn with_expected_rules(vector: &Vector) -> Scene {
        Scene::with_rules(vector, &Family::BOTH.map(|family| vector.text(family)))
    }

    /// The same with other rules beside the vector's routes.
    pub(crate) fn with_rules(vector: &Vector, rules: &[String; 2]) -> Scene {
        Scene::new(vector, |Network { pod, .. }| {
            for (family, text) in Family::BOTH.into_iter().zip(rules) {
                pod.legacy_restore(family, text);
            }
            for route in &vector.policy_routes {
                let everything = if route.family == 4 { "0.0.0.0/0" } else { "::/0" };
                let rule = format!("ip -{} rule add fwmark {} lookup {}", route.family, route.mark, route.table);
                pod.output(&rule.split(' ').collect::<Vec<_>>());
                pod.ip(&[&format!("route add local {everything} dev lo table {}", route.table)]);
            }
            if vector.lo_has_6 {
                pod.ip(&["addr add ::6/128 dev lo"]);
                pod.await_local_routes(&["::6/128"]);
            }
        })
    }

    /// Asks everything.
    pub(crate) fn answers(&self, patience: Duration) -> Answers {
        let mut answers = Answers::new();
        for (place, who) in unique(self.questions.iter().map(|question| (question.place, question.who))) {
            let namespace = if place == Place::Pod { &self.network.pod } else { &self.network.outside };
            let questions: Vec<Question> =
                self.questions.iter().filter(|question| (question.place, question.who) == (place, who)).copied().collect();
            let given = namespace.inside_as(who.0, who.1, || ask(&questions, patience));
            answers.extend(questions.iter().map(Question::to_string).zip(given));
        }
        assert_eq!(answers.len(), self.questions.len(), "questions that read alike");
        answers.extend(self.zones().into_iter().map(|flow| (flow, "yes".to_owned())));
        answers
    }

    /// What connection tracking keeps apart from the rest; nothing where the kernel does not show it. Most rules that do so
    /// could not be told from their absence otherwise.
    fn zones(&self) -> BTreeSet<String> {
        let table = self.network.pod.inside(|| std::fs::read_to_string(format!("/proc/thread-self/{TRACKED}")));
        let table = table.unwrap_or_default();
        let flows = table.lines().filter(|line| line.contains(" udp ") && !line.contains(" zone=0 "));
        flows.map(|line| format!("tracked apart: {}", line.split_whitespace().filter_map(lasting).collect::<Vec<_>>().join(" "))).collect()
    }
}

/// Whether the kernel shows what it keeps apart.
pub(crate) fn zones_are_shown() -> bool {
    std::fs::exists(format!("/proc/self/{TRACKED}")).unwrap()
}

/// A word of connection tracking's, without what changes with time.
fn lasting(word: &str) -> Option<&str> {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    ["src", "dst", "sport", "dport", "[UNREPLIED]", "zone", "zone-orig", "zone-reply"].contains(&name).then_some(word)
}

/// The pod's own device, and those that the vector speaks of, with addresses of the same families.
fn devices<'a>(vector: &Vector, mentioned: &'a Mentioned) -> Vec<(&'a str, Vec<IpNet>)> {
    let own: Vec<IpNet> = vector.addresses.iter().map(|address| address.parse().unwrap()).collect();
    let mut families: Vec<bool> = own.iter().map(|net| net.addr().is_ipv4()).collect();
    families.dedup();
    let further = mentioned.devices.iter().zip(1..).map(|(device, number)| {
        let addresses = families.iter().map(|is_ipv4| {
            let address = if *is_ipv4 { format!("10.77.{number}.2/24") } else { format!("fd00:77:{number}::2/64") };
            address.parse().unwrap()
        });
        (device.as_str(), addresses.collect())
    });
    std::iter::once(("eth0", own.clone())).chain(further).collect()
}

/// How the answers differ, a paragraph each.
pub(crate) fn differences(expected: &Answers, found: &Answers) -> Vec<String> {
    let questions: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let nothing = "nothing".to_owned();
    let pairs =
        questions.into_iter().map(|question| (question, [expected, found].map(|answers| answers.get(question).unwrap_or(&nothing))));
    pairs
        .filter(|(_, [expected, found])| expected != found)
        .map(|(question, [expected, found])| format!("{question}:\n   expected {expected}\n      found {found}"))
        .collect()
}

/// Whether patience may be all that the differing answers lack.
pub(crate) fn is_a_matter_of_time(expected: &Answers, found: &Answers) -> bool {
    let is_late = |answers: &Answers, others: &Answers| {
        answers.iter().any(|(question, answer)| answer == SILENCE && others.get(question) != Some(answer))
    };
    is_late(expected, found) || is_late(found, expected)
}

/// How many questions nobody answered.
pub(crate) fn unanswered(answers: &Answers) -> usize {
    answers.values().filter(|answer| *answer == SILENCE).count()
}
