//! A local twin of two COS regions: the same protocol, and every way to break that a cloud has.
//!
//! Every claim this project makes about outages rests on the emulator, so it behaves as COS is documented to behave
//! (docs/cos-protocol.md), also where that is inconvenient: versions pile up, replicas arrive late, nothing is conditional.
//! Two sites in one process, each a port with one bucket of its own; a CDN before the first and an origin beside them; one more port steers
//! all of it (`admin`).
//!
//! ```text
//! door          a place on the network: connections, faults, counters, log
//!   http/gate   the listening socket: open, closed, dark
//!   line        one connection whose bytes can be stopped
//! http          a region behind its door: signature, body, operation
//! api           operations; their answers in xml
//! world         both buckets, uploads, configurations
//!   site        versions and listings of one bucket; pure
//! replicator    one queue a direction
//! fault         what is broken, and whether it hits a request
//! blob ledger   bodies, and records on disk
//! cdn           a cache by URL before a region
//! origin        a plain web server
//! pull          what a bucket fetches from an origin
//! tls           certificates, good and bad
//! admin         JSON steering
//! inside        the same regions without sockets, for simulations
//! ```
//!
//! It runs on threads of its own, so a test can start one from anywhere and black-hole it without stopping itself.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::object::Site;

mod access;
pub mod admin;
mod api;
mod blob;
pub mod cdn;
mod clock;
mod door;
mod failure;
pub mod fault;
mod fill;
mod http;
pub mod inside;
pub mod keyring;
mod ledger;
mod lifecycle;
mod line;
pub mod origin;
mod pull;
pub mod replicator;
mod site;
mod tls;
mod world;
mod xml;

pub use admin::{ReplicationChange, State};
pub use door::{LogEntry, Place};
pub use fault::{Fault, Kind};
pub use site::Current;
pub use tls::TlsError;

use blob::{Blob, Shelter};
use cdn::{Cdn, Roads};
use door::{Door, Room};
use http::Region;
use http::gate::Gate;
use ledger::Opened;
use origin::Origin;
use pull::Puller;
use site::{Content, Versioning};
use tls::Tls;
use world::World;

/// The one identity the emulator knows; the same as in the signature vectors.
pub const SECRET_ID: &str = "AKIDEXAMPLE0000000000000000000000001";
pub const SECRET_KEY: &str = "exampleSecretKey0000000000000001";

/// Bucket and region of each site.
pub const BUCKETS: [(&str, &str); 2] = [("master-1250000000", "ap-guangzhou"), ("slave-1250000000", "ap-shanghai")];

/// The CDN domain before bucket A.
pub const CDN_DOMAIN: &str = "files.example.com";

/// The admin port, counted from the first.
const ADMIN_OFFSET: u16 = 9;
/// An isolated or empty direction is looked at this often, whatever woke nobody.
const REPLICATOR_IDLE: Duration = Duration::from_millis(200);

/// COS does it once a day; days are what rules count in.
const LIFECYCLE_EVERY: Duration = Duration::from_secs(3600);

/// How to start.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Region A here, then B, CDN and origin; admin nine above. 0: five free ports.
    pub port: u16,
    /// Keep objects in this folder; default in memory.
    pub data: Option<PathBuf>,
    /// No versioning, no replication rules: a pair of new buckets.
    pub unconfigured: bool,
    /// Least delay of replication, both ways.
    pub lag: Duration,
    /// Of all dice: fault probabilities, reordering.
    pub seed: u64,
}

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on 127.0.0.1:{port}: {source}")]
    Listen { port: u16, source: io::Error },
    #[error("cannot start threads: {0}")]
    Threads(io::Error),
    #[error("data folder: {0}")]
    Data(#[from] ledger::OpenError),
    #[error("data folder {path}: {source}", path = .path.display())]
    Bodies { path: PathBuf, source: io::Error },
    #[error("the buckets cannot be set up: {0}")]
    Setup(String),
}

/// Two running regions. Stops when dropped.
#[derive(Debug)]
pub struct Emulator {
    steering: Arc<admin::Steering>,
    tls: Arc<Tls>,
    admin: SocketAddr,
    runtime: Option<Runtime>,
}

