//! When is a condition an alarm, and when is it over? Pure: a moment and what holds then in, what to tell out.
//!
//! A condition that comes and goes is *one* alarm as long as its breaks are shorter than `clear_after`. Whoever flaps more slowly than that gets
//! longer and longer breaks demanded: each further alarm of a kind within an hour doubles the time, up to half an hour. So a kind of alarm
//! tells at most a handful of pairs an hour, whatever happens.
//!
//! Owns: hysteresis and rate. Owns not: the conditions (`watch`), delivery.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Event, Phase, Sighting};

const HOUR: Duration = Duration::from_secs(3600);
/// Longest time that a cause must have been gone.
const CLEAR_MAX: Duration = Duration::from_secs(1800);
/// A moment ([`Event::is_moment`]) stands this many times longer than a state.
const MOMENT_FACTOR: u32 = 10;

/// What is to be told.
#[derive(Clone, PartialEq, Debug)]
pub struct Told {
    pub event: Event,
    pub phase: Phase,
    /// Counts the alarms of this kind.
    pub number: u64,
    pub at: Duration,
    pub since: Duration,
    pub times: u64,
    pub summary: String,
    pub evidence: Value,
}

/// An alarm that stands.
#[derive(Clone, PartialEq, Debug)]
pub struct Active {
    pub event: Event,
    pub summary: String,
    pub standing: Duration,
}

/// One kind of alarm.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kind {
    /// Since when the condition has held without a break.
    holds_since: Option<Duration>,
    raised: Option<Raised>,
    /// When the last alarms of this kind were raised.
    lately: VecDeque<Duration>,
    number: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Raised {
    since: Duration,
    /// When the condition held last.
    seen: Duration,
    times: u64,
    summary: String,
    evidence: Value,
}

/// All kinds of alarm of one mount.
#[derive(Clone, Debug)]
pub struct Desk {
    clear_after: Duration,
    kinds: BTreeMap<Event, Kind>,
}

impl Desk {
    pub fn new(clear_after: Duration) -> Desk {
        Desk { clear_after, kinds: BTreeMap::new() }
    }

    /// For [`Desk::resume`]: by the names of the alarms.
    pub fn save(&self) -> Value {
        let kinds: BTreeMap<&str, &Kind> = self.kinds.iter().map(|(event, kind)| (event.name(), kind)).collect();
        // Durations, numbers and texts: nothing in it can fail.
        serde_json::to_value(kinds).unwrap_or_default()
    }

    /// Goes on where another process ended. Alarms of a name that this program does not know are forgotten.
    pub fn resume(&mut self, saved: Value) -> Result<(), String> {
        let kinds: BTreeMap<String, Kind> = serde_json::from_value(saved).map_err(|error| error.to_string())?;
        let known = |name: &str| Event::ALL.iter().find(|event| event.name() == name).copied();
        self.kinds = kinds.into_iter().filter_map(|(name, kind)| Some((known(&name)?, kind))).collect();
        Ok(())
    }

    pub fn clear_after(&mut self, clear_after: Duration) {
        self.clear_after = clear_after;
    }

    /// `now` never runs back; of two sightings of one kind the first counts.
    pub fn step(&mut self, now: Duration, sightings: &[Sighting]) -> Vec<Told> {
        let mut told = Vec::new();
        for event in Event::ALL {
            let sighting = sightings.iter().find(|s| s.event == *event);
            let kind = match (self.kinds.get_mut(event), sighting) {
                (Some(kind), _) => kind,
                (None, Some(_)) => self.kinds.entry(*event).or_default(),
                (None, None) => continue,
            };
            told.extend(kind.step(*event, now, sighting, self.clear_after));
        }
        told
    }

    pub fn active(&self, now: Duration) -> Vec<Active> {
        let mut active: Vec<Active> = self
            .kinds
            .iter()
            .filter_map(|(event, kind)| {
                let raised = kind.raised.as_ref()?;
                Some(Active {
                    event: *event,
                    summary: raised.summary.clone(),
                    standing: now.saturating_sub(raised.since),
                })
            })
            .collect();
        active.sort_by_key(|alarm| std::cmp::Reverse(alarm.standing));
        active
    }
}

impl Kind {
    fn step(
        &mut self,
        event: Event,
        now: Duration,
        sighting: Option<&Sighting>,
        clear_after: Duration,
    ) -> Option<Told> {
        let Some(sighting) = sighting else {
            self.holds_since = None;
            return self.clear(event, now, clear_after);
        };
        let fresh = self.holds_since.is_none();
        let since = *self.holds_since.get_or_insert(now);
        if let Some(raised) = &mut self.raised {
            raised.times += u64::from(fresh);
            raised.seen = now;
            raised.summary.clone_from(&sighting.summary);
            return None;
        }
        if now - since < event.raise_after() {
            return None;
        }
        self.number += 1;
        self.lately.push_back(now);
        while self.lately.front().is_some_and(|at| now - *at > HOUR) {
            self.lately.pop_front();
        }
        let (summary, evidence) = (sighting.summary.clone(), sighting.evidence.clone());
        self.raised =
            Some(Raised { since: now, seen: now, times: 1, summary: summary.clone(), evidence: evidence.clone() });
        Some(Told {
            event,
            phase: Phase::Raised,
            number: self.number,
            at: now,
            since: now,
            times: 1,
            summary,
            evidence,
        })
    }

