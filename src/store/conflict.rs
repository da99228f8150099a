//! Writes that met a write of somebody else.
//!
//! A program opens a file, changes it and closes it; meanwhile somebody else, another mount or a tool, has stored another content under
//! that key. A bucket with versioning takes both and shows the later one, so nothing is lost, but the content between what this
//! mount had seen and what it wrote is one that nobody who looks at the file will notice any more. Object storage cannot refuse
//! such a write (there is no `If-Match` for PUT), so it is looked for afterwards: one version below ours lies either what we had seen, or
//! an earlier write of our own, or the conflict.
//!
//! That costs one LIST of a key's versions for each write of ours, after its acknowledgement and on nobody's time. What is found is logged
//! with the version's id, counted and told as an alarm; with [`Conflicts::Copy`] the other content is also published beside the
//! file, under a name that says what it is.
//!
//! Owns: the search below our writes. Owns not: what somebody writes after us (`verify`, `settle`), which is the present content then.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::ha::Inner;
use super::overtaken;
use super::verify::LOOK_TIME;
use crate::cos::VersionEntry;
use crate::journal::Record;
use crate::object::{Key, Object, Site, Token, VersionId};

/// What becomes of a content that somebody else stored between our look and our write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Conflicts {
    /// The last writer wins; the other content stays an older version, and the log names it.
    #[default]
    Lww,
    /// Likewise, and the other content gets a name of its own beside the file.
    Copy,
    /// Nobody looks.
    Off,
}

/// Searches at the same time. Who delivers the next write waits for one of them to end, not for its own.
const SEARCHES: usize = 32;
/// A search may take this long; a worker with the next write may wait for it.
const SEARCH_TIME: Duration = Duration::from_secs(5);
/// Copies being published at the same time. Each waits for those who deliver writes, so none of those may wait for it.
const COPIES: usize = 256;
/// Versions of a key to look through: ours is the newest, or a few newer ones have come since.
const VERSIONS: u32 = 20;

pub(super) struct Searches {
    searching: Arc<Semaphore>,
    publishing: Semaphore,
}

impl Searches {
    pub(super) fn new() -> Searches {
        Searches { searching: Arc::new(Semaphore::new(SEARCHES)), publishing: Semaphore::new(COPIES) }
    }
}

impl Inner {
    /// A bucket has taken this record: is what lies under it what we had seen? Returns as soon as the search has begun.
    pub(super) async fn search_conflict(this: &Arc<Inner>, site: Site, record: &Arc<Record>) {
        // A directory's marker has no content.
        if this.options.conflicts == Conflicts::Off || record.key.as_str().ends_with('/') {
            return;
        }
        let Ok(permit) = this.searches.searching.clone().acquire_owned().await else { return };
        let (inner, record) = (this.clone(), record.clone());
        this.rt.spawn(async move {
            let loser = inner.loser_below(site, &record).await;
            drop(permit);
            if let Some(loser) = loser {
                Inner::tell_conflict(&inner, site, &record.key, loser).await;
            }
        });
    }

    /// The write of somebody else that lies between what this record was written over and the record itself.
    async fn loser_below(&self, site: Site, record: &Record) -> Option<Object> {
        let key = &record.key;
        let until = Instant::now() + SEARCH_TIME;
        let of_key = self.newest_versions(site, key, VERSIONS, until).await?;
        // Seen in both buckets meanwhile, it is no longer in the journal.
        let made: Vec<VersionId> = match self.journal.get(record.seq) {
            Some(record) => overtaken::versions(&record).cloned().collect(),
            None => self.settled.lock().get(&record.seq).and_then(|token| token.version.clone()).into_iter().collect(),
        };
        let ours = of_key.iter().position(|entry| made.contains(&entry.version))?;
        let base = record.op.base();
        // What a bucket made of it, if it had no answer yet when it was noted.
        let settled = self.token_of_stamp(base.and_then(|base| base.stamp));
        let version = suspect(of_key.get(ours + 1)?, base, settled.as_ref())?;
        let found = self.head_at(site, key, Some(version), until).await.ok()?;
        self.own(found.token.stamp).is_none().then_some(found)
    }

