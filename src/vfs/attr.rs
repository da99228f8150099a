//! Mode, owner and times of a file, and how they travel in object metadata.
//!
//! The spelling is COSFS's (docs: "Metadata as COSFS stores it"), so both programs read each other's files: `mode`, `uid`, `gid`
//! and `mtime` in decimal. COSFS's `mtime` has whole seconds; ours keeps the nanoseconds beside it in `ha-mtime-nsec`,
//! which repeats the seconds and counts only while they agree: a tool that rewrites `mtime` alone makes it void.
//!
//! Owns the translation both ways. Headers it does not know pass through untouched.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::object::{Headers, Object};

const MODE: &str = "mode";
const UID: &str = "uid";
const GID: &str = "gid";
const MTIME: &str = "mtime";
const MTIME_NSEC: &str = "ha-mtime-nsec";
const RDEV: &str = "ha-rdev";

/// What COSFS, s3fs and the console write for a directory.
pub const DIRECTORY_TYPE: &str = "application/x-directory";
const FILE_TYPE: &str = "application/octet-stream";

/// The type bits of `st_mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDev,
    BlockDev,
}

impl Kind {
    /// `None` for bits that name no type, zero among them.
    pub fn of_mode(mode: u32) -> Option<Kind> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Dir,
            libc::S_IFLNK => Kind::Symlink,
            libc::S_IFIFO => Kind::Fifo,
            libc::S_IFSOCK => Kind::Socket,
            libc::S_IFCHR => Kind::CharDev,
            libc::S_IFBLK => Kind::BlockDev,
            _ => return None,
        })
    }

    pub fn bits(self) -> u32 {
        match self {
            Kind::File => libc::S_IFREG,
            Kind::Dir => libc::S_IFDIR,
            Kind::Symlink => libc::S_IFLNK,
            Kind::Fifo => libc::S_IFIFO,
            Kind::Socket => libc::S_IFSOCK,
            Kind::CharDev => libc::S_IFCHR,
            Kind::BlockDev => libc::S_IFBLK,
        }
    }
}

/// The attributes of one inode; its number and link count are the table's business.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    pub kind: Kind,
    /// The low twelve bits of `st_mode`.
    pub perm: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Kept in memory only: no read is worth a write to the bucket.
    pub atime: SystemTime,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
    pub rdev: u32,
}

/// What to show where an object carries no metadata of ours.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    pub uid: u32,
    pub gid: u32,
    pub file_perm: u32,
    pub dir_perm: u32,
}

impl Attr {
    /// The attributes an object states. `dir`: the key ends in `/`.
    pub fn of_object(object: &Object, dir: bool, defaults: &Defaults) -> Attr {
        let user = &object.headers.user;
        let number = |name: &str| user.get(name).and_then(|text| text.trim().parse::<u32>().ok());
        let mode = number(MODE);
        let typed_dir = object.token.size == 0
            && object.headers.content_type.as_deref().is_some_and(|t| t.starts_with(DIRECTORY_TYPE));
        let kind = match mode.and_then(Kind::of_mode) {
            _ if dir => Kind::Dir,
            // A directory in the old manner: an empty object without the slash.
            Some(Kind::Dir) if object.token.size == 0 => Kind::Dir,
            Some(Kind::Dir) => Kind::File,
            Some(kind) => kind,
            None if typed_dir => Kind::Dir,
            None => Kind::File,
        };
        let perm = mode.map_or(if kind == Kind::Dir { defaults.dir_perm } else { defaults.file_perm }, |m| m & 0o7777);
        let modified = object.token.modified();
        Attr {
            kind,
            perm,
            uid: number(UID).unwrap_or(defaults.uid),
            gid: number(GID).unwrap_or(defaults.gid),
            size: if kind == Kind::Dir { 0 } else { object.token.size },
            atime: mtime_of(&object.headers).unwrap_or(modified),
            mtime: mtime_of(&object.headers).unwrap_or(modified),
            ctime: modified,
            rdev: number(RDEV).unwrap_or(0),
        }
    }

    /// A directory that exists only because something lies below it.
    pub fn implied_dir(defaults: &Defaults) -> Attr {
        Attr {
            kind: Kind::Dir,
            perm: defaults.dir_perm,
            uid: defaults.uid,
            gid: defaults.gid,
            size: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            rdev: 0,
        }
    }

    pub fn new(kind: Kind, perm: u32, uid: u32, gid: u32, now: SystemTime) -> Attr {
        Attr { kind, perm: perm & 0o7777, uid, gid, size: 0, atime: now, mtime: now, ctime: now, rdev: 0 }
    }

    pub fn mode(&self) -> u32 {
        self.kind.bits() | self.perm
    }

    /// In units of 512 bytes, as `st_blocks` counts.
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(512)
    }

    /// Headers that state these attributes; whatever else `old` held is kept.
    pub fn to_headers(&self, old: Option<&Headers>) -> Headers {
        let mut headers = old.cloned().unwrap_or_default();
        let default_type = if self.kind == Kind::Dir { DIRECTORY_TYPE } else { FILE_TYPE };
        headers.content_type.get_or_insert_with(|| default_type.to_string());
        let (seconds, nanos) = to_unix(self.mtime);
        let mut set = |name: &str, value: String| headers.user.insert(name.to_string(), value);
        set(MODE, self.mode().to_string());
        set(UID, self.uid.to_string());
        set(GID, self.gid.to_string());
        set(MTIME, seconds.to_string());
        if nanos != 0 {
            set(MTIME_NSEC, format!("{seconds}.{nanos:09}"));
        } else {
            headers.user.remove(MTIME_NSEC);
        }
        if matches!(self.kind, Kind::CharDev | Kind::BlockDev) {
            headers.user.insert(RDEV.to_string(), self.rdev.to_string());
        }
        headers
    }
}

