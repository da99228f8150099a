//! The daemon as a process of its own, and the command that waits for it.
//!
//! The command starts its own program again with `--daemon` instead of forking: a forked process has one thread and every lock as it was.
//! The child's standard output is a pipe on which it says one thing, [`Ready`]; its standard error is the log, so that a panic is found there
//! too. The command believes the child only after it has looked at the mount itself.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::{Exit, Failure};
use crate::config::{Config, Level};
use crate::control::place as sockets;

/// What the child tells the command that started it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Ready {
    /// `ok` when the mount answers.
    code: Exit,
    message: String,
    /// Lines for the person at the terminal, besides the log.
    warnings: Vec<String>,
}

/// Longest start: recovery of a large journal reads every data file after a power cut.
const START_MAX: Duration = Duration::from_secs(600);

/// A log above this is set aside when the daemon starts.
const LOG_MAX: u64 = 64 << 20;

/// Starts the daemon and waits until the mount answers.
pub fn parent(config: &Config, mountpoint: &Path) -> Result<Exit, Failure> {
    let path = config.log_file();
    let log = open_log(&path)
        .map_err(|error| Failure::new(Exit::Config, format!("cannot write the log {}: {error}", path.display())))?;
    let from = log.metadata().map(|data| data.len()).unwrap_or_default();
    let failed = |error: io::Error| Failure::new(Exit::Failure, format!("cannot start the daemon: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(program)
        .arg0(called())
        .args(arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log))
        .spawn()
        .map_err(failed)?;
    let said = child.stdout.take().map(BufReader::new);
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let result = said.map(|mut said| said.read_line(&mut line));
        // Nobody listens any more only if the time below is over.
        let _ = send.send(result.and(Some(line)).unwrap_or_default());
    });
    let Ok(line) = receive.recv_timeout(START_MAX) else {
        let _ = child.kill();
        return Err(Failure::new(
            Exit::Failure,
            format!(
                "the daemon was not ready after {} s and was stopped; its log is {}",
                START_MAX.as_secs(),
                path.display()
            ),
        ));
    };
    let Ok(ready) = serde_json::from_str::<Ready>(&line) else {
        let end = child.wait().map_err(failed)?;
        let log = tail(&path, from);
        return Err(Failure::new(
            Exit::Failure,
            format!(
                "the daemon ended before the mount answered ({end}). The end of its log, {}:\n{log}",
                path.display()
            ),
        ));
    };
    for warning in &ready.warnings {
        eprintln!("cosfs-ha: warning: {warning}");
    }
    if ready.code != Exit::Ok {
        return Err(Failure::new(ready.code, ready.message));
    }
    if !sockets::is_mounted(mountpoint) {
        return Err(Failure::new(Exit::MountPoint, format!("{} was unmounted again at once", mountpoint.display())));
    }
    std::fs::metadata(mountpoint).map_err(|error| {
        Failure::new(Exit::MountPoint, format!("the mount at {} does not answer: {error}", mountpoint.display()))
    })?;
    Ok(Exit::Ok)
}

/// Our own arguments for the daemon; under mount(8)'s name too the first ones are ours.
fn arguments() -> Vec<std::ffi::OsString> {
    let mut args: Vec<_> = std::env::args_os().skip(1).collect();
    let after = if crate::cli::is_helper(&called()) { 0 } else { 1 };
    args.insert(after.min(args.len()), "--daemon".into());
    args
}

fn called() -> std::ffi::OsString {
    std::env::args_os().next().unwrap_or_default()
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    if path.metadata().is_ok_and(|data| data.size() > LOG_MAX) {
        let mut old = path.as_os_str().to_owned();
        old.push(".old");
        std::fs::rename(path, old)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// The last lines that were added to a log since it had `from` bytes.
fn tail(path: &Path, from: u64) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(text.len());
    let text = String::from_utf8_lossy(&text[from..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Is the level the environment's affair?
fn fixed_by_environment() -> bool {
    std::env::var_os("RUST_LOG").is_some()
}

/// The logger lets everything through that the level, which can be changed, does; unless `RUST_LOG` says it all.
pub fn log_to_stderr(level: Level) {
    let environment = env_logger::Env::default().default_filter_or("trace,fuser=warn");
    // A second call changes nothing, which is what a second call wants.
    let _ = env_logger::Builder::from_env(environment).format_timestamp_millis().try_init();
    set_log_level(level);
}

pub fn set_log_level(level: Level) {
    if !fixed_by_environment() {
        log::set_max_level(match level {
            Level::Error => log::LevelFilter::Error,
            Level::Warn => log::LevelFilter::Warn,
            Level::Info => log::LevelFilter::Info,
            Level::Debug => log::LevelFilter::Debug,
            Level::Trace => log::LevelFilter::Trace,
        });
    }
}

/// After somebody renamed the log: goes on in a new file.
pub fn reopen_log(path: &Path) -> io::Result<()> {
    let log = open_log(path)?;
    rustix::stdio::dup2_stderr(&log)?;
    Ok(())
}

/// How the daemon says that the mount answers, or that it never will.
pub struct Teller {
    told: bool,
}

impl Teller {
    /// The mount answers.
    pub fn ready(&mut self, warnings: Vec<String>) {
        self.tell(&Ready { code: Exit::Ok, message: String::new(), warnings });
    }

    fn tell(&mut self, ready: &Ready) {
        if self.told {
            return;
        }
        self.told = true;
        let mut out = io::stdout().lock();
        let said = serde_json::to_writer(&mut out, ready).map_err(io::Error::from).and_then(|()| writeln!(out));
        // The command may have been interrupted; the mount goes on without it.
        if let Err(error) = said.and_then(|()| out.flush()) {
            log::warn!("nobody waits for the mount any more: {error}");
        }
    }
}

/// The daemon's life in the child. Its failure goes to the waiting command, if that still waits, and to the log.
pub fn child(life: impl FnOnce(&mut Teller) -> Result<Exit, Failure>) -> Result<Exit, Failure> {
    // Without this, Ctrl-C in the terminal that mounted would end the mount. It fails only for a process that leads its group already.
    if let Err(error) = rustix::process::setsid() {
        log::debug!("setsid: {error}");
    }
    let mut teller = Teller { told: false };
    let result = life(&mut teller);
    if let Err(failure) = &result {
        teller.tell(&Ready { code: failure.code, message: failure.message.clone(), warnings: Vec::new() });
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_set_aside_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/x.log");
        writeln!(open_log(&path).unwrap(), "one").unwrap();
        writeln!(open_log(&path).unwrap(), "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(tail(&path, 4), "two");
        assert_eq!(tail(&path, 400), "");
        File::options().write(true).open(&path).unwrap().set_len(LOG_MAX + 1).unwrap();
        drop(open_log(&path).unwrap());
        assert_eq!(path.metadata().unwrap().len(), 0);
        assert_eq!(dir.path().join("deep/er/x.log.old").metadata().unwrap().len(), LOG_MAX + 1);
    }
}
