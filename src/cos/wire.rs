//! A network that is not one: the seam below the client at which a simulation takes the bytes.
//!
//! Everything above it (signing, deadlines, classification, checksums) runs as in production. What is left out is reqwest, hyper and
//! sockets, which know no virtual time.
//!
//! Owns: the shape of the seam. Owns not: any network; there is one in `src/bin/sim`.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use bytes::Bytes;

use super::attempt::{Progress, Sent};

/// The head of an answer, its body still to come. An error of the body is a broken connection.
pub type Answer = http::Response<reqwest::Body>;

/// What a [`Wire`] says about the sending side.
#[derive(Debug)]
pub struct Sending<'a>(pub(super) &'a Progress);

impl Sending<'_> {
    /// A connection takes the request, and a part of it has left.
    pub fn begun(&self) {
        self.0.reach(Sent::Partly);
    }

    /// The last byte has left.
    pub fn done(&self) {
        self.0.reach(Sent::Fully);
    }
}

/// In place of a network.
pub trait Wire: fmt::Debug + Send + Sync + 'static {
    /// Sends one request and waits for the head of its answer. Dropped, the connection is given up. An error is one of the connection:
    /// refused, reset, or this host's own.
    fn exchange<'a>(
        &'a self,
        request: http::Request<Bytes>,
        fresh_connection: bool,
        sending: Sending<'a>,
    ) -> Pin<Box<dyn Future<Output = io::Result<Answer>> + Send + 'a>>;
}
