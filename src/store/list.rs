//! Listings that never come up short.
//!
//! A LIST is the answer of one bucket at one moment. On top of it come this mount's own writes that the bucket may not
//! show yet. When the bucket is one that may lag, everything that is proven to exist is added: what the coverage audit found
//! missing there, and what this mount saw on the other side since. Where completeness cannot be proven the listing is an error, and
//! while nothing can be asked at all the last complete listing is shown again.
//!
//! Checked by the table of [`overlay`] and by the failover tests on real mounts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use futures::StreamExt;
use lru::LruCache;
use tokio::time::Instant;

use super::ask::Failure;
use super::freshness::Standing;
use super::ha::{Inner, holds, now_micros};
use super::look::everything_down;
use super::{Below, Depth, Entry, Error, Listing, Result};
use crate::cache::Known;
use crate::cos::{Attempt, List, Listed};
use crate::journal::Op;
use crate::object::{Key, Object, Site, Token};

/// Names kept in remembered listings, all directories together: about 100 MB at the most.
const REMEMBERED_NAMES_MAX: usize = 500_000;

/// Index entries looked through for one listing of a lagging bucket. A mount that saw more since the last audit cannot prove a listing.
const RECENT_MAX: usize = 1_000_000;

/// Directories of one listing that are asked whether this mount's removals have left anything in them; more are shown until the bucket has these.
const EMPTIED_MAX: usize = 64;
const EMPTIED_AT_ONCE: usize = 8;

/// Index entries looked through before a file counts as a sign that there is no directory of its name.
const BELOW_A_FILE_MAX: usize = 1000;

/// A second and a bit: LIST gives times with less resolution than version ids have.
const CLOCK_GRAIN_MICROS: u64 = 2_000_000;

/// Acknowledged writes kept for bringing remembered listings up to date, about 10 MB. A listing from before the oldest is forgotten.
const CHANGES_KEPT: usize = 50_000;

/// The last complete listing of recently listed directories, for times when nobody answers, and what this mount changed since: an old
/// listing alone would hide files that were made after it and show those that were removed.
pub(super) struct Listings {
    by_prefix: LruCache<(String, bool), (u64, Arc<Listing>)>,
    names: usize,
    /// Acknowledged writes of this mount, oldest first.
    changes: VecDeque<(Key, Option<Object>)>,
    /// Number of the first of them.
    first: u64,
}

impl Listings {
    pub(super) fn new() -> Listings {
        Listings { by_prefix: LruCache::unbounded(), names: 0, changes: VecDeque::new(), first: 0 }
    }

