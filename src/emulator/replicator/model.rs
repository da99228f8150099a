//! The rules of replication told a second time: what each side holds, and what is on its way. Shares no code with the emulator.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::emulator::site::Current;

/// The lag that a start brings with it.
pub(super) const START_LAG_MS: u64 = 40;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Rules {
    None,
    All,
    WithoutMarkers,
    Disabled,
    /// Only `a/`.
    Prefix,
    /// `a/` on, `b/` off: two rules.
    Two,
}

/// How a story begins.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Start {
    /// Versioning and rules on both sides.
    Configured,
    /// Two new buckets.
    Unconfigured,
    /// As the first, on disk, so that it can be killed and started again.
    OnDisk,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Thing {
    pub(super) crc64: u64,
    pub(super) size: usize,
    pub(super) etag: String,
    /// `x-cos-meta-n` and `content-type`.
    pub(super) headers: [String; 2],
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Held {
    pub(super) id: String,
    /// In the order of commit, whichever side.
    pub(super) moment: u64,
    /// In the order in which things reached this side.
    pub(super) arrival: u64,
    pub(super) replica: bool,
    /// `None`: a delete marker.
    pub(super) thing: Option<Thing>,
}

#[derive(Clone, Debug)]
pub(super) struct Travelling {
    pub(super) key: &'static str,
    pub(super) held: Held,
    pub(super) since: Instant,
}

#[derive(Clone, Debug)]
pub(super) struct Uploading {
    pub(super) key: &'static str,
    pub(super) id: String,
    pub(super) part_etag: String,
    pub(super) last_etag: Option<String>,
    pub(super) thing: Thing,
}

#[derive(Debug)]
pub(super) struct Side {
    pub(super) versioning: Option<bool>,
    pub(super) rules: Rules,
    pub(super) keys: BTreeMap<&'static str, Vec<Held>>,
    pub(super) arrivals: u64,
    pub(super) outgoing: Vec<Travelling>,
    pub(super) uploads: Vec<Uploading>,
    pub(super) lag: u64,
    pub(super) stalled: bool,
    pub(super) reorder: bool,
    pub(super) lose_markers: bool,
    pub(super) outage: bool,
}

impl Side {
    pub(super) fn new(start: Start) -> Side {
        let configured = start != Start::Unconfigured;
        Side {
            versioning: configured.then_some(true),
            rules: if configured { Rules::All } else { Rules::None },
            keys: BTreeMap::new(),
            arrivals: 0,
            outgoing: Vec::new(),
            uploads: Vec::new(),
            lag: START_LAG_MS,
            stalled: false,
            reorder: false,
            lose_markers: false,
            outage: false,
        }
    }

    pub(super) fn enabled(&self) -> bool {
        self.versioning == Some(true)
    }

    pub(super) fn rule_for(&self, key: &str) -> bool {
        match self.rules {
            Rules::None | Rules::Disabled => false,
            Rules::All | Rules::WithoutMarkers => true,
            Rules::Prefix | Rules::Two => key.starts_with("a/"),
        }
    }

    pub(super) fn newest_first(&self, key: &str, current: Current) -> Vec<Held> {
        let mut all = self.keys.get(key).cloned().unwrap_or_default();
        all.sort_by_key(|held| match current {
            Current::NewestVersion => (held.moment, held.arrival),
            Current::LastArrival => (held.arrival, held.moment),
        });
        all.reverse();
        all
    }

    pub(super) fn take(&mut self, key: &'static str, id: &str) -> Option<Held> {
        let all = self.keys.get_mut(key)?;
        let at = all.iter().position(|held| held.id == id)?;
        let taken = all.remove(at);
        if all.is_empty() {
            self.keys.remove(key);
        }
        Some(taken)
    }

    pub(super) fn keep(&mut self, key: &'static str, mut held: Held) {
        self.arrivals += 1;
        held.arrival = self.arrivals;
        self.keys.entry(key).or_default().push(held);
    }

    /// A write of a client. `id`: as the emulator said, where the bucket has versions.
    pub(super) fn write(&mut self, key: &'static str, id: Option<String>, moment: u64, thing: Option<Thing>) {
        if !self.enabled() {
            self.take(key, "null");
        }
        let marker = thing.is_none();
        let id = id.unwrap_or_else(|| "null".into());
        let held = Held { id, moment, arrival: 0, replica: false, thing };
        if self.enabled() && self.rule_for(key) && !(marker && self.rules == Rules::WithoutMarkers) {
            self.outgoing.push(Travelling { key, held: held.clone(), since: Instant::now() });
        }
        self.keep(key, held);
    }
}
