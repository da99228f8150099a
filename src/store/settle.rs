//! Carries every journal record until the present master holds it; `verify` then sees it into the other bucket.
//!
//! A fixed number of workers take keys with unfinished records from a queue; a key is with one worker at a time, so that two writes
//! of one key are never on the way together. A worker always carries the newest record: an older one that was never acknowledged elsewhere is content nobody will
//! see again. When the master changes, every key whose newest record the new master is not known to hold is queued
//! again; the worker first looks what the bucket has (the cloud may have replicated it, or somebody may have written since) and only then
//! uploads from the journal. Whoever waits for an acknowledgement waits on the record, not on a request: it does not matter to
//! which bucket the record finally went.
//!
//! Owns: the workers, acknowledgements to waiting programs, the end of superseded records. Owns not: the second bucket (`verify`).
//! Promise: a record leaves the journal only when both buckets hold it or something newer.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::ask::{answer_error, transient};
use super::ha::{Commit, Inner, SecondRegion, holds, micros};
use super::queue::Queue;
use super::upload::{Delivered, Refused};
use super::{Error, Result};
use crate::cache::Known;
use crate::cos::Kind;
use crate::failover::{State, View};
use crate::journal::{Change, Op, Persist, Record};
use crate::linkage::AttemptError;
use crate::mutant::{Mutant, lacks};
use crate::object::{Class, Key, Object, Site, Token};

/// Records on their way at the same time.
pub(super) const CARRIED_AT_ONCE: usize = 32;

/// A key that is written all the time is let go after so many records, for what is done after each.
const DELIVERED_MAX: usize = 16;

/// Pause after a fault that may pass at once, around half of it to one and a half.
const TROUBLE_PAUSE: Duration = Duration::from_millis(200);

/// Rest of a key while no bucket takes writes; a new view ends it earlier.
const NO_SITE_PAUSE: Duration = Duration::from_secs(30);

/// Pause before a record is tried again that the bucket refused for good reason (permissions, quota): an operator has to act first.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// How much earlier than its deadline a waiting write is answered.
const ANSWER_EARLY: Duration = Duration::from_millis(300);

/// What has become of a record, for whoever waits for it.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    UnderWay,
    /// Acknowledged as the commit mode demands; `None` for a delete, or when a newer record took its place.
    Done(Option<Object>),
    Refused(Error),
}

pub(super) struct Settle {
    queue: Queue,
    waiting: Mutex<HashMap<u64, watch::Sender<Fate>>>,
    /// Records that the cloud does not bring to the other bucket: the worker does.
    pub(super) late: Mutex<HashSet<u64>>,
    /// The newest record that was there at the start.
    taken_up: AtomicU64,
    /// Records being sent to some bucket just now.
    flying: Mutex<HashSet<u64>>,
    /// When records lost an answer for the last time.
    lost: Mutex<HashMap<u64, Instant>>,
    /// Something is ready for verification.
    pub(super) ready: Notify,
}

impl Settle {
    pub(super) fn new() -> Settle {
        Settle {
            queue: Queue::default(),
            waiting: Mutex::default(),
            late: Mutex::default(),
            taken_up: AtomicU64::new(0),
            flying: Mutex::default(),
            lost: Mutex::default(),
            ready: Notify::new(),
        }
    }

    fn await_fate(&self, seq: u64) -> watch::Receiver<Fate> {
        self.waiting.lock().entry(seq).or_insert_with(|| watch::channel(Fate::UnderWay).0).subscribe()
    }

    /// How long ago this record lost an answer for the last time, in this run of the mount.
    pub(super) fn lost_ago(&self, seq: u64, now: Instant) -> Option<Duration> {
        self.lost.lock().get(&seq).map(|at| now.saturating_duration_since(*at))
    }

    /// Is it on its way to a bucket, or the fate of a send not noted yet?
    pub(super) fn is_flying(&self, seq: u64) -> bool {
        self.flying.lock().contains(&seq)
    }

