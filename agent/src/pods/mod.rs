//! Pods' networks on the card, made for the host's CNI plugin.

pub mod network;
