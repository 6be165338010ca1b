//! nf_tables, spoken to over netlink.
//!
//! mesh-init has a table of its own in each family, with native expressions only. Both families and all tables of a plan
//! are written in one batch, in which also goes what original tools left in nf_tables: a packet meets the old rules or the
//! new ones. A batch names the generation that it was made for; if rules have changed since, by whomever, the kernel
//! refuses it, and it is made anew from what is there then.

mod abi;
mod batch;
mod decode;
#[cfg(test)]
mod decode_tests;
mod encode;
mod expressions;
mod feature;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod plan;
mod read;
mod sets;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod undo;
mod view;

use std::cell::Cell;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tracing::{debug, warn};

use self::batch::{Batch, BatchError, Complete};
pub use self::encode::EncodeError;
use self::read::Snapshot;
use self::view::Seen;
use super::backend::{Backend, BackendName, Form, Held, Look, WriteError};
use super::error::{Action, Error, NftCause};
use super::netlink::{NetlinkError, Protocol, Socket};
use crate::ruleset::{Family, Mesh, NftTable, Ruleset, TableName};

/// nf_tables of the network namespace that the thread is in.
#[derive(Debug)]
pub struct Nftables {
    socket: Option<Socket>,
    deadline: Instant,
    /// What there was before each batch that was sent, the first batch first.
    journal: Vec<Snapshot>,
    /// What was read last, if nothing was written since.
    last: Option<Seen>,
    /// The generation that the last batch made.
    written: Option<u32>,
    /// The generation, if it was asked for and nothing was read since.
    known: Option<u32>,
    /// Whether there were other tables when they were last read.
    has_others: bool,
}

/// How long to wait before trying again what somebody else has changed; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// What became of a batch.
enum Sent {
    /// The kernel has carried it out.
    Committed,
    /// The rules are of another generation.
    Outdated,
    /// The kernel refused these messages, and so all.
    Refused(Vec<Error>),
}

impl Nftables {
    /// nf_tables, reached when it is first needed; nothing is waited for after `deadline`.
    pub fn new(deadline: Instant) -> Nftables {
        Nftables { socket: None, deadline, journal: Vec::new(), last: None, written: None, known: None, has_others: false }
    }

    fn socket(&mut self) -> Result<&mut Socket, NetlinkError> {
        if self.socket.is_none() {
            self.socket = Some(Socket::open(Protocol::Netfilter, self.deadline)?);
        }
        // Just filled.
        self.socket.as_mut().ok_or(NetlinkError::Timeout)
    }

    /// What there is in the tables in which a mesh's rules may be.
    fn see(&mut self) -> Result<Seen, Error> {
        let others = Cell::new(false);
        let snapshot = self.snapshot_of(&|family, name| {
            let may_be_a_meshs = view::may_be_a_meshs(family, name);
            others.set(others.get() || !may_be_a_meshs);
            may_be_a_meshs
        });
        self.has_others = others.get();
        Ok(Seen::new(snapshot?)?)
    }

    fn snapshot_of(&mut self, wanted: &dyn Fn(u8, &str) -> bool) -> Result<Snapshot, Error> {
        let (deadline, known) = (self.deadline, self.known.take());
        let read = self.socket().and_then(|socket| read::snapshot(socket, deadline, known, wanted));
        read.map_err(|error| match error {
            NetlinkError::KeptChanging => Error::NftablesContended,
            NetlinkError::Malformed(malformed) => malformed.into(),
            error => {
                Error::Nftables { action: Action::Read, family: None, object: "the rules".to_owned(), cause: feature::unreachable(&error) }
            }
        })
    }

