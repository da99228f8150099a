//! Sees each write into the second bucket, and only then lets the journal forget it.
//!
//! The cloud replicates by itself; this module only looks. What was written to one directory within a second is looked up by listing
//! versions, because a request costs money and time; a few writes are looked up one by one. What has not arrived after the configured
//! lag is uploaded by us.
//!
//! A write whose answer was lost may still be committed long after its connection died. Such a *late* version could outrank a
//! newer write of the same key, because the bucket that was dead gives it a newer version id. So a record with a lost answer is
//! kept until its bucket has been calm for a while, and a late version is then removed by its id in both buckets (a delete by id is
//! exact and repeatable, and not replicated).
//!
//! Owns: verification, late versions, the journal figures for the failover core. Owns not: the master (`settle`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use super::ask::usable;
use super::ha::{Inner, holds, micros, micros_of};
use super::list::dir_of;
use super::overtaken;
use super::settle::{Fate, newer_than_acked};
use crate::cache::Known;
use crate::cos::{self, Kind, ListVersions, VersionEntry};
use crate::failover::{Health, JournalView, State};
use crate::journal::{Change, Op, Record};
use crate::linkage::AttemptError;
use crate::mutant::{Mutant, lacks};
use crate::object::{Class, Key, Site, Token, VersionId};

/// First look after a write; doubles up to [`LOOK_MAX`].
const LOOK_MIN: Duration = Duration::from_millis(700);
const LOOK_MAX: Duration = Duration::from_secs(60);
/// Pause of looks that are to put right what comes late, not to find out whether it has come.
const LOOK_PATIENT: Duration = Duration::from_secs(5);
/// Looks are due at full seconds, so that the writes of a second are looked up together.
const LOOK_GRID: Duration = Duration::from_secs(1);
/// While the journal has held [`TOGETHER_MIN`] records within so long, looks are due so far apart: right after a look few are left.
const LOOK_GRID_BUSY: Duration = Duration::from_secs(4);
/// So many due records of one directory are looked up by listing.
const TOGETHER_MIN: usize = 16;
/// Looks at the same time.
const LOOKS_AT_ONCE: usize = 16;
/// A round goes through the whole journal: not after every single write.
const ROUND_MIN: Duration = Duration::from_millis(50);
/// The clock of a bucket and ours differ by less: COS refuses what was signed by a clock that is more than 15 minutes off.
const SKEW_MAX: Duration = Duration::from_secs(15 * 60);
/// The clocks of two buckets differ by less. Arbitrary.
const CLOCKS_APART: Duration = Duration::from_secs(60);
/// A look that fails after this long did not get an answer; one that fails sooner was refused.
const SILENCE: Duration = Duration::from_secs(1);
/// A bucket that shows nothing for so long may have the object under a delete marker.
const HIDDEN_AFTER: Duration = Duration::from_secs(60);
/// One look may take this long, repetitions included.
pub(super) const LOOK_TIME: Duration = Duration::from_secs(15);

/// What a look at the second bucket found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// It is there, or something newer is.
    Arrived,
    NotYet,
}

/// What becomes of a record that both buckets hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Conclusion {
    Forget,
    /// Waits for something that costs no request to see.
    Soon,
    /// Waits for an older record, and every look costs requests.
    Meanwhile,
    Later,
}

/// When each record is looked at next.
struct Schedule {
    begun: Instant,
    busy_until: Instant,
    grid: Duration,
    next: HashMap<u64, (Instant, Duration)>,
    /// Since when a site's write linkage has been well without a break.
    calm: [Option<Instant>; 2],
}

impl Schedule {
    fn new(now: Instant) -> Schedule {
        Schedule { begun: now, busy_until: now, grid: LOOK_GRID, next: HashMap::new(), calm: [None; 2] }
    }

    fn adapt(&mut self, records: usize, now: Instant) {
        if records >= TOGETHER_MIN {
            self.busy_until = now + LOOK_GRID_BUSY;
        }
        self.grid = if now < self.busy_until { LOOK_GRID_BUSY } else { LOOK_GRID };
    }

    /// At the first moment of the grid after a pause.
    fn after(&self, now: Instant, pause: Duration) -> Instant {
        let steps = (now + pause).saturating_duration_since(self.begun).div_duration_f64(self.grid).ceil();
        self.begun + self.grid.mul_f64(steps)
    }

