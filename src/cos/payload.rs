//! What a request carries, and the body that carries it.
//!
//! Files leave in pieces read ahead by one on the blocking pool, so an upload holds about two pieces in memory however big the file
//! is. The checksum runs along with the sending, and the [`Progress`] is told about every piece the connection takes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::attempt::{Progress, Sent};
use super::checksum::Crc64;

/// One read of a file. Large enough for a disk, small enough for many uploads at a time.
const READ: u64 = 1 << 20;
/// One piece handed to the connection. A line of 64 KiB/s still moves one within the usual progress deadline of 5 s.
const FRAME: usize = 128 << 10;

/// The body of a request. Cheap to clone, so that a request can be signed and sent again.
#[derive(Clone, Debug)]
pub enum Payload {
    Bytes(Bytes),
    File { file: Arc<File>, offset: u64, len: u64 },
}

impl Payload {
    pub fn empty() -> Payload {
        Payload::Bytes(Bytes::new())
    }

    pub fn len(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::File { len, .. } => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it at once, for a simulation.
    pub(super) fn whole(&self) -> io::Result<Bytes> {
        match self {
            Payload::Bytes(bytes) => Ok(bytes.clone()),
            Payload::File { file, offset, len } => read_piece(file, *offset, *len),
        }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Payload {
        Payload::Bytes(bytes)
    }
}

/// What the sending side leaves behind.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// Set once the whole payload was taken.
    pub crc64: Mutex<Option<u64>>,
    /// The file could not be read.
    pub failure: Mutex<Option<String>>,
}

type Reading = JoinHandle<io::Result<Bytes>>;

/// A [`Payload`] on its way.
pub(super) struct Outgoing {
    file: Option<(Arc<File>, u64)>,
    reading: Option<Reading>,
    /// Bytes of the file not yet asked for.
    unread: u64,
    /// Bytes not yet handed over.
    left: u64,
    piece: Bytes,
    crc: Crc64,
    progress: Progress,
    trace: Arc<Trace>,
}

impl Outgoing {
    pub fn new(payload: &Payload, progress: &Progress, trace: &Arc<Trace>) -> Outgoing {
        let (file, piece, unread) = match payload {
            Payload::Bytes(bytes) => (None, bytes.clone(), 0),
            Payload::File { file, offset, len } => (Some((file.clone(), *offset)), Bytes::new(), *len),
        };
        if payload.is_empty() {
            *trace.crc64.lock() = Some(Crc64::new().value());
        }
        Outgoing {
            file,
            reading: None,
            unread,
            left: payload.len(),
            piece,
            crc: Crc64::new(),
            progress: progress.clone(),
            trace: trace.clone(),
        }
    }

    fn read_ahead(&mut self) {
        let Some((file, offset)) = &mut self.file else { return };
        if self.reading.is_some() || self.unread == 0 {
            return;
        }
        let len = self.unread.min(READ);
        let (source, at) = (file.clone(), *offset);
        *offset += len;
        self.unread -= len;
        self.reading = Some(tokio::task::spawn_blocking(move || read_piece(&source, at, len)));
    }

    fn fail(&mut self, error: io::Error) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        *self.trace.failure.lock() = Some(error.to_string());
        self.file = None;
        Poll::Ready(Some(Err(error)))
    }
}

fn read_piece(file: &File, offset: u64, len: u64) -> io::Result<Bytes> {
    struct At<'a>(&'a File, u64);
    impl Read for At<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = self.0.read_at(buf, self.1)?;
            self.1 += n as u64;
            Ok(n)
        }
    }
    let mut piece = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    At(file, offset).take(len).read_to_end(&mut piece)?;
    if piece.len() as u64 != len {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was sent"));
    }
    Ok(piece.into())
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.progress.reach(Sent::Partly);
        if self.piece.is_empty() {
            self.read_ahead();
            let Some(reading) = &mut self.reading else {
                return self.fail(io::Error::other("payload ended early"));
            };
            let outcome = ready!(Pin::new(reading).poll(cx));
            self.reading = None;
            match outcome {
                Ok(Ok(piece)) => self.piece = piece,
                Ok(Err(e)) => return self.fail(e),
                Err(e) => return self.fail(io::Error::other(e)),
            }
            self.read_ahead();
        }
        let len = self.piece.len().min(FRAME);
        let frame = self.piece.split_to(len);
        self.crc.update(&frame);
        self.left = self.left.saturating_sub(len as u64);
        self.progress.touch();
        if self.left == 0 {
            *self.trace.crc64.lock() = Some(self.crc.value());
            self.progress.reach(Sent::Fully);
        }
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    /// hyper asks this for the first time when a connection takes the request and its head is about to be written. There is no
    /// other sign of that moment, and the connect deadline needs it; a client test with a port that never accepts checks it.
    fn is_end_stream(&self) -> bool {
        self.progress.reach(if self.left == 0 { Sent::Fully } else { Sent::Partly });
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cos::checksum::crc64;
    use http_body_util::BodyExt;
    use std::io::Write;

    #[tokio::test]
    async fn files_and_bytes_leave_whole_in_small_frames() {
        let data: Vec<u8> = (0..(2 * READ + 12345) as u32).map(|i| ((i * 31) >> 7) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&data).unwrap();
        let file = Arc::new(file);
        let part = |from: usize, to: usize| {
            (
                Payload::File { file: file.clone(), offset: from as u64, len: (to - from) as u64 },
                data[from..to].to_vec(),
            )
        };
        let in_memory = (Payload::Bytes(data.clone().into()), data.clone());
        for (payload, expected) in [part(0, data.len()), part(7, 1 << 20), part(5, 5), in_memory] {
            let (progress, trace) = (Progress::new(), Arc::new(Trace::default()));
            let mut body = Outgoing::new(&payload, &progress, &trace);
            let mut got = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.unwrap().into_data().unwrap();
                assert!(frame.len() <= FRAME);
                got.extend_from_slice(&frame);
                assert_eq!(progress.body_sent() == Sent::Fully, got.len() == expected.len());
            }
            assert!(got == expected);
            assert_eq!(*trace.crc64.lock(), Some(crc64(&expected)));
        }
    }

    #[tokio::test]
    async fn a_file_cut_while_sending_is_an_error_of_ours() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10).unwrap();
        let (progress, trace) = (Progress::new(), Arc::new(Trace::default()));
        let payload = Payload::File { file: Arc::new(file), offset: 0, len: 20 };
        let mut body = Outgoing::new(&payload, &progress, &trace);
        assert!(body.frame().await.unwrap().is_err());
        assert!(trace.failure.lock().as_deref().unwrap().contains("shorter"));
        assert_eq!(*trace.crc64.lock(), None);
        assert_ne!(progress.body_sent(), Sent::Fully);
    }
}
