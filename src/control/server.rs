//! The daemon's side of the socket.
//!
//! Answers at most [`AT_ONCE`] commands at a time and reads at most [`LINE_MAX`] bytes of a request, so nobody who may connect can make
//! the daemon grow. A socket file left by a killed daemon is found out by connecting to it, and replaced.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Daemon, Line, Request, ShutdownError, deadline};

/// Commands answered at the same time. A person has two hands; a monitoring system asks one at a time.
const AT_ONCE: usize = 16;

/// Longest request; the longest real one is a `switch` with its reason.
const LINE_MAX: u64 = 16 * 1024;

/// How long a connection may take to send its request, or to take one line of the answer.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Server {
    path: PathBuf,
    stop: CancellationToken,
    running: TaskTracker,
}

impl Server {
    /// Listens on `path`. Fails with `AddrInUse` if a living daemon listens there.
    pub fn bind(path: &Path, daemon: Arc<dyn Daemon>) -> io::Result<Server> {
        if path.exists() {
            match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                Err(error) => return Err(error),
            }
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let server = Server { path: path.to_path_buf(), stop: CancellationToken::new(), running: TaskTracker::new() };
        server.running.spawn(accept(listener, daemon, server.stop.clone(), server.running.clone()));
        Ok(server)
    }

    /// Stops listening and gives answers under way a moment to get out.
    pub async fn stop(self) {
        // A second daemon may have taken the place by now, but only after ours stopped listening; so first the file, then the listener.
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::debug!("cannot remove {}: {error}", self.path.display());
        }
        self.stop.cancel();
        self.running.close();
        // Long enough for the last line of an answer to reach a command on the same host.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.running.wait()).await;
    }
}

async fn accept(listener: UnixListener, daemon: Arc<dyn Daemon>, stop: CancellationToken, running: TaskTracker) {
    let places = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = tokio::select! {
            _ = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log::warn!("control socket: {error}");
                    // Out of file descriptors, most likely: not a reason to spin.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            },
        };
        let daemon = daemon.clone();
        running.spawn(async move {
            if let Err(error) = serve(stream, daemon).await {
                log::debug!("control connection: {error}");
            }
            drop(place);
        });
    }
}

/// The socket's mode keeps others out; this also holds where the folder was made by somebody else.
fn may_ask(stream: &UnixStream) -> io::Result<bool> {
    let peer = stream.peer_cred()?.uid();
    Ok(peer == 0 || peer == rustix::process::geteuid().as_raw())
}

async fn serve(stream: UnixStream, daemon: Arc<dyn Daemon>) -> io::Result<()> {
    let allowed = may_ask(&stream)?;
    let (read, mut write) = stream.into_split();
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, BufReader::new(read.take(LINE_MAX)).read_line(&mut text)).await??;
    let request = serde_json::from_str::<Request>(&text);
    let (progress, mut lines) = mpsc::channel::<super::Progress>(1);
    let report = move || -> super::OnProgress {
        Box::new(move |now| {
            // Full: the command has not taken the last figures yet, and newer ones will follow.
            let _ = progress.try_send(now);
        })
    };
    let answer = async {
        match request {
            _ if !allowed => Line::Error("only the user who mounted, and root, may ask".into()),
            Err(error) => Line::Error(format!("not a request: {error}")),
            Ok(Request::Status) => Line::Status(Box::new(daemon.status())),
            Ok(Request::Switch { to, reason }) => done(daemon.switch(to, reason).await),
            Ok(Request::Auto) => done(daemon.auto().await),
            Ok(Request::Drain { timeout_s }) => Line::Left(daemon.drain(deadline(timeout_s), report()).await),
            Ok(Request::Shutdown { timeout_s }) => match daemon.shutdown(deadline(timeout_s), report()).await {
                Ok(left) => Line::Left(left),
                Err(ShutdownError::Busy(who)) => Line::Busy(who),
                Err(ShutdownError::Failed(why)) => Line::Error(why),
            },
        }
    };
    tokio::pin!(answer);
    // A command that went away must not stop a shutdown that has begun.
    let mut gone = false;
    let last = loop {
        tokio::select! {
            biased;
            Some(now) = lines.recv() => gone = gone || send(&mut write, &Line::Progress(now)).await.is_err(),
            line = &mut answer => break line,
        }
    };
    if gone { Ok(()) } else { send(&mut write, &last).await }
}

fn done(result: Result<(), String>) -> Line {
    match result {
        Ok(()) => Line::Done,
        Err(why) => Line::Error(why),
    }
}

async fn send(write: &mut tokio::net::unix::OwnedWriteHalf, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    tokio::time::timeout(PATIENCE, write.write_all(text.as_bytes())).await?
}
