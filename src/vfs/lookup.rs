//! From a name to an inode with attributes that may be shown.
//!
//! What is known is used first: an inode with fresh or uncommitted attributes, then a fresh listing of the directory, then the
//! names known to be absent. Only then is the store asked, for the object and the directory of that name at the same time.
//!
//! An answer becomes visible only if we did not change the name while it travelled (`tree`), under the directory's lock.
//! When nobody can be asked, what was last known goes on counting; what was never known is an error, never "absent".

use std::collections::HashMap;
use std::ffi::OsStr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Either, FutureExt, Shared, select};
use futures::stream::StreamExt;
use parking_lot::Mutex;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};

use super::attr::{Attr, Kind};
use super::error::{Error, Result};
use super::inode::{Inode, ROOT};
use super::moving::Places;
use super::tree::{AHEAD, Item, Verdict};
use super::{Ctx, Entry, Held, Notice, STALE_GRACE, Vfs, name};
use crate::object::{Key, Object};
use crate::store::{self, Below, Store};

type HeadAnswer = store::Result<Option<Arc<Object>>>;
type HeadFlight = Shared<BoxFuture<'static, HeadAnswer>>;

/// Heads under way, so that two lookups of one name, or a lookup and its prefetch, cost one request.
#[derive(Default)]
pub struct Heads(Mutex<HashMap<Key, HeadFlight>>);

impl Heads {
    /// Questions asked before a change must not be joined after it.
    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }

    /// To be dropped when the answer was taken in.
    fn landing(&self, key: &Key, flight: &HeadFlight) -> Landing<'_> {
        Landing { heads: self, key: key.clone(), flight: flight.clone() }
    }

    fn landed(&self, key: &Key, flight: &HeadFlight) {
        let mut heads = self.0.lock();
        if heads.get(key).is_some_and(|current| current.ptr_eq(flight)) {
            heads.remove(key);
        }
    }
}

/// Also when nobody waits for the answer any more it must not stay: whoever asks next would be told what was true once.
struct Landing<'a> {
    heads: &'a Heads,
    key: Key,
    flight: HeadFlight,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.heads.landed(&self.key, &self.flight);
    }
}

/// What the store knows about a name.
pub struct Found {
    pub attr: Attr,
    pub object: Option<Arc<Object>>,
    /// If the path does not tell it.
    pub lies_at: Option<Key>,
    pub expires: Instant,
}

/// The cheapest question that settles a name.
#[derive(Clone, Copy, Debug)]
enum Question {
    /// Nothing known: object and directory at the same time.
    Both,
    /// Known to be an object.
    Object,
    /// Known to be a directory; its attributes are in the marker.
    Marker,
    /// Was a directory without a marker.
    Below,
}

/// A question on its way: what its answer is about, and since when.
struct Asked {
    /// Of the directory.
    path: String,
    start: u64,
}

/// What a lookup does next.
enum Plan {
    /// It became known meanwhile.
    Known,
    /// Renewing the listing of the directory costs one request and settles every name in it.
    List,
    Ask {
        question: Question,
        start: u64,
        /// To fetch ahead.
        ahead: Vec<Item>,
    },
}

/// After one of two questions found something, the other one has this long to be answered, too. In good times both need one round
/// trip; in an outage the second may have no answer before the deadline, and a program should not wait for what it does not need.
const SECOND_ANSWER: Duration = Duration::from_millis(500);

/// How long the store may take to answer from its journal and its index.
const FROM_MEMORY: Duration = Duration::from_millis(50);

/// Asks two questions at the same time. The positive answer of one is not held up by the other: that one becomes unavailable when it
/// takes much longer.
async fn either_proves<A, B>(
    first: impl Future<Output = store::Result<A>>,
    second: impl Future<Output = store::Result<B>>,
    first_proves: impl Fn(&A) -> bool,
    second_proves: impl Fn(&B) -> bool,
) -> (store::Result<A>, store::Result<B>) {
    fn late<T>(_: Elapsed) -> store::Result<T> {
        Err(store::Error::Unavailable("no answer in time, and another one was enough".into()))
    }
    match select(pin!(first), pin!(second)).await {
        Either::Left((first, second)) if first.as_ref().is_ok_and(first_proves) => {
            (first, timeout(SECOND_ANSWER, second).await.unwrap_or_else(late))
        }
        Either::Right((second, first)) if second.as_ref().is_ok_and(second_proves) => {
            (timeout(SECOND_ANSWER, first).await.unwrap_or_else(late), second)
        }
        Either::Left((first, second)) => (first, second.await),
        Either::Right((second, first)) => (first.await, second),
    }
}

