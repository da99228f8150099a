//! What this computer has to bring: FUSE, and room on disks that keep what is written to them.

use std::path::{Path, PathBuf};

use super::{Check, Finding, Severity};
use crate::config::Config;

/// `f_type` of file systems in memory (linux/magic.h): tmpfs, ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

pub fn look(config: &Config) -> Vec<Finding> {
    vec![
        fuse(),
        folder(Check::Journal, &config.journal.dir, config.journal.size.0),
        folder(Check::Cache, &config.cache.dir, config.cache.size.0),
    ]
}

fn fuse() -> Finding {
    let bad = |state: &str, cure: &str| {
        Finding::bad(Check::Fuse, None, Severity::Error, state).then("nothing can be mounted here").mend(cure)
    };
    if !Path::new("/dev/fuse").exists() {
        return bad("/dev/fuse is not there", "modprobe fuse");
    }
    let root = rustix::process::geteuid().is_root();
    let search = std::env::var_os("PATH").unwrap_or_default();
    let helper = std::env::split_paths(&search).any(|folder| folder.join("fusermount3").exists());
    if !root && !helper {
        return bad("fusermount3 is not installed, and without it only root can mount", "apt install fuse3");
    }
    Finding::ok(Check::Fuse, None, "FUSE is there")
}

/// The folder, or what is there of the way to it.
fn existing(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().find(|path| path.exists()).map(Path::to_path_buf)
}

fn folder(check: Check, folder: &Path, wanted: u64) -> Finding {
    let shown = folder.display();
    let bad = |severity, state: String| Finding::bad(check, None, severity, state);
    let journal = check == Check::Journal;
    let (name, option) = if journal { ("journal", "[journal] dir") } else { ("cache", "[cache] dir") };
    let Some(there) = existing(folder) else {
        return bad(Severity::Error, format!("{shown} cannot be made"))
            .then("the mount cannot start")
            .mend("name another folder");
    };
    if rustix::fs::access(&there, rustix::fs::Access::WRITE_OK).is_err() {
        return bad(Severity::Error, format!("the {name} folder {shown} is not ours to write"))
            .then("the mount cannot start")
            .mend(format!("chown it to the user who mounts, or set {option}"));
    }
    let Ok(disk) = rustix::fs::statfs(&there) else {
        return bad(Severity::Unknown, format!("the disk of the {name} folder {shown} does not tell its size"))
            .then("how much it can hold is not known")
            .mend(format!("df {shown}"));
    };
    if journal && IN_MEMORY.contains(&u64::try_from(disk.f_type).unwrap_or(0)) {
        return bad(Severity::Error, format!("the journal folder {shown} is in memory"))
            .then("a reboot loses what was acknowledged and not yet sent")
            .mend("set [journal] dir to a folder on a disk");
    }
    let unit = u64::try_from(disk.f_bsize).unwrap_or(1);
    let free = disk.f_bavail.saturating_mul(unit);
    if free < wanted / 10 {
        let text = format!(
            "the disk of the {name} folder {shown} has {} free, and the {name} may take {}",
            indicatif::HumanBytes(free),
            indicatif::HumanBytes(wanted)
        );
        let then = if journal {
            "in an outage it will be full soon, and then writes get ENOSPC"
        } else {
            "little can be cached"
        };
        return bad(Severity::Warning, text).then(then).mend(format!("make room, or set {option} to another disk"));
    }
    Finding::ok(check, None, format!("the {name} folder {shown} can be used, {} free", indicatif::HumanBytes(free)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_judged_by_what_they_stand_on() {
        let severity = |check, path: &str, wanted| folder(check, Path::new(path), wanted).severity;
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("not/yet/there").display().to_string();
        let on_disk = !IN_MEMORY.contains(&u64::try_from(rustix::fs::statfs(dir.path()).unwrap().f_type).unwrap());
        if on_disk {
            assert_eq!(severity(Check::Journal, &inside, 1), Severity::Ok);
            assert_eq!(severity(Check::Journal, &inside, u64::MAX), Severity::Warning);
        }
        if Path::new("/dev/shm").exists() {
            assert_eq!(severity(Check::Journal, "/dev/shm/x", 1), Severity::Error);
            assert_eq!(severity(Check::Cache, "/dev/shm/x", 1), Severity::Ok);
        }
    }
}
