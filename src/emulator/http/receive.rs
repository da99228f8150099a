//! Taking a request's body in: checksums on the way, memory or disk, and what faults do to it.
//!
//! MD5 is slower than the socket (about 0.6 GB/s), so beyond a small size it runs on a thread beside the reading.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use base64::Engine;
use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm::Crc64Xz;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use md5::{Digest, Md5};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::call::Call;
use super::s3::chunks::Seal;
use crate::emulator::blob::{Blob, BodyFile, Shelter};
use crate::emulator::door::Cut;
use crate::emulator::failure::Failure;
use crate::emulator::fault::Trip;
use crate::emulator::line::Line;
use crate::emulator::world::{Received, World};

/// Up to here a body is checksummed where it is read, and kept in one buffer of its own size.
const SMALL_BYTES: usize = 256 << 10;
/// Simple uploads and parts (docs/cos-protocol.md, "Limits").
const BODY_BYTES_MAX: u64 = 5 << 30;
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Buffers between the socket and the checksum thread.
const QUEUE_BUFFERS: usize = 16;

/// A body that is arriving.
pub struct Arrival {
    body: Incoming,
    announced: Option<u64>,
    /// The request has a body, or says that it has an empty one.
    has_body: bool,
    taken: u64,
}

impl Arrival {
    pub fn new(body: Incoming, headers: &HeaderMap) -> Arrival {
        let announced =
            headers.get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let has_body = announced.is_some() || headers.contains_key(http::header::TRANSFER_ENCODING);
        Arrival { body, announced, has_body, taken: 0 }
    }

