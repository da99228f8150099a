//! Who may change which name now.
//!
//! Two requests that change the same key must not overtake each other on the network, and a directory must not be moved while
//! something is written below it. An operation therefore asks once, for everything it will change, and waits in a fair queue
//! until nobody before it asked for an overlapping part of the tree. Because nobody asks twice, nobody can wait in a circle.
//!
//! This is an order of requests, not a lock on data: the data has its own short locks, and a turn ends by its deadline.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::{Error, Result};
use super::name;

/// A part of the tree, by path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Claim {
    Name(String),
    /// A directory and everything below it.
    Tree(String),
}

impl Claim {
    fn overlaps(&self, other: &Claim) -> bool {
        match (self, other) {
            (Claim::Name(a), Claim::Name(b)) => a == b,
            (Claim::Tree(a), Claim::Tree(b)) => name::below(a, b).is_some() || name::below(b, a).is_some(),
            (Claim::Tree(tree), Claim::Name(name)) | (Claim::Name(name), Claim::Tree(tree)) => {
                name::below(name, tree).is_some()
            }
        }
    }
}

#[derive(Default)]
pub struct Turns {
    queue: Mutex<Queue>,
    moved: Notify,
}

#[derive(Default)]
struct Queue {
    next: u64,
    /// In order of arrival; the ones that overlap nobody before them have the turn.
    asked: Vec<(u64, Vec<Claim>)>,
}

impl Queue {
    fn is_free(&self, ticket: u64) -> bool {
        let Some(at) = self.asked.iter().position(|(t, _)| *t == ticket) else { return false };
        let mine = &self.asked[at].1;
        !self.asked[..at].iter().any(|(_, theirs)| theirs.iter().any(|t| mine.iter().any(|m| m.overlaps(t))))
    }
}

/// Held while the names are being changed; dropping it lets the next one on.
pub struct Turn {
    turns: Arc<Turns>,
    ticket: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.queue.lock().asked.retain(|(ticket, _)| *ticket != self.ticket);
        self.turns.moved.notify_waiters();
    }
}

impl Turns {
    pub async fn take(self: &Arc<Turns>, claims: Vec<Claim>, until: Instant) -> Result<Turn> {
        let turn = {
            let mut queue = self.queue.lock();
            let ticket = queue.next;
            queue.next += 1;
            queue.asked.push((ticket, claims));
            Turn { turns: self.clone(), ticket }
        };
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            // Registered before the look, so that a turn ending in between is not missed.
            moved.as_mut().enable();
            if self.queue.lock().is_free(turn.ticket) {
                return Ok(turn);
            }
            if tokio::time::timeout_at(until, moved).await.is_err() {
                return Err(Error::TimedOut("an earlier change of the same name is still under way"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn overlap_table() {
        let name = |s: &str| Claim::Name(s.into());
        let tree = |s: &str| Claim::Tree(s.into());
        let rows = [
            (name("a"), name("a"), true),
            (name("a"), name("ab"), false),
            (tree("a"), name("a/b"), true),
            (tree("a"), name("ab"), false),
            (tree("a"), name("a"), true),
            (tree("a/b"), name("a"), false),
            (tree("a/b"), tree("a"), true),
            (tree(""), name("x"), true),
            (tree("a"), tree("b"), false),
        ];
        for (a, b, expect) in rows {
            assert_eq!(a.overlaps(&b), expect, "{a:?} {b:?}");
            assert_eq!(b.overlaps(&a), expect, "{b:?} {a:?}");
        }
    }

    #[tokio::test]
    async fn turns_are_fair_and_end_by_their_deadline() {
        let turns = Arc::new(Turns::default());
        let soon = || Instant::now() + Duration::from_millis(30);
        let far = || Instant::now() + Duration::from_secs(30);
        let first = turns.take(vec![Claim::Name("d/x".into())], far()).await.expect("free");
        let beside = turns.take(vec![Claim::Name("d/y".into())], far()).await.expect("no overlap");
        assert!(turns.take(vec![Claim::Tree("d".into())], soon()).await.is_err(), "x and y are busy");
        let mover = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(vec![Claim::Tree("d".into())], far()).await }
        });
        tokio::task::yield_now().await;
        assert!(turns.take(vec![Claim::Name("d/z".into())], soon()).await.is_err(), "the mover came first");
        drop(first);
        drop(beside);
        let moving = mover.await.expect("no panic").expect("now free");
        drop(moving);
        turns.take(vec![Claim::Name("d/z".into())], far()).await.expect("free again");
    }
}
