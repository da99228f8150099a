//! `?origin`: what a bucket does about a read that it cannot serve. Pure.
//!
//! Read leniently where the pages contradict each other (a redirect code in mirror mode is called an error and stands in the vendor's
//! own example), strictly where a rule could not do what it says.

use crate::cos::sign::url_encode_path;
use crate::cos::xml::tree::Element;
use crate::emulator::failure::Failure;

/// Origins of a mirror rule, and standbys of each (API page of the origin configuration).
const HOSTS_MAX: usize = 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Fetched while the client waits, stored, answered with 200.
    Mirror,
    /// The client is sent to the origin; fetched and stored meanwhile.
    Proxy,
    /// The client is sent to the origin.
    Redirect,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// `name` or `name:port`.
    pub name: String,
    pub weight: u32,
    pub standbys: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    pub priority: u32,
    pub mode: Mode,
    pub status: u16,
    pub prefix: String,
    pub suffix: String,
    /// `None`: as the client came.
    pub https: Option<bool>,
    /// Errors of the origin are shown as they are.
    pub transparent: bool,
    pub follow_query: bool,
    pub follow_all_headers: bool,
    pub new_headers: Vec<(String, String)>,
    pub follow_headers: Vec<String>,
    pub forbid_headers: Vec<String>,
    pub follow_redirection: bool,
    pub redirect_code: u16,
    pub standby_codes: Vec<u16>,
    pub hosts: Vec<Host>,
    pub fixed_path: Option<String>,
    pub path_prefix: String,
    pub path_suffix: String,
}

impl Rule {
    pub fn fits(&self, key: &str, status: u16) -> bool {
        self.status == status && key.starts_with(&self.prefix) && key.ends_with(&self.suffix)
    }

    /// Where an object is at the origin. `query` as the client sent it, without `?`.
    pub fn url(&self, host: &str, key: &str, query: &str, secure: bool) -> String {
        let scheme = if self.https.unwrap_or(secure) { "https" } else { "http" };
        let path = match &self.fixed_path {
            Some(path) => path.clone(),
            None => format!("{}{key}{}", self.path_prefix, self.path_suffix),
        };
        let query = if self.follow_query && !query.is_empty() { format!("?{query}") } else { String::new() };
        format!("{scheme}://{host}/{}{query}", url_encode_path(path.trim_start_matches('/')))
    }

    /// The headers of a request that go along. Never what authenticates the client at the bucket, unless a rule names it.
    pub fn headers(&self, request: &[(String, String)]) -> Vec<(String, String)> {
        let has = |list: &[String], name: &str| list.iter().any(|n| n.eq_ignore_ascii_case(name));
        let own = ["host", "connection", "content-length", "authorization", "range"];
        let goes = |name: &str| {
            let all = self.follow_all_headers && !own.contains(&name);
            (all || has(&self.follow_headers, name)) && !has(&self.forbid_headers, name)
        };
        request.iter().filter(|(name, _)| goes(name)).chain(&self.new_headers).cloned().collect()
    }
}

/// The rules of a document, the one with the highest priority (the smallest number) first.
pub fn read(text: &str) -> Result<Vec<Rule>, Failure> {
    let malformed = |why: String| Failure::new(400, "MalformedXML", why);
    let tree = Element::parse(text.as_bytes(), "OriginConfiguration").map_err(|e| malformed(e.to_string()))?;
    let mut rules = tree.all("OriginRule").map(rule).collect::<Result<Vec<Rule>, Failure>>()?;
    if rules.is_empty() {
        return Err(malformed("OriginConfiguration needs an OriginRule.".into()));
    }
    rules.sort_by_key(|rule| rule.priority);
    Ok(rules)
}

