//! `-o` as fstab and mount(8) spell it, and COSFS's names where they mean something today.
//!
//! An option we do not know is an error: COSFS and s3fs ignore some silently, and users found out months later that a safety setting
//! had never been on. Words that are meant for mount(8) and systemd, not for us, are let through by name.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::mount::MountArgs;
use super::{Exit, Failure};
use crate::config::load::Override;
use crate::config::{Raw, SECTIONS, Source, nearest};

/// Everything that `-o` said.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Options {
    pub overrides: Vec<Override>,
    pub config: Option<PathBuf>,
    pub slave: Option<String>,
    /// COSFS's `url=`, which holds the region.
    pub url: Option<String>,
    /// One line for each option that was understood by its COSFS name.
    pub notices: Vec<String>,
}

/// Our names: option, section, key.
const OURS: &[(&str, &str, &str)] = &[
    ("cache_dir", "cache", "dir"),
    ("cache_size", "cache", "size"),
    ("commit", "mount", "commit"),
    ("conflicts", "mount", "conflicts"),
    ("failback", "failover", "failback"),
    ("gid", "mount", "gid"),
    ("journal_dir", "journal", "dir"),
    ("journal_size", "journal", "size"),
    ("log_file", "log", "file"),
    ("log_level", "log", "level"),
    ("max_stall", "mount", "max_stall"),
    ("metadata_ttl", "mount", "metadata_ttl"),
    ("passwd_file", "credentials", "file"),
    ("prefix", "mount", "prefix"),
    ("role", "credentials", "role"),
    ("second_region", "mount", "second_region"),
    ("unaudited", "mount", "unaudited"),
    ("sync_interval", "mount", "sync_interval"),
    ("uid", "mount", "uid"),
    ("umask", "mount", "umask"),
    ("when_unreachable", "mount", "when_unreachable"),
];

/// Words without a value that switch something.
const FLAGS: &[(&str, &str, &str, bool)] = &[
    ("allow_other", "mount", "allow_other", true),
    ("async", "mount", "sync", false),
    ("dev", "mount", "dev", true),
    ("exec", "mount", "noexec", false),
    ("nodev", "mount", "dev", false),
    ("noexec", "mount", "noexec", true),
    ("nonempty", "mount", "nonempty", true),
    ("nosuid", "mount", "suid", false),
    ("ro", "mount", "read_only", true),
    ("rw", "mount", "read_only", false),
    ("suid", "mount", "suid", true),
    ("sync", "mount", "sync", true),
];

/// For mount(8), systemd and people. Access times are never written, so all that is said of them is true already.
const PASSED_OVER: &[&str] = &[
    "_netdev",
    "auto",
    "atime",
    "defaults",
    "diratime",
    "group",
    "lazytime",
    "loud",
    "noatime",
    "noauto",
    "nodiratime",
    "nofail",
    "nogroup",
    "nolazytime",
    "noowner",
    "norelatime",
    "nostrictatime",
    "nouser",
    "nousers",
    "owner",
    "relatime",
    "silent",
    "strictatime",
    "user",
    "users",
];

/// Names of COSFS that mean the same as one of ours: its name, section, key, our name.
const ALIASES: &[(&str, &str, &str, &str)] = &[
    ("cam_role", "credentials", "role", "role"),
    ("cam_role_endpoint", "credentials", "role_endpoint", "credentials.role_endpoint"),
    ("tmpdir", "journal", "dir", "journal_dir"),
    ("use_cache", "cache", "dir", "cache_dir"),
];

/// Names of COSFS that there is nothing to set for, with the reason. Accepted, so that an old fstab line goes on working, and said aloud.
const NEEDLESS: &[(&str, &str)] = &[
    ("connect_timeout", "every call is answered within max_stall"),
    ("del_cache", "the cache is always checked before it is used; delete its folder if you want it gone"),
    ("ensure_diskfree", "cache_size and journal_size bound what is taken"),
    ("max_stat_cache_size", "attributes are kept on disk and bounded"),
    ("multipart_size", "parts are sized by the file"),
    ("noxattr", "extended attributes cost no request"),
    ("parallel_count", "uploads and downloads adapt by themselves"),
    ("readwrite_timeout", "every call is answered within max_stall"),
    ("retries", "requests are repeated until max_stall, elsewhere if need be"),
];

