//! The built agent connects pods, in real network namespaces. The IPAM plugin `host-local` has to be in
//! `/usr/lib/cni` or `/opt/cni/bin` (Debian: `containernetworking-plugins`).

mod common;
#[path = "common/world.rs"]
mod world;

use std::collections::BTreeSet;

use common::inside;
use dpu_api::{
    CniAttachment, CniCheckRequest, CniDelRequest, CnigcRequest, IntfDetails, IpDetails, IpaMallocatedbyHost,
    PodDetails,
};
use tonic::Code;
use world::{World, add, addresses, reaches, routes, sh};

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn outside() -> [String; 2] {
    ["198.51.100.2".to_owned(), "fd00:51::2".to_owned()]
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn pods_reach_each_other_and_the_world_and_an_end_of_the_agent_costs_them_nothing() {
    if !inside(
        "pods_reach_each_other_and_the_world_and_an_end_of_the_agent_costs_them_nothing",
        &["--net", "--mount"],
    ) {
        return;
    }
    block_on(async {
        let mut world = World::new(3, false);
        world.is_serving().await;
        let (one, two) = (world.pod("c1", 0).await, world.pod("c2", 2).await);
        assert_eq!((one.mtu, one.status.as_str()), (1450, "success"));
        assert_eq!(one.ip_info.as_ref().unwrap().gateway, "169.254.1.1");
        let everybody = |other| [addresses(other), outside()].concat();
        assert!(reaches("c1", &everybody(&two)) && reaches("c2", &everybody(&one)));
        assert!(reaches("outside", &[addresses(&one), addresses(&two)].concat()));

        world.kill();
        assert!(reaches("c1", &everybody(&two)), "what the kernel has needs no agent");
        // As a start of the card leaves it: the kernel knows nothing, and names have changed.
        sh("ip route flush proto 177");
        sh("ip -6 route flush proto 177");
        world.rename(0, "other");
        sh("ip address flush dev other");
        assert!(!reaches("c1", &addresses(&two)));
        world.start();
        world.is_serving().await;
        // The kernel takes up to a second before it hears IPv6 on an interface that came up.
        world.until("pods have their network again", async || reaches("c1", &everybody(&two))).await;
        assert!(reaches("c2", &everybody(&one)), "{}", world.log());

        // A VF that goes down and up has lost its routes, and nobody tells the agent.
        sh("ip link set dev vf2 down");
        world.until("the down VF is found", async || reaches("c1", &addresses(&two))).await;

        world.del("c1", 0).await;
        assert!(!reaches("c2", &addresses(&one)));
        assert!(reaches("c2", &outside()));
        world.del("c2", 2).await;
        world.must_be_clean();
    });
}

/// With the firewall of the image.
#[test]
#[ignore = "needs root, for network namespaces"]
fn pods_reach_nothing_of_the_card_itself() {
    if !inside("pods_reach_nothing_of_the_card_itself", &["--net", "--mount"]) {
        return;
    }
    block_on(async {
        let world = World::new(1, false);
        world.is_serving().await;
        world.pod("c1", 0).await;
        let _sshd = std::net::TcpListener::bind("[::]:22").unwrap();
        let connects = |from: &str, to: &str| {
            let line = format!("netns exec {from} timeout 2 bash -c </dev/tcp/{to}/22");
            let words = line.splitn(8, ' ');
            std::process::Command::new("ip").args(words).output().unwrap().status.success()
        };
        let card = ["169.254.1.1", "192.168.1.1", "198.51.100.1", "fd00:51::1"];
        for address in card {
            world.until("it is there", async || connects("c1", address)).await;
        }
        sh(&format!("nft -f {}/../rootfs-overlay/etc/nftables.conf", env!("CARGO_MANIFEST_DIR")));
        for address in card {
            assert!(!connects("c1", address), "{address}");
        }
        assert!(connects("outside", "198.51.100.1") && connects("outside", "fd00:51::1"));
        assert!(reaches("c1", &[outside().as_slice(), &["169.254.1.1".to_owned()]].concat()));
    });
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn leaks_are_found_freed_and_counted() {
    if !inside("leaks_are_found_freed_and_counted", &["--net", "--mount"]) {
        return;
    }
    block_on(async {
        let mut world = World::new(4, false);
        world.is_serving().await;
        let one = world.pod("c1", 0).await;
        for vf in 1..4 {
            world.add(&format!("c{}", vf + 1), vf).await.unwrap();
        }
        world.kill();
        // One's file is damaged, one's is gone, one was cut short, one has lost its reservation, and one
        // reservation is nobody's.
        let state = "var/lib/dpukit/agent";
        world.damage("c2:eth0");
        std::fs::remove_file(world.at(&format!("{state}/attachments/c3:eth0"))).unwrap();
        world.cut_short("c4:eth0");
        world.file(&format!("{state}/ipam/pods/10.244.0.99"), "c9\r\neth0");
        world.file(&format!("{state}/attachments/.c8:eth0"), "{");
        for address in addresses(&one) {
            std::fs::remove_file(world.at(&format!("{state}/ipam/pods/{address}"))).unwrap();
        }
        world.start();
        world.is_serving().await;
        assert!(reaches("c1", &outside()));
        assert_eq!(world.state("attachments"), ["c1:eth0"]);
        assert_eq!(world.state("damaged").len(), 1);
        assert_eq!(routes().len(), 2, "{:?}", routes());
        let mut reserved = world.reserved();
        reserved.sort();
        let mut wanted = addresses(&one).to_vec();
        wanted.sort();
        assert_eq!(reserved, wanted);
        let metrics = world.metrics().await;
        for line in
            ["dpu_leaks_freed_total 6", "dpu_state_damaged_files_total 1", "dpu_vfs{state=\"used\"} 1"]
        {
            assert!(metrics.contains(line), "{line}: {metrics}");
        }
        world.del("c1", 0).await;
        world.must_be_clean();
    });
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn many_at_once_asked_twice_late_and_by_old_peers() {
    if !inside("many_at_once_asked_twice_late_and_by_old_peers", &["--net", "--mount"]) {
        return;
    }
    block_on(async {
        let mut world = World::new(16, false);
        world.is_serving().await;
        // Everything at once, and each asked for twice.
        let names: Vec<_> = (0..16).map(|vf| format!("c{vf}")).collect();
        let mut answers = Vec::new();
        {
            let (world, tasks) = (&world, &names);
            let asks = tasks.iter().zip(0..).flat_map(|(name, vf)| [(name, vf), (name, vf)]);
            let mut waiting: Vec<_> = asks.map(|(name, vf)| Box::pin(world.add(name, vf))).collect();
            // All are begun before one is awaited.
            std::future::poll_fn(|context| {
                let mut open = false;
                waiting.retain_mut(|ask| match ask.as_mut().poll(context) {
                    std::task::Poll::Ready(answer) => {
                        answers.push(answer.unwrap());
                        false
                    }
                    std::task::Poll::Pending => {
                        open = true;
                        true
                    }
                });
                if open { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
            })
            .await;
        }
        assert_eq!(answers.len(), 32);
        let different: BTreeSet<_> = answers.iter().flat_map(addresses).collect();
        assert_eq!(different.len(), 32, "two addresses for each of 16, the same for who asks twice");
        assert_eq!(world.reserved().len(), 32);
        let first = world.add("c0", 0).await.unwrap();
        assert!(answers.contains(&first), "asked again, it answers the same");

        // The host gave VF 0 to another pod: the older attachment is stale, and its late DEL touches nothing.
        let newer = world.add("c100", 0).await.unwrap();
        assert!(!world.state("attachments").contains(&"c0:eth0".to_owned()));
        world.del("c0", 0).await;
        assert_eq!(world.add("c100", 0).await.unwrap(), newer);
        assert!(routes().iter().any(|route| route.starts_with(&addresses(&newer)[0])));
        // An ADD that is read after its pod's DEL does not take the VF from who has it.
        let late = world.add("c0", 0).await.unwrap_err();
        assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
        assert!(late.message().contains("this request is an old one"), "{late}");

        // What can't be.
        for (container, vf, code) in [
            ("c101", 16, Code::FailedPrecondition),
            ("c101", 70_000, Code::InvalidArgument),
            ("..", 1, Code::InvalidArgument),
        ] {
            assert_eq!(world.add(container, vf).await.unwrap_err().code(), code, "{container} {vf}");
        }
        let mut plugin = world.plugin().await;
        let check = |container: &str, address: &str| CniCheckRequest {
            intf_info: add(container, 0).intf_info,
            pod_info: add(container, 0).pod_info,
            ip_info: Some(IpDetails { address: address.into(), ..IpDetails::default() }),
        };
        plugin.cmd_check(check("c100", &addresses(&newer)[0])).await.unwrap();
        plugin.cmd_check(check("c100", "")).await.unwrap();
        let error = plugin.cmd_check(check("c100", "10.244.0.250")).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert_eq!(plugin.cmd_check(check("c0", "")).await.unwrap_err().code(), Code::NotFound);
        sh(&format!("ip route del {}", addresses(&newer)[0]));
        let error = plugin.cmd_check(check("c100", "")).await.unwrap_err();
        assert!(error.message().contains("the route to"), "{error}");
        assert_eq!(world.add("c100", 0).await.unwrap().mtu, 1450, "an ADD makes it right");

        // DELs as the Go plugin sends them: without the interface, and with nothing.
        let pod = |container: &str| PodDetails { container_id: container.into(), ..PodDetails::default() };
        plugin.cmd_del(CniDelRequest { pod_info: Some(pod("c100")), intf_info: None }).await.unwrap();
        plugin.cmd_del(CniDelRequest::default()).await.unwrap();
        let nameless = IntfDetails { vfid: 1, ..IntfDetails::default() };
        plugin.cmd_del(CniDelRequest { pod_info: None, intf_info: Some(nameless) }).await.unwrap();
        assert_eq!(world.state("attachments").len(), 15);

        // The host's own addresses are used as they are.
        let mut given = add("c200", 0);
        given.ipam_allocatedby_host = Some(IpaMallocatedbyHost { ipam_allocatedby_host: true });
        given.ip_info = Some(IpDetails {
            version: "4".into(),
            address: "10.99.0.7".into(),
            gateway: "10.99.0.1".into(),
            dns: String::new(),
        });
        let answer = plugin.cmd_add(given).await.unwrap().into_inner();
        assert_eq!((answer.ip_info.unwrap().gateway.as_str(), answer.ip6_info), ("10.99.0.1", None));
        assert_eq!(world.reserved().len(), 30);

        let valid = vec![CniAttachment { container_id: "c3".into(), ifname: "eth0".into() }];
        let removed = plugin.cmd_gc(CnigcRequest { valid }).await.unwrap().into_inner().removed;
        assert_eq!((removed, world.state("attachments").len()), (15, 1));
        plugin.cmd_gc(CnigcRequest::default()).await.unwrap();
        world.must_be_clean();
        world.kill();
    });
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn on_one_wire_only_the_right_vf_answers_a_pod() {
    if !inside("on_one_wire_only_the_right_vf_answers_a_pod", &["--net", "--mount"]) {
        return;
    }
    block_on(async {
        let world = World::new(4, true);
        world.is_serving().await;
        let mut pods = Vec::new();
        for vf in 0..4 {
            pods.push(world.pod(&format!("c{vf}"), vf).await);
        }
        for vf in 0..4 {
            let everybody: Vec<_> = pods.iter().flat_map(addresses).chain(outside()).collect();
            assert!(reaches(&format!("c{vf}"), &everybody), "{}", world.log());
            let own: serde_json::Value =
                serde_json::from_str(&sh(&format!("ip -json link show dev vf{vf}"))).unwrap();
            let own = own[0]["address"].as_str().unwrap();
            let neighbours = sh(&format!("ip -n c{vf} neighbour show"));
            let gateways: Vec<_> = neighbours.lines().filter(|line| line.contains("lladdr")).collect();
            assert!(gateways.len() >= 2, "{neighbours}");
            for line in gateways {
                assert!(line.contains(own), "{line} is not vf{vf}, {own}");
            }
        }
    });
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_network_without_a_way_back_sees_the_cards_own_address() {
    if !inside("a_network_without_a_way_back_sees_the_cards_own_address", &["--net", "--mount"]) {
        return;
    }
    block_on(async {
        let mut world = World::new(2, false);
        world.kill();
        world.settings("subnets = [\"10.244.0.0/24\", \"fd00:10:244::/64\"], masquerade = true");
        world.start();
        world.is_serving().await;
        sh("ip -n outside route flush 10.244.0.0/16");
        sh("ip -n outside -6 route flush fd00:10:244::/48");
        let (one, two) = (world.pod("c1", 0).await, world.pod("c2", 1).await);
        assert!(reaches("c1", &[addresses(&two), outside()].concat()), "{}", world.log());
        assert!(!reaches("outside", &addresses(&one)));
    });
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn what_is_wrong_with_the_settings_is_told_and_a_card_without_pods_says_so() {
    if !inside(
        "what_is_wrong_with_the_settings_is_told_and_a_card_without_pods_says_so",
        &["--net", "--mount"],
    ) {
        return;
    }
    block_on(async {
        let mut world = World::new(2, false);
        world.is_serving().await;
        world.add("c1", 0).await.unwrap();
        world.kill();
        world.settings("subnets = [\"10.244.0.1/24\"]");
        world.start();
        world
            .until("the agent answers", async || {
                world.add("c2", 1).await.is_err_and(|error| error.code() == Code::FailedPrecondition)
            })
            .await;
        let error = world.add("c2", 1).await.unwrap_err();
        assert!(error.message().contains("write `10.244.0.0/24`"), "{error}");
        // What it had connected must not be taken for gone.
        let CniDelRequest { pod_info, intf_info } =
            CniDelRequest { pod_info: add("c1", 0).pod_info, intf_info: add("c1", 0).intf_info };
        let mut plugin = world.plugin().await;
        let error = plugin.cmd_del(CniDelRequest { pod_info, intf_info }).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        world.del("c2", 1).await;
        let list = world.program(&["pods"]);
        assert!(list.contains("made") && list.contains("default/pod-c1"), "{list}");
        let json: serde_json::Value = serde_json::from_str(&world.program(&["pods", "--json"])).unwrap();
        assert_eq!(json["attachments"][0]["container"], "c1");
    });
}
