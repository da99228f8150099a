//! Where the secret key comes from, and how it stays secret.
//!
//! Keys rotate while a mount lives for months, and temporary keys expire within hours, so a request asks its source each time and
//! a file is read again when it changed. A file that cannot be read after a change keeps its last good content: whoever
//! replaces it may be half way through.
//!
//! Promise: no secret in `Debug`, errors or logs; a file that every user may read is refused. Checked by the tests below.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

pub use role::Role;
pub use swap::Swap;

mod role;
mod swap;

/// How often a credential file is looked at. Looking is one `stat`, but requests come by the thousand.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often at most it is looked at because a request was refused.
const LOOK_REFUSED: Duration = Duration::from_millis(50);

/// One identity.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub secret_id: String,
    pub secret_key: String,
    /// Of temporary credentials.
    pub token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("secret_id", &self.secret_id)
            .field("secret_key", &"<redacted>")
            .field("token", &self.token.as_ref().map(|_| "<redacted>"))
            .finish()
    }
}

/// Why there are no credentials.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("credential file {path}: {cause}")]
    Unreadable { path: PathBuf, cause: String },
    #[error(
        "credential file {path} has mode {mode:03o}: other users can read it or the group can write it; run chmod 600 {path}"
    )]
    TooOpen { path: PathBuf, mode: u32 },
    #[error(
        "credential file {path}, line {line}: expected SecretId:SecretKey, bucket:SecretId:SecretKey or COSAccessKeyId=..."
    )]
    Malformed { path: PathBuf, line: usize },
    #[error("credential file {path} has no entry for bucket {bucket}")]
    NoEntry { path: PathBuf, bucket: String },
    #[error("secret id, key or token holds white space or characters outside ASCII")]
    OddCharacters,
    #[error("no keys of role {role} from the metadata service: {cause}")]
    Role { role: String, cause: String },
    #[error("{present} is set in the environment, but {missing} is not")]
    HalfSet { present: &'static str, missing: &'static str },
}

impl Credentials {
    /// Refuses what could not be put into a header.
    pub fn new(secret_id: String, secret_key: String, token: Option<String>) -> Result<Credentials, CredentialError> {
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if !plain(&secret_id) || !plain(&secret_key) || !token.as_deref().is_none_or(plain) {
            return Err(CredentialError::OddCharacters);
        }
        Ok(Credentials { secret_id, secret_key, token })
    }
}

/// Gives the credentials that are valid now. Called for every request, so it must be quick.
pub trait CredentialSource: fmt::Debug + Send + Sync {
    fn current(&self) -> Result<Arc<Credentials>, CredentialError>;

    /// COS refused `used`: is there something newer by now? Keys may be revoked in the very second in which their file was replaced.
    fn renewed(&self, used: &Credentials) -> bool {
        let _ = used;
        false
    }

    /// Another source from now on, where that is possible.
    fn replace(&self, source: Arc<dyn CredentialSource>) {
        let _ = source;
    }

    /// Why the credentials could not be renewed the last time.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// When they end, if known.
    fn expires(&self) -> Option<SystemTime> {
        None
    }
}

/// Credentials that do not change: from the configuration file or the environment.
#[derive(Clone, Debug)]
pub struct Fixed(Arc<Credentials>);

impl Fixed {
    pub fn new(credentials: Credentials) -> Fixed {
        Fixed(Arc::new(credentials))
    }

    /// From the variables of Tencent's tools, else of the COS SDK samples, else of COSFS; `Ok(None)` if none of them is set.
    pub fn from_environment() -> Result<Option<Fixed>, CredentialError> {
        Fixed::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<Fixed>, CredentialError> {
        let get = |name: &str| get(name).filter(|v| !v.is_empty());
        const FAMILIES: [(&str, &str, &[&str]); 3] = [
            (
                "TENCENTCLOUD_SECRET_ID",
                "TENCENTCLOUD_SECRET_KEY",
                &["TENCENTCLOUD_SECURITY_TOKEN", "TENCENTCLOUD_TOKEN"],
            ),
            ("COS_SECRET_ID", "COS_SECRET_KEY", &["COS_TOKEN"]),
            ("COSACCESSKEYID", "COSSECRETACCESSKEY", &[]),
        ];
        for (id_name, key_name, token_names) in FAMILIES {
            match (get(id_name), get(key_name)) {
                (Some(id), Some(key)) => {
                    let token = token_names.iter().find_map(|name| get(name));
                    return Credentials::new(id, key, token).map(|c| Some(Fixed::new(c)));
                }
                (Some(_), None) => return Err(CredentialError::HalfSet { present: id_name, missing: key_name }),
                (None, Some(_)) => return Err(CredentialError::HalfSet { present: key_name, missing: id_name }),
                (None, None) => {}
            }
        }
        Ok(None)
    }
}

impl CredentialSource for Fixed {
    fn current(&self) -> Result<Arc<Credentials>, CredentialError> {
        Ok(self.0.clone())
    }
}

/// A password file as COSFS reads it: lines `SecretId:SecretKey` or `bucket:SecretId:SecretKey`, or, for temporary
/// credentials, `COSAccessKeyId=`, `COSSecretKey=`, `COSAccessToken=`.
#[derive(Debug)]
pub struct PasswdFile {
    path: PathBuf,
    bucket: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    looked: Instant,
    seen: Identity,
    credentials: Arc<Credentials>,
    expires: Option<SystemTime>,
    trouble: Option<String>,
}

/// Changes whenever the file's content may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Identity {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl PasswdFile {
    /// Reads the entry for `bucket`, or the entry for every bucket.
    pub fn open(path: impl Into<PathBuf>, bucket: &str) -> Result<PasswdFile, CredentialError> {
        let path = path.into();
        let seen = identity(&path)?;
        let (credentials, expires) = read(&path, bucket)?;
        let credentials = Arc::new(credentials);
        let state = Mutex::new(State { looked: Instant::now(), seen, credentials, expires, trouble: None });
        Ok(PasswdFile { path, bucket: bucket.to_string(), state })
    }