    /// Sends a batch. An error leaves in doubt whether it was carried out, unless it says otherwise.
    fn send(&mut self, batch: &Complete) -> Result<Sent, NetlinkError> {
        self.last = None;
        let refusals = self.socket()?.batch(&batch.bytes, batch.first, batch.last)?;
        if refusals.is_empty() {
            return Ok(Sent::Committed);
        }
        if refusals.iter().any(|(_, refusal)| refusal.errno() == Some(Errno::ERESTART)) {
            return Ok(Sent::Outdated);
        }
        Ok(Sent::Refused(refusals.into_iter().map(|(sequence, refusal)| feature::refusal(batch, sequence, refusal)).collect()))
    }

    /// Makes a batch with what `fill` puts into it, for the generation of `snapshot`; nothing if it would do nothing.
    fn batch(
        &mut self,
        snapshot: &Snapshot,
        commit: bool,
        fill: impl FnOnce(&mut Batch) -> Result<(), BatchError>,
    ) -> Result<Option<Complete>, Error> {
        let make = |socket: &mut Socket| {
            let mut batch = Batch::new(socket.next_sequence(), snapshot.generation)?;
            fill(&mut batch)?;
            if batch.is_empty() {
                return Ok(None);
            }
            let complete = batch.end(commit)?;
            socket.skip_sequences(complete.first, complete.last);
            Ok(Some(complete))
        };
        let socket = self.socket().map_err(|error| write_error(error, "the rules"))?;
        make(socket).map_err(|error: BatchError| match error {
            BatchError::Encode(error) => error.into(),
            BatchError::Malformed(malformed) => malformed.into(),
            BatchError::TooLong(error) => write_error(error.into(), "the rules"),
            BatchError::Owned { table, port } => {
                let object = format!("the table {table}");
                Error::Nftables { action: Action::Remove, family: None, object, cause: NftCause::Owned(port) }
            }
        })
    }
}

impl Backend for Nftables {
    fn name(&self) -> BackendName {
        BackendName::Nftables
    }

    fn form(&mut self, _family: Family) -> Result<Form, Error> {
        Ok(Form::MeshInit)
    }

    /// All families are read at once, and once for both.
    fn read(&mut self, family: Family, _needed: &[TableName], _look: Look) -> Result<Vec<Held>, Error> {
        let seen = match self.last.take().filter(|_| family == Family::V6) {
            Some(seen) => seen,
            None => self.see()?,
        };
        let held = seen.held.iter().filter(|held| held.ruleset.family == family).cloned().collect();
        self.last = Some(seen);
        Ok(held)
    }

    fn is_undisturbed(&self) -> bool {
        self.written.is_some() && self.last.as_ref().map(|seen| seen.snapshot.generation) == self.written
    }