    fn clear(&mut self, event: Event, now: Duration, clear_after: Duration) -> Option<Told> {
        let raised = self.raised.as_ref()?;
        let doublings = u32::try_from(self.lately.len().saturating_sub(1)).unwrap_or(u32::MAX).min(10);
        let base = if event.is_moment() { clear_after * MOMENT_FACTOR } else { clear_after };
        if now - raised.seen < (base * 2u32.pow(doublings)).min(CLEAR_MAX.max(base)) {
            return None;
        }
        let Raised { since, times, summary, evidence, .. } = self.raised.take()?;
        Some(Told { event, phase: Phase::Cleared, number: self.number, at: now, since, times, summary, evidence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOLD: Duration = Duration::from_secs(30);

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn see(event: Event) -> Vec<Sighting> {
        vec![Sighting::new(event, "it is so", Value::Null)]
    }

    /// Runs seconds 0..n; `holds` says when the condition is seen. Returns when what was told.
    fn run(event: Event, n: u64, holds: impl Fn(u64) -> bool) -> Vec<(u64, Phase, u64)> {
        let mut desk = Desk::new(HOLD);
        let mut out = Vec::new();
        for second in 0..n {
            let sightings = if holds(second) { see(event) } else { Vec::new() };
            out.extend(desk.step(secs(second), &sightings).into_iter().map(|t| (second, t.phase, t.times)));
        }
        out
    }

    use Phase::{Cleared, Raised};

    #[test]
    fn rules_row_by_row() {
        type Row = (&'static str, Event, u64, fn(u64) -> bool, Vec<(u64, Phase, u64)>);
        let rows: Vec<Row> = vec![
            ("nothing", Event::Switch, 100, |_| false, vec![]),
            ("one outage", Event::Switch, 100, |s| (5..20).contains(&s), vec![(5, Raised, 1), (49, Cleared, 1)]),
            ("it never ends", Event::Switch, 100, |s| s >= 5, vec![(5, Raised, 1)]),
            (
                "flapping is one alarm",
                Event::Switch,
                200,
                |s| (5..100).contains(&s) && s % 10 < 5,
                vec![(10, Raised, 1), (124, Cleared, 9)],
            ),
            ("a short suspicion is none", Event::Suspect, 100, |s| (5..14).contains(&s), vec![]),
            ("flickering suspicion is none", Event::Suspect, 100, |s| s % 10 < 9, vec![]),
            ("a long one is", Event::Suspect, 100, |s| (5..16).contains(&s), vec![(15, Raised, 1), (45, Cleared, 1)]),
            (
                "a moment stands for a while",
                Event::Conflict,
                400,
                |s| s == 5 || s == 60,
                vec![(5, Raised, 1), (360, Cleared, 2)],
            ),
        ];
        for (what, event, n, holds, expect) in rows {
            assert_eq!(run(event, n, holds), expect, "{what}");
        }
    }

    #[test]
    fn slow_flapping_is_told_ever_more_rarely() {
        // One second of trouble each 40 s: every gap is longer than the hold, for an hour.
        let told = run(Event::Switch, 3600, |s| s % 40 == 0);
        let raised = told.iter().filter(|(_, phase, _)| *phase == Raised).count();
        assert!((2..=3).contains(&raised), "{told:?}");
    }

    #[test]
    fn kinds_do_not_disturb_each_other() {
        let mut desk = Desk::new(HOLD);
        let both = [see(Event::Switch), see(Event::Lag)].concat();
        assert_eq!(desk.step(secs(0), &both).len(), 2);
        assert_eq!(desk.active(secs(9)).len(), 2);
        assert!(desk.step(secs(10), &see(Event::Lag)).is_empty());
        let told = desk.step(secs(40), &see(Event::Lag));
        assert_eq!(told.iter().map(|t| (t.event, t.phase)).collect::<Vec<_>>(), [(Event::Switch, Cleared)]);
        assert_eq!(desk.active(secs(40)).len(), 1);
    }

    proptest! {
        /// Raised and cleared alternate, and what stands is what was raised last.
        #[test]
        fn always_in_pairs(seen in prop::collection::vec(any::<bool>(), 1..2000), step in 1u64..40) {
            let mut desk = Desk::new(HOLD);
            let mut standing = false;
            for (n, holds) in seen.into_iter().enumerate() {
                let now = secs(n as u64 * step);
                let sightings = if holds { see(Event::BothDown) } else { Vec::new() };
                for told in desk.step(now, &sightings) {
                    prop_assert_eq!(told.phase == Raised, !standing);
                    standing = !standing;
                }
                prop_assert_eq!(desk.active(now).len(), usize::from(standing));
                prop_assert!(!holds || standing, "a state that raises at once stands while it holds");
            }
        }
    }
}
