//! Every key of A against every key of B.
//!
//! Objects from before the replication rule, objects copied in from elsewhere, whatever a disabled rule missed: all of it is in one bucket only,
//! and looks deleted after a switch. Only a comparison of both listings finds it. Listings are sorted, so the comparison is a merge: two
//! pages a side in memory, whatever the number of keys. Only differences are kept, at most [`DIFFERENCES_MAX`].
//!
//! A write or a deletion that is just on its way is not a difference worth a word. So each suspect is asked for again, in both buckets, when
//! the listings are through; what agrees by then is dropped. Two uploads of the same bytes (the mount sends what
//! replication missed) differ in ETag and agree in checksum, and count as the same.
//!
//! Listings tell neither mode nor owner: a change of those alone, lost on its way, is not seen here.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering as Relaxed};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::cos::{Attempt, Client, Deadlines, Error, Kind, List, ListPage, Listed, Progress};
use crate::object::{Key, OWN, Object, Site, Token};

/// Differences kept; at about 200 bytes each, 20 MB. More are counted.
pub const DIFFERENCES_MAX: usize = 100_000;
/// With more suspects than this, something is missing at large, and not on its way.
const SUSPECTS_MAX: usize = 10_000;
/// Suspects looked at together.
const TOGETHER: usize = 16;
/// Pages read ahead, a side.
const AHEAD: usize = 2;
/// Tries for one page: half a minute of trouble.
const TRIES: u32 = 6;

const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_secs(5),
    first_byte: Duration::from_secs(20),
    progress: Duration::from_secs(10),
};

/// How far the comparison is; for a progress bar.
#[derive(Debug, Default)]
pub struct Tally {
    pub keys: [AtomicU64; 2],
    pub differences: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    OnlyInA,
    OnlyInB,
    Differs,
}

/// What one bucket says of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Seen {
    pub size: u64,
    pub etag: String,
    /// Microseconds since 1970.
    pub modified: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    pub key: String,
    pub what: What,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a: Option<Seen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<Seen>,
}

/// Result of one comparison.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Report {
    /// Keys and bytes, `[a, b]`.
    pub keys: [u64; 2],
    pub bytes: [u64; 2],
    pub same: u64,
    pub only_in_a: u64,
    pub only_in_b: u64,
    pub differ: u64,
    /// Suspects that agreed when they were looked at again.
    pub settled: u64,
    pub seconds: f64,
    /// Sorted by key; at most [`DIFFERENCES_MAX`].
    #[serde(skip)]
    pub differences: Vec<Difference>,
}

impl Report {
    pub fn different(&self) -> u64 {
        self.only_in_a + self.only_in_b + self.differ
    }

    /// Age of the youngest difference, from its time of writing.
    pub fn youngest(&self, now: SystemTime) -> Option<Duration> {
        let of = |d: &Difference| d.a.iter().chain(&d.b).map(|seen| seen.modified).max();
        let micros = self.differences.iter().filter_map(of).max()?;
        Some(now.duration_since(SystemTime::UNIX_EPOCH + Duration::from_micros(micros)).unwrap_or_default())
    }

    fn count(&mut self, what: What, by: i64) {
        let field = match what {
            What::OnlyInA => &mut self.only_in_a,
            What::OnlyInB => &mut self.only_in_b,
            What::Differs => &mut self.differ,
        };
        *field = field.saturating_add_signed(by);
    }
}

/// Compares both buckets below `prefix`. Fails if one of the listings cannot be read to its end: half a comparison is none.
pub async fn compare(clients: &[Client; 2], prefix: &str, tally: &Tally) -> Result<Report, (Site, Error)> {
    let began = tokio::time::Instant::now();
    let mut report = Report::default();
    let mut sides = [Side::start(&clients[0], Site::A, prefix), Side::start(&clients[1], Site::B, prefix)];
    let own = format!("{prefix}{OWN}");
    loop {
        let [a, b] = &mut sides;
        a.fill().await?;
        b.fill().await?;
        let order = match (a.queue.front(), b.queue.front()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(x), Some(y)) => x.key.cmp(&y.key),
        };
        let left = if order.is_le() { a.queue.pop_front() } else { None };
        let right = if order.is_ge() { b.queue.pop_front() } else { None };
        if left.iter().chain(&right).any(|listed| listed.key.starts_with(&own)) {
            continue;
        }
        for (index, listed) in [&left, &right].into_iter().enumerate() {
            let Some(listed) = listed else { continue };
            report.keys[index] += 1;
            report.bytes[index] += listed.token.size;
            tally.keys[index].store(report.keys[index], Relaxed::Relaxed);
        }
        if let Some(found) = difference(left, right) {
            report.count(found.what, 1);
            tally.differences.fetch_add(1, Relaxed::Relaxed);
            if report.differences.len() < DIFFERENCES_MAX {
                report.differences.push(found);
            }
        } else {
            report.same += 1;
        }
    }
    if report.differences.len() <= SUSPECTS_MAX {
        look_again(clients, &mut report).await;
    }
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

