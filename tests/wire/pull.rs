//! Origin-pull: three ways in which a bucket answers for what it does not have.

use cosfs_ha::emulator::{Emulator, Fault, Kind, Place};
use cosfs_ha::object::Site;

use crate::client::{Answer, ask, eventually, get, plain, put, start};

const A: Site = Site::A;

fn configure(emulator: &Emulator, mode: &str, parameter: &str, more: &str) -> Answer {
    let host = emulator.address(Place::Origin);
    let xml = format!(
        "<OriginConfiguration><OriginRule><RulePriority>1</RulePriority><OriginType>{mode}</OriginType>\
         <OriginCondition><HTTPStatusCode>404</HTTPStatusCode><Prefix>pull/</Prefix></OriginCondition>\
         <OriginParameter><Protocol>HTTP</Protocol>{parameter}</OriginParameter>{more}<OriginInfo><HostInfo>\
         <HostName>{host}</HostName></HostInfo></OriginInfo></OriginRule></OriginConfiguration>"
    );
    let md5 = {
        use base64::Engine;
        use md5::Digest;
        base64::engine::general_purpose::STANDARD.encode(md5::Md5::digest(&xml))
    };
    ask(A, "PUT", "/?origin").header("Content-MD5", md5).body(xml).send(emulator, A)
}

fn at_origin(emulator: &Emulator, key: &str, body: &str) {
    let put = plain("PUT", &format!("/{key}")).header("Content-Type", "text/plain").header("x-cos-meta-from", "origin");
    assert!(put.body(body).attempt(emulator.address(Place::Origin)).expect("answer").status < 300);
}

fn versions(emulator: &Emulator, key: &str) -> usize {
    ask(A, "GET", &format!("/?versions&prefix={key}")).send(emulator, A).elements("VersionId").len()
}

#[test]
fn configuration_comes_and_goes() {
    let emulator = start();
    let none = ask(A, "GET", "/?origin").send(&emulator, A);
    assert_eq!((none.status, none.element("Code").as_deref()), (404, Some("OriginConfigurationNotFoundError")));
    assert_eq!(configure(&emulator, "Redirect", "", "").status, 200);
    let got = ask(A, "GET", "/?origin").send(&emulator, A);
    assert_eq!(got.element("OriginType").as_deref(), Some("Redirect"));
    assert_eq!(configure(&emulator, "Sideways", "", "").status, 400);
    assert_eq!(ask(A, "DELETE", "/?origin").send(&emulator, A).status, 204);
    assert_eq!(ask(A, "GET", "/?origin").send(&emulator, A).status, 404);
    assert_eq!(get(&emulator, A, "pull/k").status, 404);
}

#[test]
fn redirect_sends_the_client_away_and_stores_nothing() {
    let emulator = start();
    at_origin(&emulator, "pull/k", "data");
    configure(&emulator, "Redirect", "", "");
    let answer = get(&emulator, A, "pull/k");
    let origin = emulator.endpoint(Place::Origin);
    assert_eq!((answer.status, answer.header("location")), (302, Some(format!("{origin}/pull/k").as_str())));
    assert!(answer.header("x-cos-request-id").is_some(), "an answer of COS");
    let leaky = ask(A, "GET", "/pull/k?token=secret").send(&emulator, A);
    assert!(leaky.header("location").is_some_and(|l| l.ends_with("?token=secret")), "the query goes along by default");
    configure(
        &emulator,
        "Redirect",
        "<FollowQueryString>false</FollowQueryString><HttpRedirectCode>307</HttpRedirectCode>",
        "",
    );
    let answer = ask(A, "GET", "/pull/k?token=secret").send(&emulator, A);
    assert_eq!((answer.status, answer.header("location")), (307, Some(format!("{origin}/pull/k").as_str())));
    assert_eq!(get(&emulator, A, "other").status, 404, "outside of the prefix");
    assert_eq!(ask(A, "HEAD", "/pull/k").send(&emulator, A).status, 404, "HEAD pulls nothing");
    assert_eq!(versions(&emulator, "pull/"), 0);
}

#[test]
fn mirror_writes() {
    let emulator = start();
    at_origin(&emulator, "pull/k", "0123456789");
    configure(&emulator, "Mirror", "", "");
    let answer = get(&emulator, A, "pull/k");
    assert_eq!((answer.status, answer.text().as_str()), (200, "0123456789"));
    assert_eq!((answer.header("content-type"), answer.header("x-cos-meta-from")), (Some("text/plain"), Some("origin")));
    assert_eq!(versions(&emulator, "pull/k"), 1, "stored");
    eventually("and replicated", || get(&emulator, Site::B, "pull/k").status == 200);
    // The trap: deleted here, still at the origin.
    assert_eq!(ask(A, "DELETE", "/pull/k").send(&emulator, A).status, 204);
    assert_eq!(get(&emulator, A, "pull/k").status, 200, "back from the dead");
    assert_eq!(versions(&emulator, "pull/k"), 3, "as the newest version, over the marker");
    assert_eq!(get(&emulator, A, "pull/missing").status, 404, "a 404 of the origin is passed through");
}

