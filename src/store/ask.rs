//! The one place where a request is tried again.
//!
//! Each try is one [`attempt`](crate::linkage::Linkages::attempt): it ends with an answer, with a fault, or at once when the linkage is declared
//! dead. What follows is decided here: an answer is returned, a fault is repeated after a pause, a death waits for the next
//! view and goes wherever the master then is. So a request that was in flight on a dying region is simply sent to the other
//! one. Nothing below this module repeats anything (the COS client's single re-signing after a clock skew aside), and
//! nothing above it may.
//!
//! Promise: no call outlives its deadline; no request goes to a linkage that is known to be dead.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ha::Inner;
use super::{Error, Result};
use crate::cos::{self, Attempt, Kind, Progress};
use crate::failover::{Health, View};
use crate::linkage::AttemptError;
use crate::object::{Class, Key, Object, Site, VersionId};

/// First pause before a repetition, milliseconds. Doubles up to [`PAUSE_MAX_MS`], with full jitter.
const PAUSE_MIN_MS: u64 = 40;
/// Longest pause, milliseconds: short against the time in which a dead linkage is detected (about 3 s), so that a burst of
/// 5xx answers is probed often enough to be judged.
const PAUSE_MAX_MS: u64 = 800;

/// Why [`Inner::ask`] gave up.
#[derive(Debug)]
pub(super) enum Failure {
    /// The site answered, and asking again would not change the answer.
    Answer(Site, Box<cos::Error>),
    /// No usable answer before the deadline; in words what the last obstacle was.
    TimedOut(String),
}

impl Failure {
    pub(super) fn into_error(self) -> Error {
        match self {
            Failure::Answer(_, error) => answer_error(&error),
            Failure::TimedOut(why) => Error::Unavailable(why),
        }
    }
}

/// A final answer in the file system's terms. "Not found" is the caller's to interpret; here it means a pinned version is gone.
pub(super) fn answer_error(error: &cos::Error) -> Error {
    let text = error.to_string();
    match error.kind {
        Kind::Auth => Error::Denied(text),
        Kind::NoSuchKey | Kind::NoSuchVersion | Kind::PreconditionFailed => Error::Gone(text),
        Kind::NoSuchBucket | Kind::Admin | Kind::Redirected => Error::Unavailable(text),
        _ => Error::Rejected(text),
    }
}

/// Can the same request succeed a moment later?
pub(super) fn transient(kind: &Kind) -> bool {
    !matches!(
        kind,
        Kind::NoSuchKey
            | Kind::NoSuchVersion
            | Kind::NoSuchUpload
            | Kind::NoSuchBucket
            | Kind::Redirected
            | Kind::PreconditionFailed
            | Kind::InvalidRange
            | Kind::Auth
            | Kind::Admin
            | Kind::Rejected
    )
}

/// Is data traffic allowed on a linkage of this health?
pub(super) fn usable(health: Health) -> bool {
    health.carries_traffic()
}

/// A failure that took so long is no passing one.
const SLOW: Duration = Duration::from_secs(1);

/// Pauses between repetitions: exponential with full jitter.
pub(super) struct Pause {
    ceiling_ms: u64,
}

impl Pause {
    pub(super) fn new() -> Pause {
        Pause { ceiling_ms: PAUSE_MIN_MS }
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = Duration::from_millis(self.ceiling_ms).mul_f64(0.5 + crate::clock::chance() / 2.0);
        self.ceiling_ms = (self.ceiling_ms * 2).min(PAUSE_MAX_MS);
        pause
    }
}

impl Inner {
    /// The site a request of this class should go to now; `None`: nowhere, wait for the next view.
    pub(super) fn site_for(&self, class: Class, view: &View) -> Option<Site> {
        let health = |site: Site| view.linkages[site.index()][class.index()].health;
        match class {
            Class::Write => (view.accepting_writes && usable(health(view.master))).then_some(view.master),
            Class::Read if usable(health(view.master)) => Some(view.master),
            Class::Read => usable(health(view.master.other())).then_some(view.master.other()),
        }
    }

    /// Where a try goes: as [`Inner::site_for`] says, and a read that failed there, or whose master is doubtful, every other time to the
    /// other bucket, if that one is well. The caller holds the answer against the freshness rule.
    fn site_of_try(&self, class: Class, view: &View, failed: u32) -> Option<Site> {
        let site = self.site_for(class, view)?;
        let (health, other) = (view.linkage(site, class).health, site.other());
        let elsewhere = match health {
            Health::Grey => failed.is_multiple_of(2),
            _ => !failed.is_multiple_of(2),
        };
        let well = view.linkage(other, class).health == Health::Up;
        Some(if class == Class::Read && elsewhere && well { other } else { site })
    }

    /// Sends a request to wherever requests of its class go at the moment, again and again until something answers.
    pub(super) async fn ask<T, F, Fut>(
        &self,
        class: Class,
        until: Instant,
        call: F,
    ) -> std::result::Result<(Site, T), Failure>
    where
        F: Fn(cos::Client, Arc<Progress>) -> Fut + Send + Sync,
        Fut: Future<Output = std::result::Result<T, cos::Error>> + Send,
        T: Send,
    {
        self.ask_where(class, until, |view, failed, _| self.site_of_try(class, view, failed), call).await
    }

