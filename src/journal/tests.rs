use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;

use futures::executor::block_on;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{Error, *};
use crate::object::{ETag, Headers, Token, VersionId};

mod disk_errors;
mod many_hands;

const LIMIT: u64 = 64 << 20;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// Nothing is committed by the clock, so that a copy of the directory never catches the database in the middle of a commit.
fn open(dir: &Path) -> (Journal, Recovery) {
    open_on(Arc::new(disk::RealDisk), dir)
}

fn open_on(disk: Arc<dyn disk::Disk>, dir: &Path) -> (Journal, Recovery) {
    let mut opened = recovery::open(disk, dir, LIMIT).unwrap();
    opened.writer.lazy = Duration::from_secs(3600);
    Journal::start(opened).unwrap()
}

fn delete(text: &str) -> NewRecord {
    NewRecord { key: key(text), op: Op::Delete { base: None }, epoch: Epoch(1) }
}

fn put(text: &str, id: SpoolId, content: &[u8]) -> NewRecord {
    let crc64 = Some(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, content));
    let op =
        Op::Put { data: Data::Spool(id), size: content.len() as u64, crc64, headers: Headers::default(), base: None };
    NewRecord { key: key(text), op, epoch: Epoch(1) }
}

fn spooled(journal: &Journal, content: &[u8], sync: bool) -> SpoolId {
    let staging = journal.spool().create().unwrap();
    staging.reserve(content.len() as u64).unwrap();
    staging.file().write_all_at(content, 0).unwrap();
    journal.spool().seal(&staging, sync).unwrap()
}

fn token(n: u64) -> Token {
    let version = Some(VersionId::from_micros(1_700_000_000_000_000 + n));
    Token { version, etag: ETag(format!("{n}")), size: n, crc64: Some(n), modified_micros: n, stamp: None }
}

/// What the directory looks like to the next process if this one is killed now.
fn snapshot(dir: &Path) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                std::fs::create_dir(&target).unwrap();
                copy(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let to = TempDir::new().unwrap();
    copy(dir, to.path());
    to
}

#[test]
fn a_record_lives_from_append_to_retire_and_over_a_restart() {
    let dir = TempDir::new().unwrap();
    let (journal, recovery) = open(dir.path());
    assert_eq!((recovery.ending, recovery.records), (Ending::New, 0));
    let mount = journal.mount_id();
    let id = spooled(&journal, b"hello", true);
    let record = block_on(journal.append(put("a/b", id, b"hello"), Persist::Synced)).unwrap();
    assert_eq!(journal.latest(&key("a/b")).unwrap(), record);
    let acked = Change::Acked { site: Site::A, token: Some(token(7)), marker: None };
    block_on(journal.mark(record.seq, acked, Persist::Buffered)).unwrap();
    journal.set_epoch(Epoch(4), Site::B).unwrap();
    let before = journal.all();
    drop(journal);

    let (journal, recovery) = open(dir.path());
    assert_eq!((recovery.ending, recovery.records, recovery.set_aside.len()), (Ending::Closed, 1, 0));
    assert_eq!((journal.mount_id(), journal.epoch()), (mount, (Epoch(4), Site::B)));
    assert_eq!(journal.all(), before);
    let mut text = [0; 5];
    journal.spool().open_file(id).unwrap().read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"hello");
    block_on(journal.retire(record.seq)).unwrap();
    assert!(journal.latest(&key("a/b")).is_none());
    assert_eq!(block_on(journal.retire(record.seq)), Err(Error::NoRecord(record.seq)));
    block_on(journal.sync()).unwrap();
    assert!(!journal.spool().path(id).exists());
    assert_eq!(journal.stats().bytes, 0);
    let next = block_on(journal.append(delete("a/b"), Persist::Buffered)).unwrap();
    assert!(next.seq > record.seq);
}

