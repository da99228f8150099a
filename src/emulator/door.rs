//! One place of the emulator as the network sees it: a socket, connections, faults, counters, a log.
//!
//! All places break in the same ways, whatever they serve, so everything that breaks is here and what is served is a [`Room`]
//! behind the door. A request is read completely before it is carried out, so that each operation is one step that happens
//! or does not; the faults that separate "carried out" from "answered" hang on that.
//!
//! Owns: faults in force, open connections, counters, the log. Owns not: what a request does (the room), which fault hits (`fault`), the
//! listening socket (`http/gate`), the state of one connection (`line`).

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::clock::{http_date, wall_micros};
use super::failure::Failure;
use super::fault::{End, Fault, Faults, Handshake, Plan, Subject};
use super::http::call::Call;
use super::http::gate::{self, Gate, Mode};
use super::http::names;
use super::http::receive::Arrival;
use super::http::s3;
use super::http::send::{self, Body, Reply};
use super::line::{Line, Traffic, Wire};
use super::tls::{HANDSHAKE_RECORD, Tls};
use super::world::{Received, World};
use crate::object::Site;

/// Entries of `GET /v1/log` kept per place.
const LOG_ENTRIES_MAX: usize = 10_000;
/// How much of a refused upload is read before the answer; a peer that is still sending could not read it otherwise.
const DRAIN_BYTES_MAX: u64 = 64 << 20;

/// The connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("connection cut")]
pub struct Cut;

/// Bodies from memory cannot fail.
impl From<Infallible> for Cut {
    fn from(never: Infallible) -> Cut {
        match never {}
    }
}

/// What can be reached, and broken, apart from the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    A,
    B,
    Cdn,
    Origin,
}

impl Place {
    /// In the order of the ports.
    pub const ALL: [Place; 4] = [Place::A, Place::B, Place::Cdn, Place::Origin];

    pub fn is_region(self) -> bool {
        matches!(self, Place::A | Place::B)
    }

    /// As in the admin API.
    pub fn name(self) -> &'static str {
        match self {
            Place::A => "a",
            Place::B => "b",
            Place::Cdn => "cdn",
            Place::Origin => "origin",
        }
    }
}

impl From<Site> for Place {
    fn from(site: Site) -> Place {
        match site {
            Site::A => Place::A,
            Site::B => Place::B,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One entry of `GET /v1/log`.
#[derive(Clone, Debug, Serialize)]
pub struct LogEntry {
    /// Microseconds since 1970, when the answer began or the connection was cut.
    pub time: u64,
    pub method: String,
    pub key: String,
    pub query: String,
    /// `None`: no answer.
    pub status: Option<u16>,
    /// Of the request's body and the answer's, as announced.
    pub bytes: u64,
}

/// The outer result is the connection, the inner one the answer.
pub type Outcome = Result<Result<Reply, Failure>, Cut>;

/// What a place serves.
pub trait Room: fmt::Debug + Send + Sync + 'static {
    /// One request, from its head on.
    fn answer<'a>(&'a self, visit: &'a mut Visit<'_>) -> BoxFuture<'a, Outcome>;

    /// How a failure looks in the language of this place.
    fn refusal(&self, failure: &Failure, resource: &str, request_id: &str) -> Reply {
        send::failure(failure, resource, request_id)
    }

    /// A list of faults comes into force.
    fn will_suffer(&self, _faults: &[Fault]) {}
}

/// One request on its way through a room.
pub struct Visit<'a> {
    pub parts: &'a Parts,
    /// Came by TLS.
    pub secure: bool,
    arrival: &'a mut Arrival,
    line: &'a Arc<Line>,
    faults: &'a Mutex<Faults>,
    plan: Plan,
    entry: &'a mut LogEntry,
}

