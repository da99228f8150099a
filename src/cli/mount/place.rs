//! Is the mount point fit, and is FUSE there?

use std::io;
use std::path::{Path, PathBuf};

use crate::cli::{Exit, Failure};
use crate::config::Config;
use crate::control::place as sockets;
use crate::control::{Client, ClientError};

fn refuse(message: String) -> Failure {
    Failure::new(Exit::MountPoint, message)
}

/// The one true name of the mount point; it must exist, except that its own mount may be dead.
pub fn canonical(mountpoint: &Path) -> Result<PathBuf, Failure> {
    sockets::canonical(mountpoint).map_err(|error| refuse(format!("mount point {}: {error}", mountpoint.display())))
}

/// Everything that can be said against the mount point before anything is started.
pub fn check(mountpoint: &Path, config: &Config) -> Result<(), Failure> {
    let shown = mountpoint.display();
    match Client::connect(mountpoint) {
        Ok(_) => {
            return Err(refuse(format!(
                "{shown} is already mounted by cosfs-ha; end that first: cosfs-ha umount {shown}"
            )));
        }
        Err(error @ (ClientError::Dead(_) | ClientError::NotYours(_))) => return Err(refuse(error.to_string())),
        Err(_) => {}
    }
    crate::fuse::check(mountpoint, config.mount.nonempty).map_err(|error| refuse(error.to_string()))?;
    for (what, dir) in [("cache", &config.cache.dir), ("journal", &config.journal.dir)] {
        if dir.starts_with(mountpoint) {
            return Err(Failure::new(
                Exit::Config,
                format!(
                    "[{what}] dir {} lies inside of the mount point {shown}: the mount would wait for itself",
                    dir.display()
                ),
            ));
        }
    }
    device()
}

/// The kernel's part, and for users other than root the helper that may mount for them.
fn device() -> Result<(), Failure> {
    let root = rustix::process::geteuid().is_root();
    if !root && helper(std::env::var_os("PATH").as_deref()).is_none() {
        return Err(refuse(
            "fusermount3 is not installed; without root it is needed to mount. Debian and Ubuntu: apt install fuse3"
                .into(),
        ));
    }
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        // The helper may open what we may not.
        Err(error) if root || error.kind() != io::ErrorKind::PermissionDenied => Err(refuse(format!(
            "cannot open /dev/fuse: {error}. FUSE must be in the kernel (modprobe fuse) and, in a container, passed in (--device /dev/fuse)"
        ))),
        _ => Ok(()),
    }
}

/// `fusermount3`, or its older name, in a search path.
fn helper(path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(path?).collect();
    ["fusermount3", "fusermount"]
        .iter()
        .find_map(|name| folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfit_places_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("full")).unwrap();
        std::fs::write(root.join("full/file"), "x").unwrap();
        let mut config = Config::default();
        let say = |place: PathBuf, config: &Config| check(&place, config).unwrap_err();
        let rows = [("absent", "mkdir"), ("full/file", "not a directory"), ("full", "not empty")];
        for (place, expect) in rows {
            let failure = say(root.join(place), &config);
            assert!(failure.message.contains(expect), "{place}: {}", failure.message);
            assert_eq!(failure.code, Exit::MountPoint);
        }
        assert!(say("/proc".into(), &config).message.contains("already mounted"));
        config.cache.dir = root.join("full/cache");
        config.mount.nonempty = true;
        assert!(say(root.join("full"), &config).message.contains("wait for itself"));
        assert_eq!(canonical(&root.join("absent/x")).unwrap_err().code, Exit::MountPoint);
    }

    #[test]
    fn the_helper_is_looked_for_by_both_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = std::env::join_paths(["/nonexistent".as_ref(), dir.path()]).unwrap();
        assert_eq!(helper(Some(&path)), None);
        std::fs::write(dir.path().join("fusermount"), "").unwrap();
        assert_eq!(helper(Some(&path)), Some(dir.path().join("fusermount")));
        std::fs::write(dir.path().join("fusermount3"), "").unwrap();
        assert_eq!(helper(Some(&path)), Some(dir.path().join("fusermount3")));
    }
}
