//! `cosfs-ha mount`: from the command line to a running daemon.
//!
//! The command checks what can be checked without the network, then starts the daemon as a process of its own (`detach`) and returns when
//! that says the mount answers, or prints why it does not. What the daemon is made of stands in `daemon`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::options::{self, Options};
use super::{Exit, Failure};
use crate::config::load::Override;
use crate::config::{Config, Raw, load};
use crate::object::Site;

mod daemon;
mod detach;
mod place;
mod preflight;
mod upkeep;
mod users;

pub(super) use preflight::clients;

const EXAMPLES: &str = "\
Examples:
  cosfs-ha mount /data --config /etc/cosfs-ha.toml
  cosfs-ha mount cos://master-1250000000.cos.ap-guangzhou.myqcloud.com/team /data \\
      --slave cos://slave-1250000000.cos.ap-shanghai.myqcloud.com/team \\
      -o passwd_file=/etc/passwd-cosfs
  cosfs-ha mount /data --config /etc/cosfs-ha.toml --commit two-regions --foreground

The buckets must replicate to each other, with versioning on. The key never goes on the command line: it comes from \
the configuration file, the environment (TENCENTCLOUD_SECRET_ID, TENCENTCLOUD_SECRET_KEY) or a password file. \
docs/configuration.md lists every option.";

/// Show a bucket pair as a directory.
///
/// Returns when the directory works; a daemon serves it from then on (`--foreground` stays instead). End it with `cosfs-ha umount`.
#[derive(Args, Clone, PartialEq, Debug, Default)]
#[command(after_help = EXAMPLES, allow_missing_positional = true)]
pub struct MountArgs {
    /// First master: `cos://<bucket>.cos.<region>.myqcloud.com[/prefix]`. Not needed if the configuration file names it
    pub source: Option<String>,
    /// Empty directory to mount on
    pub mountpoint: PathBuf,
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The replica in the other region, written like SOURCE
    #[arg(long, value_name = "SOURCE")]
    pub slave: Option<String>,
    /// Options as in fstab: name, name=value or section.name=value
    #[arg(short = 'o', value_name = "OPT[,OPT...]")]
    pub options: Vec<String>,
    /// Stay, and log to standard error
    #[arg(short, long)]
    pub foreground: bool,
    /// Refuse every change
    #[arg(long)]
    pub read_only: bool,
    /// Let other users use the mount
    #[arg(long)]
    pub allow_other: bool,
    /// When close and fsync return: journal, one-region or two-regions
    #[arg(long, value_name = "MODE")]
    pub commit: Option<String>,
    /// How often closed files are synced to the journal's disk without being asked, such as 5s; 0s: only by fsync
    #[arg(long, value_name = "TIME")]
    pub sync_interval: Option<String>,
    /// Folder for local copies
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Most that local copies may take, such as 10GiB
    #[arg(long, value_name = "SIZE")]
    pub cache_size: Option<String>,
    /// Folder for writes that are not yet in both buckets
    #[arg(long, value_name = "DIR")]
    pub journal_dir: Option<PathBuf>,
    /// File for the daemon's log
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// This process is the daemon that another `cosfs-ha mount` started
    #[arg(long, hide = true)]
    pub daemon: bool,
}

pub fn run(args: MountArgs) -> Result<Exit, Failure> {
    if args.daemon {
        return detach::child(|ready| {
            let (config, mountpoint) = prepare(&args)?;
            daemon::run(&config, &mountpoint, Some(ready), reload(&args)?)
        });
    }
    let options = options::parse(&args.options)?;
    for notice in &options.notices {
        eprintln!("cosfs-ha: {notice}");
    }
    let (config, mountpoint) = prepare(&args)?;
    place::check(&mountpoint, &config)?;
    if args.foreground {
        detach::log_to_stderr(config.log.level);
        return daemon::run(&config, &mountpoint, None, reload(&args)?);
    }
    detach::parent(&config, &mountpoint)
}

/// How the daemon reads its configuration again, wherever its working directory is by then.
fn reload(args: &MountArgs) -> Result<upkeep::Reload, Failure> {
    let mut again = args.clone();
    let file = again.config.clone().or(options::parse(&args.options)?.config);
    let file = file.map(std::path::absolute).transpose();
    again.config = file.map_err(|error| Failure::new(Exit::Usage, format!("--config: {error}")))?;
    for path in [&mut again.cache_dir, &mut again.journal_dir, &mut again.log_file].into_iter().flatten() {
        *path = std::path::absolute(&*path).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    }
    Ok(Box::new(move || configuration(&again, options::parse(&again.options)?)))
}

/// The configuration and the true name of the mount point.
fn prepare(args: &MountArgs) -> Result<(Config, PathBuf), Failure> {
    let config = configuration(args, options::parse(&args.options)?)?;
    Ok((config, place::canonical(&args.mountpoint)?))
}

