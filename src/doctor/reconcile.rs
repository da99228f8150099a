//! Brings both buckets to the same content, for the keys in which they differ.
//!
//! "Only in B" has two opposite cures: copy it to A, or delete it in B, if somebody deleted it in A and the marker was never carried over. The
//! history decides: both buckets keep versions and delete markers, and the newest entry of the two histories is what people last
//! wanted. A difference whose order cannot be told is left alone and counted.
//!
//! The bytes are copied inside the service (PUT Object - Copy, or by parts), pinned to the version that was decided on. A copy is a new version at its
//! target; if the source has moved on when the copy is done, the copy would hide a newer write that is just arriving, and so it is
//! removed again, by version id.
//!
//! Safe beside running mounts: they see a newer version of the same content.

use std::cmp::Ordering;
use std::time::Duration;

use crate::cos::{self, Attempt, Client, Deadlines, Error, Kind, ListVersions, Progress};
use crate::object::{Key, Object, Site, Token, VersionId};

use super::coverage::{Difference, same_content};

/// A copy of up to 5 GiB happens inside one answer.
const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_secs(5),
    first_byte: Duration::from_secs(300),
    progress: Duration::from_secs(300),
};

/// Largest object that one request may copy ("PUT Object - Copy": 5 GB).
const COPY_MAX: u64 = 5_000_000_000;
/// Parts of larger ones. 10000 of these are 10 TB, more than an object may have.
const PART: u64 = 1 << 30;
/// Versions of one key that are looked through for the newest. They come newest first.
const VERSIONS_SEEN: u32 = 100;

/// What is to be done about one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Copy {
        from: Site,
        version: VersionId,
        size: u64,
    },
    /// A deletion that was not carried over.
    Delete {
        at: Site,
    },
    /// Agrees by now.
    Nothing,
    /// Which one is newer cannot be told.
    Undecided,
}

/// The newest entry of one key's history in one bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Newest {
    /// Never there, as far as the history goes.
    Absent,
    /// Deleted, at this moment if the version id tells.
    Deleted(Option<u64>),
    Object(Box<Object>),
}

/// Looks at the history of a key in both buckets.
pub async fn plan(clients: &[Client; 2], difference: &Difference) -> Result<Step, Error> {
    let Ok(key) = Key::new(difference.key.as_str()) else { return Ok(Step::Undecided) };
    let (a, b) = tokio::try_join!(newest(&clients[0], &key), newest(&clients[1], &key))?;
    Ok(decide(&a, &b))
}

async fn newest(client: &Client, key: &Key) -> Result<Newest, Error> {
    let query = ListVersions { prefix: key.to_string(), max_keys: VERSIONS_SEEN, ..ListVersions::default() };
    let page = request(async |at| client.list_versions(&query, &at).await).await?;
    let of_key = page.entries.iter().filter(|entry| entry.key == key.as_str());
    let Some(entry) = cos::current(of_key) else { return Ok(Newest::Absent) };
    if entry.marker {
        return Ok(Newest::Deleted(entry.version.commit_micros()));
    }
    // Listings know neither checksum nor stamp, and both help to decide.
    match request(async |at| client.head(key, Some(&entry.version), &at).await).await {
        Ok(object) => Ok(Newest::Object(Box::new(object))),
        Err(error) if matches!(error.kind, Kind::NoSuchKey | Kind::NoSuchVersion) => Ok(Newest::Absent),
        Err(error) => Err(error),
    }
}

fn decide(a: &Newest, b: &Newest) -> Step {
    let copy = |from: Site, object: &Object| match &object.token.version {
        Some(version) => Step::Copy { from, version: version.clone(), size: object.token.size },
        None => Step::Undecided,
    };
    let moment = |object: &Object| object.token.version.as_ref().and_then(VersionId::commit_micros);
    let against = |object: &Object, deleted: Option<u64>| Some(moment(object)?.cmp(&deleted?));
    match (a, b) {
        (Newest::Object(a), Newest::Object(b)) if same_content(a, b) => Step::Nothing,
        (Newest::Object(x), Newest::Object(y)) => match x.token.order(&y.token) {
            Some(Ordering::Greater) => copy(Site::A, x),
            Some(Ordering::Less) => copy(Site::B, y),
            // The same bytes with other headers (a chmod, say), or no order but that of the version ids.
            Some(Ordering::Equal) | None => match (moment(x), moment(y)) {
                (Some(p), Some(q)) if p > q => copy(Site::A, x),
                (Some(p), Some(q)) if p < q => copy(Site::B, y),
                _ => Step::Undecided,
            },
        },
        (Newest::Object(object), Newest::Absent) => copy(Site::A, object),
        (Newest::Absent, Newest::Object(object)) => copy(Site::B, object),
        (Newest::Object(object), Newest::Deleted(when)) => match against(object, *when) {
            Some(Ordering::Less) => Step::Delete { at: Site::A },
            Some(_) => copy(Site::A, object),
            None => Step::Undecided,
        },
        (Newest::Deleted(when), Newest::Object(object)) => match against(object, *when) {
            Some(Ordering::Less) => Step::Delete { at: Site::B },
            Some(_) => copy(Site::B, object),
            None => Step::Undecided,
        },
        (Newest::Absent | Newest::Deleted(_), Newest::Absent | Newest::Deleted(_)) => Step::Nothing,
    }
}

