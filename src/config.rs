//! Every option once: name, type, unit, default and the reason for it.
//!
//! An option is one line of the table below with its doc comment, and that comment *is* the manual: `docs/configuration.md` is
//! printed from it and a test compares the two. The file, `-o section.key=value` and the flags of `cosfs-ha mount` all end in
//! [`Config::set`], so an option means the same wherever it is written, and a misspelt one is an error everywhere.
//!
//! Only what works is listed. A section that this version does not know is refused like any other unknown name, because an option
//! that is accepted and ignored is worse than none.
//!
//! Owns: names, types, defaults, bounds that need one value only, and the checks across options ([`Config::check`]). Owns not: where the
//! values come from (`config/load`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

pub use load::{Error, load};
pub use source::Source;
pub use table::{AuthDigest, AuthTime, AuthType, CdnAuth, Mail};
use value::Value;
pub use value::{Commit, Conflicts, Level, Octal, Rate, Raw, SecondRegion, Secret, Size, Unaudited, Unreachable};

use crate::cos::redirect::AllowedHost;
use crate::failover::Tuning;

pub mod load;
pub mod source;
mod table;
pub mod value;

/// One option as the manual shows it.
#[cfg(test)]
struct Field {
    name: &'static str,
    kind: &'static str,
    /// As it would be written in the file; `None` where there is no default.
    default: Option<String>,
    doc: String,
}

/// Why a value was not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    UnknownKey { nearest: Option<String> },
    Value(String),
}

