//! The words of Cilium's API: what is read of its answers, and what is sent. Fields that are not needed are left
//! out, and unknown ones are passed over.
//!
//! Source: `api/v1/openapi.yaml` of Cilium, around 1.17.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::pods::network::Attachment;

/// The answer to `GET /config`.
#[derive(Debug, Default, Deserialize)]
pub struct DaemonConfiguration {
    /// What applies at present.
    pub status: Option<Configuration>,
}

/// How Cilium is configured.
#[derive(Debug, Default, Deserialize)]
pub struct Configuration {
    /// The node's own addresses.
    #[serde(default)]
    pub addressing: Option<NodeAddressing>,
    /// The MTU of pods' interfaces, in octets.
    #[serde(default, rename = "deviceMTU")]
    pub device_mtu: i64,
    /// The MTU of routes that leave the node, in octets.
    #[serde(default, rename = "routeMTU")]
    pub route_mtu: i64,
    /// Who gives addresses: `cluster-pool`, `delegated-plugin`, …
    #[serde(default, rename = "ipam-mode")]
    pub ipam_mode: String,
}

/// The node's own addresses.
#[derive(Debug, Default, Deserialize)]
pub struct NodeAddressing {
    #[serde(default)]
    ipv4: Option<NodeAddress>,
    #[serde(default)]
    ipv6: Option<NodeAddress>,
}

#[derive(Debug, Default, Deserialize)]
struct NodeAddress {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    ip: String,
}

impl NodeAddressing {
    /// What pods of `like`'s family send to: the node's address, where the family is on.
    pub fn gateway(&self, like: IpAddr) -> Option<IpAddr> {
        let family = if like.is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        let family = family.as_ref().filter(|family| family.enabled)?;
        family.ip.parse().ok().filter(|ip: &IpAddr| ip.is_ipv4() == like.is_ipv4())
    }
}

/// The answer to `POST /ipam`.
#[derive(Debug, Deserialize)]
pub struct Allocation {
    address: AddressPair,
    #[serde(default)]
    ipv4: Option<Expiry>,
    #[serde(default)]
    ipv6: Option<Expiry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Expiry {
    #[serde(default)]
    expiration_uuid: String,
}

/// The addresses of an endpoint.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub struct AddressPair {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv4_expiration_uuid: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv4_pool_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv6_expiration_uuid: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv6_pool_name: String,
}

/// An address that Cilium's IPAM gave, or is to be told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The address.
    pub address: IpAddr,
    /// The pool that it is of; empty for the default.
    #[serde(default)]
    pub pool: String,
    /// The timer that takes it back where no endpoint is made with it.
    #[serde(skip)]
    pub expiry: String,
}

impl Allocation {
    /// The addresses.
    ///
    /// # Errors
    /// Where there is none, or one makes no sense.
    pub fn held(&self) -> Result<Vec<Held>, String> {
        let expiry = |of: &Option<Expiry>| of.as_ref().map(|of| of.expiration_uuid.clone());
        let parts = [
            (&self.address.ipv4, &self.address.ipv4_pool_name, expiry(&self.ipv4)),
            (&self.address.ipv6, &self.address.ipv6_pool_name, expiry(&self.ipv6)),
        ];
        let given: Vec<_> = parts.into_iter().filter(|(address, ..)| !address.is_empty()).collect();
        if given.is_empty() {
            return Err("it holds no address".into());
        }
        let held = given.into_iter().map(|(address, pool, expiry)| {
            let address =
                address.parse().map_err(|_| format!("`{}` is no address", address.escape_debug()))?;
            Ok(Held { address, pool: pool.clone(), expiry: expiry.unwrap_or_default() })
        });
        held.collect()
    }
}

impl From<&[Held]> for AddressPair {
    fn from(held: &[Held]) -> Self {
        let mut pair = Self::default();
        for Held { address, pool, expiry } in held {
            let (address, pool, expiry) = (address.to_string(), pool.clone(), expiry.clone());
            if address.contains(':') {
                (pair.ipv6, pair.ipv6_pool_name, pair.ipv6_expiration_uuid) = (address, pool, expiry);
            } else {
                (pair.ipv4, pair.ipv4_pool_name, pair.ipv4_expiration_uuid) = (address, pool, expiry);
            }
        }
        pair
    }
}

impl AddressPair {
    fn held(&self) -> impl Iterator<Item = Held> {
        let parts = [(&self.ipv4, &self.ipv4_pool_name), (&self.ipv6, &self.ipv6_pool_name)];
        parts.into_iter().filter_map(|(address, pool)| {
            let address = address.parse().ok()?;
            Some(Held { address, pool: pool.clone(), expiry: String::new() })
        })
    }
}

