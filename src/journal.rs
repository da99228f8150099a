//! The durable record of every write until both buckets are known to hold it.
//!
//! A write is acknowledged to a program once, and must then survive this process, this host's power, and either region. So each
//! write becomes a *record* (which key, what to do, where the content is) before anything else, and stays one until both
//! buckets were seen to hold it:
//!
//! ```text
//! append -> sent -> acknowledged by one bucket -> verified on one, on both -> retire (record and data file go)
//!                \-> ambiguous: sent in full, no answer; settled by looking at the bucket
//! ```
//!
//! | [`Persist`] | told when | kill -9 | power cut |
//! |---|---|---|---|
//! | `Buffered` | the kernel has the entry (`pwrite` to the tail) | survives | lost if younger than 250 ms; never half there |
//! | `Synced` | the database is synced | survives | survives, and so does everything recorded before it |
//!
//! The content of a file is only as durable as its own seal: [`Spool::seal`] with `sync` before a `Synced` append.
//!
//! Measured on 2 cores that were busy with other builds (virtio disk, ext4, test build; `measure` in the tests):
//!
//! | appends a second | 1 task | 16 tasks | 128 tasks |
//! |---|---|---|---|
//! | `Synced` | 820 | 2 150 | 15 200 |
//! | `Buffered` | 33 000 | 33 000 | 36 000 |
//!
//! All questions are answered from memory. Locks are held for memory operations only; the disk belongs to one hand at a time
//! (`writer`). The journal keeps every record of a key in order; that there is one unresolved write a key is the store's rule.
//!
//! Owns records, data files, mount id, epoch. Owns not: requests, retries, when a record may be retired. Bounded by
//! `limit_bytes` (data files; the database adds about 500 bytes a record) and, in memory, by the records themselves.
//! Checked by the tests here: a model under random steps and crashes, a killed child process, tables of damage, a failing disk.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::clock;
use crate::object::{Epoch, Key, Site};
use writer::{Hand, Writer};

pub use error::{Error, Result};
pub use moves::{Move, Moves};
pub use records::{Ack, Base, Change, Data, NewRecord, Op, Overlay, Persist, Record, SpoolId, Stage};
pub use recovery::{Ending, Recovery, SetAside, crc64_of};
pub use spool::{Full, Reservation, Spool, StagingFile};

pub mod disk;
mod error;
mod index;
mod moves;
mod records;
mod recovery;
mod spool;
mod writer;

/// How much is in the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    pub records: u64,
    /// Bytes of data files and reservations, counted against `limit`.
    pub bytes: u64,
    pub limit: u64,
    /// Records no bucket has acknowledged.
    pub unsent: u64,
    /// Records not verified on both buckets, and on each.
    pub unverified: u64,
    pub unverified_on: [u64; 2],
    pub ambiguous: u64,
    /// Age of the oldest record.
    pub oldest: Option<Duration>,
    /// Bytes that recovery set aside, part of `bytes`.
    pub aside: u64,
}

pub struct Journal {
    shared: Arc<writer::Shared>,
    spool: Arc<Spool>,
    disk: Arc<dyn disk::Disk>,
    paths: writer::Paths,
    moves: Arc<Moves>,
    meta: Mutex<records::Meta>,
    writer: Arc<Mutex<Writer>>,
    /// Makes transactions. `None` while being dropped, and in virtual time, which a second thread does not have.
    thread: Option<JoinHandle<Result<()>>>,
    /// Held as long as the journal is.
    _lock: File,
}

impl Journal {
    /// Opens or creates the journal in `dir` and locks the directory. `limit_bytes` bounds the data files.
    pub fn open(dir: &Path, limit_bytes: u64) -> Result<(Journal, Recovery)> {
        Journal::open_on(Arc::new(disk::RealDisk), dir, limit_bytes)
    }

    /// The same on any [`disk::Disk`].
    pub fn open_on(disk: Arc<dyn disk::Disk>, dir: &Path, limit_bytes: u64) -> Result<(Journal, Recovery)> {
        Journal::start(recovery::open(disk, dir, limit_bytes)?)
    }

