//! The whole product below the file system, in virtual time, against everything that can go wrong, as often as patience allows.
//!
//! ```text
//! cargo run --release --features simulation --bin sim -- --seeds 10000            the table
//! cargo run --release --features simulation --bin sim -- --replay 4711            one history with its log
//! cargo run --release --features simulation --bin sim -- --mutants                each defence taken away
//! cargo run --release --features simulation --bin sim -- --scenes --seeds 20      each named story that often
//! ```
//!
//! A history takes minutes of virtual time and milliseconds of real time. Real are: the decision core, its driver, the store with its
//! retries and its freshness rule, the journal with its database, the cache, the COS client down to the signed request. Simulated are
//! time, chance, the wire, both regions, and the programs. The same seed is always the same history.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use cosfs_ha::mutant::{self, Mutant};

mod history;
mod linear;
mod mount;
mod programs;
mod regions;
mod run;
mod story;

use run::Verdict;
use story::{Choice, Plot, Scene, Story};

/// Seeds within which a missing defence must show.
const MUTANT_SEEDS: u64 = 300;

/// Simulates cosfs-ha and two regions in virtual time.
#[derive(Parser, Debug)]
struct Args {
    /// How many histories.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only this one, with its log.
    #[arg(long)]
    replay: Option<u64>,
    /// Only this plot.
    #[arg(long)]
    plot: Option<String>,
    /// Only this named story.
    #[arg(long)]
    scene: Option<String>,
    /// Each named story in turn.
    #[arg(long)]
    scenes: bool,
    /// Without this defence, up to the first flaw.
    #[arg(long)]
    mutant: Option<String>,
    /// Takes each defence away in turn, until it shows.
    #[arg(long)]
    mutants: bool,
    /// Ends after so many seconds, however many histories that were.
    #[arg(long)]
    seconds: Option<u64>,
    /// One line a history.
    #[arg(long)]
    each: bool,
}

#[derive(Default)]
struct Sums {
    histories: u64,
    bad: u64,
    flaws: [usize; 6],
    longest: Duration,
}

impl Sums {
    fn add(&mut self, verdict: &Verdict) {
        let lists = [
            &verdict.lost,
            &verdict.stale,
            &verdict.backward,
            &verdict.diverged,
            &verdict.wrong_errors,
            &verdict.wrong_switches,
        ];
        for (sum, list) in self.flaws.iter_mut().zip(lists) {
            *sum += list.len();
        }
        self.histories += 1;
        self.bad += u64::from(!verdict.is_clean());
        self.longest = self.longest.max(verdict.longest_stall);
    }
}

fn main() -> ExitCode {
    linear::self_test();
    let args = Args::parse();
    match simulate(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::from(2)
        }
    }
}

fn simulate(args: &Args) -> Result<bool, String> {
    let choice = match (&args.plot, &args.scene) {
        (_, Some(name)) => Choice::Scene(Scene::named(name).ok_or("no such scene")?),
        (Some(name), None) => Choice::Plot(Plot::named(name).ok_or("no such plot")?),
        (None, None) => Choice::Any,
    };
    if let Some(name) = &args.mutant {
        mutant::choose(Some(Mutant::ALL.into_iter().find(|m| m.name() == name).ok_or("no such defence")?));
    }
    if args.mutants {
        return all_mutants(args, choice);
    }
    if args.scenes {
        return all_scenes(args);
    }
    if let Some(seed) = args.replay {
        talk();
        let story = Story::of(seed, choice);
        println!("{story:#?}");
        let verdict = run::run(&story, true)?;
        tell(seed, &story, &verdict, true);
        return Ok(verdict.is_clean());
    }
    let began = Instant::now();
    let mut sums = Sums::default();
    for seed in args.from..args.from + args.seeds {
        if args.seconds.is_some_and(|s| began.elapsed().as_secs() >= s) {
            break;
        }
        let story = Story::of(seed, choice);
        let verdict = run::run(&story, false)?;
        tell(seed, &story, &verdict, args.each);
        sums.add(&verdict);
        if args.mutant.is_some() && sums.bad > 0 {
            break;
        }
    }
    let [lost, stale, backward, diverged, errors, switches] = sums.flaws;
    let (count, longest) = (sums.histories, sums.longest.as_secs_f64());
    println!("  seeds   lost  stale  backward  diverged  wrong errors  wrong switches  longest stall");
    println!(
        "{count:7}  {lost:5}  {stale:5}  {backward:8}  {diverged:8}  {errors:12}  {switches:14}  {longest:11.2} s"
    );
    let each = began.elapsed().as_secs_f64() * 1000.0 / (count.max(1)) as f64;
    println!("{} of {count} histories with a flaw, {each:.0} ms each", sums.bad);
    Ok(sums.bad == 0 && count > 0)
}

fn all_mutants(args: &Args, choice: Choice) -> Result<bool, String> {
    println!("without            caught by seed  as");
    let mut all = true;
    for defence in Mutant::ALL {
        mutant::choose(Some(defence));
        let mut caught = None;
        for seed in args.from..args.from + MUTANT_SEEDS {
            let verdict = run::run(&Story::of(seed, choice), false)?;
            if let Some((what, text)) = verdict.flaws().next() {
                caught = Some(format!("{:14}  {what}: {text}", seed - args.from + 1));
                break;
            }
        }
        all &= caught.is_some();
        println!("{:17}  {}", defence.name(), caught.unwrap_or_else(|| "         never".into()));
    }
    mutant::choose(None);
    Ok(all)
}

fn all_scenes(args: &Args) -> Result<bool, String> {
    println!("scene               seeds  flaws  switches  latched  longest stall");
    let mut all = true;
    for scene in Scene::ALL {
        let (mut sums, mut switches, mut latched) = (Sums::default(), 0, 0);
        for seed in args.from..args.from + args.seeds {
            let story = Story::of(seed, Choice::Scene(scene));
            let verdict = run::run(&story, false)?;
            tell(seed, &story, &verdict, args.each);
            switches += verdict.switches;
            latched += u64::from(verdict.latched);
            sums.add(&verdict);
        }
        let (name, longest) = (scene.name(), sums.longest.as_secs_f64());
        println!("{name:18}  {:5}  {:5}  {switches:8}  {latched:7}  {longest:11.2} s", sums.histories, sums.bad);
        all &= sums.bad == 0;
    }
    Ok(all)
}

fn tell(seed: u64, story: &Story, verdict: &Verdict, always: bool) {
    if always {
        println!(
            "seed {seed} {:?}: {} ops, {} requests, {} switches, {:.0} s, longest stall {:.2} s, trace {:016x}",
            story.plot,
            verdict.ops,
            verdict.requests,
            verdict.switches,
            verdict.virtual_time.as_secs_f64(),
            verdict.longest_stall.as_secs_f64(),
            verdict.trace
        );
    }
    if !verdict.is_clean() {
        println!("seed {seed} {:?} {:?} {:?}:", story.plot, story.current, story.options.commit);
        for (what, text) in verdict.flaws() {
            println!("  {what}: {text}");
        }
    }
}

/// The program's own log, in virtual time.
fn talk() {
    use std::io::Write;
    let mut logger = env_logger::Builder::new();
    logger.filter_level(log::LevelFilter::Info).parse_default_env();
    logger.format(|out, record| {
        let at = match cosfs_ha::clock::simulated_age() {
            Some(age) => age.as_secs_f64(),
            None => f64::NAN,
        };
        writeln!(out, "{at:9.3} {:5} {}", record.level(), record.args())
    });
    logger.init();
}
