//! What to believe after a crash.
//!
//! A start always ends with a usable journal, or with an error that says whose directory this is. What is whole is taken up.
//! What is not whole is put into `set-aside/<time>/`, named, and never looked at again by the program: it may be the only copy of
//! something, so it is not deleted, and it may be wrong, so it is not uploaded.
//!
//! | found | done |
//! |---|---|
//! | directory locked | refused, naming directory and process |
//! | newer format | refused, nothing touched |
//! | database unreadable, shortened or emptied | set aside with tail and all data files; begun anew with a new mount id, the old epoch |
//! | one value unreadable | that record set aside |
//! | tail ends in garbage | entries before it replayed (the rest was never acknowledged, or was lost with the power) |
//! | data file missing, too short, or wrong by CRC-64 after a power cut | record and file set aside |
//! | data file without record | set aside: never acknowledged |
//! | condemned data file, or file in `staging/` | deleted |
//!
//! A new mount id after a lost database matters: sequence numbers begin anew, and under the old id the next write would count as older
//! than those before. CRC-64 is read only when the machine itself went down (the boot id differs): as long as the kernel lived, it
//! kept every byte it had been given.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{Area, Disk};
use super::error::{Error, Result};
use super::index::Index;
use super::records::{
    Content, Data, Entry, FORMAT, Meta, Op, Record, SpoolId, Tables, TablesError, Unreadable, frames,
};
use super::spool::Spool;
use super::writer::{LAZY, Parked, Paths, Shared, Writer, hold_reserve};
use crate::object::{Epoch, Site};

/// How the last user of the directory left it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ending {
    /// There was none.
    #[default]
    New,
    Closed,
    /// The process died; the kernel lived.
    Killed,
    /// The machine went down.
    PowerCut,
}

/// One thing that was not believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetAside {
    pub what: String,
    pub why: String,
}

/// What a start found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    pub ending: Ending,
    /// Records taken up, those from the tail included.
    pub records: u64,
    /// Entries that only the tail had.
    pub from_tail: u64,
    /// The database was lost; mount id and sequence numbers are new.
    pub begun_anew: bool,
    pub set_aside: Vec<SetAside>,
    /// Where, if anything was set aside now.
    pub aside_dir: Option<PathBuf>,
    /// Data files deleted because their record was retired.
    pub deleted: u64,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ending {
            Ending::New if !self.begun_anew => return f.write_str("new journal"),
            Ending::New => f.write_str("journal without identity")?,
            Ending::Closed => f.write_str("journal closed in order")?,
            Ending::Killed => f.write_str("journal of a process that was killed")?,
            Ending::PowerCut => f.write_str("journal of a machine that went down")?,
        }
        write!(f, ": {} records taken up ({} entries replayed from the tail)", self.records, self.from_tail)?;
        if self.begun_anew {
            f.write_str("; the database was lost and begun anew")?;
        }
        if self.deleted > 0 {
            write!(f, "; {} data files of retired records deleted", self.deleted)?;
        }
        if let Some(dir) = &self.aside_dir {
            write!(f, "; set aside in {}:", dir.display())?;
        }
        for SetAside { what, why } in &self.set_aside {
            write!(f, "\n  {what}: {why}")?;
        }
        Ok(())
    }
}

/// `identity`: a few words outside the database, so that losing the database does not lose them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    format: u64,
    mount: String,
    epoch: Epoch,
    master: Site,
    boot: String,
    open: bool,
}

impl Identity {
    pub fn write(disk: &dyn Disk, path: &Path, meta: &Meta, open: bool) -> Result<()> {
        let identity = Identity {
            format: meta.format,
            mount: format!("{:016x}", meta.mount_id),
            epoch: meta.epoch,
            master: meta.master,
            boot: boot_id(disk),
            open,
        };
        let text = serde_json::to_vec(&identity).map_err(|e| Error::Disk(e.to_string()))?;
        disk.replace(path, &text).map_err(|e| Error::io(&format!("write {}", path.display()), &e))
    }
}

