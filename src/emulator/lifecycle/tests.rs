use std::collections::BTreeMap;

use super::*;
use crate::cos::xml::from_xml;
use crate::emulator::site::{Content, Versioning};

const T: u64 = 1_700_000_000_000_000;

fn rules(text: &str) -> Lifecycle {
    let text = format!(
        "<LifecycleConfiguration><Rule><ID>r</ID><Status>Enabled</Status>{text}</Rule></LifecycleConfiguration>"
    );
    from_xml(text.as_bytes()).expect("rules")
}

fn content(headers: &[(&str, &str)]) -> Content {
    let headers = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect::<BTreeMap<_, _>>();
    Content { blob: Default::default(), etag: "e".into(), crc64: 0, headers }
}

/// `k` with versions of day 0 and 2, `gone` with a marker alone, `other/x` of day 0.
fn shelf() -> Shelf {
    let mut shelf = Shelf::default();
    shelf.set_versioning(Versioning::Enabled);
    shelf.put("k", T, content(&[]));
    shelf.put("k", T + 2 * DAY_MICROS, content(&[(TAGS, "a=1")]));
    shelf.delete("gone", T);
    shelf.put("other/x", T, content(&[]));
    shelf
}

fn remove(key: &str, micros: u64) -> Step {
    Step::Remove { key: key.into(), id: Some(micros) }
}

fn expire(key: &str) -> Step {
    Step::Expire { key: key.into() }
}

#[test]
fn plan_table() {
    let noncurrent = "<NoncurrentVersionExpiration><NoncurrentDays>7</NoncurrentDays></NoncurrentVersionExpiration>";
    let expiration = "<Expiration><Days>3</Days></Expiration>";
    let under = |prefix: &str, text: &str| format!("<Filter><Prefix>{prefix}</Prefix></Filter>{text}");
    let tagged = |value: &str| {
        format!(
            "<Filter><And><Prefix>k</Prefix><Tag><Key>a</Key><Value>{value}</Value></Tag></And></Filter>{expiration}"
        )
    };
    let moved = "<Transition><Days>1</Days><StorageClass>ARCHIVE</StorageClass></Transition>";
    let archive = Step::Transition { key: "other/x".into(), id: Some(T), class: "ARCHIVE".into() };
    // What, rules, days since the first write, steps.
    let rows: &[(&str, String, u64, Vec<Step>)] = &[
        ("the days count from the successor", noncurrent.into(), 8, vec![]),
        ("then the old version goes, the current stays", noncurrent.into(), 9, vec![remove("k", T)]),
        ("the prefix counts", under("other/", noncurrent), 9, vec![]),
        ("current versions expire by their own age", expiration.into(), 3, vec![expire("other/x")]),
        ("all of them in time", expiration.into(), 5, vec![expire("k"), expire("other/x")]),
        ("a tag that is there", tagged("1"), 5, vec![expire("k")]),
        ("a tag that is not", tagged("2"), 5, vec![]),
        (
            "a marker alone",
            "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>".into(),
            0,
            vec![remove("gone", T)],
        ),
        ("another class", under("other/", moved), 1, vec![archive]),
    ];
    for (what, text, days, expect) in rows {
        assert_eq!(plan(&rules(text), &shelf(), T + days * DAY_MICROS), *expect, "{what}");
    }
}

#[test]
fn uploads_end_by_their_age() {
    let rules = rules(
        "<AbortIncompleteMultipartUpload><DaysAfterInitiation>3</DaysAfterInitiation></AbortIncompleteMultipartUpload>",
    );
    assert!(!rules.aborts("k", T, T + 3 * DAY_MICROS - 1));
    assert!(rules.aborts("k", T, T + 3 * DAY_MICROS));
}

#[test]
fn nonsense_is_refused() {
    assert!(rules("<Expiration><Days>1</Days></Expiration>").check().is_ok());
    assert!(rules("<Expiration><Days>0</Days></Expiration>").check().is_err());
    assert!(rules("<Expiration><Days>3651</Days></Expiration>").check().is_err());
    assert!(Lifecycle { rules: Vec::new() }.check().is_err());
}
