//! Is there an order in which all this could have happened one after the other?
//!
//! A key is a register: what a read shows must be what the last write before it left, where "before" may be chosen freely within the time
//! each call took, and a call whose end is not known may have happened at any later time or never. The search is that of Wing and
//! Gong with Lowe's memory of visited states, as in Porcupine and in Knossos.
//!
//! Written here because the crates do not fit: `porcupine-rs` 0.3 brings a benchmark harness and 80 packages as ordinary dependencies,
//! `stateright` 0.31 a web server; what is needed of either is one page.

use std::collections::HashSet;
use std::time::Duration;

/// What a call did to a key, or saw of it. `None`: there is nothing under the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Write(Option<u64>),
    Read(Option<u64>),
    /// A listing told whether there is something.
    Listed(bool),
}

/// One call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    pub begin: Duration,
    /// `None`: whether it happened is not known.
    pub end: Option<Duration>,
    pub act: Act,
}

/// More calls without a known end than this on one key cannot be tracked; the others are taken as never having happened.
const UNKNOWN_MAX: usize = 64;

/// `Err`: the first call that no order explains (the end of the longest explained part).
pub fn check(initial: Option<u64>, calls: &[Call]) -> Result<(), Call> {
    let mut known: Vec<Call> = calls.iter().copied().filter(|c| c.end.is_some()).collect();
    known.sort_by_key(|c| (c.begin, c.end));
    let mut unknown: Vec<Call> =
        calls.iter().copied().filter(|c| c.end.is_none() && matches!(c.act, Act::Write(_))).collect();
    unknown.truncate(UNKNOWN_MAX);
    let mut search = Search { known: &known, unknown: &unknown, seen: HashSet::new(), furthest: 0 };
    match search.explains(0, Vec::new(), 0, initial) {
        true => Ok(()),
        false => Err(known[search.furthest.min(known.len() - 1)]),
    }
}

/// Which calls are in order already: all before `first`, those in `beyond`, the unknown ones in the mask; and what they left.
type Visited = (usize, Vec<usize>, u64, Option<u64>);

struct Search<'a> {
    known: &'a [Call],
    unknown: &'a [Call],
    seen: HashSet<Visited>,
    furthest: usize,
}

impl Search<'_> {
    fn explains(&mut self, mut first: usize, mut beyond: Vec<usize>, happened: u64, state: Option<u64>) -> bool {
        while beyond.first() == Some(&first) {
            beyond.remove(0);
            first += 1;
        }
        if first == self.known.len() {
            return true;
        }
        self.furthest = self.furthest.max(first);
        if !self.seen.insert((first, beyond.clone(), happened, state)) {
            return false;
        }
        // Whatever begins after the first end of what is left must wait for it.
        let open = (first..self.known.len()).filter(|i| !beyond.contains(i));
        let mut horizon = Duration::MAX;
        let mut next = Vec::new();
        for index in open {
            let call = &self.known[index];
            if call.begin > horizon {
                break;
            }
            horizon = horizon.min(call.end.unwrap_or(Duration::MAX));
            next.push(index);
        }
        for index in next {
            let call = self.known[index];
            if call.begin > horizon {
                continue;
            }
            let Some(left) = apply(call.act, state) else { continue };
            let mut beyond = beyond.clone();
            let place = beyond.partition_point(|other| *other < index);
            beyond.insert(place, index);
            if self.explains(first, beyond, happened, left) {
                return true;
            }
        }
        for (bit, call) in self.unknown.iter().enumerate() {
            if happened & (1 << bit) != 0 || call.begin > horizon {
                continue;
            }
            let Some(left) = apply(call.act, state) else { continue };
            if left != state && self.explains(first, beyond.clone(), happened | (1 << bit), left) {
                return true;
            }
        }
        false
    }
}

/// What is there afterwards; `None`: it cannot be at this point.
fn apply(act: Act, state: Option<u64>) -> Option<Option<u64>> {
    match act {
        Act::Write(value) => Some(value),
        Act::Read(value) => (value == state).then_some(state),
        Act::Listed(there) => (there == state.is_some()).then_some(state),
    }
}

/// The check of the checker; `sim` runs it before anything else.
pub fn self_test() {
    let call = |begin, end: u64, act| Call {
        begin: Duration::from_secs(begin),
        end: (end > 0).then(|| Duration::from_secs(end)),
        act,
    };
    use Act::{Listed, Read, Write};
    let rows: [(&str, bool, &[Call]); 9] = [
        ("read your write", true, &[call(1, 2, Write(Some(1))), call(3, 4, Read(Some(1)))]),
        ("a stale read", false, &[call(1, 2, Write(Some(1))), call(3, 4, Write(Some(2))), call(5, 6, Read(Some(1)))]),
        (
            "at the same time, either",
            true,
            &[call(1, 9, Write(Some(1))), call(2, 3, Read(None)), call(4, 5, Read(Some(1)))],
        ),
        ("and not back", false, &[call(1, 9, Write(Some(1))), call(2, 3, Read(Some(1))), call(4, 5, Read(None))]),
        ("an unknown write, seen", true, &[call(1, 0, Write(Some(1))), call(5, 6, Read(Some(1)))]),
        ("an unknown write, never", true, &[call(1, 0, Write(Some(1))), call(5, 6, Read(None))]),
        (
            "an unknown write, taken back",
            false,
            &[call(1, 0, Write(Some(1))), call(5, 6, Read(Some(1))), call(7, 8, Read(None))],
        ),
        ("listed", false, &[call(1, 2, Write(Some(1))), call(3, 4, Listed(false))]),
        (
            "deleted",
            true,
            &[call(1, 2, Write(Some(1))), call(2, 4, Write(None)), call(3, 3, Listed(true)), call(5, 6, Read(None))],
        ),
    ];
    for (what, fine, calls) in rows {
        assert_eq!(check(None, calls).is_ok(), fine, "the checker itself is wrong about: {what}");
    }
}
