//! A real runtime, containerd, driven through Kubernetes' CRI as the kubelet does, makes pods with our plugin
//! and our agent.

mod containerd;

use std::time::Duration;

use containerd::Containerd;
use dpukit_proofs::inside::inside;
use dpukit_proofs::run::{link, show, wait_until};
use dpukit_proofs::stage::{Stage, WORLD};
use dpukit_proofs::traffic::{ping, stream};

const PATIENCE: Duration = Duration::from_secs(20);

/// Fails unless a pod of the runtime reaches another one and the world.
fn must_reach(stage: &Stage, from: &str, others: &[String]) {
    for to in others.iter().map(String::as_str).chain(WORLD) {
        ping(from, to, PATIENCE).unwrap_or_else(|error| panic!("{from} to {to}: {error}\n{}", stage.logs()));
    }
}

#[test]
#[ignore = "needs root, the built programs, and what `ci/install` installs"]
fn containerd_makes_and_ends_pods_on_vfs() {
    if !inside("containerd_makes_and_ends_pods_on_vfs") {
        return;
    }
    let stage = Stage::new(1, 2);
    let mut containerd = Containerd::start(&stage);
    let conditions = containerd.conditions();
    assert_eq!(conditions, ["RuntimeReady: true", "NetworkReady: true"], "{}", containerd.log());

    let pods = ["a", "b"]
        .map(|name| containerd.run(name, 0).unwrap_or_else(|error| panic!("{error}\n{}", stage.logs())));
    for pod in &pods {
        assert_eq!(pod.addresses.len(), 2, "{pod:?}");
        let shown = show(&pod.namespace, "address");
        let eth0 = shown.iter().find(|link| link["ifname"] == "eth0").expect("the pod has its interface");
        assert!(stage.vfs.iter().any(|vf| eth0["address"] == vf.mac()), "{eth0}");
        for address in &pod.addresses {
            assert!(eth0["addr_info"].to_string().contains(&format!("\"{address}\"")), "{address}: {eth0}");
        }
    }
    must_reach(&stage, &pods[0].namespace, &pods[1].addresses);
    for address in &pods[1].addresses {
        stream(&pods[0].namespace, &pods[1].namespace, address, 64 << 20);
    }

    // Neither the runtime nor the agent has to live for pods to have their network.
    containerd.kill();
    stage.agent.kill();
    must_reach(&stage, &pods[1].namespace, &pods[0].addresses);
    stage.agent.start();
    stage.wait_until_ready();
    containerd.restart(&stage);
    for pod in &pods {
        assert!(containerd.is_ready(&pod.id), "{}", containerd.log());
    }
    must_reach(&stage, &pods[0].namespace, &pods[1].addresses);

    // No third VF: the kubelet hears why, and what was begun is undone.
    let error = containerd.run("c", 0).unwrap_err();
    assert!(error.contains("none of 2 VFs is free"), "{error}");
    assert_eq!(stage.files("claims").len(), 2);

    containerd.end(&pods[0].id);
    assert!(
        link("", "vf0").is_some(),
        "the VF is back when StopPodSandbox and RemovePodSandbox have returned"
    );
    let c = containerd.run("c", 1).unwrap_or_else(|error| panic!("{error}\n{}", stage.logs()));
    must_reach(&stage, &c.namespace, &pods[1].addresses);

    // A card that is away fails the pod in time, with the reason.
    containerd.end(&c.id);
    stage.agent.kill();
    let start = std::time::Instant::now();
    let error = containerd.run("d", 0).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert!(error.contains("asking the agent at 192.168.1.1:8000"), "{error}");
    // And it does not hold up the end of one.
    containerd.end(&pods[1].id);
    stage.agent.start();
    stage.wait_until_ready();
    let e = containerd.run("e", 0).unwrap_or_else(|error| panic!("{error}\n{}", stage.logs()));
    must_reach(&stage, &e.namespace, &[]);
    containerd.end(&e.id);
    wait_until("all tombstones are settled", PATIENCE, || {
        stage.call("STATUS", "", &serde_json::json!({})).success && stage.files("tombstones").is_empty()
    });
    assert_eq!(containerd::namespaces(), [""; 0]);
    containerd.kill();
    stage.must_be_clean();
}
