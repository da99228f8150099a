//! What one record says, and how records lie in the database and in its tail.
//!
//! Three tables: the records by sequence number, a few numbers about the journal, and the spool files that are condemned (their
//! record is gone, the file is not yet). A value is four bytes of CRC-32C and then JSON: a flipped bit that the database does
//! not notice is noticed here, names the record, and costs that record alone. JSON, because a record that has to be set aside is
//! read by a person, and because a field added later does not make old journals unreadable.
//!
//! Owns the forms on disk and their version. Owns not when they are written (`writer`) and what is believed (`recovery`).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::disk::{Area, Backend};
use super::error::{Error, Result, is_full};
use crate::object::{ETag, Epoch, Headers, Key, Site, Token, VersionId};

/// Grows when an older program must not touch what a newer one wrote.
///
/// | format | since it, a record may also say |
/// |---|---|
/// | 1 | (the first) |
/// | 2 | [`Data::Patch`]: changed ranges over a version that a bucket has |
pub const FORMAT: u64 = 2;

/// Name of one file in the spool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpoolId(pub u64);

impl fmt::Display for SpoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Where the content of a write is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Data {
    Spool(SpoolId),
    /// The content of another object, copied by the bucket; `fallback` has the same bytes for a bucket that lacks the source.
    Copy {
        from: Key,
        /// `None`: from before versioning. Then its ETag tells the source from what is there now.
        version: Option<VersionId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        etag: Option<ETag>,
        fallback: Option<SpoolId>,
    },
    /// Changed ranges over another content, newest overlay first. What the first overlay does not say is said by its base; that is a
    /// version in the buckets, and, as long as a bucket might lack it, also what the overlays after it put together.
    Patch {
        overlays: Vec<Overlay>,
        /// The whole content of the last overlay's base, where that was in the journal as well.
        whole: Option<SpoolId>,
    },
    Empty,
}

/// One set of changed ranges.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Overlay {
    /// Holds the ranges at their own offsets, nothing else of it counts; `None` where there are no ranges.
    pub file: Option<SpoolId>,
    /// `start..end`, ascending, apart from each other.
    pub ranges: Vec<(u64, u64)>,
    /// CRC-64/XZ of all the ranges one after the other, where it is known.
    pub crc64: Option<u64>,
    pub base: Base,
    /// How much of the base shows through; behind it there are zeros where no range says otherwise.
    pub shown: u64,
}

/// What lies under an overlay.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Base {
    pub key: Key,
    /// Without a version while its own write had no answer yet; its stamp leads there.
    pub token: Token,
}

