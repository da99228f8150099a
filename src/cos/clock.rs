//! The difference between this host's clock and the service's.
//!
//! COS refuses requests whose clock is more than 15 minutes off, and a laptop or a restored VM easily is. The offset is learnt only
//! from an answer that COS itself gave, and it changes signatures only, never the system's clock.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::sign::KeyTime;

/// Windows begin a minute in the past, so that a service clock slightly behind ours still accepts them (as the Python SDK does).
const EARLY_SECONDS: u64 = 60;
/// As long as in the Go and Java SDKs. The service checks it when the request arrives, so a long upload does not outlive it.
const VALID_SECONDS: u64 = 3600;
/// Smaller differences are left alone: they never cause a refusal, and `Date` has a resolution of a second (Node SDK's value).
const WORTH_CORRECTING: Duration = Duration::from_secs(30);

/// Shared by all clients of one mount.
#[derive(Debug, Default)]
pub struct ClockOffset {
    milliseconds: AtomicI64,
}

impl ClockOffset {
    pub fn new() -> ClockOffset {
        ClockOffset::default()
    }

    /// Service time minus our time; zero until an answer proved otherwise.
    pub fn milliseconds(&self) -> i64 {
        self.milliseconds.load(Ordering::Relaxed)
    }

    /// Now, as the service sees it.
    pub fn now(&self) -> SystemTime {
        Self::shifted(self.milliseconds())
    }

    fn shifted(offset: i64) -> SystemTime {
        let shift = Duration::from_millis(offset.unsigned_abs());
        let now = crate::clock::wall();
        let shifted = if offset < 0 { now.checked_sub(shift) } else { now.checked_add(shift) };
        shifted.unwrap_or(now)
    }

    /// The window that a request sent now is signed for.
    pub fn key_time(&self) -> KeyTime {
        let now = self.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        KeyTime { start: now.saturating_sub(EARLY_SECONDS), end: now + VALID_SECONDS }
    }

    /// Takes over the service's time from the answer to a request that was signed with the offset `used`. False if signing again would
    /// change nothing. Of many requests that are refused at once one corrects the offset, and all are worth another try.
    pub fn correct(&self, service: SystemTime, used: i64) -> bool {
        let mut offset = self.milliseconds();
        loop {
            let (ahead, difference) = match service.duration_since(Self::shifted(offset)) {
                Ok(d) => (true, d),
                Err(e) => (false, e.duration()),
            };
            if difference < WORTH_CORRECTING {
                return u128::from(offset.abs_diff(used)) >= WORTH_CORRECTING.as_millis();
            }
            let difference = i64::try_from(difference.as_millis()).unwrap_or(0);
            let corrected = offset.saturating_add(if ahead { difference } else { -difference });
            match self.milliseconds.compare_exchange(offset, corrected, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(meanwhile) => offset = meanwhile,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_follows_the_service_in_both_directions() {
        let clock = ClockOffset::new();
        assert!(!clock.correct(SystemTime::now() + Duration::from_secs(5), 0));
        assert_eq!(clock.milliseconds(), 0);
        assert!(clock.correct(SystemTime::now() + Duration::from_secs(7200), 0));
        assert!((7_199_000..=7_200_000).contains(&clock.milliseconds()));
        let known = clock.milliseconds();
        assert!(!clock.correct(SystemTime::now() + Duration::from_secs(7200), known), "already known");
        let late = SystemTime::now() + Duration::from_secs(7200);
        assert!(clock.correct(late, 0), "corrected while the request was under way");
        assert_eq!(clock.milliseconds(), known);
        assert!(clock.correct(SystemTime::now() - Duration::from_secs(7200), known));
        assert!((-7_201_000..=-7_199_000).contains(&clock.milliseconds()));
        let window = clock.key_time();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(window.contains(now - 7200) && !window.contains(now));
    }

    #[test]
    fn many_corrections_at_once_are_one() {
        for _ in 0..200 {
            let clock = ClockOffset::new();
            let service = SystemTime::now() + Duration::from_secs(7200);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| assert!(clock.correct(service, 0)));
                }
            });
            assert!((7_190_000..=7_200_000).contains(&clock.milliseconds()), "{}", clock.milliseconds());
        }
    }
}