    fn fly(&self, seq: u64) -> Flight<'_> {
        self.flying.lock().insert(seq);
        Flight { settle: self, seq }
    }

    fn is_awaited(&self, seq: u64) -> bool {
        self.waiting.lock().get(&seq).is_some_and(|sender| sender.receiver_count() > 0)
    }

    fn tell(&self, seq: u64, fate: Fate) {
        let mut waiting = self.waiting.lock();
        match fate {
            // A refusal is not the end: the record is tried again, and somebody may ask again.
            Fate::Refused(_) => {
                if let Some(sender) = waiting.get(&seq) {
                    sender.send_replace(fate);
                }
            }
            _ => {
                if let Some(sender) = waiting.remove(&seq) {
                    sender.send_replace(fate);
                }
            }
        }
    }
}

/// A record counts as being sent while this is held: one worker has its key.
struct Flight<'a> {
    settle: &'a Settle,
    seq: u64,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.settle.flying.lock().remove(&self.seq);
    }
}

/// What to do next for one key.
enum Step {
    Deliver(Arc<Record>),
    /// The master has it; whoever waits, waits for the other bucket.
    Second(Arc<Record>),
    Rest,
}

impl Inner {
    /// Registers interest in a record. Call before [`Inner::carry`].
    pub(super) fn await_fate(&self, seq: u64) -> watch::Receiver<Fate> {
        let fate = self.settle.await_fate(seq);
        // Who carried a newer write of the key may have ended it just before, when nobody waited yet.
        if self.journal.get(seq).is_none() {
            self.settle.tell(seq, Fate::Done(None));
        }
        fate
    }

    /// Replays the journal, then keeps carrying whatever a new reign makes unfinished again.
    pub(super) fn start_settling(this: &Arc<Inner>) {
        // Of what was overtaken in an earlier run nothing is known any more.
        let before = micros(this.options.lag_max);
        if !lacks(Mutant::ZombieWatch) {
            this.journal.doubt_unanswered();
        }
        for record in this.journal.all() {
            this.settle.taken_up.fetch_max(record.seq, Relaxed);
            this.doubts.raise(&record, before);
            this.doubts.take_up(&record);
            this.settle.queue.add(&record.key);
        }
        for _ in 0..CARRIED_AT_ONCE {
            let inner = this.clone();
            this.rt.spawn(async move {
                loop {
                    let key = inner.settle.queue.take().await;
                    // A worker must outlive any mistake in what it carries: the record is still in the journal.
                    let mut delivered = Vec::new();
                    let carried = AssertUnwindSafe(inner.carry_key(&key, &mut delivered)).catch_unwind().await;
                    let rest = carried.unwrap_or_else(|_| {
                        log::error!("{key}: sending the write panicked; it stays in the journal and is tried again");
                        Some(REFUSED_PAUSE)
                    });
                    inner.settle.queue.done(key, rest.map(|pause| Instant::now() + pause));
                    for (site, record) in delivered {
                        Inner::search_conflict(&inner, site, &record).await;
                    }
                }
            });
        }
        let inner = this.clone();
        this.rt.spawn(async move {
            let mut views = inner.links.watch();
            let ways = |view: &View| {
                let writes = Site::ALL.map(|site| view.linkage(site, Class::Write).health);
                (view.master, view.accepting_writes, writes)
            };
            let mut last = views.borrow_and_update().clone();
            while views.changed().await.is_ok() {
                let view = views.borrow_and_update().clone();
                if view.epoch != last.epoch {
                    inner.carry_to(&view);
                }
                // A view comes every second, and what a bucket has refused is not asked for that often.
                if ways(&view) != ways(&last) {
                    inner.settle.queue.wake_all();
                }
                last = view;
            }
        });
        Inner::start_verifying(this);
        Inner::start_backup(this);
    }

    /// A new reign: what its master is not known to hold is carried again.
    fn carry_to(&self, view: &View) {
        if lacks(Mutant::ReUpload) {
            return;
        }
        let mut unfinished = self.journal.all();
        unfinished.retain(|record| !holds(record, view.master));
        if !unfinished.is_empty() {
            log::info!(
                "epoch {}: {} writes are not known to be in bucket {} yet",
                view.epoch,
                unfinished.len(),
                view.master
            );
        }
        for record in unfinished {
            self.settle.queue.add(&record.key);
        }
    }

    /// Makes sure that somebody carries the records of this key.
    pub(super) fn carry(&self, key: &Key) {
        self.settle.queue.add(key);
    }

