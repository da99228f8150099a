//! A small change of a large object: only what changed is sent, the bucket copies the rest from the version it has.
//!
//! A changed file is a stack of *sheets*: the ranges written last, below them what showed through. Under the lowest sheet lies a version
//! in the buckets, or a whole file of the journal. A sheet below the first is there only while some bucket might lack the version that
//! the first one was written over. So there is always a way down to something that a bucket has:
//!
//! | the bucket has | it gets |
//! |---|---|
//! | the version that was changed | the changed ranges; a copy of the rest |
//! | only an older one, because replication is behind | what changed since that one; a copy of the rest |
//! | none of them, but the journal or the cache or the other bucket has the bytes | everything |
//! | none of them, and nobody else has the bytes now | nothing yet; the record waits |
//!
//! A source is looked at before it is used and pinned by version and ETag, so a copy is of exactly the bytes that the program saw.
//! What comes out is checked: each sent part by the bucket's checksum, and the whole wherever the checksums of its parts are all known
//! (`checksum_of`).
//!
//! Owns: the arithmetic of sheets and parts, and how such a record travels. Owns not: when and where to (`settle`).

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::time::Instant;

use super::ask::on_disk;
use super::ha::Inner;
use super::upload::{
    COPY_MAX, COPY_PART, Outcome, PARTS_MAX, PARTS_PARALLEL, REQUEST_TIME_MAX, Refused, SINGLE_MAX, patient,
};
use super::{Error, Result};
use crate::cos::{Attempt, CopySource, Kind, Part, Payload, checksum};
use crate::journal::{Base, Data, Op, Overlay, Record};
use crate::linkage::AttemptError;
use crate::object::{Class, Site, Stamp, Token};
use crate::ranges::Ranges;

/// Smallest part that COS takes, the last one aside ("Upload Part": 1 MB).
const PART_MIN: u64 = 1 << 20;
/// Largest part that is sent. It may have to be put together in memory.
const PIECE: u64 = 8 << 20;
/// Changes closer to each other than this travel in one part: a request costs more than these bytes.
const GAP: u64 = 4 << 20;
/// How long the bytes under a change may take to come.
const FETCH_TIME: Duration = Duration::from_secs(60);
/// The most that one read from a bucket brings.
const FETCH: u64 = 4 << 20;

/// Where the bytes of a range are.
pub(super) enum Span {
    File(Arc<File>, Range<u64>),
    /// In the version under the lowest sheet.
    Bucket(Range<u64>),
    Zeros(Range<u64>),
}

struct Sheet {
    file: Option<Arc<File>>,
    ranges: Ranges,
    base: Base,
    shown: u64,
}

/// The content of a [`Data::Patch`], readable.
pub(super) struct Composite {
    sheets: Vec<Sheet>,
    whole: Option<Arc<File>>,
    size: u64,
}

impl Composite {
    /// Opens what the record names.
    pub(super) fn open(
        overlays: &[Overlay],
        whole: Option<Arc<File>>,
        size: u64,
        mut open: impl FnMut(&Overlay) -> std::result::Result<Option<Arc<File>>, String>,
    ) -> std::result::Result<Composite, String> {
        let sheet = |overlay: &Overlay| {
            Ok::<_, String>(Sheet {
                file: open(overlay)?,
                ranges: overlay.ranges.iter().map(|(start, end)| *start..*end).collect(),
                base: overlay.base.clone(),
                shown: overlay.shown,
            })
        };
        let sheets = overlays.iter().map(sheet).collect::<std::result::Result<_, _>>()?;
        Ok(Composite { sheets, whole, size })
    }

    /// The version under everything, unless the journal has its content.
    pub(super) fn bottom(&self) -> Option<&Base> {
        if self.whole.is_some() { None } else { self.sheets.last().map(|sheet| &sheet.base) }
    }

