//! Bytes of one pinned version, from the nearest place that has them.
//!
//! Order: the journal's own file (a write still under way), the local cache, the master, the other bucket. The version id is
//! the same in both buckets, so a second bucket can be asked at any time without a risk: it has exactly these bytes or says
//! that it has not got them yet. That is why a slow answer is hedged by a second question rather than waited for.
//!
//! The unit is the cache's block. A fetch brings a run of blocks in one request and is shared by everybody who waits for one
//! of them, read-ahead included.
//!
//! Owns: the order of sources and hedging. Owns not: which blocks to fetch ahead (`prefetch`), repeating (`ask`).

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::ask::{Pause, answer_error, on_disk, transient, usable, wait_change};
use super::budget::Share;
use super::ha::Inner;
use super::patch::{Composite, Span, read_file};
use super::prefetch::Window;
use super::tally::From;
use super::{Error, Result};
use crate::cache::{CachedFile, Known};
use crate::cos::{self, Attempt, Get, Kind, Progress, Sent};
use crate::failover::Health;
use crate::journal::{Data, Op, Record};
use crate::linkage::AttemptError;
use crate::mutant::{Mutant, lacks};
use crate::object::{Class, ETag, Headers, Key, Object, Site, Token};

pub(super) const BLOCK: u64 = CachedFile::BLOCK;

/// Longest run of blocks in one request. Long enough to fill a fast line for many round trips, short enough to begin again.
pub(super) const RUN_MAX: u64 = 4 * BLOCK;

/// Throughput below which a run counts as late and is hedged, bytes per second.
const SLOW_BYTES_PER_S: u64 = 4 << 20;
/// Bounds of the time a run may take before it is hedged.
const HEDGE_MIN: Duration = Duration::from_millis(150);
const HEDGE_MAX: Duration = Duration::from_secs(1);

/// One open object.
pub struct Reader {
    pub(super) key: Key,
    pub(super) object: Object,
    /// The bytes of a write that is still in the journal.
    local: Option<Local>,
    /// The same bytes under another name.
    source: Source,
    pub(super) cached: Arc<CachedFile>,
    pub(super) flights: Arc<Flights>,
    pub(super) window: Mutex<Window>,
}

/// What a copy that may be in one bucket only was made from: key and version.
pub(super) type Source = Option<Arc<(Key, Token)>>;

/// How the journal has the content of a pending write.
enum Local {
    Whole(Arc<File>),
    /// Over the version that the reader is for, where the journal does not have that as well.
    Patched(Arc<Composite>, Option<Box<Reader>>),
}

type Flight = Shared<BoxFuture<'static, Result<Bytes>>>;

/// Blocks of one object version that are on their way now.
#[derive(Default)]
pub(super) struct Flights {
    blocks: Mutex<BTreeMap<u64, Flight>>,
}

/// All object versions with open readers, so that two handles on one file share their fetches.
#[derive(Default)]
pub(super) struct Fetches {
    open: HashMap<usize, Weak<Flights>>,
}

impl Fetches {
    fn of(&mut self, file: &Arc<CachedFile>) -> Arc<Flights> {
        if self.open.len() > 64 && self.open.len().is_power_of_two() {
            self.open.retain(|_, flights| flights.strong_count() > 0);
        }
        // The address is unique as long as somebody holds the file, and every holder of the flights does.
        let slot = self.open.entry(Arc::as_ptr(file) as usize).or_default();
        match slot.upgrade() {
            Some(flights) => flights,
            None => {
                let flights = Arc::new(Flights::default());
                *slot = Arc::downgrade(&flights);
                flights
            }
        }
    }
}

impl Inner {
    pub(super) fn open(&self, key: &Key, object: &Object) -> Reader {
        let object = self.resolve(key, object);
        let pending = self.pending(key, &object.token);
        let local = pending.as_ref().and_then(|record| self.local(record));
        let source = pending.and_then(|record| source_of(&record));
        let cached = self.cache.file(key, &object.token);
        let flights = self.fetches.lock().of(&cached);
        Reader { key: key.clone(), object, local, source, cached, flights, window: Mutex::new(Window::default()) }
    }

