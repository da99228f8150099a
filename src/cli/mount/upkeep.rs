//! What a running mount does besides serving files: alarms, figures, the service manager, and taking in a changed configuration.
//!
//! Nothing here is on the way of a request. The loop looks at the mount once a second (and when the view changes), in memory only; the watchdog asks
//! the kernel for the file system's figures, which the daemon answers without a bucket.
//!
//! Signals: HUP reads the configuration again and reopens the log; USR1 writes the state into the log; USR2 makes the log one step louder, and
//! quiet again after the loudest.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use sd_notify::NotifyState;

use super::daemon::Mounted;
use super::{detach, preflight};
use crate::alarm::{Alarms, Sight, watch};
use crate::cli::Failure;
use crate::config::{Config, Level};
use crate::control::{Daemon, Status};
use crate::metrics::{self, Figures, server};
use crate::object::Site;
use crate::origin::Origin;

/// Looks at the mount.
const LOOK: Duration = Duration::from_secs(1);
/// Looks are at least this far apart, however often the view changes.
const LOOK_MIN: Duration = Duration::from_millis(200);

/// Reads file and command line again, as at the start.
pub type Reload = Box<dyn Fn() -> Result<Config, Failure> + Send + Sync>;

pub struct Upkeep {
    mounted: Arc<Mounted>,
    alarms: Alarms,
    config: Mutex<Config>,
    reload: Reload,
    /// `None` in the foreground.
    log: Option<PathBuf>,
    /// What was found wrong with the buckets at the start.
    preflight: Vec<String>,
    conflicts: Mutex<u64>,
}

impl Upkeep {
    pub fn new(
        mounted: Arc<Mounted>,
        alarms: Alarms,
        config: &Config,
        reload: Reload,
        log: Option<PathBuf>,
        preflight: Vec<String>,
    ) -> Arc<Upkeep> {
        let (config, conflicts) = (Mutex::new(config.clone()), Mutex::new(0));
        Arc::new(Upkeep { mounted, alarms, config, reload, log, preflight, conflicts })
    }

    /// Begins. The mount answers already.
    pub async fn start(self: &Arc<Upkeep>) {
        let listen = self.config.lock().metrics.listen.clone();
        if let Some(listen) = listen.and_then(|listen| listen.parse().ok()) {
            let this = self.clone();
            // A port that somebody else has is no reason to be without files.
            match server::start(listen, Arc::new(move || this.figures())).await {
                Ok(address) => log::info!("metrics at http://{address}/metrics"),
                Err(error) => log::error!("metrics: cannot listen on {listen}: {error}"),
            }
        }
        let this = self.clone();
        tokio::spawn(async move { this.look_again_and_again().await });
        tell_manager(&[NotifyState::Ready, NotifyState::Status("the mount answers")]);
        if let Some(every) = watchdog_period() {
            tokio::spawn(watchdog(self.mounted.mountpoint().to_path_buf(), every));
        }
    }

    async fn look_again_and_again(&self) {
        let mut views = self.mounted.links().watch();
        let mut said = String::new();
        loop {
            self.look();
            let status = self.mounted.status();
            let line = format!(
                "{}, bucket {} is the master, {} writes unsent",
                status.state, status.master, status.journal.unsent
            );
            if line != said {
                tell_manager(&[NotifyState::Status(&line)]);
                said = line;
            }
            tokio::time::sleep(LOOK_MIN).await;
            // The view changes at least once a second; the limit is for the day it does not.
            if let Ok(Err(_)) = tokio::time::timeout(LOOK, views.changed()).await {
                return;
            }
        }
    }

    fn look(&self) {
        let (mounted, view) = (&self.mounted, self.mounted.links().view());
        let (conflicts, newest) = mounted.store().tally().conflicts();
        let fresh = std::mem::replace(&mut *self.conflicts.lock(), conflicts) < conflicts;
        let clients = Site::ALL.map(|site| mounted.links().client(site).clone());
        let sight = Sight {
            view: &view,
            journal: mounted.journal().stats(),
            lag: mounted.store().replication_lag(),
            ambiguous: mounted.store().oldest_ambiguous(),
            conflict: fresh.then_some(newest),
            missing: mounted.store().missing(),
            clock_ms: clients[0].clock().milliseconds(),
            preflight: &self.preflight,
            credentials: clients.iter().find_map(|client| client.credentials().trouble()),
            origin: mounted.store().origin().and_then(Origin::trouble),
        };
        self.alarms.see(&watch::sightings(&sight));
    }

