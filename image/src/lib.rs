//! Builds a flashable image of a DPU card from a board file and a lock.

pub mod bundle;
pub mod check;
pub mod config;
pub mod deb;
pub mod debian;
pub mod doctor;
pub mod emulator;
pub mod fetch;
pub mod hash;
pub mod hint;
pub mod kconfig;
pub mod load;
pub mod lock;
pub mod mirrors;
pub mod oracle;
pub mod preflight;
pub mod project;
pub mod recipes;
pub mod root;
pub mod rules;
pub mod sandbox;
pub mod snapshot;
pub mod source;
pub mod step;
pub mod store;