    fn due(&mut self, seq: u64, now: Instant) -> bool {
        let first = self.after(now, LOOK_MIN);
        let (next, _) = self.next.entry(seq).or_insert((first, LOOK_MIN));
        *next <= now
    }

    fn later(&mut self, seq: u64, now: Instant) {
        let Some((_, pause)) = self.next.get(&seq) else { return };
        let pause = (*pause * 2).min(LOOK_MAX);
        self.at(seq, now, pause);
    }

    /// Waits for something else than replication: no reason to look ever more rarely.
    fn soon(&mut self, seq: u64, now: Instant) {
        self.at(seq, now, LOOK_MIN);
    }

    fn at(&mut self, seq: u64, now: Instant, pause: Duration) {
        self.next.insert(seq, (self.after(now, pause), pause));
    }

    fn is_calm(&self, site: Site, now: Instant, late_commit: Duration) -> bool {
        self.calm[site.index()].is_some_and(|since| now - since >= late_commit)
    }
}

impl Inner {
    pub(super) fn start_verifying(this: &Arc<Inner>) {
        let inner = this.clone();
        this.rt.spawn(async move {
            let mut schedule = Schedule::new(Instant::now());
            loop {
                inner.report();
                inner.verify_due(&mut schedule).await;
                let ready = inner.settle.ready.notified();
                let (idle, rest) = match inner.links.view().state {
                    // Writers wait for what is found here.
                    State::Failback => (50, Duration::ZERO),
                    _ if inner.journal.stats().records == 0 => (1000, ROUND_MIN),
                    _ => (250, ROUND_MIN),
                };
                let _ = tokio::time::timeout(Duration::from_millis(idle), ready).await;
                tokio::time::sleep(rest).await;
            }
        });
    }

    /// Tells the failover core how far the journal is.
    fn report(&self) {
        let master = self.links.view().master;
        let mut view = JournalView::default();
        let records = if lacks(Mutant::DrainedFailback) { Vec::new() } else { self.journal.all() };
        for record in records {
            view.unsent += u64::from(!holds(&record, master));
            for site in Site::ALL {
                view.unverified_on[site.index()] += u64::from(!holds(&record, site));
                let elsewhere = holds(&record, site.other()) || record.sent[site.other().index()];
                view.owed[site.index()] += u64::from(elsewhere && !holds(&record, site));
            }
            view.ambiguous += u64::from(record.ambiguous.iter().any(|a| *a));
            if Site::ALL.into_iter().any(|site| !holds(&record, site)) {
                view.oldest = view.oldest.max(crate::clock::age(record.created));
            }
        }
        let seen = self.canaries.seen();
        view.canaries = seen.in_a_row;
        view.lag_to_a = seen.to_a;
        view.reconciled = self.coverage.is_reconciled();
        self.links.report_journal(view);
    }