fn difference(left: Option<Listed>, right: Option<Listed>) -> Option<Difference> {
    let (what, key) = match (&left, &right) {
        (Some(a), Some(b)) if a.token.size == b.token.size && a.token.etag == b.token.etag => return None,
        (Some(a), Some(_)) => (What::Differs, a.key.clone()),
        (Some(a), None) => (What::OnlyInA, a.key.clone()),
        (None, Some(b)) => (What::OnlyInB, b.key.clone()),
        (None, None) => return None,
    };
    let seen = |listed: Option<Listed>| listed.map(|listed| Seen::of(&listed.token));
    Some(Difference { key, what, a: seen(left), b: seen(right) })
}

impl Seen {
    fn of(token: &Token) -> Seen {
        Seen { size: token.size, etag: token.etag.0.clone(), modified: token.modified_micros }
    }
}

/// Asks both buckets for every suspect.
async fn look_again(clients: &[Client; 2], report: &mut Report) {
    let suspects = std::mem::take(&mut report.differences);
    let looked = futures::stream::iter(suspects)
        .map(|suspect| async move {
            let Ok(key) = Key::new(suspect.key.as_str()) else { return (Some(suspect.clone()), suspect.what) };
            let (a, b) = tokio::join!(head(&clients[0], &key), head(&clients[1], &key));
            let was = suspect.what;
            (settled(suspect, a, b), was)
        })
        .buffered(TOGETHER);
    let looked: Vec<_> = looked.collect().await;
    for (left, was) in looked {
        report.count(was, -1);
        match left {
            Some(difference) => {
                report.count(difference.what, 1);
                report.differences.push(difference);
            }
            None => report.settled += 1,
        }
    }
}

async fn head(client: &Client, key: &Key) -> Result<Option<Object>, Error> {
    let progress = Progress::new();
    let at = Attempt { deadlines: DEADLINES, ..Attempt::new(&progress) };
    match client.head(key, None, &at).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.kind == Kind::NoSuchKey => Ok(None),
        Err(error) => Err(error),
    }
}

/// What remains of a suspect after a second look; one that cannot be had leaves it as it was.
fn settled(
    suspect: Difference,
    a: Result<Option<Object>, Error>,
    b: Result<Option<Object>, Error>,
) -> Option<Difference> {
    let (Ok(a), Ok(b)) = (a, b) else { return Some(suspect) };
    let what = match (&a, &b) {
        (None, None) => return None,
        (Some(a), Some(b)) if same_content(a, b) => return None,
        (Some(_), Some(_)) => What::Differs,
        (Some(_), None) => What::OnlyInA,
        (None, Some(_)) => What::OnlyInB,
    };
    let seen = |object: Option<Object>| object.map(|object| Seen::of(&object.token));
    Some(Difference { what, a: seen(a), b: seen(b), ..suspect })
}

/// The same version, or the same bytes with the same headers.
pub fn same_content(a: &Object, b: &Object) -> bool {
    if a.token.version.is_some() && a.token.version == b.token.version {
        return true;
    }
    a.token.same_bytes(&b.token) && a.headers == b.headers
}

/// One listing, read ahead by a task of its own.
struct Side {
    site: Site,
    queue: VecDeque<Listed>,
    pages: mpsc::Receiver<Result<Vec<Listed>, Error>>,
    /// Ends with us.
    _reader: AbortOnDropHandle<()>,
}

impl Side {
    fn start(client: &Client, site: Site, prefix: &str) -> Side {
        let (sender, pages) = mpsc::channel(AHEAD);
        let reader = tokio::spawn(read_all(client.clone(), prefix.to_string(), sender));
        Side { site, queue: VecDeque::new(), pages, _reader: AbortOnDropHandle::new(reader) }
    }

    /// Leaves the queue empty only after the last key.
    async fn fill(&mut self) -> Result<(), (Site, Error)> {
        while self.queue.is_empty() {
            match self.pages.recv().await {
                Some(Ok(page)) => self.queue = page.into(),
                Some(Err(error)) => return Err((self.site, error)),
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

async fn read_all(client: Client, prefix: String, pages: mpsc::Sender<Result<Vec<Listed>, Error>>) {
    let mut query = List { prefix, delimiter: None, marker: None, max_keys: 1000 };
    loop {
        let (page, next) = match read_page(&client, &query).await {
            Ok(ListPage { objects, next, .. }) => (Ok(objects), next),
            Err(error) => (Err(error), None),
        };
        // Nobody listens any more when the comparison has failed.
        if pages.send(page).await.is_err() || next.is_none() {
            return;
        }
        query.marker = next;
    }
}

/// One page. A comparison of millions of keys takes minutes, and must not end because of one bad second.
async fn read_page(client: &Client, query: &List) -> Result<ListPage, Error> {
    let mut tried = 0;
    loop {
        let progress = Progress::new();
        let at = Attempt { deadlines: DEADLINES, alternate_domain: tried % 2 == 1, ..Attempt::new(&progress) };
        let error = match client.list(query, &at).await {
            Ok(page) => return Ok(page),
            Err(error) => error,
        };
        tried += 1;
        let pause = match error.kind {
            _ if tried >= TRIES => return Err(error),
            Kind::Throttled { retry_after } => retry_after.unwrap_or(Duration::from_secs(2)).min(DEADLINES.progress),
            Kind::Unreachable | Kind::FirstByteTimeout | Kind::Stalled | Kind::Server | Kind::Middlebox => {
                Duration::from_millis(250 << tried)
            }
            _ => return Err(error),
        };
        log::debug!("{error}; once more in {pause:?}");
        tokio::time::sleep(pause).await;
    }
}
