//! What docs/cos-protocol.md says, rule by rule, as the emulator shows it to a plain HTTP client.
//!
//! One row a rule. A row has the words of the page, and the page is read here: a rule without a row, a row without a rule, words that
//! differ, or a rule of our own making that the row calls documented, fail. Rows are grouped as the page is.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use base64::Engine;
use cosfs_ha::emulator::{Emulator, Options};
use cosfs_ha::object::Site;
use md5::{Digest, Md5};

use crate::client::{Answer, Ask, ask};

mod access;
mod bucket;
mod cdn;
mod listing;
mod objects;
mod replication;
mod uploads;

const PAGE: &str = include_str!("../../docs/cos-protocol.md");
const A: Site = Site::A;
const B: Site = Site::B;

/// Where a rule comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Basis {
    /// A page, an SDK, or something observed.
    Sourced,
    /// Nobody has said so: our own decision, not confirmed.
    Ours,
    /// Not known, so the emulator can do both: the name of the switch.
    Switch(&'static str),
}

struct Row {
    id: &'static str,
    words: &'static str,
    basis: Basis,
    check: fn(&Bench),
}

const fn row(id: &'static str, words: &'static str, check: fn(&Bench)) -> Row {
    Row { id, words, basis: Basis::Sourced, check }
}

const fn ours(id: &'static str, words: &'static str, check: fn(&Bench)) -> Row {
    Row { id, words, basis: Basis::Ours, check }
}

const fn switch(id: &'static str, words: &'static str, name: &'static str, check: fn(&Bench)) -> Row {
    Row { id, words, basis: Basis::Switch(name), check }
}

/// A fresh pair of regions for one row.
struct Bench {
    emulator: Emulator,
}

impl Bench {
    fn new() -> Bench {
        Bench { emulator: crate::client::start() }
    }

    /// Buckets without versioning and rules.
    fn bare() -> Bench {
        let options = Options { unconfigured: true, ..Options::default() };
        Bench { emulator: Emulator::start(options).expect("the emulator starts on free ports") }
    }

    fn send(&self, ask: Ask<'_>) -> Answer {
        ask.send(&self.emulator, A)
    }

    fn on(&self, site: Site, method: &str, target: &str) -> Answer {
        ask(site, method, target).send(&self.emulator, site)
    }

    fn a(&self, method: &str, target: &str) -> Answer {
        self.on(A, method, target)
    }

    fn put(&self, key: &str, body: &str) -> Answer {
        crate::client::put(&self.emulator, A, key, body.as_bytes())
    }

    fn text(&self, target: &str) -> String {
        self.a("GET", target).text()
    }

    /// A document with its checksum.
    fn xml(&self, method: &str, target: &str, xml: &str) -> Answer {
        self.send(document(method, target, xml))
    }

    fn versioning(&self, status: &str) {
        let xml = format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
        assert_eq!(self.xml("PUT", "/?versioning", &xml).status, 200);
    }
}

fn document<'a>(method: &'a str, target: &str, xml: &str) -> Ask<'a> {
    ask(A, method, target).header("Content-MD5", md5(xml.as_bytes())).body(xml)
}

fn md5(body: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(Md5::digest(body))
}

/// Status and code of a refusal.
fn refused(answer: &Answer) -> (u16, String) {
    (answer.status, answer.element("Code").unwrap_or_default())
}

#[track_caller]
fn refuses(answer: &Answer, status: u16, code: &str) {
    assert_eq!(refused(answer), (status, code.to_owned()), "{}", answer.text());
}

#[track_caller]
fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", answer.headers))
}

fn all() -> Vec<&'static Row> {
    let groups =
        [access::ROWS, objects::ROWS, uploads::ROWS, listing::ROWS, bucket::ROWS, replication::ROWS, cdn::ROWS];
    groups.into_iter().flatten().collect()
}

/// Every `- **id** text` of the page, without line breaks.
fn page() -> BTreeMap<String, String> {
    let mut rules = BTreeMap::new();
    let mut open: Option<(String, String)> = None;
    for line in PAGE.lines().chain([""]) {
        let begins = line.strip_prefix("- **").and_then(|rest| rest.split_once("** "));
        let ends = begins.is_some() || !line.starts_with("  ");
        if let Some((id, text)) = open.take_if(|_| ends) {
            assert!(rules.insert(id.clone(), text).is_none(), "{id} is there twice");
        }
        match (begins, &mut open) {
            (Some((id, text)), _) => open = Some((id.to_owned(), text.to_owned())),
            (None, Some((_, text))) => *text += &format!(" {}", line.trim()),
            (None, None) => {}
        }
    }
    rules
}

#[test]
fn page_and_table_say_the_same() {
    let rules = page();
    let rows: BTreeMap<&str, &Row> = all().into_iter().map(|row| (row.id, row)).collect();
    assert_eq!(rows.len(), all().len(), "an id is there twice");
    let rows_only: Vec<_> = rows.keys().filter(|id| !rules.contains_key(**id)).collect();
    let page_only: Vec<_> = rules.keys().filter(|id| !rows.contains_key(id.as_str())).collect();
    assert!(rows_only.is_empty() && page_only.is_empty(), "rows without rule {rows_only:?}, without row {page_only:?}");
    for (id, row) in rows {
        let rule = &rules[id];
        assert!(rule.starts_with(row.words), "{id}\n  page {rule}\n  row  {}", row.words);
        let basis = match rule.split_once("switch `").and_then(|(_, rest)| rest.split_once('`')) {
            Some((name, _)) => format!("switch {name}"),
            None if rule.ends_with("*emulator*") => "ours".into(),
            None => "sourced".into(),
        };
        let claimed = match row.basis {
            Basis::Sourced => "sourced".to_owned(),
            Basis::Ours => "ours".into(),
            Basis::Switch(name) => format!("switch {name}"),
        };
        assert_eq!(claimed, basis, "{id}: {rule}");
    }
}

#[test]
fn every_rule_holds_on_the_wire() {
    let broken: Vec<String> = all()
        .into_iter()
        .filter_map(|row| {
            let checked = catch_unwind(AssertUnwindSafe(|| (row.check)(&Bench::new())));
            checked.err().map(|_| format!("{}: {}", row.id, row.words))
        })
        .collect();
    assert!(broken.is_empty(), "{} of {} rules do not hold:\n{}", broken.len(), all().len(), broken.join("\n"));
}