/// Differs after each start of the kernel (random(4)); empty where it cannot be known, which counts as the same.
fn boot_id(disk: &dyn Disk) -> String {
    let read = disk.read(Path::new("/proc/sys/kernel/random/boot_id"));
    read.map(|text| String::from_utf8_lossy(&text).trim().to_string()).unwrap_or_default()
}

/// What a start builds.
pub(super) struct Opened {
    pub writer: Writer,
    pub recovery: Recovery,
    pub lock: File,
}

/// Collects what is not believed.
struct Aside<'a> {
    disk: &'a dyn Disk,
    dir: PathBuf,
    made: bool,
    list: Vec<SetAside>,
}

impl Aside<'_> {
    fn note(&mut self, what: String, why: String) {
        self.list.push(SetAside { what, why });
    }

    /// Moves a file away. What cannot be moved stays where it is, which is said too.
    fn take(&mut self, path: &Path, why: &str) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let moved = self.make().and_then(|()| self.disk.rename(path, &self.dir.join(&name)));
        match moved {
            Ok(()) => self.note(name, why.into()),
            Err(e) => self.note(name, format!("{why} (left in place: {e})")),
        }
    }

    fn keep(&mut self, name: &str, content: &[u8], what: String, why: String) {
        match self.make().and_then(|()| self.disk.replace(&self.dir.join(name), content)) {
            Ok(()) => self.note(what, why),
            Err(e) => self.note(what, format!("{why} (not written down: {e})")),
        }
    }

    fn make(&mut self) -> std::io::Result<()> {
        if !self.made {
            self.disk.create_dir(&self.dir)?;
            self.made = true;
        }
        Ok(())
    }
}