/// Seconds (rounded down, also before 1970) and nanoseconds.
fn to_unix(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after.as_secs() as i64, after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() {
                0 => (-(before.as_secs() as i64), 0),
                nanos => (-(before.as_secs() as i64) - 1, 1_000_000_000 - nanos),
            }
        }
    }
}

fn from_unix(seconds: i64, nanos: u32) -> Option<SystemTime> {
    let whole = if seconds >= 0 {
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds as u64))?
    } else {
        UNIX_EPOCH.checked_sub(Duration::from_secs(seconds.unsigned_abs()))?
    };
    whole.checked_add(Duration::from_nanos(nanos.min(999_999_999).into()))
}

fn mtime_of(headers: &Headers) -> Option<SystemTime> {
    let text = headers.user.get(MTIME)?.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let ours = headers.user.get(MTIME_NSEC).and_then(|t| t.trim().split_once('.'));
    let digits = match ours {
        Some((s, nanos)) if s.parse() == Ok(seconds) => nanos,
        _ => fraction,
    };
    let nanos = digits
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(9)
        .try_fold(0u32, |n, digit| digit.is_ascii_digit().then(|| n * 10 + u32::from(digit - b'0')));
    from_unix(seconds, nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{ETag, Token};

    const DEFAULTS: Defaults = Defaults { uid: 7, gid: 8, file_perm: 0o644, dir_perm: 0o755 };

    fn object(size: u64, content_type: Option<&str>, user: &[(&str, &str)]) -> Object {
        Object {
            token: Token {
                version: None,
                etag: ETag("e".into()),
                size,
                crc64: None,
                modified_micros: 1_700_000_000_000_000,
                stamp: None,
            },
            headers: Headers {
                content_type: content_type.map(str::to_string),
                user: user.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
                ..Headers::default()
            },
        }
    }

    #[test]
    fn kind_and_permissions_follow_mode_then_key_then_content_type() {
        let rows: [(&str, Object, bool, Kind, u32); 9] = [
            ("COSFS file", object(3, None, &[("mode", "33188")]), false, Kind::File, 0o644),
            ("COSFS link", object(3, None, &[("mode", "41471")]), false, Kind::Symlink, 0o777),
            ("bits only", object(3, None, &[("mode", "384")]), false, Kind::File, 0o600),
            ("mkdir without type bits", object(0, None, &[("mode", "493")]), true, Kind::Dir, 0o755),
            ("nothing known", object(3, None, &[]), false, Kind::File, 0o644),
            ("console folder", object(0, None, &[]), true, Kind::Dir, 0o755),
            ("old folder", object(0, Some(DIRECTORY_TYPE), &[]), false, Kind::Dir, 0o755),
            ("full of data, so no folder", object(9, Some(DIRECTORY_TYPE), &[]), false, Kind::File, 0o644),
            ("nonsense", object(3, None, &[("mode", "rw-r--r--")]), false, Kind::File, 0o644),
        ];
        for (what, object, dir, kind, perm) in rows {
            let attr = Attr::of_object(&object, dir, &DEFAULTS);
            assert_eq!((attr.kind, attr.perm), (kind, perm), "{what}");
        }
    }

    #[test]
    fn times_survive_with_their_nanoseconds() {
        for (seconds, nanos) in [(0, 0), (1_700_000_000, 123_456_789), (-1, 5), (-100, 0), (1, 1)] {
            let mut attr = Attr::new(Kind::File, 0o640, 1, 2, UNIX_EPOCH);
            attr.mtime = from_unix(seconds, nanos).expect("in range");
            let headers = attr.to_headers(None);
            assert_eq!(headers.user["mtime"], seconds.to_string(), "COSFS reads whole seconds");
            let mut stored = object(0, None, &[]);
            stored.headers = headers;
            let back = Attr::of_object(&stored, false, &DEFAULTS);
            assert_eq!((back.mtime, back.perm, back.uid, back.gid), (attr.mtime, 0o640, 1, 2));
        }
    }

    #[test]
    fn nanoseconds_of_another_second_are_void() {
        let stale = object(0, None, &[("mtime", "20"), ("ha-mtime-nsec", "10.500000000")]);
        assert_eq!(Attr::of_object(&stale, false, &DEFAULTS).mtime, UNIX_EPOCH + Duration::from_secs(20));
        let fraction = object(0, None, &[("mtime", "20.25")]);
        assert_eq!(Attr::of_object(&fraction, false, &DEFAULTS).mtime, UNIX_EPOCH + Duration::from_millis(20_250));
    }

    #[test]
    fn foreign_headers_pass_through() {
        let old = object(1, Some("text/plain"), &[("md5", "abc"), ("mode", "33188"), ("ha-mtime-nsec", "1.5")]);
        let attr = Attr::new(Kind::File, 0o600, 0, 0, UNIX_EPOCH);
        let new = attr.to_headers(Some(&old.headers));
        assert_eq!(new.content_type.as_deref(), Some("text/plain"));
        assert_eq!(new.user["md5"], "abc");
        assert_eq!(new.user["mode"], (0o100600).to_string());
        assert!(!new.user.contains_key("ha-mtime-nsec"), "whole second: the old nanoseconds must go");
    }
}
