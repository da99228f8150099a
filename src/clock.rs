//! Time and chance, and the one place where both can be replaced.
//!
//! What this program promises about outages shows only in histories of minutes and hours, with faults at the worst moment. So the same
//! code also runs in virtual time (`src/bin/sim`): one thread, tokio's paused clock, and everything that could make two runs differ comes
//! from a seed. That works only if nobody asks the operating system behind the simulation's back. Timers are tokio's anyway; the wall
//! clock, the boot clock, dice and work on other threads are asked for here.
//!
//! In a build without the feature `simulation`, which is the one that is released, each function is the obvious call and nothing else.
//!
//! Owns: the flag. Owns not: timers (tokio), the core's own time (`failover::Time`). Checked by the simulation: the same seed twice gives
//! the same history.

use std::time::{Duration, SystemTime};

use rand::Rng;
use rand::rngs::StdRng;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

#[cfg(feature = "simulation")]
pub use simulation::Simulation;
use simulation::replaced;

/// Virtual time and seeded chance of this thread.
struct Virtual {
    /// The moment that is [`SIMULATED_BEGIN`].
    begin: Instant,
    dice: StdRng,
}

/// Begin of every simulated history: 2026-01-01, in seconds since 1970.
const SIMULATED_BEGIN: Duration = Duration::from_secs(1_767_225_600);

#[cfg(not(feature = "simulation"))]
mod simulation {
    /// Nothing is ever replaced in this build.
    #[inline]
    pub(super) fn replaced<T>(_: impl FnOnce(&mut super::Virtual) -> T) -> Option<T> {
        None
    }
}

#[cfg(feature = "simulation")]
mod simulation {
    use std::cell::RefCell;
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tokio::time::Instant;

    use super::Virtual;

    thread_local! {
        static VIRTUAL: RefCell<Option<Virtual>> = const { RefCell::new(None) };
    }

    pub(super) fn replaced<T>(with: impl FnOnce(&mut Virtual) -> T) -> Option<T> {
        VIRTUAL.with_borrow_mut(|v| v.as_mut().map(with))
    }

    /// Everything on this thread is in virtual time as long as this lives.
    #[derive(Debug)]
    pub struct Simulation(());

    impl Simulation {
        /// Begins a history. Call it inside a runtime of one thread whose clock is paused, and never in a program that serves somebody.
        pub fn begin(seed: u64) -> Simulation {
            let begun = Virtual { begin: Instant::now(), dice: StdRng::seed_from_u64(seed) };
            VIRTUAL.with_borrow_mut(|v| *v = Some(begun));
            Simulation(())
        }

        /// Goes on in another runtime, at the same moment. Answers by how much its instants are later. Call it before anything else there.
        pub async fn go_on(&self, age: Duration) -> Duration {
            let begin = Instant::now();
            let moved = replaced(|v| begin.saturating_duration_since(std::mem::replace(&mut v.begin, begin)));
            tokio::time::advance(age).await;
            moved.unwrap_or_default()
        }
    }

    impl Drop for Simulation {
        fn drop(&mut self) {
            VIRTUAL.with_borrow_mut(|v| *v = None);
        }
    }
}

/// Is this thread in virtual time?
pub fn is_simulated() -> bool {
    replaced(|_| ()).is_some()
}

/// Since the beginning of the history, if this thread lives in one.
pub fn simulated_age() -> Option<Duration> {
    replaced(|v| Instant::now().saturating_duration_since(v.begin))
}

/// The wall clock.
pub fn wall() -> SystemTime {
    match simulated_age() {
        None => SystemTime::now(),
        Some(age) => SystemTime::UNIX_EPOCH + SIMULATED_BEGIN + age,
    }
}

/// How long ago a moment of the wall clock was; zero for one that is still to come.
pub fn age(of: SystemTime) -> Duration {
    wall().duration_since(of).unwrap_or_default()
}

/// The boot clock and the monotonic one; they differ by the time this host was suspended.
pub(crate) fn boot_and_monotonic() -> (Duration, Duration) {
    fn read(clock: ClockId) -> Duration {
        let now = clock_gettime(clock);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    }
    match simulated_age() {
        None => (read(ClockId::Boottime), read(ClockId::Monotonic)),
        Some(age) => (age, age),
    }
}

/// A number in `[0, 1)`.
pub(crate) fn chance() -> f64 {
    replaced(|v| v.dice.random()).unwrap_or_else(rand::random)
}

/// Any number.
pub(crate) fn any_number() -> u64 {
    replaced(|v| v.dice.random()).unwrap_or_else(rand::random)
}

/// Runs blocking work where it does not stop the runtime. In a simulation: here and now, because a second thread has no virtual time.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    match is_simulated() {
        false => tokio::task::spawn_blocking(work).await,
        true => Ok(work()),
    }
}

#[cfg(all(test, feature = "simulation"))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_simulation_replaces_time_and_chance_and_gives_them_back() {
        let once = |seed| {
            let _simulation = Simulation::begin(seed);
            assert!(is_simulated());
            (wall(), any_number(), chance())
        };
        let (first, again, other) = (once(7), once(7), once(8));
        assert_eq!(first, again);
        assert_ne!(first.1, other.1);
        assert!(!is_simulated());
        let simulation = Simulation::begin(1);
        let (begun, boot) = (wall(), boot_and_monotonic());
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(age(begun), Duration::from_secs(90));
        assert_eq!(boot_and_monotonic().0 - boot.0, Duration::from_secs(90));
        assert_eq!(off_thread(|| std::thread::current().id()).await.unwrap(), std::thread::current().id());
        drop(simulation);
        assert!(age(begun) < Duration::from_secs(90) || wall() > begun, "the real clock again");
        assert_ne!(off_thread(|| std::thread::current().id()).await.unwrap(), std::thread::current().id());
    }
}
