//! Two regions and the network to them, as one queue of things that happen at moments.
//!
//! The buckets are the emulator's (`emulator::inside`); latency, loss and everything else that can befall a request on its way is here.
//! A request is sent, arrives, is carried out, its answer travels back; each step looks at the troubles that are in force when it
//! happens, so an answer can be lost though its request was not, and a write can be committed long after its sender gave up.
//!
//! What happens depends on the seed and on the order of requests, on nothing else. The queue survives a crash of the mount.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cosfs_ha::cos::wire::{Answer, Sending, Wire};
use cosfs_ha::emulator::ReplicationChange;
use cosfs_ha::emulator::inside::{self, Inside, Shelved};
use cosfs_ha::object::{Class, Site};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// What can befall a request.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Trouble {
    /// Connections are refused.
    Refuse,
    /// Packets vanish, also those of open connections. Some writes come through later all the same.
    Silent,
    /// Taken, never answered; carried out or not.
    Hang,
    /// Cut when everything was sent; carried out or not.
    Reset,
    /// An error answer with this status. Carried out all the same, now and then.
    Status(u16, &'static str),
    /// The same from a middlebox.
    Foreign(u16),
    Throttle,
    Deny,
    /// The service's clock differs by so many seconds.
    Skew(i64),
    /// Everything takes this many times as long.
    Slow(f64),
    /// One bit of an answer's body is wrong.
    Corrupt,
    /// An answer's body ends early.
    Truncate,
    /// An answer's body stops half way.
    HangBody,
    /// Carried out, then cut without an answer.
    LoseAnswer,
    /// Cut, and carried out up to 30 s later.
    LateCommit,
    /// This host has no route.
    NoRoute,
}

/// A trouble, where and how often.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Fault {
    /// `None`: both.
    pub site: Option<Site>,
    /// `None`: both.
    pub class: Option<Class>,
    pub trouble: Trouble,
    /// Part of the requests it befalls.
    pub share: f64,
}

impl Fault {
    pub fn on(site: Site, trouble: Trouble) -> Fault {
        Fault { site: Some(site), class: None, trouble, share: 1.0 }
    }

    fn hits(&self, site: Site, class: Class) -> bool {
        self.site.is_none_or(|s| s == site) && self.class.is_none_or(|c| c == class)
    }
}

type Reply = oneshot::Sender<io::Result<Answer>>;

enum Happening {
    Arrival { site: Site, request: http::Request<Bytes>, fate: Fate, back: Duration, reply: Option<Reply> },
    Answer { site: Site, answer: io::Result<Answer>, reply: Reply },
}

/// What happens to a request where it arrives.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    Served,
    /// Carried out (or not), then no word.
    Mute {
        carried_out: bool,
    },
    /// Carried out (or not), then the connection breaks.
    Cut {
        carried_out: bool,
    },
    Refused {
        status: u16,
        code: &'static str,
        carried_out: bool,
    },
    Foreign(u16),
    Skewed(i64),
    Body(Damage),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Damage {
    Flip,
    End,
    Stop,
}

struct Inner {
    /// By moment since the beginning, then by number.
    queue: BTreeMap<(Duration, u64), Happening>,
    serial: u64,
    dice: StdRng,
    faults: Vec<(u32, Fault)>,
    origin: Instant,
    requests: u64,
    trace: u64,
}

/// The world outside the mount.
pub struct Regions {
    pub inside: Inside,
    inner: Mutex<Inner>,
    wake: Notify,
    tell: bool,
}

impl std::fmt::Debug for Regions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Regions")
    }
}