    /// The record of a write that made this object.
    pub(super) fn pending(&self, key: &Key, token: &Token) -> Option<Arc<Record>> {
        let mut records = self.journal.of(key).into_iter().rev();
        records.find(|record| self.object_of(record).is_some_and(|pending| pending.token.same(token)))
    }

    fn local(&self, record: &Record) -> Option<Local> {
        let Op::Put { data, .. } = &record.op else { return None };
        if let Some(id) = data.spool() {
            return self.journal.spool().open_file(id).ok().map(|file| Local::Whole(Arc::new(file)));
        }
        let composite = self.composite(&record.op)?.ok()?;
        let under = composite.bottom().map(|base| {
            let object = Object { token: self.settled_token(base), headers: Headers::default() };
            let cached = self.cache.file(&base.key, &object.token);
            let flights = self.fetches.lock().of(&cached);
            let window = Mutex::new(Window::default());
            Box::new(Reader { key: base.key.clone(), object, local: None, source: None, cached, flights, window })
        });
        Some(Local::Patched(Arc::new(composite), under))
    }

    /// A range of a pending patch, each piece from where it is.
    async fn read_patched(
        this: &Arc<Inner>,
        composite: &Composite,
        under: Option<&Reader>,
        range: Range<u64>,
        until: Instant,
    ) -> Result<Bytes> {
        let mut out = BytesMut::with_capacity((range.end - range.start) as usize);
        let mut spans = composite.spans(range);
        let alone = spans.len() == 1;
        for span in spans.drain(..) {
            let bytes = match (span, under) {
                (Span::Zeros(range), _) => Bytes::from(vec![0; (range.end - range.start) as usize]),
                (Span::File(file, range), _) => on_disk(move || read_file(&file, range)).await??,
                (Span::Bucket(range), Some(under)) => {
                    let len = (range.end - range.start) as u32;
                    let bytes = Box::pin(Self::read(this, under, range.start, len, until)).await?;
                    if bytes.len() as u64 != range.end - range.start {
                        return Err(Error::Gone(format!("{}: shorter than the change over it", under.key)));
                    }
                    bytes
                }
                (Span::Bucket(_), None) => return Err(Error::Gone("nothing lies under the change".into())),
            };
            if alone {
                return Ok(bytes);
            }
            out.extend_from_slice(&bytes);
        }
        Ok(out.freeze())
    }

