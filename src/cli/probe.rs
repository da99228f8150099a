//! `cosfs-ha probe`: the quality of the network to both buckets, without a mount.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use tokio::runtime::Handle;

use super::access::{self, Pair, say};
use super::{Exit, Failure};
use crate::alarm::Alarms;
use crate::config::Config;
use crate::probe::{self, Health, Measure, Plan, judge, report};

/// How long a run with --once waits for its alarms to be delivered. A program has 30 s; a web address or mail server is tried a few times.
const TOLD_MAX: Duration = Duration::from_secs(40);

const EXAMPLES: &str = "\
Examples:
  cosfs-ha probe --config /etc/cosfs-ha.toml --once             one window, then the figures
  cosfs-ha probe --config /etc/cosfs-ha.toml --window 60s       goes on, one report a minute
  * * * * * cosfs-ha probe --config /etc/cosfs-ha.toml --once --window 30s --prometheus \\
      --output /var/lib/node_exporter/cosfs_ha.prom             from cron
  * * * * * cosfs-ha probe --config /etc/cosfs-ha.toml --once --window 30s --alarm --output /dev/null

Exit code of --once: 0 all linkages are up; 8 one is degraded; 1 one is grey (a quarter of its requests fail), refused or down.";

/// Measure how well both buckets can be reached from here: latency, time to the first byte, success rate and throughput, for reads and for
/// writes.
///
/// The requests leave no trace in the buckets. Without --once it goes on until it is ended, with one report a window.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ProbeArgs {
    /// Configuration file that names both buckets
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Measure one window, then end
    #[arg(long)]
    once: bool,
    /// How long to measure before a report
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    window: Duration,
    /// Time between two requests on one linkage
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = humantime::parse_duration)]
    every: Duration,
    /// Size of the body that shows the throughput; 0 for none
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(u64).range(..=64 << 20))]
    bytes: u64,
    /// Only look at the ways of reads: the key needs no right to write
    #[arg(long)]
    no_write: bool,
    /// Print JSON, one object a report
    #[arg(long)]
    json: bool,
    /// Print the text format of Prometheus
    #[arg(long, conflicts_with = "json")]
    prometheus: bool,
    /// Raise the alarms `suspect`, `both_down`, `auth` and `clock` the ways that section `[alarm]` names. Runs with --once share what stands
    /// through a file, so that each alarm is told once, and once when it is over
    #[arg(long)]
    alarm: bool,
    /// The file for --once --alarm; `probe-alarms.json` in the folder of the journal if not given
    #[arg(long, value_name = "FILE", requires = "alarm")]
    alarm_state: Option<PathBuf>,
    /// Write each report to this file, as a whole, in place of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(args: &ProbeArgs) -> Result<Exit, Failure> {
    if args.every < Duration::from_millis(10) || args.window < args.every {
        return Err(Failure::new(Exit::Usage, "--every must be 10ms or more, and --window not shorter than it"));
    }
    let config = access::configuration(&args.config)?;
    let pair = Pair::open(&config)?;
    let plan = Plan { window: args.window, every: args.every, bytes: args.bytes, writes: !args.no_write };
    let alarms = args.alarm.then(|| Watch::begin(args, &config, &pair)).transpose()?;
    loop {
        let measures = pair.wait(probe::measure(&pair.clients, &config.mount.prefix, &plan));
        let text = render(args, &measures);
        let told = alarms.as_ref().map(|watch| watch.look(&pair, &measures)).transpose();
        match &args.output {
            None => say!("{}", text.trim_end()),
            Some(path) => replace(path, &text)
                .map_err(|error| Failure::new(Exit::Failure, format!("{}: {error}", path.display())))?,
        }
        // The report first: it is there even if nobody can be told.
        told?;
        if args.once {
            return Ok(exit(&measures));
        }
    }
}

/// Who tells what the measures show.
struct Watch {
    alarms: Alarms,
    /// With --once.
    file: Option<PathBuf>,
}

impl Watch {
    fn begin(args: &ProbeArgs, config: &Config, pair: &Pair) -> Result<Watch, Failure> {
        let shown = format!("{} {}", config.a.bucket, config.b.bucket);
        let alarms = pair.wait(async { Alarms::new(&config.alarm, &shown, &Handle::current()) });
        let alarms = alarms.map_err(|error| Failure::new(Exit::Config, error))?;
        let named = || args.alarm_state.clone().unwrap_or_else(|| config.journal.dir.join("probe-alarms.json"));
        let file = args.once.then(named);
        if let Some(path) = &file {
            match std::fs::read(path) {
                Ok(text) => {
                    let saved = serde_json::from_slice(&text).map_err(|error| error.to_string());
                    // Damaged: as if nothing stood. An alarm may then be told twice, which is better than not at all.
                    if let Err(why) = saved.and_then(|saved| alarms.resume(&saved)) {
                        log::warn!("{}: {why}; begun anew", path.display());
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::new(Exit::Failure, format!("{}: {error}", path.display()))),
            }
        }
        Ok(Watch { alarms, file })
    }

    fn look(&self, pair: &Pair, measures: &[Measure]) -> Result<(), Failure> {
        self.alarms.see(&judge::sightings(measures, pair.clients[0].clock().milliseconds()));
        let Some(path) = &self.file else { return Ok(()) };
        // What nobody was told is told by the next run.
        if !pair.wait(self.alarms.delivered(TOLD_MAX)) {
            return Err(Failure::new(Exit::Failure, "an alarm could not be delivered; the next run tries again"));
        }
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let kept = folder.and_then(|()| replace(path, &format!("{}\n", self.alarms.save())));
        kept.map_err(|error| Failure::new(Exit::Failure, format!("{}: {error}", path.display())))
    }
}

fn render(args: &ProbeArgs, measures: &[Measure]) -> String {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    match (args.json, args.prometheus) {
        (true, _) => format!("{}\n", report::json(measures, at)),
        (_, true) => report::prometheus(measures, at),
        _ => report::text(measures),
    }
}

/// A reader sees the old report or the new one, never half of it.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    std::fs::write(&fresh, text)?;
    std::fs::rename(&fresh, path)
}

fn exit(measures: &[Measure]) -> Exit {
    match measures.iter().map(|measure| measure.health).max() {
        Some(Health::Up) => Exit::Ok,
        Some(Health::Degraded) => Exit::Attention,
        Some(Health::Grey | Health::Refused | Health::Down) | None => Exit::Failure,
    }
}
