//! Copies of what was written, at the external origin.
//!
//! A few tasks take what waits there, read it as any reader would (journal file, cache, bucket) and send it at the configured pace. One more
//! removes what has been there longer than the hot window, once both buckets are known to hold it. All of it may fail without consequence: the
//! write itself is safe where it always is.
//!
//! Only when no bucket takes writes does a writer wait for this: a write that has reached the origin need not wait for `max_stall`.
//!
//! Owns: what is copied and removed when. Owns not: the places (`origin`), the way into the buckets (`settle`).

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use super::ha::{Commit, Inner, WhenUnreachable};
use crate::failover::State;
use crate::journal::{Op, Record};
use crate::object::{Key, Object};
use crate::origin::{Origin, Pieces};

/// Copies at a time: small ones are bound by round trips, not by the pace.
const AT_ONCE: usize = 4;
/// Pause when nothing waits, and after a failure.
const IDLE: Duration = Duration::from_millis(200);
const FAILED_MIN: Duration = Duration::from_secs(1);
const FAILED_MAX: Duration = Duration::from_secs(60);
/// Tries of one copy before it is left out.
const TRIES: u32 = 5;
/// Between two looks for what may be removed.
const SWEEP: Duration = Duration::from_secs(1);
/// Pause before the origin is asked again to take a write that somebody waits for.
const AGAIN: Duration = Duration::from_secs(2);
/// One piece of content from wherever it is.
const PIECE_MAX: Duration = Duration::from_secs(30);

impl Inner {
    pub(super) fn start_backup(this: &Arc<Inner>) {
        let Some(origin) = this.options.origin.clone().filter(|origin| origin.takes_writes()) else { return };
        for _ in 0..AT_ONCE {
            let (inner, origin) = (this.clone(), origin.clone());
            this.rt.spawn(async move {
                loop {
                    match origin.next() {
                        Some((key, object)) => inner.copy_to_origin(&origin, &key, &object).await,
                        None => tokio::time::sleep(IDLE).await,
                    }
                }
            });
        }
        let inner = this.clone();
        this.rt.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                inner.sweep_origin(&origin).await;
            }
        });
    }

    /// A bucket has taken a write: it is to be copied, or to be removed there as well.
    pub(super) fn note_for_origin(&self, record: &Record, object: Option<&Object>) {
        let Some(origin) = self.options.origin.as_ref().filter(|origin| origin.takes_writes()) else { return };
        match (&record.op, object) {
            (Op::Put { .. }, Some(object)) if !origin.knows(&record.key, &object.token) => {
                origin.note(&record.key, object)
            }
            (Op::Delete { .. }, _) if origin.holds(&record.key) => {
                let (origin, key, rt) = (origin.clone(), record.key.clone(), &self.rt);
                rt.spawn(async move {
                    if let Err(error) = origin.remove(&key).await {
                        log::info!("{key}: not removed at the origin: {error}");
                    }
                });
            }
            _ => {}
        }
    }

    async fn copy_to_origin(self: &Arc<Inner>, origin: &Arc<Origin>, key: &Key, object: &Object) {
        let mut pause = FAILED_MIN;
        for _ in 0..TRIES {
            let pieces = self.pieces(origin, key, object, true);
            match origin.put(key, object, pieces).await {
                Ok(()) => return,
                Err(crate::origin::Error::Failed(why)) => log::info!("{key}: not copied to the origin yet: {why}"),
                Err(error) => return log::info!("{key}: not copied to the origin: {error}"),
            }
            // Overtaken meanwhile: the newer write is in the backlog itself.
            if self
                .journal
                .latest(key)
                .is_some_and(|record| self.object_of(&record).is_none_or(|now| !now.token.same(&object.token)))
            {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(FAILED_MAX);
        }
        log::warn!("{key}: not copied to the origin, given up");
    }

    /// The content of a version, piece by piece.
    fn pieces(self: &Arc<Inner>, origin: &Arc<Origin>, key: &Key, object: &Object, paced: bool) -> Pieces {
        let reader = Arc::new(self.open(key, object));
        let (inner, origin, size) = (self.clone(), origin.clone(), object.token.size);
        futures::stream::unfold(0, move |at| {
            let (inner, origin, reader) = (inner.clone(), origin.clone(), reader.clone());
            async move {
                if at >= size {
                    return None;
                }
                let len = (origin.pace.piece() as u64).min(size - at);
                if paced {
                    origin.pace.take(len).await;
                }
                let until = Instant::now() + PIECE_MAX;
                let piece = Inner::read(&inner, &reader, at, u32::try_from(len).unwrap_or(u32::MAX), until).await;
                let next = if piece.is_ok() { at + len } else { size };
                Some((piece.map_err(|error| error.to_string()), next))
            }
        })
        .boxed()
    }

    /// Ends when neither bucket can be reached and the origin has the write; without an origin, never.
    pub(super) async fn kept_elsewhere(this: &Arc<Inner>, record: &Record) {
        let wanted =
            this.options.commit == Commit::OneRegion || this.options.when_unreachable == WhenUnreachable::Journal;
        if !wanted || !this.options.origin.as_ref().is_some_and(|origin| origin.takes_writes()) {
            return std::future::pending().await;
        }
        let mut views = this.links.watch();
        loop {
            let state = views.borrow_and_update().state;
            if matches!(state, State::BothDown | State::LocalOutage) {
                if this.keep_at_origin(record).await {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            } else if views.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// No bucket takes writes: this one to the origin, at once and at full speed. False if that is not possible.
    pub(super) async fn keep_at_origin(self: &Arc<Inner>, record: &Record) -> bool {
        let Some(origin) = self.options.origin.clone().filter(|origin| origin.takes_writes()) else { return false };
        let Some(object) = self.object_of(record).filter(|_| !record.key.is_dir_marker()) else { return false };
        if origin.knows(&record.key, &object.token) {
            return true;
        }
        let pieces = self.pieces(&origin, &record.key, &object, false);
        match origin.put(&record.key, &object, pieces).await {
            Ok(()) => {
                log::warn!(
                    "{}: no bucket takes writes; the external origin has it, and the journal sends it later",
                    record.key
                );
                true
            }
            Err(error) => {
                log::warn!("{}: no bucket takes writes, and the origin did not either: {error}", record.key);
                false
            }
        }
    }

    /// Removes what is no longer hot. What the journal still has is not yet known to be in both buckets and stays.
    async fn sweep_origin(&self, origin: &Origin) {
        for (key, _) in origin.cooled() {
            if self.journal.latest(&key).is_some() {
                continue;
            }
            if let Err(error) = origin.remove(&key).await {
                log::info!("{key}: not removed at the origin yet: {error}");
                return;
            }
        }
    }
}
