//! One history from its seed to its verdict.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use cosfs_ha::clock::Simulation;
use cosfs_ha::emulator::Current;
use cosfs_ha::failover::Command;
use cosfs_ha::object::Site;
use cosfs_ha::store::Commit;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::history::{Flaw, History, Op, by_key, content, explain, flaw, value_of, went_back};
use super::linear::Act;
use super::mount::{Mount, Scratch};
use super::programs::{FIRST, ONLY_A, OWN, PATIENCE, SHARED, Stage, initial, work};
use super::regions::Regions;
use super::story::{Event, Plot, Story};

/// Time for everything to be replicated, verified and forgotten after the last trouble.
const CALM_MAX: Duration = Duration::from_secs(40 * 60);
/// An answer may come this much after the caller's deadline: timers, and the last step of a loop.
const LATE: Duration = Duration::from_millis(1500);

/// Writes are held back no longer than this at a failback.
const HOLD: Duration = Duration::from_secs(2);

/// What one history showed.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub lost: Vec<String>,
    pub stale: Vec<String>,
    pub backward: Vec<String>,
    pub diverged: Vec<String>,
    pub wrong_errors: Vec<String>,
    pub wrong_switches: Vec<String>,
    pub longest_stall: Duration,
    pub ops: usize,
    pub requests: u64,
    pub trace: u64,
    pub switches: usize,
    /// A fourth switch was wanted and refused.
    pub latched: bool,
    pub virtual_time: Duration,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.flaws().next().is_none()
    }

    pub fn flaws(&self) -> impl Iterator<Item = (&'static str, &String)> {
        [
            ("lost", &self.lost),
            ("stale", &self.stale),
            ("backward", &self.backward),
            ("diverged", &self.diverged),
            ("wrong error", &self.wrong_errors),
            ("wrong switch", &self.wrong_switches),
        ]
        .into_iter()
        .flat_map(|(name, list)| list.iter().map(move |text| (name, text)))
    }
}

/// What the last moments showed.
struct End {
    calm: Result<(), String>,
    buckets: [BTreeMap<String, Option<u64>>; 2],
    at: Duration,
    switches: Vec<String>,
    latched: bool,
}

enum Over {
    Crashed { lose_cache: bool },
    Done(End),
}

pub fn run(story: &Story, tell: bool) -> Result<Verdict, String> {
    let scratch = Scratch::new(story.seed).map_err(|e| format!("scratch directory: {e}"))?;
    let mut events = story.events.clone();
    events.reverse();
    let history = Arc::new(History::default());
    let values = Arc::new(AtomicU64::new(FIRST));
    let switches = Arc::new(Mutex::new(Vec::new()));
    let mut world: Option<(Simulation, Arc<Regions>)> = None;
    let mut reached = Duration::ZERO;
    for incarnation in 0.. {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|e| e.to_string())?;
        let over = runtime.block_on(async {
            let regions = match &world {
                None => {
                    let simulation = Simulation::begin(story.seed);
                    let regions = Regions::new(story.seed, story.lag, tell)?;
                    fill(&regions, story);
                    world = Some((simulation, Arc::clone(&regions)));
                    regions
                }
                Some((simulation, regions)) => {
                    regions.moved(simulation.go_on(reached).await);
                    Arc::clone(regions)
                }
            };
            tokio::spawn(Arc::clone(&regions).run());
            let mount = Mount::start(&regions, scratch.path(), story.tuning.clone(), story.options.clone())?;
            let stage =
                Stage { regions: Arc::clone(&regions), history: history.clone(), values: values.clone(), incarnation };
            let over = live(story, &stage, &mount, &mut events, &switches).await;
            reached = regions.now();
            Ok::<Over, String>(over)
        })?;
        drop(runtime);
        match over {
            Over::Crashed { lose_cache } => {
                if lose_cache {
                    let _ = std::fs::remove_dir_all(scratch.path().join("cache"));
                }
            }
            Over::Done(end) => {
                let Some((_, regions)) = &world else { return Err("no world".into()) };
                let mut verdict = judge(story, &history, &end);
                verdict.requests = regions.requests();
                verdict.trace = regions.trace();
                verdict.virtual_time = end.at;
                return Ok(verdict);
            }
        }
    }
    Err("no end".into())
}

