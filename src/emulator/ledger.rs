//! `--data`: the emulator's memory on disk, an append-only list of records, one JSON text a line.
//!
//! Each change is one `write` call, so it survives `kill -9` at once (the page cache belongs to the kernel) without an fsync that
//! would make every PUT as slow as the disk. A power cut may lose the last seconds: this is a test tool, not the journal of
//! the mount. At a start the list is replayed and written anew without what is gone; an unfinished last line is dropped. A body is
//! complete in its file before a record names it, and its file goes only after the record that lets go of it. When a record
//! cannot be written (disk full), nothing more is acknowledged.
//!
//! Owns: the file and the form of its records. Owns not: what they mean (`world`), the bodies (`blob`).

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::blob::{Blob, BodyFile, Piece, Shelter};
use super::site::{Content, Version, Versioning};
use super::world::upload::{Part, Upload};
use super::world::{Replication, World};
use crate::cos::xml::ReplicationConfiguration;
use crate::object::Site;

/// First line of the file; another number is another form of records.
const HEADER: &str = "cosfs-ha emulator ledger 1";

#[derive(Debug, Serialize, Deserialize)]
pub struct StoredContent {
    pieces: Vec<Piece>,
    etag: String,
    crc64: u64,
    headers: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Record {
    Put {
        site: Site,
        key: String,
        id: Option<u64>,
        micros: u64,
        arrival: u64,
        replica: bool,
        content: Option<StoredContent>,
        /// On its way to the other region.
        queued: bool,
    },
    Remove {
        site: Site,
        key: String,
        id: Option<u64>,
    },
    /// No longer on its way from this site.
    Dropped {
        site: Site,
        key: String,
        id: Option<u64>,
    },
    Versioning {
        site: Site,
        to: Versioning,
    },
    Replication {
        site: Site,
        config: Option<ReplicationConfiguration>,
        created: u64,
    },
    Lifecycle {
        site: Site,
        xml: Option<String>,
    },
    Configuration {
        site: Site,
        name: String,
        text: Option<String>,
    },
    Initiate {
        site: Site,
        key: String,
        upload: String,
        started: u64,
        headers: BTreeMap<String, String>,
        exclusive: bool,
    },
    Part {
        site: Site,
        key: String,
        upload: String,
        number: u32,
        pieces: Vec<Piece>,
        etag: String,
        crc64: u64,
        micros: u64,
    },
    /// Completed or aborted.
    End {
        site: Site,
        key: String,
        upload: String,
    },
}

impl Record {
    pub fn put(site: Site, key: &str, version: &Version, queued: bool) -> Record {
        let content = version.content.as_ref().map(|c| StoredContent {
            pieces: c.blob.pieces().unwrap_or_default(),
            etag: c.etag.clone(),
            crc64: c.crc64,
            headers: c.headers.clone(),
        });
        let &Version { id, micros, arrival, replica, .. } = version;
        Record::Put { site, key: key.into(), id, micros, arrival, replica, content, queued }
    }

    pub fn part(site: Site, key: &str, upload: &str, number: u32, part: &Part) -> Record {
        let pieces = part.blob.pieces().unwrap_or_default();
        let (etag, crc64, micros) = (part.etag.clone(), part.crc64, part.micros);
        Record::Part { site, key: key.into(), upload: upload.into(), number, pieces, etag, crc64, micros }
    }
}

#[derive(Debug)]
pub struct Ledger {
    file: Mutex<File>,
    /// A record could not be written: memory and disk differ from here on.
    failed: AtomicBool,
}

impl Ledger {
    fn new(file: File) -> Ledger {
        Ledger { file: Mutex::new(file), failed: AtomicBool::new(false) }
    }

    /// After a failure nothing is written any more: a torn line is read over only at the end of the list.
    pub fn append(&self, record: &Record) {
        let line = serde_json::to_vec(record).map(|mut line| {
            line.push(b'\n');
            line
        });
        let mut file = self.file.lock();
        if self.has_failed() {
            return;
        }
        if let Err(error) = line.map_err(io::Error::from).and_then(|line| file.write_all(&line)) {
            log::error!("ledger: {error}; changes are refused from now on");
            self.failed.store(true, Ordering::SeqCst);
        }
    }

    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }
}

/// A `--data` folder that is being opened: the records of the last run, and where the new ones go.
pub struct Opened {
    records: Vec<Record>,
    path: PathBuf,
}

/// Why a `--data` folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: not a folder of this version of the emulator", path = .path.display())]
    Foreign { path: PathBuf },
    #[error("{path}: line {line} cannot be read: {reason}", path = .path.display())]
    Damaged { path: PathBuf, line: usize, reason: String },
}