fn rule(tree: &Element) -> Result<Rule, Failure> {
    let text = |path: &[&str]| tree.text_at(path).map(str::to_owned);
    let number = |path: &[&str], default: u32| match tree.text_at(path) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| Failure::argument(format!("{} is not a number.", path.join("/")))),
    };
    let code = |path: &[&str], default: u32| number(path, default).map(|n| u16::try_from(n).unwrap_or(0));
    let yes = |path: &[&str], default: bool| tree.text_at(path).map_or(default, |t| t.eq_ignore_ascii_case("true"));
    let mode = match tree.text_at(&["OriginType"]).unwrap_or("Mirror") {
        "Mirror" => Mode::Mirror,
        "Proxy" => Mode::Proxy,
        "Redirect" => Mode::Redirect,
        other => return Err(Failure::argument(format!("OriginType {other} is not Mirror, Proxy or Redirect."))),
    };
    let status = code(&["OriginCondition", "HTTPStatusCode"], 404)?;
    if mode != Mode::Redirect && status != 404 {
        return Err(Failure::argument("Only 404 can lead to a mirror or a proxy."));
    }
    if !(400..600).contains(&status) {
        return Err(Failure::argument("HTTPStatusCode is not 4XX or 5XX."));
    }
    let redirect_code = code(&["OriginParameter", "HttpRedirectCode"], 302)?;
    if !matches!(redirect_code, 301 | 302 | 307) {
        return Err(Failure::argument("HttpRedirectCode is not 301, 302 or 307."));
    }
    let https = match tree.text_at(&["OriginParameter", "Protocol"]).unwrap_or("FOLLOW") {
        "HTTP" => Some(false),
        "HTTPS" => Some(true),
        "FOLLOW" => None,
        other => return Err(Failure::argument(format!("Protocol {other} is not HTTP, HTTPS or FOLLOW."))),
    };
    let info = tree.child("OriginInfo");
    let hosts: Vec<Host> =
        info.into_iter().flat_map(|info| info.all("HostInfo")).map(host).collect::<Result<_, _>>()?;
    let limit = if mode == Mode::Mirror { HOSTS_MAX } else { 1 };
    if hosts.is_empty() || hosts.len() > limit {
        return Err(Failure::argument(format!("This mode takes 1 to {limit} HostInfo.")));
    }
    let list = |name: &str, each: fn(&Element) -> Option<(String, String)>| -> Vec<(String, String)> {
        let found = tree.child("OriginParameter").and_then(|p| p.child("HttpHeader")?.child(name));
        found.into_iter().flat_map(|list| list.all("Header")).filter_map(each).collect()
    };
    let pair = |header: &Element| {
        Some((header.text_at(&["Key"])?.to_owned(), header.text_at(&["Value"]).unwrap_or_default().to_owned()))
    };
    let names = |name: &str| list(name, pair).into_iter().map(|(key, _)| key).collect::<Vec<String>>();
    // The page and the Go SDK spell this one differently.
    let forbid = [names("ForbidFollowHeaders"), names("ForbidFollowHttpHeaders")].concat();
    let standby = tree.child("HTTPStandbyCode");
    let standby = standby.into_iter().flat_map(|codes| codes.all("StatusCode")).filter_map(|c| c.text.parse().ok());
    let file = |name: &str| text(&["OriginInfo", "FileInfo", name]).unwrap_or_default();
    Ok(Rule {
        priority: number(&["RulePriority"], 1)?,
        mode,
        status,
        prefix: text(&["OriginCondition", "Prefix"]).unwrap_or_default(),
        suffix: text(&["OriginCondition", "Suffix"]).unwrap_or_default(),
        https,
        transparent: yes(&["OriginParameter", "TransparentErrorCode"], false),
        follow_query: yes(&["OriginParameter", "FollowQueryString"], true),
        follow_all_headers: yes(&["OriginParameter", "HttpHeader", "FollowAllHeaders"], false),
        new_headers: list("NewHttpHeaders", pair),
        follow_headers: names("FollowHttpHeaders"),
        forbid_headers: forbid,
        follow_redirection: yes(&["OriginParameter", "FollowRedirection"], true),
        redirect_code,
        standby_codes: standby.collect(),
        hosts,
        fixed_path: text(&["OriginInfo", "FileInfo", "FixedFileConfiguration", "FixedFilePath"]),
        path_prefix: file("Prefix"),
        path_suffix: file("Suffix"),
    })
}

