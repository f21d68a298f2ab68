//! The real plugin and the real agent, with host and card as network namespaces: pods reach each other and
//! the world, whatever happens to agent, card and link.

use std::fs;
use std::time::Duration;

use dpukit_proofs::call::{Answer, address};
use dpukit_proofs::inside::inside;
use dpukit_proofs::run::{link, run, show, wait_until};
use dpukit_proofs::stage::{Stage, WORLD, end_pod, make_pod, wait_until_or};
use dpukit_proofs::traffic::{ping, stream};
use serde_json::{Value, json};

/// How long a pod may be without its network after what was done to the card.
const PATIENCE: Duration = Duration::from_secs(20);

const GIB: u64 = 1 << 30;

/// The addresses of a pod in both families.
fn both(answer: &Answer) -> [String; 2] {
    [false, true].map(|is_ipv6| answer.address(is_ipv6).unwrap_or_else(|| panic!("{answer:?}")))
}

/// Fails unless a pod reaches the other's addresses and the world, and the world reaches it.
fn must_reach(stage: &Stage, pod: &str, own: &[String; 2], others: &[String; 2], most: Duration) {
    let reaches = |from: &str, to: &str| {
        if let Err(error) = ping(from, to, most) {
            let card = ["-4 route", "-6 route", "-4 neighbour", "-6 neighbour"]
                .map(|what| run(&format!("ip -n card {what} show")));
            panic!("{from} does not reach {to} in {most:?}: {error}\n{}\n{}", card.join("\n"), stage.logs());
        }
    };
    for to in others.iter().map(String::as_str).chain(WORLD) {
        reaches(pod, to);
    }
    for to in own {
        reaches("outside", to);
    }
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn pods_reach_each_other_and_the_world_in_both_families() {
    if !inside("pods_reach_each_other_and_the_world_in_both_families") {
        return;
    }
    let stage = Stage::new(1, 4);
    let [a, b] = ["a", "b"].map(|pod| both(&stage.add(pod)));
    must_reach(&stage, "a", &a, &b, PATIENCE);
    must_reach(&stage, "b", &b, &a, PATIENCE);
    for family in 0..2 {
        let [a, b] = [&a[family], &b[family]];
        stream("a", "b", b, GIB);
        stream("b", "outside", WORLD[family], GIB);
        stream("outside", "a", a, GIB);
    }
    stage.del("a");
    assert!(ping("b", &a[0], Duration::from_millis(600)).is_err(), "a pod that is gone answers");
    stage.del("b");
    stage.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn the_last_vf_and_a_second_pf_serve_as_the_first_does() {
    if !inside("the_last_vf_and_a_second_pf_serve_as_the_first_does") {
        return;
    }
    let stage = Stage::new(2, 3);
    let pods: Vec<_> = (0..6).map(|pod| format!("p{pod}")).collect();
    let mut all = Vec::new();
    let mut taken = Vec::new();
    for pod in &pods {
        let answer = stage.add(pod);
        let vf = stage.vf_of(&answer.result());
        assert!(!taken.contains(&vf.number), "two pods have {vf:?}");
        taken.push(vf.number);
        all.push(both(&answer));
    }
    make_pod("more");
    let (code, details) = stage.call("ADD", "more", &json!({})).error();
    assert_eq!(code, 11, "{details}");
    assert!(details.contains("none of 6 VFs is free"), "{details}");
    for (number, pod) in pods.iter().enumerate() {
        let other = &all[(number + 1) % all.len()];
        must_reach(&stage, pod, &all[number], other, PATIENCE);
    }
    stage.call("DEL", "more", &json!({})).result_is_empty();
    end_pod("more");
    for pod in &pods {
        stage.del(pod);
    }
    stage.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn an_agent_that_is_killed_leaves_running_pods_their_network_and_knows_them_again() {
    if !inside("an_agent_that_is_killed_leaves_running_pods_their_network_and_knows_them_again") {
        return;
    }
    let stage = Stage::new(1, 3);
    let (first, second) = (stage.add("a"), stage.add("b"));
    let (a, b) = (both(&first), both(&second));
    for round in 0..3 {
        stage.agent.kill();
        must_reach(&stage, "a", &a, &b, PATIENCE);
        stage.agent.start();
        stage.wait_until_ready();
        must_reach(&stage, "b", &b, &a, PATIENCE);
        let again = stage.add("c");
        let c = both(&again);
        assert!(
            a.iter().chain(&b).all(|address| !c.contains(address)),
            "round {round}: an address was given twice"
        );
        must_reach(&stage, "c", &c, &a, PATIENCE);
        check(&stage, "a", &first).result_is_empty();
        stage.del("c");
    }
    stage.del("a");
    stage.del("b");
    stage.must_be_clean();
}

/// A CHECK with the result of the ADD.
fn check(stage: &Stage, pod: &str, added: &Answer) -> Answer {
    stage.call("CHECK", pod, &json!({"prevResult": added.result()}))
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn a_card_that_starts_anew_gives_running_pods_their_network_back() {
    if !inside("a_card_that_starts_anew_gives_running_pods_their_network_back") {
        return;
    }
    let stage = Stage::new(1, 2);
    let [a, b] = ["a", "b"].map(|pod| both(&stage.add(pod)));
    must_reach(&stage, "a", &a, &b, PATIENCE);
    stage.agent.kill();
    forget(&stage);
    assert!(ping("a", &b[0], Duration::from_millis(600)).is_err(), "the card routes, and has no routes");
    stage.agent.start();
    // The host does nothing.
    must_reach(&stage, "a", &a, &b, PATIENCE);
    must_reach(&stage, "b", &b, &a, PATIENCE);
    stage.wait_until_ready();
    stage.del("a");
    stage.del("b");
    stage.must_be_clean();
}

/// Takes away what a card does not keep when it starts anew: routes, rules, addresses and neighbours of the
/// VFs, and everything below `/run`.
fn forget(stage: &Stage) {
    for vf in &stage.vfs {
        let card = vf.card();
        for line in [
            format!("link set dev {card} down"),
            format!("address flush dev {card}"),
            format!("-4 route flush dev {card}"),
            format!("-6 route flush dev {card}"),
            format!("link set dev {card} up"),
        ] {
            run(&format!("ip -n card {line}"));
        }
        for family in ["-4", "-6"] {
            let proxies = run(&format!("ip -n card {family} neighbour show proxy dev {card}"));
            for address in proxies.lines().filter_map(|line| line.split_whitespace().next()) {
                run(&format!("ip -n card neighbour del proxy {address} dev {card}"));
            }
        }
    }
    let _ = fs::remove_dir_all(stage.agent.files.at("/run"));
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn a_link_that_is_pulled_stops_calls_and_no_traffic_of_pods() {
    if !inside("a_link_that_is_pulled_stops_calls_and_no_traffic_of_pods") {
        return;
    }
    let stage = Stage::new(1, 3);
    let [a, b] = ["a", "b"].map(|pod| both(&stage.add(pod)));
    run("ip -n card link set dev sdp0 down");
    must_reach(&stage, "a", &a, &b, PATIENCE);
    let (code, details) = stage.call("STATUS", "", &json!({})).error();
    assert_eq!(code, 50, "{details}");
    make_pod("c");
    let answer = stage.call("ADD", "c", &json!({}));
    assert!(answer.took < Duration::from_millis(5500), "{answer:?}");
    assert_eq!(answer.error().0, 11);
    // A pod that ends meanwhile is not held up; the card hears of it later.
    stage.del("b");
    assert_eq!(stage.files("tombstones"), ["b:eth0"]);
    run("ip -n card link set dev sdp0 up");
    stage.wait_until_ready();
    wait_until("the card has heard of the end of `b`", PATIENCE, || {
        stage.call("STATUS", "", &json!({})).success && stage.files("tombstones").is_empty()
    });
    let answer = stage.call("ADD", "c", &json!({}));
    assert!(answer.success, "{answer:?}\n{}", stage.logs());
    must_reach(&stage, "c", &both(&answer), &a, PATIENCE);
    stage.del("a");
    stage.del("c");
    stage.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn without_an_agent_adds_fail_in_time_and_dels_succeed() {
    if !inside("without_an_agent_adds_fail_in_time_and_dels_succeed") {
        return;
    }
    let stage = Stage::new(1, 2);
    stage.add("a");
    stage.agent.kill();
    let answer = stage.call("STATUS", "", &json!({}));
    assert_eq!(answer.error().0, 50, "{answer:?}");
    make_pod("b");
    let answer = stage.call("ADD", "b", &json!({}));
    assert!(answer.took < Duration::from_millis(5500), "{answer:?}");
    let (code, details) = answer.error();
    assert_eq!(code, 11);
    assert!(details.contains("asking the agent at 192.168.1.1:8000"), "{details}");
    let answer = stage.call("DEL", "a", &json!({}));
    assert!(answer.success && answer.took < Duration::from_millis(5500), "{answer:?}");
    end_pod("a");
    let stray = dpukit_proofs::driver::strays(&stage.vfs);
    assert!(stray.is_empty(), "the host has its part back: {stray:?}");
    stage.agent.start();
    stage.wait_until_ready();
    // The next calls settle what the card was not told.
    wait_until("nothing is left to tell the card", PATIENCE, || {
        stage.call("STATUS", "", &json!({})).success && stage.files("tombstones").is_empty()
    });
    stage.call("DEL", "b", &json!({})).result_is_empty();
    end_pod("b");
    stage.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn check_gc_and_late_dels_touch_what_is_theirs() {
    if !inside("check_gc_and_late_dels_touch_what_is_theirs") {
        return;
    }
    let stage = Stage::new(1, 3);
    let added = stage.add("a");
    check(&stage, "a", &added).result_is_empty();
    let vf = stage.vf_of(&added.result()).clone();
    // The card's part is changed behind everybody's back.
    let own = address(&added.result(), false).unwrap();
    run(&format!("ip -n card route del {own}/32 dev {}", vf.card()));
    assert_eq!(check(&stage, "a", &added).error().0, 101);
    // The agent puts it right when it starts.
    stage.agent.kill();
    stage.agent.start();
    stage.wait_until_ready();
    check(&stage, "a", &added).result_is_empty();

    // A late DEL, when another pod has the VF.
    stage.del("a");
    let b = stage.add("b");
    assert_eq!(stage.vf_of(&b.result()), &vf, "the VF is given out again");
    stage.call("DEL", "a", &json!({})).result_is_empty();
    check(&stage, "b", &b).result_is_empty();
    must_reach(&stage, "b", &both(&b), &both(&b), PATIENCE);

    // GC takes away what is not valid, on both sides, and nothing else.
    let c = stage.add("c");
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": "c", "ifname": "eth0"}]});
    stage.call("GC", "", &valid).result_is_empty();
    assert_eq!(stage.files("claims").len(), 1);
    assert!(link("b", "eth0").is_none() && link("c", "eth0").is_some());
    check(&stage, "c", &c).result_is_empty();
    stage.call("DEL", "b", &json!({})).result_is_empty();
    end_pod("b");
    stage.del("c");
    stage.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn a_namespace_that_ends_before_its_del_leaves_nothing() {
    if !inside("a_namespace_that_ends_before_its_del_leaves_nothing") {
        return;
    }
    let stage = Stage::new(1, 1);
    stage.add("a");
    end_pod("a");
    let given_back = || stage.driver.given_back() == 1;
    wait_until("the kernel gives the VF back", PATIENCE, given_back);
    stage.call("DEL", "a", &json!({})).result_is_empty();
    stage.must_be_clean();
    // Without any DEL, the VF is recovered when it is needed.
    stage.add("b");
    end_pod("b");
    wait_until("the kernel gives the VF back", PATIENCE, || stage.driver.given_back() == 2);
    let c = stage.add("c");
    wait_until_or("the new pod has its network", PATIENCE, || ping("c", WORLD[0], PATIENCE));
    assert_eq!(check(&stage, "c", &c).text, "");
    stage.del("c");
    stage.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn results_are_what_the_card_made() {
    if !inside("results_are_what_the_card_made") {
        return;
    }
    let stage = Stage::new(1, 1);
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        make_pod("a");
        let answer = stage.call("ADD", "a", &json!({"cniVersion": version}));
        assert!(answer.success, "{answer:?}\n{}", stage.logs());
        let result = answer.result();
        assert_eq!(result["cniVersion"], version);
        let shown = show("a", "address");
        let eth0 = shown.iter().find(|link| link["ifname"] == "eth0").unwrap();
        assert_eq!(eth0["address"], result["interfaces"][0]["mac"]);
        let has: Vec<_> = eth0["addr_info"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|address| address["local"].as_str())
            .collect();
        for family in both(&answer) {
            assert!(has.contains(&family.as_str()), "{family} is not among {has:?}");
        }
        let is_route = |route: &Value| route["mtu"].as_u64().is_some_and(|mtu| mtu <= 1450);
        if version == "1.1.0" {
            assert!(result["routes"].as_array().unwrap().iter().any(is_route), "{result}");
        }
        stage.del("a");
    }
    stage.must_be_clean();
}