const OTHER_NAMES: &[&str] = &["config", "slave", "url", "stat_cache_expire", "dbglevel"];

fn usage(message: String) -> Failure {
    Failure::new(Exit::Usage, message)
}

/// Reads the values of all `-o`, each a list with commas.
pub fn parse(lists: &[String]) -> Result<Options, Failure> {
    let mut options = Options::default();
    for word in lists.iter().flat_map(|list| list.split(',')).filter(|word| !word.is_empty()) {
        let (typed, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let name = typed.replace('-', "_");
        let needed = || value.ok_or_else(|| usage(format!("option {typed} needs a value: {typed}=...")));
        let mut set = |section: &'static str, key: &str, raw: Raw| {
            options.overrides.push(Override { typed: format!("-o {typed}"), section, key: key.into(), raw });
        };
        if let Some((_, section, key)) = OURS.iter().find(|(ours, ..)| *ours == name) {
            set(section, key, Raw::Text(needed()?.into()));
        } else if let Some((_, section, key, on)) = FLAGS.iter().find(|(flag, ..)| *flag == name) {
            if value.is_some() {
                return Err(usage(format!("option {typed} takes no value")));
            }
            set(section, key, Raw::Bool(*on));
        } else if let Some((section, key)) = name.split_once('.').and_then(|(section, key)| {
            SECTIONS.iter().find(|known| **known == section).map(|section| (*section, key.to_string()))
        }) {
            if is_secret(section, &key) {
                return Err(usage(format!(
                    "option {typed}: a key on the command line is visible to every user; put it into the configuration file, \
                     the environment or a password file"
                )));
            }
            set(section, &key, Raw::Text(needed()?.into()));
        } else if let Some((_, section, key, ours)) = ALIASES.iter().find(|(theirs, ..)| *theirs == name) {
            set(section, key, Raw::Text(needed()?.into()));
            options.notices.push(format!("{name} is COSFS's name for {ours}"));
        } else if let Some((_, why)) = NEEDLESS.iter().find(|(theirs, _)| *theirs == name) {
            options.notices.push(format!("{name} is an option of COSFS that nothing here needs: {why}"));
        } else {
            match name.as_str() {
                "config" => options.config = Some(PathBuf::from(needed()?)),
                "slave" => options.slave = Some(needed()?.into()),
                "url" => options.url = Some(needed()?.into()),
                "stat_cache_expire" => {
                    set("mount", "metadata_ttl", Raw::Text(format!("{}s", needed()?)));
                    options.notices.push("stat_cache_expire is COSFS's name for metadata_ttl".into());
                }
                "dbglevel" => {
                    let level = match needed()? {
                        "dbg" | "debug" => "debug",
                        "inf" | "info" => "info",
                        "warn" | "warning" | "wan" => "warn",
                        "err" | "error" | "crit" | "critical" => "error",
                        other => {
                            return Err(usage(format!(
                                "option dbglevel: \"{other}\" is not one of debug, info, warn, err, crit"
                            )));
                        }
                    };
                    set("log", "level", Raw::Text(level.into()));
                    options.notices.push("dbglevel is COSFS's name for log_level".into());
                }
                passed if PASSED_OVER.contains(&passed) => {}
                passed if passed.starts_with("x_") || passed == "comment" => {}
                _ => return Err(usage(unknown(typed, &name))),
            }
        }
    }
    Ok(options)
}

/// What must not be seen in a list of processes.
fn is_secret(section: &str, key: &str) -> bool {
    match section {
        "credentials" => !matches!(key, "file" | "role" | "role_endpoint"),
        "origin" => matches!(key, "access_key" | "secret_key"),
        _ => false,
    }
}

