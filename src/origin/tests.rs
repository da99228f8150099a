use futures::StreamExt;

use super::*;
use crate::config::{Origin as Config, Rate, Size};
use crate::object::{ETag, Headers};

fn object(content: &[u8], micros: u64) -> Object {
    let crc64 = Some(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, content));
    let etag = ETag(format!("{micros}"));
    let size = content.len() as u64;
    Object {
        token: Token { version: None, etag, size, crc64, modified_micros: micros, stamp: None },
        headers: Headers::default(),
    }
}

fn pieces(content: &'static [u8]) -> Pieces {
    futures::stream::iter(content.chunks(3).map(|piece| Ok(Bytes::from_static(piece)))).boxed()
}

fn config(dir: &Path) -> Config {
    Config { url: Some(format!("file://{}", dir.join("there").display())), write: true, ..Config::default() }
}

fn open(dir: &Path, config: &Config) -> Origin {
    Origin::open(config, dir).unwrap().unwrap()
}

#[tokio::test]
async fn what_was_put_is_found_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let origin = open(dir.path(), &config(dir.path()));
    let (key, old, new) = (Key::new("d/a b").unwrap(), object(b"0123456789", 1), object(b"9876543210", 2));
    origin.put(&key, &old, pieces(b"0123456789")).await.unwrap();
    assert_eq!(origin.get(&key, &old.token, &(2..5), None).await.unwrap(), "234");
    assert_eq!(
        origin.get(&key, &new.token, &(2..5), None).await,
        Err(Error::Unproven),
        "another version than asked for"
    );
    assert_eq!(origin.kept(), (1, 10));
    // Somebody else wrote it there: only the whole content can prove it.
    std::fs::write(dir.path().join("there/d/a b"), b"9876543210").unwrap();
    assert_eq!(origin.get(&key, &old.token, &(2..5), None).await, Err(Error::Unproven));
    assert_eq!(origin.get(&key, &new.token, &(2..5), None).await.unwrap(), "765");
    let absent = Key::new("absent").unwrap();
    assert_eq!(origin.get(&absent, &new.token, &(0..1), None).await, Err(Error::Missing));
}

#[tokio::test]
async fn the_index_survives_and_says_what_is_no_longer_hot() {
    let dir = tempfile::tempdir().unwrap();
    let key = Key::new("k").unwrap();
    let config = Config { hot_window: Duration::from_millis(300), ..config(dir.path()) };
    {
        let origin = open(dir.path(), &config);
        origin.put(&key, &object(b"abc", 1), pieces(b"abc")).await.unwrap();
        assert!(origin.cooled().is_empty());
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    let origin = open(dir.path(), &config);
    assert!(origin.knows(&key, &object(b"abc", 1).token));
    assert_eq!(origin.cooled().len(), 1);
    origin.remove(&key).await.unwrap();
    assert!(origin.cooled().is_empty() && !origin.holds(&key) && !dir.path().join("there/k").exists());
    drop(origin);
    assert_eq!(open(dir.path(), &config).kept(), (0, 0));
}

#[test]
fn the_backlog_is_bounded_and_keeps_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { backlog: Size(25), ..config(dir.path()) };
    let origin = open(dir.path(), &config);
    let key = |n: u32| Key::new(format!("k{n}")).unwrap();
    for n in 0..4 {
        origin.note(&key(n), &object(b"0123456789", 1));
    }
    origin.note(&key(2), &object(b"01234", 2));
    assert_eq!(origin.waiting(), (2, 15));
    assert_eq!(origin.counters.dropped.load(Ordering::Relaxed), 2);
    let order: Vec<String> =
        std::iter::from_fn(|| origin.next()).map(|(key, o)| format!("{key} {}", o.token.size)).collect();
    assert_eq!(order, ["k3 10", "k2 5"]);
    assert_eq!(origin.waiting(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_pace_holds_over_half_a_minute() {
    let pace = Pace::new(1_000_000);
    let began = Instant::now();
    let mut sent = 0u64;
    // Pieces of odd sizes, and a rest in between that must not be made up for later.
    while began.elapsed() < Duration::from_secs(30) {
        let piece = 10_000 + sent % 90_000;
        pace.take(piece).await;
        sent += piece;
    }
    assert!((27_000_000..=33_000_000).contains(&sent), "{sent}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (again, mut more) = (Instant::now(), 0u64);
    while again.elapsed() < Duration::from_secs(1) {
        pace.take(50_000).await;
        more += 50_000;
    }
    assert!(more <= 2_150_000, "{more}");
}

#[test]
fn addresses() {
    let dir = tempfile::tempdir().unwrap();
    let with = |url: &str| Config { url: Some(url.into()), bandwidth: Rate(1), ..Config::default() };
    assert!(Origin::open(&Config::default(), dir.path()).unwrap().is_none());
    for url in ["ftp://x/", "s3"] {
        assert!(Origin::open(&with(url), dir.path()).is_err(), "{url}");
    }
    assert!(Origin::open(&with("http://127.0.0.1:1/folder"), dir.path()).is_ok());
}
