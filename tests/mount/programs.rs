//! Ordinary programs at ordinary work.

use std::fs;
use std::process::Command;

use crate::common::bucket::tree;
use crate::common::{Bench, detach};

/// Our own sources: a real tree that is always there.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

#[test]
fn a_tree_goes_in_and_out() {
    let bench = Bench::start();
    bench.shell(&format!(
        "cp -a {SOURCES} copy; diff -r {SOURCES} copy; tar cf all.tar copy; mkdir out; tar xf all.tar -C out; diff -r copy out/copy
         mv out/copy moved; rmdir out; diff -r copy moved; find moved -name '*.rs' | wc -l; rm -r moved; test ! -e moved"
    ));
    assert_eq!(tree(&bench.path("copy")).len(), tree(SOURCES.as_ref()).len());
}

#[test]
fn a_program_is_compiled_in_the_mount() {
    let bench = Bench::start();
    let said = bench.shell(
        "mkdir work; cd work
         printf '#include <stdio.h>\\nint twice(int);\\nint main(void) { printf(\"%%d\\\\n\", twice(21)); return 0; }\\n' > main.c
         printf 'int twice(int x) { return 2 * x; }\\n' > twice.c
         cc -c main.c; cc -c twice.c; ar rcs libtwice.a twice.o; cc main.o libtwice.a -o program; ./program",
    );
    assert_eq!(said, "42\n");
}

#[test]
fn git_works_in_the_mount() {
    let bench = Bench::start();
    let said = bench.shell(
        "export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
         git init -q repo; cd repo; git config user.email a@b; git config user.name n
         for i in 1 2 3 4 5; do echo line $i >> file; git add file; git commit -q -m \"commit $i\"; done
         git gc -q; git fsck; cd ..; git clone -q repo clone; diff repo/file clone/file; git -C clone log --oneline | wc -l",
    );
    assert_eq!(said.trim(), "5");
}

#[test]
fn editors_and_loggers_find_what_they_need() {
    let bench = Bench::start();
    bench.shell(
        "seq 1000 > numbers; sed -i 's/^7$/seven/' numbers; grep -q seven numbers; sort -r numbers -o numbers; head -1 numbers
         for i in $(seq 50); do echo $i >> log; done; test $(wc -l < log) = 50; test $(tail -1 log) = 50
         dd if=/dev/zero of=blocks bs=64k count=20 status=none; dd if=numbers of=blocks bs=1 seek=100 conv=notrunc status=none
         test $(stat -c %s blocks) = 1310720; truncate -s 100 blocks; test $(stat -c %s blocks) = 100
         touch -d '2001-02-03 04:05:06 UTC' blocks; test $(stat -c %Y blocks) = 981173106
         chmod 700 blocks; test $(stat -c %a blocks) = 700; ln -s numbers s; test $(readlink s) = numbers
         exec 9>locked; flock -n 9; df . > /dev/null; du -s . > /dev/null",
    );
}

#[test]
fn a_mount_inside_of_nothing_does_not_stop_others() {
    // Two mounts of the same program side by side share no folder, no socket and no lock.
    let (mut one, two) = (Bench::start(), Bench::start());
    fs::write(one.path("f"), b"one").unwrap();
    fs::write(two.path("f"), b"two").unwrap();
    assert_eq!(one.umount().status.code(), Some(0));
    assert_eq!(fs::read(two.path("f")).unwrap(), b"two");
    assert!(Command::new("findmnt").arg(&one.root).output().is_ok_and(|output| !output.status.success()));
    detach(&one.root);
}
