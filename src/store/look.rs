//! "What is under this key?" answered under the freshness rule.
//!
//! In good times this is one HEAD to the master. When the master is suspect, what this mount already knows of the key is the
//! answer (it is never older than anything shown before); when it has changed to a bucket that may lag, each answer passes
//! [`judge`], and a "not found" counts only where the coverage audit or an own delete proves it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ask::{Failure, usable, wait_change};
use super::freshness::{Answer, Standing, Verdict, judge};
use super::ha::{Inner, fact, holds, now_micros};
use super::list::Remembered;
use super::{Error, Result};
use crate::cache::{Known, Seen};
use crate::cos::{Attempt, Kind};
use crate::failover::{Health, View};
use crate::linkage::AttemptError;
use crate::object::{Class, Key, Object, Site};

/// How long a suspect master may keep a question waiting whose answer this mount knows already. Between the usual round trip
/// (tens of ms) and the second in which a program should have its answer.
const PATIENCE: Duration = Duration::from_millis(400);

/// How long the other bucket may take when the master alone cannot prove an absence.
const ELSEWHERE: Duration = Duration::from_secs(3);

/// Pause before asking again when nothing that answered could be believed.
const UNSURE_PAUSE: Duration = Duration::from_millis(500);

impl Inner {
    pub(super) async fn head(&self, key: &Key, until: Instant) -> Result<Option<Object>> {
        loop {
            if let Some(record) = self.journal.latest(key)
                && !holds(&record, self.links.view().master)
            {
                return Ok(present(self.known(key)));
            }
            let known = self.known(key);
            if known.is_none()
                && everything_down(&self.links.view())
                && self.remembered(key.as_str()) == Remembered::Absent
            {
                return Ok(None);
            }
            let (site, found) = match self.head_once(key, known.as_ref(), until).await? {
                Some(answer) => answer,
                // Read again: a write may have finished while nobody answered.
                None => return Ok(present(self.known(key).or(known))),
            };
            if let Some(shown) = self.weigh(key, site, found, until).await? {
                return Ok(shown);
            }
            if let Some(shown) = self.look_elsewhere(key, site.other(), until).await? {
                return Ok(shown);
            }
            self.unsure(key.as_str(), until).await?;
        }
    }

    /// One answer, or `None` where what is known has to do: everything is down, or the master is suspect and silent.
    async fn head_once(
        &self,
        key: &Key,
        known: Option<&Known>,
        until: Instant,
    ) -> Result<Option<(Site, Option<Object>)>> {
        if known.is_some() && everything_down(&self.links.view()) {
            return Ok(None);
        }
        let asked = self.ask(Class::Read, until, |client, progress| async move {
            client.head(key, None, &Attempt::new(&progress)).await
        });
        let asked = async {
            match asked.await {
                Ok((site, object)) => Ok(Some((site, Some(object)))),
                Err(Failure::Answer(site, error)) if error.kind == Kind::NoSuchKey => Ok(Some((site, None))),
                Err(Failure::TimedOut(_)) if known.is_some() => Ok(None),
                Err(failure) => Err(failure.into_error()),
            }
        };
        match known {
            Some(_) => tokio::select! {
                biased;
                answer = asked => answer,
                () = self.suspicion(until) => Ok(None),
            },
            // The outage may begin while the question is under way.
            None if self.remembered(key.as_str()) == Remembered::Absent => tokio::select! {
                biased;
                answer = asked => answer,
                () = self.blackout(until) => Ok(None),
            },
            None => asked.await,
        }
    }

    /// Resolves when [`PATIENCE`] is over and the linkage that should have answered is under suspicion.
    pub(super) async fn suspicion(&self, until: Instant) {
        tokio::time::sleep_until((Instant::now() + PATIENCE).min(until)).await;
        self.view_where(until, |view| {
            let health = view.linkage(view.master, Class::Read).health;
            everything_down(view) || !matches!(health, Health::Up | Health::Throttled)
        })
        .await;
    }

    /// Resolves when nobody can be asked at all.
    pub(super) async fn blackout(&self, until: Instant) {
        self.view_where(until, everything_down).await;
    }

    /// Resolves when a view is as wanted, and never after the deadline: it must not win against the request's own.
    pub(super) async fn view_where(&self, until: Instant, wanted: impl Fn(&View) -> bool) {
        let mut views = self.links.watch();
        while !wanted(&views.borrow_and_update()) {
            if !wait_change(&mut views, until).await {
                std::future::pending::<()>().await;
            }
        }
    }

    /// A bucket that may lag cannot prove an absence alone. What neither has, is nowhere; what the other one has, is there: whatever was
    /// acknowledged before the first was asked is in one of them by the time the second answers, unless it was removed meanwhile.
    async fn look_elsewhere(&self, key: &Key, site: Site, until: Instant) -> Result<Option<Option<Object>>> {
        if !usable(self.links.view().linkage(site, Class::Read).health) {
            return Ok(None);
        }
        let asked = self.head_at(site, key, None, until.min(Instant::now() + ELSEWHERE)).await;
        match asked {
            Ok(object) => self.weigh(key, site, Some(object), until).await,
            // A write of this mount may have been finished meanwhile.
            Err(AttemptError::Cos(e)) if e.kind == Kind::NoSuchKey => Ok(Some(present(self.known(key)))),
            Err(_) => Ok(None),
        }
    }

