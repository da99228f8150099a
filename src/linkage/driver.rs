//! Runs the core: clock in, events in, actions out.
//!
//! One task owns the core, so no lock protects it and no two decisions overlap. It sleeps until something is reported or the core's next
//! deadline, and at least once a second, so that it notices when the process itself was stopped.
//!
//! Promise: never blocks (the epoch hook writes to disk and runs on a blocking thread); a jump of the clock is told to the core before
//! anything that was reported with it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::clock::Clock;
use super::latest;
use super::probe::{self, Probe};
use super::{Lanes, OnEpoch, Way};
use crate::failover::{Action, Change, Command, Core, Event, Health, JournalView, State, Transition, View};
use crate::mutant::{Mutant, lacks};
use crate::object::{Class, Epoch, Key, Site};

/// Longest sleep: bounds how late a stopped process is noticed, and the age of latencies in the view.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Events taken at a time.
const BATCH: usize = 512;
/// The core keeps at most 16 probes of each of four linkages in flight, each with two reports.
const PROBE_REPORTS_MAX: usize = 128;

pub(super) struct Driver {
    pub core: Core,
    pub clock: Clock,
    pub ways: [Way; 2],
    pub sentinel: Key,
    pub lanes: Arc<Lanes>,
    pub views: latest::Sender<Arc<View>>,
    pub events: mpsc::Receiver<Event>,
    pub commands: mpsc::Receiver<(Command, oneshot::Sender<Result<(), String>>)>,
    pub journal: watch::Receiver<JournalView>,
    pub on_epoch: Arc<OnEpoch>,
}

/// What the driver itself has under way.
struct Chores {
    probes: JoinSet<()>,
    reports: mpsc::Sender<Event>,
    /// The hook is writing this epoch. One at a time: the disk may hang.
    opening: JoinSet<Event>,
    /// Who waits for the answer to the command that the core works on. The next command is taken when this one is answered.
    asker: Option<oneshot::Sender<Result<(), String>>>,
    /// What to tell him, once the view shows it.
    reply: Option<Result<(), String>>,
    /// Something changed that the view must show at once.
    changed: bool,
}

impl Driver {
    pub async fn run(mut self) {
        let (reports, mut reported) = mpsc::channel(PROBE_REPORTS_MAX);
        let mut chores = Chores {
            probes: JoinSet::new(),
            reports,
            opening: JoinSet::new(),
            asker: None,
            reply: None,
            changed: true,
        };
        self.step(Event::Tick, &mut chores);
        self.publish();
        let mut published = Instant::now();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let pause =
                self.core.next_deadline().map_or(HEARTBEAT, |(at, _)| at.since(self.clock.now()).min(HEARTBEAT));
            let planned = self.clock.now() + pause;
            let mut command = None;
            // The rare ones first: the stream of events must not drown them, and a fixed order makes a history repeatable.
            tokio::select! {
                biased;
                Some(asked) = self.commands.recv(), if chores.asker.is_none() => command = Some(asked),
                Some(Ok(event)) = chores.opening.join_next() => batch.push(event),
                Ok(()) = self.journal.changed() => {
                    let view = *self.journal.borrow_and_update();
                    batch.push(Event::Journal(view));
                }
                Some(event) = reported.recv() => batch.push(event),
                taken = self.events.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        return;
                    }
                }
                () = sleep(pause) => {}
            }
            if let Some(by) = self.clock.jump(planned) {
                self.step(Event::ClockJump { by }, &mut chores);
            }
            for event in batch.drain(..) {
                self.step(event, &mut chores);
            }
            while let Ok(event) = reported.try_recv() {
                self.step(event, &mut chores);
            }
            for event in self.crowds() {
                self.step(event, &mut chores);
            }
            if let Some((command, asker)) = command {
                chores.asker = Some(asker);
                self.step(Event::Operator(command), &mut chores);
            }
            self.step(Event::Tick, &mut chores);
            while chores.probes.try_join_next().is_some() {}
            if std::mem::take(&mut chores.changed) || published.elapsed() >= HEARTBEAT {
                self.publish();
                published = Instant::now();
            }
            if let Some(reply) = chores.reply.take()
                && let Some(asker) = chores.asker.take()
            {
                // Whoever asked may have gone.
                let _ = asker.send(reply);
            }
        }
    }

    fn step(&mut self, event: Event, chores: &mut Chores) {
        for action in self.core.step(self.clock.now(), event) {
            match action {
                Action::Probe { .. } if lacks(Mutant::Failover) => {}
                Action::Probe { id, site, class, fresh_connection, alternate_domain, overdue_after } => {
                    let probe = Probe { id, class, fresh_connection, alternate_domain, overdue_after };
                    let way = self.ways[site.index()].clone();
                    chores.probes.spawn(probe::run(probe, way, self.sentinel.clone(), chores.reports.clone()));
                }
                Action::OpenEpoch { epoch, master } => self.open_epoch(epoch, master, chores),
                Action::Note(note) => {
                    tell(&note);
                    chores.changed = true;
                }
                Action::Reply(reply) => {
                    chores.changed = true;
                    chores.reply = Some(reply);
                }
            }
        }
    }

    /// Decides alone, as one mount may: durable here means decided. A witness between several mounts would be asked in this place.
    fn open_epoch(&self, epoch: Epoch, master: Site, chores: &mut Chores) {
        if !chores.opening.is_empty() {
            log::warn!("epoch {epoch} waits: the last one is still being written");
            return;
        }
        let hook = self.on_epoch.clone();
        chores.opening.spawn(async move {
            match crate::clock::off_thread(move || hook(epoch, master)).await {
                Ok(Ok(())) => Event::EpochOpened { epoch, master },
                Ok(Err(reason)) => Event::EpochRefused { epoch, reason },
                Err(failed) => Event::EpochRefused { epoch, reason: failed.to_string() },
            }
        });
    }

    fn crowds(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (site, class) in Site::ALL.into_iter().flat_map(|s| Class::ALL.map(|c| (s, c))) {
            let [bad, good] = self.lanes.of(site, class).crowd.each_ref().map(|n| n.swap(0, Ordering::Relaxed));
            if good + bad > 0 {
                events.push(Event::Crowd { site, class, good, bad });
            }
        }
        events
    }

    /// First the view, then the cut: whoever is cut off finds the view that says why.
    fn publish(&self) {
        let view = Arc::new(self.core.view());
        self.views.send(Arc::clone(&view));
        self.lanes.follow(&view);
    }
}

/// One log line for each change, as loud as it matters.
fn tell(note: &Transition) {
    let level = match &note.change {
        Change::Linkage { to: Health::Up | Health::Suspect, .. } => log::Level::Info,
        Change::Linkage { .. } => log::Level::Warn,
        Change::System { to: State::BothDown | State::LocalOutage, .. } => log::Level::Error,
        Change::System { .. } | Change::Master { .. } | Change::Quarantine { .. } | Change::Alarm { .. } => {
            log::Level::Warn
        }
        Change::Latch { on: true } => log::Level::Error,
        Change::Latch { on: false } => log::Level::Info,
    };
    log::log!(level, "failover: {note}");
}