    /// Delivers the newest record of a key to the master of the moment, which it notes in `delivered`, again while newer ones come. Returns how
    /// long to rest before the next try; `None`: all done.
    async fn carry_key(&self, key: &Key, delivered: &mut Vec<(Site, Arc<Record>)>) -> Option<Duration> {
        loop {
            let view = self.links.view();
            let record = match self.next_step(key, view.master).await {
                Step::Deliver(record) => record,
                Step::Rest => return None,
                Step::Second(record) => {
                    let site = view.master.other();
                    let health = view.linkages[site.index()][Class::Write.index()].health;
                    if !super::ask::usable(health) {
                        return Some(NO_SITE_PAUSE);
                    }
                    if let Err(trouble) = self.carry_record(site, &record).await {
                        return Some(self.after_trouble(&record, site, trouble));
                    }
                    continue;
                }
            };
            // A change of the view ends the rest.
            let Some(site) = self.site_for(Class::Write, &view) else { return Some(NO_SITE_PAUSE) };
            if let Err(trouble) = self.carry_record(site, &record).await {
                return Some(self.after_trouble(&record, site, trouble));
            }
            delivered.push((site, record));
            if delivered.len() >= DELIVERED_MAX {
                return Some(Duration::ZERO);
            }
        }
    }

    async fn next_step(&self, key: &Key, master: Site) -> Step {
        let records = self.journal.of(key);
        let Some((newest, older)) = records.split_last() else { return Step::Rest };
        if !holds(newest, master) {
            if !self.journal.is_recorded(newest.seq) {
                // Whoever writes it comes again when it is.
                return Step::Rest;
            }
            // As long as a power cut can cost the newest content, an older one may be the last that was synced.
            let spool = self.journal.spool();
            let safe = newest.op.files().iter().all(|(id, _)| !spool.is_unsynced(*id));
            for record in older.iter().filter(|_| safe) {
                // Never sent anywhere and nobody waits for it: no one can ever see it.
                if !record.sent.iter().any(|s| *s) && !self.settle.is_awaited(record.seq) {
                    self.end(record, Fate::Done(None)).await;
                }
            }
            return Step::Deliver(newest.clone());
        }
        for record in older {
            if record.verified != [true; 2] {
                self.doubts.raise(record, 0);
            }
            if !record.ambiguous.iter().any(|a| *a) {
                self.end(record, Fate::Done(None)).await;
                continue;
            }
            // Nobody needs its content any more, but it may still be committed late: kept until its bucket is known to be free of it.
            self.settle.tell(record.seq, Fate::Done(None));
            for site in Site::ALL {
                if !holds(record, site) {
                    self.mark(record.seq, Change::Verified { site }).await;
                }
            }
        }
        let blocks = self.options.commit == Commit::TwoRegions && self.options.second_region == SecondRegion::Block;
        let late = self.settle.late.lock().remove(&newest.seq);
        if (late || blocks && self.settle.is_awaited(newest.seq)) && !holds(newest, master.other()) {
            return Step::Second(newest.clone());
        }
        self.settle.tell(newest.seq, Fate::Done(self.object_of(newest)));
        self.settle.ready.notify_one();
        Step::Rest
    }

    async fn carry_record(&self, site: Site, record: &Arc<Record>) -> std::result::Result<(), Refused> {
        let _flight = self.settle.fly(record.seq);
        // Replication may have brought it, and verification ended it, just before.
        if self.journal.get(record.seq).is_none_or(|last| holds(&last, site)) {
            return Ok(());
        }
        // Of what was there at the start nobody knows for sure what became of it, least of all after a power cut.
        let taken_up = record.seq <= self.settle.taken_up.load(Relaxed);
        if (taken_up || record.sent.iter().any(|s| *s)) && self.already_there(site, record).await? {
            if !taken_up {
                self.degraded_second(site.other(), record).await;
            }
            return Ok(());
        }
        if !lacks(Mutant::Guard) && self.overwritten_by(record).is_some() {
            return Err(Refused::Overwritten);
        }
        self.mark(record.seq, Change::Sent { site }).await;
        match self.deliver(site, record).await {
            Ok(delivered) => {
                self.acknowledged(site, record, delivered).await;
                self.degraded_second(site.other(), record).await;
                Ok(())
            }
            Err(refused) => {
                self.note_lost_answer(site, record, &refused).await;
                Err(refused)
            }
        }
    }

