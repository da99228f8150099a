//! Who writes when: callers, the thread, both at the same time, and a process that is killed meanwhile.

use super::*;

#[test]
fn what_is_buffered_reaches_the_database_by_itself() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path(), LIMIT).unwrap();
    let tail = dir.path().join("tail");
    for n in 0..3 {
        block_on(journal.append(delete(&format!("k{n}")), Persist::Buffered)).unwrap();
        let begun = std::time::Instant::now();
        while tail.metadata().unwrap().len() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "still in the tail");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let killed = snapshot(dir.path());
    assert_eq!(open(killed.path()).0.all().len(), 3);
}

/// A file changed in many places makes a record of megabytes.
#[test]
fn a_record_too_large_for_the_tail_harms_no_other() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    let ranges = (0..60_000).map(|n| (n * 1_000_003, n * 1_000_003 + 7)).collect();
    let base = Base { key: key("large"), token: token(1) };
    let overlay = Overlay { file: None, ranges, crc64: None, base, shown: 1 << 40 };
    let data = Data::Patch { overlays: vec![overlay], whole: None };
    let op = Op::Put { data, size: 1 << 40, crc64: None, headers: Headers::default(), base: None };
    let before = block_on(journal.append(delete("before"), Persist::Buffered)).unwrap();
    let large = NewRecord { key: key("large"), op, epoch: Epoch(1) };
    let large = block_on(journal.append(large, Persist::Buffered)).unwrap();
    let after = block_on(journal.append(delete("after"), Persist::Buffered)).unwrap();
    let killed = snapshot(dir.path());
    let (journal, _) = open(killed.path());
    let found: Vec<u64> = journal.all().iter().map(|record| record.seq).collect();
    assert_eq!(found, [before.seq, large.seq, after.seq]);
}

#[test]
fn many_hands_at_once_lose_nothing() {
    const HANDS: u64 = 8;
    const EACH: u64 = 400;
    let dir = TempDir::new().unwrap();
    let (journal, _) = Journal::open(dir.path(), LIMIT).unwrap();
    std::thread::scope(|scope| {
        for hand in 0..HANDS {
            let journal = &journal;
            scope.spawn(move || {
                for n in 0..EACH {
                    let persist = if n % 50 == hand { Persist::Synced } else { Persist::Buffered };
                    let record = block_on(journal.append(delete(&format!("{hand}-{n}")), persist)).unwrap();
                    block_on(journal.mark(record.seq, Change::Sent { site: Site::B }, Persist::Buffered)).unwrap();
                    if n % 2 == 0 {
                        block_on(journal.retire(record.seq)).unwrap();
                    }
                }
            });
        }
    });
    drop(journal);
    let (journal, _) = open(dir.path());
    let all = journal.all();
    assert_eq!(all.len() as u64, HANDS * EACH / 2);
    assert!(all.iter().all(|record| record.sent == [false, true]));
}

const CHILD: &str = "COSFS_HA_TEST_JOURNAL";

/// Runs in the child of the next test: writes and says what was acknowledged, until killed.
#[test]
#[ignore = "started by a_killed_process_loses_nothing_it_acknowledged"]
fn child_that_is_killed() {
    use std::io::Write;
    let Ok(dir) = std::env::var(CHILD) else { return };
    let (journal, _) = Journal::open(Path::new(&dir), LIMIT).unwrap();
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).unwrap();
    };
    std::thread::scope(|scope| {
        for t in 0..4_u64 {
            let (journal, say) = (&journal, &say);
            scope.spawn(move || {
                for n in 0.. {
                    let content = vec![n as u8; 100 + n as usize % 5000];
                    let id = spooled(journal, &content, n % 7 == 0);
                    let persist = if n % 7 == 0 { Persist::Synced } else { Persist::Buffered };
                    let record = block_on(journal.append(put(&format!("k{t}-{n}"), id, &content), persist)).unwrap();
                    say(format!("\nput {}\n", record.seq));
                    if n % 3 == 0 {
                        say(format!("\ngoing {}\n", record.seq));
                        block_on(journal.retire(record.seq)).unwrap();
                        say(format!("\ngone {}\n", record.seq));
                    }
                }
            });
        }
    });
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    use std::io::BufRead;
    let dir = TempDir::new().unwrap();
    let (mut put, mut going, mut gone) = (vec![], vec![], vec![]);
    for round in 0..6_usize {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "journal::tests::many_hands::child_that_is_killed", "--ignored", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = 0;
        for line in lines.map_while(std::result::Result::ok) {
            let Some((word, seq)) = line.split_once(' ') else { continue };
            let Ok(seq) = seq.parse::<u64>() else { continue };
            match word {
                "put" => put.push(seq),
                "going" => going.push(seq),
                "gone" => gone.push(seq),
                _ => continue,
            }
            told += 1;
            // After that the pipe is read to its end: what was said before the kill counts.
            if told == 50 + 97 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(told >= 50, "the child did not get going");
    }
    let (journal, recovery) = open(dir.path());
    assert_eq!(recovery.ending, Ending::Killed);
    for seq in &put {
        let kept = journal.get(*seq);
        if gone.contains(seq) {
            assert!(kept.is_none(), "record {seq} came back");
        } else if !going.contains(seq) {
            let record = kept.unwrap_or_else(|| panic!("record {seq} was acknowledged and is lost"));
            let (_, size) = record.op.files()[0];
            assert_eq!(spool_path(dir.path(), &record).metadata().unwrap().len(), size);
        }
    }
    assert!(recovery.set_aside.iter().all(|a| a.why.contains("no record names it")), "{recovery}");
}