/// Does one step. `false`: the key changed meanwhile, and was left as it is.
pub async fn take(clients: &[Client; 2], key: &str, step: &Step) -> Result<bool, Error> {
    let Ok(key) = Key::new(key) else { return Ok(false) };
    match step {
        Step::Nothing | Step::Undecided => Ok(false),
        Step::Delete { at } => {
            request(async |attempt| clients[at.index()].delete(&key, None, &attempt).await).await.map(|_| true)
        }
        Step::Copy { from, version, size } => copy(clients, &key, *from, version, *size).await,
    }
}

async fn copy(clients: &[Client; 2], key: &Key, from: Site, version: &VersionId, size: u64) -> Result<bool, Error> {
    let (source, target) = (&clients[from.index()], &clients[from.other().index()]);
    let made = if size <= COPY_MAX {
        let what = source.copy_source(key, Some(version)).sized(size);
        request(async |at| target.copy(&what, key, None, &at).await).await?
    } else {
        copy_large(source, target, key, version, size).await?
    };
    let now = request(async |at| source.head(key, None, &at).await).await;
    let unmoved = match now {
        Ok(object) => object.token.version.as_ref() == Some(version),
        Err(error) if error.kind == Kind::NoSuchKey => false,
        Err(error) => return Err(error),
    };
    if !unmoved && made.version.is_some() {
        request(async |at| target.delete(key, made.version.as_ref(), &at).await).await?;
    }
    Ok(unmoved)
}

async fn copy_large(
    source: &Client,
    target: &Client,
    key: &Key,
    version: &VersionId,
    size: u64,
) -> Result<Token, Error> {
    let object = request(async |at| source.head(key, Some(version), &at).await).await?;
    let upload = request(async |at| target.initiate(key, &object.headers, object.token.stamp, &at).await).await?;
    let what = source.copy_source(key, Some(version));
    let mut parts = Vec::new();
    let made = async {
        for (number, start) in (1u32..).zip((0..size).step_by(1 << 30)) {
            let range = start..(start + PART).min(size);
            parts.push(
                request(async |at| target.upload_part_copy(key, &upload, number, &what, range.clone(), &at).await)
                    .await?,
            );
        }
        request(async |at| target.complete(key, &upload, &parts, &at).await).await
    }
    .await;
    if made.is_err() {
        // It fails where the first failure came from; the lifecycle rule removes what remains.
        let _ = request(async |at| target.abort(key, &upload, &at).await).await;
    }
    made
}

async fn request<T>(send: impl AsyncFn(Attempt<'_>) -> Result<T, Error>) -> Result<T, Error> {
    let progress = Progress::new();
    send(Attempt { deadlines: DEADLINES, ..Attempt::new(&progress) }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{ETag, Headers};

    fn object(at: u64, etag: &str) -> Newest {
        let token = Token {
            version: Some(VersionId::from_micros(at)),
            etag: ETag(etag.into()),
            size: 5,
            crc64: None,
            modified_micros: at,
            stamp: None,
        };
        Newest::Object(Box::new(Object { token, headers: Headers::default() }))
    }

    #[test]
    fn the_newest_entry_of_both_histories_wins() {
        const T: u64 = 1_700_000_000_000_000;
        let from = |from| move |step: &Step| matches!(step, Step::Copy { from: f, .. } if *f == from);
        type Is = Box<dyn Fn(&Step) -> bool>;
        let is = |step: Step| -> Is { Box::new(move |found| *found == step) };
        let rows: Vec<(Newest, Newest, Is)> = vec![
            (object(T, "x"), Newest::Absent, Box::new(from(Site::A))),
            (object(T + 9, "x"), object(T, "y"), Box::new(from(Site::A))),
            (object(T, "x"), Newest::Deleted(Some(T - 9)), Box::new(from(Site::A))),
            (object(T, "x"), Newest::Deleted(Some(T + 9)), is(Step::Delete { at: Site::A })),
            (object(T, "x"), Newest::Deleted(None), is(Step::Undecided)),
            (object(T, "x"), object(T + 9, "x"), is(Step::Nothing)),
            (Newest::Absent, Newest::Deleted(Some(T)), is(Step::Nothing)),
        ];
        for (a, b, expect) in rows {
            assert!(expect(&decide(&a, &b)), "{a:?} {b:?}: {:?}", decide(&a, &b));
            let mirrored = match decide(&b, &a) {
                Step::Copy { from, version, size } => Step::Copy { from: from.other(), version, size },
                Step::Delete { at } => Step::Delete { at: at.other() },
                other => other,
            };
            assert!(expect(&mirrored), "mirrored {a:?} {b:?}: {mirrored:?}");
        }
    }
}
