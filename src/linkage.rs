//! One way to one place: requests with evidence, a driver for the decision core.
//!
//! `failover` decides but has no clock and no socket; `cos` sends but has no opinion. This layer joins them. Every request of the store goes through
//! [`Linkages::attempt`], which reports how it went and is cut short when its linkage is declared dead. One driver task owns the
//! core, feeds it with those reports and with the clock, sends its probes, makes a new epoch durable, and publishes a [`View`].
//!
//! Order that others rely on: a new epoch is durable (the `on_epoch` hook returned) before any view names its master; a view that calls a linkage
//! dead is published before attempts on it are cut, so whoever wakes up finds the newer view.
//!
//! Owns: the driver, attempts, probes, the classification of outcomes. Owns not: decisions (`failover`), retries (`store`).
//! Checked by `tests/linkage` against silent, refusing and healthy servers on real sockets.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};

use crate::cos::{self, Client, Sent};
use crate::failover::{Command, Core, Event, JournalView, Outcome, PROBE_ID, Start, Time, Tuning, View};
use crate::object::{Class, Epoch, Key, Site};

mod attempt;
mod clock;
mod domain;
mod driver;
pub mod latest;
pub mod outcome;
mod probe;

use clock::Clock;
use domain::Domain;
use driver::Driver;

/// Events on their way to the driver. Each attempt reserves three; more attempts than a third of this at a time are counted, not told.
const EVENTS_QUEUED_MAX: usize = 12_288;
const COMMANDS_QUEUED_MAX: usize = 16;
/// The core answers a command within 15 s, and one may wait for another; longer means that the driver is gone or stuck.
const COMMAND_ANSWER_MAX: Duration = Duration::from_secs(32);

/// Makes a new epoch durable before its master becomes visible. Called from a blocking thread.
pub type OnEpoch = Box<dyn Fn(Epoch, Site) -> Result<(), String> + Send + Sync>;

/// Why an attempt brought no result. `sent` says whether the request may have had an effect.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    #[error(transparent)]
    Cos(cos::Error),
    /// Cut off: the linkage is dead, or reached under another name from now on.
    #[error("the {class} linkage to {site} is dead")]
    Dead { site: Site, class: Class, sent: Sent },
    #[error("the caller's deadline passed")]
    Deadline { sent: Sent },
}

impl AttemptError {
    pub fn sent(&self) -> Sent {
        match self {
            AttemptError::Cos(error) => error.sent,
            AttemptError::Dead { sent, .. } | AttemptError::Deadline { sent } => *sent,
        }
    }

    /// Can the request have had an effect that nobody told of? A truncated body cannot be committed, and a clear refusal says that nothing was.
    pub fn lost_its_answer(&self) -> bool {
        // What a box on the way says tells nothing of what it has passed on.
        let refused = matches!(self, AttemptError::Cos(error)
            if error.request_id.is_some() && error.status.is_some_and(|s| (400..500).contains(&s)));
        self.sent() == Sent::Fully && !refused
    }

    /// The last of several tries, told as what all of them may have done.
    pub fn after_a_lost_answer(mut self, lost: bool) -> AttemptError {
        if lost {
            match &mut self {
                // Its status speaks of the last try only.
                AttemptError::Cos(error) => (error.sent, error.status) = (Sent::Fully, None),
                AttemptError::Dead { sent, .. } | AttemptError::Deadline { sent } => *sent = Sent::Fully,
            }
        }
        self
    }
}

/// What the data path must know of one linkage, without asking the driver.
#[derive(Debug)]
struct Lane {
    open: latest::Sender<bool>,
    overdue_micros: AtomicU64,
    /// Attempts that were not told one by one.
    crowd: [AtomicU32; 2],
}

impl Lane {
    fn overdue_after(&self) -> Duration {
        Duration::from_micros(self.overdue_micros.load(Ordering::Relaxed))
    }

