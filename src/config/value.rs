//! The kinds of value an option can have, each with one spelling for the file, the command line and the manual.
//!
//! Everything reads from [`Raw`] and shows itself as text that reads back to the same value, so a default in the manual can be pasted
//! into a file and a `-o section.key=value` means what the same line in the file means.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// What the file or the command line holds, before an option gives it a meaning.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    Text(String),
    Integer(i64),
    Bool(bool),
    /// `{ name = value, ... }`; only in the file.
    Table(Vec<(String, Raw)>),
    /// Anything no option takes (a list, a date, a fraction); carries the name of its type.
    Other(String),
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Raw::Text(text) => write!(f, "\"{text}\""),
            Raw::Integer(n) => n.fmt(f),
            Raw::Bool(b) => b.fmt(f),
            Raw::Table(_) => f.write_str("a table"),
            Raw::Other(kind) => write!(f, "a value of type {kind}"),
        }
    }
}

/// A typed option value. The error of `read` says what was expected; it must never repeat a secret.
pub trait Value: Sized {
    /// For the manual: "size", "duration", "text" ...
    const KIND: &'static str;
    fn read(raw: &Raw) -> Result<Self, String>;
    /// Text that [`Value::read`] turns into the same value; `None` for "not set".
    fn show(&self) -> Option<String>;
}

fn expected(what: &str, raw: &Raw) -> String {
    format!("expected {what}, found {raw}")
}

impl Value for String {
    const KIND: &'static str = "text";

    fn read(raw: &Raw) -> Result<String, String> {
        match raw {
            Raw::Text(text) => Ok(text.clone()),
            _ => Err(expected("a text in quotes", raw)),
        }
    }

    fn show(&self) -> Option<String> {
        (!self.is_empty()).then(|| self.clone())
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "path";

    fn read(raw: &Raw) -> Result<PathBuf, String> {
        match raw {
            Raw::Text(text) if text.starts_with('/') => Ok(PathBuf::from(text)),
            _ => Err(expected("an absolute path", raw)),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.display().to_string())
    }
}

impl<T: Value> Value for Option<T> {
    const KIND: &'static str = T::KIND;

    fn read(raw: &Raw) -> Result<Option<T>, String> {
        T::read(raw).map(Some)
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(Value::show)
    }
}

impl Value for bool {
    const KIND: &'static str = "true or false";

