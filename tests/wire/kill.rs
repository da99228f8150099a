//! `cosfs-ha emulator --data` is killed with -9 at random moments under load: what it acknowledged is there at the next start.
//!
//! The moments come from a seed that is printed; `SEED=n` tells the same story again, as far as threads and the kernel let it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use cosfs_ha::object::Site;
use md5::{Digest, Md5};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::client::{Answer, Ask, Wire, ask, eventually};

const A: Site = Site::A;
const B: Site = Site::B;
/// Nothing is replicated before the end of the test.
const NEVER: &str = "86400000";
const ROUNDS: u64 = 6;
const WRITERS: u64 = 3;

struct Program {
    child: Child,
    addresses: [SocketAddr; 2],
    admin: SocketAddr,
}

impl Program {
    fn start(data: &Path, args: &[&str]) -> Program {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cosfs-ha"))
            .args(["emulator", "--port", "0", "--data"])
            .arg(data)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the emulator starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let ready = lines.map_while(Result::ok).find(|line| line.starts_with("emulator ready "));
        let ready = ready.expect("it gets ready after being killed");
        let address = |name: &str| -> SocketAddr {
            let word = ready.split(' ').find_map(|word| word.strip_prefix(name)).expect("an address");
            word.trim_start_matches("http://").parse().expect("an address")
        };
        Program { addresses: [address("a="), address("b=")], admin: address("admin="), child }
    }

    fn kill(&mut self) {
        // SIGKILL: nothing in the process runs any more. Both fail only if it is dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn ask(&self, site: Site, ask: Ask<'_>) -> Answer {
        ask.attempt(self.addresses[site.index()]).expect("an answer")
    }

