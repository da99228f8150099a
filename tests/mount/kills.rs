//! kill -9 of the daemon at random moments under eight programs, regions failing at the same time.
//!
//! Each program keeps account of what it was told. A step that ended in an error may have happened or not; anything else must be found
//! exactly as acknowledged after the next start: no file lost, none torn, no deleted one back, nothing lost between two names. `COSFS_HA_KILLS=1000` for the long run
//! (per mode), `COSFS_HA_SEED=n` to begin with the moments of a run that failed.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cosfs_ha::object::Site;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::common::{Bench, Setup, wait_until};

const WORKERS: u64 = 8;

/// `python3 - ME SEED STATE FOLDER`: looks at what the state says, then goes on until a call fails; writes the state anew. State: name -> list
/// of the contents it may have (SHA-256, null for "no such file").
const WORKER: &str = r#"
import hashlib, json, os, random, sys, time
me, seed, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
os.chdir(sys.argv[4])
rng = random.Random(seed)
sha = lambda data: hashlib.sha256(data).hexdigest()
try: may, moved = json.load(open(path))
except FileNotFoundError: may, moved = {}, None
content, wrong, acked = {}, [], 0
def save(extra=None, moved=None):
    state = {name: [sha(data)] for name, data in content.items()}
    state.update(gone)
    state.update(extra or {})
    json.dump({"may": [state, moved], "wrong": wrong, "acked": acked}, open(path + ".new", "w"))
    os.rename(path + ".new", path + ".out")
gone = {}
now = lambda name: sha(content[name]) if name in content else None
# What is there now must be one of the things it may be; from then on it is that.
for name, options in may.items():
    try:
        with open(name, "rb") as f: data = f.read()
        found = sha(data)
    except FileNotFoundError: found = None
    except OSError as e:
        # Killed again while looking: still open.
        gone[name] = options
        continue
    if found not in options: wrong.append(f"{name}: found {found and found[:12]}, may be {[o and o[:12] for o in options]}")
    if found is None: gone[name] = [None]
    else: content[name] = data
# A move in the middle of which everything ended: in one place or in both, but somewhere.
if moved and moved[0] is not None and all(len(gone.get(name, [None])) < 2 for name in moved[1:]):
    if moved[0] not in [now(name) for name in moved[1:]]: wrong.append(f"{moved[1]} -> {moved[2]}: in neither place")
