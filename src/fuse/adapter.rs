//! The callbacks: decode, answer at once or in a task, reply. No rule about files lives here.
//!
//! Every answer passes one of two fences: [`Adapter::at_once`] on the thread that read the request, [`Adapter::later`] there as far as
//! nothing has to be waited for, and from then on in a task. Both turn a panic into EIO and a line in the log; the second also answers
//! when the time is up, while the task goes on to its own end, so that nothing is left half done.

use std::ffi::OsStr;
use std::fs::File;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio::time::error::Elapsed;

use super::dirent::Answer;
use super::errno::{errno, is_everyday};
use super::reply::{
    created_back, entry_back, opened_back, reply_attr, reply_create, reply_data, reply_empty, reply_entry, reply_open,
    set_time,
};
use crate::store::Store;
use crate::vfs::{self, Ctx, Error, RenameMode, SetAttr, Vfs, Writer};

/// Requests that the kernel sends ahead of need (read-ahead, asynchronous writes): 64 of 1 MiB fill any line.
const BACKGROUND: u16 = 64;

/// What `df` shows: a bucket has no size, and programs that check for room must find some. 1 PiB.
const STATFS_BYTES: u64 = 1 << 50;
const STATFS_BLOCK: u32 = 4096;
const STATFS_FILES: u64 = 1 << 32;

/// Tells where the newest content of a file is.
const STATE_ATTRIBUTE: &str = "user.cosfs-ha.state";

pub struct Adapter<S: Store> {
    vfs: Arc<Vfs<S>>,
    rt: Handle,
    device: Arc<File>,
    stall: Duration,
    request_bytes_max: u32,
}

/// What a line in the log says about a request.
struct Task {
    op: &'static str,
    ino: u64,
    name: Option<Box<OsStr>>,
}

fn task(op: &'static str, ino: INodeNo) -> Task {
    Task { op, ino: ino.0, name: None }
}

fn task_at(op: &'static str, parent: INodeNo, name: &OsStr) -> Task {
    Task { op, ino: parent.0, name: Some(name.into()) }
}

/// How long an answer may take.
#[derive(Clone, Copy)]
enum Patience {
    /// `max_stall`.
    Stall,
    /// Many steps or much data; each step has its own limit.
    Steps,
}

impl<S: Store> Adapter<S> {
    pub fn new(vfs: Arc<Vfs<S>>, rt: Handle, device: Arc<File>, stall: Duration, request_bytes_max: u32) -> Adapter<S> {
        Adapter { vfs, rt, device, stall, request_bytes_max }
    }

    fn ctx(&self, request: &Request, umask: u32) -> Ctx {
        Ctx { uid: request.uid(), gid: request.gid(), pid: request.pid(), umask, until: Instant::now() + self.stall }
    }

    /// An answer from memory, if there is one.
    fn at_once<T>(&self, task: &Task, work: impl FnOnce() -> Option<vfs::Result<T>>) -> Option<Result<T, Errno>> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(result) => result.map(|result| result.map_err(|error| report(&self.vfs, task, &error))),
            Err(_) => Some(Err(report_panic(&self.vfs, task))),
        }
    }

    /// An answer that needs waiting.
    fn later<T: Send + 'static>(
        &self,
        task: Task,
        patience: Patience,
        work: impl Future<Output = vfs::Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        self.later_or_back(task, patience, work, reply, |_, _| {});
    }

    /// The same for what the kernel gives back one day: what comes too late for it is given `back` here.
    fn later_or_back<T: Send + 'static>(
        &self,
        task: Task,
        patience: Patience,
        work: impl Future<Output = vfs::Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
        back: impl FnOnce(&Arc<Vfs<S>>, T) + Send + 'static,
    ) {
        let (vfs, limit) = (self.vfs.clone(), self.stall);
        let mut running = Box::pin(AssertUnwindSafe(work).catch_unwind());
        // Most of what could wait does not have to: then no task is needed and no other thread.
        let first = {
            let _runtime = self.rt.enter();
            running.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        if let Poll::Ready(ended) = first {
            return reply(answer_of(&vfs, &task, Ok(ended)));
        }
        self.rt.spawn(async move {
            let ended = match patience {
                // A little later than the work's own deadline, whose error says more.
                Patience::Stall => tokio::time::timeout(limit + limit / 20, &mut running).await,
                Patience::Steps => Ok(running.as_mut().await),
            };
            let late = ended.is_err();
            reply(answer_of(&vfs, &task, ended));
            if late && let Ok(Ok(value)) = running.await {
                back(&vfs, value);
            }
        });
    }

    fn read_directory(&self, request: &Request, task: Task, place: (u64, u64), plus: bool, reply: DirReply) {
        let (fh, offset) = place;
        let (vfs, device, unique) = (self.vfs.clone(), self.device.clone(), request.unique().0);
        let ready = self.at_once(&task, || match vfs.readdir_is_ready(fh, offset) {
            Ok(true) => Some(build(&vfs, fh, offset, plus)),
            Ok(false) => None,
            Err(e) => Some(Err(e)),
        });
        if let Some(answer) = ready {
            return send(&vfs, &device, unique, answer, reply);
        }
        let ctx = self.ctx(request, 0);
        let asked = self.vfs.clone();
        // A hundred thousand names are a hundred pages, one after the other.
        self.later(
            task,
            Patience::Steps,
            async move {
                asked.readdir_ready(&ctx, fh, offset).await?;
                build(&asked, fh, offset, plus)
            },
            move |answer| send(&vfs, &device, unique, answer, reply),
        );
    }
}

