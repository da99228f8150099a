//! `cosfs-ha doctor`: every precondition of the mount, looked at now.

use std::fmt::Write as _;
use std::io::{BufWriter, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use clap::Args;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::access::{self, Pair, say};
use super::{Exit, Failure};
use crate::config::Config;
use crate::doctor::beside;
use crate::doctor::canary::{self, Expect};
use crate::doctor::coverage::{self, Report, Tally};
use crate::doctor::facts::{self, Patience};
use crate::doctor::rules::{self, Scope};
use crate::doctor::{Check, Finding, Severity, host, worst};
use crate::object::Site;

mod mend;

/// Differences printed; the rest is counted, and written with --differences.
const SHOWN_MAX: usize = 20;
/// Differences in the JSON object.
const JSON_MAX: usize = 1000;
/// Differences younger than this may be on their way: replication usually takes less.
const YOUNG: Duration = Duration::from_secs(15 * 60);

const EXAMPLES: &str = "\
Examples:
  cosfs-ha doctor --config /etc/cosfs-ha.toml
  cosfs-ha doctor --config /etc/cosfs-ha.toml --quick           settings only, changes nothing, takes a second
  cosfs-ha doctor --config /etc/cosfs-ha.toml --json            for programs
  cosfs-ha doctor --config /etc/cosfs-ha.toml --reconcile       copy what one bucket lacks, repeat deletions that were lost

Exit code: 0 all is well; 8 warnings, or something could not be looked at; 1 errors: a promise of the mount does not hold, or the mount \
would not start. docs/operations.md lists every check with its weight.";

/// Check everything that the mount relies on: settings of both buckets, rights, clock, replication as it really works, and whether both
/// buckets hold the same.
///
/// Each finding says what is, what follows from it, and what mends it. Writes a small object below `.cosfs-ha/` in each bucket and removes it
/// again (not with --no-write), and reads the listings of both buckets to the end (not with --no-coverage).
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Configuration file that names both buckets
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON object for programs
    #[arg(long)]
    json: bool,
    /// Only what `mount` looks at when it starts
    #[arg(long)]
    quick: bool,
    /// Write nothing: rights, version ids, arrival of writes, CDN and origin are then not looked at
    #[arg(long)]
    no_write: bool,
    /// Do not compare the buckets key by key
    #[arg(long)]
    no_coverage: bool,
    /// How long a write may take to arrive in the other bucket
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// Write every difference between the buckets to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    differences: Option<PathBuf>,
    /// Bring both buckets to the same content; the newest version or deletion of each key wins
    #[arg(long, conflicts_with_all = ["quick", "no_coverage"])]
    reconcile: bool,
    /// With --reconcile: do not ask
    #[arg(short, long, requires = "reconcile")]
    yes: bool,
}

pub fn run(args: &DoctorArgs) -> Result<Exit, Failure> {
    let config = access::configuration(&args.config)?;
    let pair = Pair::open(&config)?;
    let command = format!("--config {}", args.config.display());
    let scope =
        Scope { prefix: config.mount.prefix.clone(), config: command.clone(), read_only: config.mount.read_only };
    let mut findings = settings(args, &pair, &config, &scope);
    let open = |site| findings_allow(&findings, site);
    let mut report = None;
    if !args.quick && Site::ALL.into_iter().all(open) {
        if !args.no_write {
            findings.extend(pair.wait(canaries(args, &pair, &scope, &findings)));
            findings.extend(pair.wait(beside::look(&pair.clients, &config, Duration::from_secs(args.wait))));
        }
        if !args.no_coverage {
            let (finding, found) = cover(args, &pair, &scope)?;
            findings.push(finding);
            report = found;
        }
    }
    findings.sort_by_key(|finding| (finding.check, finding.site));
    if args.json {
        say!("{}", json(&findings, report.as_ref()));
    } else {
        say!("{}", text(&findings, report.as_ref()).trim_end());
    }
    if args.reconcile
        && let Some(report) = report.filter(|report| report.different() > 0)
    {
        return mend::run(&pair, &report, args.yes, &command);
    }
    Ok(exit(worst(&findings)))
}

pub(super) fn exit(severity: Severity) -> Exit {
    match severity {
        Severity::Ok => Exit::Ok,
        Severity::Unknown | Severity::Warning => Exit::Attention,
        Severity::Error | Severity::Fatal => Exit::Failure,
    }
}

fn findings_allow(findings: &[Finding], site: Site) -> bool {
    let of_door = findings.iter().find(|f| f.check == Check::Access && f.site == Some(site));
    of_door.is_some_and(|finding| finding.severity == Severity::Ok)
}

fn settings(args: &DoctorArgs, pair: &Pair, config: &Config, scope: &Scope) -> Vec<Finding> {
    let kinds = if args.quick { facts::QUICK } else { facts::ALL };
    let facts = pair.wait(facts::look(&pair.clients, kinds, &Patience::DOCTOR));
    let mut findings = rules::judge(&facts, scope);
    if !args.quick {
        findings.extend(host::look(config));
    }
    findings
}

/// One canary each way, together.
async fn canaries(args: &DoctorArgs, pair: &Pair, scope: &Scope, findings: &[Finding]) -> Vec<Finding> {
    let fine =
        |check, site| findings.iter().any(|f| f.check == check && f.site == Some(site) && f.severity == Severity::Ok);
    let wait = Duration::from_secs(args.wait);
    let flights = Site::ALL.map(|from| {
        let versioned = Site::ALL.into_iter().all(|site| fine(Check::Versioning, site));
        let expect =
            Expect { objects: versioned && fine(Check::Replication, from), markers: fine(Check::DeleteMarkers, from) };
        canary::fly(&pair.clients, from, &scope.prefix, expect, wait)
    });
    futures::future::join_all(flights).await.concat()
}

