//! Every unretired record in memory: by number, and by key for names and prefixes.
//!
//! Answers all questions about records; the disk is only asked at start. A record is replaced as a whole, so whoever holds an
//! `Arc` keeps looking at the moment it was taken. Plain data without a lock of its own; the counts are kept while records
//! come and go, because they are asked for every second and there may be a hundred thousand records.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::SystemTime;

use super::records::{Record, SpoolId};
use crate::object::Key;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub records: u64,
    pub unsent: u64,
    pub unverified: u64,
    pub unverified_on: [u64; 2],
    pub ambiguous: u64,
}

impl Counts {
    fn change(&mut self, record: &Record, step: fn(&mut u64)) {
        step(&mut self.records);
        if record.is_unsent() {
            step(&mut self.unsent);
        }
        if !record.is_verified() {
            step(&mut self.unverified);
        }
        for (verified, count) in record.verified.iter().zip(&mut self.unverified_on) {
            if !verified {
                step(count);
            }
        }
        if record.ambiguous != [false; 2] {
            step(&mut self.ambiguous);
        }
    }
}

#[derive(Debug, Default)]
pub struct Index {
    by_seq: BTreeMap<u64, Arc<Record>>,
    /// Numbers in rising order, never an empty list.
    by_key: BTreeMap<Key, Vec<u64>>,
    /// How many records name a spool file.
    users: HashMap<SpoolId, u32>,
    /// Shown already, and perhaps not to be kept: the disk has not answered yet.
    unanswered: HashSet<u64>,
    counts: Counts,
}

impl Index {
    /// Adds a record or replaces the one with its number.
    pub fn put(&mut self, record: Arc<Record>) {
        self.counts.change(&record, |n| *n += 1);
        if let Some(old) = self.by_seq.insert(record.seq, Arc::clone(&record)) {
            self.counts.change(&old, |n| *n -= 1);
            return;
        }
        for (id, _) in record.op.files() {
            *self.users.entry(id).or_default() += 1;
        }
        let seqs = self.by_key.entry(record.key.clone()).or_default();
        let place = seqs.partition_point(|seq| *seq < record.seq);
        seqs.insert(place, record.seq);
    }

    /// Adds a record that the disk has not got yet.
    pub fn announce(&mut self, record: Arc<Record>) {
        self.unanswered.insert(record.seq);
        self.put(record);
    }

    /// The disk has it.
    pub fn answered(&mut self, seq: u64) {
        self.unanswered.remove(&seq);
    }

    pub fn is_answered(&self, seq: u64) -> bool {
        !self.unanswered.contains(&seq)
    }

    /// Forgets a record; also tells the spool files that nobody needs any more.
    pub fn remove(&mut self, seq: u64) -> Option<(Arc<Record>, Vec<SpoolId>)> {
        let record = self.by_seq.remove(&seq)?;
        self.unanswered.remove(&seq);
        self.counts.change(&record, |n| *n -= 1);
        if let Some(seqs) = self.by_key.get_mut(&record.key) {
            seqs.retain(|other| *other != seq);
            if seqs.is_empty() {
                self.by_key.remove(&record.key);
            }
        }
        let mut idle = Vec::new();
        for (id, _) in record.op.files() {
            let Some(users) = self.users.get_mut(&id) else { continue };
            *users -= 1;
            if *users == 0 {
                self.users.remove(&id);
                idle.push(id);
            }
        }
        Some((record, idle))
    }

    pub fn get(&self, seq: u64) -> Option<Arc<Record>> {
        self.by_seq.get(&seq).cloned()
    }

    fn newest(&self, seqs: &[u64]) -> Option<Arc<Record>> {
        seqs.last().and_then(|seq| self.get(*seq))
    }

    pub fn latest(&self, key: &Key) -> Option<Arc<Record>> {
        self.by_key.get(key).and_then(|seqs| self.newest(seqs))
    }

    /// All records of a key, oldest first.
    pub fn of(&self, key: &Key) -> Vec<Arc<Record>> {
        self.by_key.get(key).map_or_else(Vec::new, |seqs| seqs.iter().filter_map(|seq| self.get(*seq)).collect())
    }

    /// The latest record of each key that begins with `prefix`, sorted by key.
    pub fn under(&self, prefix: &str) -> Vec<Arc<Record>> {
        self.by_key
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(prefix))
            .filter_map(|(_, seqs)| self.newest(seqs))
            .collect()
    }

    /// Oldest first.
    pub fn all(&self) -> Vec<Arc<Record>> {
        self.by_seq.values().cloned().collect()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub fn oldest(&self) -> Option<SystemTime> {
        self.by_seq.first_key_value().map(|(_, record)| record.created)
    }

    pub fn names_spool(&self, id: SpoolId) -> bool {
        self.users.contains_key(&id)
    }

    pub fn last_seq(&self) -> Option<u64> {
        self.by_seq.last_key_value().map(|(seq, _)| *seq)
    }

    /// The highest spool id any record names.
    pub fn last_spool(&self) -> u64 {
        self.users.keys().map(|id| id.0).max().unwrap_or(0)
    }
}
