//! Who uses a mount: asked when it cannot be ended, so that the person knows whom to stop.
//!
//! Reads the links in /proc only. Following one would go through the mount and could hang on it.

use std::path::Path;

/// Longest answer; more names help nobody.
const NAMED: usize = 8;

/// Programs with a working directory, an open file or a mapping below `mountpoint`, as `name (pid n)`; without those of other users unless root asks.
pub fn users(mountpoint: &Path) -> Vec<String> {
    let own = std::process::id();
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own && uses(*pid, mountpoint)).map(name).take(NAMED).collect()
}

fn uses(pid: u32, mountpoint: &Path) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let leads_in = |link: &Path| std::fs::read_link(link).is_ok_and(|target| target.starts_with(mountpoint));
    if ["cwd", "root", "exe"].iter().any(|link| leads_in(&process.join(link))) {
        return true;
    }
    let open = std::fs::read_dir(process.join("fd")).into_iter().flatten();
    if open.filter_map(Result::ok).any(|entry| leads_in(&entry.path())) {
        return true;
    }
    let maps = std::fs::read_to_string(process.join("maps")).unwrap_or_default();
    maps.lines().any(|line| line.find('/').is_some_and(|at| Path::new(&line[at..]).starts_with(mountpoint)))
}

fn name(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{} (pid {pid})", name.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn finds_open_files_and_working_directories() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::write(root.join("f"), "x").unwrap();
        assert!(users(&root).is_empty());
        let mut inside = Command::new("sleep").arg("60").current_dir(&root).spawn().unwrap();
        let file = std::fs::File::open(root.join("f")).unwrap();
        let mut holds = Command::new("sleep").arg("60").stdin(Stdio::from(file)).spawn().unwrap();
        let found = users(&root);
        for child in [&mut inside, &mut holds] {
            let wanted = format!("sleep (pid {})", child.id());
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(found.contains(&wanted), "{wanted} is not in {found:?}");
        }
    }
}
