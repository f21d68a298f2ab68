//! Old peers: a host and a card that carry the Go programs, which know plain text and their own fields only.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dpukit_proofs::agent::Agent;
use dpukit_proofs::inside::inside;
use dpukit_proofs::protocols::old::cni_action_client::CniActionClient;
use dpukit_proofs::protocols::old::cni_action_server::{CniAction, CniActionServer};
use dpukit_proofs::protocols::old::{
    CniAddRequest, CniAddResponse, CniCheckRequest, CniCheckResponse, CniDelRequest, CniDelResponse,
    IntfDetails, IpDetails, PodDetails,
};
use dpukit_proofs::run::{ip, run};
use dpukit_proofs::stage::{Shape, Stage, WORLD, end_pod, make_pod, wait_until_or};
use dpukit_proofs::traffic::{ping, stream, within};
use serde_json::json;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(20);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The old host's client, with its deadline.
async fn client() -> CniActionClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", Agent::address())).unwrap();
    CniActionClient::new(endpoint.timeout(Duration::from_secs(5)).connect().await.unwrap())
}

/// What the old host says of itself: one PF, and that is number 0.
fn interface(vf: u32) -> IntfDetails {
    IntfDetails { name: "eth0".into(), vfid: vf, pfid: 0, num_pfs: 1 }
}

fn pod(container: &str) -> PodDetails {
    PodDetails {
        pod_namespace: "default".into(),
        pod_name: format!("pod-{container}"),
        container_id: container.into(),
    }
}

fn add(stage: &Stage, container: &str, vf: usize) -> CniAddRequest {
    CniAddRequest {
        pod_info: Some(pod(container)),
        intf_info: Some(interface(stage.vfs[vf].on_pf)),
        mac_addr: stage.vfs[vf].mac(),
        ..CniAddRequest::default()
    }
}

/// Gives a pod its VF as the old host does: its address as a /32, the gateway on the link, and the default
/// route through it.
fn attach(stage: &Stage, container: &str, vf: usize, made: &IpDetails) {
    let name = stage.vfs[vf].name();
    ip("", &[format!("link set dev {name} name eth0 netns {container}")]);
    ip(
        container,
        &[
            "link set dev eth0 up".into(),
            format!("address add {}/32 dev eth0", made.address),
            format!("route add {}/32 dev eth0 scope link", made.gateway),
            format!("route add default via {} dev eth0 mtu 1450", made.gateway),
        ],
    );
}

