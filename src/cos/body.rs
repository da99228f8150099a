//! The body of an answered GET: pieces straight from the socket, counted and summed up on the way.
//!
//! A short body must never look like a short file. So the length is known before the first piece, and the last piece is handed out only
//! after length and, for a whole object, checksum were found right.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::checksum::Crc64;
use super::error::{Error, Kind};
use super::transport::{Answer, Pace};

/// Memory taken for a body before more of it has come.
const COLLECT_AT_FIRST: usize = 16 << 20;

/// The bytes of one object or of a range of it.
#[derive(Debug)]
pub struct Body {
    answer: Answer,
    len: u64,
    left: u64,
    /// Running and expected checksum; only where the whole object is transferred.
    crc: Option<(Crc64, u64)>,
    progress: Duration,
    pace: Pace,
}

impl Body {
    pub(super) fn new(answer: Answer, len: u64, whole_crc64: Option<u64>, progress: Duration) -> Result<Body, Error> {
        let body = Body {
            answer,
            len,
            left: len,
            crc: whole_crc64.map(|sum| (Crc64::new(), sum)),
            progress,
            pace: Pace::default(),
        };
        if len == 0 {
            body.check()?;
        }
        Ok(body)
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next piece, never empty; `None` after the last.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while self.left > 0 {
            let asked = tokio::time::Instant::now();
            let piece = match tokio::time::timeout(self.progress, self.answer.response.chunk()).await {
                Err(_) => return Err(self.answer.error(Kind::Stalled, self.place("stood still"))),
                Ok(Err(e)) => {
                    let kind = super::error::transport_kind(&e);
                    let cause = super::error::chain(&e.without_url());
                    return Err(self.answer.error(kind, format!("{}: {cause}", self.place("broke"))));
                }
                Ok(Ok(None)) => return Err(self.answer.error(Kind::Corrupt, self.place("ended early"))),
                Ok(Ok(Some(piece))) => piece,
            };
            let size = piece.len() as u64;
            if size > self.left {
                return Err(self.answer.error(Kind::Corrupt, self.place("is longer than announced")));
            }
            if let Some((crc, _)) = &mut self.crc {
                crc.update(&piece);
            }
            self.left -= size;
            if self.left > 0 && !self.pace.keeps_up(asked.elapsed(), piece.len()) {
                return Err(self.answer.error(Kind::Stalled, self.place("trickles")));
            }
            if self.left == 0 {
                self.check()?;
            }
            if size > 0 {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// All that is left, in one piece.
    pub async fn collect(mut self) -> Result<Bytes, Error> {
        let Some(first) = self.next_chunk().await? else { return Ok(Bytes::new()) };
        if self.left == 0 {
            return Ok(first);
        }
        // What a server announces is no reason to take the memory before it comes.
        let announced = usize::try_from(self.left).unwrap_or(0).min(COLLECT_AT_FIRST);
        let mut all = BytesMut::with_capacity(first.len() + announced);
        all.extend_from_slice(&first);
        while let Some(piece) = self.next_chunk().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    fn check(&self) -> Result<(), Error> {
        match &self.crc {
            Some((crc, expected)) if crc.value() != *expected => {
                let cause = format!("checksum is {}, COS says {expected}", crc.value());
                Err(self.answer.error(Kind::Corrupt, cause))
            }
            _ => Ok(()),
        }
    }

    fn place(&self, what: &str) -> String {
        format!("body {what} after {} of {} bytes", self.len - self.left, self.len)
    }
}
