//! What one directory is known to hold.
//!
//! A complete listing counts for the metadata TTL: a name that is in it exists, a name that is not in it does not, without a
//! request. Two things must not disturb it. Our own changes are laid over it at once, so that nothing we create, remove or move
//! flickers. And an answer that was asked for *before* such a change and arrives *after* it must not undo the change: each
//! question therefore notes the number of the last change ([`DirState::begin`]), and what changed since is laid over the answer
//! or makes it void ([`DirState::changed_since`]).
//!
//! A name that is just being moved shows what it showed before the move, whatever the bucket says meanwhile ([`DirState::keep`]).
//!
//! Owns names, not inodes. Names of files that are not stored yet (`local`) are in no listing of the bucket and are added to each.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::error::Result;
use super::name;
use crate::object::Object;
use crate::store::Listing;

/// One name in a directory.
#[derive(Clone, Debug)]
pub struct Item {
    pub name: Arc<str>,
    pub dir: bool,
    /// Headers that belong to this content, where the store had them at hand.
    pub known: Option<Arc<Object>>,
}

/// A sorted, complete, immutable list of names. A handle keeps one, so its offsets stay valid.
pub type Names = Arc<Vec<Item>>;

/// A listing under way, shared by everybody who waits for it.
pub type Flight = Shared<BoxFuture<'static, Result<()>>>;

struct Listed {
    base: Names,
    /// Local changes since: `None` = removed.
    delta: BTreeMap<Arc<str>, Option<Item>>,
    expires: Instant,
}

impl Listed {
    fn find(&self, name: &str) -> Option<&Item> {
        match self.delta.get(name) {
            Some(change) => change.as_ref(),
            None => self.base.binary_search_by(|item| (*item.name).cmp(name)).ok().map(|at| &self.base[at]),
        }
    }
}

/// What the directory says about a name without asking anybody.
#[derive(Clone, Debug)]
pub enum Verdict {
    Absent,
    /// With the moment until which this counts.
    Present(Item, Instant),
    /// The listing has run out, but it was small: one request renews all of it.
    Renew,
    Unknown,
}

#[derive(Default)]
pub struct DirState {
    listed: Option<Listed>,
    pub flight: Option<Flight>,
    /// Names created here and not stored yet.
    local: BTreeMap<Arc<str>, Item>,
    /// Heads fetched ahead of an `ls -l`.
    ahead: HashMap<Arc<str>, (Arc<Object>, Instant)>,
    /// Names on the move, with what they show until it is done.
    kept: BTreeMap<Arc<str>, Option<Item>>,
    seq: u64,
    /// Answers asked for before this change prove nothing.
    void: u64,
    /// Start numbers of the questions under way, with their count.
    asking: BTreeMap<u64, usize>,
    /// Changes since the oldest of them.
    log: Vec<(u64, Arc<str>, Option<Item>)>,
    /// Position in the listing of the last lookup that needed a request, and how many came in order.
    last_miss: usize,
    run: u32,
    pub ahead_until: usize,
}

/// Changes kept beside a listing: tens of MB at the most.
const DELTA_MAX: usize = 50_000;

/// A listing that fits into one answer of the bucket is cheaper to renew than two probes of single names.
const ONE_PAGE: usize = 1000;

/// Heads fetched ahead at a time: enough to hide a round trip of 50 ms behind 1 ms answers.
pub const AHEAD: usize = 64;

impl DirState {
    pub fn verdict(&self, name: &str, now: Instant) -> Verdict {
        if let Some(item) = self.kept.get(name) {
            return item.clone().map_or(Verdict::Absent, |item| Verdict::Present(item, now));
        }
        if let Some(item) = self.local.get(name) {
            return Verdict::Present(item.clone(), now);
        }
        match &self.listed {
            Some(listed) if now < listed.expires => match listed.find(name) {
                None => Verdict::Absent,
                Some(item) => {
                    let mut item = item.clone();
                    if let Some((object, expires)) = self.ahead.get(name)
                        && item.known.is_none()
                        && now < *expires
                    {
                        item.known = Some(object.clone());
                    }
                    Verdict::Present(item, listed.expires)
                }
            },
            Some(listed) if listed.base.len() + listed.delta.len() < ONE_PAGE => Verdict::Renew,
            _ => Verdict::Unknown,
        }
    }

    /// The whole listing, if it still counts.
    pub fn names(&mut self, now: Instant) -> Option<Names> {
        if self.listed.as_ref().is_none_or(|listed| now >= listed.expires) {
            return None;
        }
        self.names_even_if_old()
    }

    pub fn was_listed(&self) -> bool {
        self.listed.is_some()
    }