impl Data {
    /// The local file with the whole content, where there is one.
    pub fn spool(&self) -> Option<SpoolId> {
        match self {
            Data::Spool(id) => Some(*id),
            Data::Copy { fallback, .. } => *fallback,
            Data::Patch { .. } | Data::Empty => None,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    Put {
        data: Data,
        size: u64,
        /// CRC-64/XZ of the content, where it is already known.
        crc64: Option<u64>,
        headers: Headers,
        /// What the writer had seen of this key before; `None`: nothing.
        base: Option<Token>,
    },
    Delete {
        base: Option<Token>,
    },
}

impl Op {
    /// What the writer had seen of this key before.
    pub fn base(&self) -> Option<&Token> {
        match self {
            Op::Put { base, .. } | Op::Delete { base } => base.as_ref(),
        }
    }

    /// The spool files the operation needs, each with the length it must at least have.
    pub fn files(&self) -> Vec<(SpoolId, u64)> {
        match self {
            Op::Put { data: Data::Patch { overlays, whole }, .. } => {
                let last = |overlay: &Overlay| overlay.ranges.last().map_or(0, |(_, end)| *end);
                let patches = overlays.iter().filter_map(|overlay| Some((overlay.file?, last(overlay))));
                let under = overlays.last().map_or(0, |overlay| overlay.base.token.size);
                patches.chain(whole.map(|id| (id, under))).collect()
            }
            Op::Put { data, size, .. } => data.spool().map(|id| (id, *size)).into_iter().collect(),
            Op::Delete { .. } => Vec::new(),
        }
    }
}

/// What a bucket said when it took the write.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ack {
    /// `None` after a delete.
    pub token: Option<Token>,
    /// Version of the delete marker, after a delete in a versioned bucket.
    pub marker: Option<VersionId>,
}

/// One write and how far it got, as of one moment. Arrays are indexed by [`Site::index`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    pub seq: u64,
    pub key: Key,
    pub epoch: Epoch,
    pub op: Op,
    /// In whole microseconds.
    #[serde(with = "micros")]
    pub created: SystemTime,
    /// A request that could change the bucket was begun.
    pub sent: [bool; 2],
    pub acked: [Option<Ack>; 2],
    pub verified: [bool; 2],
    /// The request was sent in full and no answer came: it may still take effect.
    pub ambiguous: [bool; 2],
    /// A multipart upload was begun and is neither completed nor aborted.
    #[serde(default)]
    pub uploads: [Option<String>; 2],
    /// Versions of the key that are to be in neither bucket. Noted before the first removal, so that a kill after it does not leave the second out. The
    /// next record of the key takes them over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub condemned: Vec<VersionId>,
    /// CRC-64 of the whole content, where it was not known when the write was recorded: its parts are read as they are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<u64>,
}

impl Record {
    /// Both buckets are known to hold it.
    pub fn is_verified(&self) -> bool {
        self.verified == [true; 2]
    }

    /// No bucket has acknowledged it.
    pub fn is_unsent(&self) -> bool {
        self.acked.iter().all(Option::is_none) && self.verified == [false; 2]
    }

    /// The record after a change; `None` where it already says so.
    pub(crate) fn with(&self, change: &Change) -> Option<Record> {
        let mut next = self.clone();
        match change {
            Change::Sent { site } => next.sent[site.index()] = true,
            Change::Acked { site, token, marker } => {
                next.sent[site.index()] = true;
                next.acked[site.index()] = Some(Ack { token: token.clone(), marker: marker.clone() });
            }
            Change::Verified { site } => next.verified[site.index()] = true,
            Change::Ambiguous { site } => next.ambiguous[site.index()] = true,
            Change::Settled { site } => next.ambiguous[site.index()] = false,
            Change::Epoch(epoch) => next.epoch = *epoch,
            Change::Upload { site, id } => next.uploads[site.index()] = id.clone(),
            Change::Condemned { version } => {
                if !next.condemned.contains(version) {
                    next.condemned.push(version.clone());
                }
            }
            Change::Summed { crc64 } => next.sum = Some(*crc64),
        }
        (next != *self).then_some(next)
    }
}

/// How far a write has come. The words are the interface of `status` and of the attribute `user.cosfs-ha.state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// On this host only.
    Journal,
    /// A bucket was sent it and has not said yes.
    Sent,
    /// This bucket has it, the other is not yet seen to have it.
    In(Site),
    InBoth,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Journal => "journal",
            Stage::Sent => "sent",
            Stage::In(Site::A) => "in-a",
            Stage::In(Site::B) => "in-b",
            Stage::InBoth => "in-both",
        }
    }
}

impl Record {
    pub fn stage(&self) -> Stage {
        let has = |site: Site| self.acked[site.index()].is_some() || self.verified[site.index()];
        match (has(Site::A), has(Site::B)) {
            (true, true) => Stage::InBoth,
            (true, false) => Stage::In(Site::A),
            (false, true) => Stage::In(Site::B),
            (false, false) if self.sent.contains(&true) => Stage::Sent,
            (false, false) => Stage::Journal,
        }
    }
}

/// Now, as a record can store it.
pub fn now() -> SystemTime {
    micros::time(micros::number(crate::clock::wall())).unwrap_or(UNIX_EPOCH)
}

