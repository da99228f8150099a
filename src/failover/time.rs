//! Time as the core knows it: nanoseconds since the driver started, suspended time included, never running back.
//!
//! The core never reads a clock. The driver hands every event in together with a [`Time`], so a test can put a year of failures into a
//! second and get the same answer twice.
//!
//! Owns: the type and the names of all deadlines. Owns not: clocks (`linkage/driver`).

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::Serialize;

use crate::object::{Class, Site};

/// A moment on the driver's boot clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    pub const ZERO: Time = Time(0);

    pub fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    pub fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, by: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    /// Stops at the beginning of time.
    fn sub(self, by: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", self.0 as f64 / 1e9)
    }
}

/// What the next deadline is for; `status` shows it and a log line can name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Timer {
    /// The next probe of a linkage is due.
    Probe(Site, Class),
    /// A suspicion becomes old enough to be confirmed.
    Confirm(Site, Class),
    /// A dead linkage may be probed again.
    DeadOver(Site, Class),
    /// Bad answers are frequent enough to call the linkage grey, or grey for long enough to call its writes dead.
    Grey(Site, Class),
    /// Throttling, refusals or a quarantine may have passed.
    Quiet(Site, Class),
    /// Silence everywhere becomes old enough to be called an outage.
    Outage,
    /// Writes were held back long enough for a graceful move.
    HoldOver,
    /// An operator who waits must be told something.
    ChoiceOver,
    /// The new epoch was not confirmed: ask again.
    EpochAgain,
    /// The recovered site has been good for long enough to go back to it.
    FailbackDue,
    /// The oldest switch leaves the hour that is counted.
    LatchOver,
}
