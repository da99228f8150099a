use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::*;

/// Remembers what it was told, and drains slowly.
struct Puppet {
    told: Mutex<Vec<String>>,
    left: u64,
    busy: bool,
}

impl Daemon for Puppet {
    fn status(&self) -> Status {
        example()
    }

    fn switch(&self, to: Site, reason: String) -> BoxFuture<'_, Result<(), String>> {
        self.told.lock().push(format!("switch {to} {reason}"));
        async move { if to == Site::A { Ok(()) } else { Err("b is dead".into()) } }.boxed()
    }

    fn auto(&self) -> BoxFuture<'_, Result<(), String>> {
        self.told.lock().push("auto".into());
        async { Ok(()) }.boxed()
    }

    fn drain(&self, until: Instant, mut progress: OnProgress) -> BoxFuture<'_, Left> {
        let wait = until.saturating_duration_since(Instant::now());
        self.told.lock().push(format!("drain {}", wait.as_secs_f64().round()));
        async move {
            for unsent in (0..3).rev() {
                progress(Progress { unsent, bytes: 10 * unsent });
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Left {
                unsent: (0..self.left).map(|n| pending(&format!("file {n}"))).collect(),
                unverified: 7,
                lost: Vec::new(),
            }
        }
        .boxed()
    }

    fn shutdown(&self, until: Instant, progress: OnProgress) -> BoxFuture<'_, Result<Left, ShutdownError>> {
        async move {
            if self.busy {
                return Err(ShutdownError::Busy("bash (pid 7)".into()));
            }
            Ok(self.drain(until, progress).await)
        }
        .boxed()
    }
}

fn pending(path: &str) -> Pending {
    Pending { path: path.into(), bytes: 5, delete: false, elsewhere: true }
}

pub(crate) fn example() -> Status {
    Status {
        state: "on_slave".into(),
        master: Site::B,
        epoch: 2,
        explain: "A does not answer since 12:00".into(),
        latched: false,
        linkages: vec![Linkage {
            site: Site::A,
            class: Class::Write,
            health: "dead".into(),
            rtt_ms_p50: None,
            rtt_ms_p99: Some(12.5),
            overdue_after_ms: 800.0,
        }],
        journal: JournalDepth { records: 3, bytes: 4096, limit: 1 << 30, unsent: 1, unverified: 3, oldest_s: 1.5 },
        pending: vec![PendingWrite { path: "d/f".into(), bytes: 2048, delete: false, state: "in-b".into() }],
        replication_lag_s: Lag { a_to_b: Some(0.5), b_to_a: None },
        cache: CacheUse { bytes: 10, limit: 100 },
        switches: vec![Switch {
            at: 1_700_000_000.0,
            from: Site::A,
            to: Site::B,
            epoch: 2,
            automatic: true,
            reason: "silent for 2.5 s".into(),
        }],
        alarms: Vec::new(),
        mount: MountFacts {
            mountpoint: "/data".into(),
            pid: 42,
            version: "0".into(),
            since: 1_699_999_000.0,
            commit: "one-region".into(),
            read_only: false,
            a: "m-1.cos.ap-x.myqcloud.com".into(),
            b: "s-1.cos.ap-y.myqcloud.com".into(),
            log: None,
        },
    }
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    socket: PathBuf,
    puppet: Arc<Puppet>,
    server: Option<Server>,
    _dir: tempfile::TempDir,
}

fn bench(left: u64, busy: bool) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let puppet = Arc::new(Puppet { told: Mutex::default(), left, busy });
    let server = runtime.block_on(async { Server::bind(&socket, puppet.clone()) }).unwrap();
    Bench { runtime, socket, puppet, server: Some(server), _dir: dir }
}

impl Bench {
    fn ask(&self, request: &Request) -> Result<Line, ClientError> {
        Client::at(&self.socket)?.ask(request, |_| {})
    }
}

#[test]
fn every_request_reaches_the_daemon() {
    let bench = bench(0, false);
    assert_eq!(bench.ask(&Request::Status).unwrap(), Line::Status(Box::new(example())));
    assert_eq!(bench.ask(&Request::Switch { to: Site::A, reason: "drill".into() }).unwrap(), Line::Done);
    assert_eq!(bench.ask(&Request::Auto).unwrap(), Line::Done);
    let refused = bench.ask(&Request::Switch { to: Site::B, reason: String::new() }).unwrap_err();
    assert_eq!(refused.to_string(), "b is dead");
    assert_eq!(*bench.puppet.told.lock(), ["switch a drill", "auto", "switch b "]);
}

