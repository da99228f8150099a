//! Hosts and signatures.

use base64::Engine;

use super::{A, B, Bench, Row, ask, header, refused, refuses, row};
use crate::client::{Answer, Ask};

fn via(b: &Bench, host: &str, target: &str) -> Answer {
    let mut ask = ask(A, "GET", target);
    ask.host = host.into();
    b.send(ask)
}

pub const ROWS: &[Row] = &[
    row("host-name", "A bucket is `<bucket>.cos.<region>.myqcloud.com`", |b| {
        b.put("k", "x");
        assert_eq!(b.text("/k"), "x");
    }),
    row("host-suffix", "`tencentcos.cn` is a second suffix for the same bucket.", |b| {
        b.put("k", "x");
        assert_eq!(via(b, "master-1250000000.cos.ap-guangzhou.tencentcos.cn", "/k").text(), "x");
        assert_eq!(via(b, "master-1250000000.cos-internal.ap-guangzhou.tencentcos.cn", "/k").text(), "x");
    }),
    row("host-request-id", "Every answer of COS carries `x-cos-request-id`.", |b| {
        b.put("k", "x");
        for answer in [b.a("GET", "/k"), b.a("HEAD", "/k"), b.a("GET", "/no"), b.a("DELETE", "/k"), b.a("PATCH", "/k")]
        {
            assert!(!header(&answer, "x-cos-request-id").is_empty());
            assert_eq!(header(&answer, "server"), "tencent-cos");
            assert!(header(&answer, "date").ends_with(" GMT"));
        }
    }),
    row(
        "host-request-id-form",
        "A request id looks like base64 of four hexadecimal numbers, the first the time",
        |b| {
            let answer = b.a("HEAD", "/");
            let id = base64::engine::general_purpose::STANDARD_NO_PAD
                .decode(header(&answer, "x-cos-request-id"))
                .expect("base64");
            let id = String::from_utf8(id).expect("text");
            let numbers: Vec<u64> = id.split('_').map(|n| u64::from_str_radix(n, 16).expect("hexadecimal")).collect();
            assert!(numbers.len() == 4 && numbers[0] > 1_700_000_000, "{id}");
        },
    ),
    row("host-wrong-region", "Wrong region: answered like a bucket that does not exist.", |b| {
        refuses(&via(b, "master-1250000000.cos.ap-shanghai.myqcloud.com", "/k"), 404, "NoSuchBucket");
        refuses(&via(b, "nobody-1250000000.cos.ap-guangzhou.myqcloud.com", "/k"), 404, "NoSuchBucket");
    }),
    row(
        "host-accelerate",
        "The acceleration host answers `400 BucketAccelerateNotEnabled` until acceleration is on.",
        |b| {
            let host = "master-1250000000.cos.accelerate.myqcloud.com";
            b.put("k", "x");
            refuses(&via(b, host, "/k"), 400, "BucketAccelerateNotEnabled");
            b.xml("PUT", "/?accelerate", "<AccelerateConfiguration><Status>Enabled</Status></AccelerateConfiguration>");
            assert_eq!(via(b, host, "/k").text(), "x");
        },
    ),
    row("host-custom", "A bound domain is a host of the bucket, and is signed as the host.", |b| {
        b.put("k", "x");
        let domain = "<DomainConfiguration><DomainRule><Status>ENABLED</Status><Name>files.example.com</Name><Type>REST</Type></DomainRule></DomainConfiguration>";
        assert_eq!(b.xml("PUT", "/?domain", domain).status, 200);
        assert!(b.text("/?domain").contains("files.example.com"));
        assert!(b.a("GET", "/?domain").header("x-cos-domain-txt-verification").is_some());
        let mut ask = ask(B, "GET", "/k");
        ask.host = "files.example.com".into();
        assert_eq!(ask.send(&b.emulator, B).text(), "x", "on any port");
    }),
    row("host-service", "`service.cos.myqcloud.com` lists the buckets of the account.", |b| {
        let listed = via(b, "service.cos.myqcloud.com", "/");
        assert_eq!(listed.elements("Name"), ["master-1250000000", "slave-1250000000"]);
        assert_eq!(listed.elements("Location"), ["ap-guangzhou", "ap-shanghai"]);
    }),
    row(
        "sig-algorithm",
        "HMAC-SHA1 over method, decoded path, chosen parameters and headers, with a key derived from a time window.",
        |b| {
            b.put("k", "x");
            let code = |change: fn(&mut Ask<'_>)| {
                let mut ask = ask(A, "GET", "/k");
                change(&mut ask);
                refused(&b.send(ask))
            };
            assert_eq!(code(|_| {}), (200, String::new()));
            assert_eq!(code(|a| a.secret.1 = "wrong"), (403, "SignatureDoesNotMatch".into()));
            assert_eq!(code(|a| a.secret.0 = "nobody"), (403, "InvalidAccessKeyId".into()));
        },
    ),
    row("sig-chosen", "Only headers and parameters named in the signature's two lists are covered.", |b| {
        let mut put = ask(A, "PUT", "/k").header("x-cos-meta-a", "not signed").body("x");
        put = put.header("Date", "Thu, 01 Jan 1970 00:00:00 GMT");
        refuses(&b.send(put), 403, "RequestTimeTooSkewed");
        let put = ask(A, "PUT", "/k").header("x-cos-meta-a", "not signed").body("x");
        assert_eq!(b.send(put).status, 200);
        assert_eq!(header(&b.a("HEAD", "/k"), "x-cos-meta-a"), "not signed");
    }),
    row(
        "sig-window",
        "Outside of its window a signature is refused: `403 AccessDenied`, \"Request has expired\".",
        |b| {
            let mut late = ask(A, "GET", "/k");
            late.window = (-600, -10);
            let answer = b.send(late);
            refuses(&answer, 403, "AccessDenied");
            assert_eq!(answer.element("Message").as_deref(), Some("Request has expired"));
        },
    ),
    row("sig-skew", "More than 15 minutes of clock difference: `403 RequestTimeTooSkewed`.", |b| {
        let mut early = ask(A, "GET", "/k");
        early.window = (3600, 7200);
        refuses(&b.send(early), 403, "RequestTimeTooSkewed");
    }),
    row("sig-url", "A signature in the URL is the same, as seven parameters.", |b| {
        b.put("k", "x");
        let signed = |method: &str| format!("/k?{}", ask(A, method, "/k").authorization().replace(';', "%3B"));
        let mut by_url = ask(A, "GET", &signed("GET"));
        by_url.sign = false;
        assert_eq!(b.send(by_url).text(), "x");
        let mut other = ask(A, "DELETE", &signed("GET"));
        other.sign = false;
        refuses(&b.send(other), 403, "SignatureDoesNotMatch");
    }),
    row("sig-host-port", "Signed with or without the port in the host: both are accepted.", |b| {
        b.put("k", "x");
        let mut ask = ask(A, "GET", "/k");
        ask.host = "127.0.0.1".into();
        let signed = ask.authorization();
        ask.host = "127.0.0.1:9100".into();
        ask.sign = false;
        assert_eq!(b.send(ask.header("Authorization", signed)).text(), "x");
    }),
    row("sig-plus", "`+` is a space in a query and a plus in a path.", |b| {
        b.put("a+b", "plus");
        b.put("a%20b", "space");
        assert_eq!(b.text("/a+b"), "plus");
        assert_eq!(b.a("GET", "/?prefix=a+b").elements("Key"), ["a b"]);
    }),
    row(
        "sig-anonymous",
        "Without a signature only what is public can be read, and `response-*` parameters cannot be used.",
        |b| {
            b.put("k", "x");
            let plain = |target: &str| {
                let mut ask = ask(A, "GET", target);
                ask.sign = false;
                b.send(ask)
            };
            refuses(&plain("/k"), 403, "AccessDenied");
            assert_eq!(b.send(ask(A, "PUT", "/k?acl").header("x-cos-acl", "public-read").body("")).status, 200);
            assert_eq!(plain("/k").text(), "x");
            assert_eq!(plain("/k?response-content-type=a%2Fb").status, 400);
        },
    ),
    row("sig-policy", "A policy that denies: `403 AccessDenied`, also with a good signature.", |b| {
        b.put("dir/k", "x");
        let policy = r#"{"version":"2.0","Statement":[{"Effect":"deny","Principal":{"qcs":["qcs::cam::anyone:anyone"]},"Action":["name/cos:GetObject"],"Resource":["qcs::cos:ap-guangzhou:uid/1250000000:master-1250000000/dir/*"]}]}"#;
        assert_eq!(b.send(ask(A, "PUT", "/?policy").body(policy)).status, 200);
        refuses(&b.a("GET", "/dir/k"), 403, "AccessDenied");
        assert_eq!(b.a("HEAD", "/dir/k").status, 200, "another action");
        b.put("other", "x");
        assert_eq!(b.text("/other"), "x", "another resource");
        assert_eq!(b.a("DELETE", "/?policy").status, 204);
        assert_eq!(b.text("/dir/k"), "x");
    }),
];
