//! The real program on two emulated regions: one file a topic.
//!
//! Every mount is a child process; what is looked at is what programs see in it and what other clients find in the buckets.

#[path = "../common/mod.rs"]
mod common;

mod alarms;
mod cdn;
mod conflicts;
mod crash;
mod crowd;
mod directory;
mod failback;
mod failover;
mod files;
mod grey;
mod journal;
mod kills;
mod large;
mod lifecycle;
mod matrix;
mod origin;
mod outage;
mod power;
mod programs;
mod sdk;
mod service;