    pub(super) fn spans(&self, range: Range<u64>) -> Vec<Span> {
        let mut spans = Vec::new();
        self.spans_below(0, range.start..range.end.min(self.size), &mut spans);
        spans
    }

    fn spans_below(&self, depth: usize, range: Range<u64>, spans: &mut Vec<Span>) {
        if range.is_empty() {
            return;
        }
        let Some(sheet) = self.sheets.get(depth) else {
            spans.push(match &self.whole {
                Some(file) => Span::File(file.clone(), range),
                None => Span::Bucket(range),
            });
            return;
        };
        for (part, changed) in sheet.ranges.split(range) {
            match (changed, &sheet.file) {
                (true, Some(file)) => spans.push(Span::File(file.clone(), part)),
                (true, None) => spans.push(Span::Zeros(part)),
                (false, _) => {
                    let seam = sheet.shown.clamp(part.start, part.end);
                    self.spans_below(depth + 1, part.start..seam, spans);
                    if seam < part.end {
                        spans.push(Span::Zeros(seam..part.end));
                    }
                }
            }
        }
    }

    /// What differs from the base of the sheet at `depth`.
    fn changed(&self, depth: usize) -> Ranges {
        let mut changed = Ranges::default();
        let mut shown = self.size;
        for sheet in &self.sheets[..=depth] {
            for range in sheet.ranges.iter() {
                changed.insert(range.start.min(shown)..range.end.min(shown));
            }
            shown = shown.min(sheet.shown);
        }
        changed.insert(shown..self.size);
        changed
    }
}

/// One part of an upload.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    Send(Range<u64>),
    Copy(Range<u64>),
}

impl Step {
    fn range(&self) -> &Range<u64> {
        let (Step::Send(range) | Step::Copy(range)) = self;
        range
    }
}

/// The parts of an object of `size` bytes of which `changed` must be sent, within COS's rules: none below 1 MiB except the last, at most
/// 10 000. Changes too close to each other, or too small, take some unchanged bytes along.
fn plan(size: u64, changed: &Ranges) -> Vec<Step> {
    let (mut gap, mut piece) = (GAP, PIECE);
    loop {
        let steps = plan_with(size, changed, gap, piece);
        if steps.len() as u64 <= PARTS_MAX {
            return steps;
        }
        (gap, piece) = (gap * 2, piece * 2);
    }
}

fn plan_with(size: u64, changed: &Ranges, gap: u64, piece: u64) -> Vec<Step> {
    let mut sends: Vec<Range<u64>> = Vec::new();
    for range in changed.iter() {
        let mut range = range.start..range.end.min(size);
        if range.is_empty() {
            continue;
        }
        if range.start < PART_MIN {
            range.start = 0;
        }
        if let Some(last) = sends.last_mut()
            && range.start < last.end + gap
        {
            last.end = last.end.max(range.end);
            continue;
        }
        sends.push(range);
    }
    // Only the last part may be small. What grows here cannot reach its neighbour: gaps are longer than a part.
    for range in &mut sends {
        if range.end - range.start < PART_MIN {
            range.end = (range.start + PART_MIN).min(size);
        }
    }
    let mut steps = Vec::new();
    let mut at = 0;
    for range in sends {
        steps.extend(pieces(at..range.start, COPY_PART).map(Step::Copy));
        at = range.end;
        steps.extend(pieces(range, piece).map(Step::Send));
    }
    steps.extend(pieces(at..size, COPY_PART).map(Step::Copy));
    steps
}

/// Cuts a range into equal pieces of at most `piece` bytes: so none of several is shorter than half of that.
fn pieces(range: Range<u64>, piece: u64) -> impl Iterator<Item = Range<u64>> {
    let len = range.end - range.start;
    let count = len.div_ceil(piece);
    let at = move |n: u64| range.start + (u128::from(len) * u128::from(n) / u128::from(count.max(1))) as u64;
    (0..count).map(move |n| at(n)..at(n + 1))
}

