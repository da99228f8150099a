//! The only door from the journal to files.
//!
//! A journal is worth what its order of writes and syncs is worth, and that order can only be tested where every single
//! operation can be counted, failed or frozen. So the rest of the journal names no `std::fs` function; it asks a [`Disk`], and a test
//! passes another one in.
//!
//! Two kinds of file: [`Area`], read and written at positions by the journal itself (the database and its tail), and plain
//! [`File`]s that hold the content of user files and are handed out to whoever reads or writes them.
//! Everything is created for the owner alone: directories 0700, files 0600.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FlockOperation;

/// What the journal asks about a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    pub len: u64,
    /// Bytes the file occupies, holes not counted.
    pub allocated: u64,
    pub inode: u64,
    pub is_file: bool,
}

impl Stat {
    fn of(meta: &std::fs::Metadata) -> Stat {
        // `st_blocks` counts 512-byte units whatever the block size of the file system is (stat(2)).
        Stat { len: meta.len(), allocated: meta.blocks() * 512, inode: meta.ino(), is_file: meta.is_file() }
    }
}

/// A file read and written at positions.
#[allow(clippy::len_without_is_empty)]
pub trait Area: Send + Sync + fmt::Debug + 'static {
    fn len(&self) -> io::Result<u64>;
    /// Fills `out` or fails.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves real blocks for the first `len` bytes, so that writing them later cannot fail for lack of room.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// After this the content survives a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// Names and files below the journal's directory.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Creates the directory and its parents; an existing one is fine.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    fn stat_open(&self, file: &File) -> io::Result<Stat>;
    /// A new empty file, open for reading and writing; fails if the name exists.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// An existing file, open for reading.
    fn open(&self, path: &Path) -> io::Result<File>;
    /// An area, created empty where it does not exist.
    fn area(&self, path: &Path) -> io::Result<Arc<dyn Area>>;
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// After this the file's content survives a power cut.
    fn sync_file(&self, file: &File) -> io::Result<()>;
    /// After this the directory's names survive a power cut.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// After this everything on the disk below `dir` survives a power cut; `Ok(false)`: there is no such call.
    fn sync_everything(&self, _dir: &Path) -> io::Result<bool> {
        Ok(false)
    }
    /// Whole content of a small file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Writes a small file so that a power cut leaves the old or the new content, never a mixture.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()>;
    /// Locks a directory through a file in it until the returned handle is dropped. `Ok(Err(pid))`: held by that process.
    fn lock(&self, path: &Path) -> io::Result<std::result::Result<File, Option<u32>>>;
}

/// The operating system's files.
#[derive(Debug)]
pub struct RealDisk;

impl RealDisk {
    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
        options
    }
}

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        std::fs::symlink_metadata(path).map(|meta| Stat::of(&meta))
    }

    fn stat_open(&self, file: &File) -> io::Result<Stat> {
        file.metadata().map(|meta| Stat::of(&meta))
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        Self::options().read(true).write(true).create_new(true).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        Self::options().read(true).open(path)
    }

    fn area(&self, path: &Path) -> io::Result<Arc<dyn Area>> {
        let file = Self::options().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Arc::new(FileArea(file)))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn sync_file(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn sync_everything(&self, dir: &Path) -> io::Result<bool> {
        rustix::fs::syncfs(File::open(dir)?)?;
        Ok(true)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let fresh = path.with_extension("new");
        match self.remove(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = self.create(&fresh)?;
        file.write_all_at(content, 0)?;
        file.sync_all()?;
        self.rename(&fresh, path)?;
        path.parent().map_or(Ok(()), |dir| self.sync_dir(dir))
    }

    fn lock(&self, path: &Path) -> io::Result<std::result::Result<File, Option<u32>>> {
        let file = Self::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let text = std::fs::read_to_string(path).unwrap_or_default();
                return Ok(Err(text.trim().parse().ok()));
            }
            Err(e) => return Err(e.into()),
        }
        // The number only makes the other daemon's message better; the lock itself is the kernel's, so a full disk does not matter.
        let _ = file.set_len(0).and_then(|()| file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0));
        Ok(Ok(file))
    }
}

#[derive(Debug)]
struct FileArea(File);

impl Area for FileArea {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len) {
            // A file system without the call: the reserve is then only a length, which is no worse than having none.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.0.set_len(len),
            other => other.map_err(io::Error::from),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// An [`Area`] under a redb database.
#[derive(Debug)]
pub struct Backend(pub Arc<dyn Area>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}