#[test]
fn a_range_is_answered_at_once_and_the_whole_follows() {
    let emulator = start();
    at_origin(&emulator, "pull/k", "0123456789");
    configure(&emulator, "Mirror", "", "");
    let part = ask(A, "GET", "/pull/k").header("Range", "bytes=2-4").send(&emulator, A);
    assert_eq!((part.status, part.text().as_str(), part.header("content-range")), (206, "234", Some("bytes 2-4/10")));
    eventually("the whole object is stored", || versions(&emulator, "pull/k") == 1);
    assert_eq!(get(&emulator, A, "pull/k").text(), "0123456789");
}

#[test]
fn proxy_sends_away_and_stores_later() {
    let emulator = start();
    at_origin(&emulator, "pull/k", "data");
    configure(&emulator, "Proxy", "", "");
    assert_eq!(get(&emulator, A, "pull/k").status, 302);
    eventually("stored meanwhile", || get(&emulator, A, "pull/k").status == 200);
}

#[test]
fn an_origin_that_fails() {
    let emulator = start();
    at_origin(&emulator, "pull/k", "data");
    configure(&emulator, "Mirror", "", "");
    let broken = |fault: Fault| emulator.set_faults(Place::Origin, vec![fault]).expect("set");
    broken(Fault { status: Some(500), ..Fault::new(Kind::Status) });
    assert_eq!(get(&emulator, A, "pull/k").status, 424);
    broken(Fault::new(Kind::Refuse));
    assert_eq!(get(&emulator, A, "pull/k").status, 424);
    broken(Fault::new(Kind::Truncate));
    assert_eq!(get(&emulator, A, "pull/k").status, 424, "half a file is not stored");
    assert_eq!(versions(&emulator, "pull/k"), 0);
    broken(Fault { status: Some(503), ..Fault::new(Kind::Status) });
    configure(&emulator, "Mirror", "<TransparentErrorCode>true</TransparentErrorCode>", "");
    assert_eq!(get(&emulator, A, "pull/k").status, 503, "as the origin said");
    emulator.set_faults(Place::Origin, vec![]).expect("heal");
    assert_eq!(get(&emulator, A, "pull/k").text(), "data");
}

#[test]
fn standby_hosts() {
    let emulator = start();
    at_origin(&emulator, "pull/k", "from the standby");
    let host = |codes: &str, dead: &str| {
        let xml = format!(
            "<OriginConfiguration><OriginRule><OriginType>Mirror</OriginType><OriginParameter><Protocol>HTTP</Protocol>\
             </OriginParameter>{codes}<OriginInfo><HostInfo><HostName>{dead}</HostName><StandbyHostName_1>{}\
             </StandbyHostName_1></HostInfo></OriginInfo></OriginRule></OriginConfiguration>",
            emulator.address(Place::Origin)
        );
        use base64::Engine;
        use md5::Digest;
        let md5 = base64::engine::general_purpose::STANDARD.encode(md5::Md5::digest(&xml));
        let put = ask(A, "PUT", "/?origin").header("Content-MD5", md5).body(xml).send(&emulator, A);
        assert_eq!(put.status, 200, "{}", put.text());
    };
    // The CDN stands in for a first host: it answers 405, 404 or 403 as told.
    let first = emulator.address(Place::Cdn).to_string();
    let broken = |status| {
        let fault = Fault { status: Some(status), ..Fault::new(Kind::Status) };
        emulator.set_faults(Place::Cdn, vec![fault]).expect("set");
    };
    host("", &first);
    broken(403);
    assert_eq!(get(&emulator, A, "pull/k").status, 424, "a 4XX is an answer");
    broken(502);
    assert_eq!(get(&emulator, A, "pull/k").text(), "from the standby", "a 5XX is not");
    ask(A, "DELETE", "/pull/k").send(&emulator, A);
    broken(403);
    host("<HTTPStandbyCode><StatusCode>403</StatusCode></HTTPStandbyCode>", &first);
    assert_eq!(get(&emulator, A, "pull/k").text(), "from the standby", "unless it is listed");
    put(&emulator, A, "pull/k", b"own");
    assert_eq!(get(&emulator, A, "pull/k").text(), "own", "what is there is not pulled");
}