/// A free name for this start's folder.
fn aside_dir(disk: &dyn Disk, parent: &Path) -> PathBuf {
    const FORM: &[time::format_description::BorrowedFormatItem<'_>] =
        time::macros::format_description!("[year]-[month]-[day]T[hour]-[minute]-[second]Z");
    let now = time::OffsetDateTime::now_utc().format(FORM).unwrap_or_else(|_| "unknown-time".into());
    let mut dir = parent.join(&now);
    let mut n = 2;
    while disk.stat(&dir).is_ok() {
        dir = parent.join(format!("{now}-{n}"));
        n += 1;
    }
    dir
}

/// How long what a start did not believe is kept. Arbitrary: long enough to be missed, and to be fetched back by hand.
const ASIDE_KEPT_DAYS: i64 = 30;

/// Removes what was set aside long ago. The folder's name tells when.
fn prune_aside(disk: &dyn Disk, parent: &Path) {
    const DAY: &[time::format_description::BorrowedFormatItem<'_>] =
        time::macros::format_description!("[year]-[month]-[day]");
    let today = time::OffsetDateTime::from(crate::clock::wall()).date();
    for name in disk.list(parent).unwrap_or_default() {
        let made = name.get(..10).and_then(|day| time::Date::parse(day, DAY).ok());
        // A clock that had not been set yet dates it decades back.
        if made.is_none_or(|made| made.year() < 2025 || (today - made).whole_days() <= ASIDE_KEPT_DAYS) {
            continue;
        }
        let folder = parent.join(&name);
        let files = disk.list(&folder).unwrap_or_default();
        let removed = files.iter().try_for_each(|file| disk.remove(&folder.join(file)));
        match removed.and_then(|()| disk.remove_dir(&folder)) {
            Ok(()) => log::info!("journal: {} is older than {ASIDE_KEPT_DAYS} days: removed", folder.display()),
            Err(e) => log::warn!("journal: {} is old and cannot be removed: {e}", folder.display()),
        }
    }
}

/// Bytes below `set-aside/`, two levels deep as [`Aside`] makes them.
fn aside_bytes(disk: &dyn Disk, parent: &Path) -> u64 {
    let mut sum = 0;
    for folder in disk.list(parent).unwrap_or_default() {
        let folder = parent.join(folder);
        for name in disk.list(&folder).unwrap_or_default() {
            sum += disk.stat(&folder.join(name)).map_or(0, |stat| stat.allocated);
        }
    }
    sum
}

pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path, limit_bytes: u64) -> Result<Opened> {
    let failed = |what: &str, e: &std::io::Error| Error::io(&format!("{what} {}", dir.display()), e);
    disk.create_dir(dir).map_err(|e| failed("create", &e))?;
    let lock = match disk.lock(&dir.join("lock")).map_err(|e| failed("lock", &e))? {
        Ok(lock) => lock,
        Err(pid) => return Err(Error::Locked { dir: dir.into(), pid }),
    };
    let paths = Paths::of(dir);
    let newer = |found| Error::Newer { dir: dir.into(), found, known: FORMAT };

    let identity: Option<Identity> =
        disk.read(&paths.identity).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(found) = identity.as_ref().map(|id| id.format).filter(|format| *format > FORMAT) {
        return Err(newer(found));
    }
    let ending = match &identity {
        None => Ending::New,
        Some(id) if !id.open => Ending::Closed,
        Some(id) if id.boot == boot_id(&*disk) => Ending::Killed,
        Some(_) => Ending::PowerCut,
    };
    let mut recovery = Recovery { ending, ..Recovery::default() };
    let parent = dir.join("set-aside");
    prune_aside(&*disk, &parent);
    let mut aside = Aside { disk: &*disk, dir: aside_dir(&*disk, &parent), made: false, list: Vec::new() };

    let (tables, content) = match read_tables(&*disk, &paths, identity.is_some()) {
        Ok(Loaded { content: Some(content), .. }) if content.meta.format > FORMAT => {
            return Err(newer(content.meta.format));
        }
        Ok(Loaded { tables, content }) => (tables, content),
        Err(TablesError::Io(e)) => return Err(failed("read the database in", &e)),
        Err(TablesError::Damaged(why)) => {
            recovery.begun_anew = true;
            for path in [&paths.tables, &paths.tail] {
                if disk.stat(path).is_ok() {
                    aside.take(path, &why);
                }
            }
            let fresh = read_tables(&*disk, &paths, false).map_err(|e| Error::Disk(format!("new database: {e}")))?;
            (fresh.tables, None)
        }
    };
    let content = content.unwrap_or_else(|| Content {
        meta: Meta {
            format: FORMAT,
            mount_id: crate::clock::any_number(),
            epoch: identity.as_ref().map_or(Epoch(0), |id| id.epoch),
            master: identity.as_ref().map_or(Site::A, |id| id.master),
            seq_limit: 1,
            lsn: 0,
        },
        records: Vec::new(),
        condemned: Vec::new(),
    });

    let tail = disk.area(&paths.tail).map_err(|e| failed("open the tail in", &e))?;
    // What is written from here on is written by this program.
    let meta = Meta { format: FORMAT, ..content.meta };
    let mut state = State { meta, records: BTreeMap::new(), dirty: BTreeMap::new() };
    let condemned = content.condemned;
    for (seq, value) in content.records {
        match value {
            Ok(record) => drop(state.records.insert(seq, Arc::new(record))),
            Err(Unreadable { raw, why }) => {
                aside.keep(&format!("record-{seq}.raw"), &raw, format!("record {seq}"), why);
                state.forget(seq, None);
            }
        }
    }
    recovery.from_tail = state.replay(&*tail).map_err(|e| failed("read the tail in", &e))?;

    let (spool, lengths) = Spool::open(Arc::clone(&disk), dir, limit_bytes, aside_bytes(&*disk, &parent))?;
    let check_content = recovery.ending == Ending::PowerCut;
    let taken = state.check_data(&spool, &lengths, check_content, &mut aside);
    let index = state.index();
    let doomed: Vec<SpoolId> = state.dirty.values().flat_map(Entry::doomed).collect();
    for id in lengths.keys() {
        if taken.contains(id) {
            // No longer among the journal's files; what it occupies counts with what is set aside.
            spool.discard(*id);
        } else if condemned.contains(id) || doomed.contains(id) {
            recovery.deleted += 1;
            if !doomed.contains(id) {
                spool.discard(*id);
            }
        } else if !index.names_spool(*id) {
            let why = if recovery.begun_anew {
                "its record was in the lost database"
            } else {
                "no record names it: its write was never acknowledged"
            };
            aside.take(&spool.path(*id), why);
            spool.discard(*id);
        }
    }
    spool.skip_to(index.last_spool() + 1);
    recovery.records = index.counts().records;
    recovery.aside_dir = aside.made.then(|| aside.dir.clone());
    recovery.set_aside = std::mem::take(&mut aside.list);
    spool.set_aside(aside_bytes(&*disk, &parent));

    let next_seq = index.last_seq().map_or(1, |seq| seq + 1).max(state.meta.seq_limit);
    let reserve = hold_reserve(&*disk, &paths.reserve);
    let mut writer = Writer {
        shared: Arc::new(Shared::new(index, next_seq, &state.meta)),
        spool: Arc::new(spool),
        disk: Arc::clone(&disk),
        paths,
        tables: Some(tables),
        // Whatever its length: the first commit empties it.
        tail_len: 1,
        tail,
        meta: state.meta,
        dirty: state.dirty,
        executed: condemned,
        reserve,
        lazy: LAZY,
        parked: Parked::default(),
        torn: false,
    };
    writer.commit(true)?;
    match Identity::write(&*disk, &writer.paths.identity, &writer.meta, true) {
        Err(Error::Full(_)) => {
            // What the reserve is for. Retiring the first records makes room for it again.
            if let Some(area) = writer.reserve.take() {
                area.set_len(0).map_err(|e| failed("give up the reserve in", &e))?;
            }
            Identity::write(&*disk, &writer.paths.identity, &writer.meta, true)?;
        }
        other => other?,
    }
    disk.sync_dir(dir).map_err(|e| failed("sync", &e))?;
    Ok(Opened { writer, recovery, lock })
}

struct Loaded {
    tables: Tables,
    content: Option<Content>,
}

/// `expected`: the directory was in use before, so that an empty database is a lost one.
fn read_tables(disk: &dyn Disk, paths: &Paths, expected: bool) -> std::result::Result<Loaded, TablesError> {
    let area = disk.area(&paths.tables).map_err(TablesError::Io)?;
    if expected && area.len().map_err(TablesError::Io)? == 0 {
        return Err(TablesError::Damaged("the database is gone".into()));
    }
    let tables = Tables::open(area, true)?;
    let content = tables.load()?;
    if expected && content.is_none() {
        return Err(TablesError::Damaged("the database has lost its tables".into()));
    }
    Ok(Loaded { tables, content })
}

/// Records as they are put together from database and tail.
struct State {
    meta: Meta,
    records: BTreeMap<u64, Arc<Record>>,
    /// What the database still has to learn.
    dirty: BTreeMap<u64, Entry>,
}

impl State {
    fn forget(&mut self, seq: u64, spool: Option<SpoolId>) {
        self.records.remove(&seq);
        self.dirty.insert(seq, Entry::gone(seq, spool.into_iter().collect()));
    }

    fn replay(&mut self, tail: &dyn Area) -> std::io::Result<u64> {
        let mut bytes = vec![0; usize::try_from(tail.len()?).unwrap_or(0)];
        tail.read_at(0, &mut bytes)?;
        let (found, _garbage) = frames(&bytes);
        let mut replayed = 0;
        for (lsn, entry) in found {
            if lsn <= self.meta.lsn {
                continue;
            }
            self.meta.lsn = lsn;
            replayed += 1;
            match &entry {
                Entry::Is(record) => drop(self.records.insert(record.seq, Arc::clone(record))),
                Entry::Gone { seq, .. } => drop(self.records.remove(seq)),
            }
            self.dirty.insert(entry.seq(), entry);
        }
        Ok(replayed)
    }

    /// Sets aside every record whose content is not all there, and tells which files went with them.
    fn check_data(
        &mut self,
        spool: &Spool,
        lengths: &HashMap<SpoolId, u64>,
        content: bool,
        aside: &mut Aside<'_>,
    ) -> HashSet<SpoolId> {
        let mut taken = HashSet::new();
        for record in self.records.values().cloned().collect::<Vec<_>>() {
            let record = match without_fallback(&record, lengths) {
                Some(lean) => {
                    let lean = Arc::new(lean);
                    self.records.insert(lean.seq, Arc::clone(&lean));
                    self.dirty.insert(lean.seq, Entry::Is(Arc::clone(&lean)));
                    lean
                }
                None => record,
            };
            let files = record.op.files();
            let wrong = |(id, size): &(SpoolId, u64)| match lengths.get(id) {
                None => Some(format!("its data file {id} is missing")),
                Some(len) if len < size => Some(format!("its data file {id} has {len} of {size} bytes")),
                Some(_) if content => wrong_content(spool, *id, *size, &record.op),
                Some(_) => None,
            };
            let Some(why) = files.iter().find_map(wrong) else { continue };
            let text = serde_json::to_vec_pretty(&*record).unwrap_or_default();
            let (seq, key) = (record.seq, &record.key);
            aside.keep(&format!("record-{seq}.json"), &text, format!("record {seq} of '{key}'"), why.clone());
            for (id, _) in files.iter().filter(|(id, _)| lengths.contains_key(id)) {
                aside.take(&spool.path(*id), &why);
                taken.insert(*id);
            }
            self.forget(seq, None);
        }
        taken
    }

    fn index(&mut self) -> Index {
        let mut index = Index::default();
        for record in std::mem::take(&mut self.records).into_values() {
            index.put(record);
        }
        index
    }
}

/// A copy of a version that a bucket has does not need the local file that would have spared it a wait.
fn without_fallback(record: &Record, lengths: &HashMap<SpoolId, u64>) -> Option<Record> {
    let mut lean = record.clone();
    match &mut lean.op {
        Op::Put { data: Data::Copy { version: Some(_), fallback, .. }, size, .. } => {
            let lost = fallback.filter(|id| lengths.get(id).is_none_or(|len| *len < *size))?;
            log::warn!(
                "journal: record {} of '{}' lost its local copy {lost}; the bucket has the content",
                lean.seq,
                lean.key
            );
            *fallback = None;
        }
        _ => return None,
    }
    Some(lean)
}

/// Compares a file with the checksum that the record has of it, if it has one.
fn wrong_content(spool: &Spool, id: SpoolId, size: u64, op: &Op) -> Option<String> {
    let Op::Put { data, crc64, .. } = op else { return None };
    let (ranges, expected) = match data {
        Data::Patch { overlays, .. } => match overlays.iter().find(|overlay| overlay.file == Some(id)) {
            Some(overlay) => (overlay.ranges.clone(), overlay.crc64),
            None => (vec![(0, size)], overlays.last().and_then(|overlay| overlay.base.token.crc64)),
        },
        _ => (vec![(0, size)], *crc64),
    };
    let expected = expected?;
    let found = spool.open_file(id).map_err(|e| e.to_string());
    match found.and_then(|file| crc64_of(&file, &ranges).map_err(|e| e.to_string())) {
        Ok(found) if found == expected => None,
        Ok(_) => Some(format!("the content of its data file {id} did not survive the power cut")),
        Err(e) => Some(format!("its data file {id} cannot be read: {e}")),
    }
}

/// CRC-64/XZ of some ranges of a file, one after the other.
pub fn crc64_of(file: &File, ranges: &[(u64, u64)]) -> std::io::Result<u64> {
    const STEP: u64 = 1 << 20;
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Xz);
    let longest = ranges.iter().map(|(start, end)| end - start).max().unwrap_or(0);
    let mut buffer = vec![0; longest.min(STEP) as usize];
    for &(start, end) in ranges {
        let mut offset = start;
        while offset < end {
            let part = &mut buffer[..(end - offset).min(STEP) as usize];
            file.read_exact_at(part, offset)?;
            digest.update(part);
            offset += part.len() as u64;
        }
    }
    Ok(digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::disk::RealDisk;

    #[test]
    fn what_was_set_aside_long_ago_goes_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let today = time::OffsetDateTime::now_utc().date();
        let day = |age: i64| format!("{}T10-00-00Z", today - time::Duration::days(age));
        for name in [&day(31), &day(29), &day(0), &format!("{}-2", day(400)), "of an operator", "unknown-time"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("record-1.json"), "{}").unwrap();
        }
        prune_aside(&RealDisk, dir.path());
        let mut left = vec![day(0), day(29), "of an operator".into(), "unknown-time".into()];
        left.sort();
        assert_eq!(RealDisk.list(dir.path()).unwrap(), left);
    }
}