/// How often an answer may be overtaken by our own changes before the lookup gives up.
const ATTEMPTS: u32 = 16;

impl<S: Store> Vfs<S> {
    pub async fn lookup(self: &Arc<Self>, ctx: &Ctx, parent: u64, name: &OsStr) -> Result<Entry> {
        if let Some(known) = self.lookup_now(parent, name) {
            return known;
        }
        let name: Arc<str> = name::check(name)?.into();
        let dir = self.hold_dir(parent)?;
        let found = self.find(&dir, &name, ctx.until).await?.ok_or(Error::NotFound)?;
        Ok(self.give(&found))
    }

    /// The answer to a lookup if it needs no question.
    pub fn lookup_now(self: &Arc<Self>, parent: u64, name: &OsStr) -> Option<Result<Entry>> {
        let name: Arc<str> = match name::check(name) {
            Ok(name) => name.into(),
            Err(e) => return Some(Err(e)),
        };
        let dir = match self.hold_dir(parent) {
            Ok(dir) => dir,
            Err(e) => return Some(Err(e)),
        };
        match self.find_now(&dir, &name)? {
            Some(found) => Some(Ok(self.give(&found))),
            None => Some(Err(Error::NotFound)),
        }
    }

    pub async fn getattr(self: &Arc<Self>, ctx: &Ctx, ino: u64) -> Result<Entry> {
        let inode = self.hold(ino)?;
        self.refresh(&inode, ctx.until).await?;
        Ok(self.entry_of(&inode))
    }

    pub fn getattr_now(&self, ino: u64) -> Option<Result<Entry>> {
        let inode = match self.hold(ino) {
            Ok(inode) => inode,
            Err(e) => return Some(Err(e)),
        };
        let fresh = inode.state.lock().is_fresh(Instant::now());
        fresh.then(|| Ok(self.entry_of(&inode)))
    }

    /// An entry for the kernel, which will give it back by `forget`.
    pub(super) fn give(&self, inode: &Arc<Inode<S>>) -> Entry {
        self.table.lock().looked_up(inode.ino);
        self.entry_of(inode)
    }

    /// Makes the attributes of an inode fresh. An inode that somebody else removed keeps its last ones while it is open.
    pub(super) async fn refresh(self: &Arc<Self>, inode: &Arc<Inode<S>>, until: Instant) -> Result<()> {
        if inode.state.lock().is_fresh(Instant::now()) {
            return Ok(());
        }
        if inode.ino == ROOT {
            return self.refresh_root(inode, until).await;
        }
        let place = self.table.lock().place(inode.ino);
        let Some((parent, name)) = place else { return Ok(()) };
        let dir = self.hold_dir(parent)?;
        let found = match self.find(&dir, &name, until).await {
            // The directory was removed by somebody else, which does not close what is open in it.
            Err(Error::NotFound) if inode.state.lock().handles > 0 => return Ok(()),
            found => found?,
        };
        if found.is_some_and(|found| found.ino == inode.ino) || inode.state.lock().handles > 0 {
            return Ok(());
        }
        // It may also have been renamed by us meanwhile; then it is there, under another name.
        if self.table.lock().path(inode.ino).is_some() { Ok(()) } else { Err(Error::NotFound) }
    }