    fn figures(&self) -> String {
        let status: Status = self.mounted.status();
        let client = self.mounted.links().client(Site::A);
        let left = |at: SystemTime| match at.duration_since(SystemTime::now()) {
            Ok(left) => left.as_secs_f64(),
            Err(gone) => -gone.duration().as_secs_f64(),
        };
        metrics::render(&Figures {
            status: &status,
            tally: self.mounted.store().tally(),
            alarms: &self.alarms,
            cdn: self.mounted.store().cdn(),
            origin: self.mounted.store().origin(),
            missing: self.mounted.store().missing(),
            clock_ms: client.clock().milliseconds(),
            credentials_expire_s: client.credentials().expires().map(left),
        })
    }

    /// SIGHUP. What cannot be changed while the mount runs is named and left as it is.
    pub fn hang_up(&self) {
        let now = || NotifyState::monotonic_usec_now();
        if let Ok(moment) = now() {
            tell_manager(&[NotifyState::Reloading, moment]);
        }
        if let Some(path) = &self.log
            && let Err(error) = detach::reopen_log(path)
        {
            log::error!("SIGHUP: the log {} cannot be opened again: {error}", path.display());
        }
        match (self.reload)() {
            Err(failure) => log::error!("SIGHUP: the configuration is wrong, nothing was changed: {}", failure.message),
            Ok(config) => self.take(config),
        }
        tell_manager(&[NotifyState::Ready]);
    }

    fn take(&self, fresh: Config) {
        let mut config = self.config.lock();
        let mut changed = Vec::new();
        if fresh.log.level != config.log.level {
            detach::set_log_level(fresh.log.level);
            config.log.level = fresh.log.level;
            changed.push("log.level");
        }
        if fresh.alarm != config.alarm {
            match self.alarms.configure(&fresh.alarm) {
                Ok(()) => {
                    config.alarm = fresh.alarm.clone();
                    changed.push("alarm");
                }
                Err(error) => log::error!("SIGHUP: {error}; the alarms stay as they were"),
            }
        }
        if fresh.credentials != config.credentials {
            match preflight::replace_credentials(self.mounted.links(), &fresh) {
                Ok(()) => {
                    config.credentials = fresh.credentials.clone();
                    changed.push("credentials");
                }
                Err(failure) => log::error!("SIGHUP: {}; the credentials stay as they were", failure.message),
            }
        }
        let rest = Config {
            log: config.log.clone(),
            alarm: config.alarm.clone(),
            credentials: config.credentials.clone(),
            ..fresh.clone()
        };
        let what = if changed.is_empty() { "nothing".into() } else { changed.join(", ") };
        log::info!("SIGHUP: taken in: {what}; credential files are read again by themselves");
        if rest != *config || fresh.log.file != config.log.file {
            log::warn!("SIGHUP: the configuration has other changes, too; they need a new mount");
        }
    }

    /// SIGUSR1.
    pub fn dump(&self) {
        match serde_json::to_string(&self.mounted.status()) {
            Ok(text) => log::warn!("SIGUSR1: {text}"),
            Err(error) => log::error!("SIGUSR1: {error}"),
        }
    }

    /// SIGUSR2.
    pub fn louder(&self) {
        let level = match self.config.lock().log.level {
            Level::Error => Level::Warn,
            Level::Warn => Level::Info,
            Level::Info => Level::Debug,
            Level::Debug => Level::Trace,
            Level::Trace => Level::Error,
        };
        self.config.lock().log.level = level;
        detach::set_log_level(level);
        log::error!("SIGUSR2: from here on lines of level {} and above", level.as_str());
    }
}

/// Says something to the service manager, if there is one.
pub fn tell_manager(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        log::debug!("service manager: {error}");
    }
}

/// How often the service manager wants a sign of life, if at all.
fn watchdog_period() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
        return None;
    }
    // Twice within the period, as systemd recommends, and a little earlier.
    number("WATCHDOG_USEC").map(|micros| Duration::from_micros(micros * 2 / 5))
}

/// The sign of life is an answer of the mount itself, through the kernel.
async fn watchdog(mountpoint: PathBuf, every: Duration) {
    loop {
        let point = mountpoint.clone();
        let asked = tokio::task::spawn_blocking(move || alive(&point)).await;
        match asked {
            Ok(Ok(())) => tell_manager(&[NotifyState::Watchdog]),
            Ok(Err(error)) => log::error!("watchdog: the mount does not answer: {error}"),
            Err(_) => return,
        }
        tokio::time::sleep(every).await;
    }
}

/// `statfs` always reaches the daemon; attributes could come from the kernel's cache.
fn alive(mountpoint: &Path) -> std::io::Result<()> {
    rustix::fs::statvfs(mountpoint).map(drop).map_err(Into::into)
}