mod micros {
    use super::{Duration, SystemTime, UNIX_EPOCH};
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn number(time: SystemTime) -> u64 {
        u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
    }

    pub fn time(micros: u64) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_micros(micros))
    }

    pub fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(number(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        time(u64::deserialize(from)?).ok_or_else(|| serde::de::Error::custom("time out of range"))
    }
}

/// A write about to be recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewRecord {
    pub key: Key,
    pub op: Op,
    pub epoch: Epoch,
}

/// One step in a record's life. Steps may be repeated; a repeated step changes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    Sent {
        site: Site,
    },
    Acked {
        site: Site,
        token: Option<Token>,
        marker: Option<VersionId>,
    },
    Verified {
        site: Site,
    },
    Ambiguous {
        site: Site,
    },
    /// What was ambiguous is known by now.
    Settled {
        site: Site,
    },
    Epoch(Epoch),
    /// A multipart upload was begun, or ended in whichever way.
    Upload {
        site: Site,
        id: Option<String>,
    },
    /// A version of the key is about to be removed from both buckets.
    Condemned {
        version: VersionId,
    },
    /// What the bucket is about to put together has this checksum.
    Summed {
        crc64: u64,
    },
}

/// What a record on its way to disk must outlive before its writer is told so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persist {
    /// The end of this process in any way, kill -9 included: the kernel has it.
    Buffered,
    /// A power cut: the disk has it, together with everything recorded before it.
    Synced,
}

/// CRC-32C, as iSCSI and ext4 use it.
fn crc32c(data: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data) as u32
}

/// Checksum and JSON of a value.
fn seal(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut out = vec![0; 4];
    serde_json::to_writer(&mut out, value).map_err(|e| Error::Disk(format!("record cannot be encoded: {e}")))?;
    let sum = crc32c(&out[4..]);
    out[..4].copy_from_slice(&sum.to_le_bytes());
    Ok(out)
}

fn unseal<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> std::result::Result<T, String> {
    let (sum, json) = bytes.split_first_chunk::<4>().ok_or("shorter than its checksum")?;
    if crc32c(json) != u32::from_le_bytes(*sum) {
        return Err("checksum does not match".into());
    }
    serde_json::from_slice(json).map_err(|e| e.to_string())
}

/// The last known state of one sequence number, as the tail carries it. Absolute, so that replaying it twice does no harm.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    Is(Arc<Record>),
    Gone {
        seq: u64,
        /// To be deleted once the removal is on stable storage.
        spool: Option<SpoolId>,
        /// Likewise; apart only because format 1 knew no second one.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        more: Vec<SpoolId>,
    },
}

impl Entry {
    pub fn seq(&self) -> u64 {
        match self {
            Entry::Is(record) => record.seq,
            Entry::Gone { seq, .. } => *seq,
        }
    }

    pub fn gone(seq: u64, mut files: Vec<SpoolId>) -> Entry {
        let spool = files.pop();
        Entry::Gone { seq, spool, more: files }
    }

    /// Files that go with the record.
    pub fn doomed(&self) -> Vec<SpoolId> {
        match self {
            Entry::Is(_) => Vec::new(),
            Entry::Gone { spool, more, .. } => spool.iter().chain(more).copied().collect(),
        }
    }
}

/// Frame in the tail: length of the rest (4), CRC-32C of number and JSON (4), number (8), JSON. Little endian.
const FRAME_HEAD: usize = 16;
/// Far above an ordinary record (a key of 850 bytes, 2 KiB of metadata); a length beyond it is garbage.
const FRAME_MAX: usize = 1 << 20;