    fn pending(&self) -> u64 {
        let mut wire = Wire::connect(self.admin).expect("connect");
        let request = Ask { sign: false, ..ask(A, "GET", "/v1/state?objects=false") };
        let answer = wire.exchange(&request).expect("the state");
        let state: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        state["replication"]["a_to_b"]["pending"].as_u64().expect("a number")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

fn dice(test: &str) -> StdRng {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("{test}: SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Large enough for every third to be written to its file in pieces, by another thread.
fn content(n: u64) -> Vec<u8> {
    let len = if n.is_multiple_of(3) { 400_000 } else { 20 + n as usize % 50 };
    format!("{n:08} ").into_bytes().into_iter().cycle().take(len).collect()
}

/// What was acknowledged of one version: key, version id, content (`None`: a marker).
type Acknowledged = (String, String, Option<Vec<u8>>);

/// Puts, copies, uploads in parts and deletes until the emulator is gone.
fn write(address: SocketAddr, round: u64, writer: u64) -> Vec<Acknowledged> {
    let mut done = Vec::new();
    let Ok(mut wire) = Wire::connect(address) else { return done };
    for n in 0.. {
        let key = format!("r{round}/w{writer}/{}", n / 5);
        let unique = (round << 32) | (writer << 24) | n;
        let body = content(unique);
        let good = |answer: std::io::Result<Answer>| {
            answer.ok().filter(|a| !a.short && matches!(a.status, 200 | 204) && !a.text().contains("<Error>"))
        };
        let (answer, held) = match n % 5 {
            0 | 1 => (good(wire.exchange(&ask(A, "PUT", &format!("/{key}")).body(body.clone()))), Some(body)),
            2 => {
                let (_, _, source) = done.last().cloned().expect("puts come first");
                let copy = ask(A, "PUT", &format!("/{key}/copy")).header("x-cos-copy-source", source_of(&key));
                (good(wire.exchange(&copy)), source)
            }
            3 => {
                let Some(begun) = good(wire.exchange(&ask(A, "POST", &format!("/{key}/parts?uploads")))) else { break };
                let id = begun.element("UploadId").expect("an upload");
                let part = format!("/{key}/parts?partNumber=1&uploadId={id}");
                let Some(part) = good(wire.exchange(&ask(A, "PUT", &part).body(body.clone()))) else { break };
                let etag = part.header("etag").expect("an ETag");
                let list = format!(
                    "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>\
                     </CompleteMultipartUpload>"
                );
                let complete = ask(A, "POST", &format!("/{key}/parts?uploadId={id}")).body(list);
                (good(wire.exchange(&complete)), Some(body))
            }
            _ => (good(wire.exchange(&ask(A, "DELETE", &format!("/{key}/copy")))), None),
        };
        let Some(answer) = answer else { break };
        let key = match n % 5 {
            2 | 4 => format!("{key}/copy"),
            3 => format!("{key}/parts"),
            _ => key,
        };
        done.push((key, answer.header("x-cos-version-id").expect("an id").to_owned(), held));
    }
    done
}

fn source_of(key: &str) -> String {
    format!("{}/{key}", crate::client::host(A))
}

/// Puts one lifecycle after the other; returns the last acknowledged.
fn configure(address: SocketAddr, from: u64) -> u64 {
    let mut last = from;
    while let Ok(mut wire) = Wire::connect(address) {
        let body = format!(
            "<LifecycleConfiguration><Rule><ID>n{}</ID><Filter><Prefix></Prefix></Filter><Status>Enabled</Status><NoncurrentVersionExpiration>\
             <NoncurrentDays>7</NoncurrentDays></NoncurrentVersionExpiration></Rule></LifecycleConfiguration>",
            last + 1
        );
        let md5 = base64::engine::general_purpose::STANDARD.encode(Md5::digest(&body));
        match wire.exchange(&ask(A, "PUT", "/?lifecycle").header("Content-MD5", md5).body(body)) {
            Ok(answer) if answer.status == 200 => last += 1,
            Ok(answer) => panic!("{}", answer.text()),
            Err(_) => break,
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    last
}

fn check(program: &Program, site: Site, all: &[Acknowledged]) {
    let mut wire = Wire::connect(program.addresses[site.index()]).expect("connect");
    for (key, id, held) in all {
        let answer = wire.exchange(&ask(site, "GET", &format!("/{key}?versionId={id}"))).expect("an answer");
        match held {
            Some(body) => assert!(
                answer.status == 200 && answer.body == *body,
                "{key} {id} on {site}: {} with {} of {} bytes",
                answer.status,
                answer.body.len(),
                body.len()
            ),
            None => assert_eq!(
                (answer.status, answer.header("x-cos-delete-marker")),
                (404, Some("true")),
                "{key} {id} on {site}: the marker"
            ),
        }
    }
}

#[test]
fn every_acknowledged_version_and_setting_outlives_kills() {
    let mut dice = dice("kills");
    let dir = tempfile::tempdir().expect("a folder");
    let mut program = Program::start(dir.path(), &["--lag-ms", NEVER]);
    let (mut all, mut lifecycle) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let address = program.addresses[A.index()];
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| std::thread::spawn(move || write(address, round, writer))).collect();
        let before = lifecycle;
        let setter = std::thread::spawn(move || configure(address, before));
        std::thread::sleep(Duration::from_millis(dice.random_range(50..700)));
        program.kill();
        let fresh: Vec<Acknowledged> =
            writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect();
        lifecycle = setter.join().expect("a setter");
        assert!(!fresh.is_empty() || round > 0, "something was acknowledged");
        program = Program::start(dir.path(), &["--lag-ms", NEVER]);
        check(&program, A, &fresh);
        all.extend(fresh);
        let kept = program.ask(A, ask(A, "GET", "/?lifecycle")).element("ID");
        // The rule that a new bucket has is not one of ours.
        let kept: u64 = kept.and_then(|id| id.strip_prefix('n')?.parse().ok()).unwrap_or(0);
        // One more can have been carried out without its answer.
        assert!((lifecycle..=lifecycle + 1).contains(&kept), "lifecycle {kept}, acknowledged {lifecycle}");
        lifecycle = kept;
        assert!(program.pending() >= all.len() as u64, "the backlog of round {round}");
        for what in ["versioning", "replication"] {
            for site in Site::ALL {
                let answer = program.ask(site, ask(site, "GET", &format!("/?{what}")));
                assert!(answer.status == 200 && answer.text().contains("<Status>Enabled</Status>"), "{what} of {site}");
            }
        }
    }
    check(&program, A, &all);
    program.kill();
    program = Program::start(dir.path(), &["--lag-ms", "0"]);
    eventually("the backlog drains", || program.pending() == 0);
    check(&program, B, &all);
    println!("{} versions over {ROUNDS} kills", all.len());
}

#[test]
fn an_object_without_versions_is_never_older_than_acknowledged_and_never_half() {
    let mut dice = dice("overwrites");
    let dir = tempfile::tempdir().expect("a folder");
    let mut program = Program::start(dir.path(), &["--unconfigured"]);
    // Key to the number of the content that was acknowledged last.
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let next = Arc::new(AtomicU64::new(1));
    for _ in 0..ROUNDS {
        let address = program.addresses[A.index()];
        let writers: Vec<_> = (0..WRITERS)
            .map(|key| {
                let (next, from) = (Arc::clone(&next), last.get(&key).copied().unwrap_or(0));
                std::thread::spawn(move || {
                    let (mut acknowledged, mut tried) = (from, from);
                    let Ok(mut wire) = Wire::connect(address) else { return (key, acknowledged, tried) };
                    loop {
                        tried = next.fetch_add(1, Ordering::SeqCst);
                        match wire.exchange(&ask(A, "PUT", &format!("/k{key}")).body(content(tried))) {
                            Ok(answer) if answer.status == 200 => acknowledged = tried,
                            Ok(answer) => panic!("{}", answer.text()),
                            Err(_) => return (key, acknowledged, tried),
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(dice.random_range(50..700)));
        program.kill();
        let outcomes: Vec<_> = writers.into_iter().map(|writer| writer.join().expect("a writer")).collect();
        program = Program::start(dir.path(), &["--unconfigured"]);
        for (key, acknowledged, tried) in outcomes {
            let answer = program.ask(A, ask(A, "GET", &format!("/k{key}")));
            if answer.status == 404 && acknowledged == 0 {
                continue;
            }
            let found = [acknowledged, tried].into_iter().find(|n| answer.status == 200 && answer.body == content(*n));
            let found = found.unwrap_or_else(|| {
                panic!("k{key}: {} with {} bytes, acknowledged {acknowledged}", answer.status, answer.body.len())
            });
            last.insert(key, found);
        }
    }
}