fn configuration(args: &MountArgs, options: Options) -> Result<Config, Failure> {
    let file = args.config.clone().or(options.config);
    let mut overrides = Vec::new();
    let slave = args.slave.as_ref().or(options.slave.as_ref());
    if args.source.is_none() && file.is_none() {
        return Err(Failure::new(
            Exit::Usage,
            "nothing says which buckets to mount: give --config FILE, or SOURCE and --slave SOURCE (see cosfs-ha mount --help)",
        ));
    }
    let mut prefixes = Vec::new();
    for (site, name, text) in [(Site::A, "SOURCE", args.source.as_ref()), (Site::B, "--slave", slave)] {
        let Some(text) = text else { continue };
        let source = options::source(text, options.url.as_deref())?;
        let section = if site == Site::A { "a" } else { "b" };
        for (key, value) in [("bucket", source.bucket), ("region", source.region)] {
            overrides.push(Override { typed: name.into(), section, key: key.into(), raw: Raw::Text(value) });
        }
        prefixes.push(source.prefix);
    }
    if let [a, b] = prefixes.as_slice()
        && a != b
    {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "SOURCE shows \"{a}\" and --slave \"{b}\": replication keeps names, so both must show the same folder"
            ),
        ));
    }
    if let Some(prefix) = prefixes.into_iter().find(|prefix| !prefix.is_empty()) {
        overrides.push(text("SOURCE", "mount", "prefix", prefix));
    }
    overrides.extend(options.overrides);
    let path = |path: &Path| std::path::absolute(path).map(|path| path.display().to_string());
    for (typed, section, key, value) in [
        ("--cache-dir", "cache", "dir", &args.cache_dir),
        ("--journal-dir", "journal", "dir", &args.journal_dir),
        ("--log-file", "log", "file", &args.log_file),
    ] {
        if let Some(value) = value {
            let value = path(value).map_err(|error| Failure::new(Exit::Usage, format!("{typed}: {error}")))?;
            overrides.push(text(typed, section, key, value));
        }
    }
    if let Some(size) = &args.cache_size {
        overrides.push(text("--cache-size", "cache", "size", size.clone()));
    }
    if let Some(commit) = &args.commit {
        overrides.push(text("--commit", "mount", "commit", commit.clone()));
    }
    if let Some(every) = &args.sync_interval {
        overrides.push(text("--sync-interval", "mount", "sync_interval", every.clone()));
    }
    for (typed, key, on) in
        [("--read-only", "read_only", args.read_only), ("--allow-other", "allow_other", args.allow_other)]
    {
        if on {
            overrides.push(Override { typed: typed.into(), section: "mount", key: key.into(), raw: Raw::Bool(true) });
        }
    }
    load(file.as_deref(), &overrides).map_err(|error| {
        let code = match error {
            crate::config::Error::Option { .. } => Exit::Usage,
            _ => Exit::Config,
        };
        Failure::new(code, error.to_string())
    })
}

fn text(typed: &str, section: &'static str, key: &str, value: String) -> Override {
    Override { typed: typed.into(), section, key: key.into(), raw: Raw::Text(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Commit, Size};

    const A: &str = "cos://m-1.cos.ap-x.myqcloud.com";
    const B: &str = "cos://s-1.cos.ap-y.myqcloud.com";

    fn args() -> MountArgs {
        MountArgs { source: Some(A.into()), slave: Some(B.into()), mountpoint: "/mnt".into(), ..MountArgs::default() }
    }

    fn config(args: &MountArgs) -> Result<Config, Failure> {
        configuration(args, options::parse(&args.options)?)
    }

    #[test]
    fn two_sources_are_enough() {
        let config = config(&args()).unwrap();
        assert_eq!((config.a.bucket.as_str(), config.b.region.as_str()), ("m-1", "ap-y"));
        assert_eq!(config.mount.prefix, "");
    }

    #[test]
    fn flags_beat_o_options() {
        let args = MountArgs {
            source: Some(format!("{A}/team")),
            slave: Some(format!("{B}/team/")),
            options: vec!["commit=journal,cache_size=1GiB".into(), "ro".into()],
            commit: Some("two-regions".into()),
            cache_dir: Some("relative".into()),
            ..args()
        };
        let config = config(&args).unwrap();
        assert_eq!(config.mount.commit, Commit::TwoRegions);
        assert_eq!(config.cache.size, Size::gib(1));
        assert_eq!(config.mount.prefix, "team/");
        assert!(config.mount.read_only && config.cache.dir.is_absolute());
    }

    #[test]
    fn errors_have_their_code() {
        let rows = [
            (MountArgs { source: None, slave: None, ..args() }, Exit::Usage, "which buckets"),
            (MountArgs { slave: None, ..args() }, Exit::Config, "second bucket is not named"),
            (MountArgs { slave: Some("s-1".into()), ..args() }, Exit::Usage, "cos://"),
            (MountArgs { slave: Some(format!("{B}/x")), ..args() }, Exit::Usage, "the same folder"),
            (MountArgs { slave: Some(A.into()), ..args() }, Exit::Config, "same bucket"),
            (MountArgs { commit: Some("maybe".into()), ..args() }, Exit::Usage, "option --commit: expected one of"),
            (MountArgs { cache_size: Some("big".into()), ..args() }, Exit::Usage, "option --cache-size"),
            (MountArgs { options: vec!["wombat".into()], ..args() }, Exit::Usage, "unknown option wombat"),
            (MountArgs { config: Some("/absent.toml".into()), ..args() }, Exit::Config, "/absent.toml"),
        ];
        for (args, code, expect) in rows {
            let failure = config(&args).unwrap_err();
            assert_eq!(failure.code, code, "{expect}: {}", failure.message);
            assert!(failure.message.contains(expect), "{expect}: {}", failure.message);
        }
    }
}
