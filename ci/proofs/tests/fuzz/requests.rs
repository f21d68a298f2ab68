//! Requests to the agent.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dpu_api::cni_action_client::CniActionClient;
use dpu_api::{
    CniAddRequest, CniAttachment, CniCheckRequest, CniDelRequest, CnigcRequest, IntfDetails, IpDetails,
    IpaMallocatedbyHost, PodDetails,
};
use dpukit_proofs::agent::Agent;
use dpukit_proofs::inside::inside;
use dpukit_proofs::stage::{Shape, Stage};
use proptest::prelude::*;
use tonic::transport::{Channel, Endpoint};

use crate::{property, works};

/// So many that each kind is served some times: a CHECK needs a request that fits an ADD before it.
const REQUESTS: u32 = 2400;

/// A text of a request: what is expected, or what is not.
fn any_text(good: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![
        12 => Just(good.to_owned()),
        1 => Just(String::new()),
        1 => "\\PC{0,20}",
        1 => prop::sample::select(vec!["../../../etc/passwd", "a/b", "..", "\0", "eth0;id", "::", "0.0.0.0", "fe80::1"])
            .prop_map(str::to_owned),
        1 => "[a-z]{300,400}",
    ]
}

fn any_details(address: &'static str) -> impl Strategy<Value = Option<IpDetails>> {
    prop::option::of(
        (any_text("4"), any_text(address), any_text("10.244.0.1"), any_text(""))
            .prop_map(|(version, address, gateway, dns)| IpDetails { version, address, gateway, dns }),
    )
}

fn any_interface() -> impl Strategy<Value = Option<IntfDetails>> {
    let mostly = |good| prop_oneof![12 => Just(good), 2 => 0..3_u32, 1 => any::<u32>()];
    let number = || prop_oneof![3 => 0..3_u32, 1 => any::<u32>()];
    prop::option::weighted(
        0.9,
        (any_text("eth0"), number(), mostly(0), mostly(1))
            .prop_map(|(name, vfid, pfid, num_pfs)| IntfDetails { name, vfid, pfid, num_pfs }),
    )
}

fn any_pod() -> impl Strategy<Value = Option<PodDetails>> {
    prop::option::weighted(
        0.9,
        (any_text("default"), any_text("p"), any_text("c1"), any_text("")).prop_map(
            |(pod_namespace, pod_name, container_id, pod_uid)| PodDetails {
                pod_namespace,
                pod_name,
                container_id,
                pod_uid,
            },
        ),
    )
}

/// A request of any kind.
#[derive(Debug, Clone)]
enum Asked {
    Add(Box<CniAddRequest>),
    Del(CniDelRequest),
    Check(CniCheckRequest),
    Gc(CnigcRequest),
}

impl Asked {
    fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Del(_) => "DEL",
            Self::Check(_) => "CHECK",
            Self::Gc(_) => "GC",
        }
    }
}

fn any_request() -> impl Strategy<Value = Asked> {
    let add = (
        any_pod(),
        any_interface(),
        any_text("02:00:00:00:00:00"),
        any::<bool>(),
        any_details("10.244.0.77"),
        any_details("fd00:10:244::77"),
        any_text(""),
    );
    let add = add.prop_map(|(pod_info, intf_info, mac_addr, by_host, ip_info, ip6_info, vlan)| {
        Asked::Add(Box::new(CniAddRequest {
            pod_info,
            intf_info,
            mac_addr,
            ipam_allocatedby_host: Some(IpaMallocatedbyHost { ipam_allocatedby_host: by_host }),
            ip_info,
            ip6_info,
            vlan,
            ..CniAddRequest::default()
        }))
    });
    let del = (any_interface(), any_pod())
        .prop_map(|(intf_info, pod_info)| Asked::Del(CniDelRequest { intf_info, pod_info }));
    let check =
        (any_interface(), any_pod(), any_details("10.244.0.2")).prop_map(|(intf_info, pod_info, ip_info)| {
            Asked::Check(CniCheckRequest { intf_info, pod_info, ip_info })
        });
    let attachment = (any_text("c1"), any_text("eth0"))
        .prop_map(|(container_id, ifname)| CniAttachment { container_id, ifname });
    let gc = prop::collection::vec(attachment, 0..4).prop_map(|valid| Asked::Gc(CnigcRequest { valid }));
    prop_oneof![4 => add, 3 => del, 4 => check, 1 => gc]
}

async fn ask(client: &mut CniActionClient<Channel>, asked: Asked) -> Result<(), tonic::Status> {
    match asked {
        Asked::Add(request) => client.cmd_add(*request).await.map(drop),
        Asked::Del(request) => client.cmd_del(request).await.map(drop),
        Asked::Check(request) => client.cmd_check(request).await.map(drop),
        Asked::Gc(request) => client.cmd_gc(request).await.map(drop),
    }
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn the_agent_answers_whatever_it_is_asked() {
    if !inside("requests::the_agent_answers_whatever_it_is_asked") {
        return;
    }
    let stage = Stage::of(Shape { pfs: 1, vfs: 3, bridged: true, ipv6: true, secure: false });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", Agent::address())).unwrap();
    let channel = runtime.block_on(endpoint.timeout(Duration::from_secs(10)).connect()).unwrap();
    let client = CniActionClient::new(channel);
    // How often each kind was served: if none ever was, it was not looked at.
    let served = Mutex::new(BTreeMap::<_, u32>::new());
    property(REQUESTS, &any_request(), |asked| {
        let name = asked.name();
        let start = Instant::now();
        let answer = runtime.block_on(ask(&mut client.clone(), asked));
        prop_assert!(start.elapsed() < Duration::from_secs(6), "it took {:?}", start.elapsed());
        if answer.is_ok() {
            *served.lock().unwrap().entry(name).or_default() += 1;
        }
        if let Err(status) = answer {
            use tonic::Code as Grpc;
            let faults =
                [Grpc::Internal, Grpc::Unknown, Grpc::Cancelled, Grpc::DataLoss, Grpc::DeadlineExceeded];
            prop_assert!(!faults.contains(&status.code()), "{status:?}\n{}", stage.agent.log());
            prop_assert!(!status.message().is_empty(), "{status:?}");
        }
        Ok(())
    });
    let served = served.into_inner().unwrap();
    assert!(["ADD", "DEL", "CHECK", "GC"].iter().all(|name| served.contains_key(name)), "{served:?}");
    println!("proof: of {REQUESTS} requests, {served:?} were served");
    // Octets that are no requests at all.
    property(100, &(any::<bool>(), prop::collection::vec(any::<u8>(), 0..400)), |(is_http, octets)| {
        let mut stream = TcpStream::connect(Agent::address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        if is_http {
            let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        }
        let _ = stream.write_all(&octets);
        let _ = stream.read(&mut [0; 64]);
        Ok(())
    });
    let gc = CnigcRequest { valid: Vec::new() };
    runtime.block_on(client.clone().cmd_gc(gc)).unwrap();
    works(&stage, "comes").unwrap();
    stage.must_be_clean();
}