save()
while True:
    what, move = rng.random(), None
    names = sorted(set(content) - set(gone))
    # Few names: what is written has often been deleted before, and the other way round.
    name = f"{me}-{rng.randrange(40)}"
    # As long as it is open what became of a name, nothing is done to it.
    if len(gone.get(name, [None])) > 1: continue
    if what < 0.5 or not names:
        data = rng.randbytes(rng.choice([10, 3000, 20000, 200000]))
        unsure = {name: [now(name), sha(data)]}
        def step():
            # One descriptor, written whole: O_TRUNC takes effect with the close.
            fd = os.open(name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
            try: os.write(fd, data)
            finally: os.close(fd)
            content[name] = data
    elif what < 0.65:
        name = rng.choice(names)
        data = rng.randbytes(500)
        unsure = {name: [now(name), sha(content[name] + data)]}
        def step():
            fd = os.open(name, os.O_APPEND | os.O_WRONLY)
            try: os.write(fd, data)
            finally: os.close(fd)
            content[name] += data
    elif what < 0.8:
        name = rng.choice(names)
        unsure = {name: [now(name), None]}
        def step():
            os.unlink(name)
            del content[name]
            gone[name] = [None]
    else:
        old = rng.choice(names)
        if old == name: continue
        unsure, move = {old: [now(old), None], name: [now(name), now(old)]}, [now(old), old, name]
        def step():
            os.rename(old, name)
            content[name] = content.pop(old)
            gone[old] = [None]
    try: step()
    except OSError as e:
        save(unsure, move)
        break
    acked += 1
    # Names that come back are no longer gone.
    for known in list(gone):
        if known in content: del gone[known]
"#;

fn kills() -> u64 {
    std::env::var("COSFS_HA_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

fn start(bench: &Bench, worker: u64, seed: u64) -> Child {
    let state = bench.dir().join(format!("state-{worker}"));
    // Not there in the first round.
    let _ = std::fs::remove_file(state.with_extension("out"));
    Command::new("python3")
        .args(["-I", "-c", WORKER, &worker.to_string(), &seed.to_string()])
        .args([state, bench.path("work")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Takes over what the programs wrote down. Returns how many steps were acknowledged.
fn collect(bench: &Bench, round: u64) -> u64 {
    let mut acked = 0;
    for worker in 0..WORKERS {
        let state = bench.dir().join(format!("state-{worker}"));
        let text = std::fs::read_to_string(state.with_extension("out")).expect("each program writes its account");
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(told["wrong"], serde_json::json!([]), "program {worker} after kill {round}; log:\n{}", bench.log());
        acked += told["acked"].as_u64().unwrap();
        std::fs::write(state, told["may"].to_string()).unwrap();
    }
    acked
}

/// Kills on one pair of buckets. They keep every version in memory: about 17 MB for a kill.
const SERIES: u64 = 200;

fn play(commit: &str) {
    let seed: u64 = std::env::var("COSFS_HA_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    for first in (0..kills()).step_by(SERIES as usize) {
        play_series(commit, seed.wrapping_add(first), SERIES.min(kills() - first));
    }
}

fn play_series(commit: &str, seed: u64, kills: u64) {
    println!("COSFS_HA_SEED={seed} COSFS_HA_KILLS={kills}");
    let mut rng = StdRng::seed_from_u64(seed);
    let config = format!("[mount]\ncommit = \"{commit}\"\nmax_stall = \"10s\"\n");
    let mut bench = Bench::with(Setup { config, ..Setup::default() });
    std::fs::create_dir(bench.path("work")).unwrap();
    let (mut acked, mut outages) = (0, 0);
    for round in 0..kills {
        let workers: Vec<Child> =
            (0..WORKERS).map(|worker| start(&bench, worker, seed ^ (round << 8) ^ worker)).collect();
        // Each has looked at what it left, and begins to work.
        wait_until("the programs are at work", Duration::from_secs(60), || {
            (0..WORKERS).all(|worker| bench.dir().join(format!("state-{worker}.out")).exists())
        });
        let site = ["a", "b"][rng.random_range(0..2)];
        let length = Duration::from_millis(rng.random_range(100..1200));
        let began = Instant::now();
        if rng.random_bool(0.3) {
            std::thread::sleep(length / 4);
            bench.emulator.black_hole(site);
            outages += 1;
            // Long enough now and then for the switch to be in the middle.
            std::thread::sleep(Duration::from_millis(rng.random_range(0..3000)));
        }
        std::thread::sleep(length.saturating_sub(began.elapsed()));
        bench.crash();
        for worker in workers {
            let output = worker.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        acked += collect(&bench, round);
        if rng.random_bool(0.5) {
            bench.emulator.heal("a");
            bench.emulator.heal("b");
        } else {
            bench.emulator.heal(if site == "a" { "b" } else { "a" });
        }
        bench.mount();
    }
    for site in ["a", "b"] {
        bench.emulator.heal(site);
    }
    bench.settle();
    println!("{commit}: {acked} acknowledged steps, {kills} kills, {outages} outages");
    assert!(acked > 0);
    let mut expect: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    for worker in 0..WORKERS {
        let text = std::fs::read_to_string(bench.dir().join(format!("state-{worker}"))).unwrap();
        let (may, _) = serde_json::from_str::<(BTreeMap<_, _>, serde_json::Value)>(&text).unwrap();
        expect.extend(may);
    }
    let sum = |content: &[u8]| {
        use sha2::Digest;
        sha2::Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    for site in Site::ALL {
        let bucket = bench.emulator.bucket(site);
        for (name, options) in &expect {
            let found = bucket.get(&format!("work/{name}")).map(|content| sum(&content));
            assert!(
                options.contains(&found),
                "{name} in bucket {site}: {found:?}, may be {options:?}\nlog:\n{}",
                bench.log()
            );
        }
    }
}

/// The index of what was seen is flushed once a second; what the killed process had not flushed, the next one must know before its journal
/// forgets the write.
#[test]
fn a_delete_is_known_after_two_kills_with_nobody_to_ask() {
    let mut bench = Bench::start();
    let names: Vec<String> = (0..20).map(|n| format!("file{n}")).collect();
    for name in &names {
        std::fs::write(bench.path(name), name).unwrap();
    }
    bench.settle();
    // The index has them as present.
    std::thread::sleep(Duration::from_millis(1500));
    bench.emulator.replication(serde_json::json!({"a_to_b": {"stalled": true}}));
    for name in &names {
        std::fs::remove_file(bench.path(name)).unwrap();
    }
    bench.crash();
    bench.emulator.replication(serde_json::json!({"a_to_b": {"stalled": false}}));
    bench.mount();
    // From here on the journal does not know of the deletes.
    bench.settle();
    bench.crash();
    for site in ["a", "b"] {
        bench.emulator.black_hole(site);
    }
    bench.mount();
    for name in &names {
        let found = std::fs::read(bench.path(name));
        let kind = found.as_ref().map_err(std::io::Error::kind);
        assert_eq!(kind, Err(std::io::ErrorKind::NotFound), "{name}; log:\n{}", bench.log());
    }
    for site in ["a", "b"] {
        bench.emulator.heal(site);
    }
}

#[test]
fn in_mode_journal() {
    play("journal");
}

#[test]
fn in_mode_one_region() {
    play("one-region");
}

#[test]
fn in_mode_two_regions() {
    play("two-regions");
}
