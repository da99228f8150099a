//! Writes as the file system asks for them: recorded first, acknowledged as the commit mode says.
//!
//! Every write becomes a journal record before anything is sent, in good times as in bad, so that the path taken in a disaster
//! is the path taken every day. In `journal` mode the record is the acknowledgement; in `one-region` the program waits until the
//! master of the moment has taken it; in `two-regions` until both have.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::ask::on_disk;
use super::ha::{Commit, Inner, holds};
use super::settle::Fate;
use super::staging::Scratch;
use super::{Ack, Error, Patch, Result, Staging};
use crate::cache::Known;
use crate::journal::{Base, Data, Journal, NewRecord, Op, Overlay, Persist, Record, SpoolId, crc64_of};
use crate::object::{Class, Headers, Key, Object, Site, Token};
use crate::ranges::Ranges;

/// Largest object COS takes ("Specifications and Limits": 48.82 TB).
const OBJECT_MAX: u64 = 50_000 << 30;

/// Content up to this size is summed when it is frozen: at 10 GB/s from the page cache, 6 ms at the most.
const SUMMED_MAX: u64 = 64 << 20;
/// Patches over a patch that is not in both buckets yet; more are made into one.
const OVERLAYS_MAX: usize = 8;
/// How much earlier than its deadline a wait ends, so that its answer still counts.
const EARLY: Duration = Duration::from_millis(400);
/// Bytes moved at a time from one local file to another.
const MOVED: u64 = 1 << 20;

/// Freezes the content and, where that takes no noticeable time, notes its checksum: with it, a restart after a power cut recognises
/// content that the disk lost.
fn seal(scratch: &Scratch, size: u64, ack: Ack) -> Result<(SpoolId, Option<u64>)> {
    let sum = sum_of(scratch, &[(0, size)])?;
    Ok((scratch.seal(ack == Ack::Fsync)?, sum))
}

fn sum_of(scratch: &Scratch, ranges: &[(u64, u64)]) -> Result<Option<u64>> {
    match ranges.iter().map(|(start, end)| end - start).sum::<u64>() <= SUMMED_MAX {
        true => crc64_of(scratch.file(), ranges).map(Some).map_err(|e| Error::Disk(e.to_string())),
        false => Ok(None),
    }
}

fn no_object(key: &Key) -> Error {
    Error::Rejected(format!("{key}: a write that left no object"))
}

fn persist(ack: Ack) -> Persist {
    match ack {
        Ack::Close => Persist::Buffered,
        Ack::Fsync => Persist::Synced,
    }
}

/// Spool files under names of our own; given back if they do not become part of a record.
struct Linked {
    journal: Arc<Journal>,
    overlays: Vec<Overlay>,
    whole: Option<SpoolId>,
}

impl Linked {
    fn take(&mut self) -> Data {
        Data::Patch { overlays: std::mem::take(&mut self.overlays), whole: self.whole.take() }
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        for id in self.overlays.iter().filter_map(|overlay| overlay.file).chain(self.whole) {
            self.journal.spool().discard(id);
        }
    }
}

impl Inner {
    pub(super) async fn put(
        this: &Arc<Inner>,
        key: &Key,
        data: Option<Arc<Scratch>>,
        headers: Headers,
        ack: Ack,
        until: Instant,
    ) -> Result<Object> {
        let mut crc64 = Some(0);
        let (data, size) = match data {
            None => (Data::Empty, 0),
            Some(scratch) => {
                let size = scratch.file().metadata().map_err(|e| Error::Disk(e.to_string()))?.len();
                if size > OBJECT_MAX {
                    return Err(Error::TooLarge(format!("{key}: {size} bytes, {OBJECT_MAX} are possible")));
                }
                if size > 0 {
                    let (id, sum) = on_disk(move || seal(&scratch, size, ack)).await??;
                    crc64 = sum;
                    (Data::Spool(id), size)
                } else {
                    (Data::Empty, 0)
                }
            }
        };
        let op = Op::Put { data, size, crc64, headers, base: this.base(key) };
        Self::commit(this, key, op, ack, until).await?.ok_or_else(|| no_object(key))
    }

    pub(super) async fn delete(this: &Arc<Inner>, key: &Key, until: Instant) -> Result<()> {
        let op = Op::Delete { base: this.base(key) };
        Self::commit(this, key, op, Ack::Close, until).await.map(drop)
    }

