//! Puts records on disk, many at a time.
//!
//! Durability costs a sync of the disk, and a sync costs the same for one record as for a thousand. So whoever writes queues an
//! entry and waits; a thread takes all that is queued, makes one transaction of it and wakes everybody (*group commit*).
//! What needs no sync needs no thread either: whoever queued it does all that is queued there and then, unless somebody is at it already
//! (*flat combining*). Waking a thread and being woken by it cost several times what the write costs.
//!
//! redb can either sync or keep a commit in the memory of the process ([`redb::Durability::None`], tested: lost by kill -9).
//! Neither suits [`Persist::Buffered`], which promises to outlive the process and not the power. Buffered entries therefore go
//! to the *tail* first, a plain file of numbered, checksummed frames in front of the database: one `pwrite`, no sync, then the
//! writer is told. The database follows at the latest [`LAZY`] later with everything since, and the tail begins anew. After a
//! crash the frames with numbers above the database's own are replayed.
//!
//! ```text
//!              tail (pwrite)      database (commit + sync)     then
//! Buffered     before the answer  within LAZY                  tail emptied
//! Synced       -                  before the answer            tail emptied
//! retire       before the answer  within LAZY                  spool file deleted: never before the record is gone for good
//! ```
//!
//! A full disk fails what cannot be kept and nothing else: such an append is taken back, such a change stays in memory and goes with
//! the next commit, and a reserve of [`RESERVE`] bytes is given up once so that retiring, which frees room, finds room itself. Any
//! other error latches: what the disk holds is then unknown, and every later request gets that first error.
//!
//! Owns the order of writes and syncs. Owns not the forms (`records`) nor what is believed after a crash (`recovery`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::disk::{Area, Disk};
use super::error::{Error, Result, is_full};
use super::index::Index;
use super::records::{Commit, Entry, Meta, Persist, Record, SpoolId, Tables, TablesError, put_frame};
use super::spool::Spool;
use crate::mutant::{Mutant, lacks};
use crate::object::{Epoch, Site};

/// How long a buffered entry may wait for the database. Arbitrary: long enough to gather, short enough to keep the tail small.
pub(super) const LAZY: Duration = Duration::from_millis(250);
/// A longer tail, or more entries than this, go to the database at once: it bounds memory and the time of a recovery.
const TAIL_BYTES_MAX: u64 = 8 << 20;
const DIRTY_MAX: usize = 16_384;
/// Disk space held back for the commits that free room.
const RESERVE: u64 = 1 << 20;
/// Sequence numbers are claimed in blocks of this size, so that a number lost in a power cut is never given to another write.
const SEQ_BLOCK: u64 = 1 << 24;

/// What the thread is asked.
pub(super) enum Job {
    Entry {
        entry: Entry,
        persist: Persist,
        /// A failed append is taken back; a failed change is kept for the next commit.
        fresh: bool,
    },
    Reign(Epoch, Site),
    /// Everything recorded so far to stable storage.
    Flush,
}

impl Job {
    /// The number of the record that this adds.
    fn appended(&self) -> Option<u64> {
        match self {
            Job::Entry { entry, fresh: true, .. } => Some(entry.seq()),
            _ => None,
        }
    }
}

type Answer = oneshot::Receiver<Result<()>>;

struct Request {
    job: Job,
    done: oneshot::Sender<Result<()>>,
}

struct Queue {
    requests: Vec<Request>,
    next_seq: u64,
    seq_limit: u64,
    stop: bool,
    /// When the database must have what it lacks.
    due: Option<Instant>,
    /// The first disk error.
    poison: Option<Error>,
}

/// What the writer shares with those who write. Lock order: writer, queue, index; the last two are not held while the disk works, and the
/// first is waited for by the thread alone.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    pub index: Mutex<Index>,
}

impl Shared {
    /// `next_seq`: the first number to hand out; those up to `meta.seq_limit` are claimed on disk already.
    pub fn new(index: Index, next_seq: u64, meta: &Meta) -> Shared {
        let queue =
            Queue { requests: Vec::new(), next_seq, seq_limit: meta.seq_limit, stop: false, due: None, poison: None };
        Shared { queue: Mutex::new(queue), wake: Condvar::new(), index: Mutex::new(index) }
    }

    fn usable(queue: &Queue) -> Result<()> {
        match &queue.poison {
            Some(error) => Err(error.clone()),
            None if queue.stop => Err(Error::Disk("the journal is closed".into())),
            None => Ok(()),
        }
    }

