//! The door: `getsockopt` and `setsockopt` on a socket of the tables' family.
//!
//! iptables opens a raw socket here and so needs CAP_NET_RAW. The kernel asks for CAP_NET_ADMIN alone and takes the
//! options on any socket of the family. gVisor takes them on raw sockets only, so that one is tried where a datagram
//! socket is told that there is no such option.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::abi;
use super::bytes::put;
use super::feature::Feature;
use super::table::Info;
use crate::ruleset::{Counters, Family, TableName};

/// A socket through which one family's tables are read and written.
#[derive(Debug)]
pub(super) struct TableSocket {
    fd: OwnedFd,
    family: Family,
}

impl TableSocket {
    /// Opens a socket. EAFNOSUPPORT means that the kernel has no such family.
    pub(super) fn open(family: Family) -> Result<TableSocket, Errno> {
        let datagram = TableSocket { fd: open(family, SockType::Datagram)?, family };
        // Any question does to learn whether the options are there; this one changes nothing.
        match datagram.has_feature(Feature::Tcp) {
            Err(Errno::ENOPROTOOPT) => match open(family, SockType::Raw).map(|fd| TableSocket { fd, family }) {
                Ok(raw) if raw.has_feature(Feature::Tcp) != Err(Errno::ENOPROTOOPT) => Ok(raw),
                _ => Ok(datagram),
            },
            _ => Ok(datagram),
        }
    }

    /// What the kernel says of a table. Makes the table if the namespace does not have it yet.
    pub(super) fn info(&self, table: TableName) -> Result<Info, Errno> {
        let mut argument = vec![0; abi::getinfo::SIZE];
        put(&mut argument, 0, table.as_str().as_bytes());
        let length = self.get(abi::GET_INFO, &mut argument)?;
        argument.get(..length).and_then(Info::parse).ok_or(Errno::EPROTO)
    }

    /// The entries of a table of the size that [`TableSocket::info`] told. EAGAIN: it has changed since.
    pub(super) fn entries(&self, table: TableName, info: &Info) -> Result<Vec<u8>, Errno> {
        use abi::get_entries::{ENTRIES, SIZE_OF_ENTRIES};
        let size = usize::try_from(info.size).map_err(|_| Errno::EOVERFLOW)?;
        let mut argument = vec![0; ENTRIES.checked_add(size).ok_or(Errno::EOVERFLOW)?];
        put(&mut argument, 0, table.as_str().as_bytes());
        put(&mut argument, SIZE_OF_ENTRIES, &info.size.to_ne_bytes());
        let length = self.get(abi::GET_ENTRIES, &mut argument)?;
        if length != argument.len() {
            return Err(Errno::EPROTO);
        }
        argument.drain(..ENTRIES);
        Ok(argument)
    }

    /// Replaces a table by the one in `message` (see [`super::table::RawTable::to_replace`]) and returns the counters
    /// of the `old_entries` entries that went. EAGAIN: the table does not have that many any more.
    pub(super) fn replace(&self, message: &mut [u8], old_entries: u32) -> Result<Vec<Counters>, Errno> {
        use abi::replace::{COUNTERS, ENTRIES, NUM_COUNTERS};
        if message.len() < ENTRIES {
            return Err(Errno::EINVAL);
        }
        let mut counters = vec![[0_u64; 2]; old_entries as usize];
        put(message, NUM_COUNTERS, &old_entries.to_ne_bytes());
        put(message, COUNTERS, &(counters.as_mut_ptr() as u64).to_ne_bytes());
        self.set(abi::SET_REPLACE, message)?;
        Ok(counters.into_iter().map(|[packets, bytes]| Counters { packets, bytes }).collect())
    }

