//! A program of the operator: `program <event> <raised|cleared>` with the notice as JSON on its standard input.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{Notice, Trouble};

/// After this it is killed.
const DEADLINE: Duration = Duration::from_secs(30);
/// The only variables it gets: ours may hold keys.
const PASSED_ON: [&str; 5] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ"];

pub(super) struct Exec {
    program: PathBuf,
}

impl Exec {
    pub fn new(program: &Path) -> Exec {
        Exec { program: program.into() }
    }

    /// Never repeated: nobody knows what half a run did.
    pub async fn run(&self, notice: &Notice) -> Result<(), Trouble> {
        let shown = self.program.display();
        let mut command = Command::new(&self.program);
        command.arg(notice.event).arg(notice.phase.as_str()).env_clear();
        command.envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/").kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| Trouble::Final(format!("{shown}: {error}")))?;
        let input = child.stdin.take();
        let ran = async {
            if let Some(mut input) = input {
                // A program that does not read its input is fine.
                let _ = input.write_all(notice.json().as_bytes()).await;
            }
            child.wait().await
        };
        match tokio::time::timeout(DEADLINE, ran).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(Trouble::Final(format!("{shown}: {status}"))),
            Ok(Err(error)) => Err(Trouble::Final(format!("{shown}: {error}"))),
            Err(_) => Err(Trouble::Final(format!("{shown}: not done after {} s, killed", DEADLINE.as_secs()))),
        }
    }
}
