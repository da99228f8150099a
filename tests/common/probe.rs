//! A program that keeps working in a mount and notes how long each operation took: the measure of a stall.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One operation as the program saw it.
#[derive(Clone, Debug)]
pub struct Step {
    pub what: &'static str,
    pub began: Instant,
    pub took: Duration,
    pub error: Option<String>,
}

/// Everything a prober did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub steps: Vec<Step>,
}

impl Report {
    pub fn errors(&self) -> Vec<String> {
        let wrong = self.steps.iter().filter_map(|step| Some((step.what, step.error.as_ref()?)));
        wrong.map(|(what, error)| format!("{what}: {error}")).collect()
    }

    pub fn longest(&self) -> Duration {
        self.steps.iter().map(|step| step.took).max().unwrap_or_default()
    }

    /// From a moment to the end of the first operation of a kind that began after it.
    pub fn first_after(&self, what: &str, moment: Instant) -> Option<Duration> {
        let step = self.steps.iter().find(|step| step.what == what && step.began >= moment && step.error.is_none())?;
        Some(step.began + step.took - moment)
    }
}

/// Writes a new file, reads an old one back, looks at attributes and lists the folder, over and over, until stopped.
pub struct Prober {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Report>,
}

impl Prober {
    pub fn start(folder: &Path, seed: u64) -> Prober {
        fs::create_dir_all(folder).expect("a folder in the mount");
        let stop = Arc::new(AtomicBool::new(false));
        let (folder, stopped) = (folder.to_path_buf(), stop.clone());
        let thread = std::thread::spawn(move || run(&folder, seed, &stopped));
        Prober { stop, thread }
    }

    pub fn end(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the prober does not panic")
    }
}

/// Files that are written in turn: enough that one read comes from long before the fault.
const FILES: u64 = 40;

fn run(folder: &Path, seed: u64, stop: &AtomicBool) -> Report {
    let mut report = Report::default();
    let path = |n: u64| -> PathBuf { folder.join(format!("probe-{seed}-{}", n % FILES)) };
    let content = |n: u64| super::bytes(seed << 32 | n, 3000 + (n as usize * 977) % 9000);
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        report.step("write", || {
            let mut file = fs::File::create(path(n))?;
            file.write_all(&content(n))?;
            file.sync_all()
        });
        if n >= FILES / 2 {
            let old = n - FILES / 2;
            report.step("read", || {
                let mut found = Vec::new();
                fs::File::open(path(old))?.read_to_end(&mut found)?;
                if found == content(old) { Ok(()) } else { Err(std::io::Error::other("wrong bytes")) }
            });
        }
        report.step("stat", || {
            let len = fs::metadata(path(n))?.len();
            if len == content(n).len() as u64 {
                Ok(())
            } else {
                Err(std::io::Error::other(format!("wrong size {len}")))
            }
        });
        report.step("list", || {
            let names = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?.len() as u64;
            if names >= (n + 1).min(FILES) { Ok(()) } else { Err(std::io::Error::other(format!("only {names} names"))) }
        });
        n += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    report
}

impl Report {
    fn step(&mut self, what: &'static str, operation: impl FnOnce() -> std::io::Result<()>) {
        let began = Instant::now();
        let error = operation().err().map(|error| error.to_string());
        self.steps.push(Step { what, began, took: began.elapsed(), error });
    }
}