/// What the kernel is told of work that has ended, in a panic perhaps, or has not ended in time.
fn answer_of<S: Store, T>(
    vfs: &Vfs<S>,
    task: &Task,
    ended: Result<std::thread::Result<vfs::Result<T>>, Elapsed>,
) -> Result<T, Errno> {
    match ended {
        Ok(Ok(Ok(value))) => Ok(value),
        Ok(Ok(Err(error))) => Err(report(vfs, task, &error)),
        Ok(Err(_)) => Err(report_panic(vfs, task)),
        Err(_) => Err(report(vfs, task, &Error::TimedOut("max_stall is over"))),
    }
}

/// Either kind; ours to send an error through, or to be forgotten once the device has the answer.
enum DirReply {
    Plain(ReplyDirectory),
    Plus(ReplyDirectoryPlus),
}

fn build<S: Store>(vfs: &Vfs<S>, fh: u64, offset: u64, plus: bool) -> vfs::Result<Answer> {
    let mut answer = Answer::new(plus);
    vfs.readdir(fh, offset, plus, |line| answer.add(line))?;
    Ok(answer)
}

fn send<S: Store>(vfs: &Vfs<S>, device: &Arc<File>, unique: u64, answer: Result<Answer, Errno>, reply: DirReply) {
    match (answer, reply) {
        (Ok(mut answer), reply) => {
            if let Err(e) = answer.send(device, unique) {
                log::debug!("a directory answer came too late: {e}");
                answer.given.iter().for_each(|ino| vfs.forget(*ino, 1));
            }
            // Its own answer would be the second one. It holds no memory while nothing was added to it.
            match reply {
                DirReply::Plain(reply) => std::mem::forget(reply),
                DirReply::Plus(reply) => std::mem::forget(reply),
            }
        }
        (Err(e), DirReply::Plain(reply)) => reply.error(e),
        (Err(e), DirReply::Plus(reply)) => reply.error(e),
    }
}

fn place_of<S: Store>(vfs: &Vfs<S>, task: &Task) -> String {
    let path = vfs.path_of(task.ino).unwrap_or_else(|| format!("inode {}", task.ino));
    match &task.name {
        Some(name) => format!("/{path}/{}", name.to_string_lossy()).replace("//", "/"),
        None => format!("/{path}"),
    }
}

/// The one line that a failed operation leaves.
fn report<S: Store>(vfs: &Vfs<S>, task: &Task, error: &Error) -> Errno {
    let number = errno(error);
    let level = if is_everyday(error) { log::Level::Debug } else { log::Level::Warn };
    if log::log_enabled!(level) {
        let cause = io::Error::from_raw_os_error(number.code());
        log::log!(level, "{} {}: {error} [{cause}]", task.op, place_of(vfs, task));
    }
    number
}

fn report_panic<S: Store>(vfs: &Vfs<S>, task: &Task) -> Errno {
    log::error!("{} {}: panic in the handler, answered with EIO", task.op, place_of(vfs, task));
    Errno::EIO
}