/// What is in the buckets before the mount begins.
fn fill(regions: &Arc<Regions>, story: &Story) {
    regions.inside.set_current(story.current);
    for key in OWN.iter().chain(&ONLY_A).chain(&SHARED) {
        if initial(key) == Some(FIRST) {
            regions.foreign(Site::A, "PUT", key, content(FIRST, 100));
            if !ONLY_A.contains(key) {
                continue;
            }
        }
    }
    // Old objects were never replicated; the others arrive before anything else happens.
    regions.inside.arrive(|key| !ONLY_A.contains(&key));
}

async fn live(
    story: &Story,
    stage: &Stage,
    mount: &Mount,
    events: &mut Vec<(Duration, Event)>,
    switches: &Arc<Mutex<Vec<String>>>,
) -> Over {
    let regions = &stage.regions;
    let mut programs = Vec::new();
    for program in 0..story.programs {
        let seed = story.seed.wrapping_mul(1009) ^ u64::from(program * 31 + stage.incarnation);
        let shared = story.plot == Plot::Foreigners;
        programs.push(tokio::spawn(work(stage.clone(), mount.store.clone(), seed, story.pace, shared, story.busy)));
    }
    if story.storm {
        programs.push(tokio::spawn(stage.clone().storm(mount.store.clone(), story.busy)));
    }
    tokio::spawn(watch(mount.links.clone(), Arc::clone(switches), stage.clone(), story.clone()));
    while let Some((at, event)) = events.pop() {
        tokio::time::sleep_until(regions.instant(at)).await;
        log::info!("{at:?}: {event:?}");
        match event {
            Event::Begin(id, fault) => regions.begin(id, fault),
            Event::End(id) => regions.end(id),
            Event::Replication(change) => regions.replication(change),
            Event::Crash { lose_cache } => {
                mount.kill();
                return Over::Crashed { lose_cache };
            }
            Event::Switch(to) => {
                let _ = mount.links.command(Command::Switch { to, reason: "the story says so".into() }).await;
            }
            Event::Auto => {
                let _ = mount.links.command(Command::Auto).await;
            }
            Event::Foreign(site) => {
                let value = stage.values.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                let key = SHARED[(value % 2) as usize];
                // Of eight, two remove; the keys take turns.
                let written = (value % 8 < 6).then_some(value);
                match written {
                    Some(value) => regions.foreign(site, "PUT", key, content(value, 200)),
                    None => regions.foreign(site, "DELETE", key, bytes::Bytes::new()),
                };
                stage.history.foreign(key, regions.now(), Act::Write(written));
            }
        }
    }
    tokio::time::sleep_until(regions.instant(story.busy)).await;
    for program in programs {
        let _ = tokio::time::timeout(3 * PATIENCE, program).await;
    }
    let latched = mount.links.view().latched;
    let calm = calm(story, stage, mount).await;
    for key in OWN.iter().chain(&ONLY_A) {
        stage.read(&mount.store, key).await;
    }
    stage.list(&mount.store).await;
    let buckets = Site::ALL.map(|site| {
        let shelved = regions.current(site).into_iter().filter(|(key, _)| !key.starts_with('.'));
        let value = |key: &str, bytes: &[u8]| {
            value_of(key, bytes).unwrap_or_else(|wrong| {
                stage.history.wrong.lock().push(format!("bucket {site}: {wrong}"));
                u64::MAX
            })
        };
        shelved.map(|(key, s)| (key.clone(), s.content.map(|bytes| value(&key, &bytes)))).collect()
    });
    let switches = switches.lock().clone();
    Over::Done(End { calm, buckets, at: regions.now(), switches, latched })
}

