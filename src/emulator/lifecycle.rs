//! Lifecycle: what the rules of a bucket remove or move by the calendar.
//!
//! COS carries the rules out once a day and says nothing of the order; here they run when somebody puts the calendar forward
//! (`PUT /v1/clock`) and every hour. Nothing of it is replicated, as documented: each bucket needs rules of its own.
//!
//! Pure: rules, versions and a moment in, a list of steps out ([`plan`]). `world` carries them out.

use serde::{Deserialize, Serialize};

use super::site::{Shelf, TAGS, Version};
use crate::cos::sign::parse_query;
use crate::cos::xml::Document;

const DAY_MICROS: u64 = 24 * 3600 * 1_000_000;
/// Limits of the documentation.
const RULES_MAX: usize = 1000;
const ID_CHARS_MAX: usize = 255;
const DAYS_MAX: u64 = 3650;

#[derive(Debug, Serialize, Deserialize)]
pub struct Lifecycle {
    #[serde(rename = "Rule", default)]
    pub rules: Vec<Rule>,
}

impl Document for Lifecycle {
    const ROOT: &'static str = "LifecycleConfiguration";
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Rule {
    #[serde(rename = "ID", default)]
    id: String,
    status: String,
    #[serde(default)]
    filter: Filter,
    expiration: Option<Expiration>,
    transition: Option<Transition>,
    noncurrent_version_expiration: Option<NoncurrentDays>,
    noncurrent_version_transition: Option<NoncurrentDays>,
    abort_incomplete_multipart_upload: Option<Abort>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Filter {
    #[serde(default)]
    prefix: String,
    tag: Option<Tag>,
    and: Option<And>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct And {
    #[serde(rename = "Prefix", default)]
    prefix: String,
    #[serde(rename = "Tag", default)]
    tags: Vec<Tag>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Expiration {
    days: Option<u64>,
    expired_object_delete_marker: Option<bool>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Transition {
    days: u64,
    storage_class: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NoncurrentDays {
    noncurrent_days: u64,
    storage_class: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Abort {
    days_after_initiation: u64,
}

/// One thing to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The current version: a marker over it, or gone where versioning never was.
    Expire {
        key: String,
    },
    /// One version, for good.
    Remove {
        key: String,
        id: Option<u64>,
    },
    Transition {
        key: String,
        id: Option<u64>,
        class: String,
    },
}

impl Lifecycle {
    /// What COS refuses; the reason.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.rules.is_empty() || self.rules.len() > RULES_MAX {
            return Err("A configuration has 1 to 1000 rules.");
        }
        for rule in &self.rules {
            if rule.id.chars().count() > ID_CHARS_MAX {
                return Err("The ID of a rule has up to 255 characters.");
            }
            if !matches!(rule.status.as_str(), "Enabled" | "Disabled") {
                return Err("Status must be Enabled or Disabled.");
            }
            let days = [
                rule.expiration.as_ref().and_then(|e| e.days),
                rule.noncurrent_version_expiration.as_ref().map(|n| n.noncurrent_days),
                rule.abort_incomplete_multipart_upload.as_ref().map(|a| a.days_after_initiation),
            ];
            if days.into_iter().flatten().any(|days| !(1..=DAYS_MAX).contains(&days)) {
                return Err("Days must be between 1 and 3650.");
            }
        }
        Ok(())
    }

    fn active(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(|rule| rule.status == "Enabled")
    }

    /// Whether an upload begun at a moment is to be aborted.
    pub fn aborts(&self, key: &str, started: u64, now: u64) -> bool {
        self.active().any(|rule| {
            let days = rule.abort_incomplete_multipart_upload.as_ref().map(|a| a.days_after_initiation);
            rule.has_prefix(key) && days.is_some_and(|days| old(started, days, now))
        })
    }
}

fn old(since: u64, days: u64, now: u64) -> bool {
    now >= since.saturating_add(days.saturating_mul(DAY_MICROS))
}

impl Rule {
    fn has_prefix(&self, key: &str) -> bool {
        let and = self.filter.and.as_ref().map_or("", |and| and.prefix.as_str());
        key.starts_with(&self.filter.prefix) && key.starts_with(and)
    }

    fn covers(&self, key: &str, version: &Version) -> bool {
        let Some(content) = &version.content else { return self.has_prefix(key) };
        if content.is_appendable() {
            return false;
        }
        let and = self.filter.and.iter().flat_map(|and| &and.tags);
        let mut wanted = self.filter.tag.iter().chain(and).peekable();
        if wanted.peek().is_none() {
            return self.has_prefix(key);
        }
        let tags = content.headers.get(TAGS).and_then(|text| parse_query(text)).unwrap_or_default();
        let has = |tag: &Tag| tags.iter().any(|(k, v)| *k == tag.key && *v == tag.value);
        self.has_prefix(key) && wanted.all(has)
    }
}

/// What is due at a moment. `all`: every version, oldest first within a key.
pub fn plan(rules: &Lifecycle, shelf: &Shelf, now: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    for (key, versions) in shelf.by_key() {
        // Several rules may want the same of one key.
        let mut due = Vec::new();
        for rule in rules.active() {
            plan_key(rule, key, versions, now, &mut due);
        }
        steps.append(&mut due);
    }
    steps
}

fn plan_key(rule: &Rule, key: &str, versions: &[std::sync::Arc<Version>], now: u64, steps: &mut Vec<Step>) {
    let Some((current, noncurrent)) = versions.split_last() else { return };
    let mut add = |step: Step| {
        if !steps.contains(&step) {
            steps.push(step);
        }
    };
    if rule.covers(key, current) {
        if let Some(expiration) = &rule.expiration {
            let expired = expiration.days.is_some_and(|days| old(current.micros, days, now));
            if expired && !current.is_marker() {
                add(Step::Expire { key: key.to_owned() });
            }
            if expiration.expired_object_delete_marker == Some(true) && current.is_marker() && noncurrent.is_empty() {
                add(Step::Remove { key: key.to_owned(), id: current.id });
            }
        }
        if let Some(Transition { days, storage_class }) = &rule.transition
            && old(current.micros, *days, now)
            && current.content.as_ref().is_some_and(|c| c.class() != storage_class)
        {
            add(Step::Transition { key: key.to_owned(), id: current.id, class: storage_class.clone() });
        }
    }
    for (index, version) in noncurrent.iter().enumerate().filter(|(_, v)| rule.covers(key, v)) {
        // A version's days count from the moment in which its successor came.
        let since = versions[index + 1].micros;
        if rule.noncurrent_version_expiration.as_ref().is_some_and(|n| old(since, n.noncurrent_days, now)) {
            add(Step::Remove { key: key.to_owned(), id: version.id });
        } else if let Some(NoncurrentDays { noncurrent_days, storage_class: Some(class) }) =
            &rule.noncurrent_version_transition
            && old(since, *noncurrent_days, now)
            && version.content.as_ref().is_some_and(|c| c.class() != class)
        {
            add(Step::Transition { key: key.to_owned(), id: version.id, class: class.clone() });
        }
    }
}

#[cfg(test)]
mod tests;
