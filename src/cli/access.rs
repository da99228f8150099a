//! What the commands that talk to both buckets share: the configuration, two clients, a runtime.

use std::path::Path;

use tokio::runtime::{Builder, Runtime};

use super::mount::clients;
use super::{Exit, Failure};
use crate::config::{self, Config};
use crate::cos::Client;
use crate::object::Site;

/// A line on standard output. A reader that went away (`| head -1`) is no failure of ours.
macro_rules! say {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($what)*);
    }};
}
pub(super) use say;

/// The configuration file, checked.
pub fn configuration(file: &Path) -> Result<Config, Failure> {
    config::load(Some(file), &[]).map_err(|error| Failure::new(Exit::Config, error.to_string()))
}

/// Both buckets, and the threads to talk to them.
pub struct Pair {
    pub clients: [Client; 2],
    runtime: Runtime,
}

impl Pair {
    pub fn open(config: &Config) -> Result<Pair, Failure> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Exit::Failure, format!("cannot start threads: {error}")))?;
        Ok(Pair { clients: clients(config)?, runtime })
    }

    /// Runs to the end what talks to them.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub fn name(&self, site: Site) -> &str {
        &self.clients[site.index()].address().bucket
    }
}

/// Asks a person; where there is none, only `yes` goes on.
pub fn consent(what: &str, yes: bool) -> Result<(), Failure> {
    use std::io::IsTerminal;
    if yes {
        return Ok(());
    }
    let refuse = |why: &str| Err(Failure::new(Exit::Failure, format!("nothing was changed{why}")));
    if !std::io::stdin().is_terminal() {
        return refuse(&format!(". {what} There is nobody to ask; give --yes if that is what you want"));
    }
    eprint!("{what} Go on? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|e| Failure::new(Exit::Failure, e.to_string()))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => refuse(""),
    }
}
