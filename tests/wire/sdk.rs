//! The official Python SDK, unmodified, against the emulator.

use std::path::Path;
use std::process::Command;

use cosfs_ha::object::Site;

use crate::client::start;
use crate::python::python;

#[test]
fn official_python_sdk() {
    let emulator = start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/sdk.py");
    let output = Command::new("timeout")
        .arg("120")
        .arg(python())
        .arg(script)
        .args([Site::A, Site::B].map(|site| emulator.address(site).to_string()))
        .env_remove("http_proxy")
        .env_remove("HTTP_PROXY")
        .output()
        .expect("timeout(1) runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("all steps done"), "{text}");
}
