//! The built plugin with real network namespaces: a VF is a veth, whose other end plays the card.
//!
//! One thing is not as it is with a VF: where a namespace ends, the kernel gives a VF's interface back to
//! the host, and destroys a veth. Tests that need it back make it anew, as the kernel would name it.

mod common;

use std::time::Duration;

use common::agent::Mood;
use common::{Answer, MTU, World, inside, link, mac, make_pod, run, show, wait_until};
use serde_json::{Value, json};

/// The routes of a pod, as `ip` shows them, of both families.
fn routes(pod: &str) -> Vec<String> {
    let all = ["-4", "-6"].map(|family| run(&format!("ip -n {pod} {family} route show dev eth0")));
    let lines = all.iter().flat_map(|text| text.lines());
    let ours = lines.filter(|line| !line.contains("proto kernel"));
    ours.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn addresses(pod: &str) -> Vec<String> {
    let shown = show(pod, "address");
    let eth0 = shown.iter().find(|link| link["ifname"] == "eth0").unwrap();
    let all = eth0["addr_info"].as_array().unwrap().iter().filter(|address| address["scope"] == "global");
    all.map(|address| format!("{}/{}", address["local"].as_str().unwrap(), address["prefixlen"])).collect()
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_pod_gets_a_vf_with_its_network_and_the_host_gets_it_back() {
    if !inside("a_pod_gets_a_vf_with_its_network_and_the_host_gets_it_back") {
        return;
    }
    let world = World::new(2);
    let result = world.add("c1", &json!({}));
    insta::assert_snapshot!(result.to_string(), @r#"{"cniVersion":"1.1.0","dns":{},"interfaces":[{"mac":"02:00:00:00:00:00","mtu":1600,"name":"eth0","pciID":"0000:01:10.0","sandbox":"/run/netns/c1"}],"ips":[{"address":"10.1.0.16/32","gateway":"10.1.0.1","interface":0}],"routes":[{"dst":"10.1.0.1/32"},{"dst":"0.0.0.0/0","gw":"10.1.0.1","mtu":1450}]}"#);
    let eth0 = link("c1", "eth0").unwrap();
    assert_eq!(eth0["address"], mac(0));
    assert_eq!(link("", "vf0"), None);
    assert_eq!(addresses("c1"), ["10.1.0.16/32"]);
    insta::assert_snapshot!(routes("c1").join("\n"), @r#"
    default via 10.1.0.1 proto static mtu 1450
    10.1.0.1 proto static scope link
    "#);
    let asked = world.agent.added();
    insta::assert_snapshot!(format!("{asked:?}"), @r#"CniAddRequest { pod_info: Some(PodDetails { pod_namespace: "default", pod_name: "pod-c1", container_id: "c1", pod_uid: "" }), intf_info: Some(IntfDetails { name: "eth0", vfid: 0, pfid: 0, num_pfs: 1 }), mac_addr: "02:00:00:00:00:00", ipam_allocatedby_host: Some(IpaMallocatedbyHost { ipam_allocatedby_host: false }), ip_info: None, offload_flags: None, vlan: "", ip6_info: None }"#);

    // What a pod may do to its interface does not outlive it.
    run("ip -n c1 link set dev eth0 down");
    run("ip -n c1 link set dev eth0 mtu 1300 name other");
    world.del("c1");
    world.must_be_clean();
    assert_eq!(show("c1", "link").len(), 1, "only the loopback is left");
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn pods_reach_each_other_in_both_families_and_neighbours_hear_of_them() {
    if !inside("pods_reach_each_other_in_both_families_and_neighbours_hear_of_them") {
        return;
    }
    let world = World::new(2);
    world.agent.with_ipv6();
    for pod in ["c1", "c2"] {
        // As runtimes leave it in pods that had no IPv6 so far.
        make_pod(pod);
        run(&format!("ip netns exec {pod} sysctl -q -w net.ipv6.conf.default.disable_ipv6=1"));
        world.call("ADD", pod, &json!({})).result();
    }
    assert_eq!(addresses("c2"), ["10.1.0.17/32", "fd00:1::11/128"]);
    insta::assert_snapshot!(routes("c2").join("\n"), @r#"
    default via 10.1.0.1 proto static mtu 1450
    10.1.0.1 proto static scope link
    fd00:1::1 proto static metric 1024 pref medium
    default via fd00:1::1 proto static metric 1024 mtu 1450 pref medium
    "#);
    // Nothing was sent but the announcements, which the card's end takes in.
    for (vf, pod) in [(0, 16), (1, 17)] {
        let neighbours = run(&format!("ip -n card neighbour show dev card{vf}"));
        for ip in [format!("10.1.0.{pod} "), format!("fd00:1::{pod:x} ")] {
            let known = neighbours.lines().any(|line| line.starts_with(&ip) && line.contains(&mac(vf)));
            assert!(known, "{ip} is not in:\n{neighbours}");
        }
    }
    for (family, address) in [("-4", "10.1.0.17"), ("-6", "fd00:1::11"), ("-4", "10.1.0.1")] {
        assert!(ping(family, address), "{address}");
    }
    world.del("c1");
    world.del("c2");
    world.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn an_address_is_announced_where_the_cable_comes_late() {
    if !inside("an_address_is_announced_where_the_cable_comes_late") {
        return;
    }
    let world = World::new(1);
    run("ip -n card link set dev card0 down");
    make_pod("c1");
    let call = world.start("ADD", "c1", &json!({}));
    wait_until("the pod's end is up", || {
        link("c1", "eth0").is_some_and(|link| link["flags"].to_string().contains("\"UP\""))
    });
    run("ip -n card link set dev card0 up");
    Answer::of(call).result();
    wait_until("the card has heard of it", || {
        let neighbours = run("ip -n card neighbour show dev card0");
        neighbours.lines().any(|line| line.starts_with("10.1.0.16 ") && line.contains(&mac(0)))
    });
    world.del("c1");
    world.must_be_clean();
}

/// Whether a pod gets an answer from an address, through a TCP connection: to be refused is an answer.
fn ping(_family: &str, address: &str) -> bool {
    let pod = dpukit_host::namespace::Namespace::open("/run/netns/c1".as_ref()).unwrap();
    let address = std::net::SocketAddr::new(address.parse().unwrap(), 9);
    pod.within(|| {
        let tried = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(3));
        Ok(tried.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused))
    })
    .unwrap()
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn every_version_is_answered_in_its_own_words() {
    if !inside("every_version_is_answered_in_its_own_words") {
        return;
    }
    let world = World::new(1);
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let result = world.add(&format!("c{version}"), &json!({"cniVersion": version}));
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0].get("version").is_some(), version < "1.0.0");
        assert_eq!(result["interfaces"][0].get("pciID").is_some(), version == "1.1.0");
        world.del(&format!("c{version}"));
    }
    world.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn sixteen_adds_at_once_never_share_a_vf() {
    if !inside("sixteen_adds_at_once_never_share_a_vf") {
        return;
    }
    let world = World::new(12);
    for round in 0..3 {
        let names: Vec<_> = (0..16).map(|pod| format!("r{round}c{pod}")).collect();
        for name in &names {
            make_pod(name);
        }
        let calls: Vec<_> = names.iter().map(|name| world.start("ADD", name, &json!({}))).collect();
        let answers: Vec<_> = calls.into_iter().map(Answer::of).collect();
        let mut macs = Vec::new();
        for answer in &answers {
            if answer.success {
                macs.push(answer.result()["interfaces"][0]["mac"].as_str().unwrap().to_owned());
            } else {
                assert_eq!(answer.error().0, 11, "{answer:?}");
            }
        }
        macs.sort();
        assert_eq!(macs, (0..12).map(mac).collect::<Vec<_>>());
        assert_eq!(world.agent.shared(), None);
        let calls: Vec<_> = names.iter().map(|name| world.start("DEL", name, &json!({}))).collect();
        assert!(calls.into_iter().map(Answer::of).all(|answer| answer.success));
        world.must_be_clean();
    }
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_del_that_comes_late_or_twice_touches_nothing() {
    if !inside("a_del_that_comes_late_or_twice_touches_nothing") {
        return;
    }
    let world = World::new(1);
    world.add("c1", &json!({}));
    world.del("c1");
    world.add("c2", &json!({}));
    let before = show("c2", "address");
    world.agent.asked();
    world.del("c1");
    run("ip netns del c1");
    world.del("c1");
    assert_eq!(world.agent.asked(), [""; 0]);
    assert_eq!(show("c2", "address"), before);
    world.del("c2");
    world.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_vf_that_comes_back_by_itself_gets_its_name_address_and_mtu_back() {
    if !inside("a_vf_that_comes_back_by_itself_gets_its_name_address_and_mtu_back") {
        return;
    }
    let world = World::new(2);
    world.add("c1", &json!({}));
    run("ip netns del c1");
    wait_until("the veth goes with its namespace", || link("card", "card0").is_none());
    // The kernel gives a VF back under the pod's name for it, or under one like this.
    world.plug(0, "dev7", "02:00:00:00:00:99", 1300);
    run("ip link set dev dev7 up");
    let call = world.start_with("DEL", "c1", "no configuration");
    // As sysfs shows it once it is renamed.
    wait_until("it is renamed", || link("", "vf0").is_some());
    world.fake.interface(&world.vfs[0], "vf0");
    assert!(Answer::of(call).success);
    world.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_vf_that_comes_back_late_is_put_right_before_the_next_pod_gets_it() {
    if !inside("a_vf_that_comes_back_late_is_put_right_before_the_next_pod_gets_it") {
        return;
    }
    let world = World::new(1);
    world.add("c1", &json!({}));
    run("ip netns del c1");
    wait_until("the veth goes with its namespace", || link("card", "card0").is_none());
    let answer = world.call("DEL", "c1", &json!({"deadlineSeconds": 2}));
    assert!(answer.success && answer.took < Duration::from_secs(2), "{answer:?}");
    assert_eq!((world.files("claims").len(), world.files("tombstones").len()), (0, 1));
    assert_eq!(world.agent.attachments(), [""; 0], "what could be done is done");

    make_pod("c2");
    let (code, details) = world.call("ADD", "c2", &json!({"deadlineSeconds": 2})).error();
    assert_eq!(code, 11);
    assert!(details.contains("none of 1 VFs is free: pods have 0, 1 wait"), "{details}");

    world.plug(0, "vf0", "02:00:00:00:00:99", 1300);
    let result = world.call("ADD", "c2", &json!({})).result();
    assert_eq!(result["interfaces"][0]["mac"], mac(0));
    assert_eq!(result["interfaces"][0]["mtu"], MTU);
    world.del("c2");
    world.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn the_claim_of_a_pod_that_vanished_is_recovered_when_its_vf_is_needed() {
    if !inside("the_claim_of_a_pod_that_vanished_is_recovered_when_its_vf_is_needed") {
        return;
    }
    let world = World::new(1);
    world.add("c1", &json!({}));
    // A running pod keeps what it has.
    make_pod("c2");
    assert_eq!(world.call("ADD", "c2", &json!({})).error().0, 11);
    run("ip netns del c1");
    wait_until("the veth goes with its namespace", || link("card", "card0").is_none());
    world.plug(0, "vf0", &mac(0), MTU);
    world.call("ADD", "c2", &json!({})).result();
    assert_eq!(world.agent.attachments(), ["c2:eth0"]);
    // The host starts anew: its namespaces are gone, though others have their numbers by now.
    run(&format!("ip -n c2 link set dev eth0 name vf0 netns {}", std::process::id()));
    world.fake.file("/proc/sys/kernel/random/boot_id", "the next start");
    world.add("c3", &json!({}));
    assert_eq!(world.agent.attachments(), ["c3:eth0"]);
    world.del("c2");
    world.del("c3");
    world.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn an_agent_that_never_answers_costs_the_deadline_and_nothing_more() {
    if !inside("an_agent_that_never_answers_costs_the_deadline_and_nothing_more") {
        return;
    }
    let world = World::new(2);
    world.agent.set_mood(Mood::Mute);
    make_pod("c1");
    let answer = world.call("ADD", "c1", &json!({}));
    let (code, details) = answer.error();
    assert!(answer.took < Duration::from_secs(5), "{answer:?}");
    assert_eq!(code, 11);
    assert!(
        details.starts_with("asking the agent at 127.0.0.1:8000 for cmdAdd: no answer in 4."),
        "{details}"
    );
    // The agent was told to forget it, and did not say whether it heard.
    assert_eq!(world.agent.asked(), ["ADD c1:eth0", "DEL c1:eth0"]);
    assert_eq!((world.files("claims").len(), world.files("tombstones").len()), (0, 1));
    assert!(link("", "vf0").is_some());

    world.agent.set_mood(Mood::Silent);
    let answer = world.call("DEL", "c1", &json!({"deadlineSeconds": 1}));
    assert!(answer.success && answer.took < Duration::from_secs(1), "{answer:?}");
    assert_eq!(world.files("tombstones").len(), 1);
    world.agent.asked();

    world.agent.set_mood(Mood::Good);
    let result = world.add("c2", &json!({}));
    assert_eq!(result["interfaces"][0]["mac"], mac(1), "a VF without a tombstone goes first");
    assert_eq!(world.agent.asked(), ["ADD c2:eth0", "DEL c1:eth0"], "the tombstone is settled by the way");
    world.del("c2");
    world.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_card_that_is_away_fails_adds_and_status_but_no_del() {
    if !inside("a_card_that_is_away_fails_adds_and_status_but_no_del") {
        return;
    }
    let mut world = World::new(1);
    let short = json!({"deadlineSeconds": 2});
    world.call("STATUS", "", &json!({})).result_is_empty();
    world.add("c1", &json!({}));
    world.agent.stop();

    let (code, details) = world.call("STATUS", "", &short).error();
    assert_eq!(code, 50);
    assert!(details.contains("asking the agent at 127.0.0.1:8000 for Health/Check"), "{details}");
    let answer = world.call("DEL", "c1", &short);
    assert!(answer.success && answer.took < Duration::from_secs(2), "{answer:?}");
    assert!(link("", "vf0").is_some(), "the host's part is done");
    assert_eq!((world.files("claims").len(), world.files("tombstones")), (0, vec!["c1:eth0".to_owned()]));
    // The card may still send the old pod's packets to this VF: nobody gets it before it has been told.
    make_pod("c2");
    assert_eq!(world.call("ADD", "c2", &short).error().0, 11);
    assert_eq!(world.files("tombstones"), ["c1:eth0"], "an ADD that asked nothing leaves nothing");

    world.agent.resume(None);
    assert_eq!(world.agent.attachments(), ["c1:eth0"]);
    world.call("STATUS", "", &json!({})).result_is_empty();
    world.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_busy_agent_is_asked_again_and_one_that_refuses_is_not() {
    if !inside("a_busy_agent_is_asked_again_and_one_that_refuses_is_not") {
        return;
    }
    let world = World::new(1);
    world.agent.set_mood(Mood::Busy(3));
    world.add("c1", &json!({}));
    assert_eq!(world.agent.asked(), ["ADD c1:eth0"; 4]);
    world.del("c1");
    world.agent.asked();
    world.agent.set_mood(Mood::Refusing);
    make_pod("c2");
    let answer = world.call("ADD", "c2", &json!({}));
    insta::assert_snapshot!(format!("{:?}", answer.error()), @r#"(100, "asking the agent at 127.0.0.1:8000 for cmdAdd: FailedPrecondition: no endpoint can be made")"#);
    assert!(answer.took < Duration::from_secs(1), "{answer:?}");
    assert_eq!(world.agent.asked(), ["ADD c2:eth0", "DEL c2:eth0"]);
    world.agent.set_mood(Mood::Good);
    world.del("c2");
    world.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn what_a_killed_add_left_is_undone_by_del_or_by_the_next_add() {
    if !inside("what_a_killed_add_left_is_undone_by_del_or_by_the_next_add") {
        return;
    }
    let world = World::new(1);
    make_pod("c1");
    for next in ["DEL", "ADD"] {
        world.agent.set_mood(Mood::Mute);
        let mut call = world.start("ADD", "c1", &json!({}));
        wait_until("the agent is asked", || world.agent.asked().contains(&"ADD c1:eth0".to_owned()));
        call.kill().unwrap();
        call.wait().unwrap();
        assert_eq!(world.files("claims").len(), 1);
        world.agent.set_mood(Mood::Good);
        let answer = world.call(next, "c1", &json!({}));
        assert!(answer.success, "{answer:?}");
        assert_eq!(world.files("claims").len(), usize::from(next == "ADD"));
    }
    world.del("c1");
    world.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn check_sees_what_is_no_longer_as_add_left_it() {
    if !inside("check_sees_what_is_no_longer_as_add_left_it") {
        return;
    }
    let mut world = World::new(1);
    world.agent.with_ipv6();
    let result = world.add("c1", &json!({}));
    let previous = json!({"prevResult": result});
    world.call("CHECK", "c1", &previous).result_is_empty();
    assert_eq!(world.call("CHECK", "c1", &json!({})).error().0, 7, "`prevResult` is needed");
    let older = json!({"prevResult": result, "cniVersion": "0.3.1"});
    assert!(world.call("CHECK", "c1", &older).text.contains("\"code\":1"));
    world.agent.stop();
    let away = json!({"prevResult": result, "deadlineSeconds": 1});
    assert_eq!(world.call("CHECK", "c1", &away).error().0, 11, "that says nothing of the pod's network");
    world.agent.resume(None);
    let mut found = Vec::new();
    for (change, back) in [
        ("route del default", "route add default via 10.1.0.1 dev eth0 mtu 1450"),
        ("address del 10.1.0.16/32 dev eth0", "address add 10.1.0.16/32 dev eth0"),
        ("-6 route del default", "-6 route add default via fd00:1::1 dev eth0 mtu 1450"),
        ("link set dev eth0 down", "link set dev eth0 up"),
    ] {
        run(&format!("ip -n c1 {change}"));
        let (code, details) = world.call("CHECK", "c1", &previous).error();
        assert_eq!(code, 101);
        found.push(details);
        run(&format!("ip -n c1 {back}"));
    }
    insta::assert_snapshot!(found.join("\n"), @r#"
    `eth0` has lost the route to 0.0.0.0/0
    `eth0` has lost the address 10.1.0.16/32
    `eth0` has lost the route to 0.0.0.0/0
    `eth0` is down
    "#);
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn gc_leaves_what_is_valid_and_other_networks() {
    if !inside("gc_leaves_what_is_valid_and_other_networks") {
        return;
    }
    let world = World::new(4);
    for (pod, network) in [("c1", "offload"), ("c2", "offload"), ("c3", "other")] {
        world.add(pod, &json!({"name": network}));
    }
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]});
    world.call("GC", "", &valid).result_is_empty();
    assert_eq!(world.agent.attachments(), ["c1:eth0", "c3:eth0"]);
    assert_eq!(world.files("claims").len(), 2);
    assert!(link("", "vf1").is_some());
    assert!(link("c1", "eth0").is_some() && link("c3", "eth0").is_some());
    world.call("GC", "", &json!({"cni.dev/valid-attachments": null})).result_is_empty();
    world.call("GC", "", &json!({"name": "other", "cni.dev/valid-attachments": null})).result_is_empty();
    world.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn the_hosts_ipam_plugin_makes_the_addresses_and_takes_them_back() {
    if !inside("the_hosts_ipam_plugin_makes_the_addresses_and_takes_them_back") {
        return;
    }
    let world = World::new(1);
    let plugin = world.plugin(
        "test-ipam",
        r#"#!/bin/sh
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >> "$0.log"
cat > "$0.input"
if [ -e "$0.fail" ]; then echo '{"code": 106, "msg": "no address is free", "details": "of 254"}'; exit 1; fi
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion": "1.1.0",
  "ips": [{"address": "10.1.0.200/24", "gateway": "10.1.0.1"}], "dns": {"nameservers": ["10.1.0.53"]}}'
"#,
    );
    let said = |kind: &str| {
        let path = plugin.with_extension(kind);
        std::fs::read_to_string(&path).inspect(|_| std::fs::remove_file(&path).unwrap()).unwrap_or_default()
    };
    let ipam = json!({"ipam": {"type": "test-ipam", "range": "any"}});
    let result = world.add("c1", &ipam);
    assert_eq!(result["ips"][0]["address"], "10.1.0.200/32");
    assert_eq!(result["dns"]["nameservers"][0], "10.1.0.53");
    assert_eq!(addresses("c1"), ["10.1.0.200/32"]);
    let asked = world.agent.added();
    assert!(asked.ipam_allocatedby_host.unwrap().ipam_allocatedby_host);
    assert_eq!(asked.ip_info.unwrap().address, "10.1.0.200");
    let input: Value = serde_json::from_str(&said("input")).unwrap();
    assert_eq!((&input["ipam"]["range"], &input["name"]), (&json!("any"), &json!("offload")));
    // The claim knows the plugin, so that the configuration is not needed.
    assert!(Answer::of(world.start_with("DEL", "c1", "{}")).success);
    assert_eq!(said("log"), "ADD c1 eth0\nDEL c1 eth0\n");

    std::fs::write(plugin.with_extension("fail"), "").unwrap();
    make_pod("c2");
    insta::assert_snapshot!(format!("{:?}", world.call("ADD", "c2", &ipam).error()), @r#"(106, "ADD of the IPAM plugin `test-ipam`: no address is free; of 254")"#);
    assert_eq!(world.files("tombstones"), ["c2:eth0"], "its DEL failed as well");
    std::fs::remove_file(plugin.with_extension("fail")).unwrap();
    world.del("c2");
    world.must_be_clean();

    make_pod("c3");
    let missing = json!({"ipam": {"type": "nobody"}});
    let (code, details) = world.call("ADD", "c3", &missing).error();
    assert_eq!(code, 5);
    assert!(details.contains("`nobody`: it is in none of the folders of `CNI_PATH`: `"), "{details}");
    world.call("DEL", "c3", &json!({}));
    world.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn what_cannot_be_is_refused_before_anything_is_touched() {
    if !inside("what_cannot_be_is_refused_before_anything_is_touched") {
        return;
    }
    let world = World::new(1);
    let refused = |container: &str, change: &Value| world.call("ADD", container, change).error().0;
    assert_eq!(refused("nowhere", &json!({})), 3);
    make_pod("c1");
    run("ip -n c1 link add eth0 type veth peer name other");
    assert_eq!(refused("c1", &json!({})), 4, "the name is taken");
    make_pod("c2");
    assert_eq!(refused("c2", &json!({"deviceID": "0000:99:00.0"})), 7);
    assert_eq!(refused("c2", &json!({"vf": "8086:10ca"})), 11);
    assert_eq!(refused("c2", &json!({"insecure": false})), 7);
    let tls =
        json!({"ca": "/nowhere/ca.pem", "certificate": "/nowhere/host.pem", "key": "/nowhere/host.key"});
    assert_eq!(refused("c2", &json!({"insecure": false, "tls": tls})), 7);
    assert_eq!(world.agent.asked(), [""; 0]);
    world.must_be_clean();
    world.call("ADD", "c2", &json!({"runtimeConfig": {"deviceID": world.vfs[0]}})).result();
    world.del("c2");
    world.must_be_clean();
}
