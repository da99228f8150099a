//! One life of a mount: the real store, linkage driver, journal and cache over the simulated ways.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cosfs_ha::cache::Cache;
use cosfs_ha::cos::credentials::Fixed;
use cosfs_ha::cos::{BucketAddress, Client, ClockOffset, Credentials};
use cosfs_ha::emulator::{BUCKETS, SECRET_ID, SECRET_KEY};
use cosfs_ha::failover::{Start, Tuning};
use cosfs_ha::journal::Journal;
use cosfs_ha::journal::disk::{Area, Disk, RealDisk, Stat};
use cosfs_ha::linkage::Linkages;
use cosfs_ha::object::Site;
use cosfs_ha::store::{HaStore, Options, canary};

use super::regions::{Regions, Way};

/// Content of the journal on disk, at most.
const JOURNAL_BYTES: u64 = 1 << 30;
const CACHE_BYTES: u64 = 1 << 30;

pub struct Mount {
    pub store: HaStore,
    pub links: Linkages,
    disk: Arc<Mortal>,
    cache: Arc<Cache>,
}

impl Mount {
    pub fn start(regions: &Arc<Regions>, dir: &Path, tuning: Tuning, options: Options) -> Result<Mount, String> {
        let disk = Arc::new(Mortal { real: RealDisk, dead: Arc::default() });
        let (journal, recovery) =
            Journal::open_on(disk.clone(), &dir.join("journal"), JOURNAL_BYTES).map_err(|e| format!("journal: {e}"))?;
        log::info!("{recovery}");
        let journal = Arc::new(journal);
        let cache = Arc::new(Cache::open(&dir.join("cache"), CACHE_BYTES).map_err(|e| e.to_string())?);
        let (epoch, master) = journal.epoch();
        let clock = Arc::new(ClockOffset::new());
        let keys = Credentials::new(SECRET_ID.into(), SECRET_KEY.into(), None).map_err(|e| e.to_string())?;
        let clients = Site::ALL.map(|site| {
            let (bucket, region) = BUCKETS[site.index()];
            let address = BucketAddress { bucket: bucket.into(), region: region.into(), endpoint: None, https: false };
            let way = Arc::new(Way { regions: Arc::clone(regions), site });
            Client::over(way, address, Arc::new(Fixed::new(keys.clone())), Arc::clone(&clock))
        });
        let rt = tokio::runtime::Handle::current();
        let canary_every = canary::pace(&tuning);
        let reign = Arc::clone(&journal);
        let links = Linkages::start(
            clients,
            tuning,
            Start { epoch, master },
            cosfs_ha::object::own("", "probe").map_err(|e| e.to_string())?,
            Box::new(move |epoch, master| reign.set_epoch(epoch, master).map_err(|e| e.to_string())),
            &rt,
        );
        let options = Options { coverage_file: Some(dir.join("coverage.json")), canary_every, ..options };
        let store = HaStore::start(links.clone(), journal, cache.clone(), options, rt);
        Ok(Mount { store, links, disk, cache })
    }

    /// As `kill -9`: from here on nothing reaches the disk.
    pub fn kill(&self) {
        self.disk.dead.store(true, Ordering::Relaxed);
        self.cache.attrs().kill();
    }
}

/// The journal's disk, until the process dies.
#[derive(Debug)]
struct Mortal {
    real: RealDisk,
    dead: Arc<AtomicBool>,
}

impl Mortal {
    fn alive(&self) -> io::Result<&RealDisk> {
        alive(&self.dead).map(|()| &self.real)
    }
}

fn alive(dead: &AtomicBool) -> io::Result<()> {
    match dead.load(Ordering::Relaxed) {
        true => Err(io::Error::other("the process is dead")),
        false => Ok(()),
    }
}

#[derive(Debug)]
struct MortalArea {
    real: Arc<dyn Area>,
    dead: Arc<AtomicBool>,
}

impl Area for MortalArea {
    fn len(&self) -> io::Result<u64> {
        self.real.len()
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.real.read_at(offset, out)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        alive(&self.dead)?;
        self.real.write_at(offset, data)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        alive(&self.dead)?;
        self.real.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        alive(&self.dead)?;
        self.real.allocate(len)
    }
    fn sync(&self) -> io::Result<()> {
        // A process that dies loses nothing the kernel has; only a power cut would, and the journal's own tests do that.
        alive(&self.dead)
    }
}

impl Disk for Mortal {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.alive()?.create_dir(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.alive()?.list(dir)
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.alive()?.stat(path)
    }
    fn stat_open(&self, file: &File) -> io::Result<Stat> {
        self.alive()?.stat_open(file)
    }
    fn create(&self, path: &Path) -> io::Result<File> {
        self.alive()?.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<File> {
        self.alive()?.open(path)
    }
    fn area(&self, path: &Path) -> io::Result<Arc<dyn Area>> {
        let real = self.alive()?.area(path)?;
        Ok(Arc::new(MortalArea { real, dead: Arc::clone(&self.dead) }))
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.alive()?.link(from, to)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.alive()?.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.alive()?.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.alive()?.remove_dir(path)
    }
    fn sync_file(&self, _file: &File) -> io::Result<()> {
        self.alive().map(drop)
    }
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        self.alive().map(drop)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.alive()?.read(path)
    }
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.alive()?.replace(path, content)
    }
    fn lock(&self, path: &Path) -> io::Result<Result<File, Option<u32>>> {
        self.alive()?.lock(path)
    }
}

/// A directory in memory, gone when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(seed: u64) -> io::Result<Scratch> {
        let root =
            [Path::new("/dev/shm"), Path::new("/tmp")].into_iter().find(|dir| dir.is_dir()).unwrap_or(Path::new("."));
        let dir = root.join(format!("cosfs-ha-sim-{}-{seed}", std::process::id()));
        std::fs::create_dir(&dir)?;
        Ok(Scratch(dir))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
