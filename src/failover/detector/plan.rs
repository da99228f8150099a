//! When to probe a linkage next, and when to judge it again.
//!
//! A healthy linkage under traffic is not probed at all, an idle one once a second, a suspect one four times a second on fresh connections,
//! a dead one not at all for a while and then once a second. While one linkage is suspect, those that a switch would rest on
//! are probed more often, so that their health is known when it falls.

use std::time::Duration;

use super::{Detector, Neighbours, Phase};
use crate::failover::event::Action;
use crate::failover::time::{Time, Timer};
use crate::failover::tuning::Tuning;
use crate::object::Class;

/// While a neighbour is suspect, the linkages a decision would rest on are probed this often, so that their health is known when it falls.
const URGENT_READ: Duration = Duration::from_millis(500);
/// Writes likewise; dearer, hence rarer.
const URGENT_WRITE: Duration = Duration::from_secs(1);
/// Probes of one linkage in flight at a time. A burst against a black hole leaves `3 s x 4/s` of them hanging.
const PROBES_IN_FLIGHT_MAX: u32 = 16;

impl Detector {
    fn probe_due(&self, neighbours: &Neighbours, tuning: &Tuning) -> Option<Time> {
        if self.probes_in_flight >= PROBES_IN_FLIGHT_MAX {
            return None;
        }
        let after = |at: Option<Time>, pause: Duration| at.map_or(Time::ZERO, |at| at + pause);
        Some(match &self.phase {
            Phase::Up => {
                let (idle, urgent) = match self.class {
                    Class::Read => (tuning.read_probe_idle, URGENT_READ),
                    Class::Write => (tuning.write_probe_idle, URGENT_WRITE),
                };
                // The extra tenth keeps an idle linkage at one probe a second, the answer's time included.
                let (idle, gap) =
                    if neighbours.urgent { (urgent.min(idle), urgent.min(idle)) } else { (idle, idle + idle / 9) };
                after(self.last_life, idle).max(after(self.last_probe, gap))
            }
            Phase::Suspect(s) => {
                let slow = self.last_probe.is_some_and(|at| at.since(s.raised) > tuning.burst_for);
                let pause = if slow { tuning.recovery_probe } else { tuning.burst_every };
                s.raised.max(after(self.last_probe, pause))
            }
            Phase::Dead { .. } => return None,
            Phase::Probing { .. } => after(self.last_probe, self.jittered(tuning.recovery_probe)),
            Phase::Recovering { .. } => after(self.last_probe, self.jittered(tuning.recovery_probe / 2)),
        })
    }

    /// +-20 %, from the number of the probe, so that many mounts do not knock in step; the site and class shift the sequence.
    fn jittered(&self, pause: Duration) -> Duration {
        let n = self.probes.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let permille = 800 + (n + 131 * self.site.index() as u64 + 71 * self.class.index() as u64) % 401;
        pause * permille as u32 / 1000
    }

    /// The next probe, if it is due now.
    pub fn plan_probe(&mut self, now: Time, neighbours: &Neighbours, id: u64, tuning: &Tuning) -> Option<Action> {
        if self.probe_due(neighbours, tuning)? > now {
            return None;
        }
        self.last_probe = Some(now);
        self.probes += 1;
        self.probes_in_flight += 1;
        let n = self.probes;
        let (fresh_connection, alternate_domain) = match self.phase {
            Phase::Up => (n.is_multiple_of(5), n.is_multiple_of(5)),
            Phase::Suspect(_) | Phase::Dead { .. } | Phase::Probing { .. } => (true, n.is_multiple_of(2)),
            // Kept connections must work again, too.
            Phase::Recovering { .. } => (n.is_multiple_of(2), n.is_multiple_of(4)),
        };
        Some(Action::Probe {
            id,
            site: self.site,
            class: self.class,
            fresh_connection,
            alternate_domain,
            overdue_after: self.probe_overdue_after(tuning),
        })
    }

    /// Earliest moment after `now` at which [`Detector::judge`] or [`Detector::plan_probe`] may have something new to say.
    pub fn deadline(&self, now: Time, neighbours: &Neighbours, tuning: &Tuning) -> Option<(Time, Timer)> {
        let (site, class) = (self.site, self.class);
        let mut all: Vec<(Time, Timer)> = Vec::with_capacity(6);
        all.extend(self.probe_due(neighbours, tuning).map(|at| (at, Timer::Probe(site, class))));
        match &self.phase {
            Phase::Suspect(s) => all.push((s.since + tuning.confirm, Timer::Confirm(site, class))),
            Phase::Dead { since } => all.push((*since + tuning.dead_min, Timer::DeadOver(site, class))),
            Phase::Up | Phase::Probing { .. } | Phase::Recovering { .. } => {}
        }
        if let Some(since) = self.recent_since {
            all.push((since + tuning.grey_read_after / 2, Timer::Grey(site, class)));
            all.push((now + Duration::from_secs(1), Timer::Grey(site, class)));
        }
        if self.grey {
            all.push((now + Duration::from_secs(1), Timer::Grey(site, class)));
        }
        if let Some(since) = self.ratio_since {
            all.push((since + tuning.grey_read_after, Timer::Grey(site, class)));
            all.push((since + tuning.grey_write_after, Timer::Grey(site, class)));
            // The window moves on by itself.
            all.push((now + Duration::from_secs(1), Timer::Grey(site, class)));
        }
        let quiet = [
            self.throttled_at.map(|at| at + tuning.throttle_quiet),
            self.refused_since.filter(|_| !self.admin).map(|(at, _)| at + tuning.admin_after),
            self.quarantined_until,
        ];
        all.extend(quiet.into_iter().flatten().map(|at| (at, Timer::Quiet(site, class))));
        all.into_iter().filter(|(at, _)| *at > now).min()
    }
}
