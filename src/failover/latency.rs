//! How long a linkage usually takes to answer, and from that: when is silence suspicious?
//!
//! `T_a`, the overdue limit, must follow the linkage: 300 ms are an eternity inside a region and nothing across a continent. It is a
//! multiple of the p99 of the last hour. Two things it must not do: learn from the very trouble it is to detect, and jump around on
//! a few samples. So time is cut into slots of five minutes, and the limit changes only when a slot closes; a slow spell shorter than
//! that leaves the limit alone, and by then the ratio rule has acted.
//!
//! Owns: the histogram and the limit. Numbers: quarter octaves from 1 ms on, so a quantile is at most 19 % too high; 1.3 KiB a slot.

use std::collections::VecDeque;
use std::time::Duration;

use super::time::Time;
use super::tuning::Tuning;
use crate::object::Class;

/// 64 quarter octaves: 1 ms to 65 s.
const BUCKETS: usize = 64;
const SLOT: Duration = Duration::from_secs(300);
/// The first slot of a mount's life is short, so that the limit fits the network soon: until then a region that turns slow is not told from one
/// that always was. Five seconds were tried: too few to know the jitter, and a simulated answer storm moved the master.
const FIRST_SLOT: Duration = Duration::from_secs(60);
/// One hour.
const SLOTS_KEPT: usize = 12;
/// A slot with fewer samples says nothing about a p99 and goes on filling.
const SLOT_SAMPLES_MIN: u64 = 20;

/// More is not given to a slow linkage: a program waits meanwhile.
const SLACK_MAX: Duration = Duration::from_millis(500);

type Slot = [u32; BUCKETS];

#[derive(Clone, Debug)]
pub(super) struct Latency {
    class: Class,
    open: Slot,
    opened: Time,
    closed: VecDeque<Slot>,
    /// Open and closed slots together.
    sum: Sum,
    /// Samples in the open slot.
    samples: u64,
    limit: Duration,
}

fn bucket(d: Duration) -> usize {
    let ms = d.as_secs_f64() * 1e3;
    if ms <= 1.0 { 0 } else { ((ms.log2() * 4.0).ceil() as usize).min(BUCKETS - 1) }
}

/// Upper edge of a bucket.
fn edge(bucket: usize) -> Duration {
    Duration::from_secs_f64((bucket as f64 / 4.0).exp2() / 1e3)
}

/// Samples of several slots, added up.
#[derive(Clone, Debug)]
struct Sum {
    counts: [u64; BUCKETS],
    total: u64,
}

impl Sum {
    const EMPTY: Sum = Sum { counts: [0; BUCKETS], total: 0 };

    fn remove(&mut self, slot: &Slot) {
        for (sum, n) in self.counts.iter_mut().zip(slot) {
            *sum -= u64::from(*n);
            self.total -= u64::from(*n);
        }
    }

    fn quantile(&self, q: f64) -> Option<Duration> {
        if self.total == 0 {
            return None;
        }
        let rank = ((self.total as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (b, n) in self.counts.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return Some(edge(b));
            }
        }
        Some(edge(BUCKETS - 1))
    }
}

impl Latency {
    pub(super) fn new(class: Class, now: Time, tuning: &Tuning) -> Latency {
        let limit = match class {
            Class::Read => tuning.read_overdue_initial.clamp(tuning.read_overdue_min, tuning.read_overdue_max),
            Class::Write => tuning.write_overdue_initial.clamp(tuning.write_overdue_min, tuning.write_overdue_max),
        };
        Latency { class, open: [0; BUCKETS], opened: now, closed: VecDeque::new(), sum: Sum::EMPTY, samples: 0, limit }
    }

