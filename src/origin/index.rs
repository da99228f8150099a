//! What this mount keeps at the origin: which version, under which ETag, since when. Survives restarts.
//!
//! Losing a line costs an object that stays at the origin; believing a wrong one costs nothing, because the ETag of the answer decides. So most
//! is written without waiting for the disk, and a change every few seconds with it: a kill takes what came after that one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::object::{Key, Token};

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("kept");
/// A change this long after the last one that went to the disk goes there, with all before it.
const DURABLE_EVERY: Duration = Duration::from_secs(2);
/// Taken out of [`Index::older_than`] at a time.
const BATCH: usize = 64;

/// One object at the origin.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Kept {
    pub token: Token,
    /// As the origin gave it; without one only a checksum can prove the content.
    pub etag: Option<String>,
    /// Microseconds since 1970 when it was put there.
    pub micros: u64,
    /// The origin has acknowledged it.
    pub done: bool,
}

#[derive(Debug, Default)]
struct Memory {
    kept: BTreeMap<Key, Kept>,
    by_age: BTreeSet<(u64, Key)>,
    bytes: u64,
}

impl Memory {
    fn set(&mut self, key: &Key, kept: Kept) {
        self.remove(key);
        self.bytes += kept.token.size;
        self.by_age.insert((kept.micros, key.clone()));
        self.kept.insert(key.clone(), kept);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(old) = self.kept.remove(key) {
            self.bytes -= old.token.size;
            self.by_age.remove(&(old.micros, key.clone()));
        }
    }
}

#[derive(Debug)]
pub struct Index {
    database: Database,
    memory: Mutex<Memory>,
    /// When the last change went to the disk.
    durable: Mutex<Option<Instant>>,
}

impl Index {
    pub fn open(path: &Path) -> Result<Index, String> {
        let open = || -> Result<(Database, Memory), redb::Error> {
            let database = Database::create(path)?;
            let write = database.begin_write()?;
            write.open_table(TABLE)?;
            write.commit()?;
            let mut memory = Memory::default();
            let read = database.begin_read()?;
            for item in read.open_table(TABLE)?.iter()? {
                let (key, value) = item?;
                if let (Ok(key), Ok(kept)) = (Key::new(key.value()), serde_json::from_slice(value.value())) {
                    memory.set(&key, kept);
                }
            }
            Ok((database, memory))
        };
        let opened = open().or_else(|error| {
            log::warn!(
                "origin: {}: {error}; beginning a new one, objects of the old one stay at the origin",
                path.display()
            );
            std::fs::remove_file(path).map_err(redb::Error::Io)?;
            open()
        });
        let (database, memory) = opened.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Index { database, memory: Mutex::new(memory), durable: Mutex::new(None) })
    }

    pub fn get(&self, key: &Key) -> Option<Kept> {
        self.memory.lock().kept.get(key).cloned()
    }

    pub fn totals(&self) -> (u64, u64) {
        let memory = self.memory.lock();
        (memory.kept.len() as u64, memory.bytes)
    }

    pub fn older_than(&self, micros: u64) -> Vec<(Key, Kept)> {
        let memory = self.memory.lock();
        let old = memory.by_age.iter().take_while(|(at, _)| *at < micros).take(BATCH);
        old.filter_map(|(_, key)| Some((key.clone(), memory.kept.get(key)?.clone()))).collect()
    }

    pub fn set(&self, key: &Key, kept: &Kept) {
        self.memory.lock().set(key, kept.clone());
        // Numbers and texts only: nothing in it can fail.
        let value = serde_json::to_vec(kept).unwrap_or_default();
        self.write(|table| table.insert(key.as_str(), value.as_slice()).map(drop));
    }

    pub fn remove(&self, key: &Key) {
        self.memory.lock().remove(key);
        self.write(|table| table.remove(key.as_str()).map(drop));
    }

    fn write(&self, change: impl FnOnce(&mut redb::Table<'_, &str, &[u8]>) -> Result<(), redb::StorageError>) {
        let write = || -> Result<(), redb::Error> {
            let mut write = self.database.begin_write()?;
            let due = {
                let mut durable = self.durable.lock();
                let due = durable.is_none_or(|at| at.elapsed() >= DURABLE_EVERY);
                if due {
                    *durable = Some(Instant::now());
                }
                due
            };
            write.set_durability(if due { Durability::Immediate } else { Durability::None })?;
            {
                let mut table = write.open_table(TABLE)?;
                change(&mut table)?;
            }
            write.commit()?;
            Ok(())
        };
        if let Err(error) = write() {
            log::warn!("origin: the index could not be written: {error}");
        }
    }
}
