//! Which names can be keys.

use std::ffi::OsStr;

use super::error::{Error, Result};
use crate::object::{Key, OWN};

/// As `NAME_MAX` everywhere else.
pub const NAME_BYTES_MAX: usize = 255;

/// Can an object under this name be shown in a directory?
pub fn is_component(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && text.len() <= NAME_BYTES_MAX && !text.contains(['/', '\0'])
}

/// A name as a program gave it.
pub fn check(name: &OsStr) -> Result<&str> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::NameTooLong);
    }
    let text = name.to_str().ok_or(Error::BadName)?;
    if is_component(text) { Ok(text) } else { Err(Error::Invalid("not a file name")) }
}

pub fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_string() } else { format!("{dir}/{name}") }
}

/// The rest of a path that is `dir` (then it is empty) or lies below it.
pub fn below<'a>(path: &'a str, dir: &str) -> Option<&'a str> {
    if dir.is_empty() {
        return Some(path);
    }
    let rest = path.strip_prefix(dir)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// Where in the bucket the tree lies.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// Empty, or ending in `/`.
    prefix: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Keys {
        let trimmed = prefix.trim_matches('/');
        Keys { prefix: if trimmed.is_empty() { String::new() } else { format!("{trimmed}/") } }
    }

    pub fn file(&self, path: &str) -> Result<Key> {
        if format!("{path}/").starts_with(OWN) {
            return Err(Error::NotPermitted("the name belongs to cosfs-ha"));
        }
        Ok(Key::new(format!("{}{path}", self.prefix))?)
    }

    /// The prefix that everything below a directory shares; empty for the root of a bucket.
    pub fn below(&self, path: &str) -> String {
        if path.is_empty() { self.prefix.clone() } else { format!("{}{path}/", self.prefix) }
    }

    /// The directory's marker; `None` for the root of a bucket, which needs none.
    pub fn marker(&self, path: &str) -> Result<Option<Key>> {
        let below = self.below(path);
        if below.is_empty() { Ok(None) } else { Ok(Some(Key::new(below)?)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn names_that_cannot_be_keys_are_refused_not_changed() {
        assert!(matches!(check(OsStr::new(&"x".repeat(256))), Err(Error::NameTooLong)));
        assert!(matches!(check(OsStr::from_bytes(b"\xff")), Err(Error::BadName)));
        assert!(matches!(check(OsStr::new("..")), Err(Error::Invalid(_))));
        assert_eq!(check(OsStr::new("a b%+é")).expect("fine"), "a b%+é");
        let keys = Keys::new("/p/q/");
        assert_eq!(keys.file("a/b").expect("fine").as_str(), "p/q/a/b");
        assert_eq!(keys.marker("").expect("fine").expect("a prefix has one").as_str(), "p/q/");
        assert!(Keys::new("").marker("").expect("fine").is_none());
        assert!(matches!(keys.file(&"y/".repeat(430)), Err(Error::NameTooLong)));
        assert!(matches!(keys.file("\u{1b}"), Err(Error::BadName)));
        for own in [".cosfs-ha", ".cosfs-ha/probe"] {
            assert!(matches!(keys.file(own), Err(Error::NotPermitted(_))), "{own}");
        }
        assert!(keys.file(".cosfs-haha").is_ok() && keys.file("d/.cosfs-ha").is_ok());
    }
}
