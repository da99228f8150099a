//! The driver, its probes and attempts against small servers on real sockets: from silence to the other site, and back.

mod server;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cosfs_ha::cos::credentials::Fixed;
use cosfs_ha::cos::{self, Attempt, BucketAddress, Client, ClockOffset, Credentials, Kind, Progress};
use cosfs_ha::failover::{Command, Health, Start, State, Tuning, View};
use cosfs_ha::linkage::{AttemptError, Linkages};
use cosfs_ha::object::{Class, Epoch, Key, Site};
use server::{Manner, Server};
use tokio::time::{Instant, timeout};

/// What the durable side has seen: (epoch, master), and which master the view showed at that moment.
type Opened = Arc<Mutex<Vec<(u64, Site, Site)>>>;

struct Bench {
    sites: [Server; 2],
    links: Linkages,
    opened: Opened,
}

fn key() -> Key {
    Key::new("dir/file").expect("valid")
}

async fn head(client: Client, progress: Arc<Progress>) -> Result<(), cos::Error> {
    client.head(&key(), None, &Attempt::new(&progress)).await.map(|_| ())
}

fn client_of(server: &Server, site: Site) -> Client {
    let address = BucketAddress {
        bucket: format!("{site}-1250000000"),
        region: "ap-guangzhou".into(),
        endpoint: Some(format!("http://{}", server.address)),
        https: false,
    };
    let credentials = Credentials::new("id".into(), "key".into(), None).expect("valid");
    Client::new(address, Arc::new(Fixed::new(credentials)), Arc::new(ClockOffset::new())).expect("client")
}

impl Bench {
    async fn start(refuse_epochs: usize) -> Bench {
        let _ = env_logger::builder().is_test(true).try_init();
        let sites = [Server::start().await, Server::start().await];
        let clients = [client_of(&sites[0], Site::A), client_of(&sites[1], Site::B)];
        let opened = Opened::default();
        let links_cell: Arc<Mutex<Option<Linkages>>> = Arc::default();
        let (seen, cell) = (opened.clone(), links_cell.clone());
        let refused = Mutex::new(refuse_epochs);
        let on_epoch = move |epoch: Epoch, master| {
            let shown = cell.lock().unwrap().as_ref().map_or(Site::A, |links| links.view().master);
            let mut refused = refused.lock().unwrap();
            if *refused > 0 {
                *refused -= 1;
                return Err("disk full".to_string());
            }
            seen.lock().unwrap().push((epoch.0, master, shown));
            Ok(())
        };
        let start = Start { epoch: Epoch(1), master: Site::A };
        let sentinel = Key::new(".sentinel").expect("valid");
        let rt = tokio::runtime::Handle::current();
        let links = Linkages::start(clients, Tuning::default(), start, sentinel, Box::new(on_epoch), &rt);
        *links_cell.lock().unwrap() = Some(links.clone());
        let bench = Bench { sites, links, opened };
        // Every linkage has answered once.
        bench.until(20, |v| v.linkages.iter().flatten().all(|l| l.rtt_p50.is_some())).await;
        bench
    }

    /// Waits for a view; the limit is a stall bound, not a measurement.
    async fn until(&self, seconds: u64, wanted: impl Fn(&View) -> bool) -> Arc<View> {
        let mut views = self.links.watch();
        match timeout(Duration::from_secs(seconds), views.wait_for(|v| wanted(v))).await {
            Ok(view) => view.expect("driver lives"),
            Err(_) => panic!("not within {seconds} s: {:#?}", self.links.view()),
        }
    }