fn host(tree: &Element) -> Result<Host, Failure> {
    let name = |text: Option<&str>| match text {
        Some(name) if reqwest::Url::parse(&format!("http://{name}/")).is_ok_and(|u| u.path() == "/") => {
            Ok(name.to_owned())
        }
        other => {
            Err(Failure::argument(format!("HostName {:?} is not a domain or address.", other.unwrap_or_default())))
        }
    };
    let standbys = (1..=HOSTS_MAX).filter_map(|n| tree.text_at(&[&format!("StandbyHostName_{n}")]));
    Ok(Host {
        name: name(tree.text_at(&["HostName"]))?,
        weight: tree.text_at(&["Weight"]).and_then(|w| w.parse().ok()).unwrap_or(1),
        standbys: standbys.map(|standby| name(Some(standby))).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(mode: &str, rest: &str) -> String {
        format!(
            "<OriginConfiguration><OriginRule><OriginType>{mode}</OriginType>{rest}<OriginInfo><HostInfo>\
             <HostName>origin.example.com:81</HostName></HostInfo></OriginInfo></OriginRule></OriginConfiguration>"
        )
    }

    #[test]
    fn refused_table() {
        let rows = [
            ("Mirror", "", true),
            ("Mirror", "<OriginCondition><HTTPStatusCode>403</HTTPStatusCode></OriginCondition>", false),
            ("Redirect", "<OriginCondition><HTTPStatusCode>403</HTTPStatusCode></OriginCondition>", true),
            ("Redirect", "<OriginCondition><HTTPStatusCode>200</HTTPStatusCode></OriginCondition>", false),
            ("Proxy", "<OriginParameter><HttpRedirectCode>303</HttpRedirectCode></OriginParameter>", false),
            ("Mirror", "<OriginParameter><HttpRedirectCode>302</HttpRedirectCode></OriginParameter>", true),
            ("Mirror", "<OriginParameter><Protocol>FTP</Protocol></OriginParameter>", false),
            ("Copy", "", false),
        ];
        for (mode, rest, good) in rows {
            assert_eq!(read(&document(mode, rest)).is_ok(), good, "{mode} {rest}");
        }
        assert!(read("<OriginConfiguration></OriginConfiguration>").is_err());
        assert!(read("<OriginConfiguration><OriginRule/></OriginConfiguration>").is_err(), "no host");
    }

    #[test]
    fn urls_and_headers() {
        let read_one = |rest: &str| read(&document("Redirect", rest)).expect("readable").remove(0);
        let rule = read_one("");
        assert_eq!(rule.url("h:1", "a b/c", "x=1", false), "http://h:1/a%20b/c?x=1", "the query goes along by default");
        assert_eq!(rule.url("h", "k", "", true), "https://h/k");
        let rule = read_one(
            "<OriginParameter><Protocol>HTTP</Protocol><FollowQueryString>false</FollowQueryString></OriginParameter>",
        );
        assert_eq!(rule.url("h", "k", "x=1", true), "http://h/k");
        let request = [("authorization", "q"), ("x-own", "1"), ("accept", "*/*")].map(|(n, v)| (n.into(), v.into()));
        assert!(rule.headers(&request).is_empty(), "none by default");
        let rule = read_one(
            "<OriginParameter><HttpHeader><FollowAllHeaders>true</FollowAllHeaders><NewHttpHeaders><Header><Key>k</Key>\
             <Value>v</Value></Header></NewHttpHeaders><ForbidFollowHeaders><Header><Key>X-Own</Key></Header>\
             </ForbidFollowHeaders></HttpHeader></OriginParameter>",
        );
        let names: Vec<String> = rule.headers(&request).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["accept", "k"]);
        assert!(rule.fits("any", 404) && !rule.fits("any", 403));
    }
}