#[test]
fn draining_streams_progress_and_ends_with_what_is_left() {
    let bench = bench(2, false);
    let mut seen = Vec::new();
    let client = Client::at(&bench.socket).unwrap();
    let line = client.ask(&Request::Drain { timeout_s: 30.0 }, |now| seen.push(now.unsent)).unwrap();
    assert_eq!(
        line,
        Line::Left(Left { unsent: vec![pending("file 0"), pending("file 1")], unverified: 7, lost: Vec::new() })
    );
    assert!(!seen.is_empty() && seen.is_sorted_by(|a, b| a > b), "{seen:?}");
    assert_eq!(*bench.puppet.told.lock(), ["drain 30"]);
}

#[test]
fn a_busy_mount_says_who() {
    let bench = bench(0, true);
    let error = bench.ask(&Request::Shutdown { timeout_s: 1.0 }).unwrap_err();
    assert!(matches!(error, ClientError::Busy(who) if who == "bash (pid 7)"));
}

#[test]
fn nonsense_is_answered_and_does_not_end_the_server() {
    use std::io::{Read, Write};
    let bench = bench(0, false);
    for nonsense in ["hello\n", "{\"op\":\"fly\"}\n", "{\"op\":\"drain\"}\n", "\n"] {
        let mut stream = std::os::unix::net::UnixStream::connect(&bench.socket).unwrap();
        stream.write_all(nonsense.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("not a request"), "{nonsense:?}: {answer:?}");
    }
    let mut stream = std::os::unix::net::UnixStream::connect(&bench.socket).unwrap();
    // The server stops reading at its limit, so writing or reading may fail; neither may hang.
    let _ = stream.write_all(&vec![b'x'; 1 << 20]);
    let _ = stream.read_to_string(&mut String::new());
    assert!(bench.ask(&Request::Status).is_ok());
}

#[test]
fn stale_sockets_are_replaced_and_living_ones_are_not() {
    use std::os::unix::fs::PermissionsExt;
    let mut bench = bench(0, false);
    assert_eq!(bench.socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let second = bench.runtime.block_on(async { Server::bind(&bench.socket, bench.puppet.clone()) });
    assert_eq!(second.err().map(|error| error.kind()), Some(std::io::ErrorKind::AddrInUse));
    let server = bench.server.take().unwrap();
    bench.runtime.block_on(server.stop());
    assert!(!bench.socket.exists());
    // What kill -9 leaves behind: the file without a listener.
    drop(std::os::unix::net::UnixListener::bind(&bench.socket).unwrap());
    assert!(matches!(bench.ask(&Request::Status), Err(ClientError::Silent(_))));
    bench.server = Some(bench.runtime.block_on(async { Server::bind(&bench.socket, bench.puppet.clone()) }).unwrap());
    assert!(bench.ask(&Request::Status).is_ok());
}

#[test]
fn nobody_there_is_said_clearly() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::connect(dir.path()).err().unwrap();
    assert!(error.to_string().starts_with("nothing is mounted at "), "{error}");
}

#[test]
fn status_has_the_promised_shape() {
    let json = serde_json::to_value(example()).unwrap();
    for pointer in [
        "/state",
        "/master",
        "/epoch",
        "/linkages/0/site",
        "/linkages/0/class",
        "/linkages/0/health",
        "/linkages/0/rtt_ms_p50",
        "/linkages/0/rtt_ms_p99",
        "/journal/records",
        "/journal/bytes",
        "/journal/unsent",
        "/journal/unverified",
        "/journal/oldest_s",
        "/replication_lag_s/a_to_b",
        "/replication_lag_s/b_to_a",
        "/cache/bytes",
        "/cache/limit",
        "/switches/0/at",
        "/switches/0/from",
        "/switches/0/to",
        "/switches/0/reason",
    ] {
        assert!(json.pointer(pointer).is_some(), "{pointer}");
    }
    assert_eq!(json["master"], "b");
    assert_eq!(json["linkages"][0]["class"], "write");
}