impl Opened {
    pub fn read(dir: &Path) -> Result<Opened, OpenError> {
        let path = dir.join("ledger");
        let fail = |source| OpenError::Io { path: path.clone(), source };
        std::fs::create_dir_all(dir).map_err(fail)?;
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Opened { records: Vec::new(), path }),
            Err(error) => return Err(fail(error)),
        };
        let mut lines = BufReader::new(file).split(b'\n').enumerate().peekable();
        match lines.next() {
            Some((_, Ok(first))) if first == HEADER.as_bytes() => {}
            _ => return Err(OpenError::Foreign { path }),
        }
        let mut records = Vec::new();
        while let Some((index, line)) = lines.next() {
            match serde_json::from_slice(&line.map_err(fail)?) {
                Ok(record) => records.push(record),
                Err(_) if lines.peek().is_none() => log::warn!("{}: unfinished last record dropped", path.display()),
                Err(error) => {
                    return Err(OpenError::Damaged { path, line: index + 1, reason: error.to_string() });
                }
            }
        }
        Ok(Opened { records, path })
    }

    pub fn is_new(&self) -> bool {
        self.records.is_empty()
    }

    /// The ledger for the new run; written beside the old one until it is finished.
    pub fn ledger(&self) -> Result<Ledger, OpenError> {
        let path = self.path.with_extension("new");
        let fail = |source| OpenError::Io { path: path.clone(), source };
        let mut file = File::create(&path).map_err(fail)?;
        writeln!(file, "{HEADER}").map_err(fail)?;
        Ok(Ledger::new(file))
    }

    /// Puts the records into an empty world and replaces the old list by a short one.
    pub fn restore(self, world: &World, shelter: &Arc<Shelter>) -> Result<(), OpenError> {
        let Opened { records, path } = self;
        // Records of different buckets may stand in another order than things happened: a body that one record lets go of may be in
        // the next one again, as a replica or a copy. What is named by none in the end is swept.
        shelter.keep_all(true);
        let mut bodies: HashMap<u64, Weak<BodyFile>> = HashMap::new();
        let mut body = |id: u64| -> Arc<BodyFile> {
            let slot = bodies.entry(id).or_default();
            slot.upgrade().unwrap_or_else(|| {
                let body = shelter.adopt(id);
                *slot = Arc::downgrade(&body);
                body
            })
        };
        // Sequence, so that the backlog keeps its order, by what identifies a version on its way.
        let mut backlog: HashMap<(Site, String, Option<u64>), usize> = HashMap::new();
        for (index, record) in records.into_iter().enumerate() {
            match record {
                Record::Put { site, key, id, micros, arrival, replica, content, queued } => {
                    let content = content.map(|c| {
                        let blob = Blob::from_pieces(&c.pieces, &mut body);
                        Arc::new(Content { blob, etag: c.etag, crc64: c.crc64, headers: c.headers })
                    });
                    world.clock.pass(micros);
                    if queued {
                        backlog.insert((site, key.clone(), id), index);
                    }
                    if replica {
                        backlog.remove(&(site.other(), key.clone(), id));
                    }
                    let version = Version { id, micros, arrival, replica, content };
                    world.bucket(site).write().shelf.restore(&key, version);
                }
                Record::Remove { site, key, id } => {
                    world.bucket(site).write().shelf.remove(&key, id);
                }
                Record::Dropped { site, key, id } => {
                    backlog.remove(&(site, key, id));
                }
                Record::Versioning { site, to } => world.bucket(site).write().shelf.set_versioning(to),
                Record::Replication { site, config, created } => {
                    world.bucket(site).write().replication = config.map(|config| Replication { config, created });
                }
                Record::Lifecycle { site, xml } => world.bucket(site).write().lifecycle = xml,
                Record::Configuration { site, name, text } => {
                    let configurations = &mut world.bucket(site).write().configurations;
                    match text {
                        Some(text) => drop(configurations.insert(name, text)),
                        None => drop(configurations.remove(&name)),
                    }
                }
                Record::Initiate { site, key, upload, started, headers, exclusive } => {
                    world.clock.pass(started);
                    let new = Upload { started, headers, exclusive, parts: BTreeMap::new() };
                    world.bucket(site).write().uploads.insert((key, upload), new);
                }
                Record::Part { site, key, upload, number, pieces, etag, crc64, micros } => {
                    let blob = Blob::from_pieces(&pieces, &mut body);
                    if let Ok(upload) = world.bucket(site).write().upload(&key, &upload) {
                        upload.parts.insert(number, Part { blob, etag, crc64, micros });
                    }
                }
                Record::End { site, key, upload } => {
                    world.bucket(site).write().uploads.remove(&(key, upload));
                }
            }
        }
        let mut waiting: Vec<_> = backlog.iter().map(|(job, index)| (*index, job.clone())).collect();
        waiting.sort();
        for (_, (site, key, id)) in waiting {
            let found = world.bucket(site).read().shelf.find(&key, id).cloned();
            if let Some(version) = found {
                world.restore_job(site, &key, version);
            }
        }
        shelter.keep_all(false);
        let known = |id: u64| bodies.get(&id).is_some_and(|body| body.strong_count() > 0);
        let swept = shelter.sweep(known).map_err(|source| OpenError::Io { path: path.clone(), source })?;
        if swept > 0 {
            log::info!("{swept} bodies of unfinished uploads removed");
        }
        write_anew(world, &backlog.into_keys().collect())
            .and_then(|()| std::fs::rename(path.with_extension("new"), &path))
            .map_err(|source| OpenError::Io { path, source })
    }
}

