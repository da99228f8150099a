//! When may the mount go back to A by itself?
//!
//! Going back too early is how switching systems lose data and flap: A answers again long before it holds everything that was written
//! to B meanwhile. Staying on B is always safe, so every doubt keeps the mount there, and the doubt is told.
//!
//! A has been good for the trial period; the journal is drained; test objects get through in both directions; both buckets were compared;
//! no operator decided otherwise. Then writes are held for a moment, until A has the last one that B took. Writes that come
//! meanwhile were sent nowhere yet and do not count: they go to A when it is master, so that programs that never pause cannot prevent the move.
//!
//! Owns: the conditions and the length of the trial period. Owns not: the move (`machine`), the record of what A lacks (the journal),
//! the test objects and the comparison (`store/canary`, `store/coverage`).

use std::time::Duration;

use super::event::JournalView;
use super::evidence::secs;
use super::time::Time;
use super::tuning::{FailbackMode, Tuning};

/// A report of the journal older than this describes another time.
const JOURNAL_FRESH: Duration = Duration::from_secs(15);
/// Records younger than this may still wait for verification: under steady writing there are always some.
const RECORD_YOUNG: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What the conditions look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub now: Time,
    /// Both linkages of A are healthy, since when; `None` if one is not.
    pub a_good_since: Option<Time>,
    pub b_ready: bool,
    pub journal: Option<(Time, JournalView)>,
    /// An operator chose the present master.
    pub pinned: bool,
    /// Automatic switches are used up.
    pub latched: bool,
    /// A failback was broken off: not before this.
    pub not_before: Option<Time>,
}

/// The trial period: doubles with each automatic switch away from A, halves with each quiet day.
pub(super) fn hold(now: Time, tuning: &Tuning, flaps: u32, last_flap: Option<Time>) -> Duration {
    let days = last_flap.map_or(0, |at| (now.since(at).as_secs() / DAY.as_secs()) as u32);
    // The first switch is what we come back from; only repetitions are flaps.
    let doublings = flaps.saturating_sub(1).saturating_sub(days).min(16);
    (tuning.failback_hold * (1 << doublings)).min(tuning.failback_hold_max.max(tuning.failback_hold))
}

/// May a failback begin? `Err` says what is missing.
pub(super) fn may_begin(facts: &Facts, hold: Duration, tuning: &Tuning) -> Result<(), String> {
    if tuning.failback == FailbackMode::Manual {
        return Err("failback is manual".into());
    }
    if facts.pinned {
        return Err("an operator chose this master".into());
    }
    if facts.latched {
        return Err("automatic switching is latched".into());
    }
    let Some(since) = facts.a_good_since else {
        return Err("a is not healthy".into());
    };
    let good_for = facts.now.since(since);
    if good_for < hold {
        return Err(format!("a has been good for {} of {}", secs(good_for), secs(hold)));
    }
    if !facts.b_ready {
        return Err("b is not healthy enough for a graceful move".into());
    }
    drained(facts, false)?;
    let Some((_, journal)) = facts.journal else { return Ok(()) };
    if journal.canaries < tuning.failback_canaries {
        let (found, wanted) = (journal.canaries, tuning.failback_canaries);
        return Err(format!("{found} of {wanted} test objects in a row got through to a and back"));
    }
    if tuning.failback_canaries > 0 && !journal.reconciled {
        return Err("a comparison of both buckets has not found them equal yet".into());
    }
    // A hold that cannot succeed would only stall whoever writes.
    if journal.owed[0] > 0 && journal.lag_to_a > tuning.hold_max * 3 / 4 {
        return Err(format!("a write takes {} to reach a, and writing does not pause", secs(journal.lag_to_a)));
    }
    match facts.not_before {
        Some(at) if facts.now < at => Err("the last failback was broken off a moment ago".into()),
        _ => Ok(()),
    }
}

/// Does A hold what was written? `entirely`: nothing that B may have is missing, however young (asked while new writes are held back).
pub(super) fn drained(facts: &Facts, entirely: bool) -> Result<(), String> {
    let Some((at, journal)) = facts.journal else {
        return Err("the journal has not reported yet".into());
    };
    if facts.now.since(at) > JOURNAL_FRESH {
        return Err(format!("the journal's last report is {} old", secs(facts.now.since(at))));
    }
    if journal.ambiguous > 0 {
        return Err(format!("{} writes have an unknown outcome", journal.ambiguous));
    }
    if entirely {
        return match journal.owed[0] {
            0 => Ok(()),
            owed => Err(format!("{owed} writes that b took are not verified on a yet")),
        };
    }
    if journal.unsent > 0 && journal.oldest > RECORD_YOUNG {
        return Err(format!("{} writes are not sent yet", journal.unsent));
    }
    let lacking = journal.unverified_on[0];
    if lacking > 0 && journal.oldest > RECORD_YOUNG {
        return Err(format!("{lacking} writes are not verified on a yet, the oldest {} old", secs(journal.oldest)));
    }
    Ok(())
}

