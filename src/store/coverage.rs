//! What one bucket has and the other has not, known before it is needed.
//!
//! Objects from before the replication rule, objects copied in from elsewhere and whatever a disabled rule missed are never
//! replicated. After a change of master they would look deleted. So both buckets are listed side by side in the
//! background, and the keys that only one of them has are kept. After that, a "not found" of a replica is a proof if the key
//! is not among them: every key that existed when the audit began is in both buckets or on the list, and every later one is in
//! this mount's journal or index.
//!
//! The merge is streamed, two pages in memory; the list of differences is bounded ([`MISSING_MAX`]), beyond it nothing is
//! proven. What other clients write to the old master after the audit began is not covered: docs/failover.md, "Limits".
//!
//! The same pass compares what both have. Before the mount goes back to A by itself, A must have the same as B under every key, apart from
//! what the journal still carries; a listing is old when its last page arrives, so each difference is looked at once more.
//!
//! The result is kept on disk too, so that a mount that starts while a region is down can still tell "deleted" from "not
//! replicated".
//!
//! Owns: the audit, its result and the file it is kept in. Owns not: copying what is missing.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::ha::{Inner, now_micros};
use crate::cos::{Attempt, Kind, List, Listed};
use crate::failover::{State, View};
use crate::linkage::AttemptError;
use crate::mutant::{Mutant, lacks};
use crate::object::{Class, Epoch, Key, Site, Token};

/// Differences kept per direction. At about 200 bytes each, 20 MB.
pub(super) const MISSING_MAX: usize = 100_000;

/// Pause after an audit that failed or found differences: replication may just be on its way.
const AGAIN: Duration = Duration::from_secs(30);

/// Differences looked at one by one before a failback. More of them mean that replication is far behind.
const LOOKED_AT_MAX: usize = 1000;

/// One listing page may take this long, retries included.
const PAGE_TIME: Duration = Duration::from_secs(60);

/// Result of one complete pass over both buckets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Audit {
    /// Microseconds since 1970 when the pass began.
    began: u64,
    /// Keys that the site does not have, with what the other site's listing said of them. `[a, b]`.
    missing: [BTreeMap<String, Token>; 2],
    keys: u64,
    /// Keys under which the two sites list different content, as far as kept.
    #[serde(skip)]
    differing: BTreeSet<String>,
}

/// What the file holds.
#[derive(Serialize, Deserialize)]
struct Kept {
    audit: Audit,
    proven: Option<Epoch>,
}

pub(super) struct Coverage {
    state: Mutex<CoverageState>,
    file: Option<PathBuf>,
}

struct CoverageState {
    audit: Option<Arc<Audit>>,
    /// The reign whose master is known to hold everything.
    proven: Option<Epoch>,
    trouble: Option<String>,
    /// While A caught up, a pass found that it has what B has.
    reconciled: bool,
    /// Keys that keep it from being so.
    unequal: usize,
    /// A bucket's word was taken without an audit.
    trusted: bool,
    /// One bucket lacks more than can be kept.
    hopeless: bool,
}

/// Why an audit came to nothing.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Unanswered(String),
    #[error("more than {MISSING_MAX} keys are missing in bucket {0}")]
    TooMany(Site),
}

impl Coverage {
    /// Begins with what an earlier run kept in `file`, if anything.
    pub(super) fn new(file: Option<PathBuf>) -> Coverage {
        // Before the first change of master there is only one bucket that anything was ever written to.
        let mut state = CoverageState {
            audit: None,
            proven: Some(Epoch::default()),
            trouble: None,
            reconciled: false,
            unequal: 0,
            trusted: false,
            hopeless: false,
        };
        if let Some(kept) = file.as_deref().and_then(load) {
            state.audit = Some(Arc::new(kept.audit));
            state.proven = kept.proven.or(state.proven);
        }
        Coverage { state: Mutex::new(state), file }
    }

    /// Takes note of why an audit came to nothing. The one before goes on speaking for what was written before it, unless this one
    /// has found that nothing can be proven any more.
    fn fail(&self, trouble: Trouble) {
        let hopeless = matches!(trouble, Trouble::TooMany(_));
        {
            let mut state = self.state.lock();
            state.hopeless = hopeless;
            state.trouble = Some(trouble.to_string());
            state.audit = state.audit.take().filter(|_| !hopeless);
        }
        if let Some(file) = self.file.as_ref().filter(|_| hopeless)
            && let Err(error) = crate::cache::remove_if_there(file)
        {
            log::warn!("coverage audit {} cannot be removed: {error}", file.display());
        }
    }