    /// Makes `to` a copy of an existing object under other headers; `from` may be `to`.
    pub(super) async fn copy_to(
        this: &Arc<Inner>,
        from: &Key,
        object: &Object,
        to: &Key,
        headers: Headers,
        until: Instant,
    ) -> Result<Object> {
        let object = this.resolve(from, object);
        let op = Op::Put {
            data: this.source_of(from, &object)?,
            size: object.token.size,
            crc64: object.token.crc64,
            headers,
            base: this.base(to),
        };
        Self::commit(this, to, op, Ack::Close, until).await?.ok_or_else(|| no_object(to))
    }

    /// Writes changed ranges over an object that is stored already.
    pub(super) async fn patch(
        this: &Arc<Inner>,
        key: &Key,
        patch: Patch<super::HaStore>,
        headers: Headers,
        ack: Ack,
        until: Instant,
    ) -> Result<Object> {
        let Patch { staging, ranges, size, base, shown } = patch;
        if size > OBJECT_MAX {
            return Err(Error::TooLarge(format!("{key}: {size} bytes, {OBJECT_MAX} are possible")));
        }
        let under = this.resolve(&base.key, &base.object);
        let (inner, from) = (this.clone(), base.key.clone());
        let token = under.token.clone();
        let made = on_disk(move || {
            let mut data = Linked { journal: inner.journal.clone(), overlays: Vec::new(), whole: None };
            inner.link_pending(&from, &token, &mut data)?;
            if token.version.is_none() && data.overlays.is_empty() && data.whole.is_none() {
                return Ok::<_, Error>(None);
            }
            let ranges: Vec<_> = ranges.iter().map(|range| (range.start, range.end)).collect();
            let mut own =
                Overlay { file: None, ranges, crc64: None, base: Base { key: from, token: token.clone() }, shown };
            if let Some(scratch) = staging.as_ref().filter(|_| !own.ranges.is_empty()) {
                own.crc64 = sum_of(scratch, &own.ranges)?;
                own.file = Some(scratch.seal(ack == Ack::Fsync)?);
            }
            data.overlays.insert(0, own);
            if data.overlays.len() > OVERLAYS_MAX {
                let merged = inner.merge(&data.overlays[1..])?;
                for old in data.overlays.drain(1..).filter_map(|overlay| overlay.file) {
                    inner.journal.spool().discard(old);
                }
                data.overlays.push(merged);
            }
            if ack == Ack::Fsync {
                let below = data.overlays[1..].iter().filter_map(|overlay| overlay.file).chain(data.whole);
                for id in below.collect::<Vec<_>>() {
                    inner.journal.spool().sync(id)?;
                }
            }
            Ok(Some(data.take()))
        })
        .await??;
        let Some(data) = made else {
            return Err(Error::Gone(format!("{key}: nobody knows which version its change belongs to")));
        };
        let op = Op::Put { data, size, crc64: None, headers, base: this.base(key) };
        Self::commit(this, key, op, ack, until).await?.ok_or_else(|| no_object(key))
    }

    /// Second names for what the journal has of a write that may not be in both buckets yet.
    fn link_pending(&self, from: &Key, token: &Token, into: &mut Linked) -> Result<()> {
        let Some(record) = self.pending(from, token) else { return Ok(()) };
        let Op::Put { data, size, crc64, .. } = &record.op else { return Ok(()) };
        let spool = self.journal.spool();
        match data {
            Data::Empty => {}
            Data::Spool(id) => into.whole = Some(spool.link(*id)?),
            Data::Copy { from, version, etag, fallback } => {
                let etag = etag.clone().unwrap_or_else(|| token.etag.clone());
                let token = Token { version: version.clone(), etag, size: *size, crc64: *crc64, ..token.clone() };
                let base = Base { key: from.clone(), token };
                into.overlays.push(Overlay { file: None, ranges: Vec::new(), crc64: None, base, shown: *size });
                into.whole = fallback.map(|id| spool.link(id)).transpose()?;
            }
            Data::Patch { overlays, whole } => {
                for overlay in overlays {
                    let file = overlay.file.map(|id| spool.link(id)).transpose()?;
                    into.overlays.push(Overlay { file, ..overlay.clone() });
                }
                into.whole = whole.map(|id| spool.link(id)).transpose()?;
            }
        }
        Ok(())
    }