impl Visit<'_> {
    /// Throws the dice, then does what the faults do before a request is carried out. `Some` is the answer already.
    pub async fn begin(&mut self, subject: &Subject<'_>) -> Result<Option<Result<Reply, Failure>>, Cut> {
        subject.key.clone_into(&mut self.entry.key);
        self.plan = self.faults.lock().plan(subject);
        match self.plan.end {
            Some(End::Blackhole) => {
                self.line.freeze();
                self.line.ended().await;
                return Err(Cut);
            }
            Some(End::Reset) => {
                self.line.reset();
                return Err(Cut);
            }
            _ => {}
        }
        if !self.plan.delay.is_zero() {
            tokio::time::sleep(self.plan.delay).await;
        }
        match self.plan.end.take() {
            Some(End::Hang) => {
                self.line.hold();
                self.arrival.drain(u64::MAX).await;
                self.line.ended().await;
                Err(Cut)
            }
            Some(End::Status(status)) => Ok(Some(Err(injected(status)))),
            Some(End::Slowdown(retry_after)) => {
                let failure = Failure::new(503, "SlowDown", "Reduce your request rate.");
                let seconds = |d: Duration| d.as_millis().div_ceil(1000).to_string();
                Ok(Some(Err(match retry_after {
                    Some(after) => failure.with("retry-after", seconds(after)),
                    None => failure,
                })))
            }
            Some(End::StatusWithoutRequestId(status)) => {
                self.arrival.drain(DRAIN_BYTES_MAX).await;
                Ok(Some(Ok(send::foreign(status))))
            }
            Some(End::Redirect(status, location)) => {
                self.arrival.drain(DRAIN_BYTES_MAX).await;
                Ok(Some(Ok(Reply::new(status).with("location", location))))
            }
            end => {
                self.plan.end = end;
                Ok(None)
            }
        }
    }

    /// Seconds by which the clock of this place is ahead in judging signatures.
    pub fn clock_skew(&self) -> i64 {
        self.plan.clock_skew
    }

    /// How long ago the state is from which to answer.
    pub fn stale(&self) -> Option<Duration> {
        self.plan.stale
    }

    /// The request's body, with what the faults do to it.
    pub async fn receive(&mut self, call: &Call, world: &World) -> Result<Result<Option<Received>, Failure>, Cut> {
        self.arrival.receive(call, world, self.line, &mut self.plan.trips).await
    }

    /// Carries the request out, with what the faults do between that and the answer.
    pub async fn finish(&mut self, work: impl Future<Output = Result<Reply, Failure>> + Send + 'static) -> Outcome {
        match self.plan.end.take() {
            Some(End::ErrorIn200) => {
                let failure = Failure::internal("Injected: an error inside status 200.");
                Ok(Ok(send::error_in_200(&failure)))
            }
            Some(End::LateCommit(after)) => {
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    if let Err(failure) = work.await {
                        log::debug!("late commit: {failure}");
                    }
                });
                self.line.cut();
                Err(Cut)
            }
            end => {
                let done = work.await;
                if end == Some(End::DropAnswer) {
                    self.line.cut();
                    return Err(Cut);
                }
                Ok(done)
            }
        }
    }
}