/// The checksum that the whole must have: from those of the parts; a run of copied parts that is exactly the base has the base's.
fn checksum_of(steps: &[Step], parts: &[Part], base: &Token) -> Option<u64> {
    let mut sum = 0;
    let mut at = 0;
    while at < parts.len() {
        let copied = steps[at..].iter().take_while(|step| matches!(step, Step::Copy(_))).count();
        let run = steps[at].range().start..steps[(at + copied).max(at + 1) - 1].range().end;
        let (crc, len, next) = match (copied, base.crc64) {
            (1.., Some(crc)) if run == (0..base.size) => (crc, base.size, at + copied),
            _ => (parts[at].crc64?, parts[at].size, at + 1),
        };
        sum = checksum::combine(sum, crc, len);
        at = next;
    }
    Some(sum)
}

impl Inner {
    pub(super) fn composite(&self, op: &Op) -> Option<std::result::Result<Composite, String>> {
        let Op::Put { data: Data::Patch { overlays, whole }, size, .. } = op else { return None };
        let spool = self.journal.spool();
        let open = |id| spool.open_file(id).map(Arc::new).map_err(|e| e.to_string());
        let opened = whole
            .map(open)
            .transpose()
            .and_then(|whole| Composite::open(overlays, whole, *size, |overlay| overlay.file.map(open).transpose()));
        Some(opened)
    }

    /// Sends a patched object to one bucket by the shortest way that works there.
    pub(super) async fn put_patch(&self, site: Site, record: &Record, stamp: Stamp) -> Outcome<Token> {
        let Some(composite) = self.composite(&record.op) else { return Err(Refused::Local("no patch".into())) };
        let composite = Arc::new(composite.map_err(Refused::Local)?);
        let Op::Put { size, headers, .. } = &record.op else { return Err(Refused::Local("no content".into())) };
        for (depth, sheet) in composite.sheets.iter().enumerate() {
            let Some(token) = self.base_at(site, &sheet.base).await? else { continue };
            let changed = composite.changed(depth);
            let source = self.links.client(site).copy_source(&sheet.base.key, token.version.as_ref()).sized(*size);
            let source = source.matching(token.etag.clone());
            let sent = match changed.is_empty() && token.size == *size && *size <= COPY_MAX {
                true => self.copy_whole(site, &source, &record.key, headers, stamp).await,
                false => {
                    let steps = plan(*size, &changed);
                    self.put_parts(site, record, &composite, Some((source, &token)), steps, stamp).await
                }
            };
            match sent {
                // Removed between the look and the copy.
                Err(Refused::Attempt(AttemptError::Cos(error)))
                    if matches!(error.kind, Kind::NoSuchKey | Kind::NoSuchVersion | Kind::PreconditionFailed) => {}
                other => return other,
            }
        }
        // Before anything is begun: are the bytes to be had at all?
        let mut whole = Ranges::default();
        whole.insert(0..*size);
        let first = composite.spans(0..*size).into_iter().find_map(|span| match span {
            Span::Bucket(range) => Some(range.start..range.start + 1),
            _ => None,
        });
        if let Some(first) = first {
            let until = Instant::now() + Duration::from_secs(5);
            self.gather(&composite, first, until).await.map_err(|e| Refused::SourceMissing(e.to_string()))?;
        }
        if *size <= SINGLE_MAX {
            let until = Instant::now() + FETCH_TIME;
            let _share = self.budget.take(*size, until).await;
            let body =
                self.gather(&composite, 0..*size, until).await.map_err(|e| Refused::SourceMissing(e.to_string()))?;
            return self.put_whole(site, &record.key, Payload::Bytes(body), headers, stamp).await;
        }
        self.put_parts(site, record, &composite, None, plan(*size, &whole), stamp).await
    }

