//! One accepted connection whose bytes can be stopped.
//!
//! HTTP libraries are good at keeping connections well; faults need the opposite. Every connection is a [`Line`]: the
//! faults of a site freeze, cut or reset it at any moment, whatever the HTTP machinery above believes. A frozen line neither
//! reads nor writes and sends no FIN or RST; what the peer sends stays unread in the kernel.
//!
//! Owns: the state of one socket, byte counts. Owns not: when to break (`fault`), the listener (`http/gate.rs`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Bytes given to the kernel at once. While the peer reads, the kernel takes on and on: of 64 MiB one call was seen to take 60, and a line
/// frozen meanwhile sends them all.
const WRITE_MAX: usize = 256 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Open,
    Frozen,
    /// Ended in order (FIN).
    Cut,
    /// Ended by RST.
    Reset,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// A request on this line waits for the faults to change.
    held: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Bytes on the wire of one site, headers included.
#[derive(Debug, Default)]
pub struct Traffic {
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
}

/// The handle by which faults reach a connection.
#[derive(Debug)]
pub struct Line {
    inner: Mutex<Inner>,
    ended: Notify,
}

impl Line {
    pub fn new() -> Arc<Line> {
        Arc::new(Line {
            inner: Mutex::new(Inner { state: State::Open, held: false, reader: None, writer: None }),
            ended: Notify::new(),
        })
    }

    fn change(&self, to: State) {
        let wakers = {
            let mut inner = self.inner.lock();
            if matches!(inner.state, State::Cut | State::Reset) {
                return;
            }
            inner.state = to;
            [inner.reader.take(), inner.writer.take()]
        };
        wakers.into_iter().flatten().for_each(Waker::wake);
        if matches!(to, State::Cut | State::Reset) {
            self.ended.notify_waiters();
        }
    }

    pub fn freeze(&self) {
        self.change(State::Frozen);
    }

    pub fn cut(&self) {
        self.change(State::Cut);
    }

    pub fn reset(&self) {
        self.change(State::Reset);
    }

    /// The request on this line stays unanswered until the faults of the site change.
    pub fn hold(&self) {
        self.inner.lock().held = true;
    }

    /// The faults changed: a line that they stopped is of no use any more.
    pub fn release(&self) {
        let stopped = {
            let inner = self.inner.lock();
            inner.held || inner.state == State::Frozen
        };
        if stopped {
            self.reset();
        }
    }

    /// Resolves when the line is cut or reset.
    pub async fn ended(&self) {
        let notified = self.ended.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !matches!(self.inner.lock().state, State::Cut | State::Reset) {
            notified.await;
        }
    }
}

/// The socket under the HTTP machinery.
pub struct Wire {
    stream: TcpStream,
    line: Arc<Line>,
    traffic: Arc<Traffic>,
}

impl Wire {
    pub fn new(stream: TcpStream, line: Arc<Line>, traffic: Arc<Traffic>) -> Wire {
        Wire { stream, line, traffic }
    }

    /// `Some` when the state of the line decides; `end_of_stream` is what a cut line reads.
    fn stopped<T>(&self, cx: &Context<'_>, write: bool, cut: io::Result<T>) -> Option<Poll<io::Result<T>>> {
        let mut inner = self.line.inner.lock();
        match inner.state {
            State::Open | State::Frozen => {
                let slot = if write { &mut inner.writer } else { &mut inner.reader };
                match slot {
                    Some(waker) if waker.will_wake(cx.waker()) => {}
                    _ => *slot = Some(cx.waker().clone()),
                }
                (inner.state == State::Frozen).then_some(Poll::Pending)
            }
            State::Cut => Some(Poll::Ready(cut)),
            State::Reset => Some(Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.line.inner.lock().state == State::Reset {
            // Closing with a linger time of zero sends RST instead of FIN.
            if let Err(error) = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)) {
                log::debug!("linger: {error}");
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(answer) = self.stopped(cx, false, Ok(())) {
            return answer;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.traffic.bytes_in.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(answer) = self.stopped(cx, true, Err(io::ErrorKind::BrokenPipe.into())) {
            return answer;
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, &buf[..buf.len().min(WRITE_MAX)]);
        if let Poll::Ready(Ok(n)) = &polled {
            self.traffic.bytes_out.fetch_add(*n as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.iter().map(|buf| buf.len()).sum::<usize>() > WRITE_MAX
            && let Some(first) = bufs.iter().find(|buf| !buf.is_empty())
        {
            return self.poll_write(cx, first);
        }
        if let Some(answer) = self.stopped(cx, true, Err(io::ErrorKind::BrokenPipe.into())) {
            return answer;
        }
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(n)) = &polled {
            self.traffic.bytes_out.fetch_add(*n as u64, Ordering::Relaxed);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(answer) = self.stopped(cx, true, Ok(())) {
            return answer;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(answer) = self.stopped(cx, true, Ok(())) {
            return answer;
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
