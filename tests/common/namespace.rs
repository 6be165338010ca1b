//! Network namespaces of the tests' own, gone when their guard is.

use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::Family;
use super::user_namespace::UserNamespace;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A name that no other test, test process or left-over of one has.
fn unique(what: &str) -> String {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    format!("mit-{what}-{}-{number}-{nanos:x}", std::process::id())
}

/// A network namespace with `lo` up, and a folder for what belongs to it. Both are removed on drop.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    folder: PathBuf,
}

impl Namespace {
    /// A namespace with nothing but `lo`.
    pub(crate) fn new() -> Namespace {
        Namespace::made_by(|name| run(Command::new("ip").args(["netns", "add", name])))
    }

    /// The network namespace that belongs to `owner`, with `lo` up.
    pub(crate) fn of(owner: &UserNamespace) -> Namespace {
        Namespace::of_process(owner.pid())
    }

    /// The network namespace that a process is in, with `lo` up.
    pub(crate) fn of_process(pid: u32) -> Namespace {
        Namespace::made_by(|name| run(Command::new("ip").args(["netns", "attach", name, &pid.to_string()])))
    }

    fn made_by(make: impl FnOnce(&str) -> String) -> Namespace {
        let name = unique("ns");
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir(&folder).unwrap();
        let namespace = Namespace { name, folder };
        File::create(namespace.lock_file()).unwrap();
        make(&namespace.name);
        namespace.ip(&["link set lo up"]);
        namespace
    }

    /// A namespace like a pod's, whose `eth0` has these addresses (`10.9.0.2/24`); nobody is at the other end.
    pub(crate) fn pod(addresses: &[&str]) -> Namespace {
        let pod = Namespace::new();
        pod.give_eth0(addresses);
        pod
    }

    /// The same in the network namespace of `owner`.
    pub(crate) fn pod_of(owner: &UserNamespace, addresses: &[&str]) -> Namespace {
        let pod = Namespace::of(owner);
        pod.give_eth0(addresses);
        pod
    }

    fn give_eth0(&self, addresses: &[&str]) {
        self.ip(&["link add eth0 type veth peer name gate0"]);
        self.addresses("eth0", addresses);
        self.ip(&["link set gate0 up"]);
        self.await_local_routes(addresses);
    }

    /// Waits for the local routes of IPv6 addresses, which the kernel adds a moment after it took the addresses.
    pub(crate) fn await_local_routes(&self, addresses: &[&str]) {
        let mut missing: Vec<&str> = addresses.iter().filter(|text| text.contains(':')).filter_map(|text| text.split('/').next()).collect();
        let give_up = Instant::now() + Duration::from_secs(5);
        while !missing.is_empty() {
            let routes = self.output(&["ip", "-6", "route", "show", "table", "local"]);
            missing.retain(|address| !routes.contains(&format!("local {address} ")));
            assert!(Instant::now() < give_up, "no local routes for {missing:?}");
        }
    }