    /// Lets the kernel check the entries of `message`, as for a replacement, and refuse it before it looks for the table: for
    /// more counters than it ever makes room for. ENOMEM is what it says when nothing else is wrong. Kernels before 4.17
    /// make room for any number, and other kernels may not look at the number at all.
    pub(super) fn check(&self, message: &mut [u8]) -> Result<(), Errno> {
        put(message, abi::replace::NUM_COUNTERS, &abi::TOO_MANY_COUNTERS.to_ne_bytes());
        match self.set(abi::SET_REPLACE, message) {
            Err(Errno::ENOMEM) => Ok(()),
            // It has done what it was not to do.
            Ok(()) => Err(Errno::EPROTO),
            Err(errno) => Err(errno),
        }
    }

    /// Adds to the counters of a table's entries, all of them in order.
    pub(super) fn add_counters(&self, table: TableName, counters: &[Counters]) -> Result<(), Errno> {
        use abi::counters_info::{COUNTERS, NUM_COUNTERS};
        let mut message = vec![0; COUNTERS];
        put(&mut message, 0, table.as_str().as_bytes());
        put(&mut message, NUM_COUNTERS, &u32::try_from(counters.len()).map_err(|_| Errno::EOVERFLOW)?.to_ne_bytes());
        for counter in counters {
            message.extend(counter.packets.to_ne_bytes());
            message.extend(counter.bytes.to_ne_bytes());
        }
        self.set(abi::SET_ADD_COUNTERS, &message)
    }

    /// Whether the kernel has the extension in the revision that mesh-init needs. May make the kernel load a module.
    pub(super) fn has_feature(&self, feature: Feature) -> Result<bool, Errno> {
        self.has_revision(feature, feature.revision())
    }

    /// Whether the kernel has the extension in that revision. May make the kernel load a module.
    pub(super) fn has_revision(&self, feature: Feature, revision: u8) -> Result<bool, Errno> {
        // struct xt_get_revision
        let mut argument = vec![0; abi::EXTENSION_NAME_LEN + 1];
        put(&mut argument, 0, feature.name().as_bytes());
        put(&mut argument, abi::EXTENSION_NAME_LEN, &[revision]);
        let first = match self.family {
            Family::V4 => 66,
            Family::V6 => 68,
        };
        match self.get(first + i32::from(feature.is_target()), &mut argument) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT | Errno::EPROTONOSUPPORT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn level(&self) -> i32 {
        match self.family {
            Family::V4 => libc::SOL_IP,
            Family::V6 => libc::SOL_IPV6,
        }
    }

    /// `getsockopt` with an argument that is read and then written; how many bytes came back.
    fn get(&self, option: i32, argument: &mut [u8]) -> Result<usize, Errno> {
        let mut length = libc::socklen_t::try_from(argument.len()).map_err(|_| Errno::EOVERFLOW)?;
        // SAFETY: the kernel reads and writes at most `length` bytes at `argument`, a live and exclusively borrowed
        // buffer of that length, and one socklen_t at `length`.
        let result = unsafe { libc::getsockopt(self.fd.as_raw_fd(), self.level(), option, argument.as_mut_ptr().cast(), &raw mut length) };
        Errno::result(result)?;
        Ok(length as usize)
    }

    /// `setsockopt`. A message for [`abi::SET_REPLACE`] holds a pointer to as many counters as it says.
    fn set(&self, option: i32, message: &[u8]) -> Result<(), Errno> {
        let length = libc::socklen_t::try_from(message.len()).map_err(|_| Errno::EOVERFLOW)?;
        // SAFETY: the kernel reads `length` bytes at `message`, a live buffer of that length. For SET_REPLACE it also
        // writes the counters of the old entries to the address in the message: `replace` has put the number and the
        // address of a live vector's elements there, and `check`, the only other caller with that option, leaves the null
        // address there, to which the kernel fails to write.
        let result = unsafe { libc::setsockopt(self.fd.as_raw_fd(), self.level(), option, message.as_ptr().cast(), length) };
        Errno::result(result).map(drop)
    }
}

fn open(family: Family, kind: SockType) -> Result<OwnedFd, Errno> {
    let address_family = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    let protocol = (kind == SockType::Raw).then_some(SockProtocol::Raw);
    socket(address_family, kind, SockFlag::SOCK_CLOEXEC, protocol)
}
