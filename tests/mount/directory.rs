//! A directory with very many names.

use std::fs;

use bytes::Bytes;
use cosfs_ha::object::Site;

use crate::common::{Bench, Setup};

const NAMES: usize = 100_000;

#[test]
fn a_hundred_thousand_names_are_listed_exactly() {
    let bench = Bench::with(Setup { config: "[mount]\nmetadata_ttl = \"60s\"\n".into(), ..Setup::default() });
    let bucket = bench.emulator.bucket(Site::A);
    let name = |n: usize| format!("file-{n:06}");
    bucket.put_many((0..NAMES).map(|n| (format!("big/{}", name(n)), Bytes::from_static(b"x"))).collect());
    let list = || {
        let mut names: Vec<String> = fs::read_dir(bench.path("big"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let names = list();
    assert!(names.iter().cloned().eq((0..NAMES).map(name)), "{} names", names.len());
    assert_eq!(fs::read(bench.path("big/file-077777")).unwrap(), b"x");
    fs::write(bench.path("big/new"), b"n").unwrap();
    fs::remove_file(bench.path("big/file-000000")).unwrap();
    let names = list();
    assert_eq!(
        (names.len(), names.first().unwrap().as_str(), names.last().unwrap().as_str()),
        (NAMES, "file-000001", "new")
    );
}