impl Emulator {
    /// Listens when it returns. May be called from any thread, also from async code.
    pub fn start(options: Options) -> Result<Emulator, StartError> {
        let world = Arc::new(open_world(&options)?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("emulator")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        let at = |offset: u16| match options.port {
            0 => 0,
            base => base.saturating_add(offset),
        };
        let address = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut gates = Vec::new();
        for place in Place::ALL {
            let port = at(place as u16);
            gates.push(Gate::open(address(port)).map_err(|source| StartError::Listen { port, source })?);
        }
        let road = |place: Place| gates[place as usize].1.address();
        let roads = Roads { a: road(Place::A), b: road(Place::B), origin: road(Place::Origin) };
        let cdn = Arc::new(Cdn::new(roads).map_err(StartError::Setup)?);
        let origin = Arc::new(Origin::new(Arc::clone(&world)));
        let tls = Arc::new(Tls::default());
        let puller = Puller::new(Arc::clone(&world), options.seed.wrapping_add(20))
            .map_err(|e| StartError::Setup(e.to_string()))?;
        let puller = Arc::new(puller);
        let (mut doors, mut keepers) = (Vec::new(), Vec::new());
        for (place, (gate, keeper)) in Place::ALL.into_iter().zip(gates) {
            let region = |site| Arc::new(Region { site, world: Arc::clone(&world), puller: Arc::clone(&puller) });
            let room: Arc<dyn Room> = match place {
                Place::A => region(Site::A),
                Place::B => region(Site::B),
                Place::Cdn => Arc::clone(&cdn) as _,
                Place::Origin => Arc::clone(&origin) as _,
            };
            let seed = options.seed.wrapping_add(10 + place as u64);
            doors.push(Arc::new(Door::new(place, room, Arc::clone(&tls), keeper.address(), gate, seed)));
            keepers.push(keeper);
        }
        let port = at(ADMIN_OFFSET);
        let listener = std::net::TcpListener::bind(address(port))
            .and_then(|l| l.set_nonblocking(true).map(|()| l))
            .map_err(|source| StartError::Listen { port, source })?;
        let admin = listener.local_addr().map_err(|source| StartError::Listen { port, source })?;
        let steering = Arc::new(admin::Steering { world: Arc::clone(&world), doors, cdn, origin });
        for (keeper, door) in keepers.into_iter().zip(&steering.doors) {
            runtime.spawn(keeper.run(Arc::clone(door)));
        }
        runtime.spawn(admin::serve(Arc::clone(&steering), listener));
        runtime.spawn(keep_house(Arc::clone(&world)));
        runtime.spawn(replicate(world));
        Ok(Emulator { steering, tls, admin, runtime: Some(runtime) })
    }

    pub fn address(&self, place: impl Into<Place>) -> SocketAddr {
        self.steering.door(place).address
    }

    /// `http://127.0.0.1:<port>`, as in a configuration's `endpoint`.
    pub fn endpoint(&self, place: impl Into<Place>) -> String {
        format!("http://{}", self.address(place))
    }

    /// Certificate, in PEM, of the authority that signed those of every port. Made anew at each start.
    pub fn authority(&self) -> Result<String, TlsError> {
        self.tls.authority()
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Replaces the faults of a place; an empty list heals. In force when it returns.
    pub fn set_faults(&self, place: impl Into<Place>, faults: Vec<Fault>) -> Result<(), String> {
        self.steering.door(place).set_faults(faults)
    }

    /// Puts the calendar of lifecycle and restores forward and does what is due. Returns how many steps that were.
    pub fn put_clock_ahead(&self, ahead: Duration) -> usize {
        self.steering.world.put_ahead(ahead)
    }

    pub fn faults(&self, place: impl Into<Place>) -> Vec<Fault> {
        self.steering.door(place).faults()
    }

    pub fn cdn(&self) -> &Cdn {
        &self.steering.cdn
    }

    pub fn change_replication(&self, change: ReplicationChange) {
        self.steering.change_replication(change);
    }

    /// With `objects`: the current version of every key.
    pub fn state(&self, objects: bool) -> State {
        self.steering.state(objects)
    }

    pub fn log(&self, place: impl Into<Place>) -> Vec<LogEntry> {
        self.steering.door(place).log()
    }

    /// Writes an object past HTTP, as a client's PUT would: to fill a bucket quickly.
    pub fn put(&self, site: Site, key: &str, body: Bytes) -> Result<(), String> {
        use md5::{Digest, Md5};
        let world = &self.steering.world;
        let etag = world::hex(&Md5::digest(&body));
        let crc64 = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &body);
        let headers = [("content-type".to_owned(), "application/octet-stream".to_owned())].into();
        let blob = match world.shelter() {
            None => Blob::memory(vec![body]),
            Some(shelter) => {
                let (file, body_file) = shelter.create().map_err(|e| e.to_string())?;
                io::Write::write_all(&mut &file, &body).map_err(|e| e.to_string())?;
                Blob::file(body_file, body.len() as u64)
            }
        };
        let content = Content { blob, etag, crc64, headers };
        world.put(world.bucket(site), key, content, false).map(drop).map_err(|e| e.to_string())
    }

    /// Waits until both directions are empty. `false` if that takes longer than `limit`.
    pub fn wait_replicated(&self, limit: Duration) -> bool {
        let end = std::time::Instant::now() + limit;
        while Site::ALL.iter().any(|site| self.steering.world.direction(*site).pending() > 0) {
            if std::time::Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Cuts every connection and ends; data on disk stays.
    pub fn stop(self) {}
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.steering.world.close();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn open_world(options: &Options) -> Result<World, StartError> {
    let new = |disk| World::new(BUCKETS, options.lag, options.seed, disk);
    let set_up = |world: &World| match options.unconfigured {
        true => Ok(()),
        false => configure(world).map_err(|failure| StartError::Setup(failure.to_string())),
    };
    let Some(dir) = &options.data else {
        let world = new(None);
        set_up(&world)?;
        return Ok(world);
    };
    let opened = Opened::read(dir)?;
    let bodies = dir.join("bodies");
    let shelter = Shelter::open(&bodies).map_err(|source| StartError::Bodies { path: bodies, source })?;
    let world = new(Some((opened.ledger()?, Arc::clone(&shelter))));
    // Before the new list takes the place of the old one: killed in between, the folder is still new at the next start.
    if opened.is_new() {
        set_up(&world)?;
    }
    opened.restore(&world, &shelter)?;
    Ok(world)
}

/// Of buckets that are configured: what is not current goes after a month, what was not finished after a week.
const LIFECYCLE: &str = "<LifecycleConfiguration><Rule><ID>tidy</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>\
    <Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>\
    <NoncurrentVersionExpiration><NoncurrentDays>30</NoncurrentDays></NoncurrentVersionExpiration>\
    <AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>";

/// Versioning on both buckets, then a rule each at the other, and lifecycle rules.
fn configure(world: &World) -> Result<(), failure::Failure> {
    use crate::cos::xml::{DeleteMarkerReplication, Destination, ReplicationConfiguration, ReplicationRule, Toggle};
    for site in Site::ALL {
        world.set_versioning(world.bucket(site), Versioning::Enabled)?;
    }
    for site in Site::ALL {
        let target = world.bucket(site.other());
        let rule = ReplicationRule {
            id: Some(format!("to-{}", target.site)),
            status: Toggle::Enabled,
            prefix: Some(String::new()),
            destination: Destination { bucket: target.resource(), storage_class: None },
            delete_marker_replication: Some(DeleteMarkerReplication { status: Toggle::Enabled }),
        };
        let role = "qcs::cam::uin/1250000000:uin/1250000000".into();
        world.set_replication(world.bucket(site), Some(ReplicationConfiguration { role, rules: vec![rule] }))?;
        world.set_lifecycle(world.bucket(site), Some(LIFECYCLE.into()));
    }
    Ok(())
}

/// Carries out lifecycle rules from time to time.
async fn keep_house(world: Arc<World>) {
    loop {
        tokio::time::sleep(LIFECYCLE_EVERY).await;
        let world = Arc::clone(&world);
        if let Err(error) = tokio::task::spawn_blocking(move || world.run_lifecycle()).await {
            log::error!("lifecycle: {error}");
        }
    }
}

async fn replicate(world: Arc<World>) {
    loop {
        let now = Instant::now();
        let due = Site::ALL.iter().filter_map(|site| world.replicate(*site, now)).min();
        let idle = now + REPLICATOR_IDLE;
        tokio::select! {
            () = world.wake.notified() => {}
            () = tokio::time::sleep_until(due.map_or(idle, |due| due.min(idle))) => {}
        }
    }
}
