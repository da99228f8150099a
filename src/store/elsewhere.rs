//! Contents from places that are neither bucket: the CDN, and the external origin.
//!
//! Both can only be asked for bytes of a version that is known, and both prove what they deliver; so they may be asked at any time, and an
//! answer of theirs is as good as a bucket's. They are asked in two cases: the CDN for its share of fetches while all is well, so that the path
//! is known to work; and all of them when no bucket has delivered for a moment, beside the buckets and not instead of them.
//!
//! Owns: when they are asked. Owns not: the proof (`cdn`, `origin`).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Result;
use super::ha::Inner;
use super::look::everything_down;
use super::read::Source;
use super::tally::From;
use crate::cos::redirect::Redirect;
use crate::cos::{self, Attempt, Get, Progress};
use crate::linkage::AttemptError;
use crate::object::{Class, Key, Site, Token};

/// How long the CDN may take when it is its turn, for the first MiB and for each further one.
const TURN_MAX: Duration = Duration::from_millis(400);
/// How long no bucket must have delivered. Longer than the hedge of one bucket by the other, shorter than a program notices.
const SILENCE: Duration = Duration::from_millis(700);
/// How long a bucket may take to say where it redirects to.
const REDIRECT_MAX: Duration = Duration::from_secs(2);
/// Pause before the same places are asked again.
const AGAIN: Duration = Duration::from_secs(2);

impl Inner {
    /// The bytes of a range of one version, from wherever they are to be had first.
    pub(super) async fn fetch_run(
        &self,
        key: &Key,
        token: &Token,
        source: &Source,
        range: Range<u64>,
        until: Instant,
    ) -> Result<Bytes> {
        if self.options.cdn.is_none() && self.options.origin.is_none() {
            return self.fetch_from_buckets(key, token, source, range, until).await;
        }
        let down = everything_down(&self.links.view());
        if !down && let Some(bytes) = self.by_turn(key, token, &range).await {
            return Ok(bytes);
        }
        let size = Duration::from_millis((range.end - range.start) >> 12);
        let patience = if down { Duration::ZERO } else { SILENCE + size };
        tokio::select! {
            biased;
            result = self.fetch_from_buckets(key, token, source, range.clone(), until) => result,
            bytes = self.fetch_elsewhere(key, token, &range, patience) => Ok(bytes),
        }
    }

    /// From the CDN, if it is its turn and it is quick about it.
    async fn by_turn(&self, key: &Key, token: &Token, range: &Range<u64>) -> Option<Bytes> {
        let cdn = self.options.cdn.as_ref().filter(|cdn| cdn.has_turn())?;
        let limit = TURN_MAX.mul_f64(1.0 + (range.end - range.start) as f64 / (1 << 20) as f64);
        match tokio::time::timeout(limit, cdn.get(key, token, range)).await {
            Ok(Ok(bytes)) => {
                self.tally.read(From::Cdn, bytes.len() as u64);
                Some(bytes)
            }
            Ok(Err(error)) => {
                log::debug!("{key}: {error}");
                None
            }
            Err(_) => {
                cdn.was_late();
                None
            }
        }
    }

    /// What a bucket does not hold, from where its origin-pull rule redirects to. `None` if no rule does, or nothing proves what is there.
    pub(super) async fn redirected(
        &self,
        site: Site,
        key: &Key,
        token: &Token,
        range: &Range<u64>,
        answer: &cos::Error,
    ) -> Option<Bytes> {
        let origin = self.options.origin.as_ref()?;
        let redirect = match answer.redirect() {
            Some(redirect) => redirect.clone(),
            // Rules speak for keys, not for versions.
            None if token.version.is_some() => self.redirect_of(site, key, token).await?,
            None => return None,
        };
        match origin.get(key, token, range, Some(&redirect)).await {
            Ok(bytes) => {
                self.tally.read(From::Origin, bytes.len() as u64);
                Some(bytes)
            }
            Err(error) => {
                log::info!("{key}: redirected to {}: {error}", redirect.location);
                None
            }
        }
    }

    /// Where a bucket redirects readers of a key.
    async fn redirect_of(&self, site: Site, key: &Key, token: &Token) -> Option<Redirect> {
        let want = &Get { version: None, if_match: Some(token.etag.clone()), range: Some(0..1) };
        let until = Instant::now() + REDIRECT_MAX;
        let asked = self.links.attempt(site, Class::Read, until, async |client, progress: Arc<Progress>| {
            client.get(key, want, &Attempt::new(&progress)).await.map(drop)
        });
        match asked.await {
            Err(AttemptError::Cos(error)) => error.redirect().cloned(),
            _ => None,
        }
    }

    /// After `patience`: whatever else has the bytes, again and again. Never ends without them; the buckets' deadline ends it.
    async fn fetch_elsewhere(&self, key: &Key, token: &Token, range: &Range<u64>, patience: Duration) -> Bytes {
        tokio::time::sleep(patience).await;
        loop {
            if let Some(cdn) = &self.options.cdn {
                match cdn.get(key, token, range).await {
                    Ok(bytes) => {
                        self.tally.read(From::Cdn, bytes.len() as u64);
                        return bytes;
                    }
                    Err(error) => log::info!("{key}: {error}"),
                }
            }
            if let Some(origin) = &self.options.origin {
                match origin.get(key, token, range, None).await {
                    Ok(bytes) => {
                        self.tally.read(From::Origin, bytes.len() as u64);
                        return bytes;
                    }
                    Err(error) => log::info!("{key}: {error}"),
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