/// FNV-1a.
fn mix(trace: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(trace, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Regions {
    pub fn new(seed: u64, lag: Duration, tell: bool) -> Result<Arc<Regions>, String> {
        let inside = Inside::new(lag, seed ^ 0x5eed)?;
        let inner = Inner {
            queue: BTreeMap::new(),
            serial: 0,
            dice: StdRng::seed_from_u64(seed ^ 0x0dd5),
            faults: Vec::new(),
            origin: Instant::now(),
            requests: 0,
            trace: 0xcbf2_9ce4_8422_2325,
        };
        Ok(Arc::new(Regions { inside, inner: Mutex::new(inner), wake: Notify::new(), tell }))
    }

    /// A new runtime has begun where the last one ended: the same moments, other instants.
    pub fn moved(&self, by: Duration) {
        self.inner.lock().origin += by;
        self.inside.moved(by);
    }

    /// Since the beginning.
    pub fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.inner.lock().origin)
    }

    pub fn instant(&self, at: Duration) -> Instant {
        self.inner.lock().origin + at
    }

    pub fn requests(&self) -> u64 {
        self.inner.lock().requests
    }

    /// The same for the same history.
    pub fn trace(&self) -> u64 {
        self.inner.lock().trace
    }

    pub fn begin(&self, id: u32, fault: Fault) {
        self.inner.lock().faults.push((id, fault));
    }

    pub fn end(&self, id: u32) {
        self.inner.lock().faults.retain(|(other, _)| *other != id);
    }

    pub fn replication(&self, change: ReplicationChange) {
        self.inside.change_replication(change);
        self.wake.notify_one();
    }

    pub fn current(&self, site: Site) -> BTreeMap<String, Shelved> {
        self.inside.current(site, "")
    }

    /// A request of somebody else, carried out at once: for foreign programs and for filling the buckets.
    pub fn foreign(&self, site: Site, method: &str, key: &str, body: Bytes) -> Option<inside::Answer> {
        let request = http::Request::builder().method(method).uri(format!("http://127.0.0.1/{key}")).body(body).ok()?;
        let answer = self.inside.perform(site, request);
        self.wake.notify_one();
        Some(answer)
    }

    /// Lets things happen, for ever.
    pub async fn run(self: Arc<Regions>) {
        loop {
            let now = self.now();
            while let Some(happening) = self.next_due(now) {
                self.happen(happening);
            }
            let replica = self.inside.replicate();
            let next = self.inner.lock().queue.first_key_value().map(|((at, _), _)| *at);
            let next = match (next.map(|at| self.instant(at)), replica) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                () = async {
                    match next {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    fn next_due(&self, now: Duration) -> Option<Happening> {
        let mut inner = self.inner.lock();
        let first = inner.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(first.remove())
    }

    fn later(inner: &mut Inner, at: Duration, happening: Happening) {
        inner.serial += 1;
        let key = (at, inner.serial);
        inner.queue.insert(key, happening);
    }

    fn is_dark(inner: &Inner, site: Site, class: Class) -> bool {
        let dark = |t: Trouble| matches!(t, Trouble::Silent | Trouble::NoRoute);
        inner.faults.iter().any(|(_, f)| f.hits(site, class) && f.share >= 1.0 && dark(f.trouble))
    }

    fn happen(&self, happening: Happening) {
        let now = self.now();
        match happening {
            Happening::Arrival { site, request, fate, back, reply } => {
                let (method, head) = (request.method().clone(), request.method() == http::Method::HEAD);
                let path = request.uri().path_and_query().map_or("", |p| p.as_str()).to_string();
                let class = class_of(&method);
                if self.tell {
                    log::info!("{site} <- {method} {path} {fate:?}{}", if reply.is_none() { " (late)" } else { "" });
                }
                {
                    let mut inner = self.inner.lock();
                    let text = format!("{now:?} {site} {method} {path} {fate:?}");
                    inner.trace = mix(inner.trace, text.as_bytes());
                }
                let carry = |request| answer_of(self.inside.perform(site, request), None);
                let answer: io::Result<Answer> = match fate {
                    Fate::Served => Ok(carry(request)),
                    Fate::Mute { carried_out } => {
                        if carried_out {
                            carry(request);
                        }
                        return;
                    }
                    Fate::Cut { carried_out } => {
                        if carried_out {
                            carry(request);
                        }
                        Err(io::ErrorKind::ConnectionReset.into())
                    }
                    Fate::Refused { status, code, carried_out } => {
                        if carried_out {
                            carry(request);
                        }
                        Ok(answer_of(self.inside.refuse(status, code, head), None))
                    }
                    Fate::Foreign(status) => Ok(answer_of(self.inside.foreign(status, head), None)),
                    Fate::Skewed(seconds) => Ok(match signed_for(&request, seconds) {
                        true => carry(request),
                        false => skewed(self.inside.refuse(403, "RequestTimeTooSkewed", head), seconds),
                    }),
                    Fate::Body(damage) => Ok(answer_of(self.inside.perform(site, request), Some(damage))),
                };
                if let Some(reply) = reply {
                    let mut inner = self.inner.lock();
                    // Packets that travel while the lights are out do not arrive.
                    if !Self::is_dark(&inner, site, class) {
                        Self::later(&mut inner, now + back, Happening::Answer { site, answer, reply });
                    }
                }
            }
            Happening::Answer { site, answer, reply } => {
                let inner = self.inner.lock();
                let dark = Self::is_dark(&inner, site, Class::Read) && Self::is_dark(&inner, site, Class::Write);
                drop(inner);
                if !dark {
                    // Whoever gave up is gone.
                    let _ = reply.send(answer);
                }
            }
        }
    }

    /// Decides what will befall a request that is sent now.
    fn plan(&self, site: Site, class: Class, fresh: bool) -> Plan {
        let inner = &mut *self.inner.lock();
        inner.requests += 1;
        // Lognormal, median 30 ms and p99 150 ms for a round trip; a new connection costs two more.
        let normal = {
            let (u, v): (f64, f64) = (inner.dice.random::<f64>().max(1e-12), inner.dice.random());
            (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        let mut trip = 0.030 * (0.692 * normal).exp() * if fresh { 2.0 } else { 1.0 };
        let mut fate = Fate::Served;
        let throw = inner.dice.random::<f64>();
        let coin = inner.dice.random::<f64>();
        let delay = Duration::from_secs_f64(0.3 + 29.0 * inner.dice.random::<f64>().powi(2));
        let faults: Vec<Fault> = inner.faults.iter().map(|(_, f)| *f).filter(|f| f.hits(site, class)).collect();
        for fault in faults {
            if throw >= fault.share {
                continue;
            }
            let half = coin < 0.5;
            fate = match fault.trouble {
                Trouble::Slow(times) => {
                    trip *= times;
                    continue;
                }
                Trouble::Refuse => return Plan::Fails(io::ErrorKind::ConnectionRefused.into()),
                Trouble::NoRoute => return Plan::Fails(io::Error::from_raw_os_error(libc::ENETUNREACH)),
                Trouble::Silent => {
                    let through = class == Class::Write && !fresh && coin < 0.3;
                    return Plan::Vanishes { connected: !fresh, late: through.then_some(delay) };
                }
                Trouble::LateCommit => return Plan::CutAndLate(delay),
                Trouble::Hang => Fate::Mute { carried_out: half },
                Trouble::Reset => Fate::Cut { carried_out: half },
                Trouble::LoseAnswer => Fate::Cut { carried_out: true },
                Trouble::Status(status, code) => Fate::Refused { status, code, carried_out: coin < 0.1 },
                Trouble::Foreign(status) => Fate::Foreign(status),
                Trouble::Throttle => Fate::Refused { status: 503, code: "SlowDown", carried_out: false },
                Trouble::Deny => Fate::Refused { status: 403, code: "AccessDenied", carried_out: false },
                Trouble::Skew(seconds) => Fate::Skewed(seconds),
                Trouble::Corrupt => Fate::Body(Damage::Flip),
                Trouble::Truncate => Fate::Body(Damage::End),
                Trouble::HangBody => Fate::Body(Damage::Stop),
            };
            break;
        }
        let trip = Duration::from_secs_f64(trip.min(60.0));
        Plan::Travels { there: trip / 2, back: trip / 2, fate }
    }

    fn send(
        &self,
        site: Site,
        request: http::Request<Bytes>,
        after: Duration,
        fate: Fate,
        back: Duration,
        reply: Option<Reply>,
    ) {
        let at = self.now() + after;
        Self::later(&mut self.inner.lock(), at, Happening::Arrival { site, request, fate, back, reply });
        self.wake.notify_one();
    }
}

enum Plan {
    Fails(io::Error),
    Vanishes { connected: bool, late: Option<Duration> },
    CutAndLate(Duration),
    Travels { there: Duration, back: Duration, fate: Fate },
}

fn class_of(method: &http::Method) -> Class {
    match *method {
        http::Method::GET | http::Method::HEAD => Class::Read,
        _ => Class::Write,
    }
}

/// Does the signature's window contain a clock that is off by so much?
fn signed_for(request: &http::Request<Bytes>, seconds: i64) -> bool {
    let signature = request.headers().get("authorization").and_then(|v| v.to_str().ok()).unwrap_or("");
    let window = signature.split('&').find_map(|part| part.strip_prefix("q-sign-time="));
    let Some((start, end)) = window.and_then(|w| w.split_once(';')) else { return false };
    let (Ok(start), Ok(end)) = (start.parse::<i64>(), end.parse::<i64>()) else { return false };
    let service = seconds_of_wall() + seconds;
    start <= service + 15 * 60 && (start..=end).contains(&service)
}

fn seconds_of_wall() -> i64 {
    cosfs_ha::clock::wall().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

fn skewed(mut answer: inside::Answer, seconds: i64) -> Answer {
    let service = cosfs_ha::clock::wall();
    let shift = Duration::from_secs(seconds.unsigned_abs());
    let service = if seconds < 0 { service - shift } else { service + shift };
    answer.headers.retain(|(name, _)| name != "date");
    answer.headers.push(("date".into(), httpdate::fmt_http_date(service)));
    answer_of(answer, None)
}

fn answer_of(answer: inside::Answer, damage: Option<Damage>) -> Answer {
    let inside::Answer { status, headers, body } = answer;
    let body = match damage.filter(|_| !body.is_empty()) {
        None => reqwest::Body::from(body),
        Some(Damage::Flip) => {
            let mut wrong = body.to_vec();
            let middle = wrong.len() / 2;
            wrong[middle] ^= 1;
            reqwest::Body::from(wrong)
        }
        Some(Damage::End) => {
            let half = body.slice(..body.len() / 2);
            let pieces = [Ok(half), Err(io::Error::from(io::ErrorKind::UnexpectedEof))];
            reqwest::Body::wrap_stream(futures::stream::iter(pieces))
        }
        Some(Damage::Stop) => {
            let half = body.slice(..body.len() / 2);
            let stop = futures::stream::once(futures::future::pending::<io::Result<Bytes>>());
            let pieces = futures::StreamExt::chain(futures::stream::iter([Ok(half)]), stop);
            reqwest::Body::wrap_stream(pieces)
        }
    };
    let mut response = http::Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) =
            (http::HeaderName::from_bytes(name.as_bytes()), http::HeaderValue::from_str(&value))
        {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// The way to one region, as the COS client takes it.
#[derive(Debug)]
pub struct Way {
    pub regions: Arc<Regions>,
    pub site: Site,
}

impl Wire for Way {
    fn exchange<'a>(
        &'a self,
        request: http::Request<Bytes>,
        fresh: bool,
        sending: Sending<'a>,
    ) -> Pin<Box<dyn Future<Output = io::Result<Answer>> + Send + 'a>> {
        Box::pin(async move {
            let (regions, site) = (&self.regions, self.site);
            match regions.plan(site, class_of(request.method()), fresh) {
                Plan::Fails(error) => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    Err(error)
                }
                Plan::Vanishes { connected, late } => {
                    if connected {
                        sending.begun();
                        sending.done();
                    }
                    if let Some(after) = late {
                        regions.send(site, request, after, Fate::Served, Duration::ZERO, None);
                    }
                    std::future::pending().await
                }
                Plan::CutAndLate(after) => {
                    sending.begun();
                    sending.done();
                    regions.send(site, request, after, Fate::Served, Duration::ZERO, None);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Err(io::ErrorKind::ConnectionReset.into())
                }
                Plan::Travels { there, back, fate } => {
                    let (reply, answer) = oneshot::channel();
                    regions.send(site, request, there, fate, back, Some(reply));
                    sending.begun();
                    sending.done();
                    match answer.await {
                        Ok(answer) => answer,
                        // Lost on its way: nobody will ever say so.
                        Err(_) => std::future::pending().await,
                    }
                }
            }
        })
    }
}