    /// Number of the next change. A listing that is asked for now holds all earlier ones.
    fn moment(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    /// A write was acknowledged; `None`: a removal.
    pub(super) fn changed(&mut self, key: &Key, object: Option<Object>) {
        self.changes.push_back((key.clone(), object));
        if self.changes.len() > CHANGES_KEPT {
            self.changes.pop_front();
            self.first += 1;
        }
    }

    /// What changed below a prefix from a moment on; of each key the last.
    fn changes_since(&self, moment: u64, prefix: &str) -> BTreeMap<Key, Option<Object>> {
        let skip = usize::try_from(moment.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let below = self.changes.iter().skip(skip).filter(|(key, _)| key.as_str().starts_with(prefix));
        below.cloned().collect()
    }

    fn get(&mut self, prefix: &str, depth: Depth) -> Option<(u64, Arc<Listing>)> {
        let first = self.first;
        self.by_prefix.get(&(prefix.to_string(), depth == Depth::All)).filter(|(moment, _)| *moment >= first).cloned()
    }

    fn put(&mut self, prefix: &str, depth: Depth, moment: u64, listing: Arc<Listing>) {
        self.names += weight(&listing);
        if let Some((_, old)) = self.by_prefix.put((prefix.to_string(), depth == Depth::All), (moment, listing)) {
            self.names -= weight(&old);
        }
        while self.names > REMEMBERED_NAMES_MAX {
            let Some((_, (_, old))) = self.by_prefix.pop_lru() else { return };
            self.names -= weight(&old);
        }
    }
}

fn weight(listing: &Listing) -> usize {
    listing.entries.len() + listing.prefixes.len() + 1
}

/// A LIST as one bucket gave it, all pages.
struct Raw {
    site: Site,
    objects: Vec<Listed>,
    prefixes: Vec<String>,
}

/// A write of this mount that a listing may not show yet.
struct Pending {
    key: Key,
    /// What is there after the write; `None`: nothing.
    object: Option<Object>,
    /// The bucket that was listed has it.
    held: bool,
    /// A write of this key lost its answer: what looks newer may be that one, committed late.
    watched: bool,
    micros: u64,
}

impl Pending {
    /// What the bucket shows besides this write is somebody else's.
    fn settled(&self) -> bool {
        self.held && !self.watched
    }
}

impl Inner {
    pub(super) async fn list(&self, prefix: &str, depth: Depth, until: Instant) -> Result<Listing> {
        loop {
            let (moment, remembered) = {
                let mut listings = self.listings.lock();
                (listings.moment(), listings.get(prefix, depth).is_some())
            };
            // A write may reach the bucket behind the page that lacks it, and leave the journal before the last page is here.
            let (began, before) = (now_micros(), self.pending_under(prefix, None));
            let Some(raw) = self.raw_list(prefix, depth, remembered, until).await? else {
                match self.recall(prefix, depth) {
                    Some(listing) => return Ok(listing),
                    // It had to make room meanwhile: asked again, without anything to fall back on.
                    None => continue,
                }
            };
            let site = raw.site;
            let Some(extra) = self.proven_elsewhere(prefix, site, || self.recall(prefix, depth)).await? else {
                self.unsure(prefix, until).await?;
                continue;
            };
            let listing = self.compose(raw, extra, prefix, depth).await?;
            let before = before.into_iter().map(|write| Pending { held: true, ..write });
            let listing = overlay(listing, prefix, depth, before.collect());
            let pending = self.pending_under(prefix, Some(site));
            let during = {
                let mut listings = self.listings.lock();
                listings.put(prefix, depth, moment, Arc::new(listing.clone()));
                listings.changes_since(moment, prefix)
            };
            let during = during.into_iter().map(|(key, object)| Pending {
                micros: object.as_ref().map_or(began, |object| object.token.modified_micros),
                key,
                object,
                held: true,
                watched: false,
            });
            let listing = overlay(listing, prefix, depth, during.collect());
            let listing = overlay(listing, prefix, depth, pending);
            return Ok(self.without_emptied(listing, prefix, site, until).await);
        }
    }

    /// A bucket that has the removal of a directory's marker and not yet those of its files still lists the directory.
    async fn without_emptied(&self, mut listing: Listing, prefix: &str, site: Site, until: Instant) -> Listing {
        let mut deleted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut kept: BTreeSet<String> = BTreeSet::new();
        for record in self.journal.under(prefix) {
            let Child::Deeper(below) = child_of(record.key.as_str(), prefix, Depth::Children) else { continue };
            match record.op {
                Op::Put { .. } => _ = kept.insert(below.to_string()),
                Op::Delete { .. } if holds(&record, site) => {}
                Op::Delete { .. } => _ = deleted.entry(below.to_string()).or_default().insert(record.key.to_string()),
            }
        }
        deleted.retain(|below, _| !kept.contains(below) && listing.prefixes.binary_search(below).is_ok());
        let looks =
            deleted.into_iter().take(EMPTIED_MAX).map(|(below, deleted)| self.is_emptied(below, deleted, site, until));
        let emptied: BTreeSet<String> = futures::stream::iter(looks)
            .buffer_unordered(EMPTIED_AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        listing.prefixes.retain(|below| !emptied.contains(below));
        listing
    }

    async fn is_emptied(&self, below: String, deleted: BTreeSet<String>, site: Site, until: Instant) -> Option<String> {
        let deleted = deleted.iter().map(String::as_str).collect();
        let (there, found) = self.first_below(&below, &deleted, until).await.ok()?;
        (there == site && !found.marker && !found.children).then_some(below)
    }

    /// The remembered listing with everything this mount did since.
    fn recall(&self, prefix: &str, depth: Depth) -> Option<Listing> {
        // In this order: a write that is acknowledged in between is in both.
        let pending = self.pending_under(prefix, None);
        let (listing, mut changes) = {
            let mut listings = self.listings.lock();
            let (moment, listing) = listings.get(prefix, depth)?;
            (listing, listings.changes_since(moment, prefix))
        };
        for write in &pending {
            changes.remove(&write.key);
        }
        let done =
            changes.into_iter().map(|(key, object)| Pending { key, object, held: false, watched: false, micros: 0 });
        let done = overlay((*listing).clone(), prefix, depth, done.collect());
        Some(overlay(done, prefix, depth, pending))
    }

    /// All pages from one site, or `None` where the remembered listing has to do.
    async fn raw_list(&self, prefix: &str, depth: Depth, remembered: bool, until: Instant) -> Result<Option<Raw>> {
        if remembered && everything_down(&self.links.view()) {
            return Ok(None);
        }
        let pages = async {
            match self.pages(prefix, depth, until).await {
                Ok(raw) => Ok(Some(raw)),
                Err(Failure::TimedOut(_)) if remembered => Ok(None),
                Err(failure) => Err(failure.into_error()),
            }
        };
        match remembered {
            true => tokio::select! {
                biased;
                raw = pages => raw,
                () = self.suspicion(until) => Ok(None),
            },
            false => pages.await,
        }
    }

    async fn pages(&self, prefix: &str, depth: Depth, until: Instant) -> std::result::Result<Raw, Failure> {
        let mut raw: Option<Raw> = None;
        let mut marker = None;
        // A listing of a million names takes as long as its pages; each of them has the whole patience.
        let patience = until.saturating_duration_since(Instant::now());
        loop {
            let until = Instant::now() + patience;
            let query = List {
                prefix: prefix.to_string(),
                delimiter: (depth == Depth::Children).then_some('/'),
                marker: marker.take(),
                max_keys: 1000,
            };
            let query = &query;
            let (site, page) = self
                .ask_names(until, |client, progress| async move { client.list(query, &Attempt::new(&progress)).await })
                .await?;
            let whole = match raw.as_mut() {
                // Two halves from two buckets do not make one listing.
                Some(raw) if raw.site != site => {
                    *raw = Raw { site, objects: Vec::new(), prefixes: Vec::new() };
                    if query.marker.is_some() {
                        continue;
                    }
                    raw
                }
                Some(raw) => raw,
                None => raw.insert(Raw { site, objects: Vec::new(), prefixes: Vec::new() }),
            };
            whole.objects.extend(page.objects.into_iter().filter(|object| !self.is_own(&object.key)));
            whole.prefixes.extend(page.prefixes.into_iter().filter(|prefix| !self.is_own(prefix)));
            match page.next {
                Some(next) => marker = Some(next),
                None => break,
            }
        }
        raw.ok_or_else(|| Failure::TimedOut("no page".into()))
    }

    /// What is proven to exist beyond what this site lists; `None`: completeness cannot be proven.
    async fn proven_elsewhere(
        &self,
        prefix: &str,
        site: Site,
        recall: impl FnOnce() -> Option<Listing>,
    ) -> Result<Option<Listing>> {
        let (mut extra, mut prefixes) = (Vec::new(), Vec::new());
        if self.standing(site) == Standing::Proven {
            return Ok(Some(Listing::default()));
        }
        match self.coverage.audited_since() {
            Some(began) => {
                for listed in self.coverage.missing_under(prefix, site) {
                    extra.extend(entry_of(listed));
                }
                let recent = self.recent(prefix, began).await?;
                let Some(recent) = recent else { return Ok(None) };
                extra.extend(recent.into_iter().map(|(key, object)| entry_known(key, object)));
            }
            None => match recall() {
                Some(listing) => {
                    extra.extend(listing.entries);
                    prefixes = listing.prefixes;
                }
                None if self.trusted(site) => {
                    let Some(known) = self.recent(prefix, 0).await? else { return Ok(None) };
                    extra.extend(known.into_iter().map(|(key, object)| entry_known(key, object)));
                }
                None => return Ok(None),
            },
        }
        extra.retain(|entry| !matches!(self.known(&entry.key), Some(Known::Absent { .. })));
        Ok(Some(Listing { entries: extra, prefixes }))
    }

    /// Objects below a prefix that this mount saw and that were written after a moment; `None`: too many to look through.
    async fn recent(&self, prefix: &str, since: u64) -> Result<Option<Vec<(Key, Object)>>> {
        let (cache, prefix) = (self.cache.clone(), prefix.to_string());
        super::ask::on_disk(move || {
            let all = cache.attrs().under(&prefix, RECENT_MAX);
            if all.len() >= RECENT_MAX {
                return None;
            }
            let newer = |token: &Token| {
                let micros = token.version.as_ref().and_then(|v| v.commit_micros()).unwrap_or(token.modified_micros);
                micros + CLOCK_GRAIN_MICROS > since
            };
            let present = all.into_iter().filter_map(|(key, known)| match known {
                Known::Present(object) if newer(&object.token) => Some((key, object)),
                _ => None,
            });
            Some(present.collect())
        })
        .await
    }

    /// One sorted listing out of a bucket's answer and what is proven besides, with the headers this mount knows.
    async fn compose(&self, raw: Raw, extra: Listing, prefix: &str, depth: Depth) -> Result<Listing> {
        let (cache, prefix) = (self.cache.clone(), prefix.to_string());
        let proven = self.standing(raw.site) == Standing::Proven;
        super::ask::on_disk(move || {
            let mut entries: Vec<Entry> = Vec::with_capacity(raw.objects.len());
            for listed in raw.objects {
                let token = listed.token.clone();
                let Some(mut entry) = entry_of(listed) else { continue };
                match cache.attrs().get(&entry.key) {
                    Some(Known::Present(known)) => {
                        let older = known.token.order(&token) == Some(std::cmp::Ordering::Less);
                        if known.token.same(&token) || (!older && !proven) {
                            entry = entry_known(entry.key, known);
                        }
                    }
                    Some(Known::Absent { micros, .. }) if !proven && token.modified_micros < micros => continue,
                    _ => {}
                }
                entries.push(entry);
            }
            let mut prefixes: BTreeSet<String> = raw.prefixes.into_iter().chain(extra.prefixes).collect();
            if !extra.entries.is_empty() {
                let mut all: BTreeMap<Key, Entry> = entries.into_iter().map(|e| (e.key.clone(), e)).collect();
                for entry in extra.entries {
                    match child_of(entry.key.as_str(), &prefix, depth) {
                        Child::Deeper(below) => {
                            prefixes.insert(below.to_string());
                        }
                        Child::Direct => {
                            all.entry(entry.key.clone()).or_insert(entry);
                        }
                        Child::Outside => {}
                    }
                }
                entries = all.into_values().collect();
            }
            Listing { entries, prefixes: prefixes.into_iter().collect() }
        })
        .await
    }

    fn pending_under(&self, prefix: &str, site: Option<Site>) -> Vec<Pending> {
        let records = self.journal.under(prefix);
        let pending = records.iter().map(|record| Pending {
            key: record.key.clone(),
            object: self.object_of(record),
            held: site.is_some_and(|site| holds(record, site)),
            watched: self.journal.of(&record.key).iter().any(|record| record.ambiguous.contains(&true)),
            micros: super::ha::micros_of(record.created),
        });
        pending.collect()
    }

    /// Is there a directory at `prefix`, marked or implied? One LIST of two keys, unless deletes of ours are under way there.
    ///
    /// What this mount knows is not waited for: when the master is suspect or nobody answers, it has to do.
    pub(super) async fn below(&self, prefix: &str, until: Instant) -> Result<Below> {
        let marked = Key::new(prefix).is_ok_and(|key| matches!(self.known(&key), Some(Known::Present(_))));
        let filed = Key::new(prefix.trim_end_matches('/')).is_ok_and(|key| self.known(&key).is_some());
        let known = || async move {
            match marked {
                true => Ok(Some(Below { marker: true, children: false })),
                false => Ok::<_, Error>(self.nothing_below(prefix).await?.then(Below::default)),
            }
        };
        let mut looked = std::pin::pin!(self.look_below(prefix, until));
        if !marked && !filed {
            return looked.await;
        }
        if everything_down(&self.links.view())
            && let Some(known) = known().await?
        {
            return Ok(known);
        }
        let found = tokio::select! {
            biased;
            found = &mut looked => match found {
                Err(error @ Error::Unavailable(_)) => return known().await?.ok_or(error),
                found => return found,
            },
            () = self.suspicion(until) => known().await?,
        };
        match found {
            Some(known) => Ok(known),
            None => looked.await,
        }
    }

    /// Where a file of this name is known, or known to be removed: was nothing seen below the name since? Then there is no directory of it,
    /// as far as anybody here can say.
    async fn nothing_below(&self, prefix: &str) -> Result<bool> {
        if self.journal.under(prefix).iter().any(|record| matches!(record.op, Op::Put { .. })) {
            return Ok(false);
        }
        let (cache, prefix) = (self.cache.clone(), prefix.to_string());
        super::ask::on_disk(move || {
            let below = cache.attrs().under(&prefix, BELOW_A_FILE_MAX);
            below.len() < BELOW_A_FILE_MAX && below.iter().all(|(_, known)| matches!(known, Known::Absent { .. }))
        })
        .await
    }

    async fn look_below(&self, prefix: &str, until: Instant) -> Result<Below> {
        let pending = self.journal.under(prefix);
        let (puts, deletes): (Vec<_>, Vec<_>) = pending.iter().partition(|r| matches!(r.op, Op::Put { .. }));
        let deleted: BTreeSet<&str> = deletes.iter().map(|r| r.key.as_str()).collect();
        let mut found = Below {
            marker: puts.iter().any(|r| r.key.as_str() == prefix),
            children: puts.iter().any(|r| r.key.as_str() != prefix),
        };
        loop {
            if everything_down(&self.links.view())
                && let Some(known) = self.recall_below(prefix, found)
            {
                return Ok(known);
            }
            let asked = self.first_below(prefix, &deleted, until);
            // The outage may begin while the question is under way.
            let (site, seen) = match self.recall_below(prefix, found) {
                None => asked.await,
                Some(_) => tokio::select! {
                    biased;
                    answer = asked => answer,
                    () = self.blackout(until) => continue,
                },
            }
            .map_err(Failure::into_error)?;
            found.marker |= seen.marker;
            found.children |= seen.children;
            // What is found is there; only an absence has to be proven.
            if found.children {
                return Ok(found);
            }
            match self.proven_elsewhere(prefix, site, || None).await? {
                Some(extra) => {
                    found.marker |= extra.entries.iter().any(|e| e.key.as_str() == prefix);
                    found.children |= extra.entries.iter().any(|e| e.key.as_str() != prefix);
                    return Ok(found);
                }
                None => self.unsure(prefix, until).await?,
            }
        }
    }

    /// What remembered listings say of a directory, on top of what is found already; `None`: nothing. For times when nobody can be asked.
    fn recall_below(&self, prefix: &str, found: Below) -> Option<Below> {
        if let Some(listing) = self.recall(prefix, Depth::Children) {
            let marked = listing.entries.iter().any(|e| e.key.as_str() == prefix);
            let filled = !listing.prefixes.is_empty() || listing.entries.iter().any(|e| e.key.as_str() != prefix);
            return Some(Below { marker: found.marker || marked, children: found.children || filled });
        }
        match self.remembered(prefix) {
            // Whether it is marked or implied is not known, nor needed to know that it is there.
            Remembered::Listed => Some(Below { marker: true, children: true }),
            Remembered::Absent => Some(found),
            Remembered::Nothing => None,
        }
    }

    /// What one site lists at and below a prefix, up to the first key that is no marker and is not being removed.
    async fn first_below(
        &self,
        prefix: &str,
        deleted: &BTreeSet<&str>,
        until: Instant,
    ) -> std::result::Result<(Site, Below), Failure> {
        let mut found = Below::default();
        let mut marker = None;
        loop {
            let max_keys = if deleted.is_empty() { 2 } else { 1000 };
            let query = List { prefix: prefix.to_string(), delimiter: None, marker, max_keys };
            let query = &query;
            let (site, page) = self
                .ask_names(until, |client, progress| async move { client.list(query, &Attempt::new(&progress)).await })
                .await?;
            for listed in page.objects.iter().filter(|o| !deleted.contains(o.key.as_str())) {
                match listed.key == prefix {
                    true => found.marker = true,
                    false => found.children = true,
                }
            }
            match page.next {
                Some(next) if !found.children => marker = Some(next),
                _ => return Ok((site, found)),
            }
        }
    }

    pub(super) async fn has_children(&self, prefix: &str, until: Instant) -> Result<bool> {
        Ok(self.look_below(prefix, until).await?.children)
    }
}

/// What the last complete listing of the parent said of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Remembered {
    Nothing,
    Absent,
    Listed,
}

/// The directory that an object or, ending in `/`, a directory is in, with its slash.
pub(super) fn dir_of(key: &str) -> &str {
    key.trim_end_matches('/').rfind('/').map_or("", |slash| &key[..=slash])
}

impl Inner {
    /// For times when nobody can be asked. `key` may be an object's or, ending in `/`, a directory's.
    pub(super) fn remembered(&self, key: &str) -> Remembered {
        let name = key.trim_end_matches('/');
        let parent = dir_of(name);
        let (listing, changes) = {
            let mut listings = self.listings.lock();
            let Some((moment, listing)) = listings.get(parent, Depth::Children) else { return Remembered::Nothing };
            (listing, listings.changes_since(moment, key))
        };
        let below = key.ends_with('/');
        if changes.iter().any(|(changed, object)| object.is_some() && (below || changed.as_str() == key)) {
            return Remembered::Listed;
        }
        if changes.keys().any(|changed| changed.as_str() == key) {
            return Remembered::Absent;
        }
        let listed = match key.ends_with('/') {
            true => listing.prefixes.binary_search_by(|p| p.as_str().cmp(key)).is_ok(),
            false => listing.entries.binary_search_by(|e| e.key.as_str().cmp(key)).is_ok(),
        };
        if listed { Remembered::Listed } else { Remembered::Absent }
    }
}

fn entry_of(listed: Listed) -> Option<Entry> {
    let key = Key::new(listed.key).ok()?;
    Some(Entry { key, size: listed.token.size, modified_micros: listed.token.modified_micros, known: None })
}

fn entry_known(key: Key, object: Object) -> Entry {
    Entry { key, size: object.token.size, modified_micros: object.token.modified_micros, known: Some(Arc::new(object)) }
}

enum Child<'a> {
    Direct,
    /// Folded into this prefix.
    Deeper(&'a str),
    Outside,
}

/// Where a key shows up in a listing of `prefix`.
fn child_of<'a>(key: &'a str, prefix: &str, depth: Depth) -> Child<'a> {
    let Some(rest) = key.strip_prefix(prefix) else { return Child::Outside };
    match (depth, rest.find('/')) {
        (Depth::Children, Some(slash)) => Child::Deeper(&key[..prefix.len() + slash + 1]),
        _ => Child::Direct,
    }
}

