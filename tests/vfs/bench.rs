//! Short words for long tests: paths instead of inode numbers.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cosfs_ha::vfs::{Ctx, Entry, Error, Kind, Opened, ROOT, RenameMode, Result, SetAttr, Vfs, VfsOptions};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::fake::Fake;

pub struct Bench {
    pub rt: Runtime,
    pub store: Arc<Fake>,
    pub vfs: Arc<Vfs<Fake>>,
}

pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

pub fn ctx() -> Ctx {
    Ctx { uid: 1000, gid: 1000, pid: 1, umask: 0o022, until: Instant::now() + Duration::from_secs(20) }
}

impl Bench {
    pub fn new() -> Bench {
        Bench::with(VfsOptions { metadata_ttl: Duration::from_secs(600), ..VfsOptions::default() })
    }

    pub fn with(options: VfsOptions) -> Bench {
        let rt = runtime();
        let store = Fake::new();
        let vfs = Vfs::new(store.clone(), options, rt.handle().clone());
        Bench { rt, store, vfs }
    }

    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.rt.block_on(async { tokio::time::timeout(Duration::from_secs(60), work).await.expect("no deadlock") })
    }
}

/// Operations by path.
#[derive(Clone)]
pub struct User(pub Arc<Vfs<Fake>>);

pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl User {
    pub async fn stat(&self, path: &str) -> Result<Entry> {
        let mut entry = self.0.getattr(&ctx(), ROOT).await?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let next = self.0.lookup(&ctx(), entry.ino, OsStr::new(name)).await;
            if entry.ino != ROOT {
                self.0.forget(entry.ino, 1);
            }
            entry = next?;
        }
        Ok(entry)
    }

    /// The inode of the directory that holds `path`; kept referenced for the length of the test.
    pub async fn dir_of(&self, path: &str) -> Result<u64> {
        let entry = self.stat(split(path).0).await?;
        if entry.attr.kind == Kind::Dir { Ok(entry.ino) } else { Err(Error::NotDir) }
    }

    pub async fn create(&self, path: &str, flags: i32) -> Result<Opened> {
        let dir = self.dir_of(path).await?;
        Ok(self.0.create(&ctx(), dir, OsStr::new(split(path).1), 0o666, flags).await?.1)
    }

    pub async fn open(&self, path: &str, flags: i32) -> Result<Opened> {
        let entry = self.stat(path).await?;
        self.0.open(&ctx(), entry.ino, flags).await
    }

    pub async fn write(&self, fh: u64, offset: u64, data: &[u8]) -> Result<u32> {
        self.0.write(&ctx(), fh, offset, Bytes::copy_from_slice(data)).await
    }

    pub async fn read(&self, fh: u64, offset: u64, len: u32) -> Result<Vec<u8>> {
        Ok(self.0.read(&ctx(), fh, offset, len).await?.to_vec())
    }

    pub async fn close(&self, fh: u64) -> Result<()> {
        let flushed = self.0.flush(&ctx(), fh).await;
        self.0.release(fh)?;
        flushed
    }

    pub async fn save(&self, path: &str, data: &[u8]) -> Result<()> {
        let fh = self.create(path, libc::O_RDWR | libc::O_TRUNC).await?.fh;
        self.write(fh, 0, data).await?;
        self.close(fh).await
    }

    pub async fn load(&self, path: &str) -> Result<Vec<u8>> {
        let entry = self.stat(path).await?;
        let fh = self.0.open(&ctx(), entry.ino, libc::O_RDONLY).await?.fh;
        let size = self.0.getattr(&ctx(), entry.ino).await?.attr.size;
        let data = self.read(fh, 0, size as u32 + 10).await;
        self.close(fh).await?;
        data
    }

    pub async fn mkdir(&self, path: &str) -> Result<Entry> {
        let dir = self.dir_of(path).await?;
        self.0.mkdir(&ctx(), dir, OsStr::new(split(path).1), 0o777).await
    }

    pub async fn unlink(&self, path: &str) -> Result<()> {
        let dir = self.dir_of(path).await?;
        self.0.unlink(&ctx(), dir, OsStr::new(split(path).1)).await
    }

    pub async fn rmdir(&self, path: &str) -> Result<()> {
        let dir = self.dir_of(path).await?;
        self.0.rmdir(&ctx(), dir, OsStr::new(split(path).1)).await
    }

    pub async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (old, new) = (self.dir_of(from).await?, self.dir_of(to).await?);
        let (from, to) = (OsStr::new(split(from).1), OsStr::new(split(to).1));
        self.0.rename(&ctx(), old, from, new, to, RenameMode::Replace).await
    }

    pub async fn truncate(&self, path: &str, size: u64) -> Result<()> {
        let entry = self.stat(path).await?;
        self.0.setattr(&ctx(), entry.ino, None, SetAttr { size: Some(size), ..SetAttr::default() }).await.map(drop)
    }

    pub async fn names(&self, path: &str) -> Result<Vec<String>> {
        let entry = self.stat(path).await?;
        let fh = self.0.opendir(entry.ino)?;
        let (mut names, mut at) = (Vec::new(), 0);
        loop {
            self.0.readdir_ready(&ctx(), fh, at).await?;
            let (before, mut room) = (at, 50);
            self.0.readdir(fh, at, false, |line| {
                if room > 0 {
                    names.push(line.name.to_string());
                    at = line.next;
                    room -= 1;
                    return true;
                }
                false
            })?;
            if at == before {
                break;
            }
        }
        self.0.releasedir(fh)?;
        Ok(names.into_iter().filter(|name| name != "." && name != "..").collect())
    }
}
