//! The life of a mount: checks, mounting, the threads that read requests, the end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::adapter::Adapter;
use super::sys::{self, MountLine};
use super::{Error, MountOptions, notify};
use crate::store::Store;
use crate::vfs::Vfs;

/// Readers of requests. They wait for nothing but a look into a local index, so two keep two processors busy and more gain nothing (measured).
const THREADS: usize = 2;

/// What must be left of the kernel's own limit when ours is reached.
const KERNEL_MARGIN: Duration = Duration::from_secs(5);

/// A mount that answers. Dropping it leaves the mount alone; it ends with the process.
pub struct Mounted {
    line: MountLine,
    ended: watch::Receiver<Option<Result<(), String>>>,
}

/// Mounts and begins to answer; when this returns, programs can use the mount.
pub fn mount<S: Store>(vfs: Arc<Vfs<S>>, options: MountOptions, rt: Handle) -> Result<Mounted, Error> {
    let stall = stall_limit(vfs.options().max_stall)?;
    let point = sys::canonical(&options.mountpoint)?;
    check(&point, options.nonempty)?;
    let device = sys::mount(&point, &options)?;
    let Some(line) = sys::top_mount(&point).ok().flatten().filter(|line| line.fstype.starts_with("fuse")) else {
        return Err(Error::Mount(std::io::Error::other("the mount vanished at once")));
    };
    serve(vfs, options, rt, device, &line, stall).inspect_err(|_| {
        if let Err(e) = sys::unmount(&line) {
            log::warn!("{e}");
        }
    })
}

fn serve<S: Store>(
    vfs: Arc<Vfs<S>>,
    options: MountOptions,
    rt: Handle,
    device: std::fs::File,
    line: &MountLine,
    stall: Duration,
) -> Result<Mounted, Error> {
    let answers = Arc::new(device.try_clone().map_err(Error::Session)?);
    let adapter = Adapter::new(vfs.clone(), rt, answers, stall, options.request_bytes_max);
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    // The kernel lets in who may come in (`allow_other`); fuser's own check would turn root away.
    let session = Session::from_fd(adapter, device.into(), SessionACL::All, config).map_err(Error::Session)?;
    vfs.on_notice(notify::start(session.notifier()).map_err(Error::Session)?);
    sys::raise_readahead(&line.device, options.readahead_bytes);
    let (tell, ended) = watch::channel(None);
    std::thread::Builder::new()
        .name("fuse-session".into())
        .spawn(move || {
            let result = session.run().map_err(|e| e.to_string());
            tell.send_replace(Some(result));
        })
        .map_err(Error::Session)?;
    Ok(Mounted { line: line.clone(), ended })
}

impl Mounted {
    /// Until somebody unmounts, here or from outside.
    pub async fn wait(&self) -> Result<(), String> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err("the session thread ended early".to_string()),
        }
    }

    /// Takes the mount out of the tree at once; files that are open go on until they are closed. A mount that is no longer ours
    /// is left alone.
    pub fn unmount(&self) -> Result<(), Error> {
        sys::unmount(&self.line)
    }

    /// Where it is mounted, free of links and dots.
    pub fn mountpoint(&self) -> &Path {
        &self.line.point
    }

    /// Number of the connection under /sys/fs/fuse/connections.
    pub fn connection(&self) -> &str {
        self.line.device.rsplit(':').next().unwrap_or_default()
    }
}

fn stall_limit(wanted: Duration) -> Result<Duration, Error> {
    let limit = match sys::kernel_request_timeout() {
        Some(seconds) => wanted.min(Duration::from_secs(seconds).saturating_sub(KERNEL_MARGIN)),
        None => wanted,
    };
    if limit.is_zero() { Err(Error::Stall(wanted)) } else { Ok(limit) }
}

/// Can something be mounted here? `point` is canonical. Asked when the command begins, so that a mistake is answered at once, and again
/// before mounting, because time has passed.
pub fn check(point: &Path, nonempty: bool) -> Result<(), Error> {
    if let Ok(Some(line)) = sys::top_mount(point) {
        return Err(Error::AlreadyMounted(point.into(), line.fstype));
    }
    let fail = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => Error::Missing(point.into()),
        _ => Error::MountPoint(point.into(), e),
    };
    if !point.metadata().map_err(fail)?.is_dir() {
        return Err(Error::NotDirectory(point.into()));
    }
    if !nonempty && point.read_dir().map_err(fail)?.next().is_some() {
        return Err(Error::NotEmpty(point.into()));
    }
    Ok(())
}
