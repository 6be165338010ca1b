//! Kernels that lack something, or forbid it: system calls that fail for the program under test, told apart by their
//! arguments.

use std::process::{Command, Output};

use nix::errno::Errno;
use nix::libc;

/// System calls that fail: those whose arguments (number and value) are these.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    call: libc::c_long,
    arguments: Vec<(u32, u32)>,
    errno: Errno,
}

/// The level of a family's socket options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Level {
    V4 = libc::SOL_IP as u32,
    V6 = libc::SOL_IPV6 as u32,
}

/// Asks for or replaces a table, in either family.
const INFO_OR_REPLACE: u32 = 64;

impl Refusal {
    fn options(call: libc::c_long, level: Level, option: Option<u32>, errno: Errno) -> Refusal {
        let arguments = [(1, level as u32)].into_iter().chain(option.map(|option| (2, option))).collect();
        Refusal { call, arguments, errno }
    }

    /// A kernel without IPv6.
    pub(crate) fn no_ipv6() -> Vec<Refusal> {
        Refusal::no_sockets(libc::AF_INET6, Errno::EAFNOSUPPORT)
    }

    /// No sockets of an address family.
    pub(crate) fn no_sockets(family: i32, errno: Errno) -> Vec<Refusal> {
        vec![Refusal { call: libc::SYS_socket, arguments: vec![(0, family as u32)], errno }]
    }

    fn netfilter_netlink(errno: Errno) -> Vec<Refusal> {
        vec![Refusal { call: libc::SYS_socket, arguments: vec![(0, libc::AF_NETLINK as u32), (2, libc::NETLINK_NETFILTER as u32)], errno }]
    }

    /// A kernel without nf_tables and everything else that speaks its netlink.
    pub(crate) fn no_netfilter_netlink() -> Vec<Refusal> {
        Refusal::netfilter_netlink(Errno::EPROTONOSUPPORT)
    }

    /// Somebody who forbids that netlink.
    pub(crate) fn forbidden_netfilter_netlink() -> Vec<Refusal> {
        Refusal::netfilter_netlink(Errno::EACCES)
    }

    /// A kernel without the legacy packet filter of a family.
    pub(crate) fn no_filter(level: Level) -> Vec<Refusal> {
        [libc::SYS_getsockopt, libc::SYS_setsockopt].map(|call| Refusal::options(call, level, None, Errno::ENOPROTOOPT)).into()
    }

    /// A packet filter without tables.
    pub(crate) fn no_table(level: Level) -> Vec<Refusal> {
        vec![Refusal::options(libc::SYS_getsockopt, level, Some(INFO_OR_REPLACE), Errno::ENOENT)]
    }

    /// A packet filter without matches and targets.
    pub(crate) fn no_features(level: Level) -> Vec<Refusal> {
        let first = if level == Level::V4 { 66 } else { 68 };
        let revisions = [first, first + 1].map(|option| Refusal::options(libc::SYS_getsockopt, level, Some(option), Errno::ENOENT));
        let replace = Refusal::options(libc::SYS_setsockopt, level, Some(INFO_OR_REPLACE), Errno::ENOENT);
        revisions.into_iter().chain([replace]).collect()
    }

    /// Somebody who forbids the packet filter's options.
    pub(crate) fn forbidden(level: Level) -> Vec<Refusal> {
        [libc::SYS_getsockopt, libc::SYS_setsockopt].map(|call| Refusal::options(call, level, None, Errno::EPERM)).into()
    }

    /// Somebody who lets nobody ask for the packet filter's options.
    pub(crate) fn unanswered(level: Level) -> Vec<Refusal> {
        vec![Refusal::options(libc::SYS_getsockopt, level, None, Errno::ENOSYS)]
    }

    /// The filter's instructions: falls through to the next refusal as soon as one test fails.
    fn compile(&self) -> Vec<libc::sock_filter> {
        /// `offsetof(struct seccomp_data, args)`; the low half of an argument comes first.
        const ARGUMENTS: u32 = 16;
        let call = u32::try_from(self.call).unwrap();
        let tests: Vec<(u32, u32)> =
            [(0, call)].into_iter().chain(self.arguments.iter().map(|(number, value)| (ARGUMENTS + 8 * number, *value))).collect();
        let mut filter = Vec::new();
        for (done, (offset, value)) in tests.iter().enumerate() {
            let rest = 2 * (tests.len() - done - 1) + 1;
            filter.push(instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, *offset, 0));
            filter.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *value, u8::try_from(rest).unwrap()));
        }
        filter.push(instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | self.errno as u32, 0));
        filter
    }
}

fn instruction(code: u32, k: u32, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap(), jt: 0, jf, k }
}

/// Runs a command to its end with these calls failing.
pub(crate) fn output(command: &mut Command, refusals: &[Refusal]) -> Output {
    // On a thread of its own, whose children inherit the filter and whose siblings do not.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            install(refusals).unwrap();
            command.output().unwrap()
        });
        thread.join().unwrap()
    })
}

fn install(refusals: &[Refusal]) -> nix::Result<()> {
    let mut filter: Vec<libc::sock_filter> = refusals.iter().flat_map(Refusal::compile).collect();
    filter.push(instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0));
    let program = libc::sock_fprog { len: u16::try_from(filter.len()).unwrap(), filter: filter.as_mut_ptr() };
    // SAFETY: the kernel reads `len` instructions at `filter`, a live vector of that length, and keeps a copy.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    Errno::result(result).map(drop)
}