/// The error of COS for an injected status.
fn injected(status: u16) -> Failure {
    let code = match status {
        400 => "InvalidRequest",
        403 => "AccessDenied",
        404 => "NoSuchKey",
        405 => "MethodNotAllowed",
        409 => "PathConflict",
        412 => "PreconditionFailed",
        416 => "InvalidRange",
        451 => "UnavailableForLegalReasons",
        501 => "NotImplemented",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    Failure::new(status, code, "Injected by the emulator.")
}

#[derive(Debug, Default)]
struct Lines {
    mode: Mode,
    next: u64,
    open: BTreeMap<u64, Arc<Line>>,
}

/// The listening side of one place.
#[derive(Debug)]
pub struct Door {
    pub place: Place,
    pub address: SocketAddr,
    pub traffic: Arc<Traffic>,
    room: Arc<dyn Room>,
    tls: Arc<Tls>,
    faults: Mutex<Faults>,
    /// Held over a whole change of faults, so that changes do not mix.
    changing: Mutex<()>,
    lines: Mutex<Lines>,
    gate: Gate,
    requests: Mutex<BTreeMap<String, u64>>,
    log: Mutex<VecDeque<LogEntry>>,
    serial: AtomicU64,
}

impl Door {
    pub fn new(place: Place, room: Arc<dyn Room>, tls: Arc<Tls>, address: SocketAddr, gate: Gate, seed: u64) -> Door {
        Door {
            place,
            address,
            traffic: Arc::default(),
            room,
            tls,
            faults: Mutex::new(Faults::new(seed)),
            changing: Mutex::default(),
            lines: Mutex::default(),
            gate,
            requests: Mutex::default(),
            log: Mutex::default(),
            serial: AtomicU64::new(0),
        }
    }

    pub fn faults(&self) -> Vec<Fault> {
        self.faults.lock().list()
    }

    /// Replaces the faults. When this returns, they are in force. Blocks for moments; not for async code.
    pub fn set_faults(&self, list: Vec<Fault>) -> Result<(), String> {
        list.iter().try_for_each(Fault::check)?;
        if !self.place.is_region() {
            list.iter().try_for_each(Fault::check_outside_region)?;
        }
        let _one_at_a_time = self.changing.lock();
        let total = list.iter().find(|f| f.is_total());
        let mode = total.map_or(Mode::Open, |f| gate::mode_of(f.kind));
        self.room.will_suffer(&list);
        self.faults.lock().set(list);
        // Lines first when closing, so that no answer slips out behind a fault that is in force; the listener first when opening.
        if mode == Mode::Open {
            self.gate.switch(mode)?;
        }
        let lines: Vec<Arc<Line>> = {
            let mut lines = self.lines.lock();
            lines.mode = mode;
            lines.open.values().cloned().collect()
        };
        for line in lines {
            match mode {
                Mode::Open => line.release(),
                Mode::Closed => line.reset(),
                Mode::Dark => line.freeze(),
            }
        }
        if mode != Mode::Open {
            self.gate.switch(mode)?;
        }
        Ok(())
    }

    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.requests.lock().clone()
    }

    pub fn log(&self) -> Vec<LogEntry> {
        self.log.lock().iter().cloned().collect()
    }

    fn enter(&self, line: &Arc<Line>) -> u64 {
        let limit = self.faults.lock().connection_limit();
        let mut lines = self.lines.lock();
        if limit.is_some_and(|limit| lines.open.len() as u64 >= limit) {
            line.reset();
        }
        match lines.mode {
            Mode::Open => {}
            Mode::Closed => line.reset(),
            Mode::Dark => line.freeze(),
        }
        lines.next += 1;
        let id = lines.next;
        lines.open.insert(id, Arc::clone(line));
        id
    }

    fn leave(&self, id: u64) {
        self.lines.lock().open.remove(&id);
    }

    /// Looks like base64 of four hexadecimal numbers, as those of COS.
    fn request_id(&self) -> String {
        use base64::Engine;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let text = format!("{:08x}_7f000001_{:04x}_{serial:x}", wall_micros() / 1_000_000, self.address.port());
        base64::engine::general_purpose::STANDARD_NO_PAD.encode(text)
    }

    /// One request on one line, to its answer or its end.
    async fn serve(
        self: Arc<Door>,
        line: Arc<Line>,
        request: Request<Incoming>,
        secure: bool,
    ) -> Result<Response<Body>, Cut> {
        let method = request.method().as_str().to_owned();
        *self.requests.lock().entry(method.clone()).or_default() += 1;
        let mut entry = LogEntry {
            time: 0,
            method,
            key: String::new(),
            query: request.uri().query().unwrap_or("").into(),
            status: None,
            bytes: 0,
        };
        let answer = tokio::select! {
            biased;
            () = line.ended() => Err(Cut),
            answer = self.answer(&line, request, secure, &mut entry) => answer,
        };
        entry.time = wall_micros();
        let answer = match answer {
            Ok(mut answer) => {
                *answer.extensions_mut() = names::spelling().await.clone();
                Ok(answer)
            }
            Err(cut) => Err(cut),
        };
        entry.status = answer.as_ref().ok().map(|a| a.status().as_u16());
        let mut log = self.log.lock();
        if log.len() == LOG_ENTRIES_MAX {
            log.pop_front();
        }
        log.push_back(entry);
        answer
    }

    async fn answer(
        &self,
        line: &Arc<Line>,
        request: Request<Incoming>,
        secure: bool,
        entry: &mut LogEntry,
    ) -> Result<Response<Body>, Cut> {
        let id = self.request_id();
        let (parts, body) = request.into_parts();
        let mut arrival = Arrival::new(body, &parts.headers);
        let head = parts.method == http::Method::HEAD;
        let (outcome, plan) = {
            let arrival = &mut arrival;
            let mut visit = Visit {
                parts: &parts,
                secure,
                arrival,
                line,
                faults: &self.faults,
                plan: Plan::default(),
                entry: &mut *entry,
            };
            (self.room.answer(&mut visit).await?, visit.plan)
        };
        if outcome.is_err() {
            arrival.drain(DRAIN_BYTES_MAX).await;
        }
        let resource = format!(
            "{}{}",
            parts.headers.get(http::header::HOST).and_then(|h| h.to_str().ok()).unwrap_or(""),
            parts.uri.path()
        );
        let mut reply = outcome.unwrap_or_else(|failure| self.room.refusal(&failure, &resource, &id));
        reply.identify(&id, &http_date(wall_micros().saturating_add_signed(plan.date_skew * 1_000_000)));
        if plan.wrong_etag {
            reply.replace("etag", "\"00000000000000000000000000000000\"");
        }
        if s3::dialect(&parts) == s3::Dialect::S3 {
            s3::rename(&mut reply);
        }
        entry.bytes = arrival.taken() + if head { 0 } else { reply.body_len() };
        send::response(reply, head, plan.trips, line)
    }
}

