//! The system calls of mounting, and what the kernel says about mounts.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::{Error, MountOptions};

/// The part after the dot is what `mount` and `df -T` show beside "fuse".
const SUBTYPE: &str = "cosfs-ha";

/// One line of /proc/self/mountinfo.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountLine {
    pub id: u64,
    /// `major:minor`; the minor number also names the FUSE connection.
    pub device: String,
    pub point: PathBuf,
    pub fstype: String,
}

/// What lies on top at a mount point now. Reads the kernel's table only: touching the path itself would wait for a dead server.
pub fn top_mount(point: &Path) -> io::Result<Option<MountLine>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse_mountinfo(&table).into_iter().rfind(|line| line.point == point))
}

fn parse_mountinfo(table: &[u8]) -> Vec<MountLine> {
    table
        .split(|b| *b == b'\n')
        .filter_map(|line| {
            // 36 35 98:0 /root /point options - type source options
            let mut words = line.split(|b| *b == b' ');
            let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
            let id = text(words.next()?).parse().ok()?;
            let device = text(words.nth(1)?);
            let point = unescape(words.nth(1)?);
            words.find(|word| *word == b"-")?;
            Some(MountLine { id, device, point, fstype: text(words.next()?) })
        })
        .collect()
}

/// Blanks and backslashes stand as three octal digits.
fn unescape(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                bytes.push(code);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// Opens the device and mounts it; `point` is canonical.
pub fn mount(point: &Path, options: &MountOptions) -> Result<File, Error> {
    let source: String = options
        .source
        .chars()
        .map(|c| if c == ',' || c == '\\' || c.is_whitespace() || c.is_control() { '_' } else { c })
        .collect();
    match mount_directly(point, &source, options) {
        Err(Error::Mount(e) | Error::Device(e)) if e.kind() == io::ErrorKind::PermissionDenied => {
            mount_by_helper(point, &source, options)
        }
        other => other,
    }
}

fn mount_directly(point: &Path, source: &str, options: &MountOptions) -> Result<File, Error> {
    let device = File::options().read(true).write(true).open("/dev/fuse").map_err(Error::Device)?;
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        if options.allow_other { ",allow_other" } else { "" },
    );
    let data = CString::new(data).map_err(|e| Error::Mount(e.into()))?;
    let mut flags = MountFlags::empty();
    for (on, flag) in [
        (!options.dev, MountFlags::NODEV),
        (!options.suid, MountFlags::NOSUID),
        (options.noexec, MountFlags::NOEXEC),
        (options.sync, MountFlags::SYNCHRONOUS),
        (options.read_only, MountFlags::RDONLY),
    ] {
        flags.set(flag, on);
    }
    rustix::mount::mount(source, point, format!("fuse.{SUBTYPE}"), flags, Some(data.as_c_str()))
        .map_err(|e| Error::Mount(e.into()))?;
    Ok(device)
}

/// `fusermount3` mounts for users who may not, and sends the open device back over its standard input.
fn mount_by_helper(point: &Path, source: &str, options: &MountOptions) -> Result<File, Error> {
    let (ours, theirs) = UnixStream::pair().map_err(Error::Mount)?;
    let mut words = vec![
        format!("fsname={source}"),
        format!("subtype={SUBTYPE}"),
        "nodev,nosuid,default_permissions".to_string(),
        if options.read_only { "ro" } else { "rw" }.to_string(),
    ];
    for (on, word) in [(options.noexec, "noexec"), (options.sync, "sync")] {
        if on {
            words.push(word.to_string());
        }
    }
    if options.suid || options.dev {
        return Err(Error::Helper("the options suid and dev are for root only".into()));
    }
    if options.allow_other {
        words.push("allow_other".to_string());
    }
    let child = Command::new("fusermount3")
        .arg("-o")
        .arg(words.join(","))
        .arg("--")
        .arg(point)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| if e.kind() == io::ErrorKind::NotFound { Error::NoHelper } else { Error::Mount(e) })?;
    let device = receive_device(&ours);
    let output = child.wait_with_output().map_err(Error::Mount)?;
    match device {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Err(e) => Err(Error::Mount(e)),
        Ok(_) => Err(Error::Helper(String::from_utf8_lossy(&output.stderr).trim().to_string())),
    }
}

fn receive_device(socket: &UnixStream) -> io::Result<Option<File>> {
    let mut byte = [0u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(fds.next().and_then(|mut fds| fds.next()).map(File::from))
}

/// Detaches the mount `ours` from the tree; open files keep working until they are closed. Whatever else lies there is left alone.
pub fn unmount(ours: &MountLine) -> Result<(), Error> {
    let fail = |e: String| Error::Unmount(ours.point.clone(), e);
    match top_mount(&ours.point).map_err(|e| fail(e.to_string()))? {
        Some(top) if top.id == ours.id && top.device == ours.device => {}
        _ => return Ok(()),
    }
    match rustix::mount::unmount(&ours.point, UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => {
            let output = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(&ours.point).output();
            match output {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) => Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_string())),
                Err(e) => Err(fail(format!("fusermount3: {e}"))),
            }
        }
        Err(e) => Err(fail(e.to_string())),
    }
}

/// The kernel reads ahead 128 KiB unless told otherwise, and only this file tells it.
pub fn raise_readahead(device: &str, bytes: u64) {
    let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(e) = std::fs::write(&file, (bytes / 1024).to_string()) {
        log::info!("kernel read-ahead stays as it is ({file}: {e}); only root can raise it");
    }
}

/// Seconds after which the kernel itself gives up on the whole mount; `None` where it never does.
pub fn kernel_request_timeout() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/sys/fs/fuse/max_request_timeout").ok()?;
    text.trim().parse().ok().filter(|seconds| *seconds > 0)
}

pub fn canonical(point: &Path) -> Result<PathBuf, Error> {
    point.canonicalize().map_err(|e| match e.raw_os_error() {
        Some(libc::ENOENT) => Error::Missing(point.to_path_buf()),
        Some(libc::ENOTCONN) => Error::Dead(point.to_path_buf()),
        _ if point.as_os_str().as_bytes().is_empty() => Error::Missing(point.to_path_buf()),
        _ => Error::MountPoint(point.to_path_buf(), e),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_with_blanks_and_optional_fields() {
        let table = b"36 35 0:44 / /mnt/a\\040b rw,nosuid shared:7 master:1 - fuse.cosfs-ha src rw\nnonsense\n37 35 98:0 / / rw - ext4 /dev/x rw\n";
        let lines = parse_mountinfo(table);
        assert_eq!(lines.len(), 2);
        assert_eq!(
            lines[0],
            MountLine { id: 36, device: "0:44".into(), point: "/mnt/a b".into(), fstype: "fuse.cosfs-ha".into() }
        );
        assert_eq!(lines[1].fstype, "ext4");
    }
}