    async fn try_head(&self, site: Site) -> Result<(), AttemptError> {
        let until = Instant::now() + Duration::from_secs(30);
        self.links.attempt(site, Class::Read, until, head).await
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_cuts_attempts_moves_the_master_and_heals() {
    let bench = Bench::start(1).await;
    assert!(matches!(bench.try_head(Site::A).await, Err(AttemptError::Cos(e)) if e.kind == Kind::NoSuchKey));
    assert_eq!(bench.links.view().state, State::Normal);

    bench.sites[0].behave(Manner::Silent);
    let begun = Instant::now();
    let write = async |client: Client, progress: Arc<Progress>| {
        client.delete(&key(), None, &Attempt::new(&progress)).await.map(|_| ())
    };
    let (read, write) =
        tokio::join!(bench.try_head(Site::A), bench.links.attempt(Site::A, Class::Write, soon(), write));
    let stall = begun.elapsed();
    assert!(matches!(read, Err(AttemptError::Dead { site: Site::A, sent: cos::Sent::Fully, .. })), "{read:?}");
    assert!(matches!(write, Err(AttemptError::Dead { sent: cos::Sent::Fully, .. })), "{write:?}");
    assert!(stall < Duration::from_secs(5), "{stall:?}");

    let view = bench.until(10, |v| v.master == Site::B).await;
    assert_eq!((view.epoch, view.accepting_writes), (Epoch(2), true));
    assert!(view.switches[0].automatic && view.switches[0].reason.contains("no success for"), "{view:#?}");
    // The first try at the epoch was refused by the disk; the second was durable while everybody still saw A.
    assert_eq!(*bench.opened.lock().unwrap(), [(2, Site::B, Site::A)]);
    assert!(bench.links.wall_clock(view.switches[0].at).elapsed().expect("past") < Duration::from_secs(60));

    let begun = Instant::now();
    assert!(matches!(bench.try_head(Site::A).await, Err(AttemptError::Dead { sent: cos::Sent::No, .. })));
    assert!(begun.elapsed() < Duration::from_secs(1), "a dead linkage costs nothing");
    assert!(matches!(bench.try_head(Site::B).await, Err(AttemptError::Cos(e)) if e.kind == Kind::NoSuchKey));

    bench.sites[0].behave(Manner::Healthy);
    let healthy = |v: &View| v.linkages[0].iter().all(|l| l.health == Health::Up);
    let view = bench.until(30, healthy).await;
    assert_eq!((view.state, view.master), (State::CatchUp, Site::B), "{}", view.explain);
    bench.links.command(Command::Switch { to: Site::A, reason: "test".into() }).await.expect("done");
    let view = bench.links.view();
    assert_eq!((view.state, view.accepting_writes), (State::Normal, true), "an answered command is a finished one");
    assert_eq!((view.master, view.epoch), (Site::A, Epoch(3)), "{}", view.explain);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_move_the_master_and_refusals_do_not() {
    let bench = Bench::start(0).await;
    bench.sites[0].behave(Manner::Strict);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        assert!(matches!(bench.try_head(Site::A).await, Err(AttemptError::Cos(e)) if e.kind == Kind::Auth));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(bench.links.view().master, Site::A, "403 moves nobody");
    bench.sites[0].behave(Manner::Rude);
    bench.until(10, |v| v.master == Site::B).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_silent_is_an_outage_and_ends_with_the_first_answer() {
    let bench = Bench::start(0).await;
    bench.sites.iter().for_each(|s| s.behave(Manner::Silent));
    let view = bench.until(10, |v| v.state == State::BothDown).await;
    assert_eq!(view.master, Site::A);
    let begun = Instant::now();
    let (a, b) = tokio::join!(bench.try_head(Site::A), bench.try_head(Site::B));
    assert!(matches!((a, b), (Err(AttemptError::Dead { .. }), Err(AttemptError::Dead { .. }))));
    assert!(begun.elapsed() < Duration::from_secs(5));
    bench.sites.iter().for_each(|s| s.behave(Manner::Healthy));
    let view = bench.until(10, |v| v.state == State::Normal && v.linkages[0][0].health == Health::Up).await;
    assert_eq!((view.master, view.switches.len()), (Site::A, 0), "{view:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_name_is_left_and_the_region_is_not() {
    let bench = Bench::start(0).await;
    bench.sites[0].behave(Manner::OneName);
    // Hangs on the first name, is cut off, and goes through when it is sent again.
    let begun = Instant::now();
    let mut tries = 0;
    while !matches!(bench.try_head(Site::A).await, Err(AttemptError::Cos(e)) if e.kind == Kind::NoSuchKey) {
        tries += 1;
        assert!(begun.elapsed() < Duration::from_secs(10), "still not answered after {tries} tries");
    }
    assert!(tries > 0, "it was the first name");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(5)).await;
    for _ in 0..20 {
        let asked = Instant::now();
        assert!(matches!(bench.try_head(Site::A).await, Err(AttemptError::Cos(e)) if e.kind == Kind::NoSuchKey));
        assert!(asked.elapsed() < Duration::from_secs(1), "the second name is used now");
    }
    let view = bench.links.view();
    assert_eq!((view.master, view.switches.len()), (Site::A, 0), "{}", view.explain);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_answered() {
    let bench = Bench::start(0).await;
    bench.sites[1].behave(Manner::Silent);
    bench.until(10, |v| v.linkages[1].iter().all(|l| l.health == Health::Dead)).await;
    let refused = bench.links.command(Command::Switch { to: Site::B, reason: "test".into() }).await;
    assert!(refused.expect_err("b is dead").contains("b cannot take over"));
    assert_eq!(bench.links.command(Command::Auto).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_attempts_at_once_are_all_told() {
    let bench = Bench::start(0).await;
    let tries = (0..8000).map(|_| bench.links.attempt(Site::A, Class::Read, soon(), async |_, _| Ok(())));
    let results = futures::future::join_all(tries).await;
    assert!(results.iter().all(Result::is_ok));
    let view = bench.links.view();
    assert_eq!(view.linkage(Site::A, Class::Read).health, Health::Up, "{view:#?}");
}