/// Appends one frame, or nothing: a change in tens of thousands of places makes a record that is too large for one.
pub fn put_frame(out: &mut Vec<u8>, lsn: u64, entry: &Entry) -> Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD]);
    out[start + 8..].copy_from_slice(&lsn.to_le_bytes());
    let encoded = serde_json::to_writer(&mut *out, entry).map_err(|e| e.to_string());
    let rest = out.len() - start - 8;
    let fits = if rest <= FRAME_MAX { Ok(()) } else { Err(format!("{rest} bytes")) };
    if let Err(why) = encoded.and(fits) {
        out.truncate(start);
        return Err(Error::Disk(format!("record does not fit into the tail: {why}")));
    }
    let rest = rest as u32;
    let sum = crc32c(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&rest.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
    Ok(())
}

/// The whole frames at the beginning of a tail, numbers strictly rising; and whether anything else followed them.
pub fn frames(mut bytes: &[u8]) -> (Vec<(u64, Entry)>, bool) {
    let mut found: Vec<(u64, Entry)> = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
        let len = u32::from_le_bytes(*len) as usize;
        if !(8..=FRAME_MAX).contains(&len) || rest.len() < 4 + len {
            return (found, true);
        }
        let (sum, body) = (&rest[..4], &rest[4..4 + len]);
        if crc32c(body).to_le_bytes() != *sum {
            return (found, true);
        }
        let Some((lsn, json)) = body.split_first_chunk::<8>() else { return (found, true) };
        let lsn = u64::from_le_bytes(*lsn);
        // Numbers that do not rise belong to an older use of the same file.
        if found.last().is_some_and(|(last, _)| *last >= lsn) {
            return (found, true);
        }
        let Ok(entry) = serde_json::from_slice(json) else { return (found, true) };
        found.push((lsn, entry));
        bytes = &rest[4 + len..];
    }
    (found, !bytes.is_empty())
}

const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("records");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const CONDEMNED: TableDefinition<u64, ()> = TableDefinition::new("condemned");

/// The numbers about the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    pub format: u64,
    pub mount_id: u64,
    pub epoch: Epoch,
    pub master: Site,
    /// Every sequence number handed out so far, lost ones included, is below this.
    pub seq_limit: u64,
    /// Number of the last tail frame that the tables contain.
    pub lsn: u64,
}

/// A value that is not a record, and why.
#[derive(Debug)]
pub struct Unreadable {
    pub raw: Vec<u8>,
    pub why: String,
}

/// Everything the tables hold.
#[derive(Debug)]
pub struct Content {
    pub meta: Meta,
    pub records: Vec<(u64, std::result::Result<Record, Unreadable>)>,
    pub condemned: Vec<SpoolId>,
}

/// What one transaction changes.
pub struct Commit<'a> {
    pub meta: Meta,
    pub entries: &'a mut dyn Iterator<Item = &'a Entry>,
    /// Condemned files that are deleted by now.
    pub executed: &'a [SpoolId],
}

/// The database.
#[derive(Debug)]
pub struct Tables(Database);

/// Why the database cannot be used.
#[derive(Debug)]
pub enum TablesError {
    /// The disk refused; says nothing about the content.
    Io(std::io::Error),
    /// The content is not what the journal wrote.
    Damaged(String),
}

impl From<redb::Error> for TablesError {
    fn from(error: redb::Error) -> TablesError {
        match error {
            // redb's way to say "not a database of mine".
            redb::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                TablesError::Damaged("not a database".into())
            }
            redb::Error::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                TablesError::Damaged("shorter than its header says".into())
            }
            redb::Error::Io(e) => TablesError::Io(e),
            other => TablesError::Damaged(other.to_string()),
        }
    }
}

impl TablesError {
    pub fn is_full(&self) -> bool {
        matches!(self, TablesError::Io(e) if is_full(e))
    }
}

impl fmt::Display for TablesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TablesError::Io(e) => e.fmt(f),
            TablesError::Damaged(why) => f.write_str(why),
        }
    }
}

type Tried<T> = std::result::Result<T, TablesError>;