    pub(super) async fn read(
        this: &Arc<Inner>,
        reader: &Reader,
        offset: u64,
        len: u32,
        until: Instant,
    ) -> Result<Bytes> {
        let size = reader.object.token.size;
        let end = offset.saturating_add(u64::from(len)).min(size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        match &reader.local {
            Some(Local::Whole(file)) => {
                let file = file.clone();
                this.tally.read(From::Journal, end - offset);
                return on_disk(move || read_file(&file, offset..end)).await?;
            }
            Some(Local::Patched(composite, under)) => {
                this.tally.read(From::Journal, end - offset);
                return Self::read_patched(this, composite, under.as_deref(), offset..end, until).await;
            }
            None => {}
        }
        let ahead = reader.window.lock().advance(offset, end, size);
        let cached = reader.cached.clone();
        let (hit, missing) = on_disk(move || match cached.read(offset..end) {
            Some(bytes) => (Some(bytes), Vec::new()),
            None => (None, cached.missing(offset..end)),
        })
        .await?;
        if let Some(bytes) = hit {
            this.tally.read(From::Cache, end - offset);
            Self::fetch_ahead(this, reader, ahead);
            return Ok(bytes);
        }
        // A file that failed its checksum between the two calls has no missing range, but no bytes either: fetch all of it.
        let first = missing.first().map_or(offset, |r| r.start).min(offset) / BLOCK;
        let last = missing.last().map_or(end, |r| r.end).max(end).div_ceil(BLOCK);
        let flights = Self::fetch(this, reader, first..last, &ahead);
        Self::fetch_ahead(this, reader, ahead);
        let mut out = BytesMut::new();
        for (block, flight) in flights {
            let start = block * BLOCK;
            let have = match flight {
                Some(flight) => match tokio::time::timeout_at(until, flight).await {
                    Ok(bytes) => bytes?,
                    Err(_) => return Err(Error::Unavailable(format!("{}: no bucket delivered in time", reader.key))),
                },
                None => {
                    let cached = reader.cached.clone();
                    let range = start..(start + BLOCK).min(size);
                    let wanted = range.clone();
                    match on_disk(move || cached.read(wanted)).await? {
                        Some(bytes) => bytes,
                        // Evicted or found damaged just now: from the network after all.
                        None => this.fetch_run(&reader.key, &reader.object.token, &reader.source, range, until).await?,
                    }
                }
            };
            let from = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX).min(have.len());
            let to = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX).min(have.len());
            if out.is_empty() && end <= start + BLOCK {
                return Ok(have.slice(from..to));
            }
            out.extend_from_slice(&have[from..to]);
        }
        Ok(out.freeze())
    }

    /// The flights that bring these blocks, started where need be; `None` for a block that is in the cache already. When
    /// the needed blocks begin what is to be read ahead as well, both go into one request.
    fn fetch(this: &Arc<Inner>, reader: &Reader, blocks: Range<u64>, ahead: &Range<u64>) -> Vec<(u64, Option<Flight>)> {
        let size = reader.object.token.size;
        let mut out = Vec::new();
        let mut flights = reader.flights.blocks.lock();
        let absent = |block: u64| !reader.cached.missing(block * BLOCK..((block + 1) * BLOCK).min(size)).is_empty();
        let mut block = blocks.start;
        while block < blocks.end {
            if let Some(flight) = flights.get(&block) {
                out.push((block, Some(flight.clone())));
                block += 1;
                continue;
            }
            if !absent(block) {
                out.push((block, None));
                block += 1;
                continue;
            }
            let limit = blocks.end.max(ahead.end).min(block + RUN_MAX / BLOCK);
            let mut run_end = block + 1;
            while run_end < limit && !flights.contains_key(&run_end) && absent(run_end) {
                run_end += 1;
            }
            Self::start_run(this, reader, &mut flights, block..run_end, None);
            while block < run_end.min(blocks.end) {
                out.push((block, flights.get(&block).cloned()));
                block += 1;
            }
        }
        out
    }

    /// Starts read-ahead as far as memory is free; never waits.
    fn fetch_ahead(this: &Arc<Inner>, reader: &Reader, ahead: Range<u64>) {
        let size = reader.object.token.size;
        let mut flights = reader.flights.blocks.lock();
        let absent = |block: u64| !reader.cached.missing(block * BLOCK..((block + 1) * BLOCK).min(size)).is_empty();
        let mut block = ahead.start;
        while block < ahead.end {
            if flights.contains_key(&block) || !absent(block) {
                block += 1;
                continue;
            }
            let limit = ahead.end.min(block + RUN_MAX / BLOCK);
            let mut run_end = block + 1;
            while run_end < limit && !flights.contains_key(&run_end) && absent(run_end) {
                run_end += 1;
            }
            let Some(share) = this.budget.try_take((run_end - block) * BLOCK) else { return };
            Self::start_run(this, reader, &mut flights, block..run_end, Some(share));
            block = run_end;
        }
    }

    /// One request for a run of blocks, as a task that outlives whoever asked first.
    fn start_run(
        this: &Arc<Inner>,
        reader: &Reader,
        flights: &mut BTreeMap<u64, Flight>,
        run: Range<u64>,
        share: Option<Share>,
    ) {
        let range = run.start * BLOCK..(run.end * BLOCK).min(reader.object.token.size);
        let (inner, key, token) = (this.clone(), reader.key.clone(), reader.object.token.clone());
        let source = reader.source.clone();
        let (cached, owner) = (reader.cached.clone(), reader.flights.clone());
        let taken = run.clone();
        let task = this.rt.spawn(async move {
            let until = Instant::now() + Duration::from_secs(30);
            let share = match share {
                Some(share) => Some(share),
                None => inner.budget.take(range.end - range.start, until).await,
            };
            let bytes = inner.fetch_run(&key, &token, &source, range.clone(), until).await;
            if let Ok(bytes) = &bytes {
                let (cached, bytes) = (cached.clone(), bytes.clone());
                let stored = on_disk(move || store_blocks(&cached, range.start, &bytes)).await;
                if let Err(error) = stored {
                    log::warn!("{key}: not kept in the cache: {error}");
                }
            }
            // Only now: whoever comes later finds the block in the cache (or asks again, if the cache would not take it).
            let mut blocks = owner.blocks.lock();
            for block in taken {
                blocks.remove(&block);
            }
            drop(share);
            bytes
        });
        let whole: Shared<BoxFuture<'static, Result<Bytes>>> =
            async move { task.await.unwrap_or_else(|e| Err(Error::Unavailable(format!("read task failed: {e}")))) }
                .boxed()
                .shared();
        for block in run.clone() {
            let whole = whole.clone();
            let from = usize::try_from((block - run.start) * BLOCK).unwrap_or(usize::MAX);
            let part = async move {
                let bytes = whole.await?;
                let from = from.min(bytes.len());
                let to = (from + BLOCK as usize).min(bytes.len());
                Ok(bytes.slice(from..to))
            };
            flights.insert(block, part.boxed().shared());
        }
    }

    /// The bytes of a range of one version, from whichever bucket delivers first.
    pub(super) async fn fetch_from_buckets(
        &self,
        key: &Key,
        token: &Token,
        source: &Source,
        range: Range<u64>,
        until: Instant,
    ) -> Result<Bytes> {
        let mut views = self.links.watch();
        let mut pause = Pause::new();
        let mut gone: [Option<cos::Error>; 2] = [None, None];
        let own = (key.clone(), token.clone());
        let mut names = [vec![own.clone()], vec![own.clone()]];
        let mut obstacle = String::from("no bucket is reachable");
        let kept = Mutex::default();
        loop {
            let view = views.borrow_and_update().clone();
            let health = |site: Site| view.linkages[site.index()][Class::Read.index()].health;
            let mut sites: Vec<Site> = [view.master, view.master.other()]
                .into_iter()
                .filter(|s| usable(health(*s)) && gone[s.index()].is_none())
                .collect();
            // A place that is often bad or late, or that sent wrong bytes lately, is asked second.
            let doubtful = |site: Site| health(site) == Health::Grey || view.linkage(site, Class::Read).quarantined;
            if sites.len() == 2 && doubtful(sites[0]) && !doubtful(sites[1]) {
                sites.swap(0, 1);
            }
            let Some(first) = sites.first().copied() else {
                // A refusal says more than that a version is not there.
                let refusal = gone.iter().flatten().find(|error| !is_elsewhere(&error.kind));
                if let Some(error) = refusal.or(gone[0].as_ref().filter(|_| gone[1].is_some())) {
                    return Err(answer_error(error));
                }
                gone = [None, None];
                names = [vec![own.clone()], vec![own.clone()]];
                if !wait_change(&mut views, until.min(Instant::now() + Duration::from_secs(1))).await
                    && Instant::now() >= until
                {
                    return Err(Error::Unavailable(format!("{key}: {obstacle}; {}", view.explain)));
                }
                continue;
            };
            let patience = match health(first) {
                Health::Up => {
                    let linkage = &view.linkages[first.index()][Class::Read.index()];
                    let usual = linkage.rtt_p99.map_or(HEDGE_MAX, |p99| p99 * 2);
                    usual.clamp(HEDGE_MIN, HEDGE_MAX)
                        + Duration::from_secs_f64((range.end - range.start) as f64 / SLOW_BYTES_PER_S as f64)
                }
                _ => HEDGE_MIN,
            };
            let second = sites.get(1).copied().filter(|_| !lacks(Mutant::Failover));
            let mut results = self.race(&names, &range, &kept, first, second, patience, until).await;
            // What one bucket refuses is no reason to throw away what the other one gave.
            results.sort_by_key(|(_, result)| result.is_err());
            for (site, result) in results {
                match result {
                    Ok(bytes) => {
                        self.tally.read(site.into(), range.end - range.start);
                        return Ok(bytes);
                    }
                    Err(AttemptError::Cos(error)) => {
                        obstacle = error.to_string();
                        match error.kind {
                            ref kind if is_elsewhere(kind) => {
                                let names = &mut names[site.index()];
                                match self.other_name(&own, source, names) {
                                    Some(other) => names.push(other),
                                    None => {
                                        if let Some(bytes) = self.redirected(site, key, token, &range, &error).await {
                                            return Ok(bytes);
                                        }
                                        gone[site.index()] = Some(error);
                                    }
                                }
                            }
                            ref kind if !transient(kind) => gone[site.index()] = Some(error),
                            _ => {}
                        }
                    }
                    Err(AttemptError::Dead { .. }) => obstacle = format!("bucket {site} is down"),
                    Err(AttemptError::Deadline { .. }) => obstacle = format!("bucket {site} did not answer in time"),
                }
            }
            if Instant::now() >= until {
                return Err(Error::Unavailable(format!("{key}: {obstacle}; {}", view.explain)));
            }
            if gone.iter().all(Option::is_none) {
                tokio::time::sleep(pause.next()).await;
            }
        }
    }

    /// Another name of the same bytes that was not tried yet. After a change of master this mount may have uploaded the write to the other
    /// bucket itself, under another id; and what a copy was made from is perhaps in a bucket that the copy has not reached.
    fn other_name(&self, own: &(Key, Token), source: &Source, tried: &[(Key, Token)]) -> Option<(Key, Token)> {
        let (key, token) = own;
        let records = self.journal.of(key);
        let acked = records.iter().flat_map(|record| record.acked.iter().flatten()).filter_map(|ack| ack.token.clone());
        let known = match self.known(key) {
            Some(Known::Present(object)) => Some(object.token),
            _ => None,
        };
        let same = acked.chain(known).filter(|other| other.version.is_some() && other.same(token));
        let mut names = same.map(|other| (key.clone(), other)).chain(source.as_deref().cloned());
        names.find(|(key, token)| !tried.iter().any(|(k, t)| k == key && t.version == token.version))
    }

    /// Asks the first site; when it fails or is late, the second too. The results in the order they came, up to the first good one.
    #[allow(clippy::too_many_arguments, reason = "one call site; a struct would only rename the arguments")]
    async fn race(
        &self,
        names: &[Vec<(Key, Token)>; 2],
        range: &Range<u64>,
        kept: &Mutex<Bytes>,
        first: Site,
        second: Option<Site>,
        patience: Duration,
        until: Instant,
    ) -> Vec<(Site, std::result::Result<Bytes, AttemptError>)> {
        let ask = |site: Site| {
            let name = names[site.index()].last();
            self.links.attempt(site, Class::Read, until, move |client, progress| async move {
                let Some((key, token)) = name else {
                    return Err(cos::Error::made(Kind::NoSuchKey, Sent::No, "no name"));
                };
                get(client, progress, key, token, range, kept).await
            })
        };
        let mut results = Vec::new();
        let main = ask(first);
        tokio::pin!(main);
        let early = match second {
            Some(_) => tokio::time::timeout(patience, &mut main).await.ok(),
            None => Some((&mut main).await),
        };
        if let Some(result) = early {
            let good = result.is_ok();
            results.push((first, result));
            if let (false, Some(second)) = (good, second) {
                results.push((second, ask(second).await));
            }
            return results;
        }
        let Some(second) = second else { return results };
        let hedge = ask(second);
        tokio::pin!(hedge);
        tokio::select! {
            biased;
            result = &mut main => {
                let good = result.is_ok();
                results.push((first, result));
                if !good {
                    results.push((second, hedge.await));
                }
            }
            result = &mut hedge => {
                let good = result.is_ok();
                if good {
                    self.links.overtaken(first, Class::Read);
                }
                results.push((second, result));
                if !good {
                    results.push((first, main.await));
                }
            }
        }
        results
    }
}

