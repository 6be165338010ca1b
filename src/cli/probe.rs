//! `--probe`: traffic that shows whether what is planned happens.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::ArgMatches;
use ipnet::IpNet;
use nix::unistd::{getegid, geteuid};

use super::check::{Checks, Verdict};
use super::failure::{Code, Failure};
use super::flags;
use super::options::Common;
use super::session::{self, Environment, MeshOptions};
use crate::host::Surroundings;
use crate::host::probe::{self, Answer, AnsweringSockets, Arrival, Capture, Resolver, Trouble, Turn, Why};
use crate::kernel;
use crate::kernel::route::{self, Address};
use crate::mesh::captured::{Captured, captured, goes_to, is_nobodys, owners};
use crate::mesh::duration::duration;
use crate::mesh::flag::{BadValue, Flag, Kind, Origin};
use crate::mesh::istio::{DnsCapture, InterceptionMode};
use crate::mesh::value::socket_address;
use crate::mesh::{Mesh, Plan};
use crate::ruleset::walk::{Layers, Packet, Pod, loopback};
use crate::ruleset::{Family, IdRange, Protocol, Ruleset};

/// What `apply` and `verify` take besides. The name of the time is one of Istio's too, with the same meaning.
pub(super) const PROBE_OPTIONS: &[Flag] = &[
    Flag {
        long: "probe",
        short: None,
        kind: Kind::Switch,
        env: &["MESH_INIT_PROBE"],
        default: "false",
        help: "Connect as an application would, without leaving the pod, to see that it arrives at the proxy's port",
    },
    Flag {
        long: TIMEOUT,
        short: None,
        kind: Kind::Value,
        env: &["PROBE_TIMEOUT", "MESH_INIT_PROBE_TIMEOUT"],
        default: "5s",
        help: "How long each try of --probe, or of --run-validation, may take",
    },
    Flag {
        long: "connect-addr",
        short: None,
        kind: Kind::Value,
        env: &["MESH_INIT_CONNECT_ADDR"],
        default: "",
        help: "ADDRESS:PORT that --probe connects to instead of one that it finds captured",
    },
];

/// The option that Istio has too.
pub(super) const TIMEOUT: &str = "probe-timeout";

const DNS: u16 = 53;

/// A wish to probe.
#[derive(Debug)]
pub(super) struct Probing {
    options: MeshOptions,
    timeout: Duration,
    connect: Option<SocketAddr>,
    sockets: Option<AnsweringSockets>,
}

/// What became of one try.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    family: Family,
    end: End,
    said: String,
    remedy: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    /// The pod cannot send there.
    Unreachable,
    /// There is nothing that this user could try.
    Untried,
}

impl Probing {
    /// What `matches` ask for. Nothing may have been given up or entered yet.
    pub(super) fn read(
        mesh: Mesh,
        matches: &ArgMatches,
        common: &Common,
        environment: Environment<'_>,
    ) -> Result<Option<Probing>, Failure> {
        let bad = |error: BadValue| Failure::usage(error.to_string());
        // An empty variable says nothing.
        let said = |name: &str| environment(name).filter(|value| !value.is_empty());
        let given = flags::read(PROBE_OPTIONS, matches, &said);
        let (connect, timeout) = (given.get("connect-addr"), given.get(TIMEOUT));
        if !given.get("probe").switch().map_err(bad)? {
            return match connect.origin {
                Origin::Flag(_) => Err(Failure::usage("--connect-addr: nothing is connected to without --probe")),
                _ => Ok(None),
            };
        }
        let timeout = timeout.read(duration).map_err(bad)?;
        let connect = if connect.text.is_empty() { None } else { Some(connect.read(socket_address).map_err(bad)?) };
        let options = MeshOptions::read(mesh, matches, environment)?;
        let mut sockets = None;
        let idle = match &options {
            MeshOptions::Istio(istio) => {
                if istio.dns_capture != DnsCapture::Off {
                    session::enter_namespace(common)?;
                    let uid = istio.proxy_uids(&Surroundings::default()).first().map(|ids| ids.first);
                    sockets = uid.and_then(AnsweringSockets::of_user);
                }
                [("--dry-run", istio.dry_run), ("--cleanup-only", istio.cleanup_only)].into_iter().find(|(_, is_set)| *is_set)
            }
            MeshOptions::Linkerd(linkerd) => linkerd.simulate.then_some(("--simulate", true)),
        };
        match idle {
            Some((flag, _)) => Err(Failure::usage(format!("--probe: with {flag} no rules are installed that could be tried"))),
            None => Ok(Some(Probing { options, timeout, connect, sockets })),
        }
    }

