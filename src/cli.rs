//! The command line: argument tree, exit codes, one file a command.
//!
//! Commands parse, call and print; what they call lives elsewhere and is tested there. Results go to standard output, everything
//! meant for a person who waits (errors, progress) to standard error, so that output can be piped.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod access;
pub mod doctor;
pub mod emulator;
pub mod mount;
pub mod options;
pub mod probe;
pub mod provision;
pub mod status;
pub mod switch;
pub mod umount;

/// How every command ends; the table is in README.md.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    /// Anything that has no code of its own.
    Failure = 1,
    /// The command line itself is wrong.
    Usage = 2,
    /// The mount point is missing, busy, not empty, already used or not mounted, or FUSE is not there.
    MountPoint = 3,
    /// The configuration is wrong.
    Config = 4,
    /// A bucket refuses the credentials.
    Credentials = 5,
    /// No bucket answers, and there is nothing local to work with.
    Unreachable = 6,
    /// Ended, but some writes are only in the journal; the next mount sends them.
    LeftBehind = 7,
    /// `doctor`, `probe`: it works, but something needs attention.
    Attention = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// A command that did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(code: Exit, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }
}

const EXAMPLES: &str = "\
Examples:
  Try it without a cloud account: two emulated regions on this machine, and a mount on them
    cosfs-ha emulator --write-config /tmp/try.toml &
    mkdir /tmp/data && cosfs-ha mount /tmp/data --config /tmp/try.toml
    cosfs-ha status /tmp/data
    cosfs-ha umount /tmp/data

  Two real buckets that replicate to each other; the key comes from /etc/passwd-cosfs
    cosfs-ha mount cos://master-1250000000.cos.ap-guangzhou.myqcloud.com /data \\
        --slave cos://slave-1250000000.cos.ap-shanghai.myqcloud.com

  In /etc/fstab, with the program linked as /sbin/mount.cosfs-ha
    none /data cosfs-ha _netdev,nofail,config=/etc/cosfs-ha.toml 0 0";

/// Shows a COS bucket as a directory, and keeps it working when its region does not.
///
/// Bucket A and bucket B sit in two regions and replicate to each other. Programs read and write plain files; when the region of one
/// bucket fails, the mount goes on with the other within seconds, without errors and without losing what was written.
#[derive(Parser, Debug)]
#[command(name = "cosfs-ha", version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    Mount(Box<mount::MountArgs>),
    Umount(umount::UmountArgs),
    Status(status::StatusArgs),
    Switch(switch::SwitchArgs),
    Provision(provision::ProvisionArgs),
    Doctor(doctor::DoctorArgs),
    Probe(probe::ProbeArgs),
    Emulator(emulator::EmulatorArgs),
}

/// Runs the command line and says how the process ends.
///
/// Called as `mount.cosfs-ha` (by mount(8), for an fstab line) it understands mount(8)'s arguments instead.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let result = if args.first().is_some_and(|called| is_helper(called)) {
        options::helper_args(&args[1..]).and_then(|asked| match asked {
            Some(args) => mount::run(args),
            None => Ok(Exit::Ok),
        })
    } else {
        match Cli::try_parse_from(&args) {
            Ok(cli) => run(cli.command),
            Err(error) => {
                // Help and version come as "errors" with code 0; where they cannot be printed nobody reads them.
                let _ = error.print();
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
            }
        }
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("cosfs-ha: {}", failure.message);
            failure.code.into()
        }
    }
}

/// Was the program called by the name that mount(8) uses?
fn is_helper(called: &OsStr) -> bool {
    Path::new(called).file_name().is_some_and(|name| name == "mount.cosfs-ha")
}

fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Mount(args) => mount::run(*args),
        Command::Umount(args) => umount::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Switch(args) => switch::run(&args),
        Command::Provision(args) => provision::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Emulator(args) => emulator::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_argument_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn one_positional_is_the_mount_point() {
        let parse = |args: &[&str]| match Cli::try_parse_from([&["cosfs-ha", "mount"], args].concat()).unwrap().command
        {
            Command::Mount(args) => (args.source.clone(), args.mountpoint.clone()),
            other => panic!("{other:?}"),
        };
        assert_eq!(parse(&["/mnt", "--config", "x"]), (None, "/mnt".into()));
        assert_eq!(parse(&["cos://x", "/mnt"]), (Some("cos://x".into()), "/mnt".into()));
    }
}