#[test]
fn what_is_to_be_removed_is_known_to_the_next_record_of_the_key() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    let version = VersionId::from_micros(1_700_000_000_000_000);
    let first = block_on(journal.append(delete("k"), Persist::Buffered)).unwrap();
    let change = Change::Condemned { version: version.clone() };
    block_on(journal.mark(first.seq, change, Persist::Buffered)).unwrap();
    block_on(journal.append(delete("k"), Persist::Buffered)).unwrap();
    block_on(journal.append(delete("other"), Persist::Buffered)).unwrap();
    block_on(journal.retire(first.seq)).unwrap();
    let copy = snapshot(dir.path());
    let (after, _) = open(copy.path());
    assert_eq!(after.latest(&key("k")).unwrap().condemned, [version]);
    assert!(after.latest(&key("other")).unwrap().condemned.is_empty());
}

#[test]
fn everything_acknowledged_outlives_a_kill() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    let mut expect = BTreeMap::new();
    for n in 0..50_u64 {
        let persist = if n % 10 == 0 { Persist::Synced } else { Persist::Buffered };
        let record = block_on(journal.append(delete(&format!("k{n}")), persist)).unwrap();
        expect.insert(record.seq, record);
    }
    let copy = snapshot(dir.path());
    let (after, recovery) = open(copy.path());
    assert_eq!(recovery.ending, Ending::Killed);
    assert_eq!(after.all(), expect.into_values().collect::<Vec<_>>());
    assert!(recovery.from_tail > 0, "the tail was in use: {recovery}");
}

#[test]
fn spool_counts_what_the_disk_holds_and_refuses_more() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path(), 1 << 20).unwrap();
    let spool = journal.spool();
    let staging = spool.create().unwrap();
    staging.reserve(600 << 10).unwrap();
    let full = staging.reserve(600 << 10).unwrap_err();
    assert_eq!((full.used, full.limit), (600 << 10, 1 << 20));
    let other = spool.reserve(400 << 10).unwrap();
    assert!(spool.reserve(400 << 10).is_err());
    drop(other);
    // A hole costs nothing; sealing corrects the count.
    staging.file().write_all_at(b"end", 500 << 10).unwrap();
    let first = spool.seal(&staging, true).unwrap();
    assert!(spool.used() <= 64 << 10, "{}", spool.used());
    let second = spool.link(first).unwrap();
    let again = spool.seal(&staging, false).unwrap();
    let used = spool.used();
    assert!(used > 0);
    spool.discard(first);
    drop(staging);
    assert_eq!(spool.used(), used, "other names keep the bytes");
    assert_eq!(spool.open_file(second).unwrap().metadata().unwrap().len(), (500 << 10) + 3);
    spool.discard(second);
    spool.discard(again);
    assert_eq!(spool.used(), 0);
    assert!(std::fs::read_dir(dir.path().join("staging")).unwrap().next().is_none());
}

#[test]
fn whoever_waits_for_room_gets_it() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path(), 1 << 20).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let reservation = journal.spool().reserve(1 << 20).unwrap();
        let waiting = journal.spool().freed();
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        drop(reservation);
        tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap();
        assert!(journal.spool().reserve(1 << 20).is_ok());
    });
}

