//! The daemon: all layers put together, from the first look at the journal to the last write sent.
//!
//! Order of the start: what is local first (journal, cache), because it decides whether the mount may start without a network; then the
//! buckets; then failover, store, file system; then the control socket, which also proves that nobody else serves this mount point; the
//! kernel last, because from then on programs wait for us.
//!
//! Order of the end: no new requests (unmount), then nothing unsent (drain), then the process. Whatever could not be sent is listed in the
//! log and lies in the journal.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use sd_notify::NotifyState;

use super::detach::Teller;
use super::upkeep::{Reload, Upkeep, tell_manager};
use super::{preflight, users};
use crate::alarm::Alarms;
use crate::cache::{self, Cache};
use crate::cdn::Cdn;
use crate::cli::{Exit, Failure};
use crate::config::{self, Config};
use crate::control::{
    self, Alarm, CacheUse, JournalDepth, Lag, Left, Linkage, MountFacts, OnProgress, Pending, PendingWrite, Progress,
    Server, ShutdownError, Status, Switch,
};
use crate::failover::{Command, Start, View};
use crate::fuse;
use crate::journal::{self, Journal, Op, Record};
use crate::linkage::Linkages;
use crate::object::{self, Class, Key, Site};
use crate::origin::Origin;
use crate::store::{Commit, Conflicts, HaStore, Options, SecondRegion, WhenUnreachable};
use crate::vfs::{self, Vfs, VfsOptions};

/// Between two figures while files are committed; the client gives up after a minute without any.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// How long SIGTERM waits for unsent writes. Service managers send SIGKILL after 90 s by default.
const TERM_DRAIN: Duration = Duration::from_secs(60);

/// How long a daemon without a mount (somebody unmounted it from outside) goes on sending.
const AFTERLIFE: Duration = Duration::from_secs(300);

/// How long programs may take to close their files after the mount is out of the tree.
const CLOSING: Duration = Duration::from_secs(10);

/// How long the mount waits for directories whose move was interrupted.
const MOVES_FIRST: Duration = Duration::from_secs(5);

/// How long tasks may take to notice that the process ends.
const RUNTIME_END: Duration = Duration::from_secs(3);

/// What probes name. Nothing is ever stored under it. It lies below the mounted folder, because a key may be allowed nothing else.
const SENTINEL: &str = "probe";

/// Serves the mount until it ends. `teller` reports to the command that started us; without it we are in the foreground.
pub fn run(config: &Config, mountpoint: &Path, teller: Option<&mut Teller>, reload: Reload) -> Result<Exit, Failure> {
    let log = teller.is_some().then(|| config.log_file());
    if teller.is_some() {
        super::detach::log_to_stderr(config.log.level);
        // Or the file system we were started from could never be unmounted.
        std::env::set_current_dir("/").map_err(|error| Failure::new(Exit::Failure, format!("chdir /: {error}")))?;
    }
    log::info!("cosfs-ha {} mounts at {}", env!("CARGO_PKG_VERSION"), mountpoint.display());
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .thread_name("cosfs-ha")
        .build()
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(life(config, mountpoint, log, teller, reload));
    runtime.shutdown_timeout(RUNTIME_END);
    match &result {
        Ok(exit) => log::info!("ended with code {}", *exit as u8),
        Err(failure) => log::error!("{failure}"),
    }
    result
}