    async fn verify_due(&self, schedule: &mut Schedule) {
        let now = Instant::now();
        let view = self.links.view();
        for site in Site::ALL {
            let well = view.linkages[site.index()].iter().all(|l| l.health == Health::Up);
            let since = &mut schedule.calm[site.index()];
            *since = if well { since.or(Some(now)) } else { None };
        }
        let records = self.journal.all();
        schedule.adapt(records.len(), now);
        if schedule.next.len() > 2 * records.len() + 64 {
            let alive: HashSet<u64> = records.iter().map(|r| r.seq).collect();
            schedule.next.retain(|seq, _| alive.contains(seq));
        }
        // Writers wait: what matters is that a write has arrived; the rest has time.
        let holding = view.state == State::Failback;
        let mut due: [Vec<Arc<Record>>; 2] = [Vec::new(), Vec::new()];
        let mut in_both: Vec<Arc<Record>> = Vec::new();
        for record in records {
            if !holds(&record, view.master) || !(schedule.due(record.seq, now) || holding) {
                continue;
            }
            let other = view.master.other();
            if lacks(Mutant::Failover) {
                self.end(&record, Fate::Done(self.object_of(&record))).await;
            } else if holds(&record, other) {
                if !holding {
                    in_both.push(record);
                }
            } else if usable(view.linkages[other.index()][Class::Read.index()].health) {
                due[other.index()].push(record);
            } else {
                // Nobody to ask; when the bucket is back, its turn comes at once.
                schedule.soon(record.seq, now);
            }
        }
        for site in Site::ALL {
            let due = std::mem::take(&mut due[site.index()]);
            if due.is_empty() {
                continue;
            }
            let found = self.look_up(site, &due).await;
            for record in due {
                match found.get(&record.seq) {
                    Some(Found::Arrived) if holding => {}
                    Some(Found::Arrived) => {
                        in_both.extend(self.journal.get(record.seq));
                    }
                    _ if holding => schedule.soon(record.seq, now),
                    None => schedule.later(record.seq, now),
                    Some(Found::NotYet) => {
                        schedule.later(record.seq, now);
                        self.push_late(site, &record).await;
                    }
                }
            }
        }
        let calm = Site::ALL.map(|site| schedule.is_calm(site, now, self.options.late_commit));
        let mut concluded = futures::stream::iter(in_both.into_iter().map(|record| async move {
            // A send that is still under way may lose its answer.
            if self.settle.is_flying(record.seq) {
                return (Conclusion::Soon, record);
            }
            // The looks took their time.
            let record = self.journal.get(record.seq).unwrap_or(record);
            (self.conclusion(&record, calm).await, record)
        }))
        .buffer_unordered(LOOKS_AT_ONCE);
        while let Some((conclusion, record)) = concluded.next().await {
            match conclusion {
                Conclusion::Later => schedule.later(record.seq, now),
                Conclusion::Soon => schedule.soon(record.seq, now),
                Conclusion::Meanwhile => schedule.at(record.seq, now, LOOK_PATIENT),
                Conclusion::Forget => match self.forget(&record).await {
                    true => _ = schedule.next.remove(&record.seq),
                    false => schedule.later(record.seq, now),
                },
            }
        }
    }

    /// Both buckets hold it: can it be forgotten, or is there something to be watched for some more time?
    async fn conclusion(&self, record: &Arc<Record>, calm: [bool; 2]) -> Conclusion {
        for site in Site::ALL {
            if !record.ambiguous[site.index()] {
                continue;
            }
            let recent =
                self.settle.lost_ago(record.seq, Instant::now()).is_some_and(|ago| ago < self.options.late_commit);
            if !calm[site.index()] || recent {
                return Conclusion::Soon;
            }
            if !self.remove_late_version(site, record).await {
                return Conclusion::Later;
            }
        }
        let of_key = self.journal.of(&record.key);
        let is_newest = of_key.last().is_none_or(|newest| newest.seq <= record.seq);
        if let Some(since) = self.in_doubt(record).filter(|_| is_newest)
            && !self.is_at_rest(record, since).await
        {
            return Conclusion::Later;
        }
        if is_newest && !self.remove_condemned(&record.key).await {
            return Conclusion::Later;
        }
        // The newest record of a key goes last: as long as there are others, it is what the journal says of the key.
        match self.journal.of(&record.key).first().is_some_and(|oldest| oldest.seq < record.seq) {
            true if self.in_doubt(record).is_some() => Conclusion::Meanwhile,
            true => Conclusion::Soon,
            false => Conclusion::Forget,
        }
    }

    /// False if it has to stay for now.
    async fn forget(&self, record: &Record) -> bool {
        // The index may have lost what an earlier run had noted there before it was killed: then the journal is the only memory. Of this record
        // only: a newer one of the key may yet be taken back.
        if record.acked.iter().any(Option::is_some) {
            self.cache.attrs().see_own(&record.key, self.known_after(record));
        }
        // The journal may not forget what the index would not remember after a kill: with the bucket of this write away, an older state would
        // show again, a deleted file among them. One flush serves all writes before it.
        // Where the cache's disk refuses, it is kept as long as the journal has room, so that no write fails for it.
        if !self.flush_index(&record.key).await && !self.journal.spool().is_pressed() {
            return false;
        }
        // A newer write may have come since this one was looked up: then the doubt is the newer one's.
        if record.acked.iter().all(Option::is_some) {
            self.doubts.raise(record, 0);
        }
        self.end(record, Fate::Done(self.object_of(record))).await;
        if self.journal.latest(&record.key).is_none() {
            self.doubts.clear(&record.key);
        }
        true
    }