    /// A write that may still be committed is watched from now on.
    pub(super) async fn note_lost_answer(&self, site: Site, record: &Record, refused: &Refused) {
        if maybe_committed(refused) && !lacks(Mutant::ZombieWatch) {
            self.settle.lost.lock().insert(record.seq, Instant::now());
            self.mark(record.seq, Change::Ambiguous { site }).await;
        }
    }

    /// Guard before a repetition or a re-upload: the bucket may have the record already, or something newer.
    async fn already_there(&self, site: Site, record: &Arc<Record>) -> std::result::Result<bool, Refused> {
        if lacks(Mutant::Guard) {
            return Ok(false);
        }
        let key = &record.key;
        if self.is_outlived(record) {
            self.mark(record.seq, Change::Verified { site }).await;
            return Ok(true);
        }
        let until = Instant::now() + Duration::from_secs(30);
        let found = self.head_at(site, key, None, until).await;
        let object = match found {
            Ok(object) => object,
            Err(AttemptError::Cos(e)) if e.kind == Kind::NoSuchKey => {
                // Right for a delete, but it may be an older absence: while the marker is still on its way, it can arrive after the next write.
                let mut marker = record.acked.iter().flatten().filter_map(|ack| ack.marker.as_ref());
                let Some(marker) = marker.next() else { return Ok(false) };
                let entries = self.versions_at(site, key).await.unwrap_or_default();
                let arrived = entries.iter().any(|entry| entry.version == *marker);
                if arrived {
                    self.mark(record.seq, Change::Verified { site }).await;
                }
                return Ok(arrived);
            }
            Err(error) => return Err(error.into()),
        };
        let ours = object.token.stamp == Some(self.stamp(record));
        if ours && !self.is_content_of(record, &object.token) {
            log::warn!("{key}: bucket {site} stored other bytes than were sent; sending them again");
            return Ok(false);
        }
        if ours && matches!(record.op, Op::Put { .. }) {
            self.acknowledged(
                site,
                record,
                Delivered { ack: crate::journal::Ack { token: Some(object.token), marker: None } },
            )
            .await;
            return Ok(true);
        }
        let later = self.own(object.token.stamp).is_some_and(|stamp| stamp.seq > record.seq);
        if later || newer_than_acked(&object.token, record) {
            self.note_foreign(site, key, &object.token);
            self.mark(record.seq, Change::Verified { site }).await;
            return Ok(true);
        }
        Ok(false)
    }

    /// Does the object hold what the record holds, as far as its size and checksum tell? A body that was damaged on its way to the bucket
    /// carries the right stamp.
    pub(super) fn is_content_of(&self, record: &Record, found: &Token) -> bool {
        let Op::Put { size, crc64, .. } = &record.op else { return true };
        let differs = crc64.or(record.sum).zip(found.crc64).is_some_and(|(sent, stored)| sent != stored);
        *size == found.size && !differs
    }

    /// One line if a newer version is not this mount's own.
    pub(super) fn note_foreign(&self, site: Site, key: &Key, found: &Token) {
        if self.own(found.stamp).is_none() {
            let what =
                format!("{key}: bucket {site} holds a newer write of somebody else; ours stays as an older version");
            log::warn!("{what}");
            self.tally.conflict(what);
        }
    }

    async fn degraded_second(&self, site: Site, record: &Arc<Record>) {
        if self.options.commit == Commit::TwoRegions && self.options.second_region == SecondRegion::Degrade {
            self.second_region(site, record).await;
        }
    }

    /// Two-regions mode: the same bytes to the other bucket before the program is told. If that bucket is down, the mode degrades and
    /// says so; the record stays until both have it.
    async fn second_region(&self, site: Site, record: &Arc<Record>) {
        let view = self.links.view();
        let health = view.linkages[site.index()][Class::Write.index()].health;
        if !super::ask::usable(health) {
            log::warn!("{}: acknowledged by one region only, bucket {site} is {health}", record.key);
            return;
        }
        if self.overwritten_by(record).is_some() || self.journal.get(record.seq).is_none_or(|last| holds(&last, site)) {
            return;
        }
        self.mark(record.seq, Change::Sent { site }).await;
        match self.deliver(site, record).await {
            Ok(delivered) => self.acknowledged(site, record, delivered).await,
            Err(refused) => {
                log::warn!("{}: acknowledged by one region only: {}", record.key, describe(&refused));
                self.note_lost_answer(site, record, &refused).await;
            }
        }
    }

