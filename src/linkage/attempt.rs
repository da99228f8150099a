//! One request on one linkage: watched, judged, cut short.
//!
//! Three things can end a request: its own end, the caller's deadline, and the news that the linkage is dead. The last one is what
//! turns "s3fs hangs for minutes" into "re-sent to the other region after three seconds": nobody waits for a timeout that the
//! core knows to be pointless. Meanwhile silence is reported as soon as it is suspicious, not when it ends.
//!
//! Overdue is counted from the last byte sent to the head of the answer, and from the start as long as no connection takes the request; while
//! a body is on its way it is not counted at all (a standing upload has its own deadline in the client).
//!
//! Cost of a healthy attempt: three slots reserved in a bounded queue, two of them used. If the queue is full, outcomes are
//! counted instead of told one by one; the data path never waits for failover.
//!
//! Promise: every attempt that began is reported as ended, also if its future is dropped. Checked in `tests/linkage`.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::PermitIterator;
use tokio::time::{Instant, sleep, sleep_until};

use super::outcome;
use super::{AttemptError, Lane, Linkages, Way};
use crate::cos::{Client, Error, Progress, Sent};
use crate::failover::{Event, Outcome, POOLED};
use crate::object::{Class, Site};

/// Started, overdue, ended.
const EVENTS_PER_ATTEMPT: usize = 3;

/// Resolves when a request should have been answered by now.
pub(super) async fn overdue(progress: &Progress, limit: Duration) {
    loop {
        tokio::select! {
            biased;
            () = progress.sent_all() => {}
            () = sleep(limit) => {
                if progress.body_sent() == Sent::No && progress.waited().is_none() {
                    return;
                }
                progress.sent_all().await;
            }
        }
        sleep(limit).await;
        if progress.waited().is_some() {
            // Answered; what may still come is the body.
            std::future::pending::<()>().await;
        }
        // A redirect or a re-signed repetition starts sending anew.
        if progress.body_sent() == Sent::Fully {
            return;
        }
    }
}

/// The report of one attempt to the core. Dropped early, it reports `Cancelled`.
struct Ticket<'a> {
    lane: &'a Lane,
    way: &'a Way,
    /// Goes over the bucket's second name.
    alternate: bool,
    id: u64,
    /// `None`: the queue was full when the attempt began.
    slots: Option<PermitIterator<'a, Event>>,
    overdue: bool,
    /// COS answered, however it went on: nothing against the name.
    heard: bool,
    ended: bool,
}

impl<'a> Ticket<'a> {
    fn open(links: &'a Linkages, lane: &'a Lane, site: Site, class: Class) -> Ticket<'a> {
        let id = links.shared.ids.fetch_add(1, Ordering::Relaxed);
        let mut slots = links.shared.events.try_reserve_many(EVENTS_PER_ATTEMPT).ok();
        if let Some(slot) = slots.as_mut().and_then(Iterator::next) {
            slot.send(Event::AttemptStarted { id, site, class, connection: POOLED, probe: false });
        }
        let way = &links.shared.ways[site.index()];
        let alternate = way.client.is_alternate(false);
        Ticket { lane, way, alternate, id, slots, overdue: false, heard: false, ended: false }
    }

    fn overdue(&mut self) {
        self.overdue = true;
        self.way.told(self.alternate, None);
        match &mut self.slots {
            Some(slots) => {
                if let Some(slot) = slots.next() {
                    slot.send(Event::AttemptOverdue { id: self.id });
                }
            }
            None => self.lane.count(false),
        }
    }

    fn end(&mut self, outcome: Outcome, first_byte: Option<Duration>) {
        self.ended = true;
        self.way.told(self.alternate, Some(if self.heard { Outcome::Answer } else { outcome }));
        match &mut self.slots {
            Some(slots) => {
                if let Some(slot) = slots.next() {
                    slot.send(Event::AttemptEnded { id: self.id, outcome, first_byte });
                }
            }
            None if outcome.is_success() => self.lane.count(true),
            None if outcome.is_bad() && !self.overdue => self.lane.count(false),
            None => {}
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Outcome::Cancelled, None);
        }
    }
}

