//! Test objects: may A be trusted again?
//!
//! Probes show that A answers. They do not show that it keeps what it is given, that it gives it back unharmed, or that the way between
//! the regions is open again, and a master that fails in one of these would have to be left at once. So while A catches up, small
//! objects travel: one is put into A, read there, and awaited in B; another goes from B to A. Ten in a row that arrive unharmed
//! and in time let `failover/failback` go on; one that does not starts the count anew. How long the slowest took to A says whether a hold of
//! two seconds would be enough for a last write to get there.
//!
//! They lie below `.cosfs-ha/`, which listings of this mount hide, under a name that only this mount uses, and are removed by
//! version id on both sides, so that nothing of them remains. What a kill leaves behind is removed by the next round.
//!
//! Owns: the objects and what they showed. Owns not: the decision (`failover/failback`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::ask::usable;
use super::ha::Inner;
use crate::cos::{Attempt, Get, Kind, ListVersions, Payload};
use crate::failover::{FailbackMode, State, Tuning};
use crate::linkage::AttemptError;
use crate::object::{self, Class, Headers, Key, OWN, Site, VersionId};

/// Later is too late: also the age from which a record counts as undrained.
const ARRIVED_MAX: Duration = Duration::from_secs(30);
/// One request. A master that needs longer for 64 bytes is not well.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// First look on the other side; grows by half up to [`LOOK_MAX`].
const LOOK_MIN: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(2);
/// Rounds whose travelling times are kept.
const KEPT: usize = 10;
/// Bounds of the pause between two rounds: neither a load, nor too few for a trial period of five minutes.
const PACE: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(30)];

/// How often a mount with these thresholds sends test objects while A catches up; `None`: never, an operator goes back.
pub fn pace(tuning: &Tuning) -> Option<Duration> {
    let wanted = tuning.failback == FailbackMode::Auto && tuning.failback_canaries > 0;
    wanted.then(|| (tuning.failback_hold / (tuning.failback_canaries + 2)).clamp(PACE[0], PACE[1]))
}

/// What the test objects showed.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Seen {
    /// Rounds in a row in which both arrived.
    pub in_a_row: u32,
    /// The slowest way from B to A among the last of them.
    pub to_a: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Canaries {
    inner: Mutex<Rounds>,
}

#[derive(Debug, Default)]
struct Rounds {
    in_a_row: u32,
    to_a: VecDeque<Duration>,
}

impl Canaries {
    pub(super) fn seen(&self) -> Seen {
        let rounds = self.inner.lock();
        Seen { in_a_row: rounds.in_a_row, to_a: rounds.to_a.iter().copied().max().unwrap_or_default() }
    }

    fn arrived(&self, to_a: Duration) {
        let mut rounds = self.inner.lock();
        rounds.in_a_row = rounds.in_a_row.saturating_add(1);
        rounds.to_a.push_back(to_a);
        if rounds.to_a.len() > KEPT {
            rounds.to_a.pop_front();
        }
    }

    fn begin_anew(&self) {
        *self.inner.lock() = Rounds::default();
    }
}

impl Inner {
    /// Is this something of this program itself, which nobody wants to see in a listing?
    pub(super) fn is_own(&self, key: &str) -> bool {
        key.strip_prefix(self.options.prefix.as_str()).is_some_and(|rest| rest.starts_with(OWN))
    }

    pub(super) fn start_canaries(this: &Arc<Inner>) {
        let Some(every) = this.options.canary_every else { return };
        let inner = this.clone();
        this.rt.spawn(async move {
            let mut views = inner.links.watch();
            // An earlier run may have left something.
            let mut clean = false;
            let mut told = false;
            loop {
                let view = views.borrow_and_update().clone();
                let open = |site: Site| Class::ALL.iter().all(|class| usable(view.linkage(site, *class).health));
                match view.state {
                    State::CatchUp if Site::ALL.into_iter().all(open) => {}
                    // Breaks off or succeeds within two seconds; what was shown still counts.
                    State::Failback => {
                        if views.changed().await.is_err() {
                            return;
                        }
                        continue;
                    }
                    _ => {
                        inner.canaries.begin_anew();
                        told = false;
                        if views.changed().await.is_err() {
                            return;
                        }
                        continue;
                    }
                }
                let next = Instant::now() + every;
                if !clean {
                    inner.sweep().await;
                }
                let (to_b, to_a) = tokio::join!(inner.travel(Site::A), inner.travel(Site::B));
                clean = to_b.is_ok() && to_a.is_ok();
                match (to_b, to_a) {
                    (Ok(_), Ok(to_a)) => {
                        inner.canaries.arrived(to_a);
                        told = false;
                    }
                    (Err(why), _) | (_, Err(why)) => {
                        let level = if told { log::Level::Debug } else { log::Level::Warn };
                        log::log!(
                            level,
                            "a test object did not get through, so the mount does not go back to a yet: {why}"
                        );
                        told = true;
                        inner.canaries.begin_anew();
                    }
                }
                tokio::time::sleep_until(next).await;
            }
        });
    }

    fn canary(&self, from: Site) -> Result<Key, String> {
        let name = format!("canary-{:016x}-{from}", self.journal.mount_id());
        object::own(&self.options.prefix, &name).map_err(|e| e.to_string())
    }

