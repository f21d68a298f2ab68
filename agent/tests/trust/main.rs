//! Hosts and the agent, over real connections: who gets in, and who does not.

mod access;
mod keeping;
mod middle;
mod pairing;
mod updates;
mod world;
