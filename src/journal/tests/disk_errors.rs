//! A journal on a disk that is full or broken.

use std::collections::HashSet;
use std::path::PathBuf;

use parking_lot::Mutex;

use super::*;

/// A disk that refuses to write when told so.
#[derive(Debug)]
struct Moody {
    real: disk::RealDisk,
    mood: Arc<Mood>,
}

#[derive(Debug, Default)]
struct Mood {
    error: std::sync::atomic::AtomicI32,
    /// Giving the reserve back makes room.
    tight: std::sync::atomic::AtomicBool,
    /// No room for a new file until then; what is there can be overwritten.
    crowded: std::sync::atomic::AtomicBool,
    /// Second names that a power cut would take.
    unsynced: Mutex<HashSet<PathBuf>>,
}

impl Mood {
    fn set(&self, errno: i32) {
        self.error.store(errno, std::sync::atomic::Ordering::SeqCst);
    }

    fn ask(&self) -> std::io::Result<()> {
        match self.error.load(std::sync::atomic::Ordering::SeqCst) {
            0 => Ok(()),
            errno => Err(std::io::Error::from_raw_os_error(errno)),
        }
    }
}

#[derive(Debug)]
struct MoodyArea {
    real: Arc<dyn disk::Area>,
    mood: Arc<Mood>,
    is_reserve: bool,
}

impl disk::Area for MoodyArea {
    fn len(&self) -> std::io::Result<u64> {
        self.real.len()
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.real.read_at(offset, out)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.mood.ask().and_then(|()| self.real.write_at(offset, data))
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        if self.is_reserve && len == 0 && self.mood.tight.load(std::sync::atomic::Ordering::SeqCst) {
            self.mood.set(0);
        }
        if self.is_reserve && len == 0 {
            self.mood.crowded.store(false, std::sync::atomic::Ordering::SeqCst);
        }
        self.real.set_len(len)
    }
    fn allocate(&self, len: u64) -> std::io::Result<()> {
        self.mood.ask().and_then(|()| self.real.allocate(len))
    }
    fn sync(&self) -> std::io::Result<()> {
        self.mood.ask().and_then(|()| self.real.sync())
    }
}

impl disk::Disk for Moody {
    fn create_dir(&self, dir: &Path) -> std::io::Result<()> {
        self.real.create_dir(dir)
    }
    fn list(&self, dir: &Path) -> std::io::Result<Vec<String>> {
        self.real.list(dir)
    }
    fn stat(&self, path: &Path) -> std::io::Result<disk::Stat> {
        self.real.stat(path)
    }
    fn stat_open(&self, file: &File) -> std::io::Result<disk::Stat> {
        self.real.stat_open(file)
    }
    fn create(&self, path: &Path) -> std::io::Result<File> {
        self.mood.ask().and_then(|()| self.real.create(path))
    }
    fn open(&self, path: &Path) -> std::io::Result<File> {
        self.real.open(path)
    }
    fn area(&self, path: &Path) -> std::io::Result<Arc<dyn disk::Area>> {
        let is_reserve = path.ends_with("reserve");
        Ok(Arc::new(MoodyArea { real: self.real.area(path)?, mood: Arc::clone(&self.mood), is_reserve }))
    }
    fn link(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.mood.ask().and_then(|()| self.real.link(from, to))?;
        self.mood.unsynced.lock().insert(to.into());
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.real.rename(from, to)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.real.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> std::io::Result<()> {
        std::fs::remove_dir(path)
    }
    fn sync_file(&self, file: &File) -> std::io::Result<()> {
        self.mood.ask().and_then(|()| self.real.sync_file(file))
    }
    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        self.real.sync_dir(dir)?;
        self.mood.unsynced.lock().retain(|name| name.parent() != Some(dir));
        Ok(())
    }
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        self.real.read(path)
    }
    fn replace(&self, path: &Path, content: &[u8]) -> std::io::Result<()> {
        if self.mood.crowded.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(std::io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.mood.ask().and_then(|()| self.real.replace(path, content))
    }
    fn lock(&self, path: &Path) -> std::io::Result<std::result::Result<File, Option<u32>>> {
        self.real.lock(path)
    }
}

fn moody(dir: &Path) -> (Journal, Arc<Mood>) {
    let mood = Arc::new(Mood::default());
    let (journal, _) = open_on(Arc::new(Moody { real: disk::RealDisk, mood: Arc::clone(&mood) }), dir);
    (journal, mood)
}

