//! A file larger than the cache and than the daemon's memory.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::common::{Bench, Setup, bytes};

/// Mebibytes; `COSFS_HA_LARGE_MIB=2048` for the long run.
fn mib() -> u64 {
    std::env::var("COSFS_HA_LARGE_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(512)
}

fn disk_mib(bench: &Bench, folder: &str) -> u64 {
    let output = Command::new("du").args(["-sm", folder]).current_dir(bench.dir()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().and_then(|mib| mib.parse().ok()).unwrap()
}

#[test]
fn memory_and_disk_stay_bounded() {
    let cache_mib = 128;
    let mut bench = Bench::with(Setup { config: format!("size = \"{cache_mib}MiB\"\n"), ..Setup::default() });
    let block = bytes(5, 1 << 20);
    let mut sum = Sha256::new();
    let mut file = File::create(bench.path("large")).unwrap();
    for n in 0..mib() {
        let mut block = block.clone();
        block[..8].copy_from_slice(&n.to_le_bytes());
        sum.update(&block);
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let written = sum.finalize();
    let peak = bench.peak_mib();
    assert!(peak <= 300, "the daemon took {peak} MiB to write {} MiB", mib());
    bench.settle();

    let read = |bench: &Bench| {
        let mut sum = Sha256::new();
        let mut file = File::open(bench.path("large")).unwrap();
        let mut block = vec![0; 1 << 20];
        loop {
            match file.read(&mut block).unwrap() {
                0 => return sum.finalize(),
                n => sum.update(&block[..n]),
            }
        }
    };
    assert_eq!(read(&bench), written);
    // Again from nothing: another process, an empty cache.
    assert_eq!(bench.umount().status.code(), Some(0));
    std::fs::remove_dir_all(bench.dir().join("cache")).unwrap();
    bench.mount();
    assert_eq!(read(&bench), written);
    let peak = bench.peak_mib();
    assert!(peak <= 300, "the daemon took {peak} MiB to read {} MiB", mib());
    let (cache, journal) = (disk_mib(&bench, "cache"), disk_mib(&bench, "journal"));
    assert!(cache <= cache_mib + cache_mib / 8, "the cache takes {cache} MiB of {cache_mib}");
    assert!(journal <= 16, "the journal takes {journal} MiB with nothing to send");
}