    /// Tries every family of the plan.
    pub(super) fn run(mut self, common: &Common) -> Result<Vec<Tried>, Failure> {
        try_all(&self.options, common, self.timeout, self.connect, self.sockets.as_mut())
    }
}

/// Tries every family of what is planned for `options`. Needs no privilege.
pub(super) fn try_all(
    options: &MeshOptions,
    common: &Common,
    timeout: Duration,
    connect: Option<SocketAddr>,
    sockets: Option<&mut AnsweringSockets>,
) -> Result<Vec<Tried>, Failure> {
    let (plan, surroundings) = session::planned(options, common, None)?;
    let addresses = route::open(common.deadline()).and_then(|mut socket| route::addresses(&mut socket)).map_err(kernel::Error::from)?;
    let mut tries = Tries {
        options,
        ask_original: session::check_release(common).is_ok(),
        timeout,
        connect,
        sockets,
        plan: &plan,
        surroundings: &surroundings,
        addresses,
        tried: Vec::new(),
    };
    let _turn = Turn::take(timeout);
    for rules in &plan.rulesets {
        tries.family(rules);
    }
    Ok(tries.tried)
}

/// What is tried, and what came of it.
struct Tries<'a> {
    options: &'a MeshOptions,
    /// Whether the kernel may be asked for a connection's original destination.
    ask_original: bool,
    timeout: Duration,
    connect: Option<SocketAddr>,
    sockets: Option<&'a mut AnsweringSockets>,
    plan: &'a Plan,
    surroundings: &'a Surroundings,
    addresses: Vec<Address>,
    tried: Vec<Tried>,
}