/// Runs redb where it may meet damaged content: some of its own checks are assertions.
fn fenced<T>(run: impl FnOnce() -> std::result::Result<T, redb::Error>) -> Tried<T> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(TablesError::from),
        Err(_) => Err(TablesError::Damaged("the database broke one of redb's own assertions".into())),
    }
}

impl Tables {
    /// Opens or creates. `thorough` verifies every page, which an orderly closed database would not get otherwise.
    pub fn open(area: Arc<dyn Area>, thorough: bool) -> Tried<Tables> {
        fenced(|| {
            let used = area.len()? > 0;
            // 8 MiB of pages: thousands of records; the index in memory answers all reads anyway.
            let mut db = redb::Builder::new().set_cache_size(8 << 20).create_with_backend(Backend(area))?;
            if used && thorough {
                db.check_integrity()?;
            }
            Ok(Tables(db))
        })
    }

    /// `None`: nothing was ever committed.
    pub fn load(&self) -> Tried<Option<Content>> {
        fenced(|| {
            let read = self.0.begin_read()?;
            let meta = match read.open_table(META) {
                Ok(meta) => meta,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(e) => return Err(e.into()),
            };
            let number = |name: &str| -> std::result::Result<u64, redb::Error> {
                Ok(meta.get(name)?.ok_or_else(|| redb::Error::Corrupted(format!("no number '{name}'")))?.value())
            };
            let master = if number("master")? == 0 { Site::A } else { Site::B };
            let meta = Meta {
                format: number("format")?,
                mount_id: number("mount_id")?,
                epoch: Epoch(number("epoch")?),
                master,
                seq_limit: number("seq_limit")?,
                lsn: number("lsn")?,
            };
            let (mut records, mut condemned) = (Vec::new(), Vec::new());
            // Nothing but the numbers is read from a newer format: the rest may have another shape.
            if meta.format <= FORMAT {
                for row in read.open_table(RECORDS)?.iter()? {
                    let (seq, value) = row?;
                    let (seq, value) = (seq.value(), value.value());
                    let record = unseal::<Record>(value)
                        .and_then(|r| if r.seq == seq { Ok(r) } else { Err(format!("is about record {}", r.seq)) });
                    records.push((seq, record.map_err(|why| Unreadable { raw: value.to_vec(), why })));
                }
                for row in read.open_table(CONDEMNED)?.iter()? {
                    condemned.push(SpoolId(row?.0.value()));
                }
            }
            Ok(Some(Content { meta, records, condemned }))
        })
    }

    /// One transaction, on stable storage when this returns.
    pub fn commit(&self, commit: Commit<'_>) -> Tried<()> {
        fenced(|| {
            let mut txn = self.0.begin_write()?;
            txn.set_durability(redb::Durability::Immediate)?;
            {
                let mut meta = txn.open_table(META)?;
                let Meta { format, mount_id, epoch, master, seq_limit, lsn } = commit.meta;
                for (name, value) in [
                    ("format", format),
                    ("mount_id", mount_id),
                    ("epoch", epoch.0),
                    ("master", master.index() as u64),
                    ("seq_limit", seq_limit),
                    ("lsn", lsn),
                ] {
                    meta.insert(name, value)?;
                }
                let mut records = txn.open_table(RECORDS)?;
                let mut condemned = txn.open_table(CONDEMNED)?;
                for entry in commit.entries {
                    match entry {
                        Entry::Is(record) => {
                            let value = seal(&**record).map_err(|e| redb::Error::Corrupted(e.to_string()))?;
                            records.insert(record.seq, value.as_slice())?;
                        }
                        Entry::Gone { seq, .. } => {
                            records.remove(seq)?;
                            for id in entry.doomed() {
                                condemned.insert(id.0, ())?;
                            }
                        }
                    }
                }
                for id in commit.executed {
                    condemned.remove(id.0)?;
                }
            }
            txn.commit()?;
            Ok(())
        })
    }
}
