//! From file and command line to one checked [`Config`].
//!
//! Later wins: built-in defaults, the file, `-o`, flags. (The key pair may also come from the environment: `cos/credentials`.) Every complaint names the place: file
//! and line, or the option as it was typed.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{Config, Raw, Refusal, SECTIONS};

/// What is wrong with the configuration, worded for the person who wrote it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration file {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path}:{line}: {what}")]
    File { path: PathBuf, line: usize, what: String },
    #[error("option {option}: {what}")]
    Option { option: String, what: String },
    #[error("{path} holds a secret key but other users can read it (mode {mode:04o}). Mend it with: chmod 600 {path}")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{0}")]
    Check(String),
}

/// One option from the command line, as it was typed and as it is understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// For error messages: `--cache-size`, `-o cache_size`.
    pub typed: String,
    pub section: &'static str,
    pub key: String,
    pub raw: Raw,
}

/// Reads the file, if any, lets the command line override it, and checks the result.
pub fn load(file: Option<&Path>, overrides: &[Override]) -> Result<Config, Error> {
    let mut config = Config::default();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|error| Error::Read { path: path.to_path_buf(), error })?;
        read_text(&mut config, path, &text)?;
        let exposed = config.holds_secrets();
        let mode = std::fs::metadata(path)
            .map_err(|error| Error::Read { path: path.to_path_buf(), error })?
            .permissions()
            .mode()
            & 0o7777;
        if exposed && mode & 0o007 != 0 {
            return Err(Error::Exposed { path: path.to_path_buf(), mode });
        }
    }
    for item in overrides {
        config.set(item.section, &item.key, &item.raw).map_err(|refusal| Error::Option {
            option: item.typed.clone(),
            what: match refusal {
                Refusal::Value(what) => what,
                Refusal::UnknownKey { nearest } => unknown(&item.key, &format!("in [{}]", item.section), nearest),
            },
        })?;
    }
    config.check().map_err(Error::Check)?;
    Ok(config)
}

fn unknown(given: &str, place: &str, nearest: Option<String>) -> String {
    match nearest {
        Some(name) => format!("unknown name `{given}` {place}; did you mean `{name}`?"),
        None => format!("unknown name `{given}` {place}"),
    }
}

fn read_text(config: &mut Config, path: &Path, text: &str) -> Result<(), Error> {
    let at = |position: usize, what: String| Error::File {
        path: path.to_path_buf(),
        line: 1 + text.as_bytes()[..position.min(text.len())].iter().filter(|byte| **byte == b'\n').count(),
        what,
    };
    let table = DeTable::parse(text)
        .map_err(|error| at(error.span().map_or(0, |span| span.start), error.message().to_string()))?;
    // The parser's map is sorted by name; complaints should come in the order of the file.
    let mut sections: Vec<_> = table.get_ref().iter().collect();
    sections.sort_by_key(|(name, _)| name.span().start);
    for (name, content) in sections {
        let (section, place) = (name.get_ref().as_ref(), name.span().start);
        let DeValue::Table(content) = content.get_ref() else {
            return Err(at(
                place,
                format!("`{section}` stands outside of a section; write it below a line such as [mount]"),
            ));
        };
        if !SECTIONS.contains(&section) {
            let hint = match super::nearest(section, SECTIONS) {
                Some(name) => format!("did you mean [{name}]?"),
                None => format!("there are [{}]", SECTIONS.join("], [")),
            };
            return Err(at(place, format!("unknown section [{section}]; {hint}")));
        }
        let mut keys: Vec<_> = content.iter().collect();
        keys.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in keys {
            let name = key.get_ref().as_ref();
            config.set(section, name, &raw(value.get_ref())).map_err(|refusal| match refusal {
                Refusal::Value(what) => at(value.span().start, format!("`{name}`: {what}")),
                Refusal::UnknownKey { nearest } => {
                    at(key.span().start, unknown(name, &format!("in section [{section}]"), nearest))
                }
            })?;
        }
    }
    Ok(())
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Raw::Integer(n),
            Err(_) => Raw::Other("number out of range".into()),
        },
        DeValue::Boolean(b) => Raw::Bool(*b),
        DeValue::Table(pairs) => {
            Raw::Table(pairs.iter().map(|(name, value)| (name.get_ref().to_string(), raw(value.get_ref()))).collect())
        }
        other => Raw::Other(other.type_str().into()),
    }
}
