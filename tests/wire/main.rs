//! The emulator on the wire: each rule and each fault as a plain HTTP client sees it, and official and
//! common clients on top.

mod cdn;
mod client;
mod data;
mod faults;
mod kill;
mod objects;
mod origin;
mod pull;
#[path = "../common/python.rs"]
mod python;
mod replication;
mod rules;
mod s3;
mod sdk;
mod tls;
mod tools;
