//! Older writes that are still on their way between the buckets, and must not come out on top.
//!
//! Whoever overwrites a file before its last version is replicated has two versions under way, and nothing documents which of them a
//! bucket shows when the older one arrives last: the one with the newer id, or the one that came in last. The same holds for a write that
//! went to both buckets, which left a version in each: both travel, and one can arrive after the next write. So such a key is *in doubt*:
//! its newest record stays in the journal, and its content is shown from there, until all versions of that time are in both buckets
//! and each shows the newest. An older write of this mount that a bucket shows instead is removed by its id in both.
//!
//! What is in doubt is kept in memory only: after a restart every key of the journal is. What is to be removed is noted in the key's newest
//! record before the first removal. It costs two LISTs of one key's versions, and only where
//! a key was overwritten before it was replicated or a write had to go to both buckets.
//!
//! Owns: keys in doubt. Owns not: verification of single writes, writes with a lost answer (`verify`). Checked by the simulation in
//! which the last arrival is current (`src/bin/sim`, mutant `overtaken`).

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::ha::Inner;
use super::verify::LOOK_TIME;
use crate::cos::{self, Attempt, Kind, ListVersions, VersionEntry, VersionsPage};
use crate::journal::{Change, Op, Record};
use crate::linkage::AttemptError;
use crate::mutant::{Mutant, lacks};
use crate::object::{Class, Key, Site, VersionId};

/// Versions asked for at a time, and how often. A key that was rewritten oftener than that while it was in doubt is given up after the lag that
/// is waited for anyway.
const PAGE: u32 = 1000;
const PAGES_MAX: usize = 50;

/// Keys in doubt, and since when, in microseconds of the buckets' clocks.
#[derive(Default)]
pub(super) struct Doubts {
    since: Mutex<HashMap<Key, u64>>,
    /// Versions that are to be in neither bucket any more. Each is removed once more when everything else is at rest: the first removal may have
    /// reached one bucket only, or replication may have been quicker.
    condemned: Mutex<HashMap<Key, Vec<VersionId>>>,
    /// Markers of removals whose records ended while an older one waited for a lost answer: not what it waits for.
    removals: Mutex<HashMap<Key, Vec<VersionId>>>,
}

impl Doubts {
    /// A newer write takes the place of this one, or this one was under way when the last run of the mount ended.
    pub(super) fn raise(&self, record: &Record, margin_micros: u64) {
        let first = commits(record).min();
        let (Some(first), false) = (first, lacks(Mutant::Overtaken)) else { return };
        let first = first.saturating_sub(margin_micros);
        let mut since = self.since.lock();
        let known = since.entry(record.key.clone()).or_insert(first);
        *known = first.min(*known);
    }

    pub(super) fn since(&self, key: &Key) -> Option<u64> {
        self.since.lock().get(key).copied()
    }

    /// Its newest record ends.
    pub(super) fn clear(&self, key: &Key) {
        self.since.lock().remove(key);
        self.condemned.lock().remove(key);
        self.removals.lock().remove(key);
    }

    /// A removal ends before an older write of its key does.
    pub(super) fn note_removal(&self, record: &Record) {
        let mut removals = self.removals.lock();
        removals.entry(record.key.clone()).or_default().extend(versions(record).cloned());
    }

    pub(super) fn is_known_removal(&self, key: &Key, version: &VersionId) -> bool {
        self.removals.lock().get(key).is_some_and(|known| known.contains(version))
    }

    /// From a record of an earlier run.
    pub(super) fn take_up(&self, record: &Record) {
        for version in &record.condemned {
            self.condemn(&record.key, version);
        }
    }

    fn condemn(&self, key: &Key, version: &VersionId) {
        let mut condemned = self.condemned.lock();
        let versions = condemned.entry(key.clone()).or_default();
        if !versions.contains(version) {
            versions.push(version.clone());
        }
    }

    fn condemned(&self, key: &Key) -> Vec<VersionId> {
        self.condemned.lock().get(key).cloned().unwrap_or_default()
    }
}

/// The version that each bucket made of a record.
pub(super) fn versions(record: &Record) -> impl Iterator<Item = &VersionId> {
    let acks = record.acked.iter().flatten();
    acks.filter_map(|ack| ack.marker.as_ref().or_else(|| ack.token.as_ref().and_then(|token| token.version.as_ref())))
}

/// When the buckets made them, by their clocks, in microseconds since 1970.
pub(super) fn commits(record: &Record) -> impl Iterator<Item = u64> {
    versions(record).filter_map(|version| version.commit_micros())
}

impl Inner {
    /// Since when the versions of this record's key can cross each other; `None`: there is one at most.
    pub(super) fn in_doubt(&self, record: &Record) -> Option<u64> {
        if lacks(Mutant::Overtaken) {
            return None;
        }
        let twice = record.acked.iter().all(Option::is_some);
        self.doubts.since(&record.key).or_else(|| commits(record).min().filter(|_| twice))
    }

    /// The newest versions of one key in one bucket, newest first; `None`: it did not say.
    pub(super) async fn versions_at(&self, site: Site, key: &Key) -> Option<Vec<VersionEntry>> {
        self.versions_since(site, key, u64::MAX).await
    }

    /// At most `count` versions of one key, newest first; `None`: the bucket did not say.
    pub(super) async fn newest_versions(
        &self,
        site: Site,
        key: &Key,
        count: u32,
        until: Instant,
    ) -> Option<Vec<VersionEntry>> {
        let query = ListVersions { prefix: key.to_string(), max_keys: count, ..ListVersions::default() };
        let page = self.versions_page(site, &query, until).await?;
        Some(page.entries.into_iter().filter(|entry| entry.key == key.as_str()).collect())
    }