impl Tries<'_> {
    fn family(&mut self, rules: &Ruleset) {
        let family = rules.family;
        let own = (geteuid().as_raw(), getegid().as_raw());
        let pod = Pod::new(self.addresses.iter().map(|one| one.address).collect(), &self.plan.routing);
        let mut tcp = packet(Protocol::TCP, own);
        let connect = self.connect.filter(|to| to.is_ipv4() == (family == Family::V4));
        let found = match connect {
            Some(to) => {
                tcp.device = device(&self.addresses, to.ip());
                match goes_to(&Layers::of_plan(rules), &pod, &mut tcp, to) {
                    Ok(port) => Some(Captured { to, port }),
                    Err(instead) => {
                        self.add(
                            family,
                            End::Failed,
                            format!("the plan does not redirect connections of user {} to {to}: {instead}", own.0),
                        );
                        return;
                    }
                }
            }
            None => self.find(rules, &pod, &tcp, &[], None),
        };
        match found {
            Some(Captured { to, .. }) if self.is_near(to.ip()) => {
                self.add(
                    family,
                    End::Unreachable,
                    format!("{to} is on the pod's own link: should the rules fail, a host would be reached"),
                );
            }
            Some(captured) => self.connect(family, None, captured),
            None => {
                let other = owners(rules).into_iter().find_map(|other| self.find(rules, &pod, &packet(Protocol::TCP, other), &[], None));
                self.add(
                    family, End::Untried,
                    match other {
                        Some(other) => format!(
                            "connections of user {} and group {} are exempt from the capture, which others' to {} are not: run as an application's user to try it",
                            own.0, own.1, other.to
                        ),
                        None => "nothing to try: no destination beyond the pod's own link was found that the plan captures".to_owned(),
                    },
                );
            }
        }
        self.passthrough(rules, &pod, own);
        self.query(rules, &pod, own);
    }

    /// Istio's own probe, which only the proxy's user can pass.
    fn passthrough(&mut self, rules: &Ruleset, pod: &Pod, (uid, gid): (u32, u32)) {
        let MeshOptions::Istio(istio) = &self.options else { return };
        if !contains(&istio.proxy_uids(self.surroundings), uid) {
            return;
        }
        let family = rules.family;
        let to = SocketAddr::new(probe::passthrough(family), istio.iptables_probe_port);
        let from = loopback(family);
        let mut tcp = packet(Protocol::TCP, (uid, gid));
        tcp.source = Some(from);
        if let Ok(port) = goes_to(&Layers::of_plan(rules), pod, &mut tcp, to) {
            self.connect(family, Some(from), Captured { to, port });
        }
    }

    fn connect(&mut self, family: Family, from: Option<IpAddr>, Captured { to, port }: Captured) {
        let confined = !to.ip().is_loopback() && !is_nobodys(to.ip());
        let capture = Capture { from, to, port, ask_original: self.ask_original, confined, timeout: self.timeout };
        let arrived = format!("a connection to {to} arrived at port {port}");
        match capture.run() {
            Ok(Arrival::Original) => self.add(family, End::Passed, format!("{arrived}, with its original destination")),
            Ok(Arrival::Unasked) => self.add(family, End::Passed, format!("{arrived}; its original destination was not asked for")),
            Ok(Arrival::At { uid }) => {
                let (uids, others) = self.proxies();
                if uids.is_empty() || contains(&uids, uid) || others {
                    self.add(
                        family,
                        End::Passed,
                        format!("{arrived}, where user {uid} listens already, who alone can ask for its original destination"),
                    );
                } else {
                    self.add(
                        family,
                        End::Failed,
                        format!("{arrived}, but user {uid} listens there, who is not the proxy's: find out what holds the proxy's port"),
                    );
                }
            }
            Err(trouble) => self.trouble(family, &trouble),
        }
    }

    /// A DNS query, where the plan captures such.
    fn query(&mut self, rules: &Ruleset, pod: &Pod, own: (u32, u32)) {
        let family = rules.family;
        let servers = match &self.surroundings.dns_servers {
            Some(Ok(servers)) => &servers[..],
            _ => &[],
        };
        let Some(Captured { to, port }) = self.find(rules, pod, &packet(Protocol::UDP, own), servers, Some(DNS)) else { return };
        let uids = self.proxies().0;
        let sockets = self.sockets.as_deref_mut().filter(|sockets| contains(&uids, sockets.uid()));
        let arrived = format!("a DNS query to {to} arrived at port {port}");
        let confined = !is_nobodys(to.ip());
        if confined && family == Family::V4 {
            let mut by_lo = packet(Protocol::UDP, own);
            (by_lo.source, by_lo.device) = (Some(loopback(family)), Some("lo".to_owned()));
            if goes_to(&Layers::of_plan(rules), pod, &mut by_lo, to) != Ok(port) {
                self.add(
                    family,
                    End::Untried,
                    format!("should the rules fail, a query to {to} could reach a real resolver, and the plan does not capture it by lo"),
                );
                return;
            }
        }
        match (Resolver { server: to, port, confined, timeout: self.timeout }).run(sockets) {
            Ok(Answer::CameBack) => self.add(family, End::Passed, format!("{arrived}, and its answer came back from {to}")),
            Ok(Answer::NotSent) => {
                self.add(
                    family,
                    End::Passed,
                    format!("{arrived}; only the proxy's user could answer it (this user would need CAP_SETUID for that)"),
                );
            }
            Ok(Answer::Given) => {
                self.add(
                    family,
                    End::Passed,
                    format!("a DNS query to {to} was answered from there by the resolver that listens on port {port} already"),
                );
            }
            Err(trouble) => self.trouble(family, &trouble),
        }
    }

    /// The proxy's user ids, and whether it may have others: its group may exempt it too.
    fn proxies(&self) -> (Vec<IdRange>, bool) {
        match self.options {
            MeshOptions::Istio(istio) => {
                let by_group = istio.inbound_interception_mode == InterceptionMode::Tproxy || !istio.proxy_gid.is_empty();
                (istio.proxy_uids(self.surroundings), by_group)
            }
            MeshOptions::Linkerd(linkerd) => (linkerd.proxy_uid.map(IdRange::single).into_iter().collect(), linkerd.proxy_gid.is_some()),
        }
    }

    fn find(&self, rules: &Ruleset, pod: &Pod, packet: &Packet, given: &[IpAddr], port: Option<u16>) -> Option<Captured> {
        captured(rules, pod, packet, given, port, &|address| {
            (given.contains(&address) || !self.is_near(address)).then(|| device(&self.addresses, address))
        })
    }

    /// Whether a host of that address would be the first hop itself.
    fn is_near(&self, address: IpAddr) -> bool {
        let of_link = |own: &Address| IpNet::new(own.address, own.prefix_len).is_ok_and(|net| net.contains(&address));
        let link_local = match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        !address.is_loopback() && (link_local || self.addresses.iter().any(of_link) || !is_nobodys(address) && probe::is_on_link(address))
    }

    fn trouble(&mut self, family: Family, trouble: &Trouble) {
        let end = match trouble.why {
            Why::NoRoute(_) => End::Unreachable,
            Why::NotConfined(_) => End::Untried,
            _ => End::Failed,
        };
        self.tried.push(Tried { family, end, said: trouble.to_string(), remedy: trouble.hint() });
    }

    fn add(&mut self, family: Family, end: End, said: String) {
        self.tried.push(Tried { family, end, said, remedy: "" });
    }
}