impl Linkages {
    /// One try on one linkage. Reports started, overdue and ended to the core; ends early with [`AttemptError::Dead`] when the linkage is
    /// declared dead (at once if it already is), or with [`AttemptError::Deadline`].
    ///
    /// `call` should make one request; a body it reads is covered by the client's own progress deadline.
    pub async fn attempt<T, F, Fut>(&self, site: Site, class: Class, until: Instant, call: F) -> Result<T, AttemptError>
    where
        F: FnOnce(Client, Arc<Progress>) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let lane = self.shared.lanes.of(site, class);
        let mut open = lane.open.subscribe();
        if !open.borrow_and_update() {
            return Err(AttemptError::Dead { site, class, sent: Sent::No });
        }
        if Instant::now() >= until {
            return Err(AttemptError::Deadline { sent: Sent::No });
        }
        let progress = Arc::new(Progress::new());
        let mut ticket = Ticket::open(self, lane, site, class);
        let call = call(self.client(site).clone(), progress.clone());
        let overdue = overdue(&progress, lane.overdue_after());
        tokio::pin!(call, overdue);
        let dead = async {
            // The sender lives as long as `self`.
            let _ = open.wait_for(|open| !open).await;
        };
        let mut names = self.shared.ways[site.index()].domain.watch();
        let alternate = ticket.alternate;
        let renamed = async {
            // The sender lives as long as `self`.
            let _ = names.wait_for(|now| *now != alternate).await;
        };
        tokio::pin!(dead, renamed);
        loop {
            tokio::select! {
                biased;
                result = &mut call => {
                    return match result {
                        Ok(value) => {
                            ticket.end(Outcome::Good, progress.waited());
                            Ok(value)
                        }
                        Err(error) => {
                            ticket.heard = error.request_id.is_some();
                            ticket.end(outcome::of_error(&error), progress.waited());
                            Err(AttemptError::Cos(error))
                        }
                    };
                }
                () = &mut dead => return Err(AttemptError::Dead { site, class, sent: progress.body_sent() }),
                // What hangs on a name that was given up is sent again over the other one.
                () = &mut renamed, if ticket.overdue => {
                    return Err(AttemptError::Dead { site, class, sent: progress.body_sent() });
                }
                () = sleep_until(until) => return Err(AttemptError::Deadline { sent: progress.body_sent() }),
                () = &mut overdue, if !ticket.overdue => ticket.overdue(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cos::credentials::Fixed;
    use crate::cos::{BucketAddress, ClockOffset, Credentials, Kind};
    use crate::failover::{Core, Start, Time, Tuning};
    use crate::linkage::{Lanes, Shared};
    use crate::object::Epoch;
    use tokio::sync::{mpsc, watch};

    /// A handle without a driver: the test reads what the driver would have been told.
    fn handle(queue: usize) -> (Linkages, mpsc::Receiver<Event>) {
        let client = || {
            let address = BucketAddress {
                bucket: "b-1250000000".into(),
                region: "ap-guangzhou".into(),
                endpoint: Some("http://127.0.0.1:1".into()),
                https: false,
            };
            let credentials = Credentials::new("id".into(), "key".into(), None).expect("valid");
            Client::new(address, Arc::new(Fixed::new(credentials)), Arc::new(ClockOffset::new())).expect("client")
        };
        let view = Core::new(Tuning::default(), Time::ZERO, Start { epoch: Epoch(1), master: Site::A }).view();
        let (events, told) = mpsc::channel(queue);
        let shared = Shared {
            ways: [Way::new(Site::A, client()), Way::new(Site::B, client())],
            lanes: Arc::new(Lanes::new(&view)),
            views: crate::linkage::latest::Sender::new(Arc::new(view)).subscribe(),
            events,
            commands: mpsc::channel(1).0,
            journal: watch::channel(Default::default()).0,
            ids: std::sync::atomic::AtomicU64::new(1),
            began: std::time::SystemTime::now(),
        };
        (Linkages { shared: Arc::new(shared) }, told)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    async fn never(_: Client, _: Arc<Progress>) -> Result<(), Error> {
        std::future::pending().await
    }

    fn started(event: Option<Event>) -> u64 {
        match event {
            Some(Event::AttemptStarted { id, connection: POOLED, probe: false, .. }) => id,
            other => panic!("not a start: {other:?}"),
        }
    }

    #[tokio::test]
    async fn results_are_told_by_the_table() {
        let (links, mut told) = handle(8);
        let good = links.attempt(Site::A, Class::Read, soon(), async |_, _| Ok(7)).await;
        assert!(matches!(good, Ok(7)));
        let id = started(told.recv().await);
        assert_eq!(told.recv().await, Some(Event::AttemptEnded { id, outcome: Outcome::Good, first_byte: None }));

        let call = async |_, _| Err::<(), _>(Error::made(Kind::NoSuchKey, Sent::Fully, "absent"));
        let absent = links.attempt(Site::A, Class::Read, soon(), call).await;
        assert!(matches!(absent, Err(AttemptError::Cos(e)) if e.kind == Kind::NoSuchKey));
        let id = started(told.recv().await);
        assert_eq!(told.recv().await, Some(Event::AttemptEnded { id, outcome: Outcome::Answer, first_byte: None }));
    }

    #[tokio::test]
    async fn a_dropped_attempt_is_cancelled() {
        let (links, mut told) = handle(8);
        {
            let attempt = links.attempt(Site::B, Class::Write, soon(), never);
            tokio::pin!(attempt);
            assert!(futures::poll!(&mut attempt).is_pending());
        }
        let id = started(told.recv().await);
        assert_eq!(told.recv().await, Some(Event::AttemptEnded { id, outcome: Outcome::Cancelled, first_byte: None }));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_told_once_and_death_cuts_it_short() {
        let (links, mut told) = handle(8);
        let other = links.clone();
        let cut = tokio::spawn(async move { other.attempt(Site::A, Class::Write, soon(), never).await });
        let id = started(told.recv().await);
        let begun = Instant::now();
        assert_eq!(told.recv().await, Some(Event::AttemptOverdue { id }));
        assert_eq!(begun.elapsed().as_millis(), Tuning::default().write_overdue_initial.as_millis());
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(told.try_recv().is_err(), "told once");
        links.shared.lanes.of(Site::A, Class::Read).open.send(false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!cut.is_finished(), "the other class is not its business");
        links.shared.lanes.of(Site::A, Class::Write).open.send(false);
        let result = cut.await.expect("no panic");
        assert!(matches!(result, Err(AttemptError::Dead { site: Site::A, class: Class::Write, sent: Sent::No })));
        assert_eq!(told.recv().await, Some(Event::AttemptEnded { id, outcome: Outcome::Cancelled, first_byte: None }));
        // And the next one does not even begin.
        let next = links.attempt(Site::A, Class::Write, soon(), async |_, _| -> Result<(), Error> { panic!("called") });
        assert!(matches!(next.await, Err(AttemptError::Dead { .. })));
        assert!(told.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_callers_deadline_holds() {
        let (links, _told) = handle(8);
        let until = Instant::now() + Duration::from_millis(500);
        let late = links.attempt(Site::A, Class::Read, until, never).await;
        assert!(matches!(late, Err(AttemptError::Deadline { sent: Sent::No })));
        assert_eq!(Instant::now(), until);
        let later = links.attempt(Site::A, Class::Read, until, async |_, _| -> Result<(), Error> { panic!("called") });
        assert!(matches!(later.await, Err(AttemptError::Deadline { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_counts_instead_of_waiting() {
        let (links, mut told) = handle(4);
        let holder = links.attempt(Site::A, Class::Read, soon(), never);
        tokio::pin!(holder);
        assert!(futures::poll!(&mut holder).is_pending());
        links.attempt(Site::A, Class::Read, soon(), async |_, _| Ok(())).await.expect("good");
        let call = async |_, _| Err::<(), _>(Error::made(Kind::Unreachable, Sent::No, "refused"));
        links.attempt(Site::A, Class::Read, soon(), call).await.expect_err("bad");
        // Overdue first, failed later: one piece of evidence.
        let slow = async |_, _| {
            sleep(Duration::from_secs(5)).await;
            Err::<(), _>(Error::made(Kind::FirstByteTimeout, Sent::Fully, "silent"))
        };
        links.attempt(Site::A, Class::Read, soon(), slow).await.expect_err("bad");
        let crowd = links.shared.lanes.of(Site::A, Class::Read).crowd.each_ref().map(|n| n.load(Ordering::Relaxed));
        assert_eq!(crowd, [2, 1], "[bad, good]");
        started(told.recv().await);
    }
}
