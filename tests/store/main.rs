//! The store against two emulated regions: real sockets, real journal, real cache, faults from the emulator.
//!
//! One file per viewpoint: `bench` starts everything, `calm` is a day without trouble, `outage` the days this product is made for.

mod bench;
mod calm;
mod outage;
mod patch;
mod verify;