    /// A bucket holds the record: journal, index and cache learn it.
    async fn acknowledged(&self, site: Site, record: &Arc<Record>, delivered: Delivered) {
        let ack = delivered.ack;
        if let Some(token) = &ack.token {
            self.settled.lock().put(record.seq, token.clone());
        }
        self.mark(record.seq, Change::Acked { site, token: ack.token.clone(), marker: ack.marker.clone() }).await;
        match (&record.op, ack.token) {
            (Op::Put { headers, data, .. }, Some(token)) => {
                if let Some(id) = data.spool() {
                    self.cache.adopt(&record.key, &token, &self.journal.spool().path(id));
                }
                let object = Object { token, headers: headers.clone() };
                self.note_for_origin(record, Some(&object));
                self.cache.attrs().see_own(&record.key, Known::Present(object.clone()));
                self.listings.lock().changed(&record.key, Some(object));
            }
            _ => {
                self.note_for_origin(record, None);
                let micros = ack.marker.as_ref().and_then(|m| m.commit_micros()).unwrap_or_else(super::ha::now_micros);
                let stamp = Some(self.stamp(record));
                self.cache.attrs().see_own(&record.key, Known::Absent { marker: ack.marker, micros, stamp });
                self.listings.lock().changed(&record.key, None);
            }
        }
    }

    /// Logs what went wrong, tells whoever waits if it is final, and says how long to pause.
    fn after_trouble(&self, record: &Record, site: Site, trouble: Refused) -> Duration {
        match trouble {
            Refused::Attempt(AttemptError::Cos(error)) if !transient(&error.kind) => {
                log::warn!("{}: bucket {site} refused the write, it stays in the journal: {error}", record.key);
                self.settle.tell(record.seq, Fate::Refused(answer_error(&error)));
                REFUSED_PAUSE
            }
            Refused::Attempt(AttemptError::Cos(error)) => {
                log::debug!("{}: write to bucket {site} failed, again soon: {error}", record.key);
                match error.kind {
                    Kind::Throttled { retry_after: Some(after) } => after.min(Duration::from_secs(5)),
                    _ => jittered(TROUBLE_PAUSE),
                }
            }
            Refused::Attempt(AttemptError::Dead { .. }) => {
                log::debug!("{}: bucket {site} died under the write", record.key);
                Duration::from_millis(5)
            }
            Refused::Attempt(AttemptError::Deadline { .. }) => jittered(TROUBLE_PAUSE),
            Refused::SourceMissing(why) => {
                log::info!("{}: the source of the copy is not in bucket {site} yet: {why}", record.key);
                Duration::from_secs(1)
            }
            Refused::Damaged(_) => jittered(TROUBLE_PAUSE),
            Refused::Overwritten => {
                log::debug!("{}: waits until the newer write of somebody else is in bucket {site}", record.key);
                REFUSED_PAUSE
            }
            Refused::Local(why) => {
                log::error!("{}: the journal's data cannot be read: {why}", record.key);
                self.settle.tell(record.seq, Fate::Refused(Error::Disk(why)));
                REFUSED_PAUSE
            }
        }
    }

    /// Ends a record for good.
    pub(super) async fn end(&self, record: &Record, fate: Fate) {
        self.settle.tell(record.seq, fate);
        let waits = |older: &Arc<Record>| older.seq < record.seq && older.ambiguous.contains(&true);
        if matches!(record.op, Op::Delete { .. }) && self.journal.of(&record.key).iter().any(waits) {
            self.doubts.note_removal(record);
        }
        if let Some(last) = self.journal.get(record.seq) {
            for site in Site::ALL {
                if let Some(upload) = &last.uploads[site.index()] {
                    self.abort(site, &last, &crate::cos::UploadId(upload.clone())).await;
                }
            }
        }
        self.settle.lost.lock().remove(&record.seq);
        self.settle.late.lock().remove(&record.seq);
        match self.journal.retire(record.seq).await {
            Ok(()) | Err(crate::journal::Error::NoRecord(_)) => {}
            Err(error) => log::error!("{}: journal record {} could not be retired: {error}", record.key, record.seq),
        }
    }

