//! What programs wrote through the mount, read from the buckets by the official SDK: an eye that shares no code with this project.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::bucket::tree;
use crate::common::python::python;
use crate::common::{Bench, bytes};

/// Compares both buckets, name by name and byte by byte, with a local copy of the mount's tree.
fn compare(bench: &Bench, expected: &Path) -> Result<String, String> {
    let [a, b, _] = bench.emulator.ports;
    let output = Command::new("timeout")
        .arg("120")
        .arg(python())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mount/sdk.py"))
        .arg(expected)
        .args([a, b].map(|port| format!("127.0.0.1:{port}")))
        .env_remove("http_proxy")
        .env_remove("HTTP_PROXY")
        .output()
        .expect("timeout(1) runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(text) } else { Err(text) }
}

#[test]
fn the_official_sdk_reads_what_the_mount_wrote_before_and_in_an_outage() {
    let bench = Bench::start();
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store");
    bench.shell(&format!(
        "cp -r {sources} tree; mkdir 'a b+c~é(1)' 目录; echo one > 'a b+c~é(1)/q?x=1&y#z'; echo two > 目录/文件; : > empty
         for i in $(seq 20); do echo $i >> log; done"
    ));
    fs::write(bench.path("large"), bytes(7, 40 << 20)).unwrap();
    bench.emulator.black_hole("a");
    bench.shell("mv tree/ha.rs tree/moved.rs; rm tree/ask.rs; echo in the dark > dark; echo 21 >> log");
    let patched = bench.path("large");
    bench.shell("printf patched | dd of=large bs=1 seek=20000000 conv=notrunc status=none");
    bench.emulator.heal("a");
    bench.settle();

    let copy = bench.dir().join("expected");
    for (name, content) in tree(&bench.root).into_iter().filter(|(name, _)| !name.ends_with('/')) {
        let to = copy.join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, content).unwrap();
    }
    assert_eq!(fs::read(&patched).unwrap()[20_000_000..20_000_007], *b"patched");
    let said = compare(&bench, &copy).unwrap();
    assert!(said.contains("2 buckets agree with"), "{said}");

    // The comparison can fail: one byte is enough.
    fs::write(copy.join("dark"), b"in the dork\n").unwrap();
    let said = compare(&bench, &copy).unwrap_err();
    assert!(said.contains("dark"), "{said}");
}