    async fn put_parts(
        &self,
        site: Site,
        record: &Record,
        composite: &Arc<Composite>,
        source: Option<(CopySource, &Token)>,
        steps: Vec<Step>,
        stamp: Stamp,
    ) -> Outcome<Token> {
        let Op::Put { headers, .. } = &record.op else { return Err(Refused::Local("no content".into())) };
        let upload = self.initiate(site, record, headers, stamp).await?;
        let key = &record.key;
        let sent = futures::stream::iter(steps.clone().into_iter().enumerate().map(|(n, step)| {
            let (upload, source) = (&upload, &source);
            async move {
                let number = n as u32 + 1;
                let until = Instant::now() + REQUEST_TIME_MAX;
                let part = match (step, source) {
                    (Step::Copy(range), Some((source, _))) => {
                        let range = &range;
                        self.ask_site(site, Class::Write, until, |client, progress| async move {
                            let at = patient(&progress, range.end - range.start);
                            client.upload_part_copy(key, upload, number, source, range.clone(), &at).await
                        })
                        .await?
                    }
                    (Step::Copy(range) | Step::Send(range), _) => {
                        let (body, _share) = self.part_body(composite, range).await?;
                        let body = &body;
                        self.ask_site(site, Class::Write, until, |client, progress| async move {
                            client.upload_part(key, upload, number, body.clone(), &Attempt::new(&progress)).await
                        })
                        .await?
                    }
                };
                Ok::<Part, Refused>(part)
            }
        }))
        .buffered(PARTS_PARALLEL)
        .collect::<Vec<_>>()
        .await;
        let expect = |parts: &[Part]| {
            let base = source.as_ref().map_or_else(nothing, |(_, token)| (*token).clone());
            checksum_of(&steps, parts, &base)
        };
        self.finish(site, record, &upload, sent, stamp, expect).await
    }

    /// The body of one part: straight from a file where it lies in one, else put together in memory.
    async fn part_body(
        &self,
        composite: &Arc<Composite>,
        range: Range<u64>,
    ) -> Outcome<(Payload, Option<super::budget::Share>)> {
        let mut spans = composite.spans(range.clone());
        if let (1, Some(Span::File(..))) = (spans.len(), spans.first())
            && let Some(Span::File(file, range)) = spans.pop()
        {
            return Ok((Payload::File { file, offset: range.start, len: range.end - range.start }, None));
        }
        let until = Instant::now() + FETCH_TIME;
        let share = self.budget.take(range.end - range.start, until).await;
        let body = self.gather(composite, range, until).await.map_err(|e| Refused::SourceMissing(e.to_string()))?;
        Ok((Payload::Bytes(body), share))
    }

    /// The bytes of a range, from wherever they are.
    async fn gather(&self, composite: &Arc<Composite>, range: Range<u64>, until: Instant) -> Result<Bytes> {
        let mut out = BytesMut::with_capacity((range.end - range.start) as usize);
        for span in composite.spans(range) {
            match span {
                Span::Zeros(range) => out.resize(out.len() + (range.end - range.start) as usize, 0),
                Span::File(file, range) => out.extend_from_slice(&on_disk(move || read_file(&file, range)).await??),
                Span::Bucket(range) => {
                    let base = composite.bottom().ok_or_else(|| Error::Gone("no base".into()))?;
                    let token = self.settled_token(base);
                    let cached = self.cache.file(&base.key, &token);
                    for start in (range.start..range.end).step_by(FETCH as usize) {
                        let part = start..(start + FETCH).min(range.end);
                        let (cached, wanted) = (cached.clone(), part.clone());
                        match on_disk(move || cached.read(wanted)).await? {
                            Some(bytes) => out.extend_from_slice(&bytes),
                            None => {
                                out.extend_from_slice(&self.fetch_run(&base.key, &token, &None, part, until).await?)
                            }
                        }
                    }
                }
            }
        }
        Ok(out.freeze())
    }

