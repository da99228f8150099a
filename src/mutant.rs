//! Defences that can be taken away, one at a time, to see whether anybody notices.
//!
//! A simulation that finds nothing may be blind. So each defence has a switch here, and `sim --mutants` shows that without it the
//! checkers cry out. Without the feature `mutants` every question here is `false` at compile time.

/// What is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mutant {
    /// Records are kept in memory only.
    Journal = 1,
    /// What was seen of a key is forgotten once its write is settled.
    HighWaterMark,
    /// After a change of master nothing is sent again.
    ReUpload,
    /// What is sent again overwrites whatever is there.
    Guard,
    /// The core is told that nothing is on its way.
    DrainedFailback,
    /// Writes whose answer was lost are not watched.
    ZombieWatch,
    /// "Not found" is believed of any bucket.
    NotFoundRule,
    /// Content is asked for by key, not by version.
    PinnedReads,
    /// Older writes that still travel between the buckets are not waited for.
    Overtaken,
    /// All of it: nothing is probed, hedged, compared or verified, A is the master whatever happens. Not in [`Mutant::ALL`]: the healthy path
    /// is measured against it (`tests/bench/healthy.rs`).
    Failover,
}

impl Mutant {
    pub const ALL: [Mutant; 9] = [
        Mutant::Journal,
        Mutant::HighWaterMark,
        Mutant::ReUpload,
        Mutant::Guard,
        Mutant::DrainedFailback,
        Mutant::ZombieWatch,
        Mutant::NotFoundRule,
        Mutant::PinnedReads,
        Mutant::Overtaken,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Mutant::Journal => "journal",
            Mutant::HighWaterMark => "high-water-mark",
            Mutant::ReUpload => "re-upload",
            Mutant::Guard => "guard",
            Mutant::DrainedFailback => "drained-failback",
            Mutant::ZombieWatch => "zombie-watch",
            Mutant::NotFoundRule => "not-found-rule",
            Mutant::PinnedReads => "pinned-reads",
            Mutant::Overtaken => "overtaken",
            Mutant::Failover => "failover",
        }
    }
}

/// Can anything be taken away in this build?
pub const POSSIBLE: bool = cfg!(feature = "mutants");

#[cfg(feature = "mutants")]
static CHOSEN: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// For the whole process, from now on.
#[cfg(feature = "mutants")]
pub fn choose(mutant: Option<Mutant>) {
    CHOSEN.store(mutant.map_or(0, |m| m as u8), std::sync::atomic::Ordering::Relaxed);
}

/// A mount is told by its environment; only the benchmark of the healthy path does.
pub fn choose_by_environment() {
    #[cfg(feature = "mutants")]
    if std::env::var("COSFS_HA_WITHOUT").is_ok_and(|name| name == Mutant::Failover.name()) {
        choose(Some(Mutant::Failover));
    }
}

/// Is this defence taken away?
#[cfg(feature = "mutants")]
#[inline]
pub(crate) fn lacks(defence: Mutant) -> bool {
    CHOSEN.load(std::sync::atomic::Ordering::Relaxed) == defence as u8
}

/// Nothing is ever taken away in this build.
#[cfg(not(feature = "mutants"))]
#[inline]
pub(crate) const fn lacks(_: Mutant) -> bool {
    false
}