#[test]
fn counts_follow_the_records() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    let mut seqs = Vec::new();
    for name in ["a", "b", "b", "ba", "c"] {
        seqs.push(block_on(journal.append(delete(name), Persist::Buffered)).unwrap().seq);
    }
    let mark = |n: usize, change| block_on(journal.mark(seqs[n], change, Persist::Buffered)).unwrap();
    mark(0, Change::Acked { site: Site::A, token: None, marker: None });
    mark(1, Change::Verified { site: Site::A });
    mark(1, Change::Verified { site: Site::B });
    mark(1, Change::Verified { site: Site::B });
    mark(2, Change::Ambiguous { site: Site::A });
    let stats = journal.stats();
    assert_eq!((stats.records, stats.unsent, stats.unverified, stats.unverified_on), (5, 3, 4, [4, 4]));
    assert_eq!(stats.ambiguous, 1);
    assert!(stats.oldest.is_some());
    mark(2, Change::Settled { site: Site::A });
    assert_eq!(journal.stats().ambiguous, 0);
    let keys = |records: Vec<Arc<Record>>| records.into_iter().map(|r| (r.key.to_string(), r.seq)).collect::<Vec<_>>();
    assert_eq!(keys(journal.under("b")), [("b".into(), seqs[2]), ("ba".into(), seqs[3])]);
    assert_eq!(keys(journal.of(&key("b"))), [("b".into(), seqs[1]), ("b".into(), seqs[2])]);
    for seq in seqs {
        block_on(journal.retire(seq)).unwrap();
    }
    let stats = journal.stats();
    assert_eq!((stats.records, stats.unsent, stats.unverified, stats.unverified_on), (0, 0, 0, [0, 0]));
}

#[test]
fn a_second_daemon_is_refused_with_directory_and_process() {
    let dir = TempDir::new().unwrap();
    let (_journal, _) = open(dir.path());
    let error = Journal::open(dir.path(), LIMIT).err().unwrap();
    assert_eq!(error, Error::Locked { dir: dir.path().into(), pid: Some(std::process::id()) });
    assert!(error.to_string().contains(&dir.path().display().to_string()));
}

#[test]
fn a_newer_format_is_left_alone() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()));
    // Said by the identity alone, and by the database alone.
    let path = dir.path().join("identity");
    let text = std::fs::read_to_string(&path).unwrap();
    let before = std::fs::read(dir.path().join("journal.redb")).unwrap();
    std::fs::write(&path, text.replace("\"format\":2", "\"format\":3")).unwrap();
    let error = Journal::open(dir.path(), LIMIT).err().unwrap();
    assert_eq!(error, Error::Newer { dir: dir.path().into(), found: 3, known: 2 });
    assert_eq!(std::fs::read(dir.path().join("journal.redb")).unwrap(), before);
    std::fs::write(&path, text).unwrap();
    {
        let db = redb::Database::open(dir.path().join("journal.redb")).unwrap();
        let txn = db.begin_write().unwrap();
        txn.open_table(redb::TableDefinition::<&str, u64>::new("meta")).unwrap().insert("format", 4).unwrap();
        txn.commit().unwrap();
    }
    let error = Journal::open(dir.path(), LIMIT).err().unwrap();
    assert_eq!(error, Error::Newer { dir: dir.path().into(), found: 4, known: 2 });
    assert!(!dir.path().join("set-aside").exists());
}

/// A directory with ten spooled records, half of them synced, as a kill leaves it.
fn used_dir() -> (TempDir, Vec<Arc<Record>>) {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    journal.set_epoch(Epoch(9), Site::B).unwrap();
    for n in 0..10_u8 {
        let content = vec![n; 1000 + n as usize];
        let id = spooled(&journal, &content, true);
        let persist = if n < 5 { Persist::Synced } else { Persist::Buffered };
        block_on(journal.append(put(&format!("k{n}"), id, &content), persist)).unwrap();
    }
    (snapshot(dir.path()), journal.all())
}

fn spool_path(dir: &Path, record: &Record) -> std::path::PathBuf {
    dir.join("spool").join(record.op.files()[0].0.to_string())
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 16], at).unwrap();
}

fn truncate(path: &Path, len: u64) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

/// What is taken up must be what was recorded, and its content whole.
fn check_taken_up(dir: &Path, journal: &Journal, written: &[Arc<Record>], what: &str) {
    for record in journal.all() {
        assert!(written.contains(&record), "{what}: record {record:?} was never written");
        let (_, size) = record.op.files()[0];
        assert_eq!(spool_path(dir, &record).metadata().unwrap().len(), size, "{what}");
    }
}