    /// The name that `ip netns` knows it by.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The path that `setns` and `--netns` take.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A folder for the test's files, readable by every user.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The lock file that iptables takes here, so that tests do not wait for each other.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.folder.join("xtables.lock")
    }

    /// Writes a file into [`folder`](Self::folder).
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs `ip` with these lines.
    pub(crate) fn ip(&self, lines: &[&str]) {
        feed(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), &lines.join("\n"));
    }

    /// Gives `device` these addresses and sets it up.
    pub(crate) fn addresses(&self, device: &str, addresses: &[&str]) {
        let mut lines: Vec<String> = addresses
            .iter()
            .map(|address| format!("addr add {address} dev {device}{}", if address.contains(':') { " nodad" } else { "" }))
            .collect();
        lines.push(format!("link set {device} up"));
        self.ip(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// A program that will run in the namespace.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command.env("XTABLES_LOCKFILE", self.lock_file());
        command
    }

    /// Runs a program in the namespace, which has to succeed, and returns its output.
    pub(crate) fn output(&self, words: &[&str]) -> String {
        run(self.command(words[0]).args(&words[1..]))
    }

    /// Runs `work` on a thread that is in the namespace. Sockets made there stay there wherever they are used.
    pub(crate) fn inside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.inside_as(0, 0, work)
    }

    /// The same on behalf of a user: sockets made by `work` belong to `uid` and `gid`, as the filter's owner match
    /// sees them.
    pub(crate) fn inside_as<R: Send>(&self, uid: u32, gid: u32, work: impl FnOnce() -> R + Send) -> R {
        let path = self.path();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
                // The file system ids are the thread's own (no library passes them on to other threads), and they
                // are what the owner match compares.
                setfsgid(Gid::from_raw(gid));
                setfsuid(Uid::from_raw(uid));
                work()
            });
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// The legacy tables that exist here, by family. None exists until somebody has asked for it.
    pub(crate) fn legacy_tables(&self) -> Vec<String> {
        self.inside(|| {
            ["ip_tables_names", "ip6_tables_names"]
                .iter()
                .flat_map(|name| {
                    let text = fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
                    text.lines().map(|table| format!("{name}: {table}")).collect::<Vec<_>>()
                })
                .collect()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nothing may panic here: the test may be failing already.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A pod and the rest of the world, joined by one veth pair (`eth0` in the pod, `pod0` outside).
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) pod: Namespace,
    pub(crate) outside: Namespace,
}

impl Network {
    /// The pod's addresses.
    pub(crate) const POD: [&'static str; 2] = ["10.9.0.2", "2001:db8:9::2"];
    /// The neighbour's addresses, on the same link.
    pub(crate) const NEIGHBOUR: [&'static str; 2] = ["10.9.0.1", "2001:db8:9::1"];
    /// Addresses far away, which the neighbour answers for.
    pub(crate) const FAR: [&'static str; 2] = ["192.0.2.1", "2001:db8:ffff::1"];
    /// More of those, for networks to exclude.
    pub(crate) const FURTHER: [&'static str; 2] = ["198.51.100.1", "2001:db8:eeee::1"];

    /// Both ends, up and with default routes.
    pub(crate) fn new() -> Network {
        Network::of(Namespace::new(), &Family::BOTH)
    }

    /// The same with a namespace that is there already for a pod, and with addresses of these families.
    pub(crate) fn of(pod: Namespace, families: &[Family]) -> Network {
        let outside = Namespace::new();
        pod.ip(&[&format!("link add eth0 type veth peer name pod0 netns {}", outside.name)]);
        for family in families {
            let (own, gate, far, default) = match family {
                Family::V4 => ("10.9.0.2/24", "10.9.0.1/24", ["192.0.2.1/32", "198.51.100.1/32"], "default via 10.9.0.1"),
                Family::V6 => {
                    ("2001:db8:9::2/64", "2001:db8:9::1/64", ["2001:db8:ffff::1/128", "2001:db8:eeee::1/128"], "::/0 via 2001:db8:9::1")
                }
            };
            pod.addresses("eth0", &[own]);
            outside.addresses("pod0", &[gate]);
            outside.addresses("lo", &far);
            pod.await_local_routes(&[own]);
            outside.await_local_routes(&[gate]);
            pod.ip(&[&format!("route add {default}")]);
        }
        Network { pod, outside }
    }

    /// A pod and a world that is at home at every address. Each device of the pod is joined to one of the world's, whose
    /// name begins with `to-` and which has the first addresses of the same networks. All else goes through the first.
    pub(crate) fn with(devices: &[(&str, Vec<IpNet>)]) -> Network {
        let (pod, outside) = (Namespace::new(), Namespace::new());
        for (device, addresses) in devices {
            // A device name has 15 characters at most.
            let peer = format!("to-{}", device.get(..12).unwrap_or(device));
            pod.ip(&[&format!("link add {device} type veth peer name {peer} netns {}", outside.name)]);
            let own: Vec<String> = addresses.iter().map(IpNet::to_string).collect();
            let far: Vec<String> = addresses.iter().map(|net| format!("{}/{}", first_address(*net), net.prefix_len())).collect();
            let (own, far): (Vec<&str>, Vec<&str>) = (own.iter().map(String::as_str).collect(), far.iter().map(String::as_str).collect());
            pod.addresses(device, &own);
            outside.addresses(&peer, &far);
            pod.await_local_routes(&own);
            outside.await_local_routes(&far);
        }
        // In the main table, the routes to the pod come before these.
        outside.ip(&["route add local 0.0.0.0/0 dev lo table main", "route add local ::/0 dev lo table main"]);
        let mut ways_out: Vec<&IpNet> = devices[0].1.iter().collect();
        ways_out.dedup_by_key(|net| net.addr().is_ipv4());
        for net in ways_out {
            let everything = if net.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            pod.ip(&[&format!("route add {everything} via {}", first_address(*net))]);
        }
        Network { pod, outside }
    }
}

/// The first address of a network that is not the network's own.
pub(crate) fn first_address(net: IpNet) -> IpAddr {
    match net.network() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() | 1).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() | 1).into(),
    }
}

/// Runs a command that has to succeed and returns its output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The same with text on its standard input.
pub(crate) fn feed(command: &mut Command, text: &str) {
    let problem = try_feed(command, text).err();
    assert!(problem.is_none(), "{command:?}: {}\n{text}", problem.unwrap_or_default());
}

/// The same for a command that may fail; then its error output is returned.
pub(crate) fn try_feed(command: &mut Command, text: &str) -> Result<(), String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that stops before the end of its input closes the pipe; its exit status tells.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
