//! cosfs-ha: a COS bucket as a directory that outlives its region.
//!
//! The map of the house; an arrow points only downwards.
//!
//! ```text
//! cli            one file a command; parses, calls, prints
//! fuse           what the kernel expects; the only room that names `fuser`
//! vfs            inodes, names, open files, POSIX rules; knows no FUSE and no HTTP
//! store          get, put, list, copy, delete a key: freshness, commit modes, retries
//! journal cache  writes until both regions hold them | local copies of what was read
//! linkage        one way to one place: a request with a deadline, evidence, probes
//! failover       the pure decision core: step(now, event) -> actions
//! cos            the COS client: sign, send, understand
//! object ranges  the words everybody shares
//! clock mutant   time, chance and missing defences: what a simulation replaces
//! web            HTTP clients that do nothing of their own accord
//! cdn origin     contents from neither bucket, with proof | copies of writes
//! config control from the sides, wired by the command
//! alarm metrics  who is told, and in figures
//! doctor         is the pair what the mount relies on?  provision  makes it so;  probe  measures the ways to it
//! emulator       a local twin of two COS regions
//! ```

pub mod alarm;
pub mod cache;
pub mod cdn;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod cos;
pub mod doctor;
pub mod emulator;
pub mod failover;
pub mod fuse;
pub mod journal;
pub mod linkage;
pub mod metrics;
pub mod mutant;
pub mod object;
pub mod origin;
pub mod probe;
pub mod provision;
pub mod ranges;
pub mod store;
pub mod vfs;
pub mod web;