/// The valid name that a misspelt one probably meant.
pub fn nearest<'a>(given: &str, names: &[&'a str]) -> Option<&'a str> {
    names
        .iter()
        .map(|name| (strsim::jaro_winkler(given, name), *name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// Makes a section: the struct, its defaults, its manual and its setter from one table.
macro_rules! section {
    ($(#[doc = $about:literal])* $name:ident {
        $($(#[doc = $doc:literal])* $field:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[doc = $about])*
        #[derive(Clone, PartialEq, Debug)]
        pub struct $name { $($(#[doc = $doc])* pub $field: $type,)* }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $default,)* }
            }
        }

        impl $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($field),)*];

            #[cfg(test)]
            fn about() -> String {
                [$($about.trim(),)*].join("\n")
            }

            #[cfg(test)]
            fn fields() -> Vec<Field> {
                let default = $name::default();
                vec![$(Field {
                    name: stringify!($field),
                    kind: <$type as Value>::KIND,
                    default: default.$field.show(),
                    doc: [$($doc.trim(),)*].join("\n"),
                },)*]
            }

            fn set(&mut self, key: &str, raw: &Raw) -> Result<(), Refusal> {
                match key {
                    $(stringify!($field) => self.$field = <$type as Value>::read(raw).map_err(Refusal::Value)?,)*
                    _ => return Err(Refusal::UnknownKey { nearest: nearest(key, Self::NAMES).map(str::to_string) }),
                }
                Ok(())
            }
        }
    };
}

section! {
    /// One of the two buckets: `[a]` is the master at the first mount, `[b]` the slave. Both need versioning, and a replication rule
    /// in each direction that also replicates delete markers.
    Bucket {
        /// Full name of the bucket with the account number at its end, for example `master-1250000000`. Required.
        bucket: String = String::new(),
        /// Region of the bucket, for example `ap-guangzhou`. Required.
        region: String = String::new(),
        /// Connect to this `http://` or `https://` address, while requests still carry the bucket's own host name. For the
        /// emulator, a private link or a local relay.
        endpoint: Option<String> = None,
        /// Speak TLS. Where `endpoint` is set, its scheme decides instead.
        https: bool = true,
    }
}

section! {
    /// The key pair that both buckets accept. The first of these that is there is used: the environment (`TENCENTCLOUD_SECRET_ID` and
    /// `TENCENTCLOUD_SECRET_KEY`, with `TENCENTCLOUD_SECURITY_TOKEN` for temporary keys; or `COS_SECRET_ID`, `COS_SECRET_KEY`,
    /// `COS_TOKEN`; or `COSACCESSKEYID`, `COSSECRETACCESSKEY`), `secret_id` and `secret_key`, `role` (also from
    /// `TENCENTCLOUD_CAM_ROLE_NAME`), `file`, `~/.passwd-cosfs`, `/etc/passwd-cosfs`. A file that holds a key must not be readable by other users.
    Credentials {
        /// Id of the key (`AKID...`).
        secret_id: Option<Secret> = None,
        /// The key itself.
        secret_key: Option<Secret> = None,
        /// Session token, for temporary keys only.
        token: Option<Secret> = None,
        /// CAM role of this virtual machine, or `auto` for the only one it has: temporary keys are fetched from the machine's metadata service
        /// and renewed before they expire.
        role: Option<String> = None,
        /// Where the metadata service is.
        role_endpoint: String = "http://metadata.tencentyun.com".into(),
        /// Password file of COSFS (`SecretId:SecretKey` or `bucket:SecretId:SecretKey`), or a file with the lines `COSAccessKeyId=`,
        /// `COSSecretKey=`, `COSAccessToken=`, `COSAccessTokenExpire=`. Read again when it changes.
        file: Option<PathBuf> = None,
    }
}

section! {
    /// What programs see.
    Mount {
        /// Folder of the buckets that becomes the root of the mount; the whole bucket if empty.
        prefix: String = String::new(),
        /// When `close` and `fsync` return: `journal` when the write is safe on the local disk, `one-region` when the current master
        /// has it, `two-regions` when both buckets have it. docs/semantics.md compares them.
        commit: Commit = Commit::OneRegion,
        /// How long names and attributes may be shown without asking the bucket again. Changes made through this mount show at once; changes
        /// made elsewhere show after this time.
        metadata_ttl: Duration = Duration::from_secs(5),
        /// Longest time that any file system call may take, whatever is broken; 5 s to 100 s. A program waiting on a network file system
        /// cannot be killed meanwhile, and the kernel complains after 120 s.
        max_stall: Duration = Duration::from_secs(30),
        /// What `close` and `fsync` answer when no bucket could be reached within `max_stall`: `journal` says success (the data is on
        /// the local disk and goes out later), `error` says EIO (it still goes out later).
        when_unreachable: Unreachable = Unreachable::Journal,
        /// In `two-regions`, when one bucket has a write and the other cannot be reached: `degrade` says success (the journal brings it
        /// there later), `block` waits for the other bucket; after `max_stall`, `when_unreachable` decides.
        second_region: SecondRegion = SecondRegion::Degrade,
        /// When somebody else has stored a file while it was changed here: `lww` lets the last writer win, names the other content's version
        /// in the log and raises the alarm `conflict`; `copy` also publishes that content as `NAME.conflict-TIME-ETAG`; `off`: nobody looks,
        /// which saves one LIST for each write.
        conflicts: Conflicts = Conflicts::Lww,
        /// What it means that bucket B lacks a name while A is down and this host has never compared the two (a new host in the middle of an outage):
        /// `wait`: it may be in A, so the call waits and ends in EIO; `trust`: it does not exist. With `trust` one can work there at once. What A had not
        /// replicated is not shown until A is back, and a new file of the same name becomes its newest version.
        unaudited: Unaudited = Unaudited::Wait,
        /// How often the content of closed files is synced to the journal's disk without being asked, which bounds what a power cut can
        /// cost in mode `journal`; `0s`: only `fsync` does it.
        sync_interval: Duration = Duration::from_secs(5),
        /// Refuse every change.
        read_only: bool = false,
        /// Let users other than the one who mounts use the mount. Without root this needs `user_allow_other` in /etc/fuse.conf.
        allow_other: bool = false,
        /// Show everything as owned by this user id, whatever is stored with the files.
        uid: Option<u32> = None,
        /// Show everything as owned by this group id.
        gid: Option<u32> = None,
        /// Permission bits taken away from everything that is shown, in octal and in quotes.
        umask: Octal = Octal(0),
        /// Refuse to run programs from the mount.
        noexec: bool = false,
        /// Let set-user-id bits count. Only for root; off, because whoever may write to the bucket could become anybody.
        suid: bool = false,
        /// Let device files count. Only for root; off for the same reason.
        dev: bool = false,
        /// Every write waits as if it were followed by `fsync`.
        sync: bool = false,
        /// Mount over a folder that is not empty. Its files are hidden until the mount ends.
        nonempty: bool = false,
    }
}

section! {
    /// Local copies of what was read or written. Losing it costs time, never data.
    Cache {
        /// Folder for it; each mount takes a subfolder. Without root the default is `$XDG_CACHE_HOME/cosfs-ha` or `~/.cache/cosfs-ha`.
        dir: PathBuf = default_dir(Home::Cache),
        /// Upper limit of what the copies take on disk, at least 16 MiB.
        size: Size = Size::gib(10),
    }
}

section! {
    /// The record of writes that are not yet proven to be in both buckets. Losing it loses what was not yet sent: put it on a disk
    /// that survives a reboot.
    Journal {
        /// Folder for it; each mount takes a subfolder, which also holds the log. Without root the default is `$XDG_STATE_HOME/cosfs-ha` or
        /// `~/.local/state/cosfs-ha`.
        dir: PathBuf = default_dir(Home::State),
        /// Upper limit of what it takes on disk, at least 16 MiB. When it is full, writes wait or get ENOSPC.
        size: Size = Size::gib(20),
    }
}

section! {
    /// A CDN domain in front of bucket A, as a further source of file contents. It is asked for one version of an object, and its answer is
    /// used only if it proves to be that version, so an old copy at an edge is never shown. Without this section no CDN is used.
    Cdn {
        /// Name of the domain, for example `files.example.com`.
        domain: String = String::new(),
        /// Connect to this address, while requests still carry the domain's own name.
        endpoint: Option<String> = None,
        /// Speak TLS. Where `endpoint` is set, its scheme decides instead.
        https: bool = true,
        /// URL authentication as set up for the domain: `{ type = "A", key = "..." }`, type A, B, C or D; further words are `algorithm` (`md5`,
        /// `sha256`), `sign_param` (`sign`), `time_param` (`t`), `time_format` (`dec`, `hex`) and `valid` (`30m`).
        auth: Option<CdnAuth> = None,
        /// Of a hundred fetches of file contents, how many ask the CDN first while the buckets are well. 0: it is asked only when neither
        /// bucket delivers; 100: always first. A few keep the path proven.
        share: u32 = 5,
    }
}

section! {
    /// A store outside of both regions: a plain web server, or a bucket of another cloud. With `write` it receives a copy of every write for a
    /// while; when both buckets are down, files are read from it and writes are kept there as well.
    Origin {
        /// `http://host[:port]/[folder/]`, `https://...`, `s3://bucket/folder`, `gs://bucket/folder`, `az://container/folder` or `file:///folder`.
        url: Option<String> = None,
        /// Copy writes there. Without it the origin is only read.
        write: bool = false,
        /// How long a copy is kept there. It is never removed before both buckets hold the write.
        hot_window: Duration = Duration::from_secs(6 * 3600),
        /// Most that copying may use of the network.
        bandwidth: Rate = Rate(20 << 20),
        /// Most that may wait for its copy; beyond it the oldest waiting copies are left out (and counted).
        backlog: Size = Size::gib(4),
        /// Further hosts, separated by commas, that a bucket's origin-pull rule may redirect readers to: `host`, `host:port`, or `http://host:port`
        /// where plain http is fine. The host of an `http://` or `https://` url is admitted already. A redirect to any other host is not followed.
        redirects: Option<String> = None,
        /// Region, for `s3://`.
        region: Option<String> = None,
        /// Address of the service, for `s3://` outside of Amazon.
        endpoint: Option<String> = None,
        /// Identity there (s3: access key id, az: account name); without it the cloud's own environment variables are used.
        access_key: Option<Secret> = None,
        /// Key of that identity.
        secret_key: Option<Secret> = None,
    }
}

section! {
    /// Who is told when something is wrong, besides the log. docs/operations.md lists the alarms. Each is told once when it begins and once
    /// when it is over.
    Alarm {
        /// Program that is run for each: name of the alarm and `raised` or `cleared` as arguments, a JSON object with the evidence on standard
        /// input. It has 30 s.
        exec: Option<PathBuf> = None,
        /// Address that gets the same JSON object as a POST.
        webhook: Option<String> = None,
        /// `{ to = "you@example.com", smtp = "smtps://mail.example.com" }`; further words are `from`, `user`, `password` and `ca` (a file).
        mail: Option<Mail> = None,
        /// An alarm is over when its cause has been gone for this long. What comes and goes in between is one alarm.
        clear_after: Duration = Duration::from_secs(30),
    }
}

section! {
    /// Figures for Prometheus (docs/operations.md lists them).
    Metrics {
        /// Address and port to answer at, for example `127.0.0.1:9469`; path `/metrics`.
        listen: Option<String> = None,
    }
}

section! {
    /// What the daemon writes down.
    Log {
        /// File for it; default `cosfs-ha.log` in the mount's journal folder. A file above 64 MiB is renamed to `.old` at the next
        /// mount. With `--foreground` the log goes to standard error instead.
        file: Option<PathBuf> = None,
        /// Least important kind of line that is written. The environment variable `RUST_LOG` wins.
        level: Level = Level::Info,
    }
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Config {
    pub a: Bucket,
    pub b: Bucket,
    pub credentials: Credentials,
    pub mount: Mount,
    pub cache: Cache,
    pub journal: Journal,
    /// When the mount moves from one bucket to the other (docs/failover.md); the thresholds and their reasons stand in
    /// `failover/tuning`.
    pub failover: Tuning,
    pub cdn: Cdn,
    pub origin: Origin,
    pub alarm: Alarm,
    pub metrics: Metrics,
    pub log: Log,
}

/// Names of all sections, in the order of the manual.
pub const SECTIONS: &[&str] =
    &["a", "b", "credentials", "mount", "cache", "journal", "failover", "cdn", "origin", "alarm", "metrics", "log"];

impl Config {
    /// Sets one option.
    pub fn set(&mut self, section: &str, key: &str, raw: &Raw) -> Result<(), Refusal> {
        match section {
            "a" => self.a.set(key, raw),
            "b" => self.b.set(key, raw),
            "credentials" => self.credentials.set(key, raw),
            "mount" => self.mount.set(key, raw),
            "cache" => self.cache.set(key, raw),
            "journal" => self.journal.set(key, raw),
            "failover" => set_tuning(&mut self.failover, key, raw),
            "cdn" => self.cdn.set(key, raw),
            "origin" => self.origin.set(key, raw),
            "alarm" => self.alarm.set(key, raw),
            "metrics" => self.metrics.set(key, raw),
            "log" => self.log.set(key, raw),
            _ => Err(Refusal::UnknownKey { nearest: nearest(section, SECTIONS).map(str::to_string) }),
        }
    }

    /// Takes a bucket from a SOURCE argument; both sources must show the same folder.
    pub fn set_source(&mut self, site: crate::object::Site, source: &Source) {
        let bucket = match site {
            crate::object::Site::A => &mut self.a,
            crate::object::Site::B => &mut self.b,
        };
        bucket.bucket.clone_from(&source.bucket);
        bucket.region.clone_from(&source.region);
    }

    /// Checks what no single option can know; also brings `mount.prefix` to its normal form.
    pub fn check(&mut self) -> Result<(), String> {
        for (name, bucket) in [("a", &self.a), ("b", &self.b)] {
            let (which, flag) = if name == "a" { ("first", "SOURCE") } else { ("second", "--slave SOURCE") };
            if bucket.bucket.is_empty() {
                return Err(format!(
                    "the {which} bucket is not named: set `bucket` in section [{name}], or give it as {flag} on the command line"
                ));
            }
            source::check_bucket(&bucket.bucket).map_err(|why| format!("[{name}] {why}"))?;
            if bucket.region.is_empty() {
                return Err(format!("the {which} bucket has no region: set `region` in section [{name}]"));
            }
            source::check_region(&bucket.region).map_err(|why| format!("[{name}] region: {why}"))?;
            if let Some(endpoint) = &bucket.endpoint {
                check_endpoint(endpoint).map_err(|why| format!("[{name}] endpoint: {why}"))?;
            }
        }
        if self.a.bucket == self.b.bucket && self.a.region == self.b.region {
            return Err(format!(
                "[a] and [b] are the same bucket ({}): the second one must be its replica, in another region",
                self.a.bucket
            ));
        }
        if self.a.endpoint.is_some() && self.a.endpoint == self.b.endpoint {
            return Err("[a] and [b] have the same endpoint: they would fail together".into());
        }
        self.mount.prefix =
            source::normal_prefix(&self.mount.prefix).map_err(|why| format!("[mount] prefix: {why}"))?;
        let stall = self.mount.max_stall;
        if !(Duration::from_secs(5)..=Duration::from_secs(100)).contains(&stall) {
            return Err(format!("[mount] max_stall is {}, but must be 5s to 100s", shown(stall)));
        }
        if self.mount.metadata_ttl > Duration::from_secs(24 * 3600) {
            return Err(format!(
                "[mount] metadata_ttl is {}, but must not exceed a day",
                shown(self.mount.metadata_ttl)
            ));
        }
        self.failover.check().map_err(|why| format!("[failover] {why}"))?;
        if self.failover.confirm * 2 > stall {
            return Err(format!(
                "[failover] confirm is {}, but must be at most half of max_stall ({}): a switch has to fit into one waiting call",
                shown(self.failover.confirm),
                shown(stall)
            ));
        }
        for (name, size) in [("cache", self.cache.size), ("journal", self.journal.size)] {
            if size < Size::mib(16) {
                return Err(format!("[{name}] size is {size}, but must be at least 16MiB"));
            }
        }
        if self.cache.dir == self.journal.dir {
            return Err(
                "[cache] dir and [journal] dir must differ: the cache may be removed, the journal must not".into()
            );
        }
        self.check_sides()?;
        let keys = &self.credentials;
        if keys.secret_id.is_some() != keys.secret_key.is_some() {
            return Err("[credentials] secret_id and secret_key must be given together".into());
        }
        if keys.token.is_some() && keys.secret_id.is_none() {
            return Err("[credentials] token needs secret_id and secret_key beside it".into());
        }
        Ok(())
    }

    /// The sections that a mount can do without.
    fn check_sides(&self) -> Result<(), String> {
        let cdn = &self.cdn;
        if cdn.domain.is_empty() && (cdn.auth.is_some() || cdn.endpoint.is_some()) {
            return Err("[cdn] has no domain".into());
        }
        if cdn.domain.contains([':', '/', ' ', '@']) {
            return Err(format!("[cdn] domain: \"{}\" is not a name such as files.example.com", cdn.domain));
        }
        if let Some(endpoint) = &cdn.endpoint {
            check_endpoint(endpoint).map_err(|why| format!("[cdn] endpoint: {why}"))?;
        }
        if cdn.share > 100 {
            return Err(format!("[cdn] share is {}, but must be 0 to 100", cdn.share));
        }
        let origin = &self.origin;
        if let Some(url) = &origin.url
            && !["http://", "https://", "s3://", "gs://", "az://", "file:///"].iter().any(|form| url.starts_with(form))
        {
            return Err(format!(
                "[origin] url: \"{url}\" begins with none of http://, https://, s3://, gs://, az://, file:///"
            ));
        }
        if origin.write && origin.url.is_none() {
            return Err("[origin] write needs a url".into());
        }
        if let Some(list) = &origin.redirects
            && let Some(bad) = list.split(',').map(str::trim).find(|host| AllowedHost::parse(host).is_none())
        {
            return Err(format!("[origin] redirects: \"{bad}\" is none of host, host:port, http://host:port"));
        }
        if origin.access_key.is_some() != origin.secret_key.is_some() {
            return Err("[origin] access_key and secret_key must be given together".into());
        }
        if let Some(url) = &self.alarm.webhook
            && !url.starts_with("http://")
            && !url.starts_with("https://")
        {
            return Err("[alarm] webhook: expected an http:// or https:// address".into());
        }
        if let Some(listen) = &self.metrics.listen
            && listen.parse::<std::net::SocketAddr>().is_err()
        {
            return Err(format!(
                "[metrics] listen: \"{listen}\" is not an address with a port, such as 127.0.0.1:9469"
            ));
        }
        Ok(())
    }

    /// Whether the file this came from must be kept from other users.
    pub fn holds_secrets(&self) -> bool {
        let mail = self.alarm.mail.as_ref().is_some_and(|mail| mail.password.is_some());
        let keys = &self.credentials;
        let secrets = [&keys.secret_key, &keys.secret_id, &self.origin.access_key, &self.origin.secret_key];
        mail || self.cdn.auth.is_some() || secrets.into_iter().any(Option::is_some)
    }

    /// Name of this mount's subfolder in the cache and journal folders: the same buckets and prefix always give the same name, other
    /// ones another, so a journal is found again and two mounts never share one.
    pub fn identity(&self) -> String {
        let parts = [&self.a.bucket, &self.a.region, &self.b.bucket, &self.b.region, &self.mount.prefix];
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let tail: String = hash.finalize()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{tail}", self.a.bucket)
    }

    pub fn journal_dir(&self) -> PathBuf {
        self.journal.dir.join(self.identity())
    }

    pub fn cache_dir(&self) -> PathBuf {
        self.cache.dir.join(self.identity())
    }

    pub fn log_file(&self) -> PathBuf {
        self.log.file.clone().unwrap_or_else(|| self.journal_dir().join("cosfs-ha.log"))
    }
}

fn shown(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}

fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    let host = rest.map(|rest| rest.trim_end_matches('/'));
    match host {
        Some(host) if !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']) => Ok(()),
        _ => Err(format!("\"{endpoint}\" is not of the form http://host:port or https://host:port")),
    }
}

enum Home {
    Cache,
    State,
}

/// Root keeps to /var; anybody else stays in the home folder, by the XDG rules.
fn default_dir(home: Home) -> PathBuf {
    let (system, variable, below) = match home {
        Home::Cache => ("/var/cache", "XDG_CACHE_HOME", ".cache"),
        Home::State => ("/var/lib", "XDG_STATE_HOME", ".local/state"),
    };
    let user = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(below)));
    let base = match user {
        Some(path) if !rustix::process::geteuid().is_root() => path,
        _ => PathBuf::from(system),
    };
    base.join("cosfs-ha")
}

/// Sets one threshold by way of its text form, which belongs to `failover/tuning`.
fn set_tuning(tuning: &mut Tuning, key: &str, raw: &Raw) -> Result<(), Refusal> {
    use serde_json::Value as Json;
    let refuse = |error: serde_json::Error| Refusal::Value(error.to_string());
    let mut json = serde_json::to_value(&*tuning).map_err(refuse)?;
    let Some(slot) = json.as_object_mut().and_then(|all| all.get_mut(key)) else {
        let names = json.as_object().map(|all| all.keys().map(String::as_str).collect::<Vec<_>>()).unwrap_or_default();
        return Err(Refusal::UnknownKey { nearest: nearest(key, &names).map(str::to_string) });
    };
    *slot = match (&*slot, raw) {
        (Json::Bool(_), _) => Json::Bool(bool::read(raw).map_err(Refusal::Value)?),
        (Json::Number(_), _) => Json::from(u32::read(raw).map_err(Refusal::Value)?),
        (_, Raw::Text(text)) => Json::String(text.clone()),
        // The only other kind in there is a duration.
        _ => return Err(Refusal::Value(format!("expected a text such as \"2500ms\", found {raw}"))),
    };
    *tuning = serde_json::from_value(json).map_err(refuse)?;
    Ok(())
}

#[cfg(test)]
mod tests;
