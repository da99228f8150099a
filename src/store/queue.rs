//! Which keys have something to send, and which worker has which.
//!
//! During an outage there may be a hundred thousand unfinished writes; a task for each would cost more memory than the mount may
//! have. So a fixed number of workers takes keys from here. A key is with one worker at most; if it gets new work meanwhile, it
//! is handed out once more. A key that failed rests for a while, and any change in the world ends the rest of all.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::object::Key;

#[derive(Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    work: Notify,
}

#[derive(Default)]
struct Inner {
    ready: VecDeque<Key>,
    resting: BinaryHeap<Reverse<(Instant, Key)>>,
    places: HashMap<Key, Place>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Ready,
    Resting,
    /// With a worker; `again`: there is new work for it.
    Taken {
        again: bool,
    },
}

impl Queue {
    /// There is (perhaps) something to do for this key.
    pub(super) fn add(&self, key: &Key) {
        let mut inner = self.inner.lock();
        match inner.places.get_mut(key) {
            Some(Place::Ready) => return,
            Some(Place::Taken { again }) => {
                *again = true;
                return;
            }
            // The entry among the resting stays and is skipped when its time comes.
            Some(place @ Place::Resting) => *place = Place::Ready,
            None => {
                inner.places.insert(key.clone(), Place::Ready);
            }
        }
        inner.ready.push_back(key.clone());
        drop(inner);
        self.work.notify_one();
    }

    /// Ends all rests.
    pub(super) fn wake_all(&self) {
        let mut inner = self.inner.lock();
        let resting = std::mem::take(&mut inner.resting);
        for Reverse((_, key)) in resting {
            inner.wake(key);
        }
        let ready = inner.ready.len();
        drop(inner);
        for _ in 0..ready.min(super::settle::CARRIED_AT_ONCE) {
            self.work.notify_one();
        }
    }

    /// The next key to work on; waits for one.
    pub(super) async fn take(&self) -> Key {
        loop {
            let due = {
                let mut inner = self.inner.lock();
                let now = Instant::now();
                while let Some(Reverse((at, _))) = inner.resting.peek()
                    && *at <= now
                {
                    if let Some(Reverse((_, key))) = inner.resting.pop() {
                        inner.wake(key);
                    }
                }
                if let Some(key) = inner.ready.pop_front() {
                    inner.places.insert(key.clone(), Place::Taken { again: false });
                    if !inner.ready.is_empty() {
                        self.work.notify_one();
                    }
                    return key;
                }
                inner.resting.peek().map(|Reverse((at, _))| *at)
            };
            match due {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, self.work.notified()).await;
                }
                None => self.work.notified().await,
            }
        }
    }

    /// The worker is through with a key; `rest`: it has to be tried again then.
    pub(super) fn done(&self, key: Key, rest: Option<Instant>) {
        let mut inner = self.inner.lock();
        let again = inner.places.get(&key) == Some(&Place::Taken { again: true });
        match rest {
            _ if again => {
                inner.places.insert(key.clone(), Place::Ready);
                inner.ready.push_back(key);
            }
            Some(at) => {
                inner.places.insert(key.clone(), Place::Resting);
                inner.resting.push(Reverse((at, key)));
            }
            None => {
                inner.places.remove(&key);
                return;
            }
        }
        drop(inner);
        // Also for a rest: a waiting worker has to learn its end.
        self.work.notify_one();
    }
}

impl Inner {
    fn wake(&mut self, key: Key) {
        if let Some(place @ Place::Resting) = self.places.get_mut(&key) {
            *place = Place::Ready;
            self.ready.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    async fn nothing(queue: &Queue) -> bool {
        tokio::time::timeout(Duration::from_millis(10), queue.take()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_with_one_worker_and_comes_back_if_it_got_new_work() {
        let queue = Queue::default();
        queue.add(&key("a"));
        queue.add(&key("a"));
        assert_eq!(queue.take().await, key("a"));
        assert!(nothing(&queue).await, "added twice, handed out once");
        queue.add(&key("a"));
        assert!(nothing(&queue).await, "still with its worker");
        queue.done(key("a"), None);
        assert_eq!(queue.take().await, key("a"));
        queue.done(key("a"), None);
        assert!(nothing(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn rests_end_by_time_by_new_work_and_by_a_change_in_the_world() {
        let queue = Queue::default();
        let rest = || Some(Instant::now() + Duration::from_secs(5));
        for way in ["time", "work", "world"] {
            queue.add(&key("a"));
            queue.take().await;
            queue.done(key("a"), rest());
            assert!(nothing(&queue).await, "{way}");
            match way {
                "work" => queue.add(&key("a")),
                "world" => queue.wake_all(),
                _ => {}
            }
            assert_eq!(queue.take().await, key("a"), "{way}");
            queue.done(key("a"), None);
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert!(nothing(&queue).await, "{way}: no second time");
        }
    }
}
