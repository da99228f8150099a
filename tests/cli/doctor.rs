//! Preconditions of the mount: made by `provision`, judged by `doctor`, and what `mount` says when one is missing.

use std::time::{Duration, Instant};

use cosfs_ha::cos::{Attempt, Element, Progress, Resource};
use cosfs_ha::object::Site;
use serde_json::{Value, json};

use super::common::{Emulator, Run, cosfs, detach, wait_until, write_private};

/// An emulator and a configuration for it.
struct Pair {
    emulator: Emulator,
    config: String,
    point: String,
}

impl Pair {
    fn start(args: &[&str]) -> Pair {
        let emulator = Emulator::start_with(args);
        let dir = emulator.dir.path().canonicalize().unwrap();
        // Small enough for any disk that tests run on.
        let config = emulator.config(&dir, "size = \"64MiB\"\n").display().to_string();
        let text = std::fs::read_to_string(&config).unwrap();
        write_private(config.as_ref(), &text.replace("[cache]", "size = \"64MiB\"\n[cache]"));
        std::fs::create_dir(dir.join("m")).unwrap();
        Pair { emulator, config, point: dir.join("m").display().to_string() }
    }

    fn run(&self, args: &[&str]) -> Run {
        cosfs(&[args, &["--config", &self.config]].concat())
    }

    fn doctor(&self, args: &[&str]) -> (Option<i32>, Value) {
        let run = self.run(&[&["doctor", "--json"], args].concat());
        let report = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}{}", run.stdout, run.stderr));
        (run.code, report)
    }

    /// Replaces or removes a configuration, as somebody in the console would.
    fn set(&self, site: Site, what: Resource, to: Option<Element>) {
        let bucket = self.emulator.bucket(site);
        let progress = Progress::new();
        let at = Attempt::new(&progress);
        let done = bucket.runtime.block_on(async {
            match &to {
                Some(tree) => bucket.client.set_configuration(what, tree, &at).await,
                None => bucket.client.remove_configuration(what, &at).await,
            }
        });
        done.unwrap();
    }

    fn change(&self, site: Site, what: Resource, from: &str, to: &str) {
        let bucket = self.emulator.bucket(site);
        let progress = Progress::new();
        let now = bucket.runtime.block_on(bucket.client.configuration(what, &Attempt::new(&progress)));
        let before = now.unwrap().expect("there is one").document();
        let after = before.replace(from, to);
        assert_ne!(before, after, "{from}");
        self.set(site, what, Some(Element::parse(after.as_bytes(), what.root()).unwrap()));
    }

    /// `mount`, and at once `umount`.
    fn mount(&self) -> Run {
        let run = cosfs(&["mount", &self.point, "--config", &self.config]);
        if run.code == Some(0) {
            assert_eq!(cosfs(&["umount", &self.point, "--timeout", "10"]).code, Some(0));
        }
        detach(self.point.as_ref());
        run
    }
}

/// `check/site` of everything that is not fine.
fn complaints(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap();
    let bad = findings.iter().filter(|finding| finding["severity"] != "ok");
    bad.map(|f| format!("{}/{}", f["check"].as_str().unwrap(), f["site"].as_str().unwrap_or("-"))).collect()
}

