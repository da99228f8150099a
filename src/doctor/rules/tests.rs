//! Each precondition broken by itself: exactly that check complains, with the weight that docs/operations.md documents.

use super::*;
use crate::cos::{Element, Error, Sent};
use std::collections::BTreeMap;

fn tree(what: Resource, inner: &str) -> Result<Option<Element>, Error> {
    let root = what.root();
    let text = format!("<{root}>{inner}</{root}>");
    Ok((!inner.is_empty()).then(|| Element::parse(text.as_bytes(), root).expect("well-formed")))
}

fn good(site: Site) -> Facts {
    let other = if site == Site::A { "qcs::cos:ap-y::s-1" } else { "qcs::cos:ap-x::m-1" };
    let replication = format!(
        "<Rule><Status>Enabled</Status><Prefix></Prefix><Destination><Bucket>{other}</Bucket></Destination></Rule>"
    );
    let lifecycle = "<Rule><ID>r</ID><Status>Enabled</Status><NoncurrentVersionExpiration><NoncurrentDays>30</NoncurrentDays>\
        </NoncurrentVersionExpiration><AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation>\
        </AbortIncompleteMultipartUpload></Rule>";
    let now = SystemTime::now();
    let settings: BTreeMap<_, _> = [
        (Resource::Versioning, tree(Resource::Versioning, "<Status>Enabled</Status>")),
        (Resource::Replication, tree(Resource::Replication, &replication)),
        (Resource::Lifecycle, tree(Resource::Lifecycle, lifecycle)),
        (Resource::Origin, Ok(None)),
        (Resource::Encryption, Ok(None)),
    ]
    .into();
    let (bucket, region) = if site == Site::A { ("m-1", "ap-x") } else { ("s-1", "ap-y") };
    Facts {
        site,
        bucket: bucket.into(),
        region: region.into(),
        door: Ok(Some(now)),
        when: now,
        took: Duration::from_millis(3),
        settings,
    }
}

fn scope() -> Scope {
    Scope { prefix: "team/".into(), config: "--config c.toml".into(), read_only: false }
}

fn complaints(facts: &[Facts; 2], scope: &Scope) -> Vec<(&'static str, Severity)> {
    let findings = judge(facts, scope);
    for finding in findings.iter().filter(|f| f.severity != Severity::Ok) {
        assert!(
            !finding.state.is_empty() && !finding.consequence.is_empty() && !finding.cure.is_empty(),
            "{finding:?}"
        );
    }
    let bad = findings.iter().filter(|f| f.severity != Severity::Ok);
    bad.map(|finding| (finding.check.name(), finding.severity)).collect()
}

#[test]
fn a_good_pair_has_no_complaints_and_every_check_is_made() {
    let findings = judge(&[good(Site::A), good(Site::B)], &scope());
    assert_eq!(super::super::worst(&findings), Severity::Ok, "{findings:?}");
    assert_eq!(findings.len(), 9 + 9 + 1, "{findings:?}");
}