    pub(super) async fn mark(&self, seq: u64, change: Change) {
        match self.journal.mark(seq, change, Persist::Buffered).await {
            // Overtaken: a newer write of the key ended the record meanwhile.
            Ok(()) | Err(crate::journal::Error::NoRecord(_)) => {}
            // The record itself is safe; at worst it is uploaded once more after a restart.
            Err(error) => log::error!("journal record {seq} could not be updated: {error}"),
        }
    }

    /// Waits for the fate of a record, as the commit mode demands.
    pub(super) async fn fate(
        &self,
        record: &Record,
        mut fate: watch::Receiver<Fate>,
        until: Instant,
    ) -> Result<Option<Object>> {
        // A little earlier than the caller's own deadline, so that this answer is the one that counts.
        let until = until - ANSWER_EARLY;
        let mut views = self.links.watch();
        let mut nowhere_since: Option<Instant> = None;
        loop {
            match &*fate.borrow_and_update() {
                Fate::UnderWay => {}
                Fate::Done(object) => return Ok(object.clone()),
                Fate::Refused(error) => return Err(error.clone()),
            }
            // Large files have long deadlines, but there is no use in waiting so long for buckets that are both down.
            let nowhere = self.site_for(Class::Write, &views.borrow_and_update()).is_none();
            nowhere_since = if nowhere { nowhere_since.or(Some(Instant::now())) } else { None };
            let patience =
                nowhere_since.map_or(until, |since| until.min(since + self.options.max_stall - ANSWER_EARLY));
            tokio::select! {
                biased;
                changed = fate.changed() => if changed.is_err() { return Ok(self.object_of(record)) },
                _ = views.changed() => {}
                () = tokio::time::sleep_until(patience) => break,
            }
        }
        let view = self.links.view();
        match self.options.when_unreachable {
            super::ha::WhenUnreachable::Journal => {
                log::warn!(
                    "{}: no bucket took the write in time ({}); the journal has it and sends it later",
                    record.key,
                    view.explain
                );
                Ok(self.object_of(record))
            }
            super::ha::WhenUnreachable::Error => {
                let state =
                    if view.state == State::BothDown { "both buckets are down" } else { "no bucket took it in time" };
                Err(Error::Unavailable(format!(
                    "{}: {state}; the journal keeps the write and sends it later",
                    record.key
                )))
            }
        }
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + crate::clock::chance())
}

/// Could the bucket have committed a write whose answer is missing?
fn maybe_committed(refused: &Refused) -> bool {
    match refused {
        Refused::Attempt(error) => error.lost_its_answer(),
        Refused::SourceMissing(_) | Refused::Local(_) | Refused::Damaged(_) | Refused::Overwritten => false,
    }
}

/// Was this object written after the moment at which a bucket acknowledged the record?
pub(super) fn newer_than_acked(found: &Token, record: &Record) -> bool {
    let mut acks = record.acked.iter().flatten();
    acks.any(|ack| match (&ack.token, &ack.marker) {
        (Some(token), _) => found.order(token) == Some(Ordering::Greater),
        (None, Some(marker)) => match (&found.version, marker.commit_micros()) {
            (Some(version), Some(deleted)) => version.commit_micros().is_some_and(|written| written > deleted),
            _ => false,
        },
        (None, None) => false,
    })
}

fn describe(refused: &Refused) -> String {
    match refused {
        Refused::Attempt(AttemptError::Cos(error)) => error.to_string(),
        Refused::Attempt(AttemptError::Dead { site, .. }) => format!("bucket {site} is down"),
        Refused::Attempt(AttemptError::Deadline { .. }) => "no answer in time".into(),
        Refused::SourceMissing(why) | Refused::Local(why) | Refused::Damaged(why) => why.clone(),
        Refused::Overwritten => "somebody else has written it since".into(),
    }
}
