//! One row a situation: what is there, what changes, what of it is somebody else's.

use super::*;

const ROLE: &str = "qcs::cam::uin/1:uin/1";

fn wanted() -> Wanted {
    Wanted {
        resources: ["qcs::cos:ap-x::m-1".into(), "qcs::cos:ap-y::s-1".into()],
        prefix: "team/".into(),
        role: Some(ROLE.into()),
        noncurrent_days: 30,
        abort_days: 7,
        accelerate: false,
        origin: None,
    }
}

fn tree(what: Resource, inner: &str) -> Option<Element> {
    let root = what.root();
    Some(Element::parse(format!("<{root}>{inner}</{root}>").as_bytes(), root).unwrap())
}

fn rule(id: &str, status: &str, prefix: &str, target: &str, markers: &str) -> String {
    format!(
        "<Rule><ID>{id}</ID><Status>{status}</Status><Prefix>{prefix}</Prefix><Destination><Bucket>{target}</Bucket></Destination>\
         <DeleteMarkerReplication><Status>{markers}</Status></DeleteMarkerReplication></Rule>"
    )
}

/// Changes are made and the result planned again.
fn settle(mut present: Present, wanted: &Wanted) -> Present {
    for change in plan(&present, wanted).unwrap() {
        present[change.site.index()].insert(change.what, change.after);
    }
    assert_eq!(plan(&present, wanted).unwrap(), [], "a second run has nothing to do");
    present
}

#[test]
fn new_buckets_get_everything_in_an_order_that_works() {
    let wanted = Wanted {
        accelerate: true,
        origin: Some(OriginPull { https: false, host: "127.0.0.1:9103".into(), folder: String::new() }),
        ..wanted()
    };
    let steps: Vec<_> =
        plan(&Present::default(), &wanted).unwrap().iter().map(|c| format!("{} {}", c.site, c.what.name())).collect();
    let expect = [
        "a versioning",
        "b versioning",
        "a replication",
        "b replication",
        "a lifecycle",
        "b lifecycle",
        "b origin",
        "a accelerate",
        "b accelerate",
    ];
    assert_eq!(steps, expect);
    assert!(plan(&Present::default(), &wanted).unwrap().iter().all(|change| change.foreign.is_empty()));
    let present = settle(Present::default(), &wanted);
    let origin = present[1][&Resource::Origin].as_ref().unwrap();
    assert_eq!(origin.text_at(&["OriginRule", "OriginType"]), Some("Redirect"));
    assert_eq!(origin.text_at(&["OriginRule", "OriginParameter", "FollowQueryString"]), Some("false"));
    assert!(mirror_rules(Some(origin), "team/").next().is_none());
}

#[test]
fn suspended_versioning_was_somebodys_decision() {
    let present: Present = [
        [(Resource::Versioning, tree(Resource::Versioning, "<Status>Suspended</Status>"))].into(),
        [(Resource::Versioning, tree(Resource::Versioning, "<Status>Enabled</Status>"))].into(),
    ];
    let changes: Vec<_> =
        plan(&present, &wanted()).unwrap().into_iter().filter(|c| c.what == Resource::Versioning).collect();
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].site, changes[0].foreign.len()), (Site::A, 1));
}

#[test]
fn replication_rules() {
    const B: &str = "qcs::cos:ap-y::s-1";
    const LONG_B: &str = "qcs::cos:ap-y:uid/1:s-1";
    // What is there; changes at all?; words about others; ids afterwards.
    let rows: &[(&str, String, bool, &str, &[&str])] = &[
        ("nothing", String::new(), true, "", &[OURS]),
        ("a good rule", rule("x", "Enabled", "", B, "Enabled"), false, "", &["x"]),
        ("a good rule with another spelling", rule("x", "Enabled", "team/", LONG_B, "Enabled"), false, "", &["x"]),
        ("markers not mentioned", rule("x", "Enabled", "", B, ""), false, "", &["x"]),
        ("switched off", rule("x", "Disabled", "", B, "Enabled"), true, "rule x is switched on", &["x"]),
        ("without markers", rule("x", "Enabled", "", B, "Disabled"), true, "with delete markers", &["x"]),
        ("too narrow", rule("x", "Enabled", "team/in/", B, "Enabled"), true, "rule x gives way", &[OURS]),
        ("elsewhere", rule("x", "Enabled", "other/", B, "Enabled"), true, "", &["x", OURS]),
        ("ours, switched off", rule(OURS, "Disabled", "team/", B, "Enabled"), true, "", &[OURS]),
        (
            "ours, to an old target",
            rule(OURS, "Enabled", "team/", "qcs::cos:ap-z::old-1", "Enabled"),
            true,
            "",
            &[OURS],
        ),
    ];
    for (name, before, changes, foreign, ids) in rows {
        let before = (!before.is_empty())
            .then(|| tree(Resource::Replication, &format!("<Role>{ROLE}</Role>{before}")))
            .flatten();
        let change = replication(Site::A, before.clone(), &wanted(), Some(ROLE.into())).unwrap();
        assert_eq!(change.is_some(), *changes, "{name}");
        let said = change.iter().flat_map(|c| c.foreign.clone()).collect::<Vec<_>>().join("; ");
        assert_eq!(said.is_empty(), foreign.is_empty(), "{name}: {said}");
        assert!(said.contains(foreign), "{name}: {said}");
        let after = change.map_or(before, |c| c.after).unwrap();
        let found: Vec<_> = after.all("Rule").map(name_of).collect();
        assert_eq!(found, *ids, "{name}");
        assert_eq!(after.text_at(&["Role"]), Some(ROLE), "{name}");
        assert_eq!(replication(Site::A, Some(after), &wanted(), Some(ROLE.into())), Ok(None), "{name}, again");
    }
}

