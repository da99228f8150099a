//! Is the pair of buckets able to keep the promises of the mount?
//!
//! Failover is decided in seconds, but whether it *works* was decided months before: by a replication rule that leaves deletions out, a
//! lifecycle rule that exists on one side only, objects from before the rule. None of that shows while all is well. So every precondition is
//! a check with a name, and every result is a [`Finding`]: what is, what follows from it on the day of the outage, and the command that
//! mends it.
//!
//! ```text
//! facts      asks both buckets, side by side, in bounded time
//! rules      pure: facts to findings; `mount` runs this part at its start
//! host       this computer: clock, FUSE, folders
//! canary     writes a small object in each bucket and watches it arrive, change and go in the other one
//! beside     two versions through the CDN, a file to the origin and back
//! coverage   every key of A against every key of B, streamed
//! reconcile  brings both buckets to the same content
//! ```
//!
//! Owns: the checks, their words and their weight. Owns not: settings (`provision` makes them), what the mount does about a finding
//! (`cli/mount/preflight`). Checked by `tests/cli`: each precondition is broken by itself, named, mended by the printed command.

use serde::Serialize;

use crate::object::Site;

pub mod beside;
pub mod canary;
pub mod coverage;
pub mod facts;
pub mod host;
pub mod reconcile;
pub mod rules;

/// How bad it is; the exit code follows the worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Ok,
    /// Could not be looked at.
    Unknown,
    /// The mount works, but something will go wrong or cost money in time.
    Warning,
    /// A promise of the mount does not hold.
    Error,
    /// The mount refuses to start.
    Fatal,
}

impl Severity {
    pub fn word(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Unknown => "unknown",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }
}

/// What a check is about; the names are in docs/operations.md and do not change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The bucket answers, exists, and accepts the key.
    Access,
    /// This host's clock against the bucket's.
    Clock,
    /// The buckets lie apart.
    Regions,
    Versioning,
    /// A rule to the other bucket.
    Replication,
    /// It carries deletions, too.
    DeleteMarkers,
    /// Noncurrent versions and unfinished uploads go in time.
    Lifecycle,
    /// No rule removes files.
    Expiration,
    /// No origin-pull that stores what it fetches.
    OriginPull,
    Encryption,
    /// FUSE on this host.
    Fuse,
    /// The folder of the journal.
    Journal,
    Cache,
    /// What the mount has to be allowed.
    Rights,
    /// Version ids tell the time of the write.
    VersionIds,
    /// A write arrives in the other bucket, and a deletion follows it.
    Arrival,
    /// The CDN delivers the versions it is asked for.
    Cdn,
    /// The external origin keeps what it is given.
    Origin,
    /// Both buckets hold the same.
    Coverage,
}

impl Check {
    pub fn name(self) -> &'static str {
        match self {
            Check::Access => "access",
            Check::Clock => "clock",
            Check::Regions => "regions",
            Check::Versioning => "versioning",
            Check::Replication => "replication",
            Check::DeleteMarkers => "delete_markers",
            Check::Lifecycle => "lifecycle",
            Check::Expiration => "expiration",
            Check::OriginPull => "origin_pull",
            Check::Encryption => "encryption",
            Check::Fuse => "fuse",
            Check::Journal => "journal",
            Check::Cache => "cache",
            Check::Rights => "rights",
            Check::VersionIds => "version_ids",
            Check::Arrival => "arrival",
            Check::Cdn => "cdn",
            Check::Origin => "origin",
            Check::Coverage => "coverage",
        }
    }
}

/// The result of one check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    pub check: Check,
    /// `None`: about both, or about this host.
    pub site: Option<Site>,
    pub severity: Severity,
    pub state: String,
    /// What follows from it; empty if all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub consequence: String,
    /// The command, or the deed, that mends it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cure: String,
}

impl Finding {
    pub fn ok(check: Check, site: Option<Site>, state: impl Into<String>) -> Finding {
        let (consequence, cure) = (String::new(), String::new());
        Finding { check, site, severity: Severity::Ok, state: state.into(), consequence, cure }
    }

    pub fn bad(check: Check, site: Option<Site>, severity: Severity, state: impl Into<String>) -> Finding {
        Finding { severity, ..Finding::ok(check, site, state) }
    }

    #[must_use]
    pub fn then(mut self, consequence: impl Into<String>) -> Finding {
        self.consequence = consequence.into();
        self
    }

    #[must_use]
    pub fn mend(mut self, cure: impl Into<String>) -> Finding {
        self.cure = cure.into();
        self
    }

    /// As the log of a mount says it: one line.
    pub fn line(&self) -> String {
        let mut text = self.state.clone();
        if !self.consequence.is_empty() {
            text += &format!(": {}", self.consequence);
        }
        if !self.cure.is_empty() {
            text += &format!(". Mend it: {}", self.cure);
        }
        text
    }
}

/// The worst of them; `Ok` if there are none.
pub fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
}
