use super::page::Query;
use super::*;

fn content(text: &str) -> Content {
    Content { blob: Blob::memory(vec![text.to_owned().into()]), etag: text.into(), crc64: 0, headers: BTreeMap::new() }
}

const T: u64 = 1_700_000_000_000_000;

/// One letter a version from oldest to current, `-` for a marker, upper case for the version called `null`.
fn picture(shelf: &Shelf, key: &str) -> String {
    let letter = |v: &Arc<Version>| {
        let text = v.content.as_ref().map_or("-", |c| c.etag.as_str());
        if v.id.is_none() { text.replace('-', "=").to_uppercase() } else { text.to_owned() }
    };
    shelf.keys.get(key).map_or_else(String::new, |versions| versions.iter().map(letter).collect())
}

#[test]
fn versioning_table() {
    use Versioning::{Enabled, Never, Suspended};
    // Steps: a letter is a PUT of it, `-` a DELETE, `e` and `s` switch versioning on and off.
    let rows: &[(&str, Versioning, &str, &str)] = &[
        ("never: overwrite", Never, "ab", "B"),
        ("never: delete removes", Never, "a-", ""),
        ("enabled: every write is a version", Enabled, "ab", "ab"),
        ("enabled: delete is a marker", Enabled, "a-", "a-"),
        ("enabled: delete of an unknown key is a marker", Enabled, "-", "-"),
        ("enabled: delete twice is two markers", Enabled, "a--", "a--"),
        ("object from before is null", Never, "aEb", "Ab"),
        ("suspended: writes replace null", Enabled, "aSbc", "aC"),
        ("suspended: delete replaces null by a null marker", Enabled, "aSb-", "a="),
        ("suspended, then enabled again", Suspended, "aEbSc", "bC"),
    ];
    for (what, start, steps, expect) in rows {
        let mut shelf = Shelf::default();
        shelf.set_versioning(*start);
        for (n, step) in steps.chars().enumerate() {
            let now = T + n as u64;
            match step {
                'E' => shelf.set_versioning(Enabled),
                'S' => shelf.set_versioning(Suspended),
                '-' => drop(shelf.delete("k", now)),
                letter => drop(shelf.put("k", now, content(&letter.to_string()))),
            }
        }
        assert_eq!(picture(&shelf, "k"), *expect, "{what}");
    }
}

#[test]
fn reads_and_deletes_by_version() {
    let mut shelf = Shelf::default();
    assert_eq!(shelf.delete_version("k", "null").expect_err("never versioned").code, "BucketVersionNotOpen");
    shelf.set_versioning(Versioning::Enabled);
    let (a, _) = shelf.put("k", T, content("a"));
    let (b, _) = shelf.put("k", T + 1, content("b"));
    let marker = shelf.delete("k", T + 2).marker.expect("a marker");
    let gone = shelf.get("k", None).expect_err("the marker hides the key");
    assert_eq!((gone.status, gone.code), (404, "NoSuchKey"));
    assert!(gone.headers.contains(&("x-cos-delete-marker", "true".into())));
    assert_eq!(shelf.get("k", Some(&marker.id_text())).expect_err("a marker has no content").status, 404);
    assert_eq!(shelf.get("k", Some(&a.id_text())).expect("old version").1.etag, "a");
    let unknown = VersionId::from_micros(T + 77).0;
    assert_eq!(shelf.get("k", Some(&unknown)).expect_err("unknown id").code, "NoSuchVersion");
    assert!(shelf.delete_version("k", &unknown).expect("no error").removed.is_none());
    assert!(shelf.delete_version("k", &marker.id_text()).expect("undelete").removed.is_some());
    assert_eq!(shelf.get("k", None).expect("back again").0.id, b.id);
    shelf.delete_version("k", &a.id_text()).expect("delete a");
    shelf.delete_version("k", &b.id_text()).expect("delete b");
    assert_eq!(shelf.get("k", None).expect_err("empty").code, "NoSuchKey");
    assert_eq!(shelf.keys().count(), 0);
}