    /// Takes a finished audit; `proven`: the reign whose master lacks nothing.
    fn take(&self, audit: Audit, proven: Option<Epoch>) {
        let kept = {
            let mut state = self.state.lock();
            state.proven = proven.or(state.proven);
            state.trouble = None;
            state.hopeless = false;
            state.audit = Some(Arc::new(audit.clone()));
            Kept { audit, proven: state.proven }
        };
        if let Some(file) = &self.file
            && let Err(error) = save(file, &kept)
        {
            log::warn!("coverage audit not kept in {}: {error}", file.display());
        }
    }

    /// How many objects each bucket lacks, by the last audit.
    pub(super) fn missing(&self) -> [u64; 2] {
        let audit = self.state.lock().audit.clone();
        audit.map_or([0; 2], |audit| audit.missing.each_ref().map(|keys| keys.len() as u64))
    }

    /// Has A what B has, as far as a pass during the present catching up tells?
    pub(super) fn is_reconciled(&self) -> bool {
        self.state.lock().reconciled
    }

    pub(super) fn is_proven(&self, epoch: Epoch) -> bool {
        self.state.lock().proven == Some(epoch)
    }

    /// Is the absence of this key on this site a fact?
    pub(super) fn proves_absent(&self, key: &str, site: Site) -> bool {
        match &self.state.lock().audit {
            Some(audit) => !audit.missing[site.index()].contains_key(key),
            None => false,
        }
    }

    /// Is it known that one bucket lacks so much that its word cannot be taken?
    pub(super) fn is_hopeless(&self) -> bool {
        self.state.lock().hopeless
    }

    /// True once: a bucket's word is taken without an audit.
    pub(super) fn first_trust(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().trusted, true)
    }

    /// Is there an audit at all, and when did it begin (microseconds since 1970)?
    pub(super) fn audited_since(&self) -> Option<u64> {
        self.state.lock().audit.as_ref().map(|a| a.began)
    }

    /// Keys below a prefix that the site lacks.
    pub(super) fn missing_under(&self, prefix: &str, site: Site) -> Vec<Listed> {
        let audit = self.state.lock().audit.clone();
        let Some(audit) = audit else { return Vec::new() };
        let from = audit.missing[site.index()].range(prefix.to_string()..);
        let below = from.take_while(|(key, _)| key.starts_with(prefix));
        below.map(|(key, token)| Listed { key: key.clone(), token: token.clone() }).collect()
    }

    pub(super) fn describe(&self) -> String {
        let state = self.state.lock();
        match (&state.audit, &state.trouble) {
            (Some(audit), _) => {
                let unequal = match state.unequal {
                    0 => String::new(),
                    n => format!(", {n} not the same in both"),
                };
                format!(
                    "{} keys compared, {} missing in a, {} missing in b{unequal}",
                    audit.keys,
                    audit.missing[0].len(),
                    audit.missing[1].len()
                )
            }
            (None, Some(trouble)) => {
                format!(
                    "coverage audit not complete: {trouble}; unaudited = \"trust\" would take the word of the bucket that answers"
                )
            }
            (None, None) => "coverage audit not complete yet".into(),
        }
    }
}

impl Inner {
    pub(super) fn start_audits(this: &Arc<Inner>) {
        if lacks(Mutant::Failover) {
            return;
        }
        let inner = this.clone();
        this.rt.spawn(async move {
            let mut epoch = None;
            loop {
                let mut views = inner.links.watch();
                let view = views.borrow_and_update().clone();
                let catching_up = catches_up(&view);
                inner.coverage.state.lock().reconciled = false;
                let pause = match inner.audit().await {
                    Ok(audit) => {
                        if catching_up {
                            inner.reconcile(&audit).await;
                        }
                        let (inner, epoch) = (inner.clone(), view.epoch);
                        super::ask::on_disk(move || inner.take_audit(audit, epoch)).await.unwrap_or(AGAIN)
                    }
                    Err(trouble) => {
                        log::debug!("coverage: {trouble}");
                        let inner = inner.clone();
                        let _ = super::ask::on_disk(move || inner.coverage.fail(trouble)).await;
                        AGAIN
                    }
                };
                if epoch != Some(view.epoch) {
                    log::info!("coverage: {}", inner.coverage.describe());
                    epoch = Some(view.epoch);
                }
                // A new reign wants a new proof, and so does a bucket that is back; anything else may wait for its turn.
                let reconciled = inner.coverage.is_reconciled();
                let until = Instant::now() + if catching_up && !reconciled { pause.min(AGAIN) } else { pause };
                while super::ask::wait_change(&mut views, until).await {
                    let now = views.borrow_and_update().clone();
                    if now.epoch != view.epoch || catches_up(&now) != catching_up {
                        break;
                    }
                }
            }
        });
    }

