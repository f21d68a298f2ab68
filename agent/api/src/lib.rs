//! The messages between the host and the agent on the card.
//!
//! They are made of `proto/cni_action.proto`, `proto/pairing.proto` and `proto/updates.proto`, which say what each
//! field means.

#[allow(clippy::pedantic, clippy::all, missing_docs)]
mod generated {
    tonic::include_proto!("_");
}

/// How a host and a card come to know each other, and how the card is updated.
#[allow(clippy::pedantic, clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("dpukit.v1");
}

pub use generated::*;

/// The protocols' description (a `google.protobuf.FileDescriptorSet`), for gRPC reflection.
pub const DESCRIPTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/protocols.bin"));

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// Octets that the Go plugin sends for an ADD, put together by hand from the table of fields.
    #[test]
    fn reads_what_a_go_peer_sends() {
        let mut octets = Vec::new();
        let pod = [&[0x0a, 7][..], b"default", &[0x12, 1], b"p", &[0x1a, 3], b"c01"].concat();
        let interface = [&[0x0a, 4][..], b"eth0", &[0x10, 3, 0x20, 1]].concat();
        for (tag, part) in [(0x0a, &pod), (0x12, &interface)] {
            octets.extend([tag, u8::try_from(part.len()).unwrap()]);
            octets.extend(part);
        }
        octets.extend([0x1a, 2]);
        octets.extend(b"aa");
        let request = CniAddRequest::decode(&octets[..]).unwrap();
        let pod = request.pod_info.unwrap();
        assert_eq!((pod.pod_namespace.as_str(), pod.pod_name.as_str()), ("default", "p"));
        assert_eq!(pod.container_id, "c01");
        let interface = request.intf_info.unwrap();
        assert_eq!(
            (interface.name.as_str(), interface.vfid, interface.pfid, interface.num_pfs),
            ("eth0", 3, 0, 1)
        );
        assert_eq!(request.mac_addr, "aa");
    }

    #[test]
    fn a_go_peer_finds_its_fields_and_may_skip_ours() {
        let answer = CniAddResponse {
            ip_info: Some(IpDetails { version: "4".into(), ..IpDetails::default() }),
            status: "ok".into(),
            mtu: 1450,
            ..CniAddResponse::default()
        };
        let octets = answer.encode_to_vec();
        assert_eq!(octets[..9], [0x0a, 3, 0x0a, 1, b'4', 0x1a, 2, b'o', b'k']);
        assert_eq!(octets[9..], [0xa8, 0x06, 0xaa, 0x0b], "field 101 as a number");
    }

    #[test]
    fn the_service_has_the_name_that_go_peers_call() {
        assert_eq!(cni_action_server::SERVICE_NAME, "CNIAction");
        assert_eq!(v1::pairing_server::SERVICE_NAME, "dpukit.v1.Pairing");
        assert_eq!(v1::updates_server::SERVICE_NAME, "dpukit.v1.Updates");
    }
}
