//! One pool of memory for bodies on their way between the network and the disk.
//!
//! Read-ahead and parallel uploads would each take what they can get; together they must stay below one number, whatever
//! the number of open files. A task takes its share before it asks for bytes and gives it back by dropping the [`Share`].
//! Read-ahead only ever *tries* (no memory: no read-ahead); what a program waits for waits its turn.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The unit of the pool. Requests are rounded up to it.
const UNIT: u64 = 64 * 1024;

#[derive(Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    total: u32,
}

/// Memory in use; dropped, it is free again.
pub struct Share(#[allow(dead_code, reason = "held for its Drop")] OwnedSemaphorePermit);

impl Budget {
    /// A pool of `bytes`, at least one unit.
    pub fn new(bytes: u64) -> Budget {
        let total = u32::try_from((bytes / UNIT).max(1)).unwrap_or(u32::MAX >> 4);
        Budget { units: Arc::new(Semaphore::new(total as usize)), total }
    }

    fn units_for(&self, bytes: u64) -> u32 {
        // A request larger than the pool takes all of it rather than waiting for ever.
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.total)
    }

    /// Waits in line; `None` if the turn does not come in time.
    pub async fn take(&self, bytes: u64, until: Instant) -> Option<Share> {
        let permit = self.units.clone().acquire_many_owned(self.units_for(bytes));
        tokio::time::timeout_at(until, permit).await.ok()?.ok().map(Share)
    }

    /// Takes only what is free now.
    pub fn try_take(&self, bytes: u64) -> Option<Share> {
        self.units.clone().try_acquire_many_owned(self.units_for(bytes)).ok().map(Share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_is_missing_until_it_is_given_back() {
        let pool = Budget::new(4 * UNIT);
        let soon = || Instant::now() + Duration::from_secs(1);
        let first = pool.take(3 * UNIT, soon()).await;
        assert!(first.is_some());
        assert!(pool.try_take(2 * UNIT).is_none());
        assert!(pool.take(2 * UNIT, soon()).await.is_none(), "waited its second in vain");
        drop(first);
        assert!(pool.try_take(2 * UNIT).is_some());
        assert!(pool.take(100 * UNIT, soon()).await.is_some(), "a giant gets the whole pool");
    }
}