    pub fn names_even_if_old(&mut self) -> Option<Names> {
        let listed = self.listed.as_mut()?;
        if !listed.delta.is_empty() {
            let delta = std::mem::take(&mut listed.delta);
            listed.base = Arc::new(overlay(&listed.base, delta));
        }
        Some(listed.base.clone())
    }

    /// A request for this directory goes out; pair with [`DirState::end`].
    pub fn begin(&mut self) -> u64 {
        *self.asking.entry(self.seq).or_default() += 1;
        self.seq
    }

    pub fn end(&mut self, start: u64) {
        if let Some(count) = self.asking.get_mut(&start) {
            *count -= 1;
            if *count == 0 {
                self.asking.remove(&start);
            }
        }
        match self.asking.first_key_value() {
            None => self.log = Vec::new(),
            Some((&oldest, _)) => self.log.retain(|(seq, _, _)| *seq > oldest),
        }
    }

    /// Did we change this name after the question went out? To be asked before [`DirState::end`].
    pub fn changed_since(&self, start: u64, name: &str) -> bool {
        start < self.void || self.log.iter().any(|(seq, changed, _)| *seq > start && &**changed == name)
    }

    /// From here on this name shows `item`, until it is changed or let go. Whoever calls has the turn on the name.
    pub fn keep(&mut self, name: &Arc<str>, item: Option<Item>) {
        self.kept.insert(name.clone(), item);
    }

    pub fn is_kept(&self, name: &str) -> bool {
        self.kept.contains_key(name)
    }

    /// What was kept did not come to pass as a whole: the bucket is to be asked, and not believed for what it said meanwhile.
    pub fn let_go(&mut self, name: &str) {
        if self.kept.remove(name).is_some() {
            // Not even when nobody can be asked: half of it may have happened.
            self.reset();
        }
    }

    /// Makes the answers void that are under way.
    pub fn doubt(&mut self) {
        self.seq += 1;
        self.void = self.seq;
    }

    /// We created, replaced or removed (`None`) a name. `stored`: it is in the bucket, or will be in every later listing.
    pub fn change(&mut self, name: &Arc<str>, item: Option<Item>, stored: bool) {
        self.seq += 1;
        self.ahead.remove(name);
        self.kept.remove(name);
        match (&item, stored) {
            (Some(item), false) => _ = self.local.insert(name.clone(), item.clone()),
            _ => _ = self.local.remove(name),
        }
        if !self.asking.is_empty() {
            self.log.push((self.seq, name.clone(), item.clone()));
        }
        if let Some(listed) = &mut self.listed {
            listed.delta.insert(name.clone(), item);
        }
        self.bound_delta();
    }

    /// A listing that has run out proves nothing, and is not worth the memory of every name that came and went since.
    fn bound_delta(&mut self) {
        let run_out = |listed: &Listed| listed.delta.len() > DELTA_MAX && Instant::now() >= listed.expires;
        if self.listed.as_ref().is_some_and(run_out) {
            self.drop_names();
        }
    }

    /// A complete listing arrived that was asked for at `start`. To be called before [`DirState::end`].
    pub fn set_names(&mut self, items: Vec<Item>, start: u64, expires: Instant) -> usize {
        let since = self.log.iter().filter(|(seq, _, _)| *seq > start);
        let mut delta: BTreeMap<Arc<str>, Option<Item>> =
            self.local.iter().map(|(name, item)| (name.clone(), Some(item.clone()))).collect();
        delta.extend(since.map(|(_, name, item)| (name.clone(), item.clone())));
        delta.extend(self.kept.iter().map(|(name, item)| (name.clone(), item.clone())));
        let count = items.len();
        let expires = if start < self.void { Instant::now() } else { expires };
        self.listed = Some(Listed { base: Arc::new(items), delta, expires });
        self.ahead.clear();
        self.ahead_until = 0;
        self.run = 0;
        count
    }

    /// Somebody else removed a name; not a change of ours, so answers under way stay good.
    pub fn correct(&mut self, name: &str) {
        self.ahead.remove(name);
        if let Some(listed) = &mut self.listed
            && let Some(item) = listed.find(name)
        {
            let name = item.name.clone();
            listed.delta.insert(name, None);
        }
    }

    /// What a question about one name has shown; not a change of ours either. A listing may still show what was there before.
    pub fn learn(&mut self, item: Item) {
        self.ahead.remove(&item.name);
        if let Some(listed) = &mut self.listed {
            listed.delta.insert(item.name.clone(), Some(item));
        }
        self.bound_delta();
    }

    /// Does a listing that has run out show the name as a file with known attributes?
    pub fn has_old(&self, name: &str) -> bool {
        self.listed.as_ref().and_then(|listed| listed.find(name)).is_some_and(|item| item.known.is_some())
    }

