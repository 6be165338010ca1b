//! A netlink socket that asks and waits for the answer.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, getsockopt, recv, send, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::{setsockopt_impl, sockopt_impl};

use super::wire::{AttributeWriter, Attributes, HEADER_LEN, Header, Malformed, Message, Messages, TooLong, append_message, i32_at, u32_at};

sockopt_impl!(
    /// `NETLINK_EXT_ACK`: errors come with a sentence, where the kernel has one.
    ExtendedAck, SetOnly, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, bool);
sockopt_impl!(
    /// `NETLINK_CAP_ACK`: errors do not repeat the message that caused them.
    CappedAck, SetOnly, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, bool);

// The kernel's flags are 16 bits wide; libc has them as int.
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const DUMP_INTERRUPTED: u16 = libc::NLM_F_DUMP_INTR as u16;
const CAPPED: u16 = libc::NLM_F_CAPPED as u16;
const ACK_TLVS: u16 = libc::NLM_F_ACK_TLVS as u16;
const NOOP: u16 = libc::NLMSG_NOOP as u16;
const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;
const OVERRUN: u16 = libc::NLMSG_OVERRUN as u16;

/// In an error: the attribute with the kernel's sentence.
#[doc(alias = "NLMSGERR_ATTR_MSG")]
const ERROR_TEXT: u16 = 1;
/// In an error: where in the refused message the attribute begins that the kernel did not like.
#[doc(alias = "NLMSGERR_ATTR_OFFS")]
const ERROR_OFFSET: u16 = 2;

/// What the kernel writes into one datagram at most: as much as the longest buffer that it has been given, but not more than
/// 32 KiB, and the size of a page or 8 KiB in any case (`netlink_recvmsg`, `netlink_dump`). Small to begin with, since memory
/// that is touched for the first time costs more than another system call.
const RECEIVE_BUFFER: usize = 8 * 1024;
const LONGEST_RECEIVE_BUFFER: usize = 32 * 1024;

const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(libc::nlmsgerr, error) == 0);
    assert!(offset_of!(libc::nlmsgerr, msg) == 4);
};

/// The kernel's side of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Addresses, links, routes and policy rules.
    #[doc(alias = "NETLINK_ROUTE")]
    Route,
    /// nf_tables and the rest of netfilter.
    #[doc(alias = "NETLINK_NETFILTER")]
    Netfilter,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Route => "rtnetlink",
            Protocol::Netfilter => "netfilter netlink",
        })
    }
}

/// Why the kernel gave no answer, or refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open the {protocol} socket: {errno}")]
    Open {
        /// Which one.
        protocol: Protocol,
        /// The kernel's reason.
        errno: Errno,
    },
    /// The message could not be sent.
    #[error("cannot send a netlink message: {0}")]
    Send(Errno),
    /// No answer could be read.
    #[error("cannot receive the kernel's netlink answer: {0}")]
    Receive(Errno),
    /// The deadline passed.
    #[error("the kernel did not answer a netlink message in time")]
    Timeout,
    /// The kernel's tables changed during every attempt to list them, until the deadline.
    #[error("the kernel's tables kept changing while they were listed")]
    KeptChanging,
    /// The kernel said no.
    #[error("{errno}{}", text.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused {
        /// Its error number.
        errno: Errno,
        /// Its sentence, where it has one.
        text: Option<String>,
        /// Where in the message the attribute begins that it refused, where it says so.
        offset: Option<u32>,
    },
    /// What should be sent is too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The answer could not be understood.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl NetlinkError {
    /// The kernel's error number, where it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            NetlinkError::Open { errno, .. }
            | NetlinkError::Send(errno)
            | NetlinkError::Receive(errno)
            | NetlinkError::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether a request that failed so may have been carried out all the same: it was sent, and the kernel's verdict
    /// on it is not known.
    pub fn leaves_doubt(&self) -> bool {
        match self {
            NetlinkError::Receive(_) | NetlinkError::Timeout | NetlinkError::Malformed(_) => true,
            NetlinkError::Open { .. }
            | NetlinkError::Send(_)
            | NetlinkError::KeptChanging
            | NetlinkError::Refused { .. }
            | NetlinkError::TooLong(_) => false,
        }
    }
}