    /// Puts an object into one bucket, reads it there, waits for it in the other one, and removes it. Returns how long it travelled.
    async fn travel(&self, from: Site) -> Result<Duration, String> {
        let key = &self.canary(from)?;
        let text = format!("{:016x} {:016x} {from}", self.journal.mount_id(), super::ha::now_micros());
        let content = Bytes::from(format!("{text:<64}"));
        let body = &Payload::Bytes(content.clone());
        let put = self.links.attempt(from, Class::Write, Instant::now() + REQUEST_MAX, |client, progress| async move {
            client.put(key, body.clone(), &Headers::default(), None, &Attempt::new(&progress)).await
        });
        let version = match put.await {
            Ok(token) => token.version.ok_or_else(|| format!("bucket {from} keeps no versions"))?,
            Err(error) => return Err(format!("bucket {from} did not take it: {error}")),
        };
        let put_at = Instant::now();
        let arrived = async {
            self.check(from, key, &version, &content).await?.ok_or_else(|| format!("bucket {from} lost it"))?;
            let mut pause = LOOK_MIN;
            loop {
                tokio::time::sleep(pause).await;
                if self.check(from.other(), key, &version, &content).await?.is_some() {
                    return Ok(put_at.elapsed());
                }
                if put_at.elapsed() >= ARRIVED_MAX {
                    return Err(format!("from {from} to {} it takes longer than {ARRIVED_MAX:?}", from.other()));
                }
                pause = (pause * 3 / 2).min(LOOK_MAX);
            }
        };
        let travelled = arrived.await;
        for site in Site::ALL {
            self.remove(site, key, &version).await?;
        }
        travelled
    }

    /// Is this version here, with these bytes? `None`: not yet.
    async fn check(&self, site: Site, key: &Key, version: &VersionId, content: &Bytes) -> Result<Option<()>, String> {
        let get = self.links.attempt(site, Class::Read, Instant::now() + REQUEST_MAX, |client, progress| async move {
            let want = Get { version: Some(version.clone()), ..Get::default() };
            let answer = client.get(key, &want, &Attempt::new(&progress)).await?;
            match answer.object.token.size == content.len() as u64 {
                true => answer.body.collect().await,
                false => Ok(Bytes::new()),
            }
        });
        match get.await {
            Ok(found) if found == *content => Ok(Some(())),
            Ok(_) => Err(format!("bucket {site} gives back other bytes")),
            Err(AttemptError::Cos(e)) if matches!(e.kind, Kind::NoSuchKey | Kind::NoSuchVersion) => Ok(None),
            Err(error) => Err(format!("bucket {site} does not give it back: {error}")),
        }
    }

    async fn remove(&self, site: Site, key: &Key, version: &VersionId) -> Result<(), String> {
        let delete =
            self.links.attempt(site, Class::Write, Instant::now() + REQUEST_MAX, |client, progress| async move {
                client.delete(key, Some(version), &Attempt::new(&progress)).await
            });
        match delete.await {
            Ok(_) => Ok(()),
            Err(AttemptError::Cos(e)) if matches!(e.kind, Kind::NoSuchKey | Kind::NoSuchVersion) => Ok(()),
            Err(error) => Err(format!("bucket {site} does not remove it: {error}")),
        }
    }

    /// Removes what rounds left that did not come to their end.
    async fn sweep(&self) {
        for (site, from) in Site::ALL.into_iter().flat_map(|site| Site::ALL.map(|from| (site, from))) {
            let Ok(key) = self.canary(from) else { return };
            let query =
                ListVersions { prefix: key.to_string(), key_marker: None, version_marker: None, max_keys: 1000 };
            let query = &query;
            let list =
                self.links.attempt(site, Class::Read, Instant::now() + REQUEST_MAX, |client, progress| async move {
                    client.list_versions(query, &Attempt::new(&progress)).await
                });
            let Ok(page) = list.await else { continue };
            for entry in page.entries {
                if let Err(why) = self.remove(site, &key, &entry.version).await {
                    log::debug!("a test object remains: {why}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_fits_the_trial_period() {
        let auto = |hold: u64| Tuning {
            failback: FailbackMode::Auto,
            failback_hold: Duration::from_secs(hold),
            ..Tuning::default()
        };
        assert_eq!(pace(&Tuning::default()), None, "an operator goes back");
        assert_eq!(pace(&auto(300)), Some(Duration::from_secs(25)), "ten within five minutes");
        assert_eq!(pace(&auto(1)), Some(Duration::from_millis(250)));
        assert_eq!(pace(&auto(3600)), Some(Duration::from_secs(30)));
        assert_eq!(pace(&Tuning { failback_canaries: 0, ..auto(300) }), None);
    }

    #[test]
    fn one_that_is_lost_begins_the_count_anew() {
        let canaries = Canaries::default();
        for n in 0..12 {
            canaries.arrived(Duration::from_millis(if n == 0 { 900 } else { 100 + n }));
        }
        assert_eq!(canaries.seen(), Seen { in_a_row: 12, to_a: Duration::from_millis(111) }, "the first is forgotten");
        canaries.begin_anew();
        assert_eq!(canaries.seen(), Seen::default());
    }
}