    pub(super) async fn versions_page(&self, site: Site, query: &ListVersions, until: Instant) -> Option<VersionsPage> {
        let asked = self.ask_site(site, Class::Read, until, |client, progress| async move {
            client.list_versions(query, &Attempt::new(&progress)).await
        });
        asked.await.ok()
    }

    /// The versions of one key in one bucket, newest first, at least those since a moment; `None`: it did not say.
    ///
    /// Which of two comes first need not be the one with the newer id, so two buckets cut their pages at different places: what is compared must be
    /// looked through as far as it reaches.
    pub(super) async fn versions_since(&self, site: Site, key: &Key, since: u64) -> Option<Vec<VersionEntry>> {
        let until = Instant::now() + LOOK_TIME;
        let (mut all, mut key_marker, mut version_marker) = (Vec::new(), None, None);
        for _ in 0..PAGES_MAX {
            let query = ListVersions { prefix: key.to_string(), key_marker, version_marker, max_keys: PAGE };
            let page = self.versions_page(site, &query, until).await?;
            let of_key = page.entries.into_iter().filter(|entry| entry.key == key.as_str());
            let before = all.len();
            all.extend(of_key);
            let recent = |entry: &VersionEntry| entry.version.commit_micros().is_none_or(|at| at >= since);
            match page.next {
                Some((next_key, next_version)) if next_key == key.as_str() && all[before..].iter().any(recent) => {
                    (key_marker, version_marker) = (Some(next_key), next_version);
                }
                _ => break,
            }
        }
        Some(all)
    }

    /// Is everything that was under way for this key since a moment in both buckets, and does each show the newest? Puts right what can be
    /// put right at once; then the answer is no, because it wants another look.
    pub(super) async fn is_at_rest(&self, record: &Record, since: u64) -> bool {
        let (a, b) = futures::join!(
            self.versions_since(Site::A, &record.key, since),
            self.versions_since(Site::B, &record.key, since)
        );
        let (Some(a), Some(b)) = (a, b) else { return false };
        for (site, entries) in [(Site::A, &a), (Site::B, &b)] {
            let Some(current) = cos::current(entries) else { continue };
            // A write of ours that was committed late has the newer id, so only its stamp tells.
            if versions(record).any(|version| *version == current.version) {
                continue;
            }
            match self.is_overtaken(site, record, current).await {
                Some(false) => {}
                Some(true) => {
                    self.remove_overtaken(site, &record.key, std::slice::from_ref(&current.version)).await;
                    return false;
                }
                None => return false,
            }
        }
        let condemned = self.doubts.condemned(&record.key);
        let lacks = |has: &[VersionEntry], other: &[VersionEntry]| {
            let ours = has.iter().filter(|entry| entry.version.commit_micros().is_some_and(|at| at >= since));
            ours.into_iter()
                .filter(|entry| !condemned.contains(&entry.version))
                .any(|entry| !other.iter().any(|o| o.version == entry.version))
        };
        // What never comes is given up like any replica that is late.
        !(lacks(&a, &b) || lacks(&b, &a)) || crate::clock::age(record.created) >= self.options.lag_max
    }

    /// Is the version that a bucket shows an older one than this record's? `None`: not to be found out now.
    async fn is_overtaken(&self, site: Site, record: &Record, current: &VersionEntry) -> Option<bool> {
        if current.marker {
            // An older removal holds nothing that could be lost, whoever made it.
            let newest = commits(record).max().unwrap_or(0);
            let older = current.version.commit_micros().is_some_and(|removed| removed < newest);
            return Some(older && matches!(record.op, Op::Put { .. }));
        }
        let (key, version, until) = (&record.key, &current.version, Instant::now() + LOOK_TIME);
        let found = self.head_at(site, key, Some(version), until).await;
        let stamp = found.ok()?.token.stamp;
        Some(self.own(stamp).is_some_and(|stamp| stamp.seq < record.seq))
    }

    /// Removes versions by their ids in both buckets: exact, repeatable, and not replicated. False if that did not succeed.
    pub(super) async fn remove_overtaken(&self, site: Site, key: &Key, versions: &[VersionId]) -> bool {
        for version in versions {
            log::warn!(
                "{key}: bucket {site} has an older write that came late (version {version}); removing that version"
            );
            self.doubts.condemn(key, version);
            // Again if a newer record has taken its place meanwhile, without this note.
            while let Some(newest) = self.journal.latest(key).filter(|newest| !newest.condemned.contains(version)) {
                self.mark(newest.seq, Change::Condemned { version: version.clone() }).await;
            }
        }
        self.remove_condemned(key).await
    }

    /// False if one of the versions to be removed is perhaps still there.
    pub(super) async fn remove_condemned(&self, key: &Key) -> bool {
        for version in &self.doubts.condemned(key) {
            for place in Site::ALL {
                let until = Instant::now() + LOOK_TIME;
                let removed = self
                    .ask_site(place, Class::Write, until, |client, progress| async move {
                        client.delete(key, Some(version), &Attempt::new(&progress)).await
                    })
                    .await;
                match removed {
                    Ok(_) => {}
                    Err(AttemptError::Cos(e)) if matches!(e.kind, Kind::NoSuchKey | Kind::NoSuchVersion) => {}
                    Err(_) => return false,
                }
            }
        }
        true
    }
}