    /// Body bytes read so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame?.into_data()
                && !data.is_empty()
            {
                self.taken += data.len() as u64;
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Reads and forgets; a peer that is still sending would not see the answer.
    pub async fn drain(&mut self, limit: u64) {
        while self.taken < limit {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// The whole body, checked against length and `Content-MD5`. `None` where the request has none.
    ///
    /// Trips that act on a request's body are taken out of `trips`; the others are left for the answer.
    pub async fn receive(
        &mut self,
        call: &Call,
        world: &World,
        line: &Line,
        trips: &mut Vec<(Option<u64>, Trip)>,
    ) -> Result<Result<Option<Received>, Failure>, Cut> {
        if !self.has_body {
            let needs = call.method == "PUT" || call.method == "POST";
            return Ok(if needs && !call.is_copy() && call.param("uploads").is_none() {
                Err(Failure::new(411, "MissingContentLength", "Content-Length is missing."))
            } else {
                Ok(None)
            });
        }
        let limit = if call.is_document() { DOCUMENT_BYTES_MAX } else { BODY_BYTES_MAX };
        let too_large = || Failure::new(400, "EntityTooLarge", "The body is larger than allowed.");
        if self.announced.is_some_and(|n| n > limit) {
            return Ok(Err(too_large()));
        }
        let mut pending = Vec::new();
        if self.announced != Some(0) {
            let total = self.announced.unwrap_or(0);
            let (mine, rest) = std::mem::take(trips).into_iter().partition(|(_, trip)| *trip != Trip::Truncate);
            *trips = rest;
            pending = placed(mine, total);
        }
        let mut seal = match Seal::of(call) {
            Ok(seal) => seal,
            Err(failure) => return Ok(Err(failure)),
        };
        let shelter = if call.is_document() { None } else { world.shelter() };
        let mut sink = Sink::new(shelter);
        let mut drip = None;
        loop {
            let chunk = match self.next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => {
                    log::debug!("request body: {error}");
                    return Ok(Err(Failure::new(400, "IncompleteBody", "The body is shorter than announced.")));
                }
            };
            if self.taken > limit {
                return Ok(Err(too_large()));
            }
            let chunk = suffer(chunk, self.taken, &mut pending, &mut drip, line).await?;
            let mut content = Vec::new();
            if let Err(failure) = seal.take(chunk, &mut content) {
                return Ok(Err(failure));
            }
            for chunk in content {
                if let Err(error) = sink.push(chunk).await {
                    return Ok(Err(Failure::internal(format!("the emulator's disk: {error}"))));
                }
            }
        }
        if let Err(failure) = seal.finish() {
            return Ok(Err(failure));
        }
        let received = match sink.finish().await {
            Ok(received) => received,
            Err(error) => return Ok(Err(Failure::internal(format!("the emulator's disk: {error}")))),
        };
        Ok(check_digest(call, received).map(Some))
    }
}

/// Fixed places for trips, in order.
pub fn placed(trips: Vec<(Option<u64>, Trip)>, total: u64) -> Vec<(u64, Trip)> {
    let mut placed: Vec<_> =
        trips.into_iter().map(|(at, trip)| (at.unwrap_or(total / 2).min(total.saturating_sub(1)), trip)).collect();
    placed.sort_by_key(|(at, _)| *at);
    placed
}

/// Applies the trips that lie in a chunk which ends at `end`.
async fn suffer(
    mut chunk: Bytes,
    end: u64,
    trips: &mut Vec<(u64, Trip)>,
    drip: &mut Option<std::time::Duration>,
    line: &Line,
) -> Result<Bytes, Cut> {
    while let Some((at, trip)) = trips.first().copied().filter(|(at, _)| *at < end) {
        trips.remove(0);
        match trip {
            Trip::Reset => {
                line.reset();
                return Err(Cut);
            }
            Trip::Hang => {
                line.hold();
                line.ended().await;
                return Err(Cut);
            }
            Trip::Pause(time) => tokio::time::sleep(time).await,
            Trip::Drip(pause) => *drip = Some(pause),
            Trip::Truncate => {}
            Trip::Corrupt => {
                let start = end - chunk.len() as u64;
                chunk = flip(&chunk, at.saturating_sub(start) as usize);
            }
        }
    }
    if let Some(pause) = drip {
        tokio::time::sleep(*pause).await;
    }
    Ok(chunk)
}

/// A copy with one wrong bit.
pub fn flip(chunk: &Bytes, at: usize) -> Bytes {
    let mut wrong = BytesMut::from(&chunk[..]);
    if let Some(byte) = wrong.get_mut(at) {
        *byte ^= 1;
    }
    wrong.freeze()
}

fn check_digest(call: &Call, received: Received) -> Result<Received, Failure> {
    let Some(text) = call.header("content-md5") else { return Ok(received) };
    match base64::engine::general_purpose::STANDARD.decode(text) {
        Ok(md5) if md5.len() != 16 => Err(Failure::new(400, "InvalidDigest", "Content-MD5 is not 16 bytes.")),
        Ok(md5) if md5 == received.md5 => Ok(received),
        Ok(_) => Err(Failure::new(400, "BadDigest", "Content-MD5 does not match the body.")),
        Err(_) => Err(Failure::new(400, "InvalidDigest", "Content-MD5 is not base64.")),
    }
}

/// Checksums, and the file if there is one.
struct Worker {
    md5: Md5,
    crc: crc_fast::Digest,
    file: Option<(std::fs::File, Arc<BodyFile>)>,
    len: u64,
}

impl Worker {
    fn new(shelter: Option<&Arc<Shelter>>) -> io::Result<Worker> {
        let file = shelter.map(Shelter::create).transpose()?;
        Ok(Worker { md5: Md5::new(), crc: crc_fast::Digest::new(Crc64Xz), file, len: 0 })
    }

    fn take(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.md5.update(chunk);
        self.crc.update(chunk);
        if let Some((file, _)) = &self.file {
            file.write_all_at(chunk, self.len)?;
        }
        self.len += chunk.len() as u64;
        Ok(())
    }

    fn finish(self, chunks: Vec<Bytes>) -> Received {
        let blob = match self.file {
            Some((_, body)) => Blob::file(body, self.len),
            None => Blob::memory(chunks),
        };
        Received { blob, md5: self.md5.finalize().into(), crc64: self.crc.finalize() }
    }
}

struct Beside {
    queue: mpsc::Sender<Bytes>,
    worker: JoinHandle<io::Result<Worker>>,
}

/// Where chunks go: first kept, then, once the body turns out large, also to a worker thread.
struct Sink<'a> {
    shelter: Option<&'a Arc<Shelter>>,
    chunks: Vec<Bytes>,
    len: usize,
    beside: Option<Beside>,
}

impl<'a> Sink<'a> {
    fn new(shelter: Option<&'a Arc<Shelter>>) -> Sink<'a> {
        Sink { shelter, chunks: Vec::new(), len: 0, beside: None }
    }

    async fn push(&mut self, chunk: Bytes) -> io::Result<()> {
        self.len += chunk.len();
        if let Some(beside) = &self.beside {
            if self.shelter.is_none() {
                self.chunks.push(chunk.clone());
            }
            // A closed queue means that the worker failed; its error comes with `finish`.
            let _ = beside.queue.send(chunk).await;
            return Ok(());
        }
        self.chunks.push(chunk);
        if self.len > SMALL_BYTES {
            let mut worker = Worker::new(self.shelter)?;
            let (queue, mut chunks) = mpsc::channel::<Bytes>(QUEUE_BUFFERS);
            let first = if self.shelter.is_some() { std::mem::take(&mut self.chunks) } else { self.chunks.clone() };
            let worker = tokio::task::spawn_blocking(move || {
                for chunk in first {
                    worker.take(&chunk)?;
                }
                while let Some(chunk) = chunks.blocking_recv() {
                    worker.take(&chunk)?;
                }
                Ok(worker)
            });
            self.beside = Some(Beside { queue, worker });
        }
        Ok(())
    }

    async fn finish(mut self) -> io::Result<Received> {
        if let Some(Beside { queue, worker }) = self.beside.take() {
            drop(queue);
            let worker = worker.await.map_err(io::Error::other)??;
            return Ok(worker.finish(self.chunks));
        }
        // One exact buffer: a small slice would keep the connection's whole read buffer alive.
        let whole = Bytes::from(self.chunks.concat());
        let mut worker = Worker::new(self.shelter)?;
        worker.take(&whole)?;
        Ok(worker.finish(vec![whole]))
    }
}
