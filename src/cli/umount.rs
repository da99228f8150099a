//! `cosfs-ha umount`: send what is left, then end the mount.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::{Exit, Failure};
use crate::control::{Client, ClientError, Line, Pending, Progress, Request, place};

/// End a mount after everything written to it has arrived in its present master bucket.
///
/// Programs can go on using the mount while it drains. If the time is over before everything has arrived, the mount ends all the same, the
/// command lists what is left and exits with 7; what is left stays in the journal, and the next mount of the same buckets sends it.
#[derive(Args, Debug)]
pub struct UmountArgs {
    /// Where it is mounted
    pub mountpoint: PathBuf,
    /// How many seconds to wait for the rest to be sent
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
    pub timeout: f64,
}

/// Time for the second look, after the mount is gone, even if draining used up the whole timeout: a write that was finished between the two
/// looks gets a chance, and a healthy region needs far less.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// After its last answer a daemon only has to close its files.
const DAEMON_END: Duration = Duration::from_secs(15);

pub fn run(args: &UmountArgs) -> Result<Exit, Failure> {
    let timeout = Duration::try_from_secs_f64(args.timeout)
        .map_err(|_| Failure::new(Exit::Usage, "--timeout takes a number of seconds, 0 or more"))?;
    let until = Instant::now() + timeout.min(Duration::from_secs(24 * 3600));
    let client = match Client::connect(&args.mountpoint) {
        Ok(client) => client,
        Err(ClientError::Dead(path)) => return bury(&path),
        Err(error) => return Err(refusal(error)),
    };
    let mut shown = Shown::default();
    let left = |until: Instant| until.saturating_duration_since(Instant::now()).as_secs_f64();
    client.ask(&Request::Drain { timeout_s: left(until) }, |now| shown.see(now)).map_err(refusal)?;
    let daemon = daemon_of(&args.mountpoint);
    let client = Client::connect(&args.mountpoint).map_err(refusal)?;
    let timeout_s = left(until).max(LAST_LOOK.as_secs_f64().min(timeout.as_secs_f64()));
    let answer = client.ask(&Request::Shutdown { timeout_s }, |now| shown.see(now));
    shown.end();
    if let (Ok(_), Some(pid)) = (&answer, daemon) {
        await_end(pid);
    }
    let Line::Left(left) = answer.map_err(refusal)? else {
        return Err(Failure::new(Exit::Failure, "the daemon answered with something else than was asked for"));
    };
    if left.unverified > 0 {
        eprintln!(
            "cosfs-ha: {} writes are in one bucket and not yet seen in the other; replication carries them over, and the next mount checks it",
            left.unverified
        );
    }
    for file in &left.lost {
        eprintln!("cosfs-ha: the last changes to this file could not be kept: {file}");
    }
    if left.unsent.is_empty() {
        return Ok(if left.lost.is_empty() { Exit::Ok } else { Exit::LeftBehind });
    }
    eprintln!("cosfs-ha: unmounted, but {} writes have not been sent:", left.unsent.len());
    list(&left.unsent);
    eprintln!("They are safe in the journal on this host; the next mount of the same buckets sends them.");
    Ok(Exit::LeftBehind)
}

/// The process that serves a mount.
fn daemon_of(mountpoint: &Path) -> Option<rustix::process::Pid> {
    match Client::connect(mountpoint).ok()?.ask(&Request::Status, |_| {}).ok()? {
        Line::Status(status) => rustix::process::Pid::from_raw(i32::try_from(status.mount.pid).ok()?),
        _ => None,
    }
}

/// The journal and the cache belong to the daemon until it has ended: whoever mounts again next must find them free.
fn await_end(pid: rustix::process::Pid) {
    let until = Instant::now() + DAEMON_END;
    while lives(pid) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that has ended but whose parent has not looked yet (`Z`) holds nothing any more.
fn lives(pid: rustix::process::Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// How a command words what the control socket refused.
pub fn refusal(error: ClientError) -> Failure {
    let code = match &error {
        ClientError::NotMounted(_) | ClientError::Dead(_) | ClientError::NotYours(_) | ClientError::Busy(_) => {
            Exit::MountPoint
        }
        ClientError::Silent(_) | ClientError::Strange(_) | ClientError::Refused(_) => Exit::Failure,
    };
    let message = match error {
        ClientError::Busy(who) => format!("the mount is in use, nothing was changed: {who}"),
        other => other.to_string(),
    };
    Failure::new(code, message)
}

/// At most this many lines; a terminal shows no more, and the count stands above.
const LISTED: usize = 50;

fn list(left: &[Pending]) {
    for item in left.iter().take(LISTED) {
        let what = if item.delete { "deletion".to_string() } else { HumanBytes(item.bytes).to_string() };
        let place = if item.elsewhere { "in the other bucket only" } else { "in no bucket yet" };
        eprintln!("  {}  ({what}, {place})", item.path);
    }
    if left.len() > LISTED {
        eprintln!("  ... and {} more", left.len() - LISTED);
    }
}

/// Takes away the mount of a daemon that was killed; every access to it answers "Transport endpoint is not connected" until then.
fn bury(mountpoint: &Path) -> Result<Exit, Failure> {
    let failed =
        |why: String| Failure::new(Exit::MountPoint, format!("cannot unmount {}: {why}", mountpoint.display()));
    let output = std::process::Command::new("fusermount3")
        .args(["-u", "-z", "--"])
        .arg(mountpoint)
        .output()
        .map_err(|error| failed(format!("fusermount3: {error}")))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_string()));
    }
    if place::is_ours(mountpoint) {
        return Err(failed("another dead mount lies below it; repeat the command".into()));
    }
    eprintln!(
        "cosfs-ha: the daemon of {} had been killed; its mount is gone now. Whatever it had not sent is in the journal, and the next \
         mount of the same buckets sends it.",
        mountpoint.display()
    );
    Ok(Exit::LeftBehind)
}

/// A bar on a terminal, else a line now and then, so that a log shows that something happens.
#[derive(Default)]
struct Shown {
    bar: Option<ProgressBar>,
    most: u64,
    line: Option<Instant>,
}

impl Shown {
    fn see(&mut self, now: Progress) {
        self.most = self.most.max(now.unsent);
        if now.unsent == 0 {
            return;
        }
        let rest = format!("{} writes left, {}", now.unsent, HumanBytes(now.bytes));
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("sending {bar:30} {pos}/{len}  {msg}");
                ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            });
            bar.set_length(self.most);
            bar.set_position(self.most - now.unsent);
            bar.set_message(rest);
        } else if self.line.is_none_or(|last| last.elapsed() > Duration::from_secs(5)) {
            self.line = Some(Instant::now());
            eprintln!("sending: {rest}");
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