    /// Queued is not begun: see [`Shared::wake`] and [`Writer::turn`].
    fn push(&self, mut queue: MutexGuard<'_, Queue>, job: Job) -> Answer {
        let (done, answer) = oneshot::channel();
        queue.requests.push(Request { job, done });
        answer
    }

    /// Has the thread see to what is queued or due.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Until there is work for the thread. True: the last work.
    fn wait(&self) -> bool {
        let mut queue = self.queue.lock();
        while queue.requests.is_empty() && !queue.stop {
            let due = queue.due;
            match due {
                Some(due) if self.wake.wait_until(&mut queue, due.into_std()).timed_out() => break,
                Some(_) => {}
                None => self.wake.wait(&mut queue),
            }
        }
        queue.stop
    }

    /// The first error of this kind is what every later request gets.
    fn latch(&self, what: &str) -> Error {
        let mut queue = self.queue.lock();
        let error = queue.poison.get_or_insert_with(|| Error::Poisoned(what.to_string())).clone();
        queue.due = None;
        drop(queue);
        log::error!("journal: {what}; no write is accepted until the next start");
        error
    }

    /// All that is queued, if the tail is all it needs.
    fn take_light(&self) -> Option<Vec<Request>> {
        let light = |r: &Request| matches!(r.job, Job::Entry { persist: Persist::Buffered, .. });
        let mut queue = self.queue.lock();
        queue.requests.iter().all(light).then(|| std::mem::take(&mut queue.requests))
    }

    /// The number that the next record will have.
    pub fn next_seq(&self) -> u64 {
        self.queue.lock().next_seq
    }

    /// Numbers a record, shows it in the index and queues it.
    pub fn append(&self, persist: Persist, make: impl FnOnce(u64) -> Record) -> Result<(Arc<Record>, Answer)> {
        let mut queue = self.queue.lock();
        Self::usable(&queue)?;
        if queue.next_seq >= queue.seq_limit {
            return Err(Error::Full("too many writes since the last commit to the database".into()));
        }
        let record = Arc::new(make(queue.next_seq));
        queue.next_seq += 1;
        self.index.lock().announce(Arc::clone(&record));
        let job = Job::Entry { entry: Entry::Is(Arc::clone(&record)), persist, fresh: true };
        Ok((record, self.push(queue, job)))
    }

    /// Changes the index and queues the consequence, if there is one. What became known stays known in memory even where the
    /// disk no longer takes it.
    pub fn change(
        &self,
        persist: Persist,
        make: impl FnOnce(&mut Index) -> Result<Option<Entry>>,
    ) -> Result<Option<Answer>> {
        let queue = self.queue.lock();
        let entry = make(&mut self.index.lock())?;
        Self::usable(&queue)?;
        Ok(entry.map(|entry| self.push(queue, Job::Entry { entry, persist, fresh: false })))
    }

    pub fn order(&self, job: Job) -> Result<Answer> {
        let queue = self.queue.lock();
        Self::usable(&queue)?;
        Ok(self.push(queue, job))
    }

    pub fn poison(&self) -> Option<Error> {
        self.queue.lock().poison.clone()
    }

    pub fn stop(&self) {
        self.queue.lock().stop = true;
        self.wake.notify_one();
    }
}

/// Requests whose entries are among the dirty, and which of those are appends.
#[derive(Default)]
pub(super) struct Parked {
    waiting: Vec<oneshot::Sender<Result<()>>>,
    fresh: Vec<u64>,
}

/// Who does the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hand {
    /// May wait for a sync.
    Thread,
    /// Somebody with other things to do.
    Caller,
}

/// What is needed for the work, for one hand at a time.
pub(super) struct Writer {
    pub shared: Arc<Shared>,
    pub spool: Arc<Spool>,
    pub disk: Arc<dyn Disk>,
    pub paths: Paths,
    /// `None` after a failed commit, until opened again: redb refuses everything after its first error.
    pub tables: Option<Tables>,
    pub tail: Arc<dyn Area>,
    pub tail_len: u64,
    pub meta: Meta,
    /// The newest state of what the database does not have yet.
    pub dirty: BTreeMap<u64, Entry>,
    /// Files deleted since the last commit, still listed as condemned.
    pub executed: Vec<SpoolId>,
    pub reserve: Option<Arc<dyn Area>>,
    /// What a caller began and only a commit can end.
    pub parked: Parked,
    /// A turn was begun and not ended: a panic left everything here in an unknown state.
    pub torn: bool,
    /// [`LAZY`], except in tests.
    pub lazy: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub tables: PathBuf,
    pub tail: PathBuf,
    pub reserve: PathBuf,
    pub identity: PathBuf,
}