fn unknown(typed: &str, name: &str) -> String {
    let names: Vec<&'static str> = OURS
        .iter()
        .map(|(name, ..)| *name)
        .chain(FLAGS.iter().map(|(name, ..)| *name))
        .chain(OTHER_NAMES.iter().copied())
        .chain(ALIASES.iter().map(|(name, ..)| *name))
        .chain(NEEDLESS.iter().map(|(name, _)| *name))
        .chain(PASSED_OVER.iter().copied())
        .collect();
    match nearest(name, &names) {
        Some(near) => format!("unknown option {typed}; did you mean {near}?"),
        None => format!("unknown option {typed}; docs/configuration.md lists the options"),
    }
}

/// A SOURCE argument: `cos://...`, or COSFS's `bucket[:/prefix]` together with `url=`.
pub fn source(text: &str, url: Option<&str>) -> Result<Source, Failure> {
    let (Some(url), false) = (url, text.contains("://")) else {
        return text.parse().map_err(usage);
    };
    let host = url.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (bucket, prefix) = text.split_once(':').unwrap_or((text, ""));
    format!("cos://{bucket}.{host}/{}", prefix.trim_start_matches('/')).parse().map_err(|_| {
        usage(format!(
            "\"{text}\" with url={url} does not name a bucket; the forms are cos://<bucket>.cos.<region>.myqcloud.com[/prefix], or \
             <bucket>[:/prefix] with url=https://cos.<region>.myqcloud.com"
        ))
    })
}