fn contains(ids: &[IdRange], id: u32) -> bool {
    ids.iter().any(|ids| ids.contains(id))
}

/// The first packet of a connection, by a user and a group, to nowhere yet.
fn packet(protocol: Protocol, (uid, gid): (u32, u32)) -> Packet {
    Packet { destination: None, destination_port: None, ..Packet::out(protocol, IpAddr::from([0; 4]), 0).by(uid, gid) }
}

/// The device by which what goes to `address` leaves: the one that has the address from which it would come.
fn device(addresses: &[Address], address: IpAddr) -> Option<String> {
    let source = probe::source_towards(address)?;
    let own = addresses.iter().find(|own| own.address == source)?;
    probe::device_name(own.ifindex)
}

impl Tried {
    /// `IPv4: …; …`
    fn text(&self) -> String {
        let separator = if self.remedy.is_empty() { "" } else { "; " };
        format!("{}: {}{separator}{}", self.family, self.said, self.remedy)
    }
}

/// The lines that say what was found.
pub(super) fn lines(tried: &[Tried]) -> Vec<String> {
    let line = |one: &Tried| {
        let end = match one.end {
            End::Passed => "probe: ",
            End::Failed => "probe: failed: ",
            End::Unreachable | End::Untried => "probe: not tried: ",
        };
        [end, &one.text()].concat()
    };
    tried.iter().map(line).collect()
}

/// Adds it to a report.
pub(super) fn record(tried: &[Tried], checks: &mut Checks) {
    for one in tried {
        let name = if one.family == Family::V4 { "probe-ipv4" } else { "probe-ipv6" };
        let verdict = match one.end {
            End::Passed => Verdict::Ok,
            End::Unreachable | End::Untried => Verdict::Warning,
            End::Failed => Verdict::Blocker,
        };
        checks.add(name, verdict, &one.said, one.remedy);
    }
}

/// Whether a try succeeded.
pub(super) fn any_passed(tried: &[Tried]) -> bool {
    tried.iter().any(|one| one.end == End::Passed)
}

/// Fails if a try failed, if none could be made because the pod cannot send anywhere, or if the kernel is one that could
/// not be asked for everything.
pub(super) fn judge(tried: &[Tried], common: &Common) -> Result<(), Failure> {
    let first = |end| tried.iter().find(|one| one.end == end);
    let failed = first(End::Failed).or_else(|| first(End::Unreachable).filter(|_| !any_passed(tried)));
    match failed {
        Some(one) => Err(Failure::new(Code::Failed, format!("the probe failed: {}", one.text()), None)),
        // Traffic arrives, and the proxy would hang.
        None => session::check_release(common),
    }
}