    fn read(raw: &Raw) -> Result<bool, String> {
        match raw {
            Raw::Bool(b) => Ok(*b),
            Raw::Text(text) if text == "true" => Ok(true),
            Raw::Text(text) if text == "false" => Ok(false),
            _ => Err(expected("true or false", raw)),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for u32 {
    const KIND: &'static str = "number";

    fn read(raw: &Raw) -> Result<u32, String> {
        let number = match raw {
            Raw::Integer(n) => u32::try_from(*n).ok(),
            Raw::Text(text) => text.parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| expected("a number from 0 to 4294967295", raw))
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Permission bits, written in octal as every Unix tool does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Octal(pub u32);

impl Value for Octal {
    const KIND: &'static str = "octal number";

    fn read(raw: &Raw) -> Result<Octal, String> {
        let Raw::Text(text) = raw else {
            return Err(expected("permission bits in octal, in quotes, such as \"022\"", raw));
        };
        let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o777);
        bits.map(Octal).ok_or_else(|| expected("permission bits in octal, such as \"022\"", raw))
    }

    fn show(&self) -> Option<String> {
        Some(format!("{:03o}", self.0))
    }
}

/// A number of bytes. Units are powers of 1024 (KiB, MiB, GiB, TiB; K, M, G, T mean the same) or of 1000 (kB, MB, GB, TB).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u64);

/// Longest unit first within each power, so that showing picks the usual spelling.
const UNITS: [(&str, u64); 16] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("T", 1 << 40),
    ("G", 1 << 30),
    ("M", 1 << 20),
    ("K", 1 << 10),
    ("k", 1 << 10),
    ("B", 1),
    ("", 1),
];

impl Size {
    pub const fn mib(n: u64) -> Size {
        Size(n << 20)
    }

    pub const fn gib(n: u64) -> Size {
        Size(n << 30)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = (&text[..split], text[split..].trim());
        let number: Option<u64> = digits.parse().ok();
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        match (number, factor) {
            (Some(number), Some(factor)) => number
                .checked_mul(factor)
                .map(Size)
                .ok_or_else(|| format!("\"{text}\" is more bytes than there can be")),
            _ => Err(format!("expected a size such as \"10GiB\" or \"500MiB\", found \"{text}\"")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS[..4].iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        match whole {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Value for Size {
    const KIND: &'static str = "size";

    fn read(raw: &Raw) -> Result<Size, String> {
        match raw {
            Raw::Text(text) => text.parse(),
            Raw::Integer(n) if *n >= 0 => Ok(Size(n.unsigned_abs())),
            _ => Err(expected("a size such as \"10GiB\"", raw)),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Bytes a second, written as a size with `/s` at its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rate(pub u64);

impl Value for Rate {
    const KIND: &'static str = "size a second";

    fn read(raw: &Raw) -> Result<Rate, String> {
        let size = match raw {
            Raw::Text(text) => text.strip_suffix("/s").and_then(|size| size.trim().parse::<Size>().ok()),
            _ => None,
        };
        size.filter(|size| size.0 > 0)
            .map(|size| Rate(size.0))
            .ok_or_else(|| expected("a size a second such as \"20MiB/s\"", raw))
    }

    fn show(&self) -> Option<String> {
        Some(format!("{}/s", Size(self.0)))
    }
}

impl Value for Duration {
    const KIND: &'static str = "duration";

    fn read(raw: &Raw) -> Result<Duration, String> {
        match raw {
            Raw::Text(text) => {
                humantime::parse_duration(text).map_err(|_| expected("a duration such as \"5s\" or \"500ms\"", raw))
            }
            _ => Err(expected("a duration with its unit, such as \"5s\" or \"500ms\"", raw)),
        }
    }

    fn show(&self) -> Option<String> {
        Some(humantime::format_duration(*self).to_string())
    }
}

/// A value that must never be shown: not in errors, not in logs, not by `Debug`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Value for Secret {
    const KIND: &'static str = "secret text";

    fn read(raw: &Raw) -> Result<Secret, String> {
        match raw {
            Raw::Text(text) => Ok(Secret(text.clone())),
            _ => Err("expected a text in quotes".into()),
        }
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// Makes an enum of words an option value.
macro_rules! words {
    ($(#[doc = $doc:literal])* $name:ident { $($variant:ident = $word:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($variant,)* }

        impl $name {
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<$name, String> {
                match text {
                    $($word => Ok($name::$variant),)*
                    _ => Err(format!("expected one of {}, found \"{text}\"", [$($word,)*].join(", "))),
                }
            }
        }

        impl $crate::config::value::Value for $name {
            const KIND: &'static str = concat!("one of" $(, " `", $word, "`")*);
            fn read(raw: &$crate::config::value::Raw) -> Result<$name, String> {
                match raw {
                    $crate::config::value::Raw::Text(text) => text.parse(),
                    _ => Err(format!("expected one of {}, found {raw}", [$($word,)*].join(", "))),
                }
            }
            fn show(&self) -> Option<String> {
                Some(self.as_str().into())
            }
        }
    };
}

pub(super) use words;

words! {
    /// When `close` and `fsync` return (docs/semantics.md, "Commit modes").
    Commit { Journal = "journal", OneRegion = "one-region", TwoRegions = "two-regions", }
}

words! {
    /// What `close` says when no bucket could be reached within `max_stall`.
    Unreachable { Journal = "journal", Error = "error", }
}

words! {
    /// What a write answers in `two-regions` that one of the buckets cannot take.
    SecondRegion { Degrade = "degrade", Block = "block", }
}

words! {
    /// What becomes of a content that somebody else stored while a file was changed here.
    Conflicts { Lww = "lww", Copy = "copy", Off = "off", }
}

words! {
    /// What it means that a bucket lacks a name, where the other one is down and they were never compared.
    Unaudited { Wait = "wait", Trust = "trust", }
}

words! {
    /// Least important kind of line that is logged.
    Level { Error = "error", Warn = "warn", Info = "info", Debug = "debug", Trace = "trace", }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Raw {
        Raw::Text(text.into())
    }

    #[test]
    fn sizes() {
        let rows = [
            ("10GiB", Some(10 << 30)),
            ("10G", Some(10 << 30)),
            ("10 GiB", Some(10 << 30)),
            ("10GB", Some(10_000_000_000)),
            ("512MiB", Some(512 << 20)),
            ("64k", Some(64 << 10)),
            ("4096", Some(4096)),
            ("0", Some(0)),
            ("", None),
            ("GiB", None),
            ("-1", None),
            ("1.5GiB", None),
            ("10 gibibytes", None),
            ("99999999999TiB", None),
        ];
        for (given, expect) in rows {
            assert_eq!(Size::read(&text(given)).ok().map(|s| s.0), expect, "{given:?}");
        }
    }

    #[test]
    fn a_shown_value_reads_back() {
        for size in [0, 1, 1023, 1024, 3 << 20, 10 << 30, (10 << 30) + 1] {
            let shown = Size(size).show().unwrap();
            assert_eq!(Size::read(&text(&shown)), Ok(Size(size)), "{shown}");
        }
        for millis in [0, 1, 2500, 5000, 3_600_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(Duration::read(&text(&duration.show().unwrap())), Ok(duration));
        }
    }

    #[test]
    fn rates() {
        assert_eq!(Rate::read(&text("20MiB/s")), Ok(Rate(20 << 20)));
        assert_eq!(Rate::read(&text(&Rate(3 << 10).show().unwrap())), Ok(Rate(3 << 10)));
        for wrong in ["20MiB", "0/s", "/s", "20MiB/m"] {
            assert!(Rate::read(&text(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn permission_bits() {
        assert_eq!(Octal::read(&text("022")), Ok(Octal(0o22)));
        assert_eq!(Octal::read(&text(&Octal(0o7).show().unwrap())), Ok(Octal(7)));
        for wrong in [text("999"), text("1777"), text(""), Raw::Integer(22)] {
            assert!(Octal::read(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_number_without_unit_is_no_duration() {
        assert!(Duration::read(&Raw::Integer(5)).unwrap_err().contains("with its unit"));
        assert!(Duration::read(&text("5")).is_err());
        assert_eq!(Duration::read(&text("2500ms")), Ok(Duration::from_millis(2500)));
    }

    #[test]
    fn a_wrong_word_is_answered_with_the_right_ones() {
        let error = Commit::read(&text("two-region")).unwrap_err();
        assert_eq!(error, "expected one of journal, one-region, two-regions, found \"two-region\"");
    }

    #[test]
    fn secrets_do_not_show() {
        let secret = Secret::read(&text("hunter2")).unwrap();
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert_eq!(secret.show(), None);
        assert!(!Secret::read(&Raw::Integer(123_456)).unwrap_err().contains("123456"));
    }
}
