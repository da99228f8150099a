//! Where the socket of a mount lies, and how a mount point gets its one true name.
//!
//! The name is computed, not looked up: the same mount point gives the same socket for the daemon and for every command. Looking at a
//! mount point must not hang or fail when its daemon is dead, so only the folder *above* it is resolved on disk.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Absolute path of a mount point with links resolved, without touching what is mounted there (except where it is itself a link).
pub fn canonical(mountpoint: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(mountpoint)?;
    // `x/..` and `/` have no name of their own to keep apart.
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return absolute.canonicalize();
    };
    if absolute.components().next_back() == Some(std::path::Component::ParentDir) {
        return absolute.canonicalize();
    }
    let path = parent.canonicalize()?.join(name);
    match path.symlink_metadata() {
        Ok(data) if data.file_type().is_symlink() => path.canonicalize(),
        // A dead mount answers ENOTCONN; its name is right all the same.
        _ => Ok(path),
    }
}

/// The folder for sockets of this user: `/run/cosfs-ha` for root, else in `$XDG_RUNTIME_DIR`, else a private one in /tmp.
pub fn folder() -> PathBuf {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return PathBuf::from(SYSTEM);
    }
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(path) if path.is_absolute() => path.join("cosfs-ha"),
        _ => PathBuf::from(format!("/tmp/cosfs-ha-{}", user.as_raw())),
    }
}

const SYSTEM: &str = "/run/cosfs-ha";

/// Creates the folder so that nobody else can put a socket there.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    let data = folder.symlink_metadata()?;
    if !data.is_dir() || data.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is not a folder of this user", folder.display()),
        ));
    }
    if data.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The socket of the mount at a [`canonical`] mount point. Short, because a socket's path may have 107 bytes only.
pub fn socket(folder: &Path, canonical: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let hash = Sha256::digest(canonical.as_os_str().as_bytes());
    let name: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    folder.join(format!("{name}.sock"))
}

/// Where a command looks: mounts of this user, then those of root.
pub fn candidates(canonical: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder(), PathBuf::from(SYSTEM)];
    folders.dedup();
    folders.iter().map(|folder| socket(folder, canonical)).collect()
}

/// Types of the file systems mounted exactly there, uppermost last. Reads the kernel's table only: looking at the path could hang.
fn mounts_at(canonical: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts_in(&table, canonical)
}

fn mounts_in(table: &str, canonical: &Path) -> Vec<String> {
    // The table writes space, tab, newline and backslash as octal digits.
    let wanted = canonical.to_string_lossy();
    let wanted = wanted.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012");
    let kind = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        (left.split(' ').nth(4)? == wanted).then(|| right.split(' ').next().unwrap_or_default().to_string())
    };
    table.lines().filter_map(kind).collect()
}

/// Is anything mounted exactly there?
pub fn is_mounted(canonical: &Path) -> bool {
    !mounts_at(canonical).is_empty()
}

/// Is one of our mounts the uppermost one there?
pub fn is_ours(canonical: &Path) -> bool {
    mounts_at(canonical).last().is_some_and(|kind| kind == "fuse.cosfs-ha")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mount_point_has_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("m")).unwrap();
        std::os::unix::fs::symlink(root.join("m"), root.join("link")).unwrap();
        for spelling in ["m", "m/", "./m", "link", "link/", "m/../m", "m/x/.."] {
            std::fs::create_dir_all(root.join("m/x")).unwrap();
            assert_eq!(canonical(&root.join(spelling)).unwrap(), root.join("m"), "{spelling}");
        }
        assert_eq!(canonical(&root.join("absent")).unwrap(), root.join("absent"));
        assert!(canonical(&root.join("absent/m")).is_err());
    }

    #[test]
    fn mount_table() {
        let table = "\
            22 1 0:20 / /a\\040b rw,nosuid shared:1 - fuse cosfs-ha rw\n\
            23 1 0:21 / /m rw - tmpfs tmpfs rw\n\
            24 1 0:22 / /m rw - fuse.cosfs-ha cosfs-ha:x rw\n";
        let at = |path: &str| mounts_in(table, Path::new(path));
        assert_eq!(at("/a b"), ["fuse"]);
        assert_eq!(at("/m"), ["tmpfs", "fuse.cosfs-ha"]);
        assert!(at("/").is_empty());
    }

    #[test]
    fn sockets_differ_and_fit() {
        let folder = Path::new("/run/user/1000000/cosfs-ha");
        let long = PathBuf::from(format!("/{}", "x".repeat(3000)));
        assert_ne!(socket(folder, Path::new("/a")), socket(folder, Path::new("/b")));
        assert!(socket(folder, &long).as_os_str().len() < 108);
    }

    #[test]
    fn the_folder_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("f");
        make_folder(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        make_folder(&folder).unwrap();
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::os::unix::fs::symlink(&folder, dir.path().join("link")).unwrap();
        assert!(make_folder(&dir.path().join("link")).is_err(), "a link could have been laid by anybody");
    }
}