    pub(super) fn add(&mut self, now: Time, first_byte: Duration, tuning: &Tuning) {
        let slot = if self.closed.is_empty() { FIRST_SLOT } else { SLOT };
        if now.since(self.opened) >= slot && self.samples >= SLOT_SAMPLES_MIN {
            self.closed.push_back(std::mem::replace(&mut self.open, [0; BUCKETS]));
            self.samples = 0;
            if self.closed.len() > SLOTS_KEPT
                && let Some(oldest) = self.closed.pop_front()
            {
                self.sum.remove(&oldest);
            }
            self.opened = now;
            // The open slot is empty now, so this is the p99 of the closed ones.
            if let Some(p99) = self.sum.quantile(0.99) {
                self.limit = match self.class {
                    Class::Read => (p99 * 4).clamp(tuning.read_overdue_min, tuning.read_overdue_max),
                    Class::Write => (p99 * 6).clamp(tuning.write_overdue_min, tuning.write_overdue_max),
                };
            }
        }
        let b = bucket(first_byte);
        // Not in a mount's life: 2^32 answers in five minutes.
        if let Some(n) = self.open[b].checked_add(1) {
            self.open[b] = n;
            self.samples += 1;
            self.sum.counts[b] += 1;
            self.sum.total += 1;
        }
    }

    /// `T_a`.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// How much later than over the quickest network an answer may come here and still be nothing unusual. Zero until that is known.
    pub(super) fn slack(&self, tuning: &Tuning) -> Duration {
        let least = match self.class {
            Class::Read => tuning.read_overdue_min,
            Class::Write => tuning.write_overdue_min,
        };
        match self.closed.is_empty() {
            true => Duration::ZERO,
            false => self.limit.saturating_sub(least).min(SLACK_MAX),
        }
    }

    pub(super) fn quantile(&self, q: f64) -> Option<Duration> {
        self.sum.quantile(q)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(class: Class, ms: u64, minutes: u64) -> Latency {
        let tuning = Tuning::default();
        let mut latency = Latency::new(class, Time::ZERO, &tuning);
        for s in 0..minutes * 60 {
            latency.add(Time::ZERO + Duration::from_secs(s), Duration::from_millis(ms), &tuning);
        }
        latency
    }

    #[test]
    fn limit_follows_the_network_within_its_clamps() {
        let rows = [
            (Class::Read, 10, 300..=300),
            (Class::Read, 150, 600..=720),
            (Class::Read, 900, 2000..=2000),
            (Class::Write, 10, 800..=800),
            (Class::Write, 200, 1200..=1440),
            (Class::Write, 3000, 4000..=4000),
        ];
        for (class, ms, expect) in rows {
            let limit = fed(class, ms, 10).limit().as_millis();
            assert!(expect.contains(&limit), "{class} at {ms} ms: {limit}");
        }
        assert_eq!(fed(Class::Read, 10, 0).limit(), Tuning::default().read_overdue_initial);
    }

    #[test]
    fn only_a_linkage_known_to_be_slow_gets_slack() {
        let tuning = Tuning::default();
        let rows = [
            (Class::Read, 900, 0, 0..=0),
            (Class::Read, 10, 10, 0..=0),
            (Class::Read, 150, 10, 300..=420),
            (Class::Read, 900, 10, 500..=500),
            (Class::Write, 100, 10, 0..=0),
            (Class::Write, 200, 10, 400..=500),
        ];
        for (class, ms, minutes, expect) in rows {
            let slack = fed(class, ms, minutes).slack(&tuning).as_millis();
            assert!(expect.contains(&slack), "{class} at {ms} ms: {slack}");
        }
    }

    #[test]
    fn a_slow_spell_does_not_teach_the_limit_before_the_slot_closes() {
        let tuning = Tuning::default();
        let mut latency = fed(Class::Read, 30, 7);
        let before = latency.limit();
        for s in 0..60 {
            latency.add(Time::ZERO + Duration::from_secs(7 * 60 + s), Duration::from_secs(3), &tuning);
            assert!(latency.limit() == before);
        }
    }

    #[test]
    fn quantiles_round_up_by_less_than_a_fifth() {
        for ms in [1, 7, 33, 150, 999, 20_000] {
            let p = fed(Class::Read, ms, 1).quantile(0.5).expect("samples").as_secs_f64() * 1e3;
            assert!(p >= ms as f64 * 0.999 && p <= ms as f64 * 1.2, "{ms}: {p}");
        }
    }
}