#[test]
fn damaged_files_cost_their_own_records_only() {
    type Damage = fn(&Path, &Record);
    let rows: [(&str, Damage, &str); 3] = [
        ("missing", |dir, r| std::fs::remove_file(spool_path(dir, r)).unwrap(), "is missing"),
        ("short", |dir, r| truncate(&spool_path(dir, r), 3), "has 3 of 1007 bytes"),
        (
            "wrong after a power cut",
            |dir, r| {
                flip(&spool_path(dir, r), 700);
                let identity = dir.join("identity");
                let text = std::fs::read_to_string(&identity).unwrap();
                let start = text.find("\"boot\":\"").unwrap() + 8;
                std::fs::write(&identity, format!("{}x{}", &text[..start], &text[start + 1..])).unwrap();
            },
            "did not survive the power cut",
        ),
    ];
    for (what, damage, words) in rows {
        let (dir, written) = used_dir();
        damage(dir.path(), &written[7]);
        let (journal, recovery) = open(dir.path());
        assert_eq!(journal.stats().records, 9, "{what}");
        assert!(journal.get(written[7].seq).is_none());
        let text = recovery.to_string();
        assert!(text.contains(words) && text.contains("k7"), "{what}: {text}");
        assert!(!text.contains("no record names it"), "{what}, told twice: {text}");
        check_taken_up(dir.path(), &journal, &written, what);
        let aside = recovery.aside_dir.unwrap();
        assert!(aside.join(format!("record-{}.json", written[7].seq)).exists(), "{what}");
        drop(journal);
        let (journal, recovery) = open(dir.path());
        assert_eq!((journal.stats().records, recovery.set_aside.len()), (9, 0), "{what}: said once");
    }
}

#[test]
fn a_file_that_no_record_names_is_set_aside() {
    let (dir, _) = used_dir();
    std::fs::write(dir.path().join("spool/00000000000000ff"), b"never acknowledged").unwrap();
    std::fs::write(dir.path().join("staging/00000000000000fe"), b"never sealed").unwrap();
    std::fs::write(dir.path().join("spool/notes.txt"), b"somebody else's").unwrap();
    let (journal, recovery) = open(dir.path());
    assert_eq!((journal.stats().records, recovery.set_aside.len()), (10, 1));
    let aside = recovery.aside_dir.unwrap();
    assert_eq!(std::fs::read(aside.join("00000000000000ff")).unwrap(), b"never acknowledged");
    assert!(!dir.path().join("staging/00000000000000fe").exists());
    assert!(dir.path().join("spool/notes.txt").exists());
    assert!(journal.stats().aside > 0, "what is set aside counts");
    assert!(journal.spool().create().is_ok());
}

#[test]
fn a_lost_database_is_begun_anew_and_nothing_is_deleted() {
    type Damage = fn(&Path);
    let rows: [(&str, Damage); 5] = [
        ("removed", |db| std::fs::remove_file(db).unwrap()),
        ("emptied", |db| truncate(db, 0)),
        ("cut short", |db| truncate(db, 6000)),
        ("no database", |db| std::fs::write(db, "something else entirely").unwrap()),
        ("first byte", |db| flip(db, 0)),
    ];
    for (what, damage) in rows {
        let (dir, written) = used_dir();
        let mount = { open(snapshot(dir.path()).path()).0.mount_id() };
        damage(&dir.path().join("journal.redb"));
        let (journal, recovery) = open(dir.path());
        assert!(recovery.begun_anew, "{what}");
        assert_eq!(journal.stats().records, 0, "{what}");
        assert_eq!(journal.epoch(), (Epoch(9), Site::B), "{what}: the second copy");
        assert_ne!(journal.mount_id(), mount, "{what}: numbers begin anew, so the id must");
        let aside = recovery.aside_dir.unwrap();
        for record in &written {
            assert!(aside.join(record.op.files()[0].0.to_string()).exists(), "{what}");
        }
        block_on(journal.append(delete("x"), Persist::Synced)).unwrap();
    }
}