    async fn refresh_root(&self, root: &Arc<Inode<S>>, until: Instant) -> Result<()> {
        let expires = self.ttl_from_now();
        let object = match self.keys.marker("")? {
            None => None,
            Some(marker) => match self.unless_dark(true, until, self.head_of(&marker, until)).await {
                Ok(object) => object,
                Err(e) => {
                    log::debug!("attributes of the root stay as they were: {e}");
                    root.state.lock().expires = Instant::now() + STALE_GRACE;
                    return Ok(());
                }
            },
        };
        let mut state = root.state.lock();
        if let Some(object) = object {
            let touched = state.attr.mtime;
            state.attr = Attr::of_object(&object, true, &self.defaults);
            state.attr.mtime = state.attr.mtime.max(touched);
            state.object = Some(object);
        }
        state.expires = expires;
        Ok(())
    }

    /// The inode under a name if that is known without a question: `Some(None)` is proven absence.
    pub(super) fn find_now(self: &Arc<Self>, dir: &Arc<Inode<S>>, name: &Arc<str>) -> Option<Option<Held<S>>> {
        let now = Instant::now();
        let child = self.child(dir, name);
        if child.as_ref().is_some_and(|held| held.state.lock().is_fresh(now)) {
            return Some(child);
        }
        drop(child);
        let mut names = dir.dir.lock();
        if names.is_kept(name) {
            return Some(self.child(dir, name));
        }
        match names.verdict(name, now) {
            Verdict::Absent => Some(self.drop_stale(dir, name)),
            Verdict::Present(item, expires) => {
                let object = item.known?;
                let held = self.instantiate(dir, name, self.found_object(object, item.dir, expires));
                let ahead = names.note_hit(name);
                drop(names);
                self.fetch_ahead(dir, ahead);
                held.map(Some)
            }
            Verdict::Renew | Verdict::Unknown => self.is_known_absent(dir.ino, name).then_some(None),
        }
    }

    pub(super) fn child(&self, dir: &Arc<Inode<S>>, name: &str) -> Option<Held<S>> {
        let mut table = self.table.lock();
        let inode = table.child(dir.ino, name)?.clone();
        table.pin(inode.ino);
        Some(Held { table: self.table.clone(), inode })
    }

    /// The inode under a name, or `None` if it is proven that there is none.
    pub(super) async fn find(
        self: &Arc<Self>,
        dir: &Arc<Inode<S>>,
        name: &Arc<str>,
        until: Instant,
    ) -> Result<Option<Held<S>>> {
        for attempt in 0..ATTEMPTS {
            if let Some(known) = self.find_now(dir, name) {
                return Ok(known);
            }
            let path = self.table.lock().path(dir.ino).ok_or(Error::NotFound)?;
            let old = self.child(dir, name);
            let (question, start, ahead) = match self.plan(dir, name, old.as_deref(), attempt == 0) {
                Plan::Ask { question, start, ahead } => (question, start, ahead),
                Plan::List => {
                    self.names(dir, until).await?;
                    continue;
                }
                Plan::Known => continue,
            };
            self.fetch_ahead(dir, ahead);
            let knows_old = old.is_some() || dir.dir.lock().has_old(name);
            let answer = self.unless_dark(knows_old, until, self.ask(&path, name, question, until)).await;
            if let Some(settled) = self.settle(dir, name, Asked { path, start }, answer, old) {
                return settled;
            }
        }
        Err(Error::Busy)
    }

    fn plan(&self, dir: &Inode<S>, name: &str, old: Option<&Arc<Inode<S>>>, may_list: bool) -> Plan {
        let mut names = dir.dir.lock();
        if names.is_kept(name) {
            return Plan::Known;
        }
        let question = match names.verdict(name, Instant::now()) {
            Verdict::Absent => return Plan::Known,
            Verdict::Present(item, _) if item.known.is_some() => return Plan::Known,
            Verdict::Present(item, _) if item.dir => Question::Marker,
            Verdict::Present(..) => Question::Object,
            // Once: with a tiny TTL the renewed listing is old again at once.
            Verdict::Renew if old.is_none() && may_list => return Plan::List,
            Verdict::Renew | Verdict::Unknown => match old {
                Some(old) if old.kind != Kind::Dir => Question::Object,
                Some(old) if old.state.lock().object.is_some() => Question::Marker,
                Some(_) => Question::Below,
                None => Question::Both,
            },
        };
        let ahead = names.note_miss(name);
        Plan::Ask { question, start: names.begin(), ahead }
    }