    fn start(opened: recovery::Opened) -> Result<(Journal, Recovery)> {
        let recovery::Opened { writer, recovery, lock } = opened;
        let disk = Arc::clone(&writer.disk);
        let (shared, spool) = (Arc::clone(&writer.shared), Arc::clone(&writer.spool));
        let (paths, meta) = (writer.paths.clone(), Mutex::new(writer.meta));
        let moves = Arc::new(Moves::new(disk.clone(), paths.identity.with_file_name("moves")));
        let writer = Arc::new(Mutex::new(writer));
        let thread = match clock::is_simulated() {
            true => None,
            false => {
                let writer = writer.clone();
                let thread = std::thread::Builder::new().name("journal".into()).spawn(move || Writer::run(&writer));
                Some(thread.map_err(|e| Error::io("start the journal's thread", &e))?)
            }
        };
        Ok((Journal { shared, spool, disk, paths, moves, meta, writer, thread, _lock: lock }, recovery))
    }

    /// Directories on their way to another name.
    pub fn moves(&self) -> &Arc<Moves> {
        &self.moves
    }

    /// Random number of this journal; part of every stamp.
    pub fn mount_id(&self) -> u64 {
        self.meta.lock().mount_id
    }

    pub fn epoch(&self) -> (Epoch, Site) {
        let meta = self.meta.lock();
        (meta.epoch, meta.master)
    }

    /// Records who is master. Blocks until that is on stable storage (one sync of the disk, or two).
    pub fn set_epoch(&self, epoch: Epoch, master: Site) -> Result<()> {
        let answer = self.shared.order(writer::Job::Reign(epoch, master))?;
        // Not tokio's own blocking receive, which panics on a thread of a runtime, where this may well be called.
        futures::executor::block_on(self.wait(answer))?;
        let meta = {
            let mut meta = self.meta.lock();
            (meta.epoch, meta.master) = (epoch, master);
            *meta
        };
        // The second copy only matters once the database is lost, so its failure is no failure of this call.
        if let Err(e) = recovery::Identity::write(&*self.disk, &self.paths.identity, &meta, true) {
            log::warn!("journal: the second copy of the epoch was not written: {e}");
        }
        Ok(())
    }

    /// Records a write under the next sequence number. It shows in [`Journal::latest`] at once; the answer comes when it is as
    /// durable as asked. After an error there is no such record, and a data file it named belongs to the caller again
    /// ([`Spool::discard`]). A caller that stops waiting leaves a record behind that may stay.
    pub async fn append(&self, new: NewRecord, persist: Persist) -> Result<Arc<Record>> {
        let NewRecord { key, op, epoch } = new;
        let (record, answer) = self.shared.append(persist, |seq| {
            // The record it takes the place of may be gone before what is to be removed is.
            let condemned = self.latest(&key).map(|last| last.condemned.clone()).unwrap_or_default();
            Record {
                seq,
                key,
                epoch,
                op,
                created: records::now(),
                sent: [false; 2],
                acked: [None, None],
                verified: [false; 2],
                ambiguous: [false; 2],
                uploads: [None, None],
                condemned,
                sum: None,
            }
        })?;
        self.wait(answer).await?;
        Ok(record)
    }

    /// Notes a step in a record's life. Shows at once. On an error the step is known in memory, but perhaps not to the next start.
    pub async fn mark(&self, seq: u64, change: Change, persist: Persist) -> Result<()> {
        let answer = self.shared.change(persist, |index| {
            let record = index.get(seq).ok_or(Error::NoRecord(seq))?;
            Ok(record.with(&change).map(|next| {
                let next = Arc::new(next);
                index.put(Arc::clone(&next));
                records::Entry::Is(next)
            }))
        })?;
        match (answer, persist) {
            (Some(answer), _) => self.wait(answer).await,
            (None, Persist::Buffered) => Ok(()),
            // Already said, but perhaps not yet on stable storage.
            (None, Persist::Synced) => self.sync().await,
        }
    }