/// The way back.
fn detach(stage: &Stage, container: &str, vf: usize) {
    let name = stage.vfs[vf].name();
    run(&format!("ip -n {container} link set dev eth0 down"));
    run(&format!("ip -n {container} link set dev eth0 name {name} netns {}", std::process::id()));
    end_pod(container);
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn an_old_host_is_served_by_our_agent() {
    if !inside("an_old_host_is_served_by_our_agent") {
        return;
    }
    let stage = Stage::of(Shape { pfs: 1, vfs: 3, bridged: true, ipv6: true, secure: false });
    runtime().block_on(async {
        let mut client = client().await;
        let mut made = Vec::new();
        for (vf, container) in ["a", "b"].into_iter().enumerate() {
            make_pod(container);
            let answer = client.cmd_add(add(&stage, container, vf)).await.unwrap().into_inner();
            let ip_info = answer.ip_info.unwrap();
            assert_eq!(ip_info.version, "4");
            assert!(ip_info.address.parse::<std::net::Ipv4Addr>().is_ok(), "{ip_info:?}");
            assert!(ip_info.gateway.parse::<std::net::Ipv4Addr>().is_ok(), "{ip_info:?}");
            attach(&stage, container, vf, &ip_info);
            made.push(ip_info);
        }
        // A second ADD for the same pod is the same.
        let again = client.cmd_add(add(&stage, "a", 0)).await.unwrap().into_inner();
        assert_eq!(again.ip_info.as_ref(), Some(&made[0]));
        for to in [made[1].address.as_str(), WORLD[0]] {
            ping("a", to, PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}\n{}", stage.logs()));
        }
        stream("a", "b", &made[1].address, 64 << 20);
        let check = CniCheckRequest {
            intf_info: Some(interface(0)),
            pod_info: Some(pod("a")),
            ip_info: Some(made[0].clone()),
        };
        client.cmd_check(check).await.unwrap();

        client
            .cmd_del(CniDelRequest { intf_info: Some(interface(0)), pod_info: Some(pod("a")) })
            .await
            .unwrap();
        // As it tries again, it says less; and it may try although all went well.
        for request in [
            CniDelRequest { intf_info: None, pod_info: Some(pod("a")) },
            CniDelRequest {
                intf_info: Some(IntfDetails { name: "eth0".into(), ..IntfDetails::default() }),
                pod_info: Some(pod("a")),
            },
        ] {
            let answer = client.cmd_del(request.clone()).await;
            assert!(answer.is_ok(), "{request:?}: {answer:?}");
        }
        // What was not this pod's is still there.
        ping("b", WORLD[0], PATIENCE).unwrap_or_else(|error| panic!("{error}\n{}", stage.logs()));
        // The first DEL of a pod may be the one that says less.
        let request = CniDelRequest { intf_info: None, pod_info: Some(pod("b")) };
        client.cmd_del(request).await.unwrap();
    });
    detach(&stage, "a", 0);
    detach(&stage, "b", 1);
    stage.must_be_clean();
}

/// The old card's server: it gives each VF an address, and has no other services.
#[derive(Default)]
struct OldCard {
    asked: Mutex<Vec<String>>,
    added: Mutex<Vec<CniAddRequest>>,
}

struct Service(Arc<OldCard>);

fn name(pod: Option<&PodDetails>, interface: Option<&IntfDetails>) -> String {
    let (pod, interface) = (pod.expect("it is said"), interface.expect("it is said"));
    format!("{}:{} on {}", pod.container_id, interface.name, interface.vfid)
}

impl Service {
    fn heard(&self, what: &str, pod: Option<&PodDetails>, interface: Option<&IntfDetails>) {
        self.0.asked.lock().unwrap().push(format!("{what} {}", name(pod, interface)));
    }
}

#[tonic::async_trait]
impl CniAction for Service {
    async fn cmd_add(&self, request: Request<CniAddRequest>) -> Result<Response<CniAddResponse>, Status> {
        let request = request.into_inner();
        self.heard("ADD", request.pod_info.as_ref(), request.intf_info.as_ref());
        let vf = request.intf_info.as_ref().unwrap().vfid;
        self.0.added.lock().unwrap().push(request);
        let ip_info = IpDetails {
            version: "4".into(),
            address: format!("10.9.0.{}", vf + 2),
            gateway: "10.9.0.1".into(),
            dns: String::new(),
        };
        Ok(Response::new(CniAddResponse {
            ip_info: Some(ip_info),
            vlan: String::new(),
            status: String::new(),
        }))
    }

    async fn cmd_del(&self, request: Request<CniDelRequest>) -> Result<Response<CniDelResponse>, Status> {
        let request = request.into_inner();
        self.heard("DEL", request.pod_info.as_ref(), request.intf_info.as_ref());
        Ok(Response::new(CniDelResponse::default()))
    }

    async fn cmd_check(
        &self,
        request: Request<CniCheckRequest>,
    ) -> Result<Response<CniCheckResponse>, Status> {
        let request = request.into_inner();
        self.heard("CHECK", request.pod_info.as_ref(), request.intf_info.as_ref());
        Ok(Response::new(CniCheckResponse::default()))
    }
}

fn serve(card: &Arc<OldCard>) {
    let service = Service(Arc::clone(card));
    thread::spawn(move || {
        within("card", || {
            runtime().block_on(async {
                let incoming = TcpIncoming::bind(Agent::address()).unwrap();
                let server = Server::builder().serve_with_incoming(CniActionServer::new(service), incoming);
                server.await.unwrap();
            });
        });
    });
    wait_until_or("the old card listens", PATIENCE, || {
        let tried = std::net::TcpStream::connect_timeout(&Agent::address(), Duration::from_millis(200));
        tried.map(drop).map_err(|error| error.to_string())
    });
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn an_old_card_serves_our_plugin() {
    if !inside("an_old_card_serves_our_plugin") {
        return;
    }
    let stage = Stage::without_agent(Shape { pfs: 1, vfs: 2, bridged: true, ipv6: false, secure: false });
    let card = Arc::new(OldCard::default());
    serve(&card);
    // The card's network, as the old card's own plugins would have made it.
    for vf in &stage.vfs {
        let end = vf.card();
        ip(
            "card",
            &[
                format!("address add 10.9.0.1/32 dev {end}"),
                format!("route add 10.9.0.{}/32 dev {end}", vf.on_pf + 2),
            ],
        );
    }
    run("ip -n outside route add 10.9.0.0/24 via 203.0.113.1");
    // It has no health service: that it answers is all there is to know.
    stage.call("STATUS", "", &json!({})).result_is_empty();
    let answers = ["a", "b"].map(|pod| stage.add(pod));
    assert_eq!(answers[0].address(false).unwrap(), "10.9.0.2");
    assert_eq!(answers[0].address(true), None);
    for to in ["10.9.0.3", WORLD[0]] {
        ping("a", to, PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}\n{}", stage.logs()));
    }
    {
        let added = card.added.lock().unwrap();
        let interface = added[1].intf_info.clone().unwrap();
        assert_eq!((interface.vfid, interface.pfid, interface.num_pfs), (1, 0, 1));
        assert_eq!(added[1].mac_addr, stage.vfs[1].mac());
    }
    let previous = json!({"prevResult": answers[0].result()});
    stage.call("CHECK", "a", &previous).result_is_empty();
    // It does not know GC, which takes away what the host knows of all the same.
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]});
    stage.call("GC", "", &valid).result_is_empty();
    stage.call("DEL", "a", &json!({})).result_is_empty();
    stage.call("DEL", "b", &json!({})).result_is_empty();
    assert_eq!(
        *card.asked.lock().unwrap(),
        ["ADD a:eth0 on 0", "ADD b:eth0 on 1", "CHECK a:eth0 on 0", "DEL b:eth0 on 1", "DEL a:eth0 on 0"]
    );
    end_pod("a");
    end_pod("b");
    let strays = dpukit_proofs::driver::strays(&stage.vfs);
    assert!(strays.is_empty(), "{strays:?}");
    assert_eq!((stage.files("claims").len(), stage.files("tombstones").len()), (0, 0));
}