    /// Takes an answer in. `None`: overtaken by a change of ours, ask again.
    fn settle(
        &self,
        dir: &Arc<Inode<S>>,
        name: &Arc<str>,
        asked: Asked,
        answer: Result<Option<Found>>,
        old: Option<Held<S>>,
    ) -> Option<Result<Option<Held<S>>>> {
        let mut names = dir.dir.lock();
        let overtaken = names.changed_since(asked.start, name)
            || names.is_kept(name)
            || self.table.lock().path(dir.ino).is_some_and(|path| path != asked.path);
        names.end(asked.start);
        match answer {
            _ if overtaken => None,
            Ok(Some(found)) => {
                // Also where its time is over: it may have to do again when nobody can be asked.
                let known = found.object.clone().filter(|_| found.lies_at.is_none());
                names.learn(Item { name: name.clone(), dir: found.attr.kind == Kind::Dir, known });
                let held = self.instantiate(dir, name, found);
                drop(names);
                held.map(|held| Ok(Some(held)))
            }
            Ok(None) => {
                let stays = self.drop_stale(dir, name);
                if stays.is_none() {
                    // A listing may still show what somebody else removed since.
                    names.correct(name);
                    self.remember_absent(dir.ino, name);
                }
                drop(names);
                Some(Ok(stays))
            }
            Err(error) => {
                let grace = Instant::now() + STALE_GRACE;
                if error.is_outage() && old.is_none() && names.has_old(name) && names.extend(grace) {
                    return None;
                }
                drop(names);
                let Some(old) = old.filter(|_| error.is_outage()) else { return Some(Err(error)) };
                log::debug!("{name}: showing what was known before, because {error}");
                old.state.lock().expires = grace;
                Some(Ok(Some(old)))
            }
        }
    }

    async fn ask(&self, dir: &str, name: &str, question: Question, until: Instant) -> Result<Option<Found>> {
        let other = match self.trees.places_in(dir) {
            Places::Own => return self.ask_at(&name::join(dir, name), question, until).await,
            Places::Nowhere => return Ok(None),
            Places::Both(other) => name::join(&other, name),
        };
        let found = self.ask_at(&name::join(dir, name), question, until).await?;
        // A directory's marker may have gone ahead of what lies in it.
        if found.as_ref().is_some_and(|found| found.object.is_some()) {
            return Ok(found);
        }
        let moved = self.ask_at(&other, Question::Both, until).await?;
        Ok(match moved {
            Some(found) => Some(Found { lies_at: Some(self.keys.file(&other)?), ..found }),
            None => found,
        })
    }

    async fn ask_at(&self, path: &str, question: Question, until: Instant) -> Result<Option<Found>> {
        let expires = self.ttl_from_now();
        let key = self.keys.file(path)?;
        let below = self.keys.below(path);
        let directory = |object: Option<Arc<Object>>| match object {
            Some(object) => self.found_object(object, true, expires),
            None => Found { attr: Attr::implied_dir(&self.defaults), object: None, lies_at: None, expires },
        };
        // A key too long to carry a slash cannot be a directory.
        let Some(marker) = self.keys.marker(path).ok().flatten() else {
            let object = self.head(&key, until).await?;
            return Ok(object.map(|object| self.found_object(object, false, expires)));
        };
        let (object, under) = match question {
            Question::Marker => {
                let object = self.head(&marker, until).await?;
                if object.is_some() {
                    return Ok(Some(directory(object)));
                }
                (Ok(None), self.store.below(&below, until).await)
            }
            Question::Below => (Ok(None), self.store.below(&below, until).await),
            Question::Object => match self.head(&key, until).await? {
                Some(object) => return Ok(Some(self.found_object(object, false, expires))),
                None => (Ok(None), self.store.below(&below, until).await),
            },
            Question::Both => {
                let (object, under) = (self.head(&key, until), self.store.below(&below, until));
                either_proves(object, under, Option::is_some, |under| under.marker || under.children).await
            }
        };
        let under = match under {
            // A file that is there is shown, although nobody can say now whether a directory has the same name.
            Err(store::Error::Unavailable(_)) if matches!(object, Ok(Some(_))) => Below::default(),
            under => under?,
        };
        if under.marker {
            return Ok(Some(directory(self.head(&marker, until).await?)));
        }
        if under.children {
            return Ok(Some(directory(None)));
        }
        let object = match question {
            // Was a directory, is none: perhaps a file now.
            Question::Marker | Question::Below => self.head(&key, until).await?,
            Question::Object | Question::Both => object?,
        };
        Ok(object.map(|object| self.found_object(object, false, expires)))
    }