/// mount(8) calls helpers as `mount.TYPE SOURCE DIR [-sfnvrw] [-N namespace] [-t type] [-o options]`. `None` means: asked to do nothing (`-f`).
pub fn helper_args(args: &[OsString]) -> Result<Option<MountArgs>, Failure> {
    let mut positional = Vec::new();
    let mut mount = MountArgs::default();
    let mut fake = false;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        let mut value =
            |flag: &str| args.next().cloned().ok_or_else(|| usage(format!("mount.cosfs-ha: {flag} needs a value")));
        match text.as_ref() {
            "-o" => mount.options.push(value("-o")?.to_string_lossy().into_owned()),
            "-t" | "-N" => drop(value(&text)?),
            // Our own, see `mount/detach`.
            "--daemon" => mount.daemon = true,
            flags if flags.len() > 1 && flags.starts_with('-') => {
                for flag in flags.chars().skip(1) {
                    match flag {
                        'r' => mount.read_only = true,
                        'f' => fake = true,
                        's' | 'n' | 'v' | 'w' => {}
                        other => return Err(usage(format!("mount.cosfs-ha: unknown flag -{other}"))),
                    }
                }
            }
            _ => positional.push(arg.clone()),
        }
    }
    let [source, mountpoint] = positional.as_slice() else {
        return Err(usage("usage: mount.cosfs-ha SOURCE MOUNTPOINT [-o options]".into()));
    };
    let source = source.to_string_lossy().into_owned();
    // fstab needs something in its first column even where the configuration file names both buckets.
    mount.source = (!matches!(source.as_str(), "none" | "cosfs-ha")).then_some(source);
    mount.mountpoint = Path::new(mountpoint).to_path_buf();
    Ok((!fake).then_some(mount))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(list: &str) -> Options {
        parse(&[list.to_string()]).unwrap()
    }

    fn first(list: &str) -> (&'static str, String, Raw) {
        let item = parsed(list).overrides.remove(0);
        (item.section, item.key, item.raw)
    }

    #[test]
    fn spellings() {
        let text = |t: &str| Raw::Text(t.into());
        let rows = [
            ("cache_size=1GiB", ("cache", "size", text("1GiB"))),
            ("cache-size=1GiB", ("cache", "size", text("1GiB"))),
            ("cache.size=1GiB", ("cache", "size", text("1GiB"))),
            ("failover.confirm=4s", ("failover", "confirm", text("4s"))),
            ("a.endpoint=http://127.0.0.1:9100", ("a", "endpoint", text("http://127.0.0.1:9100"))),
            ("ro", ("mount", "read_only", Raw::Bool(true))),
            ("rw", ("mount", "read_only", Raw::Bool(false))),
            ("allow-other", ("mount", "allow_other", Raw::Bool(true))),
            ("use_cache=/tmp/c", ("cache", "dir", text("/tmp/c"))),
            ("stat_cache_expire=60", ("mount", "metadata_ttl", text("60s"))),
            ("dbglevel=err", ("log", "level", text("error"))),
            ("noexec", ("mount", "noexec", Raw::Bool(true))),
            ("suid", ("mount", "suid", Raw::Bool(true))),
            ("nodev", ("mount", "dev", Raw::Bool(false))),
            ("sync", ("mount", "sync", Raw::Bool(true))),
            ("cam_role=web", ("credentials", "role", text("web"))),
            ("tmpdir=/tmp/x", ("journal", "dir", text("/tmp/x"))),
            ("passwd_file=/etc/p", ("credentials", "file", text("/etc/p"))),
        ];
        for (list, (section, key, raw)) in rows {
            assert_eq!(first(list), (section, key.to_string(), raw), "{list}");
        }
        let quiet =
            parsed("defaults,_netdev,nofail,noauto,x-systemd.automount,x-systemd.mount-timeout=30,comment=hi,,noatime");
        assert_eq!(quiet, Options::default(), "words for others change nothing");
        assert_eq!(parsed("config=/etc/x.toml").config, Some("/etc/x.toml".into()));
        assert_eq!(parsed("use_cache=/c").notices.len(), 1, "an alias says so");
    }

    #[test]
    fn what_we_do_not_know_is_an_error_with_code_2() {
        let rows = [
            ("cache_sise=1", "did you mean cache_size?"),
            ("wombat", "unknown option wombat"),
            ("nosync", "unknown option nosync"),
            ("origin.secret_key=abc", "visible to every user"),
            ("commit", "needs a value"),
            ("ro=1", "takes no value"),
            ("cash.size=1", "unknown option cash.size"),
            ("dbglevel=loud", "is not one of"),
            ("credentials.secret_key=abc", "visible to every user"),
        ];
        for (list, expect) in rows {
            let failure = parse(&[list.to_string()]).unwrap_err();
            assert!(failure.message.contains(expect), "{list}: {}", failure.message);
            assert_eq!(failure.code, Exit::Usage, "{list}");
            assert!(!failure.message.contains("abc"), "a secret is not repeated");
        }
    }

    #[test]
    fn sources_of_cosfs() {
        let expect: Source = "cos://m-1.cos.ap-x.myqcloud.com/p".parse().unwrap();
        let url = Some("https://cos.ap-x.myqcloud.com");
        assert_eq!(source("m-1:/p", url), Ok(expect.clone()));
        assert_eq!(source("cos://m-1.cos.ap-x.myqcloud.com/p", url), Ok(expect));
        assert_eq!(source("m-1", None).unwrap_err().code, Exit::Usage);
        assert_eq!(source("m-1", Some("https://example.com")).unwrap_err().code, Exit::Usage);
    }

    fn helper(args: &[&str]) -> Result<Option<MountArgs>, Failure> {
        helper_args(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn mount_8_arguments() {
        let args =
            helper(&["cos://x", "/mnt", "-v", "-r", "-n", "-o", "ro,_netdev", "-t", "cosfs-ha"]).unwrap().unwrap();
        assert_eq!((args.source.as_deref(), args.mountpoint.as_path()), (Some("cos://x"), Path::new("/mnt")));
        assert!(args.read_only);
        assert_eq!(args.options, ["ro,_netdev"]);
        assert_eq!(helper(&["none", "/mnt", "-o", "config=/x"]).unwrap().unwrap().source, None);
        assert_eq!(helper(&["x", "/mnt", "-f"]), Ok(None));
        assert!(
            helper(&["/mnt"]).is_err()
                && helper(&["x", "/mnt", "-q"]).is_err()
                && helper(&["x", "/mnt", "-o"]).is_err()
        );
    }
}