#[test]
fn a_rule_for_tagged_objects_only_does_not_cover() {
    let tagged = "<Rule><ID>t</ID><Status>Enabled</Status><Filter><And><Prefix></Prefix><Tag><Key>k</Key><Value>v</Value></Tag></And>\
                  </Filter><Destination><Bucket>qcs::cos:ap-y::s-1</Bucket></Destination></Rule>";
    let before = tree(Resource::Replication, tagged);
    assert!(replication(Site::A, before, &wanted(), Some(ROLE.into())).unwrap().is_some());
}

#[test]
fn what_cannot_be_planned_is_said() {
    let third = tree(Resource::Replication, &rule("dr", "Enabled", "", "qcs::cos:ap-z::third-1", "Enabled"));
    let failure = replication(Site::A, third, &wanted(), Some(ROLE.into())).unwrap_err();
    assert_eq!(failure, Obstacle::OtherTarget { site: Site::A, target: "third-1".into(), rule: "dr".into() });
    let nobody = Wanted { role: None, ..wanted() };
    assert_eq!(plan(&Present::default(), &nobody), Err(Obstacle::NoRole { site: Site::A }));
    let acl = tree(Resource::Acl, "<Owner><ID>qcs::cam::uin/7:uin/7</ID></Owner>");
    let owned: Present = [[(Resource::Acl, acl.clone())].into(), [(Resource::Acl, acl)].into()];
    let change = plan(&owned, &nobody).unwrap().into_iter().find(|c| c.what == Resource::Replication).unwrap();
    assert_eq!(change.after.unwrap().text_at(&["Role"]), Some("qcs::cam::uin/7:uin/7"));
}

#[test]
fn lifecycle_rules_of_others_stay_as_they_are() {
    let theirs =
        "<Rule><ID>cold</ID><Status>Enabled</Status><Filter><Prefix>x/</Prefix></Filter><NewThing>1</NewThing></Rule>";
    let change = lifecycle(Site::B, tree(Resource::Lifecycle, theirs), &wanted()).unwrap();
    assert!(change.foreign.is_empty());
    let after = change.after.clone().unwrap();
    assert_eq!(after.children[0], change.before.clone().unwrap().children[0]);
    assert_eq!((noncurrent_days(Some(&after), "team/"), abort_days(Some(&after), "team/")), (Some(30), Some(7)));
    assert_eq!(noncurrent_days(Some(&after), ""), None, "ours is for the mounted folder");
    assert_eq!(lifecycle(Site::B, Some(after), &wanted()), None);
    let difference = change.difference();
    assert!(difference.contains("+    <ID>cosfs-ha</ID>") && !difference.contains("-    "), "{difference}");
}

#[test]
fn a_lifecycle_that_removes_files_is_seen() {
    let rule = |status: &str, prefix: &str, inner: &str| {
        let rule = format!(
            "<Rule><ID>r</ID><Status>{status}</Status><Filter><Prefix>{prefix}</Prefix></Filter><Expiration>{inner}</Expiration></Rule>"
        );
        deletes_files(tree(Resource::Lifecycle, &rule).as_ref(), "team/").is_some()
    };
    assert!(rule("Enabled", "", "<Days>3</Days>") && rule("Enabled", "team/tmp/", "<Date>2030-01-01</Date>"));
    assert!(!rule("Disabled", "", "<Days>3</Days>"));
    assert!(!rule("Enabled", "other/", "<Days>3</Days>"));
    assert!(!rule("Enabled", "", "<ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker>"));
}

#[test]
fn origin_pull_that_stores_is_removed_where_it_touches_the_mount() {
    let rule = |mode: &str, prefix: &str, more: &str| {
        format!(
            "<OriginRule><RulePriority>3</RulePriority><OriginType>{mode}</OriginType><OriginCondition><HTTPStatusCode>404</HTTPStatusCode>\
             <Prefix>{prefix}</Prefix></OriginCondition><OriginParameter>{more}</OriginParameter><OriginInfo><HostInfo><HostName>o.example.com\
             </HostName></HostInfo></OriginInfo></OriginRule>"
        )
    };
    for (mode, prefix, more, removed) in [
        ("Mirror", "", "", true),
        ("Mirror", "team/static/", "", true),
        ("Proxy", "", "", true),
        ("Mirror", "other/", "", false),
        ("Redirect", "", "", false),
        ("Mirror", "", "<CopyOriginData>false</CopyOriginData>", false),
    ] {
        let change = origin(Site::A, tree(Resource::Origin, &rule(mode, prefix, more)), "team/", None);
        assert_eq!(change.is_some(), removed, "{mode} {prefix} {more}");
        assert!(change.is_none_or(|c| c.after.is_none() && c.foreign.len() == 1), "{mode} {prefix}");
    }
    let both = rule("Mirror", "", "") + &rule("Redirect", "x/", "");
    let pull = OriginPull { https: true, host: "backup.example.com".into(), folder: "hot/".into() };
    let change = origin(Site::B, tree(Resource::Origin, &both), "team/", Some(&pull)).unwrap();
    let after = change.after.unwrap();
    let hosts: Vec<_> =
        after.all("OriginRule").filter_map(|r| r.text_at(&["OriginInfo", "HostInfo", "HostName"])).collect();
    assert_eq!(hosts, ["o.example.com", "backup.example.com"]);
    assert_eq!(after.children[1].text_at(&["RulePriority"]), Some("4"));
    assert_eq!(origin(Site::B, Some(after), "team/", Some(&pull)), None);
}