    fn write(
        &mut self,
        mesh: Mesh,
        plans: &[Ruleset],
        _held: &[Held],
        staying: &[(Family, Form)],
        deadline: Instant,
    ) -> Result<(), WriteError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let seen = match self.last.take().map_or_else(|| self.see(), Ok) {
                Ok(seen) => seen,
                Err(Error::Nftables { cause: cause @ NftCause::Absent(_), .. }) => {
                    let refused = feature::for_all(plans, &cause);
                    // Where nothing is wanted, nothing can be missing.
                    return if refused.is_empty() { Ok(()) } else { Err(WriteError::Refused(refused)) };
                }
                Err(error) => return Err(WriteError::Failed(error)),
            };
            let mut dangling = Vec::new();
            let fill = |batch: &mut Batch| plan::write(batch, mesh, plans, staying, &seen, &mut dangling);
            let batch = self.batch(&seen.snapshot, true, fill).map_err(WriteError::Failed)?;
            let Some(batch) = batch else { return Ok(()) };
            let generation = seen.snapshot.generation;
            self.journal.push(seen.snapshot);
            match self.send(&batch) {
                // Longer than the system lets a message be.
                Err(NetlinkError::Send(Errno::EMSGSIZE)) => {
                    self.journal.pop();
                    return Err(WriteError::Refused(feature::for_all(plans, &NftCause::TooLong)));
                }
                Err(error) => {
                    if !error.leaves_doubt() {
                        self.journal.pop();
                    }
                    return Err(WriteError::Failed(write_error(error, "the rules")));
                }
                Ok(Sent::Refused(errors)) => {
                    self.journal.pop();
                    return Err(refused(errors, plans));
                }
                Ok(Sent::Committed) => {
                    // An answer to every message is not yet a change.
                    let now =
                        self.socket().and_then(read::generation).map_err(|error| WriteError::Failed(write_error(error, "the rules")))?;
                    self.known = Some(now);
                    if now != generation {
                        // If it is further on, somebody else has written since.
                        self.written = Some(now).filter(|now| *now == generation.wrapping_add(1));
                        for rule in &dangling {
                            warn!("the foreign rule {rule} jumped to a chain that goes, and goes with it");
                        }
                        return Ok(());
                    }
                    debug!("nf_tables answered, but its generation is the same");
                }
                Ok(Sent::Outdated) => {
                    self.journal.pop();
                    debug!("the nf_tables rules have changed since they were read; once more");
                }
            }
            if Instant::now() >= deadline {
                return Err(WriteError::Failed(Error::NftablesContended));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A batch without an end is only checked, not carried out.
    fn rehearse(&mut self, mesh: Mesh, plans: &[Ruleset]) -> Result<(), WriteError> {
        let seen = match self.see() {
            Ok(seen) => seen,
            Err(Error::Nftables { cause: cause @ NftCause::Absent(_), .. }) => {
                return Err(WriteError::Refused(feature::for_all(plans, &cause)));
            }
            Err(error) => return Err(WriteError::Failed(error)),
        };
        let batch = self.batch(&seen.snapshot, false, |batch| plan::write(batch, mesh, plans, &[], &seen, &mut Vec::new()));
        let batch = batch.map_err(WriteError::Failed)?;
        let Some(batch) = batch else { return Ok(()) };
        match self.send(&batch).map_err(|error| WriteError::Failed(write_error(error, "the rules")))? {
            Sent::Committed | Sent::Outdated => Ok(()),
            Sent::Refused(errors) => Err(refused(errors, plans)),
        }
    }

    fn has_other_tables(&self) -> bool {
        self.has_others
    }

    fn tables(&mut self) -> Result<Vec<NftTable>, Error> {
        let everything = Seen::new(self.snapshot_of(&|_, _| true)?)?;
        Ok(view::tables(&everything)?)
    }

    fn undo(&mut self, deadline: Instant) -> Vec<Error> {
        let mut errors = Vec::new();
        // What was waited for in vain may still be on its way to the old socket.
        (self.socket, self.deadline, self.last, self.known) = (None, deadline, None, None);
        while let Some(before) = self.journal.pop() {
            errors.extend(self.put_back(&before).err());
        }
        errors
    }

    fn has_written(&self) -> bool {
        !self.journal.is_empty()
    }

    fn commit(&mut self) {
        self.journal.clear();
    }
}

fn write_error(error: NetlinkError, object: &str) -> Error {
    let cause = match error {
        NetlinkError::Refused { errno: Errno::EPERM, .. } => NftCause::Denied,
        error => NftCause::Other(error),
    };
    Error::Nftables { action: Action::Write, family: None, object: object.to_owned(), cause }
}

/// What was refused of a batch: by family, if that is all that is wrong with it.
fn refused(errors: Vec<Error>, plans: &[Ruleset]) -> WriteError {
    let mut by_family: Vec<(Family, Error)> = Vec::new();
    for error in errors {
        match &error {
            // The batch as a whole.
            Error::Nftables { family: None, cause: cause @ NftCause::Absent(_), .. } => {
                return WriteError::Refused(feature::for_all(plans, cause));
            }
            _ => match error.refused_family() {
                Some(family) if by_family.iter().any(|(known, _)| *known == family) => {}
                Some(family) => by_family.push((family, error)),
                None => return WriteError::Failed(error),
            },
        }
    }
    WriteError::Refused(by_family)
}
