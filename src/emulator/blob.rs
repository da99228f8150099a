//! Object bodies: shared, immutable, never copied.
//!
//! A body arrives once and is then shared by every version that holds it: a replica in the other region, a copy, a part
//! that became a piece of a whole. In memory it is a list of the buffers as they came from the socket; on disk a list of
//! slices of files. The file of a body lives as long as something refers to it.
//!
//! Owns: the bytes and the files they are in. Owns not: names, versions, checksums of wholes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Read size for bodies on disk; large enough that the blocking hop costs little beside the copy.
const READ_BYTES: u64 = 1 << 20;

/// The folder with the body files of one `--data` directory.
#[derive(Debug)]
pub struct Shelter {
    dir: PathBuf,
    next: AtomicU64,
    /// Set while the records are read, and when the process ends in order: bodies stay for the next start.
    keep: AtomicBool,
}

impl Shelter {
    pub fn open(dir: &Path) -> io::Result<Arc<Shelter>> {
        std::fs::create_dir_all(dir)?;
        Ok(Arc::new(Shelter { dir: dir.to_path_buf(), next: AtomicU64::new(1), keep: AtomicBool::new(false) }))
    }

    pub fn create(self: &Arc<Shelter>) -> io::Result<(File, Arc<BodyFile>)> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let body = BodyFile { id, shelter: Arc::clone(self) };
        let file = File::options().write(true).read(true).create_new(true).open(body.path())?;
        Ok((file, Arc::new(body)))
    }

    /// The file of a body that a record on disk names.
    pub fn adopt(self: &Arc<Shelter>, id: u64) -> Arc<BodyFile> {
        self.next.fetch_max(id + 1, Ordering::Relaxed);
        Arc::new(BodyFile { id, shelter: Arc::clone(self) })
    }

    /// Removes files that no record names: bodies whose request never ended. Returns how many.
    pub fn sweep(&self, known: impl Fn(u64) -> bool) -> io::Result<usize> {
        let mut removed = 0;
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| u64::from_str_radix(name, 16).ok());
            if id.is_some_and(|id| !known(id)) {
                std::fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Whether files outlive their last user.
    pub fn keep_all(&self, keep: bool) {
        self.keep.store(keep, Ordering::SeqCst);
    }
}

/// One file in the shelter; removed with its last user.
#[derive(Debug)]
pub struct BodyFile {
    id: u64,
    shelter: Arc<Shelter>,
}

impl BodyFile {
    pub fn path(&self) -> PathBuf {
        self.shelter.dir.join(format!("{:016x}", self.id))
    }
}

impl Drop for BodyFile {
    fn drop(&mut self) {
        if !self.shelter.keep.load(Ordering::SeqCst)
            && let Err(error) = std::fs::remove_file(self.path())
        {
            log::warn!("body file {}: {error}", self.path().display());
        }
    }
}

#[derive(Clone, Debug)]
enum Segment {
    Memory(Bytes),
    File { body: Arc<BodyFile>, offset: u64, len: u64 },
}

impl Segment {
    fn len(&self) -> u64 {
        match self {
            Segment::Memory(bytes) => bytes.len() as u64,
            Segment::File { len, .. } => *len,
        }
    }

    fn slice(&self, from: u64, to: u64) -> Segment {
        match self {
            Segment::Memory(bytes) => Segment::Memory(bytes.slice(from as usize..to as usize)),
            Segment::File { body, offset, .. } => {
                Segment::File { body: Arc::clone(body), offset: offset + from, len: to - from }
            }
        }
    }
}

/// How a record on disk names a piece of a body.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Piece(pub u64, pub u64, pub u64);

/// One body. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Blob {
    segments: Arc<[Segment]>,
    len: u64,
}

impl Blob {
    pub fn memory(chunks: Vec<Bytes>) -> Blob {
        Blob::of(chunks.into_iter().filter(|c| !c.is_empty()).map(Segment::Memory).collect())
    }

    pub fn file(body: Arc<BodyFile>, len: u64) -> Blob {
        Blob::of(vec![Segment::File { body, offset: 0, len }])
    }

