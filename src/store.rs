//! "Get, put, list, copy, delete this key": the whole remote world as the file system sees it.
//!
//! Behind this door stand two buckets, a journal and a cache; in front of it nobody knows which of them answered. The door's
//! promises are the product's promises:
//!
//! * `Ok(None)` from [`Store::head`] and a name missing from [`Store::list`] mean *proven absent*. Not knowing is an error.
//! * What [`Store::put`], [`Store::delete`] or [`Store::rename`] acknowledged is found again by every later call, whichever bucket is alive.
//! * No call ends later than its deadline.
//!
//! The trait exists so that the file system can be tested against a model of a bucket without a network.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::journal::{Move, Stage};
use crate::object::{Headers, Key, Object};

pub use conflict::Conflicts;
pub use error::{Error, Result};
pub use ha::{Commit, HaStore, Options, Pending, SecondRegion, WhenUnreachable};
pub use read::Reader;
pub use staging::Scratch;
pub use tally::{From, Tally};

mod ask;
mod backup;
mod budget;
pub mod canary;
mod conflict;
mod coverage;
mod elsewhere;
mod error;
mod freshness;
mod ha;
mod list;
mod look;
mod overtaken;
mod patch;
mod prefetch;
mod queue;
mod read;
mod settle;
mod staging;
pub mod tally;
mod upload;
mod verify;
mod write;

/// One object in a listing. `known` is there when this mount already holds headers that belong to exactly this content;
/// otherwise they cost a [`Store::head`].
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Key,
    pub size: u64,
    /// Microseconds since 1970.
    pub modified_micros: u64,
    pub known: Option<Arc<Object>>,
}

/// A complete listing, sorted by key; `prefixes` (each ending in `/`) only where a delimiter was asked for.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub entries: Vec<Entry>,
    pub prefixes: Vec<String>,
}

/// How deep to list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// Names directly below the prefix; deeper ones folded into `prefixes` at the next `/`.
    Children,
    /// Every key below the prefix.
    All,
}

/// What a prefix that ends in `/` holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Below {
    /// The directory marker: a key equal to the prefix.
    pub marker: bool,
    /// At least one key strictly below.
    pub children: bool,
}

/// When a write counts as done (docs/semantics.md, "Commit modes").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ack {
    /// As `close` promises in the configured commit mode.
    Close,
    /// As `fsync` promises in the configured commit mode.
    Fsync,
}

/// Scratch file for the bytes of one file that is being written. Sparse, read and written at any offset, on the journal's disk.
///
/// Dropped unsealed, it is deleted. Handing it to [`Store::put`] freezes it.
pub trait Staging: Send + Sync + 'static {
    /// The open file; use positioned reads and writes.
    fn file(&self) -> &std::fs::File;
}

/// Changed ranges over an object that is stored already. Everything outside `ranges` comes from the base where it is below `shown`, and
/// is zero behind that.
pub struct Patch<S: Store> {
    /// The changed bytes at their own offsets; `None` if there are none.
    pub staging: Option<Arc<S::Staging>>,
    /// Ascending, apart from each other, below `size`.
    pub ranges: Vec<Range<u64>>,
    pub size: u64,
    pub base: Arc<S::Reader>,
    pub shown: u64,
}