/// Serves one accepted connection to its end.
pub async fn connection(door: Arc<Door>, stream: TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        log::debug!("nodelay: {error}");
    }
    let line = Line::new();
    let id = door.enter(&line);
    if let Err(error) = converse(&door, &line, stream).await {
        log::debug!("{}: connection ended: {error}", door.place);
    }
    door.leave(id);
}

/// TLS or plain HTTP, whichever the peer begins with.
async fn converse(door: &Arc<Door>, line: &Arc<Line>, stream: TcpStream) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut first = [0];
    // Peeked, so that the faults still see every byte.
    let peeked = tokio::select! {
        () = line.ended() => Ok(0),
        peeked = stream.peek(&mut first) => peeked,
    };
    let wire = Wire::new(stream, Arc::clone(line), Arc::clone(&door.traffic));
    if peeked? == 0 || first[0] != HANDSHAKE_RECORD {
        return Ok(requests(door, line, wire, false).await?);
    }
    let fault = door.faults.lock().handshake();
    match fault {
        Some(Handshake::Reset) => line.reset(),
        Some(Handshake::Hang) => {
            line.hold();
            line.ended().await;
        }
        _ => {
            let stream = door.tls.acceptor(fault)?.accept(wire).await?;
            requests(door, line, stream, true).await?;
        }
    }
    Ok(())
}

async fn requests<S>(door: &Arc<Door>, line: &Arc<Line>, stream: S, secure: bool) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = hyper::service::service_fn(|request| Arc::clone(door).serve(Arc::clone(line), request, secure));
    hyper::server::conn::http1::Builder::new()
        .auto_date_header(false)
        .preserve_header_case(true)
        .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
        .await
}