/// Waits until everything that can be brought home is there.
async fn calm(story: &Story, stage: &Stage, mount: &Mount) -> Result<(), String> {
    let regions = &stage.regions;
    let until = Instant::now() + CALM_MAX;
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let left = mount.store.pending();
        let done = match story.gone {
            // The journal keeps what the lost region does not have.
            Some(_) => left.iter().all(|p| !p.unsent),
            None => left.is_empty() && Site::ALL.iter().all(|site| regions.inside.backlog(*site) == 0),
        };
        if done {
            return Ok(());
        }
        if Instant::now() >= until {
            let view = mount.links.view();
            return Err(format!(
                "{} writes still on their way, first {:?}; {}",
                left.len(),
                left.first(),
                view.explain
            ));
        }
    }
}

/// Notes every change of master.
async fn watch(links: cosfs_ha::linkage::Linkages, switches: Arc<Mutex<Vec<String>>>, stage: Stage, story: Story) {
    let mut views = links.watch();
    let mut known = 0;
    loop {
        let view = views.borrow_and_update();
        for record in view.switches.iter().filter(|r| r.epoch.0 > known) {
            let how = if record.automatic { "by itself" } else { "by order" };
            if record.reason.starts_with("failback") && story.current == Current::NewestVersion {
                check_drained(&stage, &story, record.to);
            }
            switches.lock().push(format!("{} to {} {how}: {}", record.from, record.to, record.reason));
        }
        known = view.switches.last().map_or(known, |r| r.epoch.0);
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// A mount that goes back by itself goes back to a bucket that has everything.
fn check_drained(stage: &Stage, story: &Story, to: Site) {
    let there = stage.regions.current(to);
    for (key, calls) in by_key(&stage.history.ops()) {
        let writes: Vec<_> = calls.iter().filter(|c| matches!(c.act, Act::Write(_))).collect();
        let Some(last) = writes.iter().max_by_key(|c| c.begin) else { continue };
        // What the journal alone acknowledged while writes were held back goes to the new master first.
        let held = story.options.commit == Commit::Journal && last.begin + HOLD > stage.regions.now();
        if held {
            continue;
        }
        let alone = last.end.is_some_and(|_| writes.iter().all(|c| c == last || c.end.is_some_and(|e| e < last.begin)));
        if !alone || SHARED.contains(&key) {
            continue;
        }
        let there = there.get(key).and_then(|s| s.content.as_ref()).and_then(|bytes| value_of(key, bytes).ok());
        if Act::Write(there) != last.act {
            let text = format!("{key}: failback to {to}, which has {there:?}, after {last:?}");
            stage.history.wrong.lock().push(text);
        }
    }
}

fn judge(story: &Story, history: &History, end: &End) -> Verdict {
    let ops = history.ops();
    if log::log_enabled!(log::Level::Info) {
        ops.iter().for_each(|op| {
            log::info!(
                "{} {:?} {:?}..{:?} {}",
                op.key,
                op.call.act,
                op.call.begin,
                op.answered,
                op.error.as_deref().unwrap_or("")
            )
        });
    }
    let mut verdict =
        Verdict { ops: ops.len(), switches: end.switches.len(), latched: end.latched, ..Verdict::default() };
    for wrong in history.wrong.lock().iter() {
        verdict.stale.push(wrong.clone());
    }
    if let Err(why) = &end.calm {
        verdict.diverged.push(why.clone());
    }
    judge_errors(story, &ops, &mut verdict);
    judge_contents(story, &ops, end, &mut verdict);
    if story.no_switch && !end.switches.is_empty() {
        verdict.wrong_switches.extend(end.switches.iter().cloned());
    }
    let automatic = end.switches.iter().filter(|s| s.contains("by itself")).count();
    let limit = story.tuning.switches_per_hour as usize;
    // Each life of the mount counts anew.
    let lives = 1 + story.events.iter().filter(|(_, e)| matches!(e, Event::Crash { .. })).count();
    if automatic > limit * lives {
        verdict.wrong_switches.push(format!("{automatic} automatic switches: {:?}", end.switches));
    }
    verdict
}

fn judge_errors(story: &Story, ops: &[Op], verdict: &mut Verdict) {
    for op in ops.iter().filter(|op| !op.foreign) {
        let Some(answered) = op.answered else { continue };
        let begin = op.call.begin;
        let took = answered - begin;
        if took > PATIENCE + LATE {
            verdict.wrong_errors.push(format!("{}: answered only after {took:?}, at {begin:?}", op.key));
        }
        let excused = story.nobody_well(begin, answered);
        if !excused {
            verdict.longest_stall = verdict.longest_stall.max(took);
        }
        let Some(error) = &op.error else { continue };
        let denied = story.denied && error.contains("permissions");
        // An object that only one region has cannot be had without it.
        let only_there = ONLY_A.contains(&op.key.as_str()) && story.was_bad(Site::A, begin, answered);
        // Nor can what somebody else wrote into a region that is gone since, if this mount never read it.
        let foreign = SHARED.contains(&op.key.as_str()) && Site::ALL.iter().any(|s| story.was_bad(*s, begin, answered));
        if !excused && !denied && !only_there && !foreign {
            verdict.wrong_errors.push(format!("{} {:?} at {begin:?}, after {took:?}: {error}", op.key, op.call.act));
        }
    }
}

fn judge_contents(story: &Story, ops: &[Op], end: &End, verdict: &mut Verdict) {
    let histories = by_key(ops);
    for key in OWN.iter().chain(&ONLY_A) {
        let empty = Vec::new();
        let calls = histories.get(key).unwrap_or(&empty);
        // Where the last arrival is current, a bucket may list for a moment what is overwritten already; a listing has no proof against it.
        let calls: Vec<_> = match story.current {
            Current::LastArrival => calls.iter().copied().filter(|c| !matches!(c.act, Act::Listed(_))).collect(),
            Current::NewestVersion => calls.clone(),
        };
        let calls = &calls;
        if let Err(call) = explain(initial(key), calls, &[], end.at) {
            let text = format!("{key}: no order explains {call:?}");
            match flaw(calls) {
                Flaw::Stale => verdict.stale.push(text),
                Flaw::Backward => verdict.backward.push(text),
            }
            continue;
        }
        if ONLY_A.contains(key) {
            continue;
        }
        let [a, b] = Site::ALL.map(|site| end.buckets[site.index()].get(*key).copied().flatten());
        match story.gone {
            Some(gone) => {
                let left = if gone == Site::A { b } else { a };
                if explain(initial(key), calls, &[left], end.at).is_err() {
                    verdict.lost.push(format!("{key}: in the end {left:?} in what is left"));
                }
            }
            None if a != b => verdict.diverged.push(format!("{key}: in the end {a:?} in a, {b:?} in b")),
            None => {
                if explain(initial(key), calls, &[a], end.at).is_err() {
                    verdict.lost.push(format!("{key}: in the end {a:?} in both buckets"));
                }
            }
        }
    }
    for key in SHARED {
        let Some(calls) = histories.get(key) else { continue };
        if let Some(call) = went_back(calls) {
            verdict.backward.push(format!("{key}: went back with {call:?}"));
        }
        let [a, b] = Site::ALL.map(|site| end.buckets[site.index()].get(key).copied().flatten());
        // Two programs that write into two buckets at the same time diverge where the last arrival is current; no mount can help that.
        if story.current == Current::LastArrival {
            continue;
        }
        if a != b {
            verdict.diverged.push(format!("{key}: in the end {a:?} in a, {b:?} in b"));
        }
        // What others write is seen here once it is replicated; but nothing acknowledged may be undone by something older.
        let writes: Vec<_> = calls.iter().copied().filter(|c| matches!(c.act, Act::Write(_))).collect();
        if explain(initial(key), &writes, &[a], end.at).is_err() {
            verdict.lost.push(format!("{key}: an older write is current in the end: {a:?}"));
        }
    }
}