    pub(super) fn found_object(&self, object: Arc<Object>, dir: bool, expires: Instant) -> Found {
        Found { attr: Attr::of_object(&object, dir, &self.defaults), object: Some(object), lies_at: None, expires }
    }

    async fn head_of(&self, key: &Key, until: Instant) -> Result<Option<Arc<Object>>> {
        Ok(self.head(key, until).await?)
    }

    /// Where an older answer is known, nobody waits for one that cannot come: not when nobody can be asked, and not longer than until then.
    pub(super) async fn unless_dark<T>(
        &self,
        knows_old: bool,
        until: Instant,
        question: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if !knows_old {
            return question.await;
        }
        let mut question = pin!(question);
        if !self.store.is_dark() {
            tokio::select! {
                biased;
                answer = &mut question => return answer,
                () = self.store.blackout(until) => {}
            }
        }
        // What the store knows by itself is newer than what is known here, and needs nobody.
        let dark = |_| Err(Error::TimedOut("nobody can be asked"));
        timeout(FROM_MEMORY, question).await.unwrap_or_else(dark)
    }

    pub(super) async fn head(&self, key: &Key, until: Instant) -> HeadAnswer {
        let flight = self.head_flight(key, until);
        let _landing = self.heads.landing(key, &flight);
        flight.await
    }

    fn head_flight(&self, key: &Key, until: Instant) -> HeadFlight {
        let mut heads = self.heads.0.lock();
        if let Some(flight) = heads.get(key) {
            return flight.clone();
        }
        let (store, asked) = (self.store.clone(), key.clone());
        let task = self.rt.spawn(async move { store.head(&asked, until).await.map(|o| o.map(Arc::new)) });
        let ended_early = |e| Err(store::Error::Unavailable(format!("the request ended early: {e}")));
        let flight = async move { task.await.unwrap_or_else(ended_early) }.boxed().shared();
        heads.insert(key.clone(), flight.clone());
        flight
    }

    /// The lookups come in the order of the listing (`ls -l`): have the next answers ready.
    fn fetch_ahead(self: &Arc<Self>, dir: &Arc<Inode<S>>, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        let Some(path) = self.table.lock().path(dir.ino) else { return };
        let (vfs, dir) = (self.clone(), dir.clone());
        let until = Instant::now() + self.options.max_stall;
        self.rt.spawn(async move {
            let heads = items.into_iter().map(|item| {
                let (vfs, dir, dir_path) = (&vfs, &dir, &path);
                async move {
                    let path = name::join(dir_path, &item.name);
                    let name = item.name;
                    let key = if item.dir { vfs.keys.marker(&path).ok().flatten() } else { vfs.keys.file(&path).ok() };
                    let Some(key) = key else { return };
                    let start = dir.dir.lock().begin();
                    let flight = vfs.head_flight(&key, until);
                    // Dropped when the answer is kept, or a lookup just then would ask again.
                    let _landing = vfs.heads.landing(&key, &flight);
                    let answer = flight.await;
                    let mut names = dir.dir.lock();
                    let overtaken = names.changed_since(start, &name)
                        || vfs.table.lock().path(dir.ino).is_none_or(|path| path != *dir_path);
                    names.end(start);
                    if let (Ok(Some(object)), false) = (answer, overtaken) {
                        names.put_ahead(&name, object, vfs.ttl_from_now());
                    }
                }
            });
            futures::stream::iter(heads).buffer_unordered(AHEAD).collect::<()>().await;
        });
    }