    /// Nobody could be asked: what was known goes on counting for a moment.
    pub fn extend(&mut self, expires: Instant) -> bool {
        let Some(listed) = &mut self.listed else { return false };
        listed.expires = listed.expires.max(expires);
        true
    }

    /// Forgets the listing, and makes those under way void.
    pub fn reset(&mut self) {
        self.drop_names();
        self.doubt();
    }

    /// Frees the memory of the listing. Local names stay: nobody else knows them.
    pub fn drop_names(&mut self) {
        self.listed = None;
        self.ahead.clear();
    }

    pub fn has_local(&self) -> bool {
        !self.local.is_empty()
    }

    /// How many names the bucket holds here; `None`: the listing is not known.
    pub fn stored_count(&mut self, now: Instant) -> Option<usize> {
        let names = self.names(now)?;
        Some(names.iter().filter(|item| !self.local.contains_key(&item.name)).count())
    }

    /// A lookup of a listed name needed a request. Returns the names to fetch ahead if lookups come in the listing's order.
    pub fn note_miss(&mut self, name: &str) -> Vec<Item> {
        let Some(listed) = &self.listed else { return Vec::new() };
        let Ok(at) = listed.base.binary_search_by(|item| (*item.name).cmp(name)) else { return Vec::new() };
        // A few known names between two misses are still "in order".
        let in_order = at > self.last_miss && at - self.last_miss <= AHEAD;
        self.run = if in_order { self.run + 1 } else { 0 };
        self.last_miss = at;
        if self.run == 0 {
            self.ahead_until = at + 1;
            return Vec::new();
        }
        self.next_window(at)
    }

    /// A lookup was answered by a head fetched ahead. Returns what to fetch next.
    pub fn note_hit(&mut self, name: &str) -> Vec<Item> {
        let Some(listed) = &self.listed else { return Vec::new() };
        if self.ahead.remove(name).is_none() {
            return Vec::new();
        }
        let Ok(at) = listed.base.binary_search_by(|item| (*item.name).cmp(name)) else { return Vec::new() };
        self.last_miss = at;
        self.next_window(at)
    }

    /// Opened half a window before it is needed.
    fn next_window(&mut self, at: usize) -> Vec<Item> {
        let Some(listed) = self.listed.as_ref().filter(|_| at + AHEAD / 2 >= self.ahead_until) else {
            return Vec::new();
        };
        let from = self.ahead_until.max(at + 1).min(listed.base.len());
        let names = listed.base[from..]
            .iter()
            .take(AHEAD)
            .filter(|item| item.known.is_none() && !self.ahead.contains_key(&item.name))
            .cloned()
            .collect();
        self.ahead_until = (from + AHEAD).min(listed.base.len());
        names
    }

    /// Keeps a head fetched ahead. Bounded: each renewed listing starts anew, and four windows suffice.
    pub fn put_ahead(&mut self, name: &Arc<str>, object: Arc<Object>, expires: Instant) {
        if self.ahead.len() >= 4 * AHEAD {
            self.ahead.clear();
        }
        self.ahead.insert(name.clone(), (object, expires));
    }
}

fn overlay(base: &[Item], delta: BTreeMap<Arc<str>, Option<Item>>) -> Vec<Item> {
    let mut merged = Vec::with_capacity(base.len() + delta.len());
    let mut old = base.iter().peekable();
    for (name, change) in delta {
        while let Some(item) = old.next_if(|item| item.name < name) {
            merged.push(item.clone());
        }
        old.next_if(|item| item.name == name);
        merged.extend(change);
    }
    merged.extend(old.cloned());
    merged
}

/// Turns a listing of the children of `prefix` into names. Keys that cannot be path components are left out; where `a` and `a/...`
/// both exist, the directory is shown.
pub fn items_of(listing: Listing, prefix: &str) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::with_capacity(listing.entries.len() + listing.prefixes.len());
    let mut add = |key: &str, text: &str, dir: bool, known: Option<Arc<Object>>| match name::is_component(text) {
        true => items.push(Item { name: text.into(), dir, known }),
        false => log::debug!("key {key:?} has no place in a directory tree and is not shown"),
    };
    for prefix_key in &listing.prefixes {
        if let Some(text) = prefix_key.strip_prefix(prefix).and_then(|t| t.strip_suffix('/')) {
            add(prefix_key, text, true, None);
        }
    }
    for entry in listing.entries {
        let key = entry.key.as_str();
        match key.strip_prefix(prefix) {
            Some("") | None => {}
            Some(text) => match text.strip_suffix('/') {
                Some(text) => add(key, text, true, entry.known),
                None => add(key, text, false, entry.known),
            },
        }
    }
    sorted(items)
}