#[test]
fn any_flipped_bit_in_the_database_never_brings_a_wrong_record() {
    let (dir, written) = used_dir();
    let len = dir.path().join("journal.redb").metadata().unwrap().len();
    let mut noticed = 0;
    for step in 0..60_u64 {
        let copy = snapshot(dir.path());
        // Dense in the head, then all over the file.
        let at = if step < 20 { step * 16 } else { (step * 104_729) % len };
        flip(&copy.path().join("journal.redb"), at);
        let (journal, recovery) = open(copy.path());
        check_taken_up(copy.path(), &journal, &written, &format!("bit at {at}"));
        let lost = 10 - journal.stats().records;
        if lost > 0 {
            noticed += 1;
            assert!(!recovery.set_aside.is_empty(), "bit at {at}: {lost} records lost without a word");
        }
    }
    assert!(noticed > 0, "no bit mattered: the test does not test");
}

#[test]
fn a_torn_tail_is_read_up_to_the_tear() {
    let (dir, written) = used_dir();
    let tail = std::fs::read(dir.path().join("tail")).unwrap();
    assert!(!tail.is_empty());
    let mut seen = std::collections::BTreeSet::new();
    for cut in (0..tail.len()).step_by(37) {
        let copy = snapshot(dir.path());
        truncate(&copy.path().join("tail"), cut as u64);
        let (journal, _) = open(copy.path());
        check_taken_up(copy.path(), &journal, &written, "torn tail");
        let all = journal.all();
        assert_eq!(all, written[..all.len()], "no gap");
        assert!(all.len() >= 5, "what the database has stays");
        seen.insert(all.len());
    }
    assert!(seen.len() > 2, "{seen:?}");
    for at in (0..tail.len()).step_by(41) {
        let copy = snapshot(dir.path());
        flip(&copy.path().join("tail"), at as u64);
        let (journal, _) = open(copy.path());
        check_taken_up(copy.path(), &journal, &written, "flipped tail");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append { name: u8, size: Option<u16>, synced: bool },
    Mark { which: usize, what: u8, synced: bool },
    Retire { which: usize },
    Kill,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u8, prop::option::of(0..5000_u16), any::<bool>())
            .prop_map(|(name, size, synced)| Step::Append { name, size, synced }),
        6 => (0..100_usize, 0..8_u8, any::<bool>()).prop_map(|(which, what, synced)| Step::Mark { which, what, synced }),
        3 => (0..100_usize).prop_map(|which| Step::Retire { which }),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
    ]
}