    /// Forgets a record. Its data file goes once that is on stable storage, if no other record names it.
    pub async fn retire(&self, seq: u64) -> Result<()> {
        let answer = self.shared.change(Persist::Buffered, |index| {
            let (_, files) = index.remove(seq).ok_or(Error::NoRecord(seq))?;
            Ok(Some(records::Entry::gone(seq, files)))
        })?;
        match answer {
            Some(answer) => self.wait(answer).await,
            None => Ok(()),
        }
    }

    /// Everything recorded so far to stable storage.
    pub async fn sync(&self) -> Result<()> {
        let answer = self.shared.order(writer::Job::Flush)?;
        self.wait(answer).await
    }

    pub fn get(&self, seq: u64) -> Option<Arc<Record>> {
        self.shared.index.lock().get(seq)
    }

    /// Is the append of this record answered? Until then it may still be taken back, and nothing may be given up for it.
    pub fn is_recorded(&self, seq: u64) -> bool {
        self.shared.index.lock().is_answered(seq)
    }

    /// A process that ended took the answers with it: whatever was sent and has no acknowledgement may have been carried out, or may yet be.
    /// In memory, because the next start finds the same.
    pub fn doubt_unanswered(&self) {
        let mut index = self.shared.index.lock();
        for record in index.all() {
            for site in Site::ALL.into_iter().filter(|site| record.sent[site.index()]) {
                // Replication may have brought what was sent there as well and lost its answer.
                let open = record.acked[site.index()].is_none();
                let current = index.get(record.seq).filter(|_| open);
                if let Some(doubted) = current.and_then(|record| record.with(&Change::Ambiguous { site })) {
                    index.put(Arc::new(doubted));
                }
            }
        }
    }

    /// Every write recorded from now on has this number or a higher one.
    pub fn next_seq(&self) -> u64 {
        self.shared.next_seq()
    }

    /// The newest record of a key.
    pub fn latest(&self, key: &Key) -> Option<Arc<Record>> {
        self.shared.index.lock().latest(key)
    }

    /// All records of a key, oldest first.
    pub fn of(&self, key: &Key) -> Vec<Arc<Record>> {
        self.shared.index.lock().of(key)
    }

    /// The newest record of each key that begins with `prefix`, sorted by key.
    pub fn under(&self, prefix: &str) -> Vec<Arc<Record>> {
        self.shared.index.lock().under(prefix)
    }

    /// All records, oldest first.
    pub fn all(&self) -> Vec<Arc<Record>> {
        self.shared.index.lock().all()
    }

    pub fn stats(&self) -> Stats {
        let (counts, oldest) = {
            let index = self.shared.index.lock();
            (index.counts(), index.oldest())
        };
        let index::Counts { records, unsent, unverified, unverified_on, ambiguous } = counts;
        // A clock set back makes the oldest record younger than nothing: zero then.
        let oldest = oldest.map(clock::age);
        let (bytes, limit, aside) = (self.spool.used(), self.spool.limit(), self.spool.aside());
        Stats { records, bytes, limit, unsent, unverified, unverified_on, ambiguous, oldest, aside }
    }

    /// The first disk error, after which nothing is accepted any more.
    pub fn poison(&self) -> Option<Error> {
        self.shared.poison()
    }

    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Has what was queued done, and waits for it.
    async fn wait(&self, answer: oneshot::Receiver<Result<()>>) -> Result<()> {
        let done = match &self.thread {
            None => self.writer.lock().turn(Hand::Thread),
            Some(_) => self.writer.try_lock().is_some_and(|mut writer| writer.turn(Hand::Caller)),
        };
        if !done {
            self.shared.wake();
        }
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Journal {
    /// Commits what is buffered. Nothing acknowledged depends on it: a kill in its place loses nothing either.
    fn drop(&mut self) {
        self.shared.stop();
        let ended = match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(gone()),
            None => {
                let mut writer = self.writer.lock();
                writer.turn(Hand::Thread);
                writer.close()
            }
        };
        let meta = *self.meta.lock();
        let closed = ended.and_then(|()| recovery::Identity::write(&*self.disk, &self.paths.identity, &meta, false));
        if let Err(e) = closed {
            log::error!("journal: not closed in order ({e}); the next start recovers it");
        }
    }
}

fn gone() -> Error {
    Error::Disk("the journal's thread ended".into())
}

#[cfg(test)]
mod tests;