    async fn tell_conflict(this: &Arc<Inner>, site: Site, key: &Key, loser: Object) {
        let version = loser.token.version.as_ref().map_or_else(String::new, ToString::to_string);
        let mut what = format!(
            "{key}: somebody else wrote this file while it was changed here; their content is version {version} of bucket {site}"
        );
        if this.options.conflicts == Conflicts::Copy {
            what += &match Self::publish(this, key, &loser).await {
                Ok(name) => format!(", and {name}"),
                Err(why) => format!("; it could not be published beside it: {why}"),
            };
        }
        log::warn!("{what}");
        this.tally.conflict(what);
    }

    /// Gives the content a name of its own. The same conflict always gets the same name, also when it is found again after a restart.
    async fn publish(this: &Arc<Inner>, key: &Key, loser: &Object) -> Result<Key, String> {
        let name = Key::new(copy_name(key.as_str(), &loser.token)).map_err(|error| error.to_string())?;
        let Ok(_permit) = this.searches.publishing.try_acquire() else {
            return Err(format!("{COPIES} others are just being published"));
        };
        let until = Instant::now() + LOOK_TIME;
        let copied = Self::copy_to(this, key, loser, &name, loser.headers.clone(), until).await;
        copied.map(|_| name).map_err(|error| error.to_string())
    }
}

/// The version below ours, if it may be somebody else's write that we had not seen.
fn suspect<'a>(below: &'a VersionEntry, base: Option<&Token>, settled: Option<&Token>) -> Option<&'a VersionId> {
    // A removal holds nothing that could be missed.
    if below.marker {
        return None;
    }
    let seen = [base, settled].into_iter().flatten().filter_map(|token| token.version.as_ref());
    for seen in seen {
        let older = below.version.commit_micros().zip(seen.commit_micros()).is_some_and(|(below, seen)| below < seen);
        if *seen == below.version || older {
            return None;
        }
    }
    Some(&below.version)
}

/// `dir/report.txt` -> `dir/report.txt.conflict-20261127T031500Z-5f3a`: when it was written, and a part of its ETag to tell two of one second
/// apart.
fn copy_name(key: &str, loser: &Token) -> String {
    let at = UNIX_EPOCH + Duration::from_micros(loser.modified_micros);
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let at = OffsetDateTime::from(at).format(format).unwrap_or_else(|_| loser.modified_micros.to_string());
    let short: String = loser.etag.0.chars().filter(char::is_ascii_alphanumeric).take(4).collect();
    format!("{key}.conflict-{at}-{short}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ETag;

    /// A time from which version ids are made: 2023 and some.
    const THEN: u64 = 1_700_000_000_000_000;

    fn token(after: u64) -> Token {
        let micros = THEN + after;
        Token {
            version: Some(VersionId::from_micros(micros)),
            etag: ETag("\"5f3a99\"".into()),
            size: 1,
            crc64: None,
            modified_micros: micros,
            stamp: None,
        }
    }

    fn entry(after: u64, marker: bool) -> VersionEntry {
        VersionEntry {
            key: "k".into(),
            version: VersionId::from_micros(THEN + after),
            latest: false,
            marker,
            token: (!marker).then(|| token(after)),
        }
    }

    #[test]
    fn what_lies_below_is_what_was_seen_or_a_suspect() {
        let rows = [
            ("seen", entry(10, false), Some(token(10)), None, false),
            ("seen, and its answer came later", entry(10, false), None, Some(token(10)), false),
            ("older than seen: what was seen is gone", entry(9, false), Some(token(10)), None, false),
            ("a removal", entry(11, true), Some(token(10)), None, false),
            ("newer than seen", entry(11, false), Some(token(10)), None, true),
            ("nothing was seen", entry(11, false), None, None, true),
        ];
        for (what, below, base, settled, expect) in rows {
            assert_eq!(suspect(&below, base.as_ref(), settled.as_ref()).is_some(), expect, "{what}");
        }
    }

    #[test]
    fn the_name_of_a_copy_says_when_it_was_written() {
        assert_eq!(copy_name("d/report.txt", &token(0)), "d/report.txt.conflict-20231114T221320Z-5f3a");
    }
}