fn write_anew(world: &World, backlog: &std::collections::HashSet<(Site, String, Option<u64>)>) -> io::Result<()> {
    for site in Site::ALL {
        let state = world.bucket(site).read();
        world.record(Record::Versioning { site, to: state.shelf.versioning() });
        if let Some(Replication { config, created }) = &state.replication {
            world.record(Record::Replication { site, config: Some(config.clone()), created: *created });
        }
        if let Some(xml) = &state.lifecycle {
            world.record(Record::Lifecycle { site, xml: Some(xml.clone()) });
        }
        for (name, text) in &state.configurations {
            world.record(Record::Configuration { site, name: name.clone(), text: Some(text.clone()) });
        }
        for ((key, id), upload) in &state.uploads {
            world.record(Record::Initiate {
                site,
                key: key.clone(),
                upload: id.clone(),
                started: upload.started,
                headers: upload.headers.clone(),
                exclusive: upload.exclusive,
            });
            for (number, part) in &upload.parts {
                world.record(Record::part(site, key, id, *number, part));
            }
        }
    }
    // In the order of commit over both sites, so that the backlog keeps its order and no replica precedes its original.
    let mut versions = Vec::new();
    for site in Site::ALL {
        let state = world.bucket(site).read();
        versions.extend(state.shelf.all().map(|(key, v)| (v.micros, v.replica, site, key.clone(), Arc::clone(v))));
    }
    versions.sort_by_key(|(micros, replica, ..)| (*micros, *replica));
    for (_, _, site, key, version) in versions {
        let queued = backlog.contains(&(site, key.clone(), version.id));
        world.record(Record::put(site, &key, &version, queued));
    }
    match world.has_failed() {
        true => Err(io::Error::other("the list could not be written anew")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removal(n: u32) -> Record {
        Record::Remove { site: Site::A, key: format!("k{n}"), id: None }
    }

    fn read(dir: &Path) -> Result<usize, OpenError> {
        Opened::read(dir).map(|opened| opened.records.len())
    }

    #[test]
    fn a_list_that_was_torn_anywhere_is_read_up_to_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ledger");
        let mut whole = format!("{HEADER}\n").into_bytes();
        let mut complete = Vec::new();
        for n in 0..3 {
            serde_json::to_writer(&mut whole, &removal(n)).expect("memory");
            complete.push(whole.len());
            whole.push(b'\n');
        }
        for end in HEADER.len() + 1..=whole.len() {
            std::fs::write(&path, &whole[..end]).expect("room");
            // A record that lacks only its line break is complete.
            let expected = complete.iter().filter(|at| **at <= end).count();
            assert_eq!(read(dir.path()).expect("readable"), expected, "torn at {end}");
        }
        whole[HEADER.len() + 5] = b'#';
        std::fs::write(&path, &whole).expect("room");
        assert!(matches!(read(dir.path()), Err(OpenError::Damaged { line: 2, .. })), "in the middle it is damage");
    }

    #[test]
    fn after_a_record_that_could_not_be_written_none_is() {
        let full = File::options().write(true).open("/dev/full").expect("a full disk");
        let ledger = Ledger::new(full);
        assert!(!ledger.has_failed());
        ledger.append(&removal(1));
        assert!(ledger.has_failed());
        let dir = tempfile::tempdir().expect("a folder");
        *ledger.file.lock() = File::create(dir.path().join("ledger")).expect("room");
        ledger.append(&removal(2));
        assert_eq!(std::fs::read(dir.path().join("ledger")).expect("a file"), b"", "nothing after a gap");
    }
}