#[test]
fn each_precondition_broken_by_itself() {
    type Row = (&'static str, fn(&mut Facts), &'static [(&'static str, Severity)]);
    let rows: &[Row] = &[
        ("never versioned", |f| put(f, Resource::Versioning, ""), &[("versioning", Severity::Error)]),
        (
            "versioning suspended",
            |f| put(f, Resource::Versioning, "<Status>Suspended</Status>"),
            &[("versioning", Severity::Error)],
        ),
        ("no rule", |f| put(f, Resource::Replication, ""), &[("replication", Severity::Error)]),
        ("rule off", |f| swap(f, Resource::Replication, "Enabled", "Disabled"), &[("replication", Severity::Error)]),
        ("rule to elsewhere", |f| swap(f, Resource::Replication, "-1<", "-2<"), &[("replication", Severity::Error)]),
        (
            "rule too narrow",
            |f| swap(f, Resource::Replication, "<Prefix/>", "<Prefix>team/x/</Prefix>"),
            &[("replication", Severity::Error)],
        ),
        (
            "markers left out",
            |f| {
                let off = "</Destination><DeleteMarkerReplication><Status>Disabled</Status></DeleteMarkerReplication>";
                swap(f, Resource::Replication, "</Destination>", off);
            },
            &[("delete_markers", Severity::Error)],
        ),
        ("no lifecycle", |f| put(f, Resource::Lifecycle, ""), &[("lifecycle", Severity::Warning)]),
        ("lifecycle off", |f| swap(f, Resource::Lifecycle, "Enabled", "Disabled"), &[("lifecycle", Severity::Warning)]),
        (
            "versions gone tomorrow",
            |f| swap(f, Resource::Lifecycle, ">30<", ">1<"),
            &[("lifecycle", Severity::Warning)],
        ),
        (
            "uploads kept",
            |f| swap(f, Resource::Lifecycle, "AbortIncompleteMultipartUpload", "SomethingElse"),
            &[("lifecycle", Severity::Warning)],
        ),
        (
            "files expire",
            |f| swap(f, Resource::Lifecycle, "</Rule>", "<Expiration><Days>9</Days></Expiration></Rule>"),
            &[("expiration", Severity::Warning)],
        ),
        (
            "mirror mode",
            |f| put(f, Resource::Origin, "<OriginRule><OriginType>Mirror</OriginType></OriginRule>"),
            &[("origin_pull", Severity::Fatal)],
        ),
        (
            "redirect mode",
            |f| put(f, Resource::Origin, "<OriginRule><OriginType>Redirect</OriginType></OriginRule>"),
            &[],
        ),
        ("clock 10 s off", |f| f.when += Duration::from_secs(10), &[("clock", Severity::Warning)]),
        ("clock an hour off", |f| f.when -= Duration::from_secs(3600), &[("clock", Severity::Error)]),
        (
            "encrypted",
            |f| {
                let rule = "<Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm>\
                    </ApplyServerSideEncryptionByDefault></Rule>";
                put(f, Resource::Encryption, rule);
            },
            &[("encryption", Severity::Warning)],
        ),
        ("silent", |f| f.door = failed(Kind::FirstByteTimeout), &[("access", Severity::Error)]),
        ("wrong key", |f| f.door = failed(Kind::Auth), &[("access", Severity::Fatal)]),
        ("no bucket", |f| f.door = failed(Kind::NoSuchBucket), &[("access", Severity::Fatal)]),
        ("clock refused", |f| f.door = failed(Kind::ClockSkew), &[("access", Severity::Fatal)]),
        (
            "settings not to be read",
            |f| {
                let error = Error::made(Kind::Auth, Sent::Fully, "AccessDenied");
                f.settings.insert(Resource::Replication, Err(error));
            },
            &[("replication", Severity::Unknown)],
        ),
    ];
    for (name, break_it, expect) in rows {
        for site in Site::ALL {
            let mut facts = [good(Site::A), good(Site::B)];
            break_it(&mut facts[site.index()]);
            assert_eq!(complaints(&facts, &scope()), *expect, "{name} at {site}");
        }
    }
}

fn put(facts: &mut Facts, what: Resource, inner: &str) {
    facts.settings.insert(what, tree(what, inner));
}

/// Changes a setting as text.
fn swap(facts: &mut Facts, what: Resource, from: &str, to: &str) {
    let found = facts.settings[&what].as_ref().expect("readable").as_ref().expect("there");
    let before = found.document();
    let after = before.replace(from, to);
    assert_ne!(before, after, "{from} is not in {before}");
    facts.settings.insert(what, Ok(Some(Element::parse(after.as_bytes(), what.root()).expect("well-formed"))));
}

fn failed(kind: Kind) -> Result<Option<SystemTime>, Error> {
    Err(Error::made(kind, Sent::Fully, "so it is"))
}

#[test]
fn one_region_is_a_warning_and_a_read_only_mount_is_not_refused() {
    let mut facts = [good(Site::A), good(Site::B)];
    facts[1].region = "ap-x".into();
    assert_eq!(complaints(&facts, &scope()), [("regions", Severity::Warning)]);
    let mut facts = [good(Site::A), good(Site::B)];
    put(&mut facts[1], Resource::Origin, "<OriginRule><OriginType>Proxy</OriginType></OriginRule>");
    assert!(refusal(&judge(&facts, &scope())).is_some());
    let read_only = Scope { read_only: true, ..scope() };
    assert_eq!(complaints(&facts, &read_only), [("origin_pull", Severity::Error)]);
    assert!(refusal(&judge(&facts, &read_only)).is_none());
}
