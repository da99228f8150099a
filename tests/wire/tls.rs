//! TLS: every port speaks it, and every way in which a handshake goes wrong.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use cosfs_ha::emulator::{Emulator, Fault, Kind, Place};
use cosfs_ha::object::Site;

use crate::client::{Wire, host, plain, put, start};

const A: Site = Site::A;
/// A ClientHello begins like this; the rest does not matter to a server that never answers it.
const HELLO: [u8; 11] = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];

/// A stranger's client that trusts the emulator's authority, or nobody.
fn client(emulator: &Emulator, place: Place, name: &str, trust: bool) -> reqwest::Client {
    let authority =
        reqwest::Certificate::from_pem(emulator.authority().expect("an authority").as_bytes()).expect("PEM");
    reqwest::Client::builder()
        .tls_certs_only(trust.then_some(authority))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .resolve(name, emulator.address(place))
        .timeout(Duration::from_secs(10))
        .build()
        .expect("a client")
}

fn read(emulator: &Emulator, place: Place, name: &str, trust: bool) -> Result<u16, String> {
    let client = client(emulator, place, name, trust);
    let url = format!("https://{name}:{}/k", emulator.address(place).port());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        match client.get(url).send().await {
            Ok(answer) => Ok(answer.status().as_u16()),
            Err(error) => Err(format!("{error:?}")),
        }
    })
}

#[test]
fn every_port_speaks_tls_and_plain_http() {
    let emulator = start();
    put(&emulator, A, "k", b"x");
    let bucket = host(A);
    assert_eq!(read(&emulator, Place::A, &bucket, true), Ok(403), "unsigned, but heard");
    assert_eq!(read(&emulator, Place::Cdn, "files.example.com", true), Ok(200));
    assert_eq!(read(&emulator, Place::Origin, "localhost", true), Ok(404));
    let stranger = read(&emulator, Place::A, &bucket, false).expect_err("nobody is trusted");
    assert!(stranger.contains("UnknownIssuer"), "{stranger}");
    assert_eq!(plain("GET", "/k").attempt(emulator.address(Place::Cdn)).expect("answer").status, 200);
}

#[test]
fn wrong_certificates() {
    let emulator = start();
    for (kind, complaint) in [(Kind::TlsExpired, "Expired"), (Kind::TlsWrongName, "NotValidForName")] {
        emulator.set_faults(A, vec![Fault { count: Some(1), ..Fault::new(kind) }]).expect("set");
        let error = read(&emulator, Place::A, &host(A), true).expect_err("no connection");
        assert!(error.contains(complaint), "{kind:?}: {error}");
        assert_eq!(read(&emulator, Place::A, &host(A), true), Ok(403), "used up");
    }
}

#[test]
fn a_handshake_that_gets_no_answer() {
    let emulator = start();
    emulator.set_faults(A, vec![Fault::new(Kind::TlsHang)]).expect("set");
    let mut wire = Wire::connect(emulator.address(A)).expect("connect");
    wire.stream.write_all(&HELLO).expect("write");
    assert!(wire.is_silent(Duration::from_millis(150)));
    assert_eq!(crate::client::ask(A, "GET", "/k").send(&emulator, A).status, 404, "plain HTTP is not concerned");
    emulator.set_faults(A, vec![]).expect("heal");
    let end = wire.stream.read(&mut [0; 1]);
    assert!(matches!(end, Ok(0)) || end.is_err(), "the connection ends at heal");
    assert_eq!(read(&emulator, Place::A, &host(A), true), Ok(403));
}

#[test]
fn a_handshake_that_is_reset() {
    let emulator = start();
    emulator.set_faults(A, vec![Fault::new(Kind::TlsReset)]).expect("set");
    let mut wire = Wire::connect(emulator.address(A)).expect("connect");
    wire.stream.write_all(&HELLO).expect("write");
    let error = wire.stream.read(&mut [0; 1]).expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(read(&emulator, Place::A, &host(A), true).is_err());
}

#[test]
fn faults_of_connections_reach_through_tls() {
    let emulator = start();
    put(&emulator, A, "k", b"x");
    emulator.set_faults(Place::Cdn, vec![Fault { status: Some(503), ..Fault::new(Kind::Status) }]).expect("set");
    assert_eq!(read(&emulator, Place::Cdn, "files.example.com", true), Ok(503));
    emulator.set_faults(Place::Cdn, vec![Fault::new(Kind::Reset)]).expect("set");
    assert!(read(&emulator, Place::Cdn, "files.example.com", true).is_err());
}
