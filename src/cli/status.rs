//! `cosfs-ha status`: what the mount thinks of the world, for people and for programs.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use indicatif::HumanBytes;

use super::umount::refusal;
use super::{Exit, Failure};
use crate::control::{Client, Line, Request, Status};

/// Show the state of a mount: which bucket it writes to and why, the health of each way to a bucket, what is not yet in both buckets.
///
/// The first line names the state: `normal` (A serves), `switching`, `on_slave` (B serves, A is down), `catch_up` (A is back and is brought up
/// to date), `failback` (going back to A), `both_down`, `local_outage` (this host has no network).
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Where it is mounted
    pub mountpoint: PathBuf,
    /// Print one JSON object for programs
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    let client = Client::connect(&args.mountpoint).map_err(refusal)?;
    let status = match client.ask(&Request::Status, |_| {}).map_err(refusal)? {
        Line::Status(status) => status,
        other => return Err(Failure::new(Exit::Failure, format!("unexpected answer of the daemon: {other:?}"))),
    };
    let text = if args.json {
        serde_json::to_string(&status).map_err(|error| Failure::new(Exit::Failure, error.to_string()))? + "\n"
    } else {
        render(&status)
    };
    // A reader that went away (`status | head -1`) is no failure of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(Exit::Ok)
}

fn render(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, rest: String| {
        let _ = writeln!(text, "{name:<10} {rest}");
    };
    let mount = &status.mount;
    line(&status.state, format!("{} writes to bucket {} (epoch {})", mount.mountpoint, status.master, status.epoch));
    line("", status.explain.clone());
    if status.latched {
        line("latched", "too many automatic switches within the hour; move it with: cosfs-ha switch".into());
    }
    for (name, host) in [("bucket a", &mount.a), ("bucket b", &mount.b)] {
        line(name, host.clone());
    }
    for linkage in &status.linkages {
        let times = match (linkage.rtt_ms_p50, linkage.rtt_ms_p99) {
            (Some(p50), Some(p99)) => format!("answers in {p50:.0} ms (median), {p99:.0} ms (p99)"),
            _ => "nothing measured yet".into(),
        };
        line(&format!("{} {}", linkage.site, linkage.class), format!("{:<12} {times}", linkage.health));
    }
    let journal = &status.journal;
    line(
        "journal",
        match journal.records {
            0 => "empty: everything written is in both buckets".to_string(),
            n => format!(
                "{n} writes ({}) not yet proven to be in both buckets, {} of them in none; oldest {:.1} s",
                HumanBytes(journal.bytes),
                journal.unsent,
                journal.oldest_s
            ),
        },
    );
    for write in &status.pending {
        let what = if write.delete { "deletion".to_string() } else { HumanBytes(write.bytes).to_string() };
        line("", format!("{:<8} {} ({what})", write.state, write.path));
    }
    let untold = journal.records.saturating_sub(status.pending.len() as u64);
    if untold > 0 && !status.pending.is_empty() {
        line("", format!("and {untold} more"));
    }
    let lag = |lag: Option<f64>| lag.map_or("not measured".to_string(), |seconds| format!("{seconds:.1} s"));
    let lags = &status.replication_lag_s;
    line("lag", format!("a to b {}, b to a {}", lag(lags.a_to_b), lag(lags.b_to_a)));
    line("cache", format!("{} of {}", HumanBytes(status.cache.bytes), HumanBytes(status.cache.limit)));
    line("commit", format!("{}{}", mount.commit, if mount.read_only { ", read-only" } else { "" }));
    for switch in status.switches.iter().rev() {
        let at = Duration::try_from_secs_f64(switch.at).unwrap_or_default();
        let by = if switch.automatic { "by itself" } else { "by an operator" };
        line(
            "switched",
            format!(
                "{} {} -> {} {by}: {}",
                humantime::format_rfc3339_seconds(UNIX_EPOCH + at),
                switch.from,
                switch.to,
                switch.reason
            ),
        );
    }
    let log = mount.log.as_ref().map_or("standard error".to_string(), Clone::clone);
    line("daemon", format!("pid {}, version {}, log {log}", mount.pid, mount.version));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_where_and_why() {
        let text = render(&crate::control::tests::example());
        for part in [
            "on_slave   /data writes to bucket b (epoch 2)",
            "A does not answer since 12:00",
            "a write    dead",
            "3 writes (4.00 KiB) not yet proven to be in both buckets, 1 of them in none",
            "in-b     d/f (2.00 KiB)",
            "and 2 more",
            "a to b 0.5 s, b to a not measured",
            "2023-11-14T22:13:20Z a -> b by itself: silent for 2.5 s",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }
}