pub trait Store: Send + Sync + 'static {
    /// An object opened for reading: pins one version, so that two reads never mix two versions.
    type Reader: Send + Sync + 'static;
    type Staging: Staging;

    /// The current object under a key, or `None` if it is proven that there is none.
    fn head(&self, key: &Key, until: Instant) -> impl Future<Output = Result<Option<Object>>> + Send;

    /// All keys below a prefix (empty, or ending in `/`). Complete, or an error.
    fn list(&self, prefix: &str, depth: Depth, until: Instant) -> impl Future<Output = Result<Listing>> + Send;

    /// Is there at least one key strictly below `prefix` (which ends in `/`) other than the marker `prefix` itself? At most one request.
    fn has_children(&self, prefix: &str, until: Instant) -> impl Future<Output = Result<bool>> + Send;

    /// Is there a directory at `prefix`, marked or implied? A store that can tell both from one listing of two keys does so.
    fn below(&self, prefix: &str, until: Instant) -> impl Future<Output = Result<Below>> + Send {
        async move {
            let marker = Key::new(prefix)?;
            let (children, marker) =
                futures::future::try_join(self.has_children(prefix, until), self.head(&marker, until)).await?;
            Ok(Below { marker: marker.is_some(), children })
        }
    }

    fn open(&self, key: &Key, object: &Object) -> Self::Reader;

    /// Exactly the asked range, clipped to the object's size. Reads ahead by itself when the access is sequential.
    fn read(
        &self,
        reader: &Self::Reader,
        offset: u64,
        len: u32,
        until: Instant,
    ) -> impl Future<Output = Result<Bytes>> + Send;

    /// A new scratch file, or [`Error::Full`].
    fn staging(&self) -> Result<Self::Staging>;

    /// Reserves journal space before `bytes` more are written into scratch files; fails with [`Error::Full`].
    fn reserve(&self, staging: &Self::Staging, bytes: u64) -> Result<()>;

    /// After [`Error::Full`]: waits until room was given back. False if it is no use waiting (longer).
    fn room(&self, _until: Instant) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }

    /// Writes the whole object. `data`: the complete content in a scratch file (its length is the size), or `None` for an empty object.
    /// On an error the content stays readable through the same scratch file, so that the caller can go on or try again.
    fn put(
        &self,
        key: &Key,
        data: Option<Arc<Self::Staging>>,
        headers: Headers,
        ack: Ack,
        until: Instant,
    ) -> impl Future<Output = Result<Object>> + Send;

    /// As [`Store::put`], for a small change of a large object: costs what changed, not what the object weighs.
    fn patch(
        &self,
        key: &Key,
        patch: Patch<Self>,
        headers: Headers,
        ack: Ack,
        until: Instant,
    ) -> impl Future<Output = Result<Object>> + Send
    where
        Self: Sized;

    /// Replaces the headers of an existing object, keeping its content.
    fn set_headers(
        &self,
        key: &Key,
        object: &Object,
        headers: Headers,
        until: Instant,
    ) -> impl Future<Output = Result<Object>> + Send;

    /// Moves one object: `to` then has `from`'s content under `headers`, `from` is gone. Overwrites `to`.
    fn rename(
        &self,
        from: &Key,
        object: &Object,
        to: &Key,
        headers: Headers,
        until: Instant,
    ) -> impl Future<Output = Result<Object>> + Send;

    fn delete(&self, key: &Key, until: Instant) -> impl Future<Output = Result<()>> + Send;

    /// Notes that a directory moves, so that the next start finishes what this process does not. On stable storage when this returns.
    fn begin_move(&self, _what: &Move) -> Result<u64> {
        Ok(0)
    }

    /// The opposite, once nothing is left to be moved.
    fn end_move(&self, _number: u64) -> Result<()> {
        Ok(())
    }

    /// Has this mount written or removed the key since this number ([`Move::before`])?
    fn written_since(&self, _key: &Key, _seq: u64) -> bool {
        false
    }

    /// Moves that were begun and not ended.
    fn begun_moves(&self) -> Vec<(u64, Move)> {
        Vec::new()
    }

    /// Nobody can be asked at all at the moment: whoever knows an older answer need not wait for a new one.
    fn is_dark(&self) -> bool {
        false
    }

    /// Resolves when it is dark, and never after the deadline.
    fn blackout(&self, _until: Instant) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// How far the newest write of a key has come; `None`: nothing of it is on its way any more.
    fn stage(&self, _key: &Key) -> Option<Stage> {
        None
    }

    /// Everything acknowledged so far reaches what `fsync` promises.
    fn sync(&self, until: Instant) -> impl Future<Output = Result<()>> + Send;
}