    /// Is the current version of the key on this site an older write of ours that was committed late? Then removes it by id in both
    /// buckets. False if that could not be found out.
    async fn remove_late_version(&self, site: Site, record: &Arc<Record>) -> bool {
        if matches!(record.op, Op::Delete { .. }) {
            return self.remove_late_removals(site, record).await;
        }
        let key = &record.key;
        let newest = self.journal.latest(key).map_or(record.seq, |r| r.seq).max(record.seq);
        let until = Instant::now() + LOOK_TIME;
        for _ in 0..8 {
            let found = self.head_at(site, key, None, until).await;
            let token = match found {
                Ok(object) => object.token,
                Err(AttemptError::Cos(e)) if e.kind == Kind::NoSuchKey => return true,
                Err(_) => return false,
            };
            let expected = self.own_seq_seen(key);
            let late = self.own(token.stamp).is_some_and(|stamp| stamp.seq < newest.max(expected));
            let (true, Some(version)) = (late, &token.version) else { return true };
            match self.is_overtaken_here(site, key, &token).await {
                Some(true) => {}
                // Not late but early: what comes after it is still on its way here.
                Some(false) => return true,
                None => return false,
            }
            if !self.remove_overtaken(site, key, std::slice::from_ref(version)).await {
                return false;
            }
        }
        false
    }

    /// An older write of ours is current on this site. Is it so for good, because it has the newer id or because the newer write is
    /// beside it, or only until the newer write gets here? `None` if that could not be found out.
    async fn is_overtaken_here(&self, site: Site, key: &Key, found: &Token) -> Option<bool> {
        let seq = found.stamp.map_or(0, |stamp| stamp.seq);
        let newer = self.newest_version(key, seq)?;
        let committed = found.version.as_ref().and_then(|version| version.commit_micros());
        if let (Some(found), Some(newer)) = (committed, newer.commit_micros())
            && found > newer
        {
            return Some(true);
        }
        let entries = self.versions_at(site, key).await?;
        Some(entries.iter().any(|entry| entry.version == newer))
    }

    /// The id that a bucket gave to the newest write of ours after this one, as far as known.
    fn newest_version(&self, key: &Key, after: u64) -> Option<VersionId> {
        let records = self.journal.of(key).into_iter().rev().filter(|record| record.seq > after);
        let mut journaled = records.filter_map(|record| overtaken::versions(&record).next().cloned());
        journaled.next().or_else(|| match self.cache.attrs().get(key)? {
            Known::Present(object) => object.token.version,
            Known::Absent { marker, .. } => marker,
        })
    }

    /// A removal of ours that lost its answer may have left a marker. It need not be what this bucket shows: it may be what the other one will
    /// show, if it gets there last. Markers carry no stamp; where content of ours is newer, content is what is kept. False if it has to be looked
    /// at again.
    async fn remove_late_removals(&self, site: Site, record: &Arc<Record>) -> bool {
        let key = &record.key;
        let newest = self.journal.latest(key);
        let Some(newest) = newest.filter(|newest| matches!(newest.op, Op::Put { .. })) else { return true };
        // What it removed was there before it.
        let base = record.op.base().and_then(|token| token.version.as_ref()?.commit_micros());
        let sent = micros_of(record.created).saturating_sub(micros(SKEW_MAX));
        let sent = sent.max(base.unwrap_or(0).saturating_sub(micros(CLOCKS_APART)));
        let Some(entries) = self.versions_since(site, key, sent).await else { return false };
        let of_key = self.journal.of(key);
        // A removal that was begun meanwhile may be in the listing, and stays.
        if of_key.iter().any(|r| r.seq > newest.seq && matches!(r.op, Op::Delete { .. })) {
            return false;
        }
        // Without the marker the bucket would show what was there before it, so something newer has to be there; if it never comes, so be it.
        let mut newer = of_key.iter().filter(|r| r.seq > record.seq && matches!(r.op, Op::Put { .. }));
        if !newer.any(|newer| entries.iter().any(|entry| is_of(entry, newer))) {
            return holds(&newest, site) && crate::clock::age(record.created) >= self.options.lag_max;
        }
        let shown = cos::current(&entries).map(|entry| &entry.version);
        let late = entries.iter().filter(|entry| entry.marker).map(|entry| &entry.version).filter(|version| {
            let recent = version.commit_micros().map_or(Some(*version) == shown, |at| at >= sent);
            let known = of_key.iter().flat_map(|record| overtaken::versions(record)).any(|known| known == *version);
            recent && !known && !self.doubts.is_known_removal(key, version)
        });
        let late: Vec<VersionId> = late.cloned().collect();
        late.is_empty() || self.remove_overtaken(site, key, &late).await
    }