    fn count(&self, good: bool) {
        self.crowd[usize::from(good)].fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Lanes([[Lane; 2]; 2]);

impl Lanes {
    fn new(view: &View) -> Lanes {
        let lane = |site: Site, class: Class| {
            let linkage = view.linkage(site, class);
            Lane {
                open: latest::Sender::new(linkage.health.carries_traffic()),
                overdue_micros: AtomicU64::new(linkage.overdue_after.as_micros() as u64),
                crowd: [AtomicU32::new(0), AtomicU32::new(0)],
            }
        };
        Lanes(Site::ALL.map(|site| Class::ALL.map(|class| lane(site, class))))
    }

    fn of(&self, site: Site, class: Class) -> &Lane {
        &self.0[site.index()][class.index()]
    }

    /// Brings the data path in line with a view.
    fn follow(&self, view: &View) {
        for (site, class) in Site::ALL.into_iter().flat_map(|s| Class::ALL.map(|c| (s, c))) {
            let (lane, linkage) = (self.of(site, class), view.linkage(site, class));
            lane.overdue_micros.store(linkage.overdue_after.as_micros() as u64, Ordering::Relaxed);
            let carries = linkage.health.carries_traffic();
            if lane.open.get() != carries {
                lane.open.send(carries);
            }
        }
    }
}

/// How a bucket is reached.
#[derive(Clone)]
struct Way {
    site: Site,
    client: Client,
    domain: Arc<Domain>,
}

impl Way {
    fn new(site: Site, client: Client) -> Way {
        Way { site, client, domain: Arc::new(Domain::new()) }
    }

    /// A request over one of the bucket's names ended (`None`: is overdue).
    fn told(&self, alternate: bool, outcome: Option<Outcome>) {
        if self.domain.told(alternate, outcome) {
            self.client.swap_domains(alternate);
            log::warn!(
                "bucket {}: {} does not answer, {} does: used from now on",
                self.site,
                self.host(!alternate),
                self.host(alternate)
            );
        }
    }

    fn host(&self, alternate: bool) -> String {
        self.client.address().host(alternate)
    }
}

/// Handle of the failover driver; clones are the same mount. The driver ends when the last one is dropped.
#[derive(Clone)]
pub struct Linkages {
    shared: Arc<Shared>,
}

struct Shared {
    ways: [Way; 2],
    views: latest::Receiver<Arc<View>>,
    lanes: Arc<Lanes>,
    events: mpsc::Sender<Event>,
    commands: mpsc::Sender<(Command, oneshot::Sender<Result<(), String>>)>,
    journal: watch::Sender<JournalView>,
    ids: AtomicU64,
    /// Wall clock at [`Time::ZERO`].
    began: SystemTime,
}

impl fmt::Debug for Linkages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linkages").field("view", &*self.shared.views.get()).finish_non_exhaustive()
    }
}

impl Linkages {
    /// Starts the driver on `rt`. `sentinel` is the key that probes name; it need not exist.
    pub fn start(
        clients: [Client; 2],
        tuning: Tuning,
        start: Start,
        sentinel: Key,
        on_epoch: OnEpoch,
        rt: &tokio::runtime::Handle,
    ) -> Linkages {
        let (clock, began) = (Clock::start(), crate::clock::wall());
        let core = Core::new(tuning, clock.now(), start);
        let view = core.view();
        let lanes = Arc::new(Lanes::new(&view));
        let view_tx = latest::Sender::new(Arc::new(view));
        let views = view_tx.subscribe();
        let (events, events_rx) = mpsc::channel(EVENTS_QUEUED_MAX);
        let (commands, commands_rx) = mpsc::channel(COMMANDS_QUEUED_MAX);
        let (journal, journal_rx) = watch::channel(JournalView::default());
        let [a, b] = clients;
        let ways = [Way::new(Site::A, a), Way::new(Site::B, b)];
        let driver = Driver {
            core,
            clock,
            ways: ways.clone(),
            sentinel,
            lanes: lanes.clone(),
            views: view_tx,
            events: events_rx,
            commands: commands_rx,
            journal: journal_rx,
            on_epoch: Arc::new(on_epoch),
        };
        rt.spawn(driver.run());
        let shared = Shared { ways, views, lanes, events, commands, journal, ids: AtomicU64::new(1), began };
        debug_assert!(shared.ids.load(Ordering::Relaxed) < PROBE_ID);
        Linkages { shared: Arc::new(shared) }
    }

    /// The present opinion of the world.
    pub fn view(&self) -> Arc<View> {
        self.shared.views.get()
    }

    /// Wakes up on every new view, at least once a second (latencies and ages move).
    pub fn watch(&self) -> latest::Receiver<Arc<View>> {
        self.shared.views.clone()
    }

    pub fn client(&self, site: Site) -> &Client {
        &self.shared.ways[site.index()].client
    }

    /// A request that another site answered although it was asked later: counts against this one's ratio, as much as a failure.
    pub fn overtaken(&self, site: Site, class: Class) {
        self.shared.lanes.of(site, class).count(false);
    }

    /// Hands an operator's command to the core, and waits until it is done: after `Ok` every view shows the wanted master.
    pub async fn command(&self, command: Command) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.shared.commands.send((command, answer)).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(COMMAND_ANSWER_MAX, asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err("failover has ended".into()),
            Err(_) => Err(format!("failover gave no answer within {} s", COMMAND_ANSWER_MAX.as_secs())),
        }
    }

    /// What the journal still has to do. The last report counts, so it may be called as often as it changes.
    pub fn report_journal(&self, view: JournalView) {
        self.shared.journal.send_replace(view);
    }

    /// A moment of the core (as in [`crate::failover::SwitchRecord`]) on the wall clock.
    pub fn wall_clock(&self, at: Time) -> SystemTime {
        self.shared.began + at.since(Time::ZERO)
    }
}