/// Does this answer say that the version is not in this bucket under this name?
fn is_elsewhere(kind: &Kind) -> bool {
    matches!(kind, Kind::Redirected | Kind::NoSuchKey | Kind::NoSuchVersion | Kind::PreconditionFailed)
}

/// The source of a copy that has no bytes in the journal.
fn source_of(record: &Record) -> Source {
    let Op::Put { data: Data::Copy { from, version, etag, .. }, size, crc64, .. } = &record.op else {
        return None;
    };
    if version.is_none() && etag.is_none() {
        return None;
    }
    let etag = etag.clone().unwrap_or(ETag(String::new()));
    let token = Token { version: version.clone(), etag, size: *size, crc64: *crc64, modified_micros: 0, stamp: None };
    Some(Arc::new((from.clone(), token)))
}

/// One ranged GET, checked to be of the pinned version and complete. What had come before it broke is `kept`, and the next one
/// asks for the rest only: a line that breaks every few hundred KiB still delivers.
async fn get(
    client: cos::Client,
    progress: Arc<Progress>,
    key: &Key,
    token: &Token,
    range: &Range<u64>,
    kept: &Mutex<Bytes>,
) -> std::result::Result<Bytes, cos::Error> {
    let wrong = |kind, what: &str| cos::Error::made(kind, Sent::Fully, format!("GET {key}: {what}"));
    let begun = kept.lock().clone();
    let pinned = !lacks(Mutant::PinnedReads);
    let want = Get {
        version: token.version.clone().filter(|_| pinned),
        if_match: (token.version.is_none() && pinned).then(|| token.etag.clone()),
        range: Some(range.start + begun.len() as u64..range.end),
    };
    let mut answer = client.get(key, &want, &Attempt::new(&progress)).await?;
    if !answer.object.token.same(token) && answer.object.token.etag != token.etag && pinned {
        return Err(wrong(Kind::PreconditionFailed, "another version than asked for"));
    }
    let expect = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let mut out = BytesMut::with_capacity(expect);
    out.extend_from_slice(&begun);
    loop {
        match answer.body.next_chunk().await {
            Ok(Some(chunk)) if out.len() + chunk.len() > expect => {
                return Err(wrong(Kind::Corrupt, "more bytes than asked for"));
            }
            Ok(Some(chunk)) => out.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => {
                // Of a body that came to its end and is proven wrong nothing is right.
                if answer.body.left() > 0 {
                    let mut kept = kept.lock();
                    if out.len() > kept.len() {
                        *kept = out.freeze();
                    }
                }
                return Err(error);
            }
        }
    }
    if out.len() != expect {
        return Err(wrong(Kind::Corrupt, "fewer bytes than asked for"));
    }
    // A whole object in one piece was summed up on its way; in several pieces it is now.
    let whole = range.start == 0 && range.end == token.size && !begun.is_empty();
    if let (true, Some(sum)) = (whole, token.crc64)
        && crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &out) != sum
    {
        *kept.lock() = Bytes::new();
        return Err(wrong(Kind::Corrupt, "the pieces do not make the object"));
    }
    Ok(out.freeze())
}

fn store_blocks(cached: &CachedFile, start: u64, bytes: &Bytes) {
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + BLOCK as usize).min(bytes.len());
        cached.write(start + at as u64, bytes.slice(at..end));
        at = end;
    }
}
