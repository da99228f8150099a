//! The commands' side of the socket. Blocking: a command has nothing else to do.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Line, Progress, Request, place};

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("nothing is mounted at {0} by cosfs-ha")]
    NotMounted(PathBuf),
    #[error(
        "the mount at {0} has no living daemon behind it (it was killed); end it with: cosfs-ha umount {0}, then mount again"
    )]
    Dead(PathBuf),
    #[error("the mount at {0} belongs to another user; ask as that user or as root")]
    NotYours(PathBuf),
    #[error("the daemon did not answer: {0}")]
    Silent(io::Error),
    #[error("the daemon answered with something else than was asked for: {0}")]
    Strange(String),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Busy(String),
}

/// A connection to the daemon behind one mount point.
pub struct Client {
    reader: BufReader<UnixStream>,
}

/// How long the daemon may be silent. `switch` holds back writes for seconds; while draining, progress lines come every half second.
const SILENCE: Duration = Duration::from_secs(60);

impl Client {
    /// Finds the daemon of a mount point, given as the user typed it.
    pub fn connect(mountpoint: &Path) -> Result<Client, ClientError> {
        let canonical = place::canonical(mountpoint).map_err(|_| ClientError::NotMounted(mountpoint.to_path_buf()))?;
        let (mut refused, mut foreign) = (false, false);
        for socket in place::candidates(&canonical) {
            match UnixStream::connect(&socket) {
                Ok(stream) => return Client::over(stream),
                Err(error) => match error.kind() {
                    io::ErrorKind::PermissionDenied => foreign = true,
                    io::ErrorKind::ConnectionRefused => refused = true,
                    _ => {}
                },
            }
        }
        if foreign && place::is_ours(&canonical) {
            return Err(ClientError::NotYours(canonical));
        }
        let dead = place::is_ours(&canonical) || refused && place::is_mounted(&canonical);
        Err(if dead { ClientError::Dead(canonical) } else { ClientError::NotMounted(canonical) })
    }

    /// Over a socket at a known place.
    pub fn at(socket: &Path) -> Result<Client, ClientError> {
        Client::over(UnixStream::connect(socket).map_err(ClientError::Silent)?)
    }

    fn over(stream: UnixStream) -> Result<Client, ClientError> {
        stream.set_read_timeout(Some(SILENCE)).map_err(ClientError::Silent)?;
        stream.set_write_timeout(Some(SILENCE)).map_err(ClientError::Silent)?;
        Ok(Client { reader: BufReader::new(stream) })
    }

    /// Asks once; `progress` sees the figures that come before the answer.
    pub fn ask(mut self, request: &Request, mut progress: impl FnMut(Progress)) -> Result<Line, ClientError> {
        let mut text = serde_json::to_string(request).map_err(|error| ClientError::Strange(error.to_string()))?;
        text.push('\n');
        self.reader.get_mut().write_all(text.as_bytes()).map_err(ClientError::Silent)?;
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).map_err(ClientError::Silent)? == 0 {
                return Err(ClientError::Silent(io::ErrorKind::UnexpectedEof.into()));
            }
            match serde_json::from_str(&line) {
                Ok(Line::Progress(now)) => progress(now),
                Ok(Line::Error(why)) => return Err(ClientError::Refused(why)),
                Ok(Line::Busy(who)) => return Err(ClientError::Busy(who)),
                Ok(line) => return Ok(line),
                Err(error) => return Err(ClientError::Strange(error.to_string())),
            }
        }
    }
}
