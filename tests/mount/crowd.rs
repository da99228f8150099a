//! Many programs in one directory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::bucket::tree;
use crate::common::{Bench, wait_until};

/// How long they work; `COSFS_HA_CROWD_SECONDS=60` for the long run.
fn length() -> Duration {
    let seconds = std::env::var("COSFS_HA_CROWD_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// Each process creates, appends to, renames, reads back and deletes files of its own in a common folder, and reads what the others have
/// published there by renaming. It prints what it leaves behind.
const WORKER: &str = r#"
import os, random, sys, hashlib, time
me, end = int(sys.argv[1]), time.time() + float(sys.argv[2])
rng = random.Random(me)
mine, n = {}, 0
while time.time() < end:
    what = rng.random()
    if what < 0.45 or not mine:
        name, data = f"{me}-{n}", rng.randbytes(rng.randrange(1, 20000))
        n += 1
        with open(name + ".tmp", "wb") as f: f.write(data)
        os.rename(name + ".tmp", name)
        mine[name] = data
    elif what < 0.6:
        name = rng.choice(sorted(mine))
        with open(name, "ab") as f: f.write(b"more")
        mine[name] += b"more"
    elif what < 0.7:
        name = rng.choice(sorted(mine))
        os.unlink(name)
        del mine[name]
    elif what < 0.8:
        old, new = rng.choice(sorted(mine)), f"{me}-{n}"
        n += 1
        os.rename(old, new)
        mine[new] = mine.pop(old)
    elif what < 0.95:
        name = rng.choice(sorted(mine))
        with open(name, "rb") as f: found = f.read()
        assert found == mine[name], f"{name}: {len(found)} bytes instead of {len(mine[name])}"
    else:
        names = set(os.listdir("."))
        assert set(mine) <= names, set(mine) - names
        other = rng.choice(sorted(names))
        try:
            with open(other, "rb") as f: f.read()
        except FileNotFoundError: pass
for name, data in sorted(mine.items()): print(name, hashlib.sha256(data).hexdigest())
"#;

#[test]
fn eight_processes_in_one_directory() {
    let mut bench = Bench::start();
    let folder = bench.path("crowd");
    std::fs::create_dir(&folder).unwrap();
    let began = Instant::now();
    let workers: Vec<_> = (0..8)
        .map(|n| {
            let mut command = std::process::Command::new("python3");
            command.args(["-c", WORKER, &n.to_string(), &length().as_secs().to_string()]).current_dir(&folder);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut expect = BTreeMap::new();
    for worker in workers {
        let output = worker.wait_with_output().unwrap();
        let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{wrong}\nlog:\n{}", bench.log());
        expect.extend(
            said.lines().map(|line| line.split_once(' ').unwrap()).map(|(a, b)| (a.to_string(), b.to_string())),
        );
    }
    assert!(began.elapsed() < length() + Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(expect.len() > 8, "the workers did something");
    let sum = |content: &[u8]| {
        use sha2::Digest;
        sha2::Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let found: BTreeMap<String, String> =
        tree(&folder).into_iter().map(|(name, content)| (name, sum(&content))).collect();
    assert!(found == expect, "the mount shows {} files, {} expected", found.len(), expect.len());
    bench.settle();
    for site in cosfs_ha::object::Site::ALL {
        let names = || {
            bench.emulator.objects(&site.to_string()).into_keys().filter(|key| !key.ends_with('/')).collect::<Vec<_>>()
        };
        let wanted: Vec<String> = expect.keys().map(|name| format!("crowd/{name}")).collect();
        wait_until(&format!("bucket {site} has the same files"), Duration::from_secs(60), || names() == wanted);
        let bucket = bench.emulator.bucket(site);
        for (name, wanted) in &expect {
            assert_eq!(sum(&bucket.get(&format!("crowd/{name}")).unwrap()), *wanted, "{name} in bucket {site}");
        }
    }
    assert_eq!(bench.umount().status.code(), Some(0));
}