fn change(what: u8) -> Change {
    match what {
        0 => Change::Sent { site: Site::A },
        1 => Change::Acked { site: Site::A, token: Some(token(1)), marker: None },
        2 => Change::Acked { site: Site::B, token: None, marker: Some(VersionId::from_micros(1_700_000_000_000_000)) },
        3 => Change::Verified { site: Site::A },
        4 => Change::Verified { site: Site::B },
        5 => Change::Ambiguous { site: Site::B },
        6 => Change::Settled { site: Site::B },
        _ => Change::Epoch(Epoch(7)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_journal_is_the_model(steps in prop::collection::vec(step(), 1..50)) {
        let mut dir = TempDir::new().unwrap();
        let (mut journal, _) = open(dir.path());
        let mut model: BTreeMap<u64, Record> = BTreeMap::new();
        let mut last = 0;
        for step in steps {
            let pick = |which: usize| model.keys().nth(which % model.len().max(1)).copied();
            let persist = |synced| if synced { Persist::Synced } else { Persist::Buffered };
            match step {
                Step::Append { name, size, synced } => {
                    let name = format!("d/{name}");
                    let new = match size {
                        Some(size) => {
                            let content = vec![name.len() as u8; size as usize];
                            put(&name, spooled(&journal, &content, synced), &content)
                        }
                        None => delete(&name),
                    };
                    let record = block_on(journal.append(new, persist(synced))).unwrap();
                    prop_assert!(record.seq > last);
                    last = record.seq;
                    model.insert(record.seq, Record::clone(&record));
                }
                Step::Mark { which, what, synced } => {
                    if let Some(seq) = pick(which) {
                        block_on(journal.mark(seq, change(what), persist(synced))).unwrap();
                        let record = model.get_mut(&seq).unwrap();
                        if let Some(next) = record.with(&change(what)) {
                            *record = next;
                        }
                    }
                }
                Step::Retire { which } => {
                    if let Some(seq) = pick(which) {
                        block_on(journal.retire(seq)).unwrap();
                        model.remove(&seq);
                    }
                }
                Step::Kill => {
                    let copy = snapshot(dir.path());
                    drop(journal);
                    dir = copy;
                    let recovery;
                    (journal, recovery) = open(dir.path());
                    prop_assert_eq!(recovery.ending, Ending::Killed);
                    prop_assert_eq!(recovery.set_aside, vec![]);
                }
                Step::Close => {
                    drop(journal);
                    let recovery;
                    (journal, recovery) = open(dir.path());
                    prop_assert_eq!(recovery.ending, Ending::Closed);
                    prop_assert_eq!(recovery.set_aside, vec![]);
                }
            }
            let all: Vec<Record> = journal.all().iter().map(|r| Record::clone(r)).collect();
            prop_assert_eq!(&all, &model.values().cloned().collect::<Vec<_>>());
            let latest: BTreeMap<&Key, &Record> = model.values().map(|r| (&r.key, r)).collect();
            let under: Vec<Record> = journal.under("d/").iter().map(|r| Record::clone(r)).collect();
            prop_assert_eq!(under, latest.into_values().cloned().collect::<Vec<_>>());
        }
        block_on(journal.sync()).unwrap();
        let files = std::fs::read_dir(dir.path().join("spool")).unwrap().count();
        prop_assert_eq!(files, model.values().filter(|r| !r.op.files().is_empty()).count(), "no file is left over");
    }
}

/// `cargo test --release --lib journal::tests::measure -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn measure() {
    let dir = TempDir::new_in(std::env::var("DIR").unwrap_or_else(|_| "/tmp".into())).unwrap();
    let (journal, _) = Journal::open(dir.path(), 1 << 30).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let journal = Arc::new(journal);
    for persist in [Persist::Synced, Persist::Buffered] {
        for tasks in [1, 16, 128] {
            let start = std::time::Instant::now();
            let done: usize = runtime.block_on(async {
                let run = |t| {
                    let journal = Arc::clone(&journal);
                    tokio::spawn(async move {
                        let mut n = 0;
                        while start.elapsed() < Duration::from_secs(2) {
                            journal.append(delete(&format!("{t}/{n}")), persist).await.unwrap();
                            n += 1;
                        }
                        n
                    })
                };
                let all: Vec<_> = (0..tasks).map(run).collect();
                let mut sum = 0;
                for task in all {
                    sum += task.await.unwrap();
                }
                sum
            });
            println!("{persist:?}, {tasks} tasks: {:.0} appends/s", done as f64 / start.elapsed().as_secs_f64());
        }
    }
    let start = std::time::Instant::now();
    for n in 0..5000 {
        let id = spooled(&journal, b"4 KiB or less", false);
        runtime.block_on(journal.append(put(&format!("s{n}"), id, b"4 KiB or less"), Persist::Buffered)).unwrap();
    }
    println!("create, write, seal, append buffered: {:.0}/s", 5000.0 / start.elapsed().as_secs_f64());
    let records = journal.stats().records;
    drop(journal);
    let start = std::time::Instant::now();
    let _again = Journal::open(dir.path(), 1 << 30).unwrap();
    println!("open with {records} records: {:?}", start.elapsed());
}
