//! Which of a bucket's two names its requests use.
//!
//! Each bucket answers under `myqcloud.com` and under `tencentcos.cn`. The names belong to different registries and are resolved, filtered and
//! routed separately, so one can be broken (a hijacked or failing name server, a filter on the way) while the region is well. Then neither
//! waiting nor leaving the region is right: the other name is. Probes try both, so the one in use is left as soon as it has failed twice
//! without a success and the other one answers; requests that hang on the old name are cut off and sent again. After a while
//! the first name is taken up again if it answers.
//!
//! Only silence and what is not COS speak against a name: a 5xx of COS came through.
//!
//! Owns: the choice. Owns not: trying (`failover/detector` plans the probes), the names (`cos/request`).

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::latest;
use crate::failover::Outcome;

/// Failures in a row that discredit a name: one can be chance.
const BAD_MIN: u32 = 2;
/// The first name is preferred again after this long, if it answers. Arbitrary: long against any outage worth leaving it for.
const RETURN_AFTER: Duration = Duration::from_secs(600);

/// The choice for one bucket.
#[derive(Debug)]
pub(super) struct Domain {
    state: Mutex<State>,
    /// Whether the second name is in use; whoever waits for an answer over the other one watches it.
    alternate: latest::Sender<bool>,
}

#[derive(Debug)]
struct State {
    alternate: bool,
    bad: u32,
    since: Instant,
}

impl Domain {
    pub(super) fn new() -> Domain {
        let state = State { alternate: false, bad: 0, since: Instant::now() };
        Domain { state: Mutex::new(state), alternate: latest::Sender::new(false) }
    }

    pub(super) fn watch(&self) -> latest::Receiver<bool> {
        self.alternate.subscribe()
    }

    /// A request over a name ended (`None`: is overdue). True if another name is to be used from now on.
    pub(super) fn told(&self, alternate: bool, outcome: Option<Outcome>) -> bool {
        let answered = outcome.is_some_and(|o| o.proves_life() || o == Outcome::Server);
        let failed = matches!(outcome, None | Some(Outcome::Hard));
        let mut state = self.state.lock();
        if alternate == state.alternate {
            state.bad = if answered { 0 } else { state.bad + u32::from(failed) };
            return false;
        }
        let discredited = state.bad >= BAD_MIN;
        let home = state.alternate && state.since.elapsed() >= RETURN_AFTER;
        if !answered || !(discredited || home) {
            return false;
        }
        *state = State { alternate, bad: 0, since: Instant::now() };
        self.alternate.send(alternate);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: bool = false;
    const SECOND: bool = true;

    #[tokio::test(start_paused = true)]
    async fn a_name_is_left_when_it_fails_and_the_other_answers() {
        let good = Some(Outcome::Answer);
        let domain = Domain::new();
        assert!(!domain.told(SECOND, good), "both are well");
        assert!(!domain.told(FIRST, None));
        assert!(!domain.told(SECOND, good), "one failure can be chance");
        domain.told(FIRST, good);
        domain.told(FIRST, Some(Outcome::Hard));
        assert!(!domain.told(SECOND, good), "not in a row");
        for outcome in [Outcome::Server, Outcome::Throttled, Outcome::Auth, Outcome::Cancelled, Outcome::Local] {
            domain.told(FIRST, Some(outcome));
            assert!(!domain.told(SECOND, good), "{outcome:?} says nothing against a name");
        }
        domain.told(FIRST, None);
        domain.told(FIRST, Some(Outcome::Hard));
        assert!(!domain.told(SECOND, Some(Outcome::Hard)), "a region that is down is not the fault of a name");
        let watched = domain.watch();
        assert!(domain.told(SECOND, good));
        assert!(watched.get());
        assert!(!domain.told(FIRST, good), "not at once back");
        tokio::time::advance(RETURN_AFTER).await;
        assert!(!domain.told(FIRST, Some(Outcome::Hard)));
        assert!(domain.told(FIRST, good));
        assert!(!watched.get());
    }
}