    /// The base's token, with the version that its own write got meanwhile.
    pub(super) fn settled_token(&self, base: &Base) -> Token {
        if base.token.version.is_some() {
            return base.token.clone();
        }
        self.token_of_stamp(base.token.stamp).unwrap_or_else(|| base.token.clone())
    }

    /// The token under which one bucket has a base; `None` if it does not have it (yet).
    async fn base_at(&self, site: Site, base: &Base) -> Outcome<Option<Token>> {
        let own = self.own(base.token.stamp);
        let acked =
            own.and_then(|stamp| self.journal.get(stamp.seq)).and_then(|record| record.acked[site.index()].clone());
        let acked = acked.and_then(|ack| ack.token).and_then(|token| token.version);
        let settled = self.settled_token(base).version;
        let mut versions: Vec<_> = [acked, settled].into_iter().flatten().map(Some).collect();
        versions.dedup();
        // The same write under another version, or a bucket without versions.
        versions.push(None);
        for version in versions {
            let (key, named) = (&base.key, version.as_ref());
            let until = Instant::now() + Duration::from_secs(30);
            let found = self.head_at(site, key, named, until).await;
            match found {
                Ok(object) => {
                    let token = object.token;
                    let stamped = token.stamp.is_some() && token.stamp == base.token.stamp;
                    if token.size == base.token.size && (version.is_some() || stamped || token.same(&base.token)) {
                        return Ok(Some(token));
                    }
                }
                Err(AttemptError::Cos(e)) if matches!(e.kind, Kind::NoSuchKey | Kind::NoSuchVersion) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

/// Stands for "no base" where checksums are combined: nothing is a copy of it.
fn nothing() -> Token {
    let etag = crate::object::ETag(String::new());
    Token { version: None, etag, size: u64::MAX, crc64: None, modified_micros: 0, stamp: None }
}

pub(super) fn read_file(file: &File, range: Range<u64>) -> Result<Bytes> {
    let len = usize::try_from(range.end - range.start).map_err(|e| Error::Disk(e.to_string()))?;
    let mut out = BytesMut::zeroed(len);
    file.read_exact_at(&mut out, range.start).map_err(|e| Error::Disk(format!("journal file: {e}")))?;
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{ETag, Key};
    use proptest::prelude::*;

    fn base(size: u64) -> Base {
        let token =
            Token { version: None, etag: ETag(String::new()), size, crc64: None, modified_micros: 0, stamp: None };
        Base { key: Key::new("k").unwrap(), token }
    }

    fn changes() -> impl Strategy<Value = (u64, Ranges)> {
        (1_u64..40 << 30).prop_flat_map(|size| {
            let range = (0..size, 1_u64..64 << 20).prop_map(move |(start, len)| start..(start + len).min(size));
            prop::collection::vec(range, 0..60).prop_map(move |ranges| (size, ranges.into_iter().collect()))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn parts_keep_the_rules_of_cos_and_send_every_change((size, changed) in changes()) {
            let steps = plan(size, &changed);
            let mut at = 0;
            for (n, step) in steps.iter().enumerate() {
                let range = step.range();
                prop_assert_eq!(range.start, at);
                prop_assert!(range.end > at);
                let last = n + 1 == steps.len();
                prop_assert!(last || range.end - range.start >= PART_MIN, "part {} of {:?}", n, steps);
                prop_assert!(range.end - range.start <= 5 << 30);
                if let Step::Copy(range) = step {
                    prop_assert_eq!(changed.missing_len(range.clone()), range.end - range.start);
                }
                at = range.end;
            }
            prop_assert_eq!(at, size);
            prop_assert!(steps.len() <= 10_000);
            let sent: u64 = steps.iter().filter(|s| matches!(s, Step::Send(_))).map(|s| s.range().end - s.range().start).sum();
            let said: u64 = changed.iter().map(|range| range.end - range.start).sum();
            prop_assert!(sent <= said + changed.count() as u64 * (GAP + 2 * PART_MIN), "{} bytes for {}", sent, said);
        }

        /// Sheets as a program makes them: each a few writes and perhaps a truncation over the one before.
        #[test]
        fn a_stack_of_sheets_is_the_file(
            first in prop::collection::vec(any::<u8>(), 0..60),
            layers in prop::collection::vec((prop::option::of(0_u64..80), prop::collection::vec((0_u64..70, 1_u64..20), 0..3)), 1..5),
            local in any::<bool>(),
        ) {
            let file = |content: &[u8]| {
                let file = tempfile::tempfile().unwrap();
                file.write_all_at(content, 0).unwrap();
                Arc::new(file)
            };
            let mut states = vec![first.clone()];
            let mut overlays = Vec::new();
            let mut files = Vec::new();
            for (n, (cut, writes)) in layers.into_iter().enumerate() {
                let mut now = states[n].clone();
                let under = base(now.len() as u64);
                let mut shown = now.len() as u64;
                let mut ranges = Ranges::default();
                let extend = |now: &mut Vec<u8>, ranges: &mut Ranges, to: u64| {
                    if to > now.len() as u64 {
                        ranges.insert(now.len() as u64..to);
                        now.resize(to as usize, 0);
                    }
                };
                if let Some(cut) = cut {
                    shown = shown.min(cut);
                    now.truncate(cut as usize);
                    extend(&mut now, &mut ranges, cut);
                }
                for (at, len) in writes {
                    extend(&mut now, &mut ranges, at);
                    extend(&mut now, &mut ranges, at + len);
                    now[at as usize..(at + len) as usize].fill(n as u8 + 1);
                    ranges.insert(at..at + len);
                }
                let pairs = ranges.iter().map(|range| (range.start, range.end)).collect();
                files.insert(0, file(&now));
                overlays.insert(0, Overlay { file: None, ranges: pairs, crc64: None, base: under, shown });
                states.push(now);
            }
            let size = states.last().unwrap().len() as u64;
            let mut next = files.iter().cloned();
            let whole = local.then(|| file(&first));
            let composite = Composite::open(&overlays, whole, size, |_| Ok(next.next())).unwrap();
            let mut found = Vec::new();
            for span in composite.spans(0..size) {
                match span {
                    Span::File(file, range) => found.extend_from_slice(&read_file(&file, range).unwrap()),
                    Span::Bucket(range) => found.extend_from_slice(&first[range.start as usize..range.end as usize]),
                    Span::Zeros(range) => found.resize(found.len() + (range.end - range.start) as usize, 0),
                }
            }
            prop_assert_eq!(&found, states.last().unwrap());
            // Whatever depth a bucket has: what is not sent is the same there.
            for depth in 0..overlays.len() {
                let below = &states[states.len() - 2 - depth];
                let changed = composite.changed(depth);
                for (at, byte) in states.last().unwrap().iter().enumerate() {
                    if !changed.missing(at as u64..at as u64 + 1).is_empty() {
                        prop_assert_eq!(below.get(at), Some(byte), "at {} from depth {}", at, depth);
                    }
                }
            }
        }
    }

    #[test]
    fn an_append_sends_the_appended_alone_and_knows_the_checksum_of_the_whole() {
        let old = 1_u64 << 30;
        let changed = Ranges::from_iter([old..old + 100, old + 100..old + 1000]);
        let steps = plan(old + 1000, &changed);
        assert_eq!(steps, [Step::Copy(0..old), Step::Send(old..old + 1000)]);
        let part = |number, size, crc64| Part { number, etag: ETag("e".into()), size, crc64 };
        let token = Token { crc64: Some(7), size: old, ..nothing() };
        let parts = [part(1, old, None), part(2, 1000, Some(9))];
        assert_eq!(checksum_of(&steps, &parts, &token), Some(checksum::combine(7, 9, 1000)));
        assert_eq!(checksum_of(&steps, &parts, &nothing()), None, "a copy of who knows what");
    }
}