/// When waiting alone could make the conditions true.
pub(super) fn due(facts: &Facts, hold: Duration, tuning: &Tuning) -> Option<Time> {
    if tuning.failback == FailbackMode::Manual || facts.pinned {
        return None;
    }
    Some((facts.a_good_since? + hold).max(facts.not_before.unwrap_or(Time::ZERO)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Time {
        Time::ZERO + Duration::from_secs(s)
    }

    #[test]
    fn each_condition_alone_keeps_the_mount_on_b() {
        type Change = fn(&mut Facts, &mut Tuning);
        let rows: [(&str, Change); 14] = [
            ("manual", |_, t| t.failback = FailbackMode::Manual),
            ("operator", |f, _| f.pinned = true),
            ("latched", |f, _| f.latched = true),
            ("not healthy", |f, _| f.a_good_since = None),
            ("good for", |f, _| f.a_good_since = Some(at(900))),
            ("b is not", |f, _| f.b_ready = false),
            ("not reported", |f, _| f.journal = None),
            ("report is", |f, _| f.journal = f.journal.map(|(_, j)| (at(900), j))),
            ("unknown outcome", |f, _| f.journal = f.journal.map(|(t, j)| (t, JournalView { ambiguous: 1, ..j }))),
            ("not verified", |f, _| {
                let missing =
                    JournalView { unverified_on: [1, 0], oldest: Duration::from_secs(31), ..JournalView::default() };
                f.journal = Some((at(1000), missing));
            }),
            ("broken off", |f, _| f.not_before = Some(at(1001))),
            ("9 of 10 test objects", |f, _| f.journal = f.journal.map(|(t, j)| (t, JournalView { canaries: 9, ..j }))),
            ("comparison", |f, _| f.journal = f.journal.map(|(t, j)| (t, JournalView { reconciled: false, ..j }))),
            ("does not pause", |f, _| {
                let lag_to_a = Duration::from_millis(1600);
                f.journal = f.journal.map(|(t, j)| (t, JournalView { owed: [1, 0], lag_to_a, ..j }));
            }),
        ];
        let good = Facts {
            now: at(1000),
            a_good_since: Some(at(100)),
            b_ready: true,
            journal: Some((at(1000), JournalView { canaries: 10, reconciled: true, ..JournalView::default() })),
            pinned: false,
            latched: false,
            not_before: None,
        };
        let auto = Tuning { failback: FailbackMode::Auto, ..Tuning::default() };
        let hold = Duration::from_secs(300);
        assert_eq!(may_begin(&good, hold, &auto), Ok(()));
        for (word, change) in rows {
            let (mut facts, mut tuning) = (good, auto.clone());
            change(&mut facts, &mut tuning);
            let why = may_begin(&facts, hold, &tuning).expect_err(word);
            assert!(why.contains(word), "{word}: {why}");
        }
    }

    #[test]
    fn young_records_delay_only_the_last_step() {
        let facts = Facts {
            now: at(1000),
            a_good_since: Some(at(100)),
            b_ready: true,
            journal: Some((
                at(999),
                JournalView {
                    unverified_on: [3, 0],
                    owed: [3, 0],
                    oldest: Duration::from_secs(4),
                    ..Default::default()
                },
            )),
            pinned: false,
            latched: false,
            not_before: None,
        };
        assert_eq!(drained(&facts, false), Ok(()));
        assert!(drained(&facts, true).is_err());
        let unsent = JournalView { unsent: 5, unverified_on: [5, 5], ..Default::default() };
        let held_back = Facts { journal: Some((at(999), unsent)), ..facts };
        assert_eq!(drained(&held_back, true), Ok(()), "what was sent nowhere goes to the next master");
    }

    #[test]
    fn trial_period_doubles_and_halves() {
        let tuning = Tuning::default();
        let min = |m: u64| Duration::from_secs(m * 60);
        let rows = [
            (0, None, min(5)),
            (1, Some(0), min(5)),
            (2, Some(0), min(10)),
            (4, Some(0), min(40)),
            (9, Some(0), min(60)),
            (4, Some(2), min(10)),
        ];
        for (flaps, days_ago, expect) in rows {
            let now = at(100 * 24 * 3600);
            let last = days_ago.map(|d: u64| now - Duration::from_secs(d * 24 * 3600));
            assert_eq!(hold(now, &tuning, flaps, last), expect, "{flaps} flaps, {days_ago:?} days ago");
        }
    }
}