/// A netlink socket of the network namespace that its thread was in when it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    deadline: Instant,
    sequence: u32,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl Socket {
    /// A socket on which nothing is waited for after `deadline`. Needs no capability.
    pub fn open(protocol: Protocol, deadline: Instant) -> Result<Socket, NetlinkError> {
        let number = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, number)
            .map_err(|errno| NetlinkError::Open { protocol, errno })?;
        // Both only make errors speak better; kernels before 4.12 know neither.
        let _ = setsockopt(&fd, ExtendedAck, &true);
        let _ = setsockopt(&fd, CappedAck, &true);
        Ok(Socket { fd, deadline, sequence: 0, outgoing: Vec::new(), incoming: vec![0; RECEIVE_BUFFER] })
    }

    /// A socket at whose other end somebody plays the kernel.
    #[cfg(test)]
    pub(in crate::kernel) fn to_double(fd: OwnedFd, deadline: Instant) -> Socket {
        Socket { fd, deadline, sequence: 0, outgoing: Vec::new(), incoming: vec![0; LONGEST_RECEIVE_BUFFER] }
    }

    /// Sends one message and waits until the kernel has done what it asks, or refused.
    pub fn request(
        &mut self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        fill: impl FnOnce(&mut AttributeWriter<'_>),
    ) -> Result<(), NetlinkError> {
        self.query(kind, flags, fixed, fill, |_| Ok(None::<()>)).map(drop)
    }

    /// Sends one message and collects what `parse` makes of the answers.
    pub fn query<T>(
        &mut self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        fill: impl FnOnce(&mut AttributeWriter<'_>),
        mut parse: impl FnMut(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Vec<T>, NetlinkError> {
        let sequence = self.ask(kind, REQUEST | ACK | flags, fixed, fill)?;
        let mut answers = Vec::new();
        self.collect(sequence, &mut parse, &mut answers)?;
        Ok(answers)
    }

    /// Sends one message that is answered by one other, and returns what `parse` makes of that.
    pub fn get<T>(
        &mut self,
        kind: u16,
        fixed: &[u8],
        parse: impl Fn(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<T, NetlinkError> {
        let sequence = self.ask(kind, REQUEST, fixed, |_| {})?;
        loop {
            for message in Messages::new(self.receive()?) {
                let message = message?;
                match message.kind {
                    _ if message.sequence != sequence => {}
                    ERROR => {
                        verdict(&message)?;
                        return Err(Malformed("acknowledgement in the place of an answer").into());
                    }
                    _ => {
                        if let Some(answer) = parse(&message)? {
                            return Ok(answer);
                        }
                    }
                }
            }
        }
    }

    /// Asks for a list and collects what `parse` makes of its entries. A list that changed while it was read is read
    /// again.
    pub fn dump<T>(
        &mut self,
        kind: u16,
        fixed: &[u8],
        parse: impl FnMut(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.dump_of(kind, fixed, |_| {}, parse)
    }

    /// The same for a part of a list, which the attributes that `fill` writes name.
    pub fn dump_of<T>(
        &mut self,
        kind: u16,
        fixed: &[u8],
        fill: impl Fn(&mut AttributeWriter<'_>),
        mut parse: impl FnMut(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut entries = Vec::new();
        loop {
            let sequence = self.ask(kind, REQUEST | DUMP, fixed, &fill)?;
            let interrupted = self.collect(sequence, &mut parse, &mut entries)?;
            if !interrupted {
                return Ok(entries);
            }
            if Instant::now() >= self.deadline {
                return Err(NetlinkError::KeptChanging);
            }
            entries.clear();
        }
    }

    fn ask(&mut self, kind: u16, flags: u16, fixed: &[u8], fill: impl FnOnce(&mut AttributeWriter<'_>)) -> Result<u32, NetlinkError> {
        let sequence = self.next_sequence();
        let mut buffer = std::mem::take(&mut self.outgoing);
        buffer.clear();
        let result = append_message(&mut buffer, Header { kind, flags, sequence }, fixed, fill).map_err(NetlinkError::from);
        let result = result.and_then(|()| self.send(&buffer));
        self.outgoing = buffer;
        result.map(|()| sequence)
    }

    /// Reads until the message numbered `sequence` is answered in full. Whether the list that it asked for changed
    /// meanwhile is the result.
    fn collect<T>(
        &mut self,
        sequence: u32,
        parse: &mut impl FnMut(&Message<'_>) -> Result<Option<T>, Malformed>,
        into: &mut Vec<T>,
    ) -> Result<bool, NetlinkError> {
        let mut interrupted = false;
        loop {
            for message in Messages::new(self.receive()?) {
                let message = message?;
                // An answer to an earlier message that nobody waited for.
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    NOOP => {}
                    OVERRUN => return Err(NetlinkError::Receive(Errno::EOVERFLOW)),
                    ERROR | DONE => {
                        verdict(&message)?;
                        return Ok(interrupted);
                    }
                    _ => into.extend(parse(&message)?),
                }
            }
        }
    }

    /// Sends a batch, the messages numbered from `first` to `last` (the last asking for an acknowledgement), and reads all
    /// the answers: the refusals, each with the number of the message that it is about. One of `first` is about the batch
    /// as a whole, which then was not looked at further.
    pub fn batch(&mut self, bytes: &[u8], first: u32, last: u32) -> Result<Vec<(u32, NetlinkError)>, NetlinkError> {
        self.make_room(bytes.len());
        self.send(bytes)?;
        let mut refusals = Vec::new();
        let mut answered = false;
        while !answered {
            for message in Messages::new(self.receive()?) {
                let message = message?;
                match message.kind {
                    OVERRUN => return Err(NetlinkError::Receive(Errno::EOVERFLOW)),
                    ERROR if (first..=last).contains(&message.sequence) => {
                        let refusal = verdict(&message).err();
                        answered |= message.sequence == last || (message.sequence == first && refusal.is_some());
                        refusals.extend(refusal.map(|refusal| (message.sequence, refusal)));
                    }
                    _ => {}
                }
            }
        }
        Ok(refusals)
    }

    /// Sees to it that a message of `len` bytes may be sent at once.
    fn make_room(&self, len: usize) {
        // What the kernel adds for its own bookkeeping; its default is some 200 KiB.
        const OVERHEAD: usize = 4096;
        let wanted = len + OVERHEAD;
        if getsockopt(&self.fd, sockopt::SndBuf).is_ok_and(|have| have >= wanted) {
            return;
        }
        // The first passes the system's limit, and is for the initial user namespace only. Whether either did is seen when
        // the message is sent.
        if setsockopt(&self.fd, sockopt::SndBufForce, &wanted).is_err() {
            let _ = setsockopt(&self.fd, sockopt::SndBuf, &wanted);
        }
    }

    /// A number for the next message, never 0.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        self.sequence
    }

    /// Takes the numbers up to `last` as used, for messages that were numbered from `first`, which [`Socket::next_sequence`]
    /// gave.
    pub fn skip_sequences(&mut self, first: u32, last: u32) {
        self.sequence = self.sequence.wrapping_add(last.wrapping_sub(first)).wrapping_add(1);
    }

    /// Sends `bytes`, one message or a batch, as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), NetlinkError> {
        loop {
            match send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(NetlinkError::Send(errno)),
            }
        }
    }

    /// Waits for the next datagram, which may hold several messages.
    pub fn receive(&mut self) -> Result<&[u8], NetlinkError> {
        // The kernel answers within the call that asks, so that the answer is nearly always there already.
        let mut flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.incoming, flags) {
                // Netlink throws away what does not fit.
                Ok(len) if len > self.incoming.len() => return Err(NetlinkError::Receive(Errno::EMSGSIZE)),
                Ok(len) => {
                    if len > self.incoming.len() / 8 * 7 && self.incoming.len() < LONGEST_RECEIVE_BUFFER {
                        // A full one: the list goes on, in longer parts.
                        self.incoming.resize(LONGEST_RECEIVE_BUFFER, 0);
                    }
                    return Ok(&self.incoming[..len]);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let left = self.deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(NetlinkError::Timeout);
                    }
                    setsockopt(&self.fd, sockopt::ReceiveTimeout, &time_value(left)).map_err(NetlinkError::Receive)?;
                    flags = MsgFlags::MSG_TRUNC;
                }
                Err(errno) => return Err(NetlinkError::Receive(errno)),
            }
        }
    }
}

/// A timeout as the kernel takes it: at least a microsecond, since 0 would mean for ever.
fn time_value(left: Duration) -> TimeVal {
    TimeVal::microseconds(i64::try_from(left.as_micros()).unwrap_or(i64::MAX).max(1))
}

/// What an acknowledgement or the end of a list says.
fn verdict(message: &Message<'_>) -> Result<(), NetlinkError> {
    let is_error = message.kind == ERROR;
    if message.payload.is_empty() && !is_error {
        return Ok(());
    }
    let code = i32_at(message.payload, 0)?;
    if code >= 0 {
        return Ok(());
    }
    let (text, offset) = if message.flags & ACK_TLVS != 0 { extended(message, is_error).unwrap_or_default() } else { (None, None) };
    Err(NetlinkError::Refused { errno: Errno::from_raw(code.saturating_neg()), text, offset })
}

/// The sentence and the offset that an error may carry.
fn extended(message: &Message<'_>, is_error: bool) -> Result<(Option<String>, Option<u32>), Malformed> {
    let mut fixed = size_of::<i32>();
    if is_error {
        // The message that is refused follows: its header only, or all of it.
        fixed = match message.flags & CAPPED {
            0 => fixed.saturating_add(usize::try_from(u32_at(message.payload, fixed)?).unwrap_or(usize::MAX)),
            _ => fixed + HEADER_LEN,
        };
    }
    let attributes = Attributes::after(message.payload, fixed)?;
    let text = attributes.find(ERROR_TEXT)?.map(|attribute| attribute.text()).transpose()?;
    let offset = attributes.find(ERROR_OFFSET)?.map(|attribute| attribute.u32()).transpose()?;
    Ok((text.map(|text| text.trim_end_matches('.').to_owned()), offset))
}

#[cfg(test)]
mod tests;
