//! One try of one request: how long each phase may take, and how far it got.
//!
//! A request that fails is harmless if nothing of it was sent, and ambiguous if all of it was. A server that does not answer
//! can only be blamed from the moment it has the whole request. Both need to know when the last byte left, so every request
//! carries a [`Progress`] that the sending side updates.
//!
//! "Sent" means handed to the connection. A few hundred KiB can still lie in buffers of hyper and more in the kernel's; on a very
//! slow line that time counts towards the first-byte deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Longest silence in each phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadlines {
    /// From the start until a connection, with TLS, takes the request.
    pub connect: Duration,
    /// From the last byte of the request to the head of the answer.
    pub first_byte: Duration,
    /// Between two pieces of a body, in either direction.
    pub progress: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(10),
            progress: Duration::from_secs(5),
        }
    }
}

/// How much of a request was handed to the connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Sent {
    /// Nothing: the request had no effect.
    No,
    Partly,
    /// Everything: without an answer, its effect is unknown.
    Fully,
}

/// Observer of one request; clones watch the same one.
#[derive(Clone, Debug)]
pub struct Progress {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    started: Instant,
    phase: watch::Sender<Sent>,
    /// Microseconds after `started` of the last sign of life of the sending side.
    moved: AtomicU64,
    /// Microseconds from the last byte sent to the head of the answer, plus one; 0 before that.
    waited: AtomicU64,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}

impl Progress {
    pub fn new() -> Progress {
        let (phase, _) = watch::channel(Sent::No);
        Progress {
            inner: Arc::new(Inner {
                started: Instant::now(),
                phase,
                moved: AtomicU64::new(0),
                waited: AtomicU64::new(0),
            }),
        }
    }

    /// Resolves when the last byte of the request was handed to the connection; never if that does not happen.
    pub async fn sent_all(&self) {
        let mut phase = self.inner.phase.subscribe();
        // The sender lives in `self`, so the channel cannot close while we wait.
        let _ = phase.wait_for(|p| *p == Sent::Fully).await;
    }

    pub fn body_sent(&self) -> Sent {
        *self.inner.phase.borrow()
    }

    /// From the last byte sent to the head of the answer; `None` as long as there is none.
    pub fn waited(&self) -> Option<Duration> {
        self.inner.waited.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_micros)
    }

    /// The head of the answer is here.
    pub(super) fn heard(&self) {
        let micros = u64::try_from(self.last_move().elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        self.inner.waited.store(micros + 1, Ordering::Relaxed);
    }

    pub(super) fn reset(&self) {
        self.touch();
        self.inner.waited.store(0, Ordering::Relaxed);
        self.inner.phase.send_replace(Sent::No);
    }

    pub(super) fn touch(&self) {
        let micros = self.inner.started.elapsed().as_micros();
        self.inner.moved.store(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Notes a new phase; going back is not possible.
    pub(super) fn reach(&self, phase: Sent) {
        self.touch();
        self.inner.phase.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
    }

    fn last_move(&self) -> Instant {
        self.inner.started + Duration::from_micros(self.inner.moved.load(Ordering::Relaxed))
    }

    /// Resolves when the current phase made no progress for as long as `deadlines` allow; returns that phase.
    pub(super) async fn silent(&self, deadlines: &Deadlines) -> Sent {
        let mut watch = self.inner.phase.subscribe();
        loop {
            let phase = *watch.borrow_and_update();
            let limit = match phase {
                Sent::No => deadlines.connect,
                Sent::Partly => deadlines.progress,
                Sent::Fully => deadlines.first_byte,
            };
            let due = self.last_move() + limit;
            tokio::select! {
                biased;
                Ok(()) = watch.changed() => {}
                () = tokio::time::sleep_until(due) => {
                    if self.last_move() + limit <= Instant::now() && *watch.borrow() == phase {
                        return phase;
                    }
                }
            }
        }
    }
}

/// What a caller says about one try.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    pub deadlines: Deadlines,
    pub progress: &'a Progress,
    /// Do not use a connection that an earlier request left open, nor leave one.
    pub fresh_connection: bool,
    /// Go to the bucket's other domain than ordinary requests: `tencentcos.cn`, as long as `myqcloud.com` is well.
    pub alternate_domain: bool,
}

impl<'a> Attempt<'a> {
    pub fn new(progress: &'a Progress) -> Attempt<'a> {
        Attempt { deadlines: Deadlines::default(), progress, fresh_connection: false, alternate_domain: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_own_limit() {
        let deadlines = Deadlines {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(10),
            progress: Duration::from_secs(5),
        };
        let silent_after = async |progress: &Progress| {
            let start = Instant::now();
            (progress.silent(&deadlines).await, start.elapsed().as_secs())
        };
        let progress = Progress::new();
        assert_eq!(silent_after(&progress).await, (Sent::No, 2));
        progress.reach(Sent::Partly);
        let feeder = progress.clone();
        let feed = tokio::spawn(async move {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(4)).await;
                feeder.touch();
            }
        });
        assert_eq!(silent_after(&progress).await, (Sent::Partly, 21), "bytes every 4 s keep it alive");
        feed.await.unwrap();
        progress.reach(Sent::Fully);
        progress.reach(Sent::Partly);
        assert_eq!(progress.body_sent(), Sent::Fully, "no way back");
        assert_eq!(silent_after(&progress).await, (Sent::Fully, 10));
        progress.sent_all().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_limit_takes_over_at_once() {
        let deadlines = Deadlines {
            connect: Duration::from_secs(60),
            first_byte: Duration::from_millis(300),
            progress: Duration::from_secs(5),
        };
        let progress = Progress::new();
        let other = progress.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            other.reach(Sent::Fully);
        });
        let start = Instant::now();
        assert_eq!(progress.silent(&deadlines).await, Sent::Fully);
        assert!(start.elapsed() < Duration::from_millis(1400));
    }
}
