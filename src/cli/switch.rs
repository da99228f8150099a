//! `cosfs-ha switch`: the operator decides where the mount writes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::umount::refusal;
use super::{Exit, Failure};
use crate::control::{Client, Line, Request};
use crate::object::Site;

/// Move a mount to one of its buckets, or let it decide by itself again.
///
/// A move is graceful while the present master answers: writes are held back for at most two seconds, and nothing fails. The command returns
/// when reads and writes go to the new master, or says why they cannot. After it the mount does not go back by itself until `--auto`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cosfs-ha switch /data --to b --reason 'maintenance in ap-guangzhou'
  cosfs-ha switch /data --to a
  cosfs-ha switch /data --auto")]
pub struct SwitchArgs {
    /// Where it is mounted
    pub mountpoint: PathBuf,
    /// The bucket to write to from now on
    #[arg(long, value_enum, required_unless_present = "auto")]
    pub to: Option<Target>,
    /// Why; kept in the log and shown by `status`
    #[arg(long, requires = "to")]
    pub reason: Option<String>,
    /// Return to automatic decisions, with a fresh allowance of switches
    #[arg(long, conflicts_with = "to")]
    pub auto: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Target {
    A,
    B,
}

pub fn run(args: &SwitchArgs) -> Result<Exit, Failure> {
    let request = match args.to {
        Some(target) => {
            let to = match target {
                Target::A => Site::A,
                Target::B => Site::B,
            };
            Request::Switch { to, reason: args.reason.clone().unwrap_or_else(|| "operator".into()) }
        }
        None => Request::Auto,
    };
    let client = Client::connect(&args.mountpoint).map_err(refusal)?;
    match client.ask(&request, |_| {}).map_err(refusal)? {
        Line::Done => Ok(Exit::Ok),
        other => Err(Failure::new(Exit::Failure, format!("unexpected answer of the daemon: {other:?}"))),
    }
}