    /// One overlay that says what these say together.
    fn merge(&self, overlays: &[Overlay]) -> Result<Overlay> {
        let failed = |e: std::io::Error| Error::Disk(format!("merge changes: {e}"));
        let scratch = Scratch::new(self.journal.clone())?;
        let mut said = Ranges::default();
        let mut shown = u64::MAX;
        for overlay in overlays {
            for &(start, end) in &overlay.ranges {
                let range = start.min(shown)..end.min(shown);
                if let Some(id) = overlay.file {
                    let file = self.journal.spool().open_file(id)?;
                    for part in said.missing(range.clone()) {
                        scratch.reserve(part.end - part.start)?;
                        for at in (part.start..part.end).step_by(MOVED as usize) {
                            let mut bytes = vec![0; (part.end - at).min(MOVED) as usize];
                            file.read_exact_at(&mut bytes, at).map_err(failed)?;
                            scratch.file().write_all_at(&bytes, at).map_err(failed)?;
                        }
                    }
                }
                said.insert(range);
            }
            shown = shown.min(overlay.shown);
        }
        let last = overlays.last().ok_or_else(|| Error::Disk("nothing to merge".into()))?;
        let ranges: Vec<_> = said.iter().map(|range| (range.start, range.end)).collect();
        let crc64 = sum_of(&scratch, &ranges)?;
        let file = if ranges.is_empty() { None } else { Some(scratch.seal(false)?) };
        Ok(Overlay { file, ranges, crc64, base: last.base.clone(), shown })
    }

    /// Where the bytes of an existing object are to be had for a copy: in the buckets by version, and, while a write of them is still on
    /// its way, in the journal under a second name.
    fn source_of(&self, from: &Key, object: &Object) -> Result<Data> {
        if object.token.size == 0 {
            return Ok(Data::Empty);
        }
        let mut local = Linked { journal: self.journal.clone(), overlays: Vec::new(), whole: None };
        self.link_pending(from, &object.token, &mut local)?;
        let version = object.token.version.clone();
        if local.overlays.is_empty() {
            return Ok(match (version, local.whole.take()) {
                (None, Some(id)) => Data::Spool(id),
                // From before its upload, and the journal has moved on: what is under that key now is something else.
                (None, None) if object.token.etag.0.is_empty() => {
                    return Err(Error::Gone(format!("{from}: overwritten before it was stored")));
                }
                (version, fallback) => {
                    let etag = version.is_none().then(|| object.token.etag.clone());
                    Data::Copy { from: from.clone(), version, etag, fallback }
                }
            });
        }
        if version.is_some() {
            let base = Base { key: from.clone(), token: object.token.clone() };
            let shown = object.token.size;
            local.overlays.insert(0, Overlay { file: None, ranges: Vec::new(), crc64: None, base, shown });
        }
        if let ([Overlay { file: None, ranges, base, shown, .. }], None) = (&local.overlays[..], local.whole)
            && ranges.is_empty()
            && [*shown, base.token.size] == [object.token.size; 2]
        {
            // A copy of a copy: the first source has the same bytes, and no more of them.
            let Token { version, etag, .. } = base.token.clone();
            let etag = version.is_none().then_some(etag);
            return Ok(Data::Copy { from: base.key.clone(), version, etag, fallback: None });
        }
        Ok(local.take())
    }

    async fn commit(this: &Arc<Inner>, key: &Key, op: Op, ack: Ack, until: Instant) -> Result<Option<Object>> {
        let files = op.files();
        if ack == Ack::Fsync && this.journal.spool().unsynced() > 0 {
            // An `fsync` covers what was closed before; its records are in the same transaction.
            let journal = this.journal.clone();
            let synced = on_disk(move || journal.spool().sync_all()).await;
            if let Err(error) = synced.and_then(|synced| Ok(synced?)) {
                files.iter().for_each(|(id, _)| this.journal.spool().discard(*id));
                return Err(error);
            }
        }
        let new = NewRecord { key: key.clone(), op, epoch: this.epoch() };
        let record = match this.journal.append(new, persist(ack)).await {
            Ok(record) => record,
            Err(error) => {
                for (id, _) in files {
                    this.journal.spool().discard(id);
                }
                // Its turn may have come and gone with the record that is no more.
                this.carry(key);
                return Err(error.into());
            }
        };
        let fate = this.await_fate(record.seq);
        this.carry(key);
        let answer = Self::acknowledge(this, &record, fate, until).await;
        this.ease(record.seq, until).await;
        answer
    }

