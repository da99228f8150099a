//! Option values that are small tables: `auth = { type = "A", key = "..." }`, `mail = { to = "...", smtp = "..." }`.
//!
//! They hold secrets, so they have no spelling for the command line and are never shown.

use std::path::PathBuf;
use std::time::Duration;

use super::nearest;
use super::value::{Raw, Secret, Value, words};

words! {
    /// How the CDN wants its URLs signed (console: "Authentication Configuration").
    AuthType { A = "A", B = "B", C = "C", D = "D", }
}

words! {
    /// Digest in a signed CDN URL.
    AuthDigest { Md5 = "md5", Sha256 = "sha256", }
}

words! {
    /// How type C and D write their time.
    AuthTime { Decimal = "dec", Hexadecimal = "hex", }
}

/// URL authentication of a CDN domain, as set up there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CdnAuth {
    pub kind: AuthType,
    pub key: Secret,
    pub algorithm: AuthDigest,
    /// Name of the parameter with the signature, types A and D.
    pub sign_param: String,
    /// Name of the parameter with the time, type D.
    pub time_param: String,
    pub time_format: AuthTime,
    /// How long the CDN takes a signed URL for valid. Ours are made for each request, so it only has to exceed the difference of the clocks.
    pub valid: Duration,
}

/// Where mails go, and through which server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mail {
    /// One address or several, with commas.
    pub to: String,
    pub from: Option<String>,
    /// `smtps://host[:465]`, or `smtp://host[:25]` and `host[:port]` (STARTTLS where it is offered; demanded where there is a password).
    pub smtp: String,
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// Certificate authority (PEM) to believe besides those of the host.
    pub ca: Option<PathBuf>,
}

/// The words of one table, taken one after the other; whatever is left is an error.
struct Words<'a> {
    left: Vec<(&'a str, &'a Raw)>,
    known: &'static [&'static str],
}

impl<'a> Words<'a> {
    fn of(raw: &'a Raw, known: &'static [&'static str], form: &str) -> Result<Words<'a>, String> {
        match raw {
            Raw::Table(pairs) => {
                Ok(Words { left: pairs.iter().map(|(name, raw)| (name.as_str(), raw)).collect(), known })
            }
            _ => Err(format!("expected a table such as {form} in the configuration file")),
        }
    }

    fn take<T: Value>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(at) = self.left.iter().position(|(known, _)| *known == name) else { return Ok(None) };
        let (_, raw) = self.left.remove(at);
        T::read(raw).map(Some).map_err(|what| format!("{name}: {what}"))
    }

    fn need<T: Value>(&mut self, name: &str) -> Result<T, String> {
        self.take(name)?.ok_or_else(|| format!("`{name}` is missing"))
    }

    fn end(self) -> Result<(), String> {
        match self.left.first() {
            None => Ok(()),
            Some((name, _)) => Err(match nearest(name, self.known) {
                Some(near) => format!("unknown name `{name}`; did you mean `{near}`?"),
                None => format!("unknown name `{name}`; there are {}", self.known.join(", ")),
            }),
        }
    }
}

impl Value for CdnAuth {
    const KIND: &'static str = "table";

    fn read(raw: &Raw) -> Result<CdnAuth, String> {
        const KNOWN: &[&str] = &["type", "key", "algorithm", "sign_param", "time_param", "time_format", "valid"];
        let mut words = Words::of(raw, KNOWN, "{ type = \"A\", key = \"...\" }")?;
        let kind: AuthType = words.need("type")?;
        let auth = CdnAuth {
            kind,
            key: words.need("key")?,
            algorithm: words.take("algorithm")?.unwrap_or(AuthDigest::Md5),
            sign_param: words.take("sign_param")?.unwrap_or_else(|| "sign".into()),
            time_param: words.take("time_param")?.unwrap_or_else(|| "t".into()),
            time_format: words.take("time_format")?.unwrap_or(match kind {
                AuthType::C => AuthTime::Hexadecimal,
                _ => AuthTime::Decimal,
            }),
            valid: words.take("valid")?.unwrap_or(Duration::from_secs(1800)),
        };
        words.end()?;
        if !(6..=40).contains(&auth.key.0.len()) || !auth.key.0.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err("key: expected 6 to 40 letters and digits".into());
        }
        Ok(auth)
    }

    fn show(&self) -> Option<String> {
        None
    }
}

impl Value for Mail {
    const KIND: &'static str = "table";

    fn read(raw: &Raw) -> Result<Mail, String> {
        const KNOWN: &[&str] = &["to", "from", "smtp", "user", "password", "ca"];
        let mut words = Words::of(raw, KNOWN, "{ to = \"you@example.com\", smtp = \"smtps://mail.example.com\" }")?;
        let mail = Mail {
            to: words.need("to")?,
            from: words.take("from")?,
            smtp: words.need("smtp")?,
            user: words.take("user")?,
            password: words.take("password")?,
            ca: words.take("ca")?,
        };
        words.end()?;
        if mail.user.is_some() != mail.password.is_some() {
            return Err("user and password must be given together".into());
        }
        Ok(mail)
    }

    fn show(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pairs: &[(&str, &str)]) -> Raw {
        Raw::Table(pairs.iter().map(|(n, v)| ((*n).into(), Raw::Text((*v).into()))).collect())
    }

    #[test]
    fn authentication_tables() {
        let auth = CdnAuth::read(&table(&[("type", "C"), ("key", "abcdef12345")])).unwrap();
        assert_eq!((auth.kind, auth.time_format), (AuthType::C, AuthTime::Hexadecimal));
        let rows: &[(&[(&str, &str)], &str)] = &[
            (&[("type", "E"), ("key", "abcdef")], "type: expected one of A, B, C, D"),
            (&[("key", "abcdef")], "`type` is missing"),
            (&[("type", "A")], "`key` is missing"),
            (&[("type", "A"), ("key", "short")], "key: expected 6 to 40"),
            (&[("type", "A"), ("key", "abcdef"), ("sing_param", "x")], "did you mean `sign_param`?"),
        ];
        for (pairs, expect) in rows {
            let error = CdnAuth::read(&table(pairs)).unwrap_err();
            assert!(error.contains(expect), "{pairs:?}: {error}");
        }
        assert!(CdnAuth::read(&Raw::Text("A".into())).unwrap_err().contains("expected a table"));
    }

    #[test]
    fn mail_tables() {
        let mail = Mail::read(&table(&[("to", "a@b.c"), ("smtp", "127.0.0.1:25")])).unwrap();
        assert_eq!((mail.to.as_str(), mail.password), ("a@b.c", None));
        assert!(Mail::read(&table(&[("to", "a@b.c")])).unwrap_err().contains("`smtp` is missing"));
        let half = table(&[("to", "a@b.c"), ("smtp", "x"), ("user", "u")]);
        assert!(Mail::read(&half).unwrap_err().contains("together"));
    }
}