/// In the order of names, each once. Of equal names a directory comes before a file, else the first one stays.
pub fn sorted(mut items: Vec<Item>) -> Vec<Item> {
    items.sort_by(|a, b| a.name.cmp(&b.name).then(b.dir.cmp(&a.dir)));
    items.dedup_by(|later, first| later.name == first.name);
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Key;
    use crate::store::Entry;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn item(name: &str) -> Item {
        Item { name: name.into(), dir: false, known: None }
    }

    fn shown(names: Names) -> Vec<String> {
        names.iter().map(|i| i.name.to_string()).collect()
    }

    #[test]
    fn impossible_keys_are_left_out_and_directories_win() {
        let entry = |key: &str| Entry { key: Key::new(key).expect("valid"), size: 0, modified_micros: 0, known: None };
        let listing = Listing {
            entries: vec![
                entry("p/"),
                entry("p/a"),
                entry("p/b"),
                entry("p/.."),
                entry(&format!("p/{}", "x".repeat(256))),
            ],
            prefixes: vec!["p//".into(), "p/./".into(), "p/a/".into(), "p/b-/".into()],
        };
        let items = items_of(listing, "p/");
        let rows: Vec<_> = items.iter().map(|i| (&*i.name, i.dir)).collect();
        assert_eq!(rows, [("a", true), ("b", false), ("b-", true)]);
    }

    proptest! {
        /// Against a set of names: whatever the order of questions, answers and changes, nothing local is undone.
        #[test]
        fn late_answers_never_undo_local_changes(steps in prop::collection::vec((0u8..4, 0u8..6), 1..60)) {
            let mut dir = DirState::default();
            let mut truth: BTreeSet<String> = BTreeSet::new();
            let far = Instant::now() + Duration::from_secs(3600);
            let mut flights: Vec<(u64, Vec<Item>)> = Vec::new();
            for (action, n) in steps {
                let name: Arc<str> = format!("n{n}").into();
                match action {
                    0 => {
                        truth.insert(name.to_string());
                        dir.change(&name, Some(item(&name)), true);
                    }
                    1 => {
                        truth.remove(&*name);
                        dir.change(&name, None, true);
                    }
                    2 => {
                        let start = dir.begin();
                        flights.push((start, truth.iter().map(|n| item(n)).collect()));
                    }
                    _ => if !flights.is_empty() {
                        let (start, answer) = flights.remove(n as usize % flights.len());
                        dir.set_names(answer, start, far);
                        dir.end(start);
                    }
                }
                if let Some(names) = dir.names(Instant::now()) {
                    prop_assert_eq!(shown(names), truth.iter().cloned().collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn unstored_names_are_in_every_listing_until_stored_or_removed() {
        let far = Instant::now() + Duration::from_secs(3600);
        let mut dir = DirState::default();
        dir.change(&"new".into(), Some(item("new")), false);
        let start = dir.begin();
        dir.set_names(vec![item("old")], start, far);
        dir.end(start);
        assert_eq!(shown(dir.names(Instant::now()).expect("fresh")), ["new", "old"]);
        dir.drop_names();
        assert!(matches!(dir.verdict("new", Instant::now()), Verdict::Present(..)));
        dir.change(&"new".into(), None, true);
        assert!(matches!(dir.verdict("new", Instant::now()), Verdict::Unknown));
    }

    #[test]
    fn a_kept_name_shows_what_it_showed_and_doubt_follows_when_it_is_let_go() {
        let far = Instant::now() + Duration::from_secs(3600);
        let mut dir = DirState::default();
        let name: Arc<str> = "moving".into();
        dir.keep(&name, Some(item("moving")));
        let (early, late) = (dir.begin(), dir.begin());
        dir.set_names(vec![item("other")], early, far);
        dir.end(early);
        assert_eq!(shown(dir.names(Instant::now()).expect("fresh")), ["moving", "other"]);
        dir.let_go(&name);
        assert!(dir.names(Instant::now()).is_none(), "it is to be asked for");
        assert!(dir.changed_since(late, "moving"));
        dir.set_names(vec![item("other")], late, far);
        dir.end(late);
        assert!(dir.names(Instant::now()).is_none(), "what was asked for meanwhile proves nothing");
    }

    #[test]
    fn lookups_in_order_fetch_ahead_once() {
        let far = Instant::now() + Duration::from_secs(3600);
        let mut dir = DirState::default();
        let start = dir.begin();
        dir.set_names((0..300).map(|n| item(&format!("f{n:03}"))).collect(), start, far);
        dir.end(start);
        assert!(dir.note_miss("f100").is_empty(), "one lookup is no pattern");
        assert_eq!(dir.note_miss("f101").len(), AHEAD);
        assert!(dir.note_miss("f102").is_empty(), "under way already");
        assert_eq!(&*dir.note_miss("f150")[0].name, "f166", "the next window, not the same again");
        assert!(dir.note_miss("f007").is_empty(), "backwards");
    }
}
