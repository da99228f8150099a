//! The listening socket and its three states.
//!
//! A refused connection needs a closed socket; a black hole needs one that is open and drops every SYN. Linux drops SYNs
//! when the accept queue is full, so a dark gate shrinks its queue to one place and fills it with a connection of its own.
//! A second socket, bound but never listening, keeps the port ours while the gate is closed.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::emulator::door::{Door, connection};
use crate::emulator::fault::Kind;

/// Connections waiting to be accepted while the gate is open.
const BACKLOG: i32 = 1024;
/// A switch takes microseconds; a runtime that needs longer is broken.
const SWITCH_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    #[default]
    Open,
    /// No socket listens: connecting is refused.
    Closed,
    /// SYNs are dropped: connecting gets no answer.
    Dark,
}

pub fn mode_of(kind: Kind) -> Mode {
    match kind {
        Kind::Refuse => Mode::Closed,
        Kind::Blackhole => Mode::Dark,
        _ => Mode::Open,
    }
}

type Command = (Mode, SyncSender<io::Result<()>>);

/// Handle to the task that accepts.
#[derive(Debug)]
pub struct Gate {
    commands: Sender<Command>,
}

/// What the task needs.
pub struct Keeper {
    commands: Receiver<Command>,
    listener: Option<StdListener>,
    address: SocketAddr,
    /// Holds the port; never read.
    _reserve: Socket,
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = bind(address)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Gate {
    /// Binds and listens at once; accepting begins with [`Keeper::run`].
    pub fn open(address: SocketAddr) -> io::Result<(Gate, Keeper)> {
        let reserve = bind(address)?;
        let address = reserve.local_addr()?.as_socket().unwrap_or(address);
        let listener = Some(listen(address)?);
        let (sender, commands) = channel(4);
        Ok((Gate { commands: sender }, Keeper { commands, listener, address, _reserve: reserve }))
    }

    pub fn switch(&self, mode: Mode) -> Result<(), String> {
        let (done, wait) = sync_channel(1);
        self.commands.try_send((mode, done)).map_err(|_| "the emulator is stopping".to_string())?;
        match wait.recv_timeout(SWITCH_MAX) {
            Ok(done) => done.map_err(|e| format!("the listening socket: {e}")),
            Err(RecvTimeoutError::Timeout) => Err("the listening socket does not react".into()),
            Err(RecvTimeoutError::Disconnected) => Err("the emulator is stopping".into()),
        }
    }
}

impl Keeper {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn run(mut self, door: Arc<Door>) {
        let mut listener = match self.listener.take().map(TcpListener::from_std) {
            Some(Ok(listener)) => Some(listener),
            Some(Err(error)) => return log::error!("{}: {error}", door.place),
            None => None,
        };
        let mut fillers = Vec::new();
        loop {
            let open = listener.as_ref().filter(|_| fillers.is_empty());
            let accept = async {
                match open {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = self.commands.recv() => {
                    let Some((mode, done)) = command else { return };
                    let switched = switch(self.address, mode, &mut listener, &mut fillers);
                    // Nobody waits any more: nothing to tell.
                    let _ = done.send(switched);
                }
                accepted = accept => match accepted {
                    Ok((stream, _)) => drop(tokio::spawn(connection(Arc::clone(&door), stream))),
                    Err(error) => {
                        log::warn!("{}: accept: {error}", door.place);
                        // Out of descriptors, most likely: give the others time to close some.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                },
            }
        }
    }
}

fn switch(
    address: SocketAddr,
    mode: Mode,
    listener: &mut Option<TcpListener>,
    fillers: &mut Vec<Socket>,
) -> io::Result<()> {
    if mode == Mode::Closed {
        *listener = None;
        fillers.clear();
        return Ok(());
    }
    let current = match listener.take() {
        Some(listener) => listener.into_std()?,
        None => listen(address)?,
    };
    match mode {
        Mode::Dark if fillers.is_empty() => {
            SockRef::from(&current).listen(0)?;
            // A queue of nominal length 0 holds one; the second connection makes sure, its SYN is already dropped.
            for _ in 0..2 {
                let filler = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
                filler.set_nonblocking(true)?;
                // In progress or even complete: both fill the queue.
                let _ = filler.connect(&address.into());
                fillers.push(filler);
            }
        }
        Mode::Open if !fillers.is_empty() => {
            SockRef::from(&current).listen(BACKLOG)?;
            // Whoever reached the queue in the dark has waited too long; what he sent must not be carried out now.
            while let Ok((stranded, _)) = current.accept() {
                SockRef::from(&stranded).set_linger(Some(Duration::ZERO))?;
            }
            fillers.clear();
        }
        _ => {}
    }
    *listener = Some(TcpListener::from_std(current)?);
    Ok(())
}
