//! Pages of listings: objects (`GET /`) and versions (`GET /?versions`).
//!
//! A page starts where the one before ended, by a search in the sorted keys, never by a scan from the beginning; a
//! folded group (`dir/` with a delimiter) costs one search, whatever it holds.

use std::ops::Bound;
use std::sync::Arc;

use super::{Shelf, Version, parse_id};

/// Longest page COS gives, whatever was asked for.
pub const PAGE_KEYS_MAX: usize = 1000;

/// What both kinds of listing are asked.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub prefix: String,
    pub delimiter: Option<char>,
    /// Exclusive start (`marker`, `key-marker`).
    pub marker: String,
    /// `version-id-marker`: go on after this version of the key `marker`.
    pub version_marker: String,
    pub max_keys: usize,
}

/// One page; entries and groups counted together.
#[derive(Debug, Default)]
pub struct Page {
    /// Key, version, and whether it is the current one.
    pub entries: Vec<(String, Arc<Version>, bool)>,
    pub groups: Vec<String>,
    pub truncated: bool,
    /// Last key or group of the page, where truncated.
    pub next: String,
    /// Last version of the page; empty after a group.
    pub next_version: String,
}

impl Page {
    fn full(&self, query: &Query) -> bool {
        self.entries.len() + self.groups.len() >= query.max_keys.min(PAGE_KEYS_MAX)
    }
}

impl Shelf {
    /// Current versions that are not delete markers.
    pub fn list(&self, query: &Query) -> Page {
        let mut page = Page::default();
        if query.max_keys == 0 {
            return page;
        }
        let mut start = first(query);
        'search: loop {
            let begin = bound(&start);
            for (key, versions) in self.from(begin) {
                if !key.starts_with(&query.prefix) {
                    return page;
                }
                let Some(current) = versions.last().filter(|v| !v.is_marker()) else { continue };
                if page.full(query) {
                    page.truncated = true;
                    return page;
                }
                if let Some(group) = group(key, query) {
                    page.groups.push(group.to_owned());
                    page.next = group.to_owned();
                    match after_group(group) {
                        Some(next) => {
                            start = Bound::Included(next);
                            continue 'search;
                        }
                        None => return page,
                    }
                }
                page.entries.push((key.clone(), Arc::clone(current), true));
                page.next.clone_from(key);
            }
            return page;
        }
    }

    /// Every version and marker, per key newest first.
    pub fn list_versions(&self, query: &Query) -> Page {
        let mut page = Page::default();
        if query.max_keys == 0 {
            return page;
        }
        let resume = parse_id(&query.version_marker).filter(|_| !query.version_marker.is_empty());
        let mut start = match resume {
            Some(_) if query.marker >= query.prefix => Bound::Included(query.marker.clone()),
            _ => first(query),
        };
        'search: loop {
            let begin = bound(&start);
            for (key, versions) in self.from(begin) {
                if !key.starts_with(&query.prefix) {
                    return page;
                }
                if page.full(query) {
                    page.truncated = true;
                    return page;
                }
                if let Some(group) = group(key, query) {
                    page.groups.push(group.to_owned());
                    page.next = group.to_owned();
                    page.next_version.clear();
                    match after_group(group) {
                        Some(next) => {
                            start = Bound::Included(next);
                            continue 'search;
                        }
                        None => return page,
                    }
                }
                let newest = versions.len() - 1;
                let mut left = versions.len();
                if let Some(id) = resume
                    && *key == query.marker
                {
                    // A marker that was deleted since: its moment still says where it stood.
                    let at = versions.iter().position(|v| v.id == id);
                    left = at.unwrap_or_else(|| versions.partition_point(|v| v.micros < id.unwrap_or(0)));
                }
                for index in (0..left).rev() {
                    if page.full(query) {
                        page.truncated = true;
                        return page;
                    }
                    let version = &versions[index];
                    page.entries.push((key.clone(), Arc::clone(version), index == newest));
                    page.next.clone_from(key);
                    page.next_version = version.id_text();
                }
            }
            return page;
        }
    }
}

fn bound(start: &Bound<String>) -> Bound<&str> {
    match start {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// Where the page begins: after the marker, and after the whole group if the marker is one.
fn first(query: &Query) -> Bound<String> {
    if query.marker.is_empty() || query.marker < query.prefix {
        return Bound::Included(query.prefix.clone());
    }
    if group(&query.marker, query) == Some(query.marker.as_str())
        && let Some(next) = after_group(&query.marker)
    {
        return Bound::Included(next);
    }
    Bound::Excluded(query.marker.clone())
}

/// The part of the key up to and with the first delimiter after the prefix.
fn group<'a>(key: &'a str, query: &Query) -> Option<&'a str> {
    let delimiter = query.delimiter?;
    let rest = key.strip_prefix(query.prefix.as_str())?;
    let end = query.prefix.len() + rest.find(delimiter)? + delimiter.len_utf8();
    Some(&key[..end])
}

/// The first text behind everything that begins with `group`; `None` if there is none.
fn after_group(group: &str) -> Option<String> {
    let last = group.chars().next_back()?;
    let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32)?;
    let mut text = group[..group.len() - last.len_utf8()].to_owned();
    text.push(next);
    Some(text)
}