    /// Puts an answer into the table. To be called under the directory's lock, so that no local change comes between.
    /// `None` if the directory itself is gone.
    pub(super) fn instantiate(&self, dir: &Arc<Inode<S>>, name: &Arc<str>, found: Found) -> Option<Held<S>> {
        let mut table = self.table.lock();
        let dir_path = table.path(dir.ino)?;
        if let Some(old) = table.child(dir.ino, name).cloned() {
            let other_kind = old.kind != found.attr.kind;
            // Before the lock: no state is locked under another one.
            let holds_dirty = other_kind && table.is_dirty_below(old.ino);
            let mut state = old.state.lock();
            // Who reads it goes on with the version it opened: the pages and the length of an inode are of one version.
            let replaced = old.kind == Kind::File
                && !other_kind
                && (state.handles > 0 && state.writers == 0 && !state.is_dirty())
                && is_other_content(&state, &found);
            if replaced
                && state.reader.is_none()
                && let Some(object) = &state.object
                && let Some(key) = state.lies_at.clone().or_else(|| self.keys.file(&name::join(&dir_path, name)).ok())
            {
                state.reader = Some(Arc::new(self.store.open(&key, object)));
            }
            if state.is_dirty() || holds_dirty || !(other_kind || replaced) {
                let known = state.is_dirty() || other_kind;
                let changed = !known && self.update(&mut state, found);
                drop(state);
                table.pin(old.ino);
                drop(table);
                if changed {
                    self.notify(Notice::Data(old.ino));
                }
                return Some(Held { table: self.table.clone(), inode: old });
            }
            (state.unlinked, state.replaced) = (true, replaced);
            drop(state);
            table.unlink(old.ino);
            if replaced {
                self.notify(Notice::Name { dir: dir.ino, name: name.clone() });
            }
        }
        let ino = table.number_for(&name::join(&dir_path, name));
        let inode = Arc::new(Inode::new(ino, found.attr, found.object, found.expires));
        inode.state.lock().lies_at = found.lies_at;
        table.insert(dir.ino, name, inode.clone());
        table.pin(ino);
        Some(Held { table: self.table.clone(), inode })
    }

    /// Newer knowledge about an inode; true if its content is another one now.
    fn update(&self, state: &mut super::inode::State<S>, found: Found) -> bool {
        let same = !is_other_content(state, &found);
        let (old, is_dir) = (state.attr, found.attr.kind == Kind::Dir);
        state.attr = Attr { atime: old.atime.max(found.attr.mtime), ..found.attr };
        if is_dir {
            // Changes inside a directory move its times here but not in the bucket.
            state.attr.mtime = found.attr.mtime.max(old.mtime);
            state.attr.ctime = found.attr.ctime.max(old.ctime);
        }
        state.object = found.object;
        state.lies_at = found.lies_at;
        state.expires = state.expires.max(found.expires);
        if same || is_dir {
            return false;
        }
        state.reader = None;
        state.target = None;
        state.cache_ok = false;
        true
    }

    /// Somebody else removed this name. Returns what stays all the same: what is not stored yet, and a directory that holds such things. It
    /// comes back with them; without its path they could never be stored.
    fn drop_stale(&self, dir: &Arc<Inode<S>>, name: &str) -> Option<Held<S>> {
        let mut table = self.table.lock();
        let inode = table.child(dir.ino, name)?.clone();
        let below = table.is_dirty_below(inode.ino);
        let mut state = inode.state.lock();
        if below || state.is_dirty() {
            drop(state);
            table.pin(inode.ino);
            drop(table);
            return Some(Held { table: self.table.clone(), inode });
        }
        // Nobody removed what the failed move of its directory has left elsewhere: who has it open must not write into nothing.
        (state.unlinked, state.replaced) = (true, state.lies_at.is_some());
        drop(state);
        table.unlink(inode.ino);
        None
    }
}

fn is_other_content<S: Store>(state: &super::inode::State<S>, found: &Found) -> bool {
    match (&state.object, &found.object) {
        (Some(known), Some(found)) => !known.token.same(&found.token),
        (None, None) => false,
        _ => true,
    }
}