    /// Looks at the file now, whenever it was looked at before.
    fn refresh(&self, state: &mut State) {
        state.looked = Instant::now();
        let fresh = identity(&self.path).and_then(|seen| {
            if seen == state.seen {
                return Ok(None);
            }
            let fresh = read(&self.path, &self.bucket);
            // What could not be read this time has not been seen.
            if !matches!(fresh, Err(CredentialError::Unreadable { .. })) {
                state.seen = seen;
            }
            fresh.map(Some)
        });
        match fresh {
            Ok(None) => {}
            Ok(Some((credentials, expires))) => {
                log::info!("credentials read again from {}", self.path.display());
                (state.credentials, state.expires, state.trouble) = (Arc::new(credentials), expires, None);
            }
            Err(e) => {
                let trouble = Some(e.to_string());
                if state.trouble != trouble {
                    log::warn!("{e}; the credentials read before stay in use");
                }
                state.trouble = trouble;
            }
        }
    }
}

impl CredentialSource for PasswdFile {
    fn current(&self) -> Result<Arc<Credentials>, CredentialError> {
        let mut state = self.state.lock();
        if state.looked.elapsed() >= LOOK_AGAIN {
            self.refresh(&mut state);
        }
        Ok(state.credentials.clone())
    }

    fn renewed(&self, used: &Credentials) -> bool {
        let mut state = self.state.lock();
        if *state.credentials == *used && state.looked.elapsed() >= LOOK_REFUSED {
            self.refresh(&mut state);
        }
        *state.credentials != *used
    }

    fn trouble(&self) -> Option<String> {
        self.state.lock().trouble.clone()
    }