    /// The same for names, which a bucket that lags may lack. A failure or two of the master are no reason to take its word; a master that keeps
    /// failing, or keeps one waiting, is.
    pub(super) async fn ask_names<T, F, Fut>(&self, until: Instant, call: F) -> std::result::Result<(Site, T), Failure>
    where
        F: Fn(cos::Client, Arc<Progress>) -> Fut + Send + Sync,
        Fut: Future<Output = std::result::Result<T, cos::Error>> + Send,
        T: Send,
    {
        let place = |view: &View, failed: u32, slow: bool| match if slow { failed } else { failed.saturating_sub(2) } {
            0 => self.site_for(Class::Read, view),
            failed => self.site_of_try(Class::Read, view, failed),
        };
        self.ask_where(Class::Read, until, place, call).await
    }

    async fn ask_where<T, F, Fut>(
        &self,
        class: Class,
        until: Instant,
        place: impl Fn(&View, u32, bool) -> Option<Site> + Send + Sync,
        call: F,
    ) -> std::result::Result<(Site, T), Failure>
    where
        F: Fn(cos::Client, Arc<Progress>) -> Fut + Send + Sync,
        Fut: Future<Output = std::result::Result<T, cos::Error>> + Send,
        T: Send,
    {
        let mut views = self.links.watch();
        let mut pause = Pause::new();
        let mut obstacle = String::from("no bucket is reachable");
        let (mut failed, mut slow) = (0, false);
        loop {
            let view = views.borrow_and_update().clone();
            let Some(site) = place(&view, failed, slow) else {
                if !wait_change(&mut views, until).await {
                    return Err(Failure::TimedOut(format!("{obstacle}; {}", view.explain)));
                }
                continue;
            };
            let begun = Instant::now();
            match self.links.attempt(site, class, until, &call).await {
                Ok(answer) => return Ok((site, answer)),
                Err(AttemptError::Cos(error)) if !transient(&error.kind) => {
                    return Err(Failure::Answer(site, Box::new(error)));
                }
                Err(AttemptError::Cos(error)) => {
                    failed += u32::from(!matches!(error.kind, Kind::Throttled { .. } | Kind::ClockSkew));
                    slow |= begun.elapsed() >= SLOW;
                    let rest = match error.kind {
                        Kind::Throttled { retry_after: Some(after) } => after.min(Duration::from_secs(5)),
                        _ => pause.next(),
                    };
                    obstacle = error.to_string();
                    if Instant::now() + rest >= until {
                        return Err(Failure::TimedOut(obstacle));
                    }
                    let went = self.site_for(class, &view);
                    self.rest(rest, until, |view| self.site_for(class, view) != went).await;
                }
                Err(AttemptError::Dead { .. }) => {
                    obstacle = format!("the {class} linkage to bucket {site} is dead");
                    // The death notice and the new view come from one task; where they cross, this keeps the loop calm.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(AttemptError::Deadline { .. }) => {
                    return Err(Failure::TimedOut(format!("bucket {site} did not answer in time")));
                }
            }
            if Instant::now() >= until {
                return Err(Failure::TimedOut(obstacle));
            }
        }
    }

    /// A pause before a repetition; it ends when there is no sense in the same repetition any more.
    async fn rest(&self, pause: Duration, until: Instant, moved: impl Fn(&View) -> bool) {
        tokio::select! {
            biased;
            () = tokio::time::sleep(pause) => {}
            () = self.view_where(until, moved) => {}
        }
    }

    /// The same on one given site, whatever the master; ends when that linkage is dead.
    pub(super) async fn ask_site<T, F, Fut>(
        &self,
        site: Site,
        class: Class,
        until: Instant,
        call: F,
    ) -> std::result::Result<T, AttemptError>
    where
        F: Fn(cos::Client, Arc<Progress>) -> Fut + Send + Sync,
        Fut: Future<Output = std::result::Result<T, cos::Error>> + Send,
        T: Send,
    {
        let mut pause = Pause::new();
        let mut lost = false;
        loop {
            let outcome = self.links.attempt(site, class, until, &call).await;
            lost |= outcome.as_ref().is_err_and(AttemptError::lost_its_answer);
            match outcome {
                Err(AttemptError::Cos(error)) if transient(&error.kind) => {
                    let rest = pause.next();
                    if Instant::now() + rest >= until {
                        return Err(AttemptError::Cos(error).after_a_lost_answer(lost));
                    }
                    self.rest(rest, until, |view| !usable(view.linkage(site, class).health)).await;
                }
                // Whoever judges the failure must know of each try that may have had an effect, not of the last one only.
                other => return other.map_err(|error| error.after_a_lost_answer(lost)),
            }
        }
    }

    /// What one bucket has under a key: now, or as one version.
    pub(super) async fn head_at(
        &self,
        site: Site,
        key: &Key,
        version: Option<&VersionId>,
        until: Instant,
    ) -> std::result::Result<Object, AttemptError> {
        self.ask_site(site, Class::Read, until, |client, progress| async move {
            client.head(key, version, &Attempt::new(&progress)).await
        })
        .await
    }
}

/// Waits for the next view; false when the deadline comes first.
pub(super) async fn wait_change(views: &mut crate::linkage::latest::Receiver<Arc<View>>, until: Instant) -> bool {
    matches!(tokio::time::timeout_at(until, views.changed()).await, Ok(Ok(())))
}

/// Runs blocking disk work off the async threads.
pub(super) async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    crate::clock::off_thread(work).await.map_err(|e| Error::Disk(format!("disk task failed: {e}")))
}
