//! `dpu-host update`: the built program and the real agent, over the link that they were paired for. RAUC is a
//! stand-in that prints as RAUC does and keeps what it got; systemctl and ssh are stand-ins too.

mod card;
mod everywhere;
mod one;