/// What `PUT /endpoint/{id}` is sent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub struct Change {
    pub state: String,
    pub container_id: String,
    pub container_interface_name: String,
    pub interface_name: String,
    pub interface_index: i64,
    pub mac: String,
    pub host_mac: String,
    pub addressing: AddressPair,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub k8s_pod_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub k8s_namespace: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub k8s_uid: String,
    pub datapath_configuration: Datapath,
    pub sync_build_endpoint: bool,
}

/// How an endpoint is connected.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Datapath {
    /// Whether its addresses are none of Cilium's IPAM, which then does not take them back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external_ipam: bool,
}

/// An endpoint, as far as it is looked at.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Endpoint {
    /// Cilium's own number for it.
    #[serde(default)]
    pub id: i64,
    /// What it is.
    #[serde(default)]
    pub status: Option<EndpointStatus>,
}

/// What an endpoint is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub struct EndpointStatus {
    #[serde(default)]
    pub external_identifiers: Option<Identifiers>,
    #[serde(default)]
    pub networking: Option<Networking>,
    #[serde(default)]
    pub state: String,
}

/// Whose an endpoint is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub struct Identifiers {
    #[serde(default)]
    pub cni_attachment_id: String,
    #[serde(default)]
    pub container_id: String,
    #[serde(default)]
    pub k8s_namespace: String,
    #[serde(default)]
    pub k8s_pod_name: String,
}

/// An endpoint's addresses and interface.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub struct Networking {
    #[serde(default)]
    pub addressing: Option<Vec<AddressPair>>,
    #[serde(default)]
    pub interface_name: String,
    #[serde(default)]
    pub interface_index: i64,
    #[serde(default)]
    pub mac: String,
}

impl Endpoint {
    /// Its interface on the card.
    pub fn interface(&self) -> &str {
        self.networking().map_or("", |networking| &networking.interface_name)
    }

    /// Its addresses.
    pub fn held(&self) -> Vec<Held> {
        let pairs = self.networking().and_then(|networking| networking.addressing.as_deref());
        pairs.into_iter().flatten().flat_map(AddressPair::held).collect()
    }

    /// Its addresses alone.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.held().iter().map(|held| held.address).collect()
    }

    /// Whether it is this attachment's.
    pub fn is_of(&self, attachment: &Attachment) -> bool {
        let Some(ids) = self.status.as_ref().and_then(|status| status.external_identifiers.as_ref()) else {
            return false;
        };
        if ids.cni_attachment_id.is_empty() {
            return ids.container_id == attachment.container && self.interface() == attachment.vf.interface;
        }
        ids.cni_attachment_id == format!("{}:{}", attachment.container, attachment.interface)
    }

    /// Whether it is as an ADD of this attachment makes it, on the interface of this number.
    pub fn is_as_made(&self, attachment: &Attachment, index: i64) -> bool {
        let dying = ["disconnecting", "disconnected", "invalid"];
        let state = self.status.as_ref().map_or("", |status| &status.state);
        self.networking().is_some_and(|networking| {
            networking.interface_name == attachment.vf.interface
                && networking.interface_index == index
                && networking.mac.eq_ignore_ascii_case(&attachment.mac)
        }) && !dying.contains(&state)
    }

    /// Whose it is, for a person.
    pub fn whose(&self) -> String {
        let ids = self.status.as_ref().and_then(|status| status.external_identifiers.clone());
        let ids = ids.unwrap_or_default();
        format!(
            "endpoint {} of `{}/{}` on `{}`",
            self.id,
            ids.k8s_namespace,
            ids.k8s_pod_name,
            self.interface()
        )
    }

    fn networking(&self) -> Option<&Networking> {
        self.status.as_ref()?.networking.as_ref()
    }
}

/// The answer to `GET /endpoint/{id}/healthz`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointHealth {
    /// `OK`, `Bootstrap`, `Pending`, `Warning`, `Failure`, `Disabled`.
    #[serde(default)]
    pub overall_health: String,
}

/// The answer to `GET /healthz`.
#[derive(Debug, Deserialize)]
pub struct Status {
    /// Cilium itself.
    #[serde(default)]
    pub cilium: Option<State>,
    /// Its IPAM; not in the brief answer.
    #[serde(default)]
    pub ipam: Option<IpamStatus>,
}

/// How something is.
#[derive(Debug, Deserialize)]
pub struct State {
    /// `Ok`, `Warning`, `Failure`, `Disabled`.
    #[serde(default)]
    pub state: String,
    /// Why.
    #[serde(default)]
    pub msg: String,
}

/// What IPAM gave, to whom.
#[derive(Debug, Deserialize)]
pub struct IpamStatus {
    /// From address (after its pool's name and a slash where it is not the default's) to owner.
    #[serde(default)]
    pub allocations: Option<BTreeMap<String, String>>,
}