impl<S: Store> Filesystem for Adapter<S> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            // Lookups in one directory do not wait for each other.
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_CACHE_SYMLINKS,
            // Pages are dropped when we say so: we know versions, the kernel would guess from times.
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_ASYNC_DIO,
            // Else the kernel asks for `security.capability` before each write, which doubles the requests of small writes. What it would clear
            // itself (set-user-id and set-group-id of a file that changes) is cleared in `vfs/setattr`.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                log::info!("this kernel's FUSE lacks {flag:?}");
            }
        }
        // A refusal names the nearest value that is accepted.
        if let Err(nearest) = config.set_max_write(self.request_bytes_max) {
            let _ = config.set_max_write(nearest);
        }
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.set_congestion_threshold(BACKGROUND * 3 / 4);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let task = task_at("lookup", parent, name);
        if let Some(answer) = self.at_once(&task, || self.vfs.lookup_now(parent.0, name)) {
            return reply_entry(reply, answer);
        }
        let (vfs, ctx, name) = (self.vfs.clone(), self.ctx(request, 0), name.to_os_string());
        let work = async move { vfs.lookup(&ctx, parent.0, &name).await };
        self.later_or_back(task, Patience::Stall, work, move |answer| reply_entry(reply, answer), entry_back);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.vfs.forget(ino.0, count);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let task = task("getattr", ino);
        if let Some(answer) = self.at_once(&task, || self.vfs.getattr_now(ino.0)) {
            return reply_attr(reply, answer);
        }
        let (vfs, ctx) = (self.vfs.clone(), self.ctx(request, 0));
        let work = async move { vfs.getattr(&ctx, ino.0).await };
        self.later(task, Patience::Stall, work, move |answer| reply_attr(reply, answer));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr { size, mode, uid, gid, atime: atime.map(set_time), mtime: mtime.map(set_time) };
        let (vfs, ctx) = (self.vfs.clone(), self.ctx(request, 0));
        let work = async move { vfs.setattr(&ctx, ino.0, fh.map(|fh| fh.0), set).await };
        self.later(task("setattr", ino), Patience::Steps, work, move |answer| reply_attr(reply, answer));
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let (vfs, ctx) = (self.vfs.clone(), self.ctx(request, 0));
        let work = async move { vfs.readlink(&ctx, ino.0).await };
        self.later(task("readlink", ino), Patience::Stall, work, move |answer| reply_data(reply, answer));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (vfs, ctx, task) = (self.vfs.clone(), self.ctx(request, umask), task_at("mknod", parent, name));
        let name = name.to_os_string();
        let work = async move { vfs.mknod(&ctx, parent.0, &name, mode, rdev).await };
        self.later_or_back(task, Patience::Stall, work, move |answer| reply_entry(reply, answer), entry_back);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (vfs, ctx, task) = (self.vfs.clone(), self.ctx(request, umask), task_at("mkdir", parent, name));
        let name = name.to_os_string();
        let work = async move { vfs.mkdir(&ctx, parent.0, &name, mode).await };
        self.later_or_back(task, Patience::Stall, work, move |answer| reply_entry(reply, answer), entry_back);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, ctx, task) = (self.vfs.clone(), self.ctx(request, 0), task_at("unlink", parent, name));
        let name = name.to_os_string();
        let work = async move { vfs.unlink(&ctx, parent.0, &name).await };
        self.later(task, Patience::Stall, work, move |answer| reply_empty(reply, answer));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, ctx, task) = (self.vfs.clone(), self.ctx(request, 0), task_at("rmdir", parent, name));
        let name = name.to_os_string();
        let work = async move { vfs.rmdir(&ctx, parent.0, &name).await };
        self.later(task, Patience::Stall, work, move |answer| reply_empty(reply, answer));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (vfs, ctx, task) = (self.vfs.clone(), self.ctx(request, 0), task_at("symlink", parent, name));
        let (name, target) = (name.to_os_string(), target.as_os_str().to_os_string());
        let work = async move { vfs.symlink(&ctx, parent.0, &name, &target).await };
        self.later_or_back(task, Patience::Stall, work, move |answer| reply_entry(reply, answer), entry_back);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            f if f.is_empty() => RenameMode::Replace,
            RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
            // No object store can exchange two keys.
            _ => return reply.error(Errno::EINVAL),
        };
        let (vfs, ctx, task) = (self.vfs.clone(), self.ctx(request, 0), task_at("rename", parent, name));
        let (name, newname) = (name.to_os_string(), newname.to_os_string());
        let work = async move { vfs.rename(&ctx, parent.0, &name, newparent.0, &newname, mode).await };
        self.later(task, Patience::Steps, work, move |answer| reply_empty(reply, answer));
    }

    fn link(&self, _request: &Request, _ino: INodeNo, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let task = task("open", ino);
        if let Some(answer) = self.at_once(&task, || self.vfs.open_now(ino.0, flags.0)) {
            return reply_open(reply, answer);
        }
        let (vfs, ctx) = (self.vfs.clone(), self.ctx(request, 0));
        let work = async move { vfs.open(&ctx, ino.0, flags.0).await };
        self.later_or_back(task, Patience::Stall, work, move |answer| reply_open(reply, answer), opened_back);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (vfs, ctx, task) = (self.vfs.clone(), self.ctx(request, umask), task_at("create", parent, name));
        let name = name.to_os_string();
        let work = async move { vfs.create(&ctx, parent.0, &name, mode, flags).await };
        self.later_or_back(task, Patience::Stall, work, move |answer| reply_create(reply, answer), created_back);
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (vfs, ctx) = (self.vfs.clone(), self.ctx(request, 0));
        let work = async move { vfs.read(&ctx, fh.0, offset, size).await };
        self.later(task("read", ino), Patience::Stall, work, move |answer| reply_data(reply, answer));
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (vfs, ctx) = (self.vfs.clone(), self.ctx(request, 0));
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let by = match write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            true => Writer::Mapping,
            false if flags.0 & (libc::O_APPEND | libc::O_DIRECT) == libc::O_APPEND => Writer::Program,
            false => Writer::Placed,
        };
        // The thread's buffer is used for the next request at once.
        let data = Bytes::copy_from_slice(data);
        let work = async move {
            if kill {
                vfs.drop_privileges(&ctx, ino.0).await?;
            }
            vfs.write_by(&ctx, fh.0, offset, data, by).await
        };
        self.later(task("write", ino), Patience::Stall, work, move |answer| match answer {
            Ok(written) => reply.written(written),
            Err(e) => reply.error(e),
        });
    }

    fn flush(&self, request: &Request, ino: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let task = task("flush", ino);
        if let Some(answer) = self.at_once(&task, || self.vfs.flush_now(fh.0)) {
            return reply_empty(reply, answer);
        }
        let (vfs, ctx) = (self.vfs.clone(), self.ctx(request, 0));
        let work = async move { vfs.flush(&ctx, fh.0).await };
        self.later(task, Patience::Steps, work, move |answer| reply_empty(reply, answer));
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let answer = self.at_once(&task("release", ino), || Some(self.vfs.release(fh.0)));
        reply_empty(reply, answer.unwrap_or(Ok(())));
    }

    fn fsync(&self, request: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let (vfs, ctx) = (self.vfs.clone(), self.ctx(request, 0));
        let work = async move { vfs.fsync(&ctx, fh.0).await };
        self.later(task("fsync", ino), Patience::Steps, work, move |answer| reply_empty(reply, answer));
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.at_once(&task("opendir", ino), || Some(self.vfs.opendir(ino.0))) {
            Some(Ok(fh)) => reply.opened(FileHandle(fh), FopenFlags::empty()),
            Some(Err(e)) => reply.error(e),
            None => reply.error(Errno::EIO),
        }
    }

    fn readdir(&self, request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.read_directory(request, task("readdir", ino), (fh.0, offset), false, DirReply::Plain(reply));
    }

    fn readdirplus(&self, request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.read_directory(request, task("readdirplus", ino), (fh.0, offset), true, DirReply::Plus(reply));
    }

    fn releasedir(&self, _request: &Request, ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let answer = self.at_once(&task("releasedir", ino), || Some(self.vfs.releasedir(fh.0)));
        reply_empty(reply, answer.unwrap_or(Ok(())));
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let (vfs, ctx) = (self.vfs.clone(), self.ctx(request, 0));
        let work = async move { vfs.fsyncdir(&ctx, fh.0).await };
        self.later(task("fsyncdir", ino), Patience::Stall, work, move |answer| reply_empty(reply, answer));
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let blocks = STATFS_BYTES / u64::from(STATFS_BLOCK);
        reply.statfs(blocks, blocks, blocks, STATFS_FILES, STATFS_FILES, STATFS_BLOCK, 255, STATFS_BLOCK);
    }

    // ENOSYS is the answer after which the kernel does not ask again. Programs see EOPNOTSUPP for setting and listing attributes, and for
    // the others a fall-back that works: seeking for holes finds none, copying a range reads and writes.

    fn setxattr(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    /// One attribute of our own, which no listing shows: a copy that carries attributes along must not try to set it. ENOSYS for the others
    /// would end the questions about this one as well.
    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if name != STATE_ATTRIBUTE {
            return reply.error(Errno::NO_XATTR);
        }
        match self.at_once(&task("getxattr", ino), || Some(self.vfs.state_of(ino.0))) {
            Some(Ok(state)) if size == 0 => reply.size(state.len() as u32),
            Some(Ok(state)) if (size as usize) < state.len() => reply.error(Errno::ERANGE),
            Some(Ok(state)) => reply.data(state.as_bytes()),
            Some(Err(error)) => reply.error(error),
            None => reply.error(Errno::NO_XATTR),
        }
    }

    fn listxattr(&self, _request: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn removexattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _request: &Request, _ino: INodeNo, _fh: FileHandle, _offset: i64, _whence: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
