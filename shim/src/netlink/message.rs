//! The few kinds of rtnetlink's messages that are spoken here.
//!
//! `netlink_packet_route::RouteNetlinkMessage` knows all kinds. To read them takes a tenth of the size
//! that the plugin may have, and all but these three are none of its business.

use netlink_packet_core::{
    DecodeError, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable,
    Parseable,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;
use nix::libc::{
    RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, RTM_SETLINK,
};

/// What is asked of the kernel, or answered by it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Message {
    GetLink(LinkMessage),
    SetLink(LinkMessage),
    Link(LinkMessage),
    GetAddresses(AddressMessage),
    Address(AddressMessage),
    GetRoutes(RouteMessage),
    Route(RouteMessage),
}

impl Message {
    fn body(&self) -> &dyn Emitable {
        match self {
            Self::GetLink(body) | Self::SetLink(body) | Self::Link(body) => body,
            Self::GetAddresses(body) | Self::Address(body) => body,
            Self::GetRoutes(body) | Self::Route(body) => body,
        }
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::GetLink(_) => RTM_GETLINK,
            Self::SetLink(_) => RTM_SETLINK,
            Self::Link(_) => RTM_NEWLINK,
            Self::GetAddresses(_) => RTM_GETADDR,
            Self::Address(_) => RTM_NEWADDR,
            Self::GetRoutes(_) => RTM_GETROUTE,
            Self::Route(_) => RTM_NEWROUTE,
        }
    }

    fn buffer_len(&self) -> usize {
        self.body().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        self.body().emit(buffer);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        match header.message_type {
            RTM_NEWLINK => LinkMessage::parse(payload).map(Self::Link),
            RTM_NEWADDR => AddressMessage::parse(payload).map(Self::Address),
            RTM_NEWROUTE => RouteMessage::parse(payload).map(Self::Route),
            other => Err(format!("a message of type {other}").into()),
        }
    }
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}