async fn life(
    config: &Config,
    mountpoint: &Path,
    log: Option<PathBuf>,
    teller: Option<&mut Teller>,
    reload: Reload,
) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let shown = mountpoint.display().to_string();
    let alarms =
        Alarms::new(&config.alarm, &shown, &Handle::current()).map_err(|error| Failure::new(Exit::Config, error))?;
    let (journal_dir, cache_dir) = (config.journal_dir(), config.cache_dir());
    let journal = Arc::new(open_journal(config, &journal_dir)?);
    let cache = Arc::new(Cache::open(&cache_dir, config.cache.size.0).map_err(|error| {
        let code = if matches!(error, cache::Error::Locked { .. }) { Exit::MountPoint } else { Exit::Config };
        Failure::new(code, error.to_string())
    })?);
    let local = journal.stats().records > 0 || cache.stats().keys > 0;
    let clients = preflight::clients(config)?;
    let warnings = preflight::run(&clients, config, local).await?;
    for warning in &warnings {
        log::warn!("{warning}");
    }
    let mounted = Arc::new(Mounted::start(config, mountpoint, log.clone(), journal, cache, clients, alarms.clone())?);
    let server = serve(mountpoint, mounted.clone())?;
    // Usually done before anybody can look; with nothing to ask it goes on behind the mount.
    let moves = tokio::spawn(mounted.vfs.clone().finish_moves());
    let _ = tokio::time::timeout(MOVES_FIRST, moves).await;
    if let Err(failure) = mounted.mount(config, url(config)).await {
        server.stop().await;
        return Err(failure);
    }
    log::info!("{} answers", mountpoint.display());
    let upkeep = Upkeep::new(mounted.clone(), alarms, config, reload, log, warnings.clone());
    upkeep.start().await;
    if let Some(teller) = teller {
        teller.ready(warnings);
    }
    let left = tokio::select! {
        left = mounted.shut_down() => left,
        () = signals.end(&upkeep) => {
            tell_manager(&[NotifyState::Stopping]);
            mounted.end(TERM_DRAIN).await
        }
        // Also the middle of a shutdown by a command; `end` leaves that alone.
        () = mounted.unmounted() => mounted.end(AFTERLIFE).await,
    };
    server.stop().await;
    Ok(tell_left(&left))
}

/// What `mount` and `df` show as the source; in the form that the command line takes.
fn url(config: &Config) -> String {
    let prefix = config.mount.prefix.trim_end_matches('/');
    let slash = if prefix.is_empty() { "" } else { "/" };
    format!("cos://{}.cos.{}.myqcloud.com{slash}{prefix}", config.a.bucket, config.a.region)
}

/// The journal's limit: as configured, and never more than its disk could hold beside the database. So it is the journal that is full
/// first, which it answers with waiting, and not the disk.
fn limit(config: &Config, dir: &Path) -> u64 {
    const DATABASE: u64 = 16 << 20;
    let configured = config.journal.size.0;
    // The folder itself may not be there yet.
    let there = dir.ancestors().find(|folder| folder.exists()).unwrap_or(dir);
    match rustix::fs::statvfs(there) {
        Ok(stat) => {
            let disk = stat.f_blocks.saturating_mul(stat.f_frsize);
            let fits = disk.saturating_sub(DATABASE.max(disk / 10)).max(DATABASE / 2);
            if fits < configured {
                log::info!("the journal's disk holds {} MiB, so the journal takes at most {}", disk >> 20, fits >> 20);
            }
            configured.min(fits)
        }
        _ => configured,
    }
}

fn open_journal(config: &Config, dir: &Path) -> Result<Journal, Failure> {
    let (journal, recovery) = Journal::open(dir, limit(config, dir)).map_err(|error| {
        let code = match &error {
            journal::Error::Locked { .. } => Exit::MountPoint,
            journal::Error::Newer { .. } | journal::Error::Disk(_) => Exit::Config,
            _ => Exit::Failure,
        };
        Failure::new(code, format!("{error} ({})", dir.display()))
    })?;
    log::info!("journal: {recovery}");
    for aside in &recovery.set_aside {
        log::error!("journal: set aside {}: {}", aside.what, aside.why);
    }
    Ok(journal)
}

/// The control socket. Where a living daemon already listens, the mount point is taken.
fn serve(mountpoint: &Path, mounted: Arc<Mounted>) -> Result<Server, Failure> {
    let folder = control::place::folder();
    let socket = control::place::socket(&folder, mountpoint);
    control::place::make_folder(&folder).and_then(|()| Server::bind(&socket, mounted)).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AddrInUse {
            let shown = mountpoint.display();
            return Failure::new(Exit::MountPoint, format!("{shown} is already being served by another cosfs-ha"));
        }
        Failure::new(Exit::Failure, format!("control socket {}: {error}", socket.display()))
    })
}