    pub fn join<'a>(blobs: impl Iterator<Item = &'a Blob>) -> Blob {
        Blob::of(blobs.flat_map(|b| b.segments.iter().cloned()).collect())
    }

    fn of(segments: Vec<Segment>) -> Blob {
        let len = segments.iter().map(Segment::len).sum();
        Blob { segments: segments.into(), len }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn slice(&self, from: u64, to: u64) -> Blob {
        if from == 0 && to == self.len {
            return self.clone();
        }
        let (mut start, mut pieces) = (0, Vec::new());
        for segment in self.segments.iter() {
            let end = start + segment.len();
            let (a, b) = (from.max(start), to.min(end));
            if a < b {
                pieces.push(segment.slice(a - start, b - start));
            }
            start = end;
        }
        Blob::of(pieces)
    }

    /// The names of the pieces for a record, or `None` for a body in memory.
    pub fn pieces(&self) -> Option<Vec<Piece>> {
        let piece = |segment: &Segment| match segment {
            Segment::Memory(_) => None,
            Segment::File { body, offset, len } => Some(Piece(body.id, *offset, *len)),
        };
        self.segments.iter().map(piece).collect()
    }

    pub fn from_pieces(pieces: &[Piece], mut body: impl FnMut(u64) -> Arc<BodyFile>) -> Blob {
        Blob::of(pieces.iter().map(|p| Segment::File { body: body(p.0), offset: p.1, len: p.2 }).collect())
    }

    /// Reads one piece after the other; each is at most a buffer as it came from the socket, or a mebibyte of a file.
    pub fn reader(self) -> Reader {
        Reader { blob: self, index: 0, open: None, at: 0 }
    }

    /// Everything at once, blocking: for request bodies that are XML, and for part copies that need a checksum.
    pub fn for_each(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        for segment in self.segments.iter() {
            match segment {
                Segment::Memory(bytes) => each(bytes),
                Segment::File { body, offset, len } => {
                    let file = File::open(body.path())?;
                    let mut buffer = vec![0; (*len).min(READ_BYTES) as usize];
                    let mut done = 0;
                    while done < *len {
                        let want = (len - done).min(READ_BYTES) as usize;
                        file.read_exact_at(&mut buffer[..want], offset + done)?;
                        each(&buffer[..want]);
                        done += want as u64;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Position in a [`Blob`] that is being sent.
pub struct Reader {
    blob: Blob,
    index: usize,
    open: Option<Arc<File>>,
    /// Within the current segment.
    at: u64,
}

impl Reader {
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(segment) = self.blob.segments.get(self.index) else { return Ok(None) };
        let (body, offset, len) = match segment {
            Segment::Memory(bytes) => {
                let bytes = bytes.clone();
                self.index += 1;
                return Ok(Some(bytes));
            }
            Segment::File { body, offset, len } => (Arc::clone(body), *offset, *len),
        };
        let open = self.open.clone();
        let (from, want) = (offset + self.at, (len - self.at).min(READ_BYTES) as usize);
        let read = move || -> io::Result<(Bytes, Arc<File>)> {
            let file = match open {
                Some(file) => file,
                None => Arc::new(File::open(body.path())?),
            };
            let mut buffer = vec![0; want];
            file.read_exact_at(&mut buffer, from)?;
            Ok((buffer.into(), file))
        };
        let (bytes, file) = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
        self.at += want as u64;
        self.open = Some(file);
        if self.at == len {
            (self.index, self.at, self.open) = (self.index + 1, 0, None);
        }
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(blob: &Blob) -> Vec<u8> {
        let mut out = Vec::new();
        blob.for_each(|piece| out.extend_from_slice(piece)).expect("readable");
        out
    }

    #[test]
    fn slices_cross_segments_and_share_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        let shelter = Shelter::open(dir.path()).expect("open");
        let (file, body) = shelter.create().expect("create");
        file.write_all_at(b"0123456789", 0).expect("write");
        let path = body.path();
        let disk = Blob::file(body, 10);
        let memory = Blob::memory(vec![Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"cd")]);
        let joined = Blob::join([&memory, &disk].into_iter());
        assert_eq!(joined.len(), 14);
        assert_eq!(all(&joined), b"abcd0123456789");
        assert_eq!(all(&joined.slice(1, 6)), b"bcd01");
        assert_eq!(all(&joined.slice(4, 14)), b"0123456789");
        assert!(joined.pieces().is_none());
        let tail = joined.slice(12, 14);
        drop((disk, joined));
        assert_eq!(all(&tail), b"89", "the file lives as long as a slice of it");
        drop(tail);
        assert!(!path.exists());
    }
}