#[test]
fn two_new_buckets_become_fit_for_the_mount() {
    let pair = Pair::start(&["--unconfigured", "--lag-ms", "50"]);
    let (code, report) = pair.doctor(&[]);
    assert_eq!(code, Some(1), "{report}");
    let expect = ["versioning/a", "versioning/b", "replication/a", "replication/b", "lifecycle/a", "lifecycle/b"];
    assert_eq!(complaints(&report), expect);

    let dry = pair.run(&["provision", "--dry-run"]);
    assert_eq!(dry.code, Some(0), "{}", dry.stderr);
    for words in [
        "+  <Status>Enabled</Status>",
        "+      <Bucket>qcs::cos:ap-shanghai::slave-1250000000</Bucket>",
        "NoncurrentDays",
    ] {
        assert!(dry.stdout.contains(words), "{words} is not in {}", dry.stdout);
    }
    assert_eq!(complaints(&pair.doctor(&["--quick"]).1).len(), 6, "a dry run changes nothing");

    let made = pair.run(&["provision"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let (code, report) = pair.doctor(&[]);
    assert_eq!((code, complaints(&report)), (Some(0), vec![]), "{report}");
    assert_eq!(report["severity"], "ok");
    let again = pair.run(&["provision"]);
    assert!(again.stdout.contains("nothing to do"), "{}", again.stdout);
    let quiet = pair.mount();
    assert_eq!((quiet.code, quiet.stderr.as_str()), (Some(0), ""));
    let state = pair.emulator.state();
    for site in ["a", "b"] {
        assert_eq!(state["sites"][site]["objects"], json!([]), "the doctor leaves nothing behind");
    }
}

#[test]
fn each_precondition_is_named_mended_and_known_to_the_mount() {
    let pair = Pair::start(&["--unconfigured", "--lag-ms", "20"]);
    let made = pair.run(&["provision", "--noncurrent-days", "20"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    // What is broken, how, what the doctor names, and the exit code and words of the mount.
    type Row<'a> = (&'static str, Box<dyn Fn() + 'a>, Vec<&'static str>, (i32, &'static str));
    let (a, b) = (Site::A, Site::B);
    let rule = |kind: &str| {
        let host = Element::new("HostInfo").with(Element::leaf("HostName", "files.example.com"));
        Element::new("OriginConfiguration").with(
            Element::new("OriginRule")
                .with(Element::leaf("OriginType", kind))
                .with(Element::new("OriginCondition").with(Element::leaf("HTTPStatusCode", "404")))
                .with(Element::new("OriginParameter").with(Element::leaf("FollowQueryString", "false")))
                .with(Element::new("OriginInfo").with(host)),
        )
    };
    let suspended = || Element::new("VersioningConfiguration").with(Element::leaf("Status", "Suspended"));
    let rows: Vec<Row<'_>> = vec![
        (
            "versioning suspended",
            Box::new(|| {
                // Not while there are rules.
                pair.set(a, Resource::Replication, None);
                pair.set(a, Resource::Versioning, Some(suspended()));
            }),
            vec!["versioning/a", "replication/a"],
            (0, "has versioning suspended: nothing replicates"),
        ),
        (
            "no replication rule",
            Box::new(|| pair.set(b, Resource::Replication, None)),
            vec!["replication/b"],
            (0, "slave-1250000000 ([b]) has no enabled replication rule to master-1250000000"),
        ),
        (
            "the rule is off",
            Box::new(|| pair.change(a, Resource::Replication, "</ID><Status>Enabled", "</ID><Status>Disabled")),
            vec!["replication/a"],
            (0, "only from this host's journal"),
        ),
        (
            "deletions are left out",
            Box::new(|| {
                let (from, to) =
                    ("<DeleteMarkerReplication><Status>Enabled", "<DeleteMarkerReplication><Status>Disabled");
                pair.change(a, Resource::Replication, from, to);
            }),
            vec!["delete_markers/a"],
            (0, "leaves delete markers out"),
        ),
        (
            "no lifecycle",
            Box::new(|| pair.set(b, Resource::Lifecycle, None)),
            vec!["lifecycle/b"],
            (0, "keeps noncurrent versions for ever"),
        ),
        (
            "unfinished uploads are kept",
            Box::new(|| {
                let (from, to) = ("<DaysAfterInitiation>7</DaysAfterInitiation>", "");
                pair.change(
                    a,
                    Resource::Lifecycle,
                    &format!("<AbortIncompleteMultipartUpload>{from}</AbortIncompleteMultipartUpload>"),
                    to,
                );
            }),
            vec!["lifecycle/a"],
            (0, "keeps unfinished multipart uploads for ever"),
        ),
        (
            "origin-pull that stores what it fetches",
            Box::new(|| pair.set(b, Resource::Origin, Some(rule("Mirror")))),
            vec!["origin_pull/b"],
            (4, "has origin-pull in mirror or proxy mode on the mounted folder"),
        ),
        (
            "origin-pull that stores later",
            Box::new(|| pair.set(a, Resource::Origin, Some(rule("Proxy")))),
            vec!["origin_pull/a"],
            (4, "an old copy becomes the newest one"),
        ),
    ];
    for (name, break_it, expect, mount) in rows {
        break_it();
        let (code, report) = pair.doctor(&["--quick"]);
        assert_eq!(complaints(&report), expect, "{name}: {report}");
        assert!(matches!(code, Some(1 | 8)), "{name}: {code:?}");
        let run = pair.mount();
        let (code, words) = mount;
        if code != 0 {
            assert_eq!(report["severity"], "fatal", "{name}");
        }
        assert_eq!(run.code, Some(code), "{name}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{name}: {words:?} is not in: {}", run.stderr);
        // The command that it prints, as printed; --yes, because here is nobody to ask.
        let findings = report["findings"].as_array().unwrap();
        let bad = findings.iter().find(|finding| finding["severity"] != "ok").unwrap();
        let cure: Vec<&str> = bad["cure"].as_str().unwrap().split(" (").next().unwrap().split(' ').collect();
        assert_eq!(cure[..2], ["cosfs-ha", "provision"], "{name}");
        let mended = cosfs(&[&cure[1..], &["--yes"]].concat());
        assert_eq!(mended.code, Some(0), "{name}: {}{}", mended.stdout, mended.stderr);
        let (code, report) = pair.doctor(&["--quick"]);
        assert_eq!((code, complaints(&report)), (Some(0), vec![]), "{name} is not mended: {report}");
    }
}

#[test]
fn what_only_a_person_can_mend_is_named_with_the_place_to_go() {
    let pair = Pair::start(&["--lag-ms", "20"]);
    type Row<'a> = (&'static str, Box<dyn Fn(bool) + 'a>, &'static str, &'static str);
    let (a, b) = (Site::A, Site::B);
    let swap = |site, what, from: &str, to: &str, broken| match broken {
        true => pair.change(site, what, from, to),
        false => pair.change(site, what, to, from),
    };
    let encryption = || {
        let default = Element::new("ApplyServerSideEncryptionByDefault").with(Element::leaf("SSEAlgorithm", "AES256"));
        Element::new("ServerSideEncryptionConfiguration").with(Element::new("Rule").with(default))
    };
    let rows: Vec<Row<'_>> = vec![
        (
            "versions go too soon",
            Box::new(|broken| {
                swap(
                    a,
                    Resource::Lifecycle,
                    "<NoncurrentDays>30</NoncurrentDays>",
                    "<NoncurrentDays>1</NoncurrentDays>",
                    broken,
                );
            }),
            "lifecycle/a",
            "lengthen NoncurrentDays",
        ),
        (
            "a rule removes files",
            Box::new(|broken| {
                let (from, to) = ("<ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker>", "<Days>9</Days>");
                swap(b, Resource::Lifecycle, from, to, broken);
            }),
            "expiration/b",
            "remove rule",
        ),
        (
            "one bucket encrypts",
            Box::new(|broken| pair.set(a, Resource::Encryption, broken.then(encryption))),
            "encryption/a",
            "the same default encryption on the other bucket",
        ),
        (
            "the key may not write",
            Box::new(|broken| match broken {
                true => {
                    pair.emulator.faults("a", json!([{"kind": "status", "status": 403, "methods": ["PUT", "POST"]}]))
                }
                false => pair.emulator.heal("a"),
            }),
            "rights/a",
            "allow cos:PutObject, cos:InitiateMultipartUpload on master-1250000000 in CAM",
        ),
    ];
    for (name, set, expect, cure) in rows {
        set(true);
        let (code, report) = pair.doctor(&["--wait", "5", "--no-coverage"]);
        assert_eq!(complaints(&report), [expect], "{name}: {report}");
        assert!(matches!(code, Some(1 | 8)), "{name}: {code:?}");
        let findings = report["findings"].as_array().unwrap();
        let bad = findings.iter().find(|finding| finding["severity"] != "ok").unwrap();
        assert!(bad["cure"].as_str().unwrap().contains(cure), "{name}: {bad}");
        set(false);
        let (code, report) = pair.doctor(&["--wait", "5", "--no-coverage"]);
        assert_eq!((code, complaints(&report)), (Some(0), vec![]), "{name} is not mended: {report}");
    }
}

#[test]
fn the_places_beside_the_buckets_are_tried() {
    let pair = Pair::start(&["--lag-ms", "20"]);
    let state = pair.emulator.state();
    let at = |site: &str| state["sites"][site]["endpoint"].as_str().unwrap().trim_end_matches('/').to_string();
    let (cdn, origin) = (at("cdn"), at("origin"));
    let plain = std::fs::read_to_string(&pair.config).unwrap();
    let configure = |auth: &str, folder: &str| {
        let text = format!(
            "{plain}\n[cdn]\ndomain = \"files.example.com\"\nendpoint = \"{cdn}\"\n{auth}[origin]\nurl = \"{folder}\"\nwrite = true\n"
        );
        write_private(pair.config.as_ref(), &text);
    };
    let check = |expect: &[&str], cure: &str| {
        let (code, report) = pair.doctor(&["--wait", "1", "--no-coverage"]);
        assert_eq!(complaints(&report), expect, "{report}");
        assert_eq!(code, Some(if expect.is_empty() { 0 } else { 8 }));
        assert!(report.to_string().contains(cure), "{cure}: {report}");
    };
    let own = format!("{origin}/hot/");
    configure("", &own);
    check(&[], "delivers the versions");
    pair.emulator.put("/v1/cdn", &json!({"query_in_key": false}));
    check(&["cdn/-"], "keep the query string in the cache key");
    pair.emulator.put("/v1/cdn", &json!({"auth": {"type": "A", "key": "theRightKey1"}}));
    check(&["cdn/-"], "make type, key and validity in [cdn] auth the same");
    configure("auth = { type = \"A\", key = \"theRightKey1\" }\n", &own);
    check(&[], "takes and gives back a file");
    pair.emulator.faults("cdn", json!([{"kind": "refuse"}]));
    pair.emulator.faults("origin", json!([{"kind": "status", "status": 500}]));
    check(&["cdn/-", "origin/-"], "PUT was answered 500");
    pair.emulator.heal("cdn");
    pair.emulator.heal("origin");
    check(&[], "");
    let left = &pair.emulator.state()["sites"];
    assert_eq!([&left["origin"]["objects"], &left["a"]["objects"], &left["b"]["objects"]], [&json!([]); 3]);
}

#[test]
fn what_somebody_else_configured_is_not_changed_without_a_yes() {
    let pair = Pair::start(&[]);
    pair.change(Site::A, Resource::Replication, "</ID><Status>Enabled", "</ID><Status>Disabled");
    let refused = pair.run(&["provision"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    for words in ["nothing was changed", "replication rule to-b is switched on", "--yes", "--dry-run"] {
        assert!(refused.stderr.contains(words), "{words} is not in: {}", refused.stderr);
    }
    assert_eq!(complaints(&pair.doctor(&["--quick"]).1), ["replication/a"]);
    assert_eq!(pair.run(&["provision", "--yes"]).code, Some(0));
    assert_eq!(pair.doctor(&["--quick"]).0, Some(0));
}

#[test]
fn a_wrong_key_a_wrong_clock_and_a_silent_region() {
    let pair = Pair::start(&[]);
    let good = std::fs::read_to_string(&pair.config).unwrap();
    write_private(
        pair.config.as_ref(),
        &good.replace("exampleSecretKey0000000000000001", "wrongSecretKey000000000000000001"),
    );
    let run = pair.run(&["doctor"]);
    assert_eq!(run.code, Some(1), "{}", run.stdout);
    assert!(run.stdout.contains("FATAL") && run.stdout.contains("does not belong to the id"), "{}", run.stdout);
    assert!(!run.stdout.contains("wrongSecretKey"), "a secret in the output");
    assert_eq!(pair.mount().code, Some(5));
    write_private(pair.config.as_ref(), &good);

    pair.emulator.faults("b", json!([{"kind": "wrong_date", "skew_s": 60}]));
    let (code, report) = pair.doctor(&["--quick"]);
    assert_eq!((code, complaints(&report)), (Some(8), vec!["clock/b".to_string()]), "{report}");
    assert!(pair.mount().stderr.contains("s behind bucket b's"));
    pair.emulator.heal("b");

    // A region in the dark costs a mount a few seconds, and no more.
    pair.emulator.black_hole("a");
    let began = Instant::now();
    let run = pair.mount();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("master-1250000000 ([a]) does not answer"), "{}", run.stderr);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let (code, report) = pair.doctor(&[]);
    assert_eq!((code, complaints(&report)), (Some(1), vec!["access/a".to_string()]), "{report}");
}

#[test]
fn replication_that_stands_still_shows_in_the_canary() {
    let pair = Pair::start(&["--lag-ms", "20"]);
    pair.emulator.replication(json!({"a_to_b": {"stalled": true}}));
    let (code, report) = pair.doctor(&["--wait", "1"]);
    assert_eq!((code, complaints(&report)), (Some(8), vec!["arrival/a".to_string()]), "{report}");
    pair.emulator.replication(json!({"a_to_b": {"stalled": false}}));
    wait_until("nothing is on its way", Duration::from_secs(10), || {
        pair.emulator.state()["replication"]["a_to_b"]["pending"] == 0
    });
    for site in ["a", "b"] {
        assert!(pair.emulator.objects(site).is_empty(), "what came late is hidden by its delete marker");
    }
    assert_eq!(pair.doctor(&["--wait", "5"]).0, Some(0));
}

#[test]
fn differences_are_found_and_reconciled() {
    let pair = Pair::start(&["--lag-ms", "20"]);
    let (a, b) = (pair.emulator.bucket(Site::A), pair.emulator.bucket(Site::B));
    a.put("same", "in both");
    a.put("gone", "deleted in A");
    a.put("newer-in-a", "old");
    a.put("newer-in-b", "old");
    wait_until("all is in B", Duration::from_secs(10), || pair.emulator.objects("b").len() == 4);
    assert_eq!(pair.doctor(&["--no-write"]).0, Some(0));
    // Rules away: what happens now stays where it happens.
    pair.set(Site::A, Resource::Replication, None);
    pair.set(Site::B, Resource::Replication, None);
    a.put("only-in-a", "x");
    b.put("only-in-b", "y");
    a.put("newer-in-a", "newer");
    b.put("newer-in-b", "newer");
    a.delete("gone");
    assert_eq!(pair.run(&["provision"]).code, Some(0));

    let file = format!("{}.jsonl", pair.config);
    let (code, report) = pair.doctor(&["--no-write", "--differences", &file]);
    assert_eq!((code, complaints(&report)), (Some(1), vec!["coverage/-".to_string()]), "{report}");
    let listed = |value: &Value| {
        let all = value["coverage"]["differences"].as_array().unwrap().clone();
        all.iter()
            .map(|d| (d["key"].as_str().unwrap().to_string(), d["what"].as_str().unwrap().to_string()))
            .collect::<Vec<_>>()
    };
    let expect = [
        ("gone", "only_in_b"),
        ("newer-in-a", "differs"),
        ("newer-in-b", "differs"),
        ("only-in-a", "only_in_a"),
        ("only-in-b", "only_in_b"),
    ];
    assert_eq!(listed(&report), expect.map(|(key, what)| (key.to_string(), what.to_string())));
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 5);

    let refused = pair.run(&["doctor", "--no-write", "--reconcile"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("give --yes"), "{}", refused.stderr);
    let done = pair.run(&["doctor", "--no-write", "--reconcile", "--yes"]);
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("5 of 5 keys"), "{}", done.stdout);
    let (code, report) = pair.doctor(&["--no-write"]);
    assert_eq!((code, complaints(&report)), (Some(0), vec![]), "{report}");
    for bucket in [&a, &b] {
        let content = |key: &str| bucket.get(key).map(|body| String::from_utf8(body.to_vec()).unwrap());
        assert_eq!(content("newer-in-a").as_deref(), Some("newer"));
        assert_eq!(content("newer-in-b").as_deref(), Some("newer"));
        assert_eq!(content("only-in-b").as_deref(), Some("y"));
        assert_eq!(content("gone"), None);
    }
}