fn tell_left(left: &Left) -> Exit {
    if left.unverified > 0 {
        log::info!("{} writes are in one bucket and not yet seen in the other", left.unverified);
    }
    for file in &left.lost {
        log::error!("the last changes to this file could not be kept: {file}");
    }
    if left.unsent.is_empty() {
        return if left.lost.is_empty() { Exit::Ok } else { Exit::LeftBehind };
    }
    log::error!("{} writes have not been sent; the journal keeps them for the next mount:", left.unsent.len());
    for item in left.unsent.iter().take(1000) {
        log::error!("  not sent: {}{}", if item.delete { "deletion of " } else { "" }, item.path);
    }
    Exit::LeftBehind
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user: [Signal; 2],
}

impl Signals {
    fn new() -> Result<Signals, Failure> {
        let take = |kind| signal(kind).map_err(|error| Failure::new(Exit::Failure, format!("signals: {error}")));
        Ok(Signals {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
            hangup: take(SignalKind::hangup())?,
            user: [take(SignalKind::user_defined1())?, take(SignalKind::user_defined2())?],
        })
    }

    /// Resolves when somebody asks the daemon to end; does what else signals ask for.
    async fn end(&mut self, upkeep: &Upkeep) {
        let [first, second] = &mut self.user;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return log::info!("SIGTERM: ending"),
                _ = self.interrupt.recv() => return log::info!("SIGINT: ending"),
                _ = self.hangup.recv() => upkeep.hang_up(),
                _ = first.recv() => upkeep.dump(),
                _ = second.recv() => upkeep.louder(),
            }
        }
    }
}

/// Everything behind one mount point.
pub struct Mounted {
    facts: MountFacts,
    mountpoint: PathBuf,
    prefix: String,
    journal: Arc<Journal>,
    cache: Arc<Cache>,
    links: Linkages,
    alarms: Alarms,
    store: Arc<HaStore>,
    vfs: Arc<Vfs<HaStore>>,
    /// Filled when the kernel has agreed.
    session: OnceLock<fuse::Mounted>,
    /// Somebody ends the mount.
    ending: AtomicBool,
    /// A command has ended the mount; what it left behind is on its way to the command, too.
    over: watch::Sender<Option<Left>>,
}

