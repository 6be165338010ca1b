//! A double of the kernel's nf_tables: it speaks netlink at the other end of a socket, keeps what it is told, and refuses
//! what a kernel might not have.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use super::Nftables;
use super::abi::{self, message};
use crate::kernel::netlink::Socket;
use crate::kernel::netlink::wire::{AttributeWriter, Attributes, HEADER_LEN, Header, Message, Messages, append_message};

/// What a double does not have.
#[derive(Clone, Debug, Default)]
pub(super) struct Lacks {
    /// Expressions, and how it says so.
    pub(super) expression: Option<(&'static str, Errno)>,
    /// Tables of this family (`NFPROTO_*`).
    pub(super) family: Option<u8>,
    /// Chains of this type.
    pub(super) chain_type: Option<&'static str>,
    /// nf_tables as a whole.
    pub(super) everything: bool,
    /// So many batches find that the rules have changed.
    pub(super) outdated: usize,
    /// It answers, and changes nothing.
    pub(super) idle: bool,
    /// So many lists are interrupted by a change.
    pub(super) interrupted: usize,
}

/// What the double has been told.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) batches: usize,
    generation: u32,
    handle: u64,
    /// Type and payload of each message that made something which is there still.
    objects: Vec<(u16, Vec<u8>)>,
}

/// nf_tables with a double in the kernel's place.
pub(super) fn nftables(lacks: Lacks) -> (Nftables, Arc<Mutex<Told>>) {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let told = Arc::new(Mutex::new(Told { generation: 7, ..Told::default() }));
    let kept = Arc::clone(&told);
    std::thread::spawn(move || play(&theirs, lacks, &kept));
    let deadline = Instant::now() + Duration::from_millis(300);
    let nftables = Nftables { socket: Some(Socket::to_double(ours, deadline)), ..Nftables::new(deadline) };
    (nftables, told)
}

fn play(socket: &OwnedFd, mut lacks: Lacks, told: &Mutex<Told>) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        if length == 0 {
            return;
        }
        let messages: Vec<Message<'_>> = Messages::new(&buffer[..length]).collect::<Result<_, _>>().unwrap();
        let mut told = told.lock().unwrap();
        let answer = match messages[0].kind {
            abi::BATCH_BEGIN => batch(&messages, &mut lacks, &mut told),
            _ => question(&messages[0], &mut lacks, &told),
        };
        if send(socket.as_raw_fd(), &answer, MsgFlags::MSG_NOSIGNAL).is_err() {
            return;
        }
    }
}

fn error(buffer: &mut Vec<u8>, sequence: u32, errno: i32, offset: Option<u32>) {
    let mut fixed = (-errno).to_ne_bytes().to_vec();
    fixed.extend_from_slice(&[0; HEADER_LEN]);
    let flags = (libc::NLM_F_CAPPED | if offset.is_some() { libc::NLM_F_ACK_TLVS } else { 0 }) as u16;
    let fill = |attributes: &mut AttributeWriter<'_>| {
        if let Some(offset) = offset {
            attributes.u32(2, offset);
        }
    };
    append_message(buffer, Header { kind: libc::NLMSG_ERROR as u16, flags, sequence }, &fixed, fill).unwrap();
}

fn question(asked: &Message<'_>, lacks: &mut Lacks, told: &Told) -> Vec<u8> {
    let mut buffer = Vec::new();
    let sequence = asked.sequence;
    if lacks.everything {
        error(&mut buffer, sequence, Errno::EINVAL as i32, None);
        return buffer;
    }
    let list = match asked.kind {
        message::GETGEN => {
            append_message(&mut buffer, Header { kind: message::NEWGEN, flags: 0, sequence }, &abi::head(0, 0), |attributes| {
                attributes.u32_be(abi::GEN_ID, told.generation);
            })
            .unwrap();
            error(&mut buffer, sequence, 0, None);
            return buffer;
        }
        message::GETTABLE => message::NEWTABLE,
        message::GETCHAIN => message::NEWCHAIN,
        message::GETRULE => message::NEWRULE,
        message::GETSET => message::NEWSET,
        _ => message::NEWSETELEM,
    };
    let interrupted = lacks.interrupted > 0;
    lacks.interrupted = lacks.interrupted.saturating_sub(1);
    let flags = if interrupted { libc::NLM_F_DUMP_INTR as u16 } else { 0 };
    for (_, payload) in told.objects.iter().filter(|(kind, _)| *kind == list) {
        append_message(&mut buffer, Header { kind: list, flags, sequence }, payload, |_| {}).unwrap();
    }
    append_message(&mut buffer, Header { kind: libc::NLMSG_DONE as u16, flags, sequence }, &[0; 4], |_| {}).unwrap();
    buffer
}

fn batch(messages: &[Message<'_>], lacks: &mut Lacks, told: &mut Told) -> Vec<u8> {
    told.batches += 1;
    let mut buffer = Vec::new();
    let first = messages[0].sequence;
    if lacks.outdated > 0 {
        lacks.outdated -= 1;
        error(&mut buffer, first, Errno::ERESTART as i32, None);
        return buffer;
    }
    let (ended, inner) = match messages.split_last() {
        Some((last, rest)) if last.kind == abi::BATCH_END => (true, &rest[1..]),
        _ => (false, &messages[1..]),
    };
    for message in inner {
        if let Some((errno, offset)) = refusal(message, lacks) {
            error(&mut buffer, message.sequence, errno as i32, offset);
        }
    }
    let refused = !buffer.is_empty();
    let last = inner.last().map_or(first, |message| message.sequence);
    error(&mut buffer, last, 0, None);
    if !refused && ended && !lacks.idle {
        told.generation += 1;
        for message in inner {
            let mut payload = message.payload.to_vec();
            if message.kind == message::NEWRULE {
                told.handle += 1;
                payload.extend_from_slice(&[12, 0, abi::rule::HANDLE as u8, 0]);
                payload.extend_from_slice(&told.handle.to_be_bytes());
            }
            match message.kind {
                message::DELTABLE => told.objects.retain(|(_, object)| object[0] != message.payload[0]),
                kind => told.objects.push((kind, payload)),
            }
        }
    }
    buffer
}

fn refusal(message: &Message<'_>, lacks: &Lacks) -> Option<(Errno, Option<u32>)> {
    let attributes = message.attributes(abi::HEAD).unwrap();
    if message.kind == message::NEWTABLE && lacks.family == message.payload.first().copied() {
        return Some((Errno::EAFNOSUPPORT, None));
    }
    if let Some(kind) = attributes.find(abi::chain::TYPE).unwrap().filter(|_| message.kind == message::NEWCHAIN)
        && Some(kind.text().unwrap()) == lacks.chain_type
    {
        return Some((Errno::ENOENT, None));
    }
    let (name, errno) = lacks.expression.filter(|_| message.kind == message::NEWRULE)?;
    let list = attributes.find(abi::rule::EXPRESSIONS).unwrap().unwrap().value;
    let base = list.as_ptr() as usize - message.payload.as_ptr() as usize + HEADER_LEN;
    let mut at = 0;
    for element in Attributes::new(list) {
        let element = element.unwrap();
        if element.nested().find(abi::EXPRESSION_NAME).unwrap().unwrap().text() == Ok(name) {
            return Some((errno, Some((base + at) as u32)));
        }
        at += (element.value.len() + 4).next_multiple_of(4);
    }
    None
}