    fn expires(&self) -> Option<SystemTime> {
        self.state.lock().expires
    }
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> CredentialError {
    let path = path.to_path_buf();
    move |e| CredentialError::Unreadable { path: path.clone(), cause: e.to_string() }
}

fn identity(path: &Path) -> Result<Identity, CredentialError> {
    let meta = std::fs::metadata(path).map_err(unreadable(path))?;
    Ok(Identity {
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// Refuses a file that other users can read or that its group can change (COSFS asks for 600, or 640 in /etc).
pub fn check_mode(path: &Path) -> Result<(), CredentialError> {
    let mode = std::fs::metadata(path).map_err(unreadable(path))?.mode() & 0o777;
    if mode & 0o027 != 0 {
        return Err(CredentialError::TooOpen { path: path.to_path_buf(), mode });
    }
    Ok(())
}

/// Credentials, and when they end if the file says so.
type Entry = (Credentials, Option<SystemTime>);

fn read(path: &Path, bucket: &str) -> Result<Entry, CredentialError> {
    check_mode(path)?;
    let text = std::fs::read_to_string(path).map_err(unreadable(path))?;
    parse(path, &text, bucket)
}

fn parse(path: &Path, text: &str, bucket: &str) -> Result<Entry, CredentialError> {
    let (mut general, mut own) = (None, None);
    let (mut id, mut key, mut token, mut expires) = (None, None, None, None);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let malformed = || CredentialError::Malformed { path: path.to_path_buf(), line: index + 1 };
        if let Some((name, value)) = line.split_once('=').filter(|(name, _)| name.starts_with("COS")) {
            let value = Some(value.trim().to_string());
            match name.trim() {
                "COSAccessKeyId" => id = value,
                "COSSecretKey" => key = value,
                "COSAccessToken" => token = value,
                // For the alarm only: the service says when a token is over, and our clock may be wrong. In GMT, with or without a Z.
                "COSAccessTokenExpire" => {
                    expires = value.and_then(|time| humantime::parse_rfc3339_weak(time.trim_end_matches('Z')).ok());
                }
                _ => return Err(malformed()),
            }
            continue;
        }
        match line.split(':').collect::<Vec<_>>()[..] {
            [id, key] => general = Some((id.to_string(), key.to_string())),
            [name, id, key] if name == bucket => own = Some((id.to_string(), key.to_string())),
            [_, _, _] => {}
            _ => return Err(malformed()),
        }
    }
    if let (Some(id), Some(key)) = (id, key) {
        return Credentials::new(id, key, token.filter(|t| !t.is_empty())).map(|keys| (keys, expires));
    }
    match own.or(general) {
        Some((id, key)) => Credentials::new(id, key, None).map(|keys| (keys, None)),
        None => Err(CredentialError::NoEntry { path: path.to_path_buf(), bucket: bucket.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn debug_and_errors_tell_no_secret() {
        let c = Credentials::new("AKIDx".into(), "verysecret".into(), Some("tokentext".into())).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        write(&path, "AKIDx:verysecret", 0o600);
        let file = PasswdFile::open(&path, "b").unwrap();
        let bad = parse(&path, "AKIDx:verysecret:tokentext:x", "b").unwrap_err();
        let odd = Credentials::new("AKIDx".into(), "very secret".into(), None).unwrap_err();
        let shown = format!("{c:?} {:?} {file:?} {bad:?} {bad} {odd:?} {odd}", Fixed::new(c.clone()));
        assert!(shown.contains("AKIDx"));
        for secret in ["verysecret", "very secret", "tokentext"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn both_file_forms_are_read() {
        let path = Path::new("/p");
        let of = |text: &str, bucket: &str| {
            parse(path, text, bucket)
                .map(|(c, _)| format!("{}/{}/{}", c.secret_id, c.secret_key, c.token.unwrap_or_default()))
        };
        let lines = "# comment\n\nid0:key0\nb-1:id1:key1\n";
        assert_eq!(of(lines, "b-1").unwrap(), "id1/key1/");
        assert_eq!(of(lines, "b-2").unwrap(), "id0/key0/");
        let sts = "COSAccessKeyId=i\nCOSSecretKey=k=\nCOSAccessToken=t/+=\nCOSAccessTokenExpire=2017-08-29T20:30:00\n";
        assert_eq!(of(sts, "b").unwrap(), "i/k=/t/+=");
        let seconds = |text: &str| {
            parse(path, text, "b").unwrap().1.map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
        };
        assert_eq!(seconds(sts), Some(1_504_038_600));
        assert!(matches!(of("x:id:key", "b"), Err(CredentialError::NoEntry { .. })));
        assert!(matches!(of("ok:ok\nnonsense", "b"), Err(CredentialError::Malformed { line: 2, .. })));
        assert!(matches!(of("COSNonsense=1", "b"), Err(CredentialError::Malformed { line: 1, .. })));
        assert_eq!(of("id:k y", "b"), Err(CredentialError::OddCharacters));
    }

    #[test]
    fn an_open_file_is_refused_and_a_changed_one_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        for mode in [0o644, 0o604, 0o660, 0o602] {
            write(&path, "id:key", mode);
            assert!(matches!(PasswdFile::open(&path, "b"), Err(CredentialError::TooOpen { .. })), "{mode:o}");
        }
        write(&path, "id:key", 0o640);
        let file = PasswdFile::open(&path, "b").unwrap();
        let now = || {
            file.refresh(&mut file.state.lock());
            file.current().unwrap().secret_key.clone()
        };
        assert_eq!(now(), "key");
        write(&path, "id:newkey", 0o600);
        assert_eq!(now(), "newkey");
        let used = file.current().unwrap();
        assert!(!file.renewed(&used));
        write(&path, "id:newerkey", 0o600);
        std::thread::sleep(LOOK_REFUSED);
        assert!(file.renewed(&used), "a refused request finds the new file at once");
        write(&path, "id:newkey", 0o600);
        assert_eq!(now(), "newkey");
        write(&path, "half", 0o600);
        assert_eq!(now(), "newkey", "a broken file does not take working credentials away");
        write(&path, "id:third", 0o644);
        assert_eq!(now(), "newkey", "nor does an open one replace them");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(now(), "newkey");
    }

    #[test]
    fn environment_families_in_order() {
        let of = |vars: &[(&str, &str)]| {
            Fixed::from_variables(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
                .map(|c| c.map(|c| format!("{}/{:?}", c.0.secret_id, c.0.token)))
        };
        assert_eq!(of(&[]), Ok(None));
        let cos = [("COS_SECRET_ID", "c"), ("COS_SECRET_KEY", "k")];
        assert_eq!(of(&cos), Ok(Some("c/None".into())));
        let both = [
            &cos[..],
            &[("TENCENTCLOUD_SECRET_ID", "t"), ("TENCENTCLOUD_SECRET_KEY", "k"), ("TENCENTCLOUD_TOKEN", "x")],
        ]
        .concat();
        assert_eq!(of(&both), Ok(Some("t/Some(\"x\")".into())));
        assert_eq!(of(&[("COSACCESSKEYID", "f"), ("COSSECRETACCESSKEY", "k")]), Ok(Some("f/None".into())));
        let half = CredentialError::HalfSet { present: "COS_SECRET_ID", missing: "COS_SECRET_KEY" };
        assert_eq!(of(&cos[..1]), Err(half));
    }
}
