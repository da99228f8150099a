//! Which redirect may be followed, and with what. Pure.
//!
//! A bucket with an origin-pull rule answers GET of a missing key with a redirect to the origin. Followed blindly, a redirect is a
//! way to read our credentials or to make this host call any address. So the client of the bucket never follows: it hands the redirect up
//! ([`super::Kind::Redirected`]), and `origin/follow` goes there with a client that has no credentials, for few hops, to hosts from a list,
//! never from https down to http unless the list says so.

use reqwest::Url;

/// An answer that names another place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// Whose answer it is.
    pub from: Url,
    /// As it stands in the answer; may be anything.
    pub location: String,
}

/// A host that redirects may lead to: `host`, `host:port` or `http://host:port`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AllowedHost {
    host: String,
    port: Option<u16>,
    /// Plain http is fine even where the bucket is reached by https.
    plain: bool,
}

impl AllowedHost {
    /// `None` if the text names no host.
    pub fn parse(text: &str) -> Option<AllowedHost> {
        let (plain, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme.eq_ignore_ascii_case("http"), rest),
            None => (false, text),
        };
        let rest = rest.trim_end_matches('/');
        let url = Url::parse(&format!("https://{rest}/")).ok()?;
        // Url hides the default port; written out, it is meant.
        let port = rest.rsplit_once(':').and_then(|(_, p)| p.parse().ok());
        Some(AllowedHost { host: url.host_str()?.to_string(), port, plain })
    }

    fn admits(&self, url: &Url, from_https: bool) -> bool {
        url.host_str() == Some(&self.host)
            && self.port.is_none_or(|p| url.port_or_known_default() == Some(p))
            && (!from_https || self.plain || url.scheme() == "https")
    }
}

impl Redirect {
    /// Where it leads, or why it is not followed.
    pub fn target(&self, allowed: &[AllowedHost]) -> Result<Url, String> {
        let mut url = self.from.join(&self.location).map_err(|e| format!("redirect to an unreadable Location: {e}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("redirect to scheme {} refused", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("redirect to a Location with credentials refused".into());
        }
        if !allowed.iter().any(|a| a.admits(&url, self.from.scheme() == "https")) {
            return Err(format!("redirect to {} refused: not an allowed host", url.host_str().unwrap_or("-")));
        }
        url.set_fragment(None);
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules() {
        let list: Vec<AllowedHost> = ["origin.example.com", "http://127.0.0.1:9103", "plain.example.com:8080"]
            .map(|h| AllowedHost::parse(h).unwrap())
            .into();
        let https = "https://b-1.cos.r.myqcloud.com/dir/k";
        let http = "http://b-1.cos.r.myqcloud.com/dir/k";
        for (from, location, follows) in [
            (https, "https://origin.example.com/x?y=1", true),
            (https, "https://origin.example.com:8443/x", true),
            (https, "http://origin.example.com/x", false),
            (http, "http://origin.example.com/x", true),
            (https, "http://127.0.0.1:9103/x", true),
            (https, "http://127.0.0.1:9104/x", false),
            (https, "http://127.1:9103/x", true),
            (https, "https://plain.example.com:8080/x", true),
            (https, "https://plain.example.com/x", false),
            (https, "https://user:pw@origin.example.com/x", false),
            (https, "https://origin.example.com.evil.org/x", false),
            (https, "https://evil.org/origin.example.com", false),
            (https, "https://evil.org\\@origin.example.com/", false),
            (https, "http://169.254.0.23/latest/meta-data/", false),
            (https, "file:///etc/passwd", false),
            (https, "/same/host", false),
            (https, "//origin.example.com/x", true),
        ] {
            let result = Redirect { from: Url::parse(from).unwrap(), location: location.into() }.target(&list);
            assert_eq!(result.is_ok(), follows, "{from} -> {location}: {result:?}");
        }
    }
}
