//! Interfaces, addresses and routes of a network namespace, through the kernel's rtnetlink.
//!
//! The kernel answers while the request is being sent, so there is nothing to wait for and no runtime.

mod ip;
mod link;
mod message;

pub use ip::Hop;
pub use link::{Change, Link};

use std::io;

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use message::Message;

use crate::namespace::Namespace;

/// A socket to the kernel. It speaks of the namespace that it was made in, whatever thread uses it.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

type Answer = NetlinkMessage<Message>;

impl Netlink {
    /// A socket in this thread's namespace.
    pub fn here() -> Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE).context("opening a netlink socket")?;
        Ok(Self { socket, sequence: 0 })
    }

    /// A socket in another namespace.
    pub fn inside(namespace: &Namespace) -> Result<Self> {
        namespace.within(Self::here)
    }

    /// Asks the kernel to do something.
    fn order(&mut self, message: Message, flags: u16) -> Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        for answer in self.answers()? {
            if let NetlinkPayload::Error(error) = answer?.payload {
                return if error.code.is_none() { Ok(()) } else { Err(error.to_io().into()) };
            }
        }
        bail!("the kernel did not say whether it did it")
    }

    /// Asks the kernel for one thing; none where it has no such.
    fn ask_one(&mut self, message: Message) -> Result<Option<Message>> {
        self.send(message, NLM_F_REQUEST)?;
        for answer in self.answers()? {
            match answer?.payload {
                NetlinkPayload::InnerMessage(message) => return Ok(Some(message)),
                NetlinkPayload::Error(error) => {
                    let error = error.to_io();
                    return if is_missing(&error) { Ok(None) } else { Err(error.into()) };
                }
                _ => {}
            }
        }
        bail!("the kernel did not answer")
    }

    /// Asks the kernel for all there is.
    fn ask_all(&mut self, message: &Message) -> Result<Vec<Message>> {
        /// How often the list may change while it is told.
        const TRIES: u32 = 10;
        for _ in 0..TRIES {
            if let Some(found) = self.try_ask_all(message.clone())? {
                return Ok(found);
            }
        }
        bail!("the list changed {TRIES} times while the kernel told it")
    }

    fn try_ask_all(&mut self, message: Message) -> Result<Option<Vec<Message>>> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        let (mut found, mut whole) = (Vec::new(), true);
        loop {
            for answer in self.answers()? {
                // An entry that cannot be read is of another kind than what is looked for.
                let Ok(answer) = answer else { continue };
                whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    NetlinkPayload::Done(_) => return Ok(whole.then_some(found)),
                    NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: Message, flags: u16) -> Result<()> {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut octets = vec![0; message.buffer_len()];
        message.serialize(&mut octets);
        self.socket.send(&octets, 0).context("asking the kernel")?;
        Ok(())
    }

    /// The answers of one datagram to the last request.
    fn answers(&self) -> Result<Vec<Result<Answer>>> {
        let (octets, _) = self.socket.recv_from_full().context("hearing the kernel's answer")?;
        let mut answers = Vec::new();
        let mut rest = &octets[..];
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            // What an earlier request's caller did not wait for.
            if message.sequence_number() == self.sequence {
                answers.push(NetlinkMessage::deserialize(rest).context("reading the kernel's answer"));
            }
            // Messages begin at multiples of four octets.
            let next = (message.length() as usize).next_multiple_of(4).max(4);
            rest = rest.get(next..).unwrap_or_default();
        }
        Ok(answers)
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::ENODEV | nix::libc::ENOENT))
}
