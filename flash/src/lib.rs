//! Puts a bundle on a card whose U-Boot answers on a console: a serial line, a unix socket, or TCP.
//!
//! ```text
//! console -- link: bytes to and from the card, each wait with its deadline
//!    |
//! u_boot -- one command: typed, its echo compared, its answer held against what success looks like
//!    |
//! session: connect, reset, who is it, stop autoboot, network
//!    |
//!    +-- system: a disk image in pieces; the partition table goes away first and comes back last
//!    +-- firmware: the SPI flash; its first block goes away first and comes back last
//! ```
//!
//! What differs between boards is data: `flash/boards/<name>.toml`, or `flash.toml` of the bundle; its schema is
//! the page of [`board`]. Nothing is written that was not checked by hash in the card's memory, and nothing is
//! switched over to before all of it was read back and compared.
//!
//! TFTP is served by the crate `async-tftp`: kept by one person, still tended (0.4.2 of 2026), and of all that
//! there are the only one with block size, window size and a handler of one's own, which we need because pieces
//! are made in memory and no folder of this machine is shown to the network. It draws in its own small
//! executor; [`tftp`] holds it in one thread, and nothing else knows of it.

pub mod board;
pub mod bundle;
pub mod cli;
pub mod console;
pub mod firmware;
pub mod flags;
pub mod hash;
pub mod hint;
pub mod network;
pub mod pieces;
pub mod session;
pub mod system;
pub mod tftp;
pub mod u_boot;
pub mod watch;
