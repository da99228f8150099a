use std::collections::HashMap;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::object::{ETag, Epoch, Headers, Object, Stamp, VersionId};

const MIB: u64 = 1 << 20;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// Content of an object that is different at every place and for every name.
fn content(name: u64, size: u64) -> Bytes {
    let mut state = name.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(size as usize + 8);
    while (out.len() as u64) < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(size as usize);
    out.into()
}

fn token(version: u64, content: &[u8]) -> Token {
    Token {
        version: Some(VersionId::from_micros(1_700_000_000_000_000 + version)),
        etag: ETag(format!("{version}")),
        size: content.len() as u64,
        crc64: Some(data::crc64(content)),
        modified_micros: version,
        stamp: None,
    }
}

fn open(dir: &TempDir, limit: u64) -> Cache {
    Cache::open(dir.path(), limit).unwrap()
}

fn fill(file: &CachedFile, content: &Bytes) {
    for range in file.missing(0..file.size()) {
        file.write(range.start, content.slice(range.start as usize..range.end as usize));
    }
}

/// Bytes of all files below `data/`, as the disk counts them.
fn on_disk(dir: &TempDir) -> u64 {
    let root = dir.path().join("data");
    let folders = names(&root).into_iter().map(|folder| root.join(folder));
    let files = folders.flat_map(|folder| names(&folder).into_iter().map(move |name| folder.join(name)));
    files.map(|path| path.metadata().map_or(0, |meta| meta.blocks() * 512)).sum()
}

#[test]
fn blocks_come_back_as_they_were_also_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let text = content(1, 3 * MIB + 1234);
    let token = token(1, &text);
    let cache = open(&dir, 100 * MIB);
    let file = cache.file(&key("a"), &token);
    assert_eq!(file.missing(0..10), vec![0..MIB]);
    assert_eq!(file.missing(5..4 * MIB), vec![0..text.len() as u64]);
    file.write(MIB, text.slice(MIB as usize..2 * MIB as usize));
    assert_eq!(file.missing(0..u64::MAX), vec![0..MIB, 2 * MIB..text.len() as u64]);
    assert_eq!(file.read(MIB + 5..MIB + 9).unwrap(), text.slice(MIB as usize + 5..MIB as usize + 9));
    assert_eq!(file.read(MIB - 1..MIB + 1), None);
    // Not block-aligned, and not a whole block: neither is kept.
    file.write(7, text.slice(7..2 * MIB as usize));
    file.write(0, text.slice(0..1000));
    assert_eq!(file.missing(0..MIB), vec![0..MIB]);
    drop((file, cache));

    let cache = open(&dir, 100 * MIB);
    let file = cache.file(&key("a"), &token);
    assert_eq!(file.missing(0..u64::MAX), vec![0..MIB, 2 * MIB..text.len() as u64]);
    assert!(!file.is_verified());
    fill(&file, &text);
    assert!(file.is_complete());
    assert_eq!(file.read(0..u64::MAX).unwrap(), text);
    assert!(file.is_verified());
    let mut direct = vec![0; text.len()];
    file.file().unwrap().read_exact_at(&mut direct, 0).unwrap();
    assert_eq!(direct, text, "the file itself is the object, for the kernel to read");
}

#[test]
fn another_version_is_another_file() {
    let dir = TempDir::new().unwrap();
    let cache = open(&dir, 100 * MIB);
    let (old, new) = (content(1, 100), content(2, 100));
    fill(&cache.file(&key("a"), &token(1, &old)), &old);
    let second = cache.file(&key("a"), &token(2, &new));
    assert_eq!(second.read(0..100), None);
    fill(&second, &new);
    assert_eq!(cache.file(&key("a"), &token(1, &old)).read(0..100).unwrap(), old);
    assert_eq!(second.read(0..100).unwrap(), new);
}

#[test]
fn an_empty_object_is_complete() {
    let dir = TempDir::new().unwrap();
    let cache = open(&dir, MIB);
    let file = cache.file(&key("a"), &token(1, b""));
    assert!(file.is_complete());
    assert_eq!(file.read(0..10).unwrap(), Bytes::new());
    assert_eq!(file.missing(0..10), vec![]);
}