    /// Keeps a finished audit and says when the next is due.
    fn take_audit(&self, audit: Audit, epoch: Epoch) -> Duration {
        let master = self.links.view().master;
        let gaps = audit.missing.iter().any(|m| !m.is_empty());
        let whole = audit.missing[master.index()].is_empty() && self.links.view().epoch == epoch;
        self.coverage.take(audit, whole.then_some(epoch));
        if gaps { AGAIN } else { self.options.audit_every }
    }

    /// Looks once more at everything that keeps A from being equal to B.
    async fn reconcile(&self, audit: &Audit) {
        let doubtful: Vec<&String> = audit.missing[Site::A.index()].keys().chain(&audit.differing).collect();
        let mut unequal = Vec::new();
        let some = doubtful.len().min(LOOKED_AT_MAX);
        for key in &doubtful[..some] {
            let Ok(key) = Key::new(key.as_str()) else { continue };
            // In this order: a write that was under way is in the journal until both have it.
            let on_its_way = self.journal.latest(&key).is_some();
            if !on_its_way && !self.is_equal(&key).await && self.journal.latest(&key).is_none() {
                unequal.push(key);
            }
        }
        let count = unequal.len() + doubtful.len() - some;
        if let Some(first) = unequal.first() {
            log::warn!(
                "coverage: {count} files differ between a and b, {first} among them; the mount does not go back to a"
            );
        }
        let mut state = self.coverage.state.lock();
        state.reconciled = count == 0;
        state.unequal = count;
    }

    async fn is_equal(&self, key: &Key) -> bool {
        let head = async |site: Site| {
            let until = Instant::now() + PAGE_TIME;
            let found = self.head_at(site, key, None, until).await;
            match found {
                Ok(object) => Some(Some(object.token)),
                Err(AttemptError::Cos(e)) if e.kind == Kind::NoSuchKey => Some(None),
                Err(_) => None,
            }
        };
        match tokio::join!(head(Site::A), head(Site::B)) {
            (Some(Some(a)), Some(Some(b))) => a.same(&b) || (a.etag == b.etag && a.size == b.size),
            (Some(None), Some(None)) => true,
            _ => false,
        }
    }

    /// Lists both buckets side by side.
    async fn audit(&self) -> Result<Audit, Trouble> {
        let mut audit = Audit { began: now_micros(), ..Audit::default() };
        let (mut a, mut b) = (Pages::new(Site::A), Pages::new(Site::B));
        loop {
            self.refill(&mut a).await.map_err(Trouble::Unanswered)?;
            self.refill(&mut b).await.map_err(Trouble::Unanswered)?;
            let order = match (a.front(), b.front()) {
                (None, None) => return Ok(audit),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(x), Some(y)) => x.key.cmp(&y.key),
            };
            audit.keys += 1;
            let (lacking, entry) = match order {
                Ordering::Equal => {
                    if let (Some(a), Some(b)) = (a.pop(), b.pop())
                        && (a.token.etag != b.token.etag || a.token.size != b.token.size)
                        && audit.differing.len() <= LOOKED_AT_MAX
                    {
                        audit.differing.insert(a.key);
                    }
                    continue;
                }
                Ordering::Less => (Site::B, a.pop()),
                Ordering::Greater => (Site::A, b.pop()),
            };
            let Some(entry) = entry else { continue };
            // What this mount itself has on its way is in the journal, with its bytes.
            if Key::new(entry.key.as_str()).is_ok_and(|key| self.journal.latest(&key).is_some()) {
                continue;
            }
            let missing = &mut audit.missing[lacking.index()];
            if missing.len() >= MISSING_MAX {
                return Err(Trouble::TooMany(lacking));
            }
            missing.insert(entry.key, entry.token);
        }
    }

    async fn refill(&self, pages: &mut Pages) -> Result<(), String> {
        while pages.queue.is_empty() && !pages.done {
            let query = List {
                prefix: self.options.prefix.clone(),
                delimiter: None,
                marker: pages.marker.clone(),
                max_keys: 1000,
            };
            let query = &query;
            let page = self
                .ask_site(pages.site, Class::Read, Instant::now() + PAGE_TIME, |client, progress| async move {
                    client.list(query, &Attempt::new(&progress)).await
                })
                .await
                .map_err(|e| match e {
                    AttemptError::Cos(e) => e.to_string(),
                    AttemptError::Dead { .. } => format!("bucket {} is down", pages.site),
                    AttemptError::Deadline { .. } => format!("bucket {} did not answer in time", pages.site),
                })?;
            pages.done = page.next.is_none();
            pages.marker = page.next;
            pages.queue = page.objects.into_iter().filter(|object| !self.is_own(&object.key)).collect();
        }
        Ok(())
    }
}