/// Puts this mount's own writes on top of a bucket's listing.
fn overlay(listing: Listing, prefix: &str, depth: Depth, pending: Vec<Pending>) -> Listing {
    if pending.is_empty() {
        return listing;
    }
    let mut entries: BTreeMap<Key, Entry> = listing.entries.into_iter().map(|e| (e.key.clone(), e)).collect();
    let mut prefixes: BTreeSet<String> = listing.prefixes.into_iter().collect();
    // Deletes first: a directory whose marker is being removed disappears, unless something new is being put below it.
    let (puts, deletes): (Vec<_>, Vec<_>) = pending.into_iter().partition(|p| p.object.is_some());
    for gone in deletes {
        match child_of(gone.key.as_str(), prefix, depth) {
            Child::Direct => {
                let newer = entries
                    .get(&gone.key)
                    .is_some_and(|e| gone.settled() && e.modified_micros > gone.micros + CLOCK_GRAIN_MICROS);
                if !newer {
                    entries.remove(&gone.key);
                }
            }
            Child::Deeper(below) if below == gone.key.as_str() && !gone.held => {
                prefixes.remove(below);
            }
            _ => {}
        }
    }
    for put in puts {
        let settled = put.settled();
        let Some(object) = put.object else { continue };
        match child_of(put.key.as_str(), prefix, depth) {
            Child::Deeper(below) => {
                prefixes.insert(below.to_string());
            }
            Child::Direct => {
                let foreign = entries.get(&put.key).is_some_and(|e| {
                    settled && e.modified_micros > object.token.modified_micros.max(put.micros) + CLOCK_GRAIN_MICROS
                });
                if !foreign {
                    entries.insert(put.key.clone(), entry_known(put.key, object));
                }
            }
            Child::Outside => {}
        }
    }
    Listing { entries: entries.into_values().collect(), prefixes: prefixes.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{ETag, Headers};

    const T: u64 = 1_700_000_000_000_000;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn listed(text: &str, micros: u64) -> Entry {
        Entry { key: key(text), size: 1, modified_micros: micros, known: None }
    }

    fn put(text: &str, micros: u64, held: bool) -> Pending {
        let token = Token {
            version: None,
            etag: ETag("new".into()),
            size: 9,
            crc64: None,
            modified_micros: micros,
            stamp: None,
        };
        Pending {
            key: key(text),
            object: Some(Object { token, headers: Headers::default() }),
            held,
            watched: false,
            micros,
        }
    }

    fn delete(text: &str, micros: u64, held: bool) -> Pending {
        Pending { key: key(text), object: None, held, watched: false, micros }
    }

    fn names(listing: &Listing) -> Vec<String> {
        let mut all: Vec<String> = listing.entries.iter().map(|e| format!("{}:{}", e.key, e.size)).collect();
        all.extend(listing.prefixes.iter().cloned());
        all.sort();
        all
    }

    #[test]
    fn own_writes_show_on_top_of_what_the_bucket_lists() {
        let base = || Listing { entries: vec![listed("d/a", T), listed("d/b", T)], prefixes: vec!["d/sub/".into()] };
        let later = T + 60_000_000;
        let rows: Vec<(&str, Vec<Pending>, Vec<&str>)> = vec![
            ("nothing pending", vec![], vec!["d/a:1", "d/b:1", "d/sub/"]),
            ("a new file", vec![put("d/c", later, false)], vec!["d/a:1", "d/b:1", "d/c:9", "d/sub/"]),
            ("an overwrite", vec![put("d/a", later, false)], vec!["d/a:9", "d/b:1", "d/sub/"]),
            ("a delete", vec![delete("d/a", later, false)], vec!["d/b:1", "d/sub/"]),
            (
                "acknowledged, then overwritten by somebody",
                vec![put("d/a", T - 60_000_000, true)],
                vec!["d/a:1", "d/b:1", "d/sub/"],
            ),
            (
                "deleted, then written by somebody",
                vec![delete("d/a", T - 60_000_000, true)],
                vec!["d/a:1", "d/b:1", "d/sub/"],
            ),
            (
                "deleted, and an older write of ours comes late",
                vec![Pending { watched: true, ..delete("d/a", T - 60_000_000, true) }],
                vec!["d/b:1", "d/sub/"],
            ),
            (
                "overwritten, and an older write of ours comes late",
                vec![Pending { watched: true, ..put("d/a", T - 60_000_000, true) }],
                vec!["d/a:9", "d/b:1", "d/sub/"],
            ),
            (
                "a file in a new directory",
                vec![put("d/new/x", later, false)],
                vec!["d/a:1", "d/b:1", "d/new/", "d/sub/"],
            ),
            ("a directory being removed", vec![delete("d/sub/", later, false)], vec!["d/a:1", "d/b:1"]),
            (
                "removed and made again",
                vec![delete("d/sub/", later, false), put("d/sub/x", later, false)],
                vec!["d/a:1", "d/b:1", "d/sub/"],
            ),
            ("a neighbour's write", vec![put("e", later, false)], vec!["d/a:1", "d/b:1", "d/sub/"]),
        ];
        for (what, pending, expect) in rows {
            assert_eq!(names(&overlay(base(), "d/", Depth::Children, pending)), expect, "{what}");
        }
    }

    #[test]
    fn remembered_listings_are_bounded_by_names() {
        let mut listings = Listings::new();
        let big =
            |n: usize| Listing { entries: (0..n).map(|i| listed(&format!("k{i}"), T)).collect(), prefixes: vec![] };
        listings.put("a/", Depth::Children, 0, Arc::new(big(300_000)));
        listings.put("b/", Depth::Children, 0, Arc::new(big(150_000)));
        assert!(listings.get("a/", Depth::Children).is_some(), "both fit");
        listings.put("c/", Depth::Children, 0, Arc::new(big(200_000)));
        assert!(listings.get("b/", Depth::Children).is_none(), "the least recently used one made room");
        assert!(listings.get("c/", Depth::Children).is_some());
    }

    #[test]
    fn changes_since_a_listing_are_known_or_the_listing_is_not() {
        let mut listings = Listings::new();
        let object = |size| {
            let token =
                Token { version: None, etag: ETag("e".into()), size, crc64: None, modified_micros: T, stamp: None };
            Some(Object { token, headers: Headers::default() })
        };
        listings.changed(&key("d/before"), object(1));
        let moment = listings.moment();
        listings.put("d/", Depth::Children, moment, Arc::new(Listing::default()));
        for (name, change) in [("d/a", object(1)), ("d/a", object(2)), ("d/b", object(1)), ("d/b", None), ("e", None)] {
            listings.changed(&key(name), change);
        }
        let (from, _) = listings.get("d/", Depth::Children).unwrap();
        let seen: Vec<_> = listings
            .changes_since(from, "d/")
            .into_iter()
            .map(|(k, o)| (k.to_string(), o.map(|o| o.token.size)))
            .collect();
        assert_eq!(seen, [("d/a".to_string(), Some(2)), ("d/b".to_string(), None)], "of each key the last");
        for n in 0..CHANGES_KEPT {
            listings.changed(&key(&format!("x/{n}")), None);
        }
        assert!(listings.get("d/", Depth::Children).is_none(), "what changed since is not known any more");
    }
}
