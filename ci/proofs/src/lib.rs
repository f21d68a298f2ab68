//! A stage on which the real programs, the host's plugin `offload-cni` and the card's agent `dpu-agent`,
//! are proved together: host and card are network namespaces, VFs are veth pairs, PCI is a made-up sysfs.
//!
//! Everything of a stage is in namespaces of its own (network, mounts, processes), so that nothing of it
//! outlives it and two stages on one machine know nothing of each other.

#![allow(clippy::missing_panics_doc, reason = "a stage that does not stand fails the test that wants it")]

pub mod inside;
pub mod programs;
pub mod run;

pub mod sysfs;

pub mod agent;
pub mod call;
pub mod driver;
pub mod stage;

pub mod clean;
pub mod protocols;
pub mod proxy;
pub mod seed;
pub mod traffic;