/// A is well again and not yet master. The move itself, which may be broken off, is part of it.
fn catches_up(view: &View) -> bool {
    matches!(view.state, State::CatchUp | State::Failback)
}

fn load(file: &Path) -> Option<Kept> {
    let text = std::fs::read(file).ok()?;
    match serde_json::from_slice(&text) {
        Ok(kept) => Some(kept),
        Err(error) => {
            log::warn!("coverage audit in {} is not readable ({error}); a new one is made", file.display());
            None
        }
    }
}

/// Replaces the file as a whole: a torn one would be believed.
fn save(file: &Path, kept: &Kept) -> std::io::Result<()> {
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, serde_json::to_vec(kept)?)?;
    std::fs::File::open(&fresh)?.sync_all()?;
    std::fs::rename(&fresh, file)
}

/// One side of the merge.
struct Pages {
    site: Site,
    queue: VecDeque<Listed>,
    marker: Option<String>,
    done: bool,
}

impl Pages {
    fn new(site: Site) -> Pages {
        Pages { site, queue: VecDeque::new(), marker: None, done: false }
    }

    fn front(&self) -> Option<&Listed> {
        self.queue.front()
    }

    fn pop(&mut self) -> Option<Listed> {
        self.queue.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ETag;

    #[test]
    fn an_audit_that_cannot_be_kept_takes_back_what_the_one_before_proved() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("coverage.json");
        let coverage = Coverage::new(Some(file.clone()));
        coverage.take(Audit { began: 7, ..Audit::default() }, None);
        coverage.fail(Trouble::Unanswered("bucket a is down".into()));
        assert!(coverage.proves_absent("x", Site::B), "an audit that failed says nothing against the last one");
        assert!(!coverage.is_hopeless());
        coverage.fail(Trouble::TooMany(Site::B));
        assert!(!coverage.proves_absent("x", Site::B));
        assert!(coverage.is_hopeless());
        assert_eq!(Coverage::new(Some(file)).audited_since(), None, "nor does the next start believe it");
    }

    #[test]
    fn what_is_kept_is_found_again_and_damage_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("coverage.json");
        let token =
            Token { version: None, etag: ETag("e".into()), size: 3, crc64: None, modified_micros: 5, stamp: None };
        let coverage = Coverage::new(Some(file.clone()));
        assert!(!coverage.proves_absent("x", Site::B), "nothing is proven before the first audit");
        let mut audit = Audit { began: 77, keys: 2, ..Audit::default() };
        audit.missing[Site::B.index()].insert("d/only-in-a".into(), token.clone());
        coverage.take(audit, Some(Epoch(4)));

        let again = Coverage::new(Some(file.clone()));
        assert!(again.is_proven(Epoch(4)));
        assert!(again.proves_absent("d/nowhere", Site::B));
        assert!(!again.proves_absent("d/only-in-a", Site::B));
        assert_eq!(again.missing_under("d/", Site::B), vec![Listed { key: "d/only-in-a".into(), token }]);
        assert!(again.missing_under("e/", Site::B).is_empty());

        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(Coverage::new(Some(file)).audited_since(), None);
    }
}