impl Paths {
    pub fn of(dir: &Path) -> Paths {
        Paths {
            tables: dir.join("journal.redb"),
            tail: dir.join("tail"),
            reserve: dir.join("reserve"),
            identity: dir.join("identity"),
        }
    }
}

impl Writer {
    /// Until told to stop; then everything is committed and the number of the next write kept exactly.
    pub fn run(this: &Mutex<Writer>) -> Result<()> {
        let shared = Arc::clone(&this.lock().shared);
        let _fence = Fence(&shared);
        loop {
            let stop = shared.wait();
            let mut writer = this.lock();
            writer.turn(Hand::Thread);
            if stop {
                return writer.close();
            }
        }
    }

    /// Does what is queued. What a caller cannot do stays queued or parked; false: the thread is needed.
    pub fn turn(&mut self, hand: Hand) -> bool {
        let requests = match hand {
            Hand::Thread => std::mem::take(&mut self.shared.queue.lock().requests),
            Hand::Caller => match self.shared.take_light() {
                Some(requests) => requests,
                None => return false,
            },
        };
        if std::mem::replace(&mut self.torn, true) {
            self.shared.latch("a panic while writing");
        }
        let done = self.round(requests, hand);
        self.torn = false;
        done
    }

    pub fn close(&mut self) -> Result<()> {
        if let Some(error) = self.shared.poison() {
            return Err(error);
        }
        self.meta.seq_limit = self.shared.queue.lock().next_seq;
        self.commit(false)
    }

    fn round(&mut self, requests: Vec<Request>, hand: Hand) -> bool {
        let Parked { mut waiting, mut fresh } = std::mem::take(&mut self.parked);
        if let Some(error) = self.shared.poison() {
            let result = Err(error);
            for Request { job, done } in requests {
                waiting.push(done);
                fresh.extend(job.appended());
            }
            self.take_back(&fresh, &result);
            answer_all(waiting, &result);
            return true;
        }
        let (mut frames, mut buffered) = (Vec::new(), Vec::new());
        for Request { job, done } in requests {
            match job {
                Job::Reign(epoch, master) => {
                    (self.meta.epoch, self.meta.master) = (epoch, master);
                    waiting.push(done);
                }
                Job::Flush => waiting.push(done),
                Job::Entry { entry, persist, fresh: is_fresh } => {
                    if lacks(Mutant::Journal) {
                        self.keep([entry.seq()]);
                        answer_all([done], &Ok(()));
                        continue;
                    }
                    self.meta.lsn += 1;
                    let new = is_fresh.then(|| entry.seq());
                    let framed = persist == Persist::Buffered && put_frame(&mut frames, self.meta.lsn, &entry).is_ok();
                    self.dirty.insert(entry.seq(), entry);
                    if framed {
                        buffered.push((done, new));
                    } else {
                        waiting.push(done);
                        fresh.extend(new);
                    }
                }
            }
        }
        if !buffered.is_empty() {
            match self.tail.write_at(self.tail_len, &frames) {
                Ok(()) => {
                    self.tail_len += frames.len() as u64;
                    self.keep(buffered.iter().filter_map(|(_, new)| *new));
                    answer_all(buffered.into_iter().map(|(done, _)| done), &Ok(()));
                }
                Err(e) if is_full(&e) => {
                    // No room for the tail; perhaps the database has some. Frames that got there all the same must not be replayed.
                    let _ = self.tail.set_len(self.tail_len);
                    for (done, new) in buffered {
                        waiting.push(done);
                        fresh.extend(new);
                    }
                }
                Err(e) => {
                    let result = Err(self.shared.latch(&format!("write {}: {e}", self.paths.tail.display())));
                    let (mut all, new): (Vec<_>, Vec<_>) = buffered.into_iter().unzip();
                    fresh.extend(new.into_iter().flatten());
                    self.take_back(&fresh, &result);
                    all.extend(waiting);
                    answer_all(all, &result);
                    return true;
                }
            }
        }
        let (due, armed) = {
            let mut queue = self.shared.queue.lock();
            let armed = queue.due.is_none() && !self.dirty.is_empty();
            if armed {
                queue.due = Some(Instant::now() + self.lazy);
            }
            let full = self.tail_len >= TAIL_BYTES_MAX || self.dirty.len() >= DIRTY_MAX;
            if full {
                queue.due = Some(Instant::now());
            }
            (queue.due.is_some_and(|due| due <= Instant::now()), armed || full)
        };
        if waiting.is_empty() && (hand == Hand::Caller || !due) {
            return !armed;
        }
        if hand == Hand::Caller {
            self.parked = Parked { waiting, fresh };
            self.shared.queue.lock().due = Some(Instant::now());
            return false;
        }
        let result = self.commit(true);
        match result {
            Ok(()) => self.keep(fresh),
            Err(_) => self.take_back(&fresh, &result),
        }
        answer_all(waiting, &result);
        // What failed is due again.
        result.is_ok()
    }