#[test]
fn current_version_among_replicas() {
    for (order, expect_key, expect_after) in [(Current::NewestVersion, "ab", "ab"), (Current::LastArrival, "ba", "ba")]
    {
        let mut shelf = Shelf::default();
        shelf.set_versioning(Versioning::Enabled);
        shelf.set_order(order);
        let older =
            Version { id: Some(T), micros: T, arrival: 9, replica: false, content: Some(Arc::new(content("a"))) };
        shelf.put("k", T + 5, content("b"));
        let replica = shelf.adopt("k", &older).expect("new here");
        assert!(replica.replica && replica.id == older.id && replica.micros == older.micros);
        assert!(shelf.adopt("k", &older).is_none(), "the same version arrives once");
        assert_eq!(picture(&shelf, "k"), expect_key);
        let other = if order == Current::NewestVersion { Current::LastArrival } else { Current::NewestVersion };
        shelf.set_order(other);
        shelf.set_order(order);
        assert_eq!(picture(&shelf, "k"), expect_after, "the switch can be turned to and fro");
    }
}

fn shelf_of(keys: &[&str]) -> Shelf {
    let mut shelf = Shelf::default();
    shelf.set_versioning(Versioning::Enabled);
    for (n, key) in keys.iter().enumerate() {
        shelf.put(key, T + n as u64, content("x"));
    }
    shelf
}

#[test]
fn listing_pages_with_groups() {
    let mut shelf = shelf_of(&["a", "d/1", "d/2", "d/e/3", "d0", "z/", "z/1", "é/1", "\u{10ffff}/"]);
    shelf.delete("a", T + 100);
    shelf.put("gone/1", T + 101, content("x"));
    shelf.delete("gone/1", T + 102);
    let rows: &[(&str, &str, &str, usize, &str)] = &[
        ("everything; markers are not shown", "", "", 1000, "d/1 d/2 d/e/3 d0 z/ z/1 é/1 \u{10ffff}/"),
        ("prefix", "d/", "", 1000, "d/1 d/2 d/e/3"),
        ("pages of two", "", "", 2, "d/1 d/2 | d/e/3 d0 | z/ z/1 | é/1 \u{10ffff}/"),
        ("groups", "", "/", 1000, "d0 [d/] [z/] [é/] [\u{10ffff}/]"),
        ("groups, one a page", "", "/", 1, "[d/] | d0 | [z/] | [é/] | [\u{10ffff}/]"),
        ("groups below a prefix", "d/", "/", 1, "d/1 | d/2 | [d/e/]"),
        ("the prefix itself is a key", "z/", "/", 1000, "z/ z/1"),
        ("nothing", "nope", "/", 1000, ""),
        ("no keys asked for", "", "", 0, ""),
    ];
    for (what, prefix, delimiter, max_keys, expect) in rows {
        let mut pages = Vec::new();
        let mut query = Query {
            prefix: (*prefix).into(),
            delimiter: delimiter.chars().next(),
            max_keys: *max_keys,
            ..Query::default()
        };
        loop {
            let page = shelf.list(&query);
            let names = page.entries.iter().map(|e| e.0.clone());
            let groups = page.groups.iter().map(|g| format!("[{g}]"));
            pages.push(names.chain(groups).collect::<Vec<_>>().join(" "));
            assert!(pages.len() < 20, "{what}: the listing does not end");
            if !page.truncated {
                break;
            }
            query.marker = page.next;
        }
        assert_eq!(pages.join(" | "), *expect, "{what}");
    }
}

#[test]
fn version_pages_go_on_inside_a_key() {
    let mut shelf = shelf_of(&["a", "b", "b", "b", "c"]);
    shelf.delete("b", T + 50);
    for max_keys in 1..7 {
        let mut query = Query { max_keys, ..Query::default() };
        let mut seen = Vec::new();
        loop {
            let page = shelf.list_versions(&query);
            seen.extend(page.entries.iter().map(|(key, version, latest)| {
                format!("{key}{}{}", version.micros - T, if *latest { "*" } else { "" })
            }));
            assert!(seen.len() < 20, "the listing does not end");
            if !page.truncated {
                break;
            }
            (query.marker, query.version_marker) = (page.next, page.next_version);
        }
        assert_eq!(seen, ["a0*", "b50*", "b3", "b2", "b1", "c4*"], "pages of {max_keys}");
    }
    let after_key = Query { marker: "b".into(), max_keys: 10, ..Query::default() };
    assert_eq!(shelf.list_versions(&after_key).entries.len(), 1, "a key marker alone goes on after the key");
}
