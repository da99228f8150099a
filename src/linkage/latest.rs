//! One value, its newest state, and whoever waits for the next.
//!
//! As `tokio::sync::watch`, with one difference: those who wait are woken in the order in which they began to wait. `watch` shuffles
//! them to spread load over threads, which makes a simulated history impossible to repeat.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The sending side is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no newer value will come")]
pub struct Closed;

#[derive(Debug)]
struct Slot<T> {
    value: T,
    version: u64,
    closed: bool,
}

#[derive(Debug)]
struct Shared<T> {
    slot: Mutex<Slot<T>>,
    changed: Notify,
}

/// The side that sets the value; there is one.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The side that looks and waits.
#[derive(Clone, Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T: Clone> Sender<T> {
    pub fn new(value: T) -> Sender<T> {
        let slot = Slot { value, version: 0, closed: false };
        Sender { shared: Arc::new(Shared { slot: Mutex::new(slot), changed: Notify::new() }) }
    }

    /// A new receiver; the present value counts as seen.
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = self.shared.slot.lock().version;
        Receiver { shared: Arc::clone(&self.shared), seen }
    }

    pub fn get(&self) -> T {
        self.shared.slot.lock().value.clone()
    }

    pub fn send(&self, value: T) {
        {
            let mut slot = self.shared.slot.lock();
            slot.value = value;
            slot.version += 1;
        }
        self.shared.changed.notify_waiters();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.slot.lock().closed = true;
        self.shared.changed.notify_waiters();
    }
}

impl<T: Clone> Receiver<T> {
    pub fn get(&self) -> T {
        self.shared.slot.lock().value.clone()
    }

    /// The present value; [`Receiver::changed`] waits for a newer one.
    pub fn borrow_and_update(&mut self) -> T {
        let slot = self.shared.slot.lock();
        self.seen = slot.version;
        slot.value.clone()
    }

    /// Waits for a value that was not seen yet.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // Made before the look: a change between the two is not missed.
            let changed = self.shared.changed.notified();
            {
                let slot = self.shared.slot.lock();
                if slot.version != self.seen {
                    self.seen = slot.version;
                    return Ok(());
                }
                if slot.closed {
                    return Err(Closed);
                }
            }
            changed.await;
        }
    }

    /// Waits until the value is as wished.
    pub async fn wait_for(&mut self, wished: impl Fn(&T) -> bool) -> Result<T, Closed> {
        loop {
            let value = self.borrow_and_update();
            if wished(&value) {
                return Ok(value);
            }
            self.changed().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiters_wake_in_their_order_and_nothing_is_missed() {
        let sender = Sender::new(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..40)
            .map(|n| {
                let (mut receiver, order) = (sender.subscribe(), Arc::clone(&order));
                tokio::spawn(async move {
                    receiver.changed().await.unwrap();
                    order.lock().push((n, receiver.borrow_and_update()));
                    receiver.changed().await
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let late = sender.subscribe();
        sender.send(1);
        tokio::task::yield_now().await;
        assert_eq!(*order.lock(), (0..40).map(|n| (n, 1)).collect::<Vec<_>>());
        let mut other = late.clone();
        assert_eq!(other.changed().await, Ok(()), "sent before it began to wait");
        assert_eq!(other.wait_for(|v| *v == 1).await, Ok(1));
        drop(sender);
        for task in tasks {
            assert_eq!(task.await.unwrap(), Err(Closed));
        }
        assert_eq!(other.changed().await, Err(Closed));
        assert_eq!(late.get(), 1);
    }
}
