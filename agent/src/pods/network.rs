//! What makes the network of a pod on the card: the seam between the calls of the host's plugin and the
//! ways in which a card connects pods.
//!
//! Whoever calls a [`Network`] keeps the books: it calls it for one pod at a time, for different pods at
//! once, and remembers on disk what [`Network::add`] gave back, so that [`Network::del`] can be called
//! after a restart with the same words.

use std::net::IpAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A pod's interface, and the VF of the card that is wired to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The sandbox's id (`CNI_CONTAINERID`).
    pub container: String,
    /// The interface's name in the pod (`CNI_IFNAME`).
    pub interface: String,
    /// The pod's namespace, name and UID in Kubernetes; empty where the runtime did not say.
    pub pod: Pod,
    /// The hardware address of the pod's interface.
    pub mac: String,
    /// The card's end.
    pub vf: Vf,
    /// Addresses that the host's IPAM plugin made; none where the card is to make them.
    pub given: Vec<End>,
}

/// A pod of Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A VF of the card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vf {
    /// Its PCI address on the card.
    pub address: String,
    /// Its network interface.
    pub interface: String,
}

/// An address of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The pod's address.
    pub address: IpAddr,
    /// The gateway that the pod sends to; none where the host said nothing.
    pub gateway: Option<IpAddr>,
}

/// A network that was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The pod's addresses, at most one of each family.
    pub ends: Vec<End>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// The largest packet that the network takes, in octets; 0 where it does not say.
    pub mtu: u32,
    /// What the network itself wants to be told again at DEL and CHECK.
    pub kept: Value,
}

/// Why a network was not made, or not found as it should be.
#[derive(Debug)]
pub enum Refusal {
    /// The same call may succeed later: a limit, a daemon that is not there, a deadline.
    Later(anyhow::Error),
    /// No call with these words will succeed.
    Never(anyhow::Error),
}

/// A way to connect pods.
#[tonic::async_trait]
pub trait Network: Send + Sync {
    /// Its name in logs and metrics: `routed`.
    fn name(&self) -> &'static str;

    /// Makes the network of an attachment that has none, or has remains of an earlier try, which are adopted or
    /// replaced. A call that fails leaves nothing behind, addresses included.
    async fn add(&self, attachment: &Attachment, deadline: Instant) -> Result<Made, Refusal>;

    /// Takes it away; what is gone already is a success. `made` is none where an ADD was cut short.
    async fn del(
        &self,
        attachment: &Attachment,
        made: Option<&Made>,
        deadline: Instant,
    ) -> Result<(), Refusal>;

    /// Whether it is as ADD left it.
    async fn check(&self, attachment: &Attachment, made: &Made, deadline: Instant) -> Result<(), Refusal>;

    /// After a start of the agent or of the card: makes right what is wrong of `known`, and takes away all that is
    /// of no known attachment.
    ///
    /// # Errors
    /// Where the network itself can't be asked: no pod can be added then.
    async fn reconcile(&self, known: &[(Attachment, Made)]) -> anyhow::Result<Reconciled>;

    /// Whether an ADD could succeed now.
    async fn ready(&self) -> anyhow::Result<()>;
}

/// What came of a comparison with what exists.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// How many leaks were freed.
    pub freed: u32,
    /// What could not be put right. That is the trouble of single pods, which can be ended all the same, and no
    /// reason to refuse others.
    pub wrong: Vec<anyhow::Error>,
}