    /// Holds an answer against what is known. `Ok(None)`: cannot be decided.
    async fn weigh(
        &self,
        key: &Key,
        site: Site,
        found: Option<Object>,
        until: Instant,
    ) -> Result<Option<Option<Object>>> {
        // Read again: a write may have finished while the answer was under way, and it is the newer fact.
        let pending = self.journal.latest(key);
        let known = self.known(key);
        let answer = found.as_ref().map_or(Answer::Absent, |o| Answer::Present(&o.token));
        let standing = match self.standing(site) {
            // While a write of ours is not verified in both buckets, a bucket that shows less is late, not right.
            Standing::Proven if pending.is_none() => Standing::Proven,
            _ => Standing::Lagging,
        };
        Ok(match judge(fact(known.as_ref()), answer, standing) {
            Verdict::Show => {
                let foreign = found.as_ref().is_some_and(|object| self.own(object.token.stamp).is_none());
                let shown = self.remember(key, found);
                if foreign && pending.is_some() {
                    // What is to be seen from now on keeps the older write of ours from being sent again: also after a kill.
                    self.flush_index(key).await;
                }
                Some(shown)
            }
            Verdict::Keep => Some(present(known)),
            // An audit is some minutes old. Where the other bucket can be asked, it is.
            Verdict::Unsure if usable(self.links.view().linkage(site.other(), Class::Read).health) => None,
            Verdict::Unsure if self.coverage.proves_absent(key.as_str(), site) || self.trusted(site) => Some(None),
            Verdict::Unsure => None,
            Verdict::Confirm => match self.still_there(key, site, known.as_ref(), until).await? {
                true => Some(present(known)),
                false => {
                    if let Some(object) = &found {
                        self.cache.attrs().replace(key, Known::Present(object.clone()));
                    }
                    Some(found)
                }
            },
        })
    }

    /// Does the version this mount knows still exist in the bucket that shows an older one?
    async fn still_there(&self, key: &Key, site: Site, known: Option<&Known>, until: Instant) -> Result<bool> {
        let version = match known {
            Some(Known::Present(object)) => object.token.version.clone(),
            // A delete marker of ours that the bucket does not show as current: trust our own delete.
            Some(Known::Absent { stamp, .. }) => return Ok(stamp.is_some()),
            None => return Ok(false),
        };
        let Some(version) = version else { return Ok(true) };
        let version = &version;
        // Replication may still have it on its way to this site, so it is gone only if the other one has not got it either.
        for place in [site, site.other()] {
            let asked = self.head_at(place, key, Some(version), until).await;
            match asked {
                Err(AttemptError::Cos(e)) if matches!(e.kind, Kind::NoSuchVersion | Kind::NoSuchKey) => {}
                _ => return Ok(true),
            }
        }
        log::warn!("{key}: version {version} was removed from both buckets; showing the older one that is left");
        Ok(false)
    }

    /// Takes note of an answer that is shown. Where it is not what a remembered listing says, that is noted beside the listing.
    pub(super) fn remember(&self, key: &Key, found: Option<Object>) -> Option<Object> {
        let state = match &found {
            Some(object) => Known::Present(object.clone()),
            // Absences are remembered only where something was there before, so that guesses at names cost nothing.
            None if !matches!(self.known(key), Some(Known::Present(_))) => return None,
            None => Known::Absent { marker: None, micros: now_micros(), stamp: None },
        };
        let is_news = match self.cache.attrs().see(key, state) {
            Seen::Nothing => false,
            Seen::First => self.remembered(key.as_str()) == Remembered::Absent,
            Seen::Changed => true,
        };
        if is_news {
            self.listings.lock().changed(key, found.clone());
        }
        found
    }

    /// How far a "not found" of this site can be believed now.
    pub(super) fn standing(&self, site: Site) -> Standing {
        let view = self.links.view();
        match site == view.master && self.coverage.is_proven(view.epoch) {
            true => Standing::Proven,
            false => Standing::Lagging,
        }
    }

    /// Does this site's "not found" count because the operator said so? Only in the middle of an outage, on a host that never saw both buckets.
    pub(super) fn trusted(&self, site: Site) -> bool {
        let view = self.links.view();
        let trusted = self.options.trust_unaudited
            && site == view.master
            && self.coverage.audited_since().is_none()
            && !self.coverage.is_hopeless()
            && !usable(view.linkage(site.other(), Class::Read).health);
        if trusted && self.coverage.first_trust() {
            log::warn!(
                "bucket {} is down and was never compared with {site}: what {site} lacks is taken as not there (unaudited = \"trust\")",
                site.other()
            );
        }
        trusted
    }

    /// Nothing that answered could be believed: wait a little for a better time, or give up at the deadline.
    pub(super) async fn unsure(&self, what: &str, until: Instant) -> Result<()> {
        let mut views = self.links.watch();
        let view: Arc<View> = views.borrow_and_update().clone();
        let again = (Instant::now() + UNSURE_PAUSE).min(until);
        wait_change(&mut views, again).await;
        match Instant::now() >= until {
            true => Err(Error::Unavailable(format!(
                "{what:?}: bucket {} has no such key, but may lag behind bucket {} ({})",
                view.master,
                view.master.other(),
                self.coverage.describe()
            ))),
            false => Ok(()),
        }
    }
}

pub(super) fn present(known: Option<Known>) -> Option<Object> {
    match known {
        Some(Known::Present(object)) => Some(object),
        _ => None,
    }
}

/// Nobody can be asked at all.
pub(super) fn everything_down(view: &View) -> bool {
    Site::ALL.iter().all(|site| !usable(view.linkage(*site, Class::Read).health))
}