#[test]
fn a_full_disk_refuses_new_records_and_passes() {
    let dir = TempDir::new().unwrap();
    let (journal, mood) = moody(dir.path());
    let kept = block_on(journal.append(delete("kept"), Persist::Buffered)).unwrap();
    mood.set(libc::ENOSPC);
    for persist in [Persist::Synced, Persist::Buffered] {
        let error = block_on(journal.append(delete("refused"), persist)).unwrap_err();
        assert!(matches!(error, Error::Full(_)), "{error}");
        assert!(journal.latest(&key("refused")).is_none(), "taken back");
    }
    assert!(matches!(journal.spool().create(), Err(Error::Full(_))));
    let marked = block_on(journal.mark(kept.seq, Change::Verified { site: Site::A }, Persist::Buffered));
    assert!(matches!(marked, Err(Error::Full(_))));
    assert!(journal.get(kept.seq).unwrap().verified[0], "known all the same");
    assert_eq!(journal.poison(), None);
    mood.set(0);
    block_on(journal.append(delete("later"), Persist::Synced)).unwrap();
    let copy = snapshot(dir.path());
    let (after, _) = open(copy.path());
    assert_eq!(after.all(), journal.all(), "with what was marked while the disk was full");
    assert_eq!(after.stats().records, 2);
}

#[test]
fn retiring_finds_room_on_a_full_disk() {
    let dir = TempDir::new().unwrap();
    let (journal, mood) = moody(dir.path());
    let id = spooled(&journal, &[1; 100_000], true);
    let record = block_on(journal.append(put("k", id, &[1; 100_000]), Persist::Synced)).unwrap();
    mood.tight.store(true, std::sync::atomic::Ordering::SeqCst);
    mood.set(libc::ENOSPC);
    block_on(journal.retire(record.seq)).unwrap();
    block_on(journal.sync()).unwrap();
    assert!(!journal.spool().path(id).exists());
    assert_eq!(journal.stats().bytes, 0);
}

#[test]
fn a_journal_on_a_full_disk_opens() {
    let dir = TempDir::new().unwrap();
    let (journal, mood) = moody(dir.path());
    let kept = block_on(journal.append(delete("kept"), Persist::Synced)).unwrap();
    drop(journal);
    mood.crowded.store(true, std::sync::atomic::Ordering::SeqCst);
    let (journal, _) = open_on(Arc::new(Moody { real: disk::RealDisk, mood: Arc::clone(&mood) }), dir.path());
    assert!(journal.get(kept.seq).is_some());
    assert!(!mood.crowded.load(std::sync::atomic::Ordering::SeqCst), "it has given its reserve for it");
}

/// A rename gives the content of a synced file a second name and removes the first. A power cut must find either.
#[test]
fn a_second_name_is_on_the_disk_before_the_database_speaks_of_it() {
    let dir = TempDir::new().unwrap();
    let (journal, mood) = moody(dir.path());
    let id = spooled(&journal, &[1; 1000], true);
    block_on(journal.append(put("tmp", id, &[1; 1000]), Persist::Synced)).unwrap();
    assert!(mood.unsynced.lock().is_empty());
    let second = journal.spool().link(id).unwrap();
    block_on(journal.append(put("final", second, &[1; 1000]), Persist::Buffered)).unwrap();
    block_on(journal.append(delete("tmp"), Persist::Buffered)).unwrap();
    assert!(!mood.unsynced.lock().is_empty(), "nothing of it is on the disk yet");
    block_on(journal.sync()).unwrap();
    assert!(mood.unsynced.lock().is_empty());
}

#[test]
fn a_disk_error_latches_and_a_restart_clears_it() {
    let dir = TempDir::new().unwrap();
    let (journal, mood) = moody(dir.path());
    let kept = block_on(journal.append(delete("kept"), Persist::Synced)).unwrap();
    mood.set(libc::EIO);
    let first = block_on(journal.append(delete("a"), Persist::Synced)).unwrap_err();
    assert!(matches!(first, Error::Poisoned(_)), "{first}");
    mood.set(0);
    assert_eq!(block_on(journal.append(delete("b"), Persist::Buffered)).unwrap_err(), first);
    assert_eq!(
        block_on(journal.mark(kept.seq, Change::Verified { site: Site::A }, Persist::Buffered)),
        Err(first.clone())
    );
    assert_eq!(journal.set_epoch(Epoch(1), Site::B), Err(first.clone()));
    assert_eq!(journal.poison(), Some(first));
    assert_eq!(journal.latest(&key("kept")).unwrap().seq, kept.seq, "reading goes on");
    assert!(journal.latest(&key("a")).is_none());
    drop(journal);
    let (journal, recovery) = open(dir.path());
    assert_eq!((recovery.ending, recovery.set_aside.len()), (Ending::Killed, 0));
    assert!(journal.get(kept.seq).is_some());
    block_on(journal.append(delete("b"), Persist::Synced)).unwrap();
}