fn cover(args: &DoctorArgs, pair: &Pair, scope: &Scope) -> Result<(Finding, Option<Report>), Failure> {
    let tally = Tally::default();
    let outcome = pair.wait(async {
        let compare = coverage::compare(&pair.clients, &scope.prefix, &tally);
        tokio::pin!(compare);
        let bar = bar(&tally);
        loop {
            tokio::select! {
                outcome = &mut compare => {
                    bar.finish_and_clear();
                    break outcome;
                }
                () = tokio::time::sleep(Duration::from_millis(200)) => show(&bar, &tally),
            }
        }
    });
    let report = match outcome {
        Ok(report) => report,
        Err((site, error)) => {
            let state = format!("the listing of bucket {site} broke off: {error}");
            let finding = Finding::bad(Check::Coverage, None, Severity::Unknown, state)
                .then("whether both buckets hold the same is not known")
                .mend(format!("cosfs-ha doctor {}", scope.config));
            return Ok((finding, None));
        }
    };
    if let Some(path) = &args.differences {
        let written = write_differences(path, &report);
        written.map_err(|error| Failure::new(Exit::Failure, format!("{}: {error}", path.display())))?;
    }
    Ok((judge(&report, scope), Some(report)))
}

/// Without an idea of the total, a bar shows speed and place rather than a share.
fn bar(tally: &Tally) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{spinner} comparing: {msg}, {per_sec}, {elapsed}") {
        bar.set_style(style);
    }
    show(&bar, tally);
    bar
}

fn show(bar: &ProgressBar, tally: &Tally) {
    let keys = [0, 1].map(|index: usize| tally.keys[index].load(Ordering::Relaxed));
    bar.set_position(keys[0].max(keys[1]));
    let differences = tally.differences.load(Ordering::Relaxed);
    bar.set_message(format!(
        "{} keys in a, {} in b, {} different",
        HumanCount(keys[0]),
        HumanCount(keys[1]),
        HumanCount(differences)
    ));
}

fn write_differences(path: &Path, report: &Report) -> std::io::Result<()> {
    let mut out = BufWriter::new(std::fs::File::create(path)?);
    for difference in &report.differences {
        serde_json::to_writer(&mut out, difference)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

fn judge(report: &Report, scope: &Scope) -> Finding {
    let compared = format!("{} keys of a with {} of b", HumanCount(report.keys[0]), HumanCount(report.keys[1]));
    if report.different() == 0 {
        return Finding::ok(Check::Coverage, None, format!("both buckets hold the same ({compared} compared)"));
    }
    let state = format!(
        "the buckets differ in {} keys: {} only in a, {} only in b, {} with other content ({compared} compared)",
        HumanCount(report.different()),
        HumanCount(report.only_in_a),
        HumanCount(report.only_in_b),
        HumanCount(report.differ)
    );
    let youngest = report.youngest(SystemTime::now());
    let note = match youngest {
        Some(age) if age < YOUNG => "; the youngest was written within the last 15 minutes and may be on its way",
        _ => "",
    };
    Finding::bad(Check::Coverage, None, Severity::Error, state)
        .then(format!("after a switch, what the new master lacks can be read only from this host's cache, and what it has of old is shown{note}"))
        .mend(format!("cosfs-ha doctor {} --reconcile", scope.config))
}

fn json(findings: &[Finding], report: Option<&Report>) -> serde_json::Value {
    let coverage = report.map(|report| {
        let mut value = serde_json::json!(report);
        value["different"] = report.different().into();
        value["differences"] = serde_json::json!(&report.differences[..report.differences.len().min(JSON_MAX)]);
        value
    });
    serde_json::json!({ "severity": worst(findings), "findings": findings, "coverage": coverage })
}

fn text(findings: &[Finding], report: Option<&Report>) -> String {
    let mut text = String::new();
    for finding in findings {
        let site = finding.site.map_or(String::new(), |site| format!(" {site}"));
        let name = format!("{}{site}", finding.check.name());
        let _ = writeln!(text, "{:<8} {name:<18} {}", finding.severity.word(), finding.state);
        for (word, what) in [("then", &finding.consequence), ("mend", &finding.cure)] {
            if !what.is_empty() {
                let _ = writeln!(text, "{:<8} {:<18} {word}: {what}", "", "");
            }
        }
    }
    if let Some(report) = report {
        for difference in report.differences.iter().take(SHOWN_MAX) {
            let size = |seen: &Option<coverage::Seen>| {
                seen.as_ref().map_or("absent".to_string(), |seen| HumanBytes(seen.size).to_string())
            };
            let (a, b) = (size(&difference.a), size(&difference.b));
            let _ = writeln!(text, "  differs: {} (a: {a}, b: {b})", difference.key);
        }
        let more = report.different().saturating_sub(SHOWN_MAX as u64);
        if more > 0 {
            let _ = writeln!(text, "  and {} more; --differences FILE writes them all", HumanCount(more));
        }
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let _ = match worst(findings) {
        Severity::Ok => writeln!(text, "all is well: {} checks", findings.len()),
        _ => writeln!(
            text,
            "{} checks: {} fatal, {} errors, {} warnings, {} could not be looked at",
            findings.len(),
            count(Severity::Fatal),
            count(Severity::Error),
            count(Severity::Warning),
            count(Severity::Unknown)
        ),
    };
    text
}
