//! Replication between the two buckets.

use super::{A, B, Bench, Row, ask, header, refuses, row, switch};

fn settle(b: &Bench) {
    assert!(b.emulator.wait_replicated(std::time::Duration::from_secs(10)), "replication ends");
}

fn lag(b: &Bench, change: &str) {
    b.emulator.change_replication(serde_json::from_str(change).expect("a change"));
}

fn rules(target: &str, prefix: &str, status: &str) -> String {
    format!(
        "<ReplicationConfiguration><Role>qcs::cam::uin/1250000000:uin/1250000000</Role><Rule><ID>r</ID>\
         <Status>{status}</Status><Prefix>{prefix}</Prefix><Destination>\
         <Bucket>qcs::cos:ap-shanghai::{target}</Bucket></Destination></Rule></ReplicationConfiguration>"
    )
}

pub const ROWS: &[Row] = &[
    row("rep-async", "Asynchronous: \"seconds or minutes\" on one page, up to hours on another; no guarantee.", |b| {
        lag(b, r#"{"a_to_b":{"stalled":true}}"#);
        b.put("k", "x");
        assert_eq!(b.on(B, "GET", "/k").status, 404);
        lag(b, r#"{"a_to_b":{"stalled":false}}"#);
        settle(b);
        assert_eq!(b.on(B, "GET", "/k").text(), "x");
    }),
    row(
        "rep-needs",
        "Needs versioning in both buckets and one owner: `409 InvalidBucketState`; an unknown target: `400 TargetBucketNameInvalid`.",
        |b| {
            let bare = Bench::bare();
            refuses(
                &bare.xml("PUT", "/?replication", &rules("slave-1250000000", "", "Enabled")),
                409,
                "InvalidBucketState",
            );
            refuses(
                &b.xml("PUT", "/?replication", &rules("nobody-1250000000", "", "Enabled")),
                400,
                "TargetBucketNameInvalid",
            );
        },
    ),
    row("rep-identity", "A replica has data, metadata, ETag, time and version id of its source.", |b| {
        b.send(ask(A, "PUT", "/k").header("x-cos-meta-a", "1").header("x-cos-storage-class", "STANDARD_IA").body("x"));
        settle(b);
        let (here, there) = (b.a("HEAD", "/k"), b.on(B, "HEAD", "/k"));
        for name in
            ["etag", "last-modified", "x-cos-version-id", "x-cos-meta-a", "x-cos-hash-crc64ecma", "x-cos-storage-class"]
        {
            assert_eq!(header(&here, name), header(&there, name));
        }
    }),
    row("rep-class", "A rule can set the storage class of replicas.", |b| {
        let xml = rules("slave-1250000000", "", "Enabled")
            .replace("</Destination>", "<StorageClass>STANDARD_IA</StorageClass></Destination>");
        assert_eq!(b.xml("PUT", "/?replication", &xml).status, 200);
        b.put("k", "x");
        settle(b);
        assert_eq!(header(&b.on(B, "HEAD", "/k"), "x-cos-storage-class"), "STANDARD_IA");
        assert_eq!(b.a("HEAD", "/k").header("x-cos-storage-class"), None);
    }),
    row("rep-status", "A replica says `x-cos-replication-status: Replica`.", |b| {
        b.put("k", "x");
        settle(b);
        assert_eq!(header(&b.on(B, "HEAD", "/k"), "x-cos-replication-status"), "Replica");
    }),
    row(
        "rep-new-only",
        "Only objects uploaded after the rule exists; what was written while a rule was disabled is never caught up.",
        |b| {
            b.xml("PUT", "/?replication", &rules("slave-1250000000", "", "Disabled"));
            b.put("gap", "x");
            b.xml("PUT", "/?replication", &rules("slave-1250000000", "", "Enabled"));
            b.put("after", "x");
            settle(b);
            assert_eq!((b.on(B, "GET", "/gap").status, b.on(B, "GET", "/after").status), (404, 200));
        },
    ),
    row("rep-prefix", "A rule covers a prefix; prefixes must not overlap, and all rules have one target.", |b| {
        b.xml("PUT", "/?replication", &rules("slave-1250000000", "in/", "Enabled"));
        b.put("in/k", "x");
        b.put("out/k", "x");
        settle(b);
        assert_eq!((b.on(B, "GET", "/in/k").status, b.on(B, "GET", "/out/k").status), (200, 404));
        let one = rules("slave-1250000000", "in/", "Enabled");
        let rule = &one[one.find("<Rule>").expect("a rule")..one.find("</ReplicationConfiguration>").expect("an end")];
        let with =
            |other: String| one.replace("</ReplicationConfiguration>", &format!("{other}</ReplicationConfiguration>"));
        assert_eq!(b.xml("PUT", "/?replication", &with(rule.replace("in/", "in/deep/"))).status, 400);
        let elsewhere = rule.replace("in/", "x/").replace("slave", "other");
        refuses(&b.xml("PUT", "/?replication", &with(elsewhere)), 400, "MultiBucketNotSupport");
    }),
    row("rep-once", "Replicas are not replicated again, so rules in both directions do not loop.", |b| {
        let id = header(&b.put("k", "x"), "x-cos-version-id").to_owned();
        settle(b);
        assert_eq!(b.a("GET", "/?versions").elements("VersionId"), std::slice::from_ref(&id));
        assert_eq!(b.on(B, "GET", "/?versions").elements("VersionId"), [id]);
    }),
    row(
        "rep-markers",
        "Delete markers only if the rule says so; deletes by version id never; lifecycle actions never.",
        |b| {
            let id = header(&b.put("k", "x"), "x-cos-version-id").to_owned();
            b.put("l", "x");
            settle(b);
            b.a("DELETE", &format!("/k?versionId={id}"));
            b.a("DELETE", "/l");
            settle(b);
            assert_eq!((b.on(B, "GET", "/k").status, b.on(B, "GET", "/l").status), (200, 404));
            let off = rules("slave-1250000000", "", "Enabled").replace(
                "</Rule>",
                "<DeleteMarkerReplication><Status>Disabled</Status></DeleteMarkerReplication></Rule>",
            );
            b.xml("PUT", "/?replication", &off);
            b.put("m", "x");
            b.a("DELETE", "/m");
            settle(b);
            assert_eq!(b.on(B, "GET", "/m").status, 200);
        },
    ),
    row(
        "rep-overwrite",
        "An overwrite and a change of metadata by a copy onto itself are new versions, and replicated.",
        |b| {
            b.put("k", "1");
            b.put("k", "2");
            let copy = ask(A, "PUT", "/k")
                .header("x-cos-copy-source", "/master-1250000000/k")
                .header("x-cos-metadata-directive", "Replaced");
            b.send(copy.header("x-cos-meta-a", "1"));
            settle(b);
            assert_eq!(b.on(B, "GET", "/?versions").elements("VersionId").len(), 3);
            assert_eq!(header(&b.on(B, "HEAD", "/k"), "x-cos-meta-a"), "1");
        },
    ),
    row(
        "rep-suspend",
        "Versioning cannot be suspended on a source that has rules; on a target it makes the rules invalid.",
        |b| {
            let xml = "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>";
            refuses(&b.xml("PUT", "/?versioning", xml), 409, "InvalidBucketState");
            assert_eq!(b.on(B, "DELETE", "/?replication").status, 204);
            let suspend = ask(B, "PUT", "/?versioning").body(xml);
            assert_eq!(suspend.send(&b.emulator, B).status, 200);
            b.put("k", "x");
            settle(b);
            assert_eq!(b.on(B, "GET", "/k").status, 404);
        },
    ),
    row(
        "rep-answer",
        "GET of the rules says when they were made; DELETE answers 204, then `404 ReplicationConfigurationNotFoundError`.",
        |b| {
            assert!(header(&b.a("GET", "/?replication"), "x-cos-replication-rule-creation-time").ends_with("GMT"));
            assert_eq!(b.a("DELETE", "/?replication").status, 204);
            refuses(&b.a("GET", "/?replication"), 404, "ReplicationConfigurationNotFoundError");
        },
    ),
    switch(
        "rep-current",
        "Which version is current after an older one arrives by replication is not said.",
        "current",
        |_| {
            for (model, expect) in [("newest_version", "new"), ("last_arrival", "old")] {
                let b = Bench::new();
                lag(&b, &format!(r#"{{"a_to_b":{{"stalled":true}},"b_to_a":{{"stalled":true}},"current":"{model}"}}"#));
                b.put("k", "old");
                crate::client::put(&b.emulator, B, "k", b"new");
                lag(&b, r#"{"a_to_b":{"stalled":false}}"#);
                crate::client::eventually("the replica", || {
                    b.on(B, "GET", "/?versions").elements("VersionId").len() == 2
                });
                assert_eq!(b.on(B, "GET", "/k").text(), expect, "{model}");
            }
        },
    ),
    switch("rep-order", "Whether two versions of a key arrive in order is not said.", "reorder", |b| {
        lag(b, r#"{"a_to_b":{"reorder":true,"lag_ms":1}}"#);
        for n in 0..8 {
            b.put("k", &n.to_string());
        }
        settle(b);
        assert_eq!(b.on(B, "GET", "/?versions").elements("VersionId"), b.a("GET", "/?versions").elements("VersionId"));
    }),
];
