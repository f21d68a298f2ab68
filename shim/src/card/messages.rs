//! What is said to the card of a claim.

use dpu_api::{CniCheckRequest, CniDelRequest, IntfDetails, PodDetails};

use crate::claims::Claim;

/// The pod.
pub fn pod(claim: &Claim) -> PodDetails {
    PodDetails {
        pod_namespace: claim.pod.namespace.clone(),
        pod_name: claim.pod.name.clone(),
        container_id: claim.attachment.container.clone(),
        pod_uid: claim.pod.uid.clone(),
    }
}

/// The VF, by the numbers that the card finds its own end by.
pub fn interface(claim: &Claim) -> IntfDetails {
    IntfDetails {
        name: claim.attachment.interface.clone(),
        vfid: claim.vf.number,
        pfid: claim.vf.pf,
        num_pfs: claim.vf.pfs,
    }
}

/// The request to take a pod's network away.
pub fn del(claim: &Claim) -> CniDelRequest {
    CniDelRequest { intf_info: Some(interface(claim)), pod_info: Some(pod(claim)) }
}

/// The request to check a pod's network.
pub fn check(claim: &Claim) -> CniCheckRequest {
    CniCheckRequest { intf_info: Some(interface(claim)), pod_info: Some(pod(claim)), ip_info: None }
}