    /// One transaction with everything the database lacks. `claim` takes another block of sequence numbers where needed.
    pub fn commit(&mut self, claim: bool) -> Result<()> {
        if claim {
            let next = self.shared.queue.lock().next_seq;
            if self.meta.seq_limit < next + SEQ_BLOCK / 2 {
                self.meta.seq_limit = next + SEQ_BLOCK;
            }
        }
        match self.try_commit() {
            Ok(()) => {}
            Err(e) if e.is_full() => {
                let freed = match self.reserve.take() {
                    Some(area) => area.set_len(0).is_ok(),
                    None => false,
                };
                let again = if freed { self.try_commit() } else { Err(e) };
                if let Err(e) = again {
                    self.shared.queue.lock().due = (!self.dirty.is_empty()).then(|| Instant::now() + self.lazy);
                    let what = format!("commit to {}: {e}", self.paths.tables.display());
                    return Err(if e.is_full() { Error::Full(what) } else { self.shared.latch(&what) });
                }
            }
            Err(e) => return Err(self.shared.latch(&format!("commit to {}: {e}", self.paths.tables.display()))),
        }
        self.executed.clear();
        {
            let mut queue = self.shared.queue.lock();
            (queue.due, queue.seq_limit) = (None, self.meta.seq_limit);
        }
        for entry in std::mem::take(&mut self.dirty).into_values() {
            for id in entry.doomed() {
                self.spool.discard(id);
                self.executed.push(id);
            }
        }
        // Frames that stay after a failed truncation carry numbers the database has: a recovery passes over them.
        if self.tail_len > 0 {
            let _ = self.tail.set_len(0);
            self.tail_len = 0;
        }
        if self.reserve.is_none() {
            self.reserve = hold_reserve(&*self.disk, &self.paths.reserve);
        }
        Ok(())
    }

    fn try_commit(&mut self) -> std::result::Result<(), TablesError> {
        self.spool.sync_names().map_err(TablesError::Io)?;
        let tables = match self.tables.take() {
            Some(tables) => tables,
            None => Tables::open(self.disk.area(&self.paths.tables).map_err(TablesError::Io)?, false)?,
        };
        tables.commit(Commit { meta: self.meta, entries: &mut self.dirty.values(), executed: &self.executed })?;
        self.tables = Some(tables);
        Ok(())
    }

    /// Appends that are as durable as was asked.
    fn keep(&self, fresh: impl IntoIterator<Item = u64>) {
        let mut index = self.shared.index.lock();
        fresh.into_iter().for_each(|seq| index.answered(seq));
    }

    /// Forgets appends that could not be kept, and fails what was queued about them meanwhile.
    fn take_back(&mut self, fresh: &[u64], result: &Result<()>) {
        if fresh.is_empty() {
            return;
        }
        let mut queue = self.shared.queue.lock();
        let mut index = self.shared.index.lock();
        for seq in fresh {
            self.dirty.remove(seq);
            index.remove(*seq);
        }
        drop(index);
        let about = |r: &Request| matches!(&r.job, Job::Entry { entry, .. } if fresh.contains(&entry.seq()));
        let (void, keep): (Vec<_>, Vec<_>) = std::mem::take(&mut queue.requests).into_iter().partition(about);
        queue.requests = keep;
        drop(queue);
        answer_all(void.into_iter().map(|r| r.done), result);
    }
}

/// Should the thread ever panic, nobody waits for it.
struct Fence<'a>(&'a Shared);

impl Drop for Fence<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.latch("a panic while writing");
            self.0.queue.lock().requests.clear();
        }
    }
}

/// Whoever stopped waiting is not missed.
fn answer_all(waiting: impl IntoIterator<Item = oneshot::Sender<Result<()>>>, result: &Result<()>) {
    for done in waiting {
        let _ = done.send(result.clone());
    }
}

/// Occupies the reserve, if the disk has the room.
pub(super) fn hold_reserve(disk: &dyn Disk, path: &Path) -> Option<Arc<dyn Area>> {
    let area = disk.area(path).ok()?;
    match area.allocate(RESERVE) {
        Ok(()) => Some(area),
        Err(_) => {
            let _ = area.set_len(0);
            None
        }
    }
}
