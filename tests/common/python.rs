//! Where the tests find Python with the official SDK and coscmd: clients that share no code with this project.

use std::path::{Path, PathBuf};

/// `COSFS_HA_TEST_VENV`, or where scripts/test puts it.
pub fn python() -> PathBuf {
    let venv = std::env::var_os("COSFS_HA_TEST_VENV").map(PathBuf::from);
    let python = venv.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv")).join("bin/python");
    assert!(
        python.exists(),
        "{} is missing: run scripts/test, or: python3 -m venv target/venv && target/venv/bin/pip install cos-python-sdk-v5 coscmd",
        python.display()
    );
    python
}