    async fn acknowledge(
        this: &Arc<Inner>,
        record: &Arc<Record>,
        fate: watch::Receiver<Fate>,
        until: Instant,
    ) -> Result<Option<Object>> {
        match this.options.commit {
            Commit::Journal => Ok(this.object_of(record)),
            // A newer write of the key may have taken this one's place; the caller still gets what it wrote.
            Commit::OneRegion | Commit::TwoRegions => {
                let fate = tokio::select! {
                    biased;
                    fate = this.fate(record, fate, until) => fate,
                    () = Self::kept_elsewhere(this, record) => Ok(None),
                };
                match fate {
                    Ok(object) => Ok(object.or_else(|| this.object_of(record))),
                    Err(why) => {
                        let object = this.object_of(record).map(Box::new);
                        Err(Error::Late { object, why: Box::new(why) })
                    }
                }
            }
        }
    }

    /// From 80 % on the journal is emptied before it takes more: whoever writes waits until both buckets have what it wrote. Not longer than
    /// that can help: with a bucket away nothing would be gained.
    async fn ease(&self, seq: u64, until: Instant) {
        let spool = self.journal.spool();
        let until = until - EARLY;
        while spool.is_pressed() && Instant::now() < until {
            let Some(record) = self.journal.get(seq) else { return };
            let view = self.links.view();
            let well = |site: Site| super::ask::usable(view.linkages[site.index()][Class::Write.index()].health);
            if Site::ALL.into_iter().all(|site| holds(&record, site) || !well(site)) {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_millis(100), spool.freed()).await;
        }
    }

    /// Waits until the journal has got room back; false if there is nothing that could give it any in time.
    pub(super) async fn room(&self, until: Instant) -> bool {
        let until = until.min(Instant::now() + self.options.max_stall / 2) - EARLY;
        let spool = self.journal.spool();
        if self.journal.stats().records == 0 {
            return false;
        }
        tokio::time::timeout_at(until, spool.freed()).await.is_ok()
    }

    /// What this mount believes it overwrites.
    fn base(&self, key: &Key) -> Option<Token> {
        // A write that no bucket has confirmed may never arrive: then this one lies over what that one was to lie over.
        if let Some(unsent) = self.journal.latest(key).filter(|last| last.is_unsent()) {
            return unsent.op.base().cloned();
        }
        match self.known(key) {
            Some(Known::Present(object)) => Some(object.token),
            _ => None,
        }
    }

    /// Everything recorded so far to stable storage: the content first, then what speaks of it.
    pub(super) async fn to_disk(&self) -> Result<()> {
        let journal = self.journal.clone();
        on_disk(move || journal.spool().sync_all()).await??;
        Ok(self.journal.sync().await?)
    }

    /// Keeps what a power cut can cost young, for programs that never ask.
    pub(super) fn start_syncing(this: &Arc<Inner>) {
        let every = this.options.sync_interval;
        if every.is_zero() {
            return;
        }
        let inner = this.clone();
        this.rt.spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                if inner.journal.spool().unsynced() == 0 {
                    continue;
                }
                if let Err(error) = inner.to_disk().await {
                    log::error!("the journal could not be synced to the disk: {error}");
                    continue;
                }
                // What these records have overtaken is no longer needed in case the disk loses them.
                let records = inner.journal.all();
                for record in records.iter().filter(|record| inner.journal.of(&record.key).len() > 1) {
                    inner.carry(&record.key);
                }
            }
        });
    }

    /// Waits until everything that was recorded before this call is where `fsync` wants it.
    pub(super) async fn sync(this: &Arc<Inner>, until: Instant) -> Result<()> {
        this.to_disk().await?;
        if this.options.commit == Commit::Journal {
            return Ok(());
        }
        let horizon = this.journal.all().iter().map(|r| r.seq).max().unwrap_or(0);
        loop {
            let master = this.links.view().master;
            let waiting = this.journal.all().into_iter().find(|r| r.seq <= horizon && !holds(r, master));
            let Some(record) = waiting else { return Ok(()) };
            let fate = this.await_fate(record.seq);
            this.carry(&record.key);
            tokio::select! {
                biased;
                fate = this.fate(&record, fate, until) => drop(fate?),
                () = Self::kept_elsewhere(this, &record) => {}
            }
            if Instant::now() + std::time::Duration::from_millis(400) >= until {
                return Ok(());
            }
        }
    }
}