#[test]
fn a_complete_file_must_have_the_objects_checksum() {
    let dir = TempDir::new().unwrap();
    let cache = open(&dir, 100 * MIB);
    let text = content(1, 2 * MIB);
    let file = cache.file(&key("a"), &token(1, &text));
    file.write(0, text.slice(..MIB as usize));
    // A block as a broken middle box might deliver it.
    file.write(MIB, content(9, MIB));
    assert_eq!(file.read(0..2 * MIB), None);
    assert_eq!(file.missing(0..2 * MIB), vec![0..2 * MIB]);
    fill(&file, &text);
    assert_eq!(file.read(0..2 * MIB).unwrap(), text);
}

#[test]
fn damage_on_disk_is_a_miss() {
    type Damage = fn(&Path, &Path);
    let rows: [(&str, Damage); 7] = [
        ("bit in the data", |data, _| flip(data, 1_500_000)),
        ("bit in a checksum", |_, map| flip(map, map.metadata().unwrap().len() - 12)),
        ("bit in the header", |_, map| flip(map, 20)),
        ("data cut short", |data, _| truncate(data, MIB + 10)),
        ("map cut short", |_, map| truncate(map, 100)),
        ("no map", |_, map| std::fs::remove_file(map).unwrap()),
        ("data lost in a power cut", |data, _| {
            truncate(data, 0);
            truncate(data, 2 * MIB + 5);
        }),
    ];
    for (what, damage) in rows {
        let dir = TempDir::new().unwrap();
        let text = content(1, 2 * MIB + 5);
        let token = token(1, &text);
        let path = {
            let cache = open(&dir, 100 * MIB);
            let file = cache.file(&key("a"), &token);
            fill(&file, &text);
            file.label.data.clone()
        };
        damage(&path, &path.with_extension("map"));
        let cache = open(&dir, 100 * MIB);
        let file = cache.file(&key("a"), &token);
        assert_eq!(file.read(0..u64::MAX), None, "{what}");
        let mut missing = file.missing(0..u64::MAX);
        while !missing.is_empty() {
            fill(&file, &text);
            missing = file.missing(0..u64::MAX);
        }
        // Data lost as a whole shows block by block.
        for _ in 0..4 {
            if file.read(0..u64::MAX).is_none() {
                fill(&file, &text);
            }
        }
        assert_eq!(file.read(0..u64::MAX).as_ref(), Some(&text), "{what}: works again");
    }
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

fn truncate(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn the_bound_holds_and_the_longest_unused_goes_first() {
    let dir = TempDir::new().unwrap();
    let limit = 16 * MIB;
    let cache = open(&dir, limit);
    let texts: Vec<Bytes> = (0..30).map(|n| content(n, MIB)).collect();
    let hot = key("hot");
    for (n, text) in texts.iter().enumerate() {
        fill(&cache.file(&key(&format!("k{n}")), &token(n as u64, text)), text);
        let file = cache.file(&hot, &token(0, &texts[0]));
        fill(&file, &texts[0]);
        assert!(cache.stats().bytes <= limit);
        assert!(on_disk(&dir) <= limit, "{} bytes", on_disk(&dir));
    }
    assert!(cache.file(&hot, &token(0, &texts[0])).is_complete(), "used all the time");
    assert!(cache.file(&key("k29"), &token(29, &texts[29])).is_complete());
    assert!(!cache.file(&key("k1"), &token(1, &texts[1])).is_complete());
    assert!(cache.stats().bytes > limit / 2);
    drop(cache);

    // A smaller bound after a restart: enforced by the scan.
    let cache = open(&dir, 5 * MIB);
    while cache.stats().bytes == 0 || on_disk(&dir) > 5 * MIB {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(cache.stats().bytes <= 5 * MIB);
}

#[test]
fn files_in_use_go_only_when_they_alone_break_the_bound() {
    let dir = TempDir::new().unwrap();
    let limit = 16 * MIB;
    let cache = open(&dir, limit);
    let small: Vec<(Arc<CachedFile>, Bytes)> = (0..8)
        .map(|n| {
            let text = content(n, MIB);
            let file = cache.file(&key(&format!("k{n}")), &token(n, &text));
            fill(&file, &text);
            (file, text)
        })
        .collect();
    for n in 100..120 {
        let text = content(n, MIB);
        fill(&cache.file(&key(&format!("k{n}")), &token(n, &text)), &text);
    }
    assert!(small.iter().all(|(file, text)| file.read(0..MIB).as_ref() == Some(text)), "held files stay");
    // One object larger than the whole cache.
    let big = content(50, 40 * MIB);
    let file = cache.file(&key("big"), &token(50, &big));
    let kept = file.label.data.clone();
    for n in 0..40 {
        file.write(n * MIB, big.slice((n * MIB) as usize..((n + 1) * MIB) as usize));
        assert!(on_disk(&dir) <= limit + limit / 10 + MIB, "at block {n}: {}", on_disk(&dir));
        if let Some(got) = file.read(0..(n + 1) * MIB) {
            assert_eq!(got, big.slice(..((n + 1) * MIB) as usize));
        }
    }
    assert!(kept.starts_with(dir.path()));
    assert!(cache.stats().bytes <= limit + limit / 10);
}

#[test]
fn an_adopted_file_is_there_at_once_and_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let text = content(3, 5 * MIB + 3);
    let source = dir.path().join("source");
    std::fs::write(&source, &text).unwrap();
    let cache = open(&dir, 100 * MIB);
    cache.adopt(&key("a"), &token(3, &text), &source);
    let file = cache.file(&key("a"), &token(3, &text));
    assert!(file.is_complete());
    assert_eq!(file.read(0..u64::MAX).unwrap(), text);
    std::fs::remove_file(&source).unwrap();
    let map = file.label.map.clone();
    // The checksums follow in the background.
    while std::fs::read(&map).unwrap().ends_with(&[0; 8]) {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop((file, cache));
    let cache = open(&dir, 100 * MIB);
    assert_eq!(cache.file(&key("a"), &token(3, &text)).read(0..u64::MAX).unwrap(), text);
    // A file of another length, and one that is not there: nothing happens.
    cache.adopt(&key("b"), &token(4, b"xyz"), dir.path().join("lock").as_path());
    cache.adopt(&key("b"), &token(4, b"xyz"), dir.path().join("nowhere").as_path());
    assert!(!cache.file(&key("b"), &token(4, b"xyz")).is_complete());
}

#[test]
fn an_adopted_file_with_other_content_is_dropped() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("source");
    std::fs::write(&source, content(1, 100)).unwrap();
    let cache = open(&dir, 100 * MIB);
    let token = token(2, &content(2, 100));
    cache.adopt(&key("a"), &token, &source);
    let file = cache.file(&key("a"), &token);
    while file.is_complete() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(file.read(0..100), None);
}

#[test]
fn a_file_on_another_file_system_is_copied() {
    let (dir, shm) = (TempDir::new().unwrap(), TempDir::new_in("/dev/shm").unwrap());
    let text = content(3, 2 * MIB + 3);
    let source = shm.path().join("source");
    std::fs::write(&source, &text).unwrap();
    let cache = open(&dir, 100 * MIB);
    cache.adopt(&key("a"), &token(3, &text), &source);
    std::fs::remove_file(&source).unwrap();
    let file = cache.file(&key("a"), &token(3, &text));
    while !file.is_complete() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(file.read(0..u64::MAX).unwrap(), text);
}

#[test]
fn a_disk_that_refuses_is_a_cache_that_misses() {
    let dir = TempDir::new().unwrap();
    let cache = open(&dir, 100 * MIB);
    let text = content(1, MIB);
    let file = cache.file(&key("a"), &token(1, &text));
    // In the way of the folder the file would lie in.
    std::fs::write(file.label.data.parent().unwrap(), b"").unwrap();
    fill(&file, &text);
    assert_eq!(file.read(0..MIB), None);
    assert!(!cache.inner.is_writing(), "paused");
    assert_eq!(file.missing(0..MIB), vec![0..MIB]);
}

#[test]
fn handles_are_bounded_and_files_outlive_them() {
    let dir = TempDir::new().unwrap();
    let cache = open(&dir, 100 * MIB);
    let files: Vec<_> = (0..2 * evict::OPEN_MAX as u64)
        .map(|n| {
            let text = content(n, 100);
            let file = cache.file(&key(&format!("k{n}")), &token(n, &text));
            fill(&file, &text);
            (file, text)
        })
        .collect();
    let root = dir.path().canonicalize().unwrap().join("data");
    let handles = || {
        let links =
            std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        links.filter(|target| target.starts_with(&root)).count()
    };
    assert_eq!(handles(), 2 * evict::OPEN_MAX);
    assert!(files.iter().all(|(file, text)| file.read(0..100).as_ref() == Some(text)));
    assert_eq!(handles(), 2 * evict::OPEN_MAX);
}

#[test]
fn a_second_daemon_is_told_who_holds_the_directory() {
    let dir = TempDir::new().unwrap();
    let _cache = open(&dir, MIB);
    let error = Cache::open(dir.path(), MIB).err().unwrap().to_string();
    assert!(error.contains(&dir.path().display().to_string()), "{error}");
    assert!(error.contains(&std::process::id().to_string()), "{error}");
}

#[test]
fn many_threads_on_one_file() {
    let dir = TempDir::new().unwrap();
    let cache = open(&dir, 100 * MIB);
    let text = content(1, 16 * MIB + 77);
    let file = cache.file(&key("a"), &token(1, &text));
    std::thread::scope(|scope| {
        for t in 0..8 {
            let (file, text) = (&file, &text);
            scope.spawn(move || {
                for step in 0..51_u64 {
                    let n = (step * 5 + t * 3) % 17;
                    let span = n * MIB..((n + 1) * MIB).min(text.len() as u64);
                    let expected = text.slice(span.start as usize..span.end as usize);
                    match file.read(span.clone()) {
                        Some(got) => assert_eq!(got, expected),
                        None => file.write(span.start, expected),
                    }
                }
            });
        }
    });
    assert!(file.is_complete());
    assert_eq!(file.read(0..u64::MAX).unwrap(), text);
}

#[derive(Clone, Debug)]
enum Step {
    Write { file: u64, block: u64 },
    Read { file: u64, from: u64, len: u64 },
    Adopt { file: u64 },
    Corrupt { file: u64, at: u64, map: bool },
    Truncate { file: u64, at: u64, map: bool },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let file = 0..5_u64;
    prop_oneof![
        8 => (file.clone(), 0..4_u64).prop_map(|(file, block)| Step::Write { file, block }),
        8 => (file.clone(), 0..3 * MIB, 1..2 * MIB).prop_map(|(file, from, len)| Step::Read { file, from, len }),
        1 => file.clone().prop_map(|file| Step::Adopt { file }),
        1 => (file.clone(), 0..4 * MIB, any::<bool>()).prop_map(|(file, at, map)| Step::Corrupt { file, at, map }),
        1 => (file.clone(), 0..4 * MIB, any::<bool>()).prop_map(|(file, at, map)| Step::Truncate { file, at, map }),
        1 => Just(Step::Reopen),
    ]
}

fn size_of(file: u64) -> u64 {
    [3 * MIB + 17, 100, MIB, 2 * MIB + 1, 4 * MIB][file as usize]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Damage happens while the cache is closed, as a power cut or a bad disk does it. The bound is smaller than all files.
    #[test]
    fn a_read_never_returns_wrong_bytes(steps in prop::collection::vec(step(), 1..60)) {
        let dir = TempDir::new().unwrap();
        let limit = 7 * MIB;
        let texts: HashMap<u64, Bytes> = (0..5).map(|n| (n, content(n, size_of(n)))).collect();
        let mut cache = Some(open(&dir, limit));
        for step in steps {
            let at = |n: u64| cache.as_ref().unwrap().file(&key(&format!("k{n}")), &token(n, &texts[&n]));
            match step {
                Step::Write { file, block } => {
                    let span = block * MIB..((block + 1) * MIB).min(size_of(file));
                    if !span.is_empty() {
                        at(file).write(span.start, texts[&file].slice(span.start as usize..span.end as usize));
                    }
                }
                Step::Read { file, from, len } => {
                    let range = from.min(size_of(file))..(from + len).min(size_of(file));
                    let handle = at(file);
                    let missing = handle.missing(range.clone());
                    if let Some(got) = handle.read(range.clone()) {
                        prop_assert_eq!(&got, &texts[&file].slice(range.start as usize..range.end as usize));
                        prop_assert!(missing.is_empty());
                    }
                }
                Step::Adopt { file } => {
                    let source = dir.path().join("source");
                    std::fs::write(&source, &texts[&file]).unwrap();
                    cache.as_ref().unwrap().adopt(&key(&format!("k{file}")), &token(file, &texts[&file]), &source);
                    std::fs::remove_file(source).unwrap();
                }
                Step::Corrupt { file, at: place, map } | Step::Truncate { file, at: place, map } => {
                    let label = Arc::clone(&at(file).label);
                    drop(cache.take());
                    let path = if map { &label.map } else { &label.data };
                    if let Ok(meta) = path.metadata() && meta.len() > 0 {
                        let place = place % meta.len();
                        if matches!(step, Step::Corrupt { .. }) { flip(path, place) } else { truncate(path, place) }
                    }
                    cache = Some(open(&dir, limit));
                }
                Step::Reopen => {
                    drop(cache.take());
                    cache = Some(open(&dir, limit));
                }
            }
            // What earlier processes left is counted in the background; the bound holds from then on.
            let used = || cache.as_ref().unwrap().stats().bytes;
            let until = Instant::now() + Duration::from_secs(10);
            while used() > limit + limit / 10 && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            prop_assert!(used() <= limit + limit / 10, "{} bytes", used());
        }
    }
}

fn object(version: u64, stamp: Option<u64>) -> Known {
    let mut token = token(version, b"x");
    token.stamp = stamp.map(|seq| Stamp { mount: 1, epoch: Epoch(1), seq });
    Known::Present(Object { token, headers: Headers::default() })
}

fn absent(version: u64, stamp: Option<u64>) -> Known {
    Known::Absent {
        marker: Some(VersionId::from_micros(1_700_000_000_000_000 + version)),
        micros: 1_700_000_000_000_000 + version,
        stamp: stamp.map(|seq| Stamp { mount: 1, epoch: Epoch(1), seq }),
    }
}

#[test]
fn what_was_seen_never_goes_back() {
    let rows = [
        ("newer version", object(1, None), object(2, None), true),
        ("older version", object(2, None), object(1, None), false),
        ("our own later write, whatever the clocks", object(9, Some(1)), object(2, Some(2)), true),
        ("our own earlier write", object(2, Some(2)), object(9, Some(1)), false),
        ("deleted later", object(1, None), absent(2, None), true),
        ("deleted before", object(2, None), absent(1, None), false),
        ("written after the delete", absent(1, None), object(2, None), true),
        ("written before the delete", absent(2, None), object(1, None), false),
        ("our delete, then our older write", absent(1, Some(5)), object(9, Some(4)), false),
    ];
    for flushed in [false, true] {
        for (what, first, second, replaced) in &rows {
            let dir = TempDir::new().unwrap();
            let attrs = AttrIndex::open(&dir.path().join("attrs.redb"));
            attrs.see(&key("k"), first.clone());
            if flushed {
                attrs.flush();
            }
            attrs.see(&key("k"), second.clone());
            let expected = if *replaced { second } else { first };
            assert_eq!(attrs.get(&key("k")).as_ref(), Some(expected), "{what}");
        }
    }
}

#[test]
fn a_hundred_thousand_keys_survive_a_restart() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("attrs.redb");
    let attrs = AttrIndex::open(&path);
    let name = |n: u64| key(&format!("dir{}/file{n:06}", n % 10));
    for n in 0..100_000 {
        attrs.see(&name(n), object(n, None));
    }
    let check = |attrs: &AttrIndex| {
        assert!((0..100_000).step_by(97).all(|n| attrs.get(&name(n)) == Some(object(n, None))));
        let under = attrs.under("dir3/", usize::MAX);
        assert_eq!(under.len(), 10_000);
        assert!(under.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(attrs.under("dir3/", 5), under[..5]);
        assert_eq!(attrs.under("nothing", 5), vec![]);
    };
    check(&attrs);
    attrs.see(&key("dir3/a"), object(7, None));
    attrs.see(&name(3), object(200_000, None));
    let mixed = attrs.under("dir3/", 2);
    assert_eq!(mixed, vec![(key("dir3/a"), object(7, None)), (name(3), object(200_000, None))]);
    drop(attrs);
    let attrs = AttrIndex::open(&path);
    assert_eq!((attrs.len(), attrs.get(&name(3))), (100_001, Some(object(200_000, None))));
}

#[test]
fn above_its_cap_the_index_forgets_the_oldest() {
    let dir = TempDir::new().unwrap();
    let attrs = AttrIndex::open_with(&dir.path().join("attrs.redb"), 1000);
    for n in 0..3000 {
        attrs.see(&key(&format!("k{n:05}")), object(n, None));
        if n == 2000 {
            attrs.flush();
        }
    }
    for _ in 0..10 {
        attrs.see(&key("one-more"), object(attrs.len(), None));
        attrs.flush();
    }
    assert!(attrs.len() <= 1001, "{}", attrs.len());
    let remembered = (0..3000).filter(|n| attrs.get(&key(&format!("k{n:05}"))).is_some()).count();
    assert!((900..=1001).contains(&remembered), "{remembered}");
}

#[test]
fn a_damaged_index_is_begun_anew() {
    for damage in
        [|p: &Path| flip(p, 3), |p: &Path| truncate(p, 5000), |p: &Path| std::fs::write(p, "no database").unwrap()]
    {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("attrs.redb");
        let attrs = AttrIndex::open(&path);
        attrs.see(&key("k"), object(1, None));
        drop(attrs);
        damage(&path);
        let attrs = AttrIndex::open(&path);
        attrs.see(&key("j"), object(1, None));
        attrs.flush();
        assert_eq!(attrs.get(&key("j")), Some(object(1, None)));
    }
}

/// `cargo test --lib cache::tests::measure -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn measure() {
    let dir = TempDir::new_in(std::env::var("DIR").unwrap_or_else(|_| "/tmp".into())).unwrap();
    let text = content(1, 512 * MIB);
    let token = token(1, &text);
    let cache = open(&dir, 4096 * MIB);
    let speed = |what: &str, start: Instant| {
        println!("{what}: {:.2} GB/s", text.len() as f64 / start.elapsed().as_secs_f64() / 1e9);
    };
    let file = cache.file(&key("a"), &token);
    let start = Instant::now();
    for n in 0..512 {
        file.write(n * MIB, text.slice((n * MIB) as usize..((n + 1) * MIB) as usize));
    }
    speed("write", start);
    let read = |file: &CachedFile, what: &str, step: u64| {
        let start = Instant::now();
        for from in (0..512 * MIB).step_by(step as usize) {
            assert_eq!(file.read(from..from + step).unwrap().len() as u64, step);
        }
        speed(what, start);
    };
    read(&file, "read 128 KiB, trusted", 128 << 10);
    read(&file, "read 1 MiB, trusted", MIB);
    drop((file, cache));
    let cache = open(&dir, 4096 * MIB);
    let file = cache.file(&key("a"), &token);
    read(&file, "read 128 KiB, verifying", 128 << 10);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for half in 0..2 {
            let file = &file;
            scope.spawn(move || {
                for n in half * 256..(half + 1) * 256 {
                    file.read(n * MIB..(n + 1) * MIB).unwrap();
                }
            });
        }
    });
    speed("read 1 MiB, trusted, 2 threads", start);
    let start = Instant::now();
    cache.adopt(&key("b"), &token, &file.label.data);
    println!("adopt 512 MiB: {:?}", start.elapsed());
    let start = Instant::now();
    for n in 0..100_000 {
        cache.attrs().see(&key(&format!("k{n}")), object(n, None));
    }
    println!("see: {:.0}/s", 1e5 / start.elapsed().as_secs_f64());
    cache.attrs().flush();
    let start = Instant::now();
    for n in 0..100_000 {
        assert!(cache.attrs().get(&key(&format!("k{n}"))).is_some());
    }
    println!("get: {:.0}/s", 1e5 / start.elapsed().as_secs_f64());
}