impl Mounted {
    fn start(
        config: &Config,
        mountpoint: &Path,
        log: Option<PathBuf>,
        journal: Arc<Journal>,
        cache: Arc<Cache>,
        clients: [crate::cos::Client; 2],
        alarms: Alarms,
    ) -> Result<Mounted, Failure> {
        let rt = Handle::current();
        let facts = MountFacts {
            mountpoint: mountpoint.display().to_string(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            since: seconds(SystemTime::now()),
            commit: config.mount.commit.as_str().into(),
            read_only: config.mount.read_only,
            a: clients[0].address().host(false),
            b: clients[1].address().host(false),
            log: log.map(|path| path.display().to_string()),
        };
        crate::mutant::choose_by_environment();
        let (epoch, master) = journal.epoch();
        let keeper = journal.clone();
        let links = Linkages::start(
            clients,
            config.failover.clone(),
            Start { epoch, master },
            object::own(&config.mount.prefix, SENTINEL)
                .map_err(|error| Failure::new(Exit::Failure, error.to_string()))?,
            Box::new(move |epoch, master| keeper.set_epoch(epoch, master).map_err(|error| error.to_string())),
            &rt,
        );
        let options = Options {
            commit: match config.mount.commit {
                config::Commit::Journal => Commit::Journal,
                config::Commit::OneRegion => Commit::OneRegion,
                config::Commit::TwoRegions => Commit::TwoRegions,
            },
            when_unreachable: match config.mount.when_unreachable {
                config::Unreachable::Journal => WhenUnreachable::Journal,
                config::Unreachable::Error => WhenUnreachable::Error,
            },
            second_region: match config.mount.second_region {
                config::SecondRegion::Degrade => SecondRegion::Degrade,
                config::SecondRegion::Block => SecondRegion::Block,
            },
            conflicts: match config.mount.conflicts {
                config::Conflicts::Lww => Conflicts::Lww,
                config::Conflicts::Copy => Conflicts::Copy,
                config::Conflicts::Off => Conflicts::Off,
            },
            trust_unaudited: config.mount.unaudited == config::Unaudited::Trust,
            sync_interval: config.mount.sync_interval,
            max_stall: config.mount.max_stall,
            prefix: config.mount.prefix.clone(),
            cdn: Cdn::new(&config.cdn, links.client(Site::A).clock().clone())
                .map_err(|error| Failure::new(Exit::Config, error))?
                .map(Arc::new),
            origin: Origin::open(&config.origin, &config.journal_dir())
                .map_err(|error| Failure::new(Exit::Config, error))?
                .map(Arc::new),
            coverage_file: Some(config.journal_dir().join("coverage.json")),
            canary_every: crate::store::canary::pace(&config.failover),
            late_commit: config.failover.late_commit,
            lag_max: config.failover.lag_max,
            ..Options::default()
        };
        let store = Arc::new(HaStore::start(links.clone(), journal.clone(), cache.clone(), options, rt.clone()));
        let options = VfsOptions {
            prefix: config.mount.prefix.clone(),
            metadata_ttl: config.mount.metadata_ttl,
            max_stall: config.mount.max_stall,
            uid: config.mount.uid,
            gid: config.mount.gid,
            umask: config.mount.umask.0,
            default_uid: rustix::process::geteuid().as_raw(),
            default_gid: rustix::process::getegid().as_raw(),
            read_only: config.mount.read_only,
            ..VfsOptions::default()
        };
        let vfs = Vfs::new(store.clone(), options, rt.clone());
        Ok(Mounted {
            facts,
            mountpoint: mountpoint.to_path_buf(),
            prefix: config.mount.prefix.clone(),
            journal,
            cache,
            links,
            alarms,
            store,
            vfs,
            session: OnceLock::new(),
            ending: AtomicBool::new(false),
            over: watch::Sender::new(None),
        })
    }

    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    pub fn links(&self) -> &Linkages {
        &self.links
    }

    pub fn store(&self) -> &HaStore {
        &self.store
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// A path as the user knows it.
    fn shown(&self, key: &Key) -> String {
        key.as_str().strip_prefix(&self.prefix).unwrap_or(key.as_str()).to_string()
    }

    fn pending(&self) -> Vec<PendingWrite> {
        let dirty = self.vfs.uncommitted().into_iter();
        let dirty = dirty.map(|path| PendingWrite { path, bytes: 0, delete: false, state: "dirty".into() });
        let mut records = self.journal.all();
        records.sort_by_key(|record| record.seq);
        let recorded = records.iter().map(|record| PendingWrite {
            path: self.shown(&record.key),
            bytes: match &record.op {
                Op::Put { size, .. } => *size,
                Op::Delete { .. } => 0,
            },
            delete: matches!(record.op, Op::Delete { .. }),
            state: record.stage().as_str().into(),
        });
        dirty.chain(recorded).take(control::PENDING_LISTED).collect()
    }

    /// What the present master does not have.
    fn left(&self) -> Left {
        let master = self.links.view().master;
        let mut records = self.journal.all();
        records.sort_by_key(|record| record.seq);
        let has = |record: &Record, site: Site| record.acked[site.index()].is_some() || record.verified[site.index()];
        let unsent: Vec<Pending> = records
            .iter()
            .filter(|record| !has(record, master))
            .map(|record| {
                let (bytes, delete) = match &record.op {
                    Op::Put { size, .. } => (*size, false),
                    Op::Delete { .. } => (0, true),
                };
                Pending { path: self.shown(&record.key), bytes, delete, elsewhere: has(record, master.other()) }
            })
            .collect();
        let unverified = (records.len() - unsent.len()) as u64;
        Left { unsent, unverified, lost: Vec::new() }
    }

    /// Commits what programs have closed. That can take as long as a bucket takes, and whoever waits for the figures wants to see some.
    async fn flushed(&self, until: Instant, mut progress: impl FnMut(Progress)) -> Vec<(String, vfs::Error)> {
        let flushed = self.vfs.flush_all(until.into());
        tokio::pin!(flushed);
        loop {
            match tokio::time::timeout(PROGRESS_EVERY, &mut flushed).await {
                Ok(lost) => return lost,
                Err(_) => drop(self.tell_left(&mut progress)),
            }
        }
    }

    fn tell_left(&self, mut progress: impl FnMut(Progress)) -> Left {
        let left = self.left();
        let bytes = left.unsent.iter().map(|item| item.bytes).sum();
        progress(Progress { unsent: left.unsent.len() as u64, bytes });
        left
    }

    async fn drained(&self, until: Instant, mut progress: impl FnMut(Progress)) -> Left {
        loop {
            let left = self.tell_left(&mut progress);
            if left.unsent.is_empty() || Instant::now() >= until {
                return left;
            }
            // Four looks a second: quick enough for a person, and a look at 100 000 records costs milliseconds.
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Shows the file system to the kernel.
    async fn mount(&self, config: &Config, url: String) -> Result<(), Failure> {
        let options = fuse::MountOptions {
            mountpoint: self.mountpoint.clone(),
            source: url,
            read_only: config.mount.read_only,
            noexec: config.mount.noexec,
            suid: config.mount.suid,
            dev: config.mount.dev,
            sync: config.mount.sync,
            allow_other: config.mount.allow_other,
            nonempty: config.mount.nonempty,
            ..fuse::MountOptions::default()
        };
        let (vfs, rt) = (self.vfs.clone(), Handle::current());
        // Talks to the kernel and perhaps to fusermount3.
        let mounted = tokio::task::spawn_blocking(move || fuse::mount(vfs, options, rt)).await;
        let mounted = mounted.map_err(|error| Failure::new(Exit::Failure, format!("cannot mount: {error}")))?;
        let session = mounted.map_err(|error| Failure::new(Exit::MountPoint, error.to_string()))?;
        // Called once.
        let _ = self.session.set(session);
        Ok(())
    }

    /// Resolves when the kernel's side has ended.
    async fn unmounted(&self) {
        match self.session.get() {
            Some(session) => {
                if let Err(error) = session.wait().await {
                    log::error!("the session with the kernel broke: {error}");
                }
            }
            None => std::future::pending().await,
        }
    }

    /// Resolves when a command has ended the mount.
    async fn shut_down(&self) -> Left {
        let mut over = self.over.subscribe();
        let left = over.wait_for(Option::is_some).await.map(|left| left.clone());
        // The sender is ours, so it cannot be gone.
        left.ok().flatten().unwrap_or_default()
    }

    /// Takes the mount out of the tree, lets open files finish, and sends what is left.
    async fn finish(&self, until: Instant, mut progress: impl FnMut(Progress)) -> Result<Left, String> {
        if let Some(session) = self.session.get() {
            session.unmount().map_err(|error| error.to_string())?;
            if tokio::time::timeout(CLOSING, self.unmounted()).await.is_err() {
                log::warn!("programs still have files open; ending without them");
            }
        }
        let lost = self.flushed(until, &mut progress).await;
        let mut left = self.drained(until, progress).await;
        left.lost = lost.into_iter().map(|(path, error)| format!("{path}: {error}")).collect();
        Ok(left)
    }

    /// Ends the mount whether it is in use or not.
    async fn end(&self, drain: Duration) -> Left {
        if self.ending.swap(true, Ordering::Relaxed) {
            return self.shut_down().await;
        }
        log::info!("sending what is left, for at most {} s", drain.as_secs());
        match self.finish(Instant::now() + drain, |_| {}).await {
            Ok(left) => left,
            Err(error) => {
                log::error!("cannot unmount: {error}");
                self.left()
            }
        }
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl control::Daemon for Mounted {
    fn status(&self) -> Status {
        let view: Arc<View> = self.links.view();
        let millis = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let linkages = Site::ALL
            .into_iter()
            .flat_map(|site| Class::ALL.map(|class| (site, class)))
            .map(|(site, class)| {
                let linkage = view.linkage(site, class);
                Linkage {
                    site,
                    class,
                    health: linkage.health.to_string(),
                    rtt_ms_p50: linkage.rtt_p50.map(millis),
                    rtt_ms_p99: linkage.rtt_p99.map(millis),
                    overdue_after_ms: millis(linkage.overdue_after),
                }
            })
            .collect();
        let switches = view.switches.iter().map(|switch| Switch {
            at: seconds(self.links.wall_clock(switch.at)),
            from: switch.from,
            to: switch.to,
            epoch: switch.epoch.0,
            automatic: switch.automatic,
            reason: switch.reason.clone(),
        });
        let (journal, cache) = (self.journal.stats(), self.cache.stats());
        let [a_to_b, b_to_a] = self.store.replication_lag();
        Status {
            state: view.state.to_string(),
            master: view.master,
            epoch: view.epoch.0,
            explain: view.explain.clone(),
            latched: view.latched,
            linkages,
            journal: JournalDepth {
                records: journal.records,
                bytes: journal.bytes,
                limit: journal.limit,
                unsent: journal.unsent,
                unverified: journal.unverified,
                oldest_s: journal.oldest.unwrap_or_default().as_secs_f64(),
            },
            pending: self.pending(),
            replication_lag_s: Lag { a_to_b: Some(a_to_b), b_to_a: Some(b_to_a) },
            cache: CacheUse { bytes: cache.bytes, limit: cache.limit },
            switches: switches.collect(),
            alarms: self
                .alarms
                .active()
                .into_iter()
                .map(|alarm| Alarm {
                    event: alarm.event.name().into(),
                    for_s: alarm.standing.as_secs_f64(),
                    summary: alarm.summary,
                })
                .collect(),
            mount: self.facts.clone(),
        }
    }

    fn switch(&self, to: Site, reason: String) -> BoxFuture<'_, Result<(), String>> {
        self.links.command(Command::Switch { to, reason }).boxed()
    }

    fn auto(&self) -> BoxFuture<'_, Result<(), String>> {
        self.links.command(Command::Auto).boxed()
    }

    fn drain(&self, until: Instant, progress: OnProgress) -> BoxFuture<'_, Left> {
        async move {
            // What programs have open and unsaved belongs to them; closed files whose commit failed belong to us.
            let mut progress = progress;
            self.flushed(until, &mut progress).await;
            self.drained(until, progress).await
        }
        .boxed()
    }

    fn shutdown(&self, until: Instant, progress: OnProgress) -> BoxFuture<'_, Result<Left, ShutdownError>> {
        async move {
            if self.ending.swap(true, Ordering::Relaxed) {
                return Err(ShutdownError::Failed("the mount is being ended already".into()));
            }
            let who = users::users(&self.mountpoint);
            let done = match who.as_slice() {
                [] => self.finish(until, progress).await.map_err(ShutdownError::Failed),
                who => Err(ShutdownError::Busy(format!("used by {}", who.join(", ")))),
            };
            match &done {
                Ok(left) => drop(self.over.send_replace(Some(left.clone()))),
                Err(_) => self.ending.store(false, Ordering::Relaxed),
            }
            done
        }
        .boxed()
    }
}