    /// Looks all of them up with few requests, and marks what has arrived. Of what is not in the answer the bucket did not say anything.
    async fn look_up(&self, site: Site, due: &[Arc<Record>]) -> HashMap<u64, Found> {
        let mut by_dir: BTreeMap<&str, Vec<&Arc<Record>>> = BTreeMap::new();
        let mut alone: Vec<Arc<Record>> = Vec::new();
        for record in due {
            match self.in_doubt(record).is_some() || self.is_outlived(record) {
                true => alone.push(record.clone()),
                false => by_dir.entry(dir_of(record.key.as_str())).or_default().push(record),
            }
        }
        let (mut found, mut lists) = (HashMap::new(), true);
        for records in by_dir.into_values() {
            if lists && records.len() >= TOGETHER_MIN {
                lists = self.look_together(site, &records, &mut found).await;
            }
            alone.extend(records.into_iter().filter(|r| !found.contains_key(&r.seq)).cloned());
        }
        self.look_one_by_one(site, &alone, &mut found).await;
        found
    }

    /// One after the other is marked, so that a history can be repeated. After a look that waited for an answer in vain there is none.
    async fn look_one_by_one(&self, site: Site, due: &[Arc<Record>], all: &mut HashMap<u64, Found>) {
        let silent = &AtomicBool::new(false);
        let looks = due.iter().cloned().map(|record| async move {
            if silent.load(Relaxed) {
                return (record.seq, None);
            }
            let begun = Instant::now();
            let found = self.look(site, &record).await;
            silent.fetch_or(found.is_none() && begun.elapsed() >= SILENCE, Relaxed);
            (record.seq, found)
        });
        let mut looks = futures::stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE);
        while let Some((seq, found)) = looks.next().await {
            if found == Some(Found::Arrived) {
                self.mark(seq, Change::Verified { site }).await;
            }
            all.extend(found.map(|found| (seq, found)));
        }
    }

    /// `None`: the bucket did not say.
    async fn look(&self, site: Site, record: &Record) -> Option<Found> {
        let key = &record.key;
        let until = Instant::now() + LOOK_TIME;
        if self.is_outlived(record) {
            return Some(Found::Arrived);
        }
        if self.in_doubt(record).is_some() {
            // What the bucket shows can be an older write that came in later.
            return self.look_among_versions(site, record).await;
        }
        if let Op::Delete { .. } = record.op {
            // The newest entry of the key tells a marker that arrived from an object that never did.
            let newest = self.newest_versions(site, key, 1, until).await?;
            return Some(newest.first().map_or(Found::NotYet, |entry| compare(record, entry)));
        }
        let object = match self.head_at(site, key, None, until).await {
            Ok(object) => object,
            Err(AttemptError::Cos(e)) if e.kind == Kind::NoSuchKey => {
                return match crate::clock::age(record.created) < HIDDEN_AFTER {
                    true => Some(Found::NotYet),
                    false => self.look_among_versions(site, record).await,
                };
            }
            Err(_) => return None,
        };
        let stamped = object.token.stamp == Some(self.stamp(record)) && self.is_content_of(record, &object.token);
        if stamped || is_acked(&object.token, record) {
            return Some(Found::Arrived);
        }
        if newer_than_acked(&object.token, record) {
            self.note_foreign(site, key, &object.token);
            return Some(Found::Arrived);
        }
        Some(Found::NotYet)
    }

    /// Whatever the bucket shows, is it there, or something newer of somebody else?
    async fn look_among_versions(&self, site: Site, record: &Record) -> Option<Found> {
        let entries = self.versions_at(site, &record.key).await?;
        // A late removal of our own has to go first.
        let of_key = self.journal.of(&record.key);
        let doubtful = of_key.iter().any(|r| r.seq < record.seq && r.ambiguous.contains(&true));
        let newest = entries.first().filter(|_| !doubtful);
        Some(match entries.iter().any(|entry| is_of(entry, record)) {
            true => Found::Arrived,
            false => newest.map_or(Found::NotYet, |entry| compare(record, entry)),
        })
    }

    /// Lists versions where these records of one directory are. Old versions and other files lie in between: as soon as a page brings less than so
    /// many requests would have, the rest is left to looks of their own, as is what somebody else has written over. False: the bucket lists
    /// nothing now.
    async fn look_together(&self, site: Site, records: &[&Arc<Record>], found: &mut HashMap<u64, Found>) -> bool {
        let mut wanted: BTreeMap<&str, &Arc<Record>> = records.iter().map(|r| (r.key.as_str(), *r)).collect();
        let (Some((first, _)), Some((last, _))) = (wanted.first_key_value(), wanted.last_key_value()) else {
            return true;
        };
        let last = last.to_string();
        let mut query =
            ListVersions { prefix: common_prefix(first, &last).into(), max_keys: 1000, ..ListVersions::default() };
        while !wanted.is_empty() {
            let begun = Instant::now();
            let Some(page) = self.versions_page(site, &query, begun + LOOK_TIME).await else {
                return begun.elapsed() < SILENCE;
            };
            let before = wanted.len();
            for entry in &page.entries {
                // The first entry of a key is its newest.
                let Some(record) = wanted.remove(entry.key.as_str()) else { continue };
                match compare(record, entry) {
                    Found::Arrived if is_of(entry, record) => {
                        self.mark(record.seq, Change::Verified { site }).await;
                        found.insert(record.seq, Found::Arrived);
                    }
                    Found::Arrived => {}
                    Found::NotYet => _ = found.insert(record.seq, Found::NotYet),
                }
            }
            let brought = before - wanted.len();
            let next = page.next.filter(|(key, _)| *key <= last);
            // What a listing has passed without naming it is not there.
            let reached = page.entries.last().map(|entry| entry.key.as_str());
            wanted.retain(|key, record| {
                let passed = next.is_none() || reached.is_some_and(|reached| *key <= reached);
                if passed {
                    found.insert(record.seq, Found::NotYet);
                }
                !passed
            });
            match next {
                Some((key, version)) if brought >= TOGETHER_MIN => {
                    (query.key_marker, query.version_marker) = (Some(key), version);
                }
                _ => break,
            }
        }
        true
    }

    /// Does the bucket that took this write hold a later one of somebody else? Not known: assumed, because sending ours once more would put it on top.
    async fn shows_another(&self, site: Site, record: &Record) -> bool {
        if self.overwritten_by(record).is_some() {
            return true;
        }
        match self.versions_at(site, &record.key).await {
            Some(entries) => cos::current(&entries).is_some_and(|current| !is_of(current, record)),
            None => true,
        }
    }

    /// What the cloud has not replicated in time is uploaded by us.
    async fn push_late(&self, site: Site, record: &Arc<Record>) {
        let age = crate::clock::age(record.created);
        let health = self.links.view().linkages[site.index()][Class::Write.index()].health;
        if age < self.options.lag_max || health != Health::Up || self.shows_another(site.other(), record).await {
            return;
        }
        log::warn!("{}: not replicated to bucket {site} after {} s, uploading it there", record.key, age.as_secs());
        // By the worker that has the key: a newer write may be on its way.
        self.settle.late.lock().insert(record.seq);
        self.carry(&record.key);
    }
}

/// Is this the version that a bucket made of the record?
fn is_of(entry: &VersionEntry, record: &Record) -> bool {
    overtaken::versions(record).any(|version| *version == entry.version)
}

/// What both begin with.
fn common_prefix<'a>(one: &'a str, other: &str) -> &'a str {
    let same = one.char_indices().zip(other.chars()).find(|((_, a), b)| a != b);
    same.map_or(one, |((at, _), _)| &one[..at])
}

fn is_acked(found: &Token, record: &Record) -> bool {
    record
        .acked
        .iter()
        .flatten()
        .any(|ack| ack.token.as_ref().is_some_and(|t| t.version.is_some() && t.version == found.version))
}

/// Holds the newest entry of a key in a listing of versions against a record.
fn compare(record: &Record, newest: &VersionEntry) -> Found {
    let matches = newest.marker == matches!(record.op, Op::Delete { .. }) && is_of(newest, record);
    let seen = newest.version.commit_micros();
    let newer = seen.is_some_and(|seen| overtaken::commits(record).any(|committed| seen > committed));
    match matches || newer {
        true => Found::Arrived,
        false => Found::NotYet,
    }
}
