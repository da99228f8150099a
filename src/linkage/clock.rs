//! The only clock of failover, and its two lies.
//!
//! Time for the core is the boot clock, which counts time spent suspended. But a host that slept, or a process that was stopped, sees every
//! request "unanswered" for the whole time. Both are recognised and told to the core as a jump: suspension, because the boot clock runs on
//! and the monotonic clock does not; a stopped process (SIGSTOP, a paused machine), because the driver wakes up long after it wanted to.

use std::time::Duration;

use crate::clock::boot_and_monotonic;
use crate::failover::Time;

/// Below this, clocks merely differ by rounding and scheduling.
const SUSPENDED_MIN: Duration = Duration::from_millis(200);
/// A healthy but loaded host wakes the driver later than planned by less than this.
const LATE_MAX: Duration = Duration::from_secs(1);

/// Boot time since the driver began.
#[derive(Debug)]
pub(super) struct Clock {
    boot: Duration,
    /// Boot minus monotonic: grows by every suspension.
    asleep: Duration,
}

impl Clock {
    pub fn start() -> Clock {
        let (boot, monotonic) = boot_and_monotonic();
        Clock { boot, asleep: boot.saturating_sub(monotonic) }
    }

    pub fn now(&self) -> Time {
        Time::ZERO + boot_and_monotonic().0.saturating_sub(self.boot)
    }

    /// Was this host suspended, or this process stopped, since the last call? `planned`: when the caller meant to wake up at the latest.
    pub fn jump(&mut self, planned: Time) -> Option<Duration> {
        let (boot, monotonic) = boot_and_monotonic();
        let asleep = boot.saturating_sub(monotonic);
        let late = (Time::ZERO + boot.saturating_sub(self.boot)).since(planned);
        let suspended = asleep.saturating_sub(self.asleep);
        self.asleep = asleep;
        jumped(suspended, late)
    }
}

fn jumped(suspended: Duration, late: Duration) -> Option<Duration> {
    (suspended >= SUSPENDED_MIN || late >= LATE_MAX).then(|| suspended.max(late))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_and_stops_are_jumps_and_load_is_not() {
        let ms = Duration::from_millis;
        let rows = [
            (ms(0), ms(0), None),
            (ms(20), ms(400), None),
            (ms(60_000), ms(60_010), Some(ms(60_010))),
            (ms(250), ms(0), Some(ms(250))),
            (ms(0), ms(1500), Some(ms(1500))),
        ];
        for (suspended, late, expect) in rows {
            assert_eq!(jumped(suspended, late), expect, "{suspended:?} {late:?}");
        }
        let mut clock = Clock::start();
        assert_eq!(clock.jump(clock.now()), None);
    }
}
