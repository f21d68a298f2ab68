//! What Cilium is asked, against the stand-in.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::stand_in::{Fault, Given, StandIn};
use super::*;
use crate::pods::network::{End, Pod, Vf};

/// Cilium's stand-in, and a card with two VFs.
pub struct Bench {
    pub stand_in: StandIn,
    pub cilium: Cilium,
    _card: tempfile::TempDir,
}

pub fn attachment() -> Attachment {
    Attachment {
        container: "c01".into(),
        interface: "eth0".into(),
        pod: Pod { namespace: "default".into(), name: "web".into(), uid: "u-1".into() },
        mac: "02:00:00:00:00:07".into(),
        vf: Vf { address: "0002:01:00.3".into(), interface: "sdp3".into() },
        given: Vec::new(),
    }
}

/// The pod's second interface, on the other VF.
fn second() -> Attachment {
    let vf = Vf { address: "0002:01:00.4".into(), interface: "sdp4".into() };
    Attachment { interface: "net1".into(), mac: "02:00:00:00:00:08".into(), vf, ..attachment() }
}

pub fn given() -> Attachment {
    let end = |address: &str, gateway: Option<&str>| End {
        address: address.parse().unwrap(),
        gateway: gateway.map(|text| text.parse().unwrap()),
    };
    Attachment { given: vec![end("10.9.0.7", Some("10.9.0.254")), end("fd09::7", None)], ..attachment() }
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

impl Bench {
    pub fn new() -> Self {
        let stand_in = StandIn::start();
        let card = tempfile::tempdir().unwrap();
        for (place, interface, index) in [("0002:01:00.3", "sdp3", 13), ("0002:01:00.4", "sdp4", 14)] {
            vf(card.path(), place, interface, index);
        }
        let cilium = Cilium::new(Settings {
            socket: stand_in.socket(),
            vf: PciId::new(0x177d, 0xa0f7),
            tree: Tree::new(card.path().to_owned(), Box::new(|path, value| fs::write(path, value))),
            pause: Duration::from_millis(2),
        });
        Self { stand_in, cilium, _card: card }
    }

    pub async fn add(&self, attachment: &Attachment) -> Result<Made, String> {
        self.cilium.add(attachment, soon()).await.map_err(text)
    }

    async fn del(&self, attachment: &Attachment, made: Option<&Made>) -> Result<(), String> {
        self.cilium.del(attachment, made, soon()).await.map_err(text)
    }
}

fn vf(card: &Path, place: &str, interface: &str, index: u32) {
    let device = card.join("sys/bus/pci/devices").join(place);
    let net = device.join("net").join(interface);
    fs::create_dir_all(&net).unwrap();
    fs::write(device.join("vendor"), "0x177d\n").unwrap();
    fs::write(device.join("device"), "0xa0f7\n").unwrap();
    fs::write(net.join("ifindex"), format!("{index}\n")).unwrap();
    fs::write(net.join("address"), format!("02:00:00:00:01:{index}\n")).unwrap();
}

pub fn text(refusal: Refusal) -> String {
    match refusal {
        Refusal::Later(error) => format!("later: {error:#}"),
        Refusal::Never(error) => format!("never: {error:#}"),
    }
}

#[tokio::test]
async fn an_add_makes_an_endpoint_on_the_vf_and_a_del_leaves_nothing() {
    let bench = Bench::new();
    let made = bench.add(&attachment()).await.unwrap();
    assert_eq!(bench.stand_in.calls(), ["GET /config", "POST /ipam", "PUT /endpoint/{id}"]);
    insta::assert_snapshot!(bench.stand_in.books().put[0], @r#"{"addressing":{"ipv4":"10.0.0.2","ipv4-expiration-uuid":"uuid-ipv4-1","ipv4-pool-name":"default","ipv6":"fd00::1","ipv6-expiration-uuid":"uuid-ipv6-1","ipv6-pool-name":"default"},"container-id":"c01","container-interface-name":"eth0","datapath-configuration":{},"host-mac":"02:00:00:00:01:13","interface-index":13,"interface-name":"sdp3","k8s-namespace":"default","k8s-pod-name":"web","k8s-uid":"u-1","mac":"02:00:00:00:00:07","state":"waiting-for-identity","sync-build-endpoint":true}"#);
    insta::assert_snapshot!(serde_json::to_string(&made).unwrap(), @r#"{"ends":[{"address":"10.0.0.2","gateway":"10.0.0.1"},{"address":"fd00::1","gateway":"fd00::1"}],"dns":[],"mtu":1450,"kept":{"addresses":[{"address":"10.0.0.2","pool":"default"},{"address":"fd00::1","pool":"default"}],"external":false}}"#);
    bench.del(&attachment(), Some(&made)).await.unwrap();
    // What went with the endpoint is not given back a second time.
    assert_eq!(bench.stand_in.calls(), ["DELETE /endpoint/{id}"]);
    bench.stand_in.assert_empty("DEL");
    bench.del(&attachment(), Some(&made)).await.unwrap();
}

#[tokio::test]
async fn addresses_of_the_host_are_no_matter_of_ciliums_ipam() {
    let bench = Bench::new();
    let made = bench.add(&given()).await.unwrap();
    assert_eq!(bench.stand_in.calls(), ["GET /config", "PUT /endpoint/{id}"]);
    assert_eq!(bench.stand_in.books().put[0]["datapath-configuration"], json!({ "external-ipam": true }));
    let gateways: Vec<_> = made.ends.iter().map(|end| end.gateway.unwrap().to_string()).collect();
    assert_eq!(gateways, ["10.9.0.254", "fd00::1"]);
    bench.del(&given(), Some(&made)).await.unwrap();
    bench.del(&given(), Some(&made)).await.unwrap();
    assert_eq!(bench.stand_in.calls(), ["DELETE /endpoint/{id}", "DELETE /endpoint/{id}"]);
    bench.stand_in.assert_empty("DEL");
}

#[tokio::test]
async fn a_busy_cilium_is_asked_again_until_the_deadline() {
    let bench = Bench::new();
    let busy = |status| Some(Fault::Status(status));
    bench.stand_in.books().script = [429, 503, 502].map(busy).into();
    let made = bench.add(&attachment()).await.unwrap();
    assert_eq!(bench.stand_in.calls().len(), 6);
    bench.del(&attachment(), Some(&made)).await.unwrap();

    bench.stand_in.books().always.insert("PUT /endpoint/{id}", Fault::Status(429));
    let begun = Instant::now();
    let refusal = bench.cilium.add(&attachment(), begun + Duration::from_millis(800)).await.map_err(text);
    assert!(begun.elapsed() < Duration::from_millis(800), "{:?}", begun.elapsed());
    assert_eq!(
        refusal.unwrap_err(),
        "later: asking Cilium: PUT /v1/endpoint/cilium-local%3A0: 429 as the script says"
    );
    bench.stand_in.assert_empty("a failed ADD");
}

#[tokio::test]
async fn an_add_that_is_tried_again_takes_over_the_endpoint() {
    let bench = Bench::new();
    let first = bench.add(&attachment()).await.unwrap();
    let second = bench.add(&attachment()).await.unwrap();
    assert_eq!(first, second);
    bench.cilium.settle().await;
    assert_eq!(bench.stand_in.books().addresses.len(), 2);
    bench.del(&attachment(), Some(&second)).await.unwrap();
    bench.stand_in.assert_empty("DEL");

    let first = bench.add(&given()).await.unwrap();
    assert_eq!(bench.add(&given()).await.unwrap(), first);
    bench.del(&given(), None).await.unwrap();
    bench.stand_in.assert_empty("DEL");
}

#[tokio::test]
async fn an_endpoint_of_the_same_attachment_that_is_different_is_replaced() {
    let bench = Bench::new();
    bench.add(&attachment()).await.unwrap();
    let vf = second().vf;
    let moved = Attachment { vf, mac: "02:00:00:00:00:09".into(), ..attachment() };
    let made = bench.add(&moved).await.unwrap();
    let interfaces: Vec<_> =
        bench.stand_in.books().endpoints.values().map(|one| one.interface_name.clone()).collect();
    assert_eq!(interfaces, ["sdp4"]);
    bench.del(&moved, Some(&made)).await.unwrap();
    bench.stand_in.assert_empty("DEL");
}

#[tokio::test]
async fn an_endpoint_with_the_hosts_address_goes_only_where_it_is_on_this_vf() {
    let bench = Bench::new();
    let stale = Attachment { container: "c00".into(), ..given() };
    bench.add(&stale).await.unwrap();
    bench.add(&given()).await.unwrap();
    assert_eq!(bench.stand_in.books().endpoints.len(), 1);
    let other = Attachment { container: "c02".into(), vf: second().vf, ..given() };
    let refusal = bench.add(&other).await.unwrap_err();
    assert_eq!(refusal, "never: endpoint 2 of `default/web` on `sdp3` has the address 10.9.0.7");
    assert_eq!(bench.stand_in.books().endpoints.len(), 1);
}

#[tokio::test]
async fn a_del_leaves_other_interfaces_and_other_pods_alone() {
    let bench = Bench::new();
    let first = bench.add(&attachment()).await.unwrap();
    let other = bench.add(&second()).await.unwrap();
    bench.del(&attachment(), Some(&first)).await.unwrap();
    // Meanwhile another pod has the address.
    let address = first.ends[0].address;
    let given = Given { owner: "default/other".into(), expiry: Some("u".into()) };
    bench.stand_in.books().addresses.insert(address, given.clone());
    bench.del(&attachment(), Some(&first)).await.unwrap();
    assert_eq!(bench.stand_in.books().addresses.get(&address), Some(&given));
    assert_eq!(bench.stand_in.books().endpoints.len(), 1);
    bench.del(&second(), Some(&other)).await.unwrap();
    bench.stand_in.books().addresses.remove(&address);
    bench.stand_in.assert_empty("DEL");
}

#[tokio::test]
async fn a_del_gives_back_what_is_the_pods_where_the_endpoint_had_gone() {
    let bench = Bench::new();
    let made = bench.add(&attachment()).await.unwrap();
    bench.stand_in.books().endpoints.clear();
    // As Cilium writes it after a restart.
    for given in bench.stand_in.books().addresses.values_mut() {
        given.owner.push_str(" [restored]");
    }
    bench.del(&attachment(), Some(&made)).await.unwrap();
    bench.stand_in.assert_empty("DEL");
}

#[tokio::test]
async fn a_check_finds_what_is_missing_failing_or_different() {
    let bench = Bench::new();
    let made = bench.add(&attachment()).await.unwrap();
    let check =
        async |attachment: &Attachment| bench.cilium.check(attachment, &made, soon()).await.map_err(text);
    check(&attachment()).await.unwrap();
    bench.stand_in.books().health = Some("Failure");
    assert_eq!(
        check(&attachment()).await.unwrap_err(),
        "never: Cilium says that the endpoint `cni-attachment-id:c01:eth0` fails"
    );
    bench.stand_in.books().health = None;
    let other = Attachment { mac: "02:00:00:00:00:09".into(), ..attachment() };
    assert!(check(&other).await.unwrap_err().contains("is not as it was made"));
    bench.stand_in.books().endpoints.clear();
    assert_eq!(
        check(&attachment()).await.unwrap_err(),
        "never: Cilium has no endpoint `cni-attachment-id:c01:eth0`"
    );
}

#[tokio::test]
async fn it_is_ready_when_cilium_says_so() {
    let bench = Bench::new();
    bench.cilium.ready().await.unwrap();
    bench.stand_in.books().state = Some("Failure");
    let error = format!("{:#}", bench.cilium.ready().await.unwrap_err());
    assert_eq!(error, "Cilium is in the state `Failure`: 1.17.0 (stand-in)");
}

#[tokio::test]
async fn a_cilium_that_is_not_there_is_not_waited_for() {
    let bench = Bench::new();
    fs::remove_file(bench.stand_in.socket()).unwrap();
    let begun = Instant::now();
    let refusal = bench.add(&attachment()).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(refusal.starts_with("later: asking Cilium: connecting to `"), "{refusal}");
    assert!(bench.cilium.ready().await.is_err());
}

#[tokio::test]
async fn a_vf_without_an_interface_is_named() {
    let bench = Bench::new();
    let mut gone = attachment();
    gone.vf.interface = "sdp9".into();
    let refusal = bench.add(&gone).await.unwrap_err();
    assert!(
        refusal.starts_with("later: looking at the interface `sdp9` of the VF `0002:01:00.3`"),
        "{refusal}"
    );
    bench.stand_in.assert_empty("a failed ADD");
}

#[tokio::test]
async fn a_mode_in_which_cilium_gives_no_addresses_is_refused() {
    let bench = Bench::new();
    bench.stand_in.books().mode = Some("delegated-plugin");
    assert!(bench.add(&attachment()).await.unwrap_err().starts_with("never: Cilium leaves addresses to"));
    bench.add(&given()).await.unwrap();
}

/// What Cilium's own plugin makes for a pod of the card.
fn pod_of_the_card(bench: &Bench) {
    let put = json!({
        "state": "ready", "container-id": "own", "container-interface-name": "eth0",
        "interface-name": "lxc1234", "interface-index": 99, "mac": "aa:00:00:00:00:01", "host-mac": "aa:00:00:00:00:02",
        "addressing": { "ipv4": "10.0.0.200" }, "datapath-configuration": {}, "sync-build-endpoint": true,
    });
    let change = serde_json::from_value(put).unwrap();
    bench.stand_in.books().endpoints.insert(77, change);
}

#[tokio::test]
async fn after_a_start_leaks_go_what_is_missing_comes_back_and_others_stay() {
    let bench = Bench::new();
    pod_of_the_card(&bench);
    let first = bench.add(&attachment()).await.unwrap();
    let leak = Attachment { container: "c09".into(), ..second() };
    bench.add(&leak).await.unwrap();
    let known = [(attachment(), first.clone())];
    assert_eq!(bench.cilium.reconcile(&known).await.unwrap().freed, 1);
    assert_eq!(bench.stand_in.books().endpoints.len(), 2);
    assert_eq!(bench.cilium.reconcile(&known).await.unwrap().freed, 0);

    // The card was started anew: Cilium knows of nothing.
    bench.stand_in.books().endpoints.retain(|id, _| *id == 77);
    bench.stand_in.books().addresses.clear();
    assert_eq!(bench.cilium.reconcile(&known).await.unwrap().freed, 0);
    bench.cilium.check(&attachment(), &first, soon()).await.unwrap();
    assert_eq!(bench.stand_in.books().addresses.len(), 2);

    // Only the endpoint went: its addresses are still the pod's.
    bench.stand_in.books().endpoints.retain(|id, _| *id == 77);
    assert_eq!(bench.cilium.reconcile(&known).await.unwrap().freed, 0);
    bench.cilium.check(&attachment(), &first, soon()).await.unwrap();

    // The VF's interface has another number: programs hang on what is gone.
    bench.stand_in.books().endpoints.values_mut().for_each(|one| one.interface_index += 100);
    assert_eq!(bench.cilium.reconcile(&known).await.unwrap().freed, 0);
    bench.cilium.check(&attachment(), &first, soon()).await.unwrap();
    assert!(bench.stand_in.books().endpoints.contains_key(&77));
}

#[tokio::test]
async fn an_address_that_another_has_by_now_is_told() {
    let bench = Bench::new();
    let made = bench.add(&attachment()).await.unwrap();
    bench.stand_in.books().endpoints.clear();
    for given in bench.stand_in.books().addresses.values_mut() {
        given.owner = "default/other".into();
    }
    let reconciled = bench.cilium.reconcile(&[(attachment(), made)]).await.unwrap();
    let errors: Vec<_> = reconciled.wrong.iter().map(|error| format!("{error:#}")).collect();
    assert_eq!(
        errors,
        ["c01:eth0: Cilium does not give the pod its address 10.0.0.2 again: make the pod anew"]
    );
    assert_eq!(bench.stand_in.books().addresses.len(), 2);
    assert_eq!(bench.stand_in.books().wrong, Vec::<String>::new());
}

#[tokio::test]
async fn pods_without_names_own_their_addresses_by_their_attachment() {
    let bench = Bench::new();
    bench.stand_in.books().ipv4_only = true;
    let nameless = Attachment { pod: Pod::default(), ..attachment() };
    let made = bench.add(&nameless).await.unwrap();
    let owners: Vec<_> = bench.stand_in.books().addresses.values().map(|one| one.owner.clone()).collect();
    assert_eq!(owners, ["c01:eth0"]);
    assert_eq!(bench.stand_in.books().put[0].get("k8s-pod-name"), None::<&Value>);
    bench.del(&nameless, Some(&made)).await.unwrap();
    bench.stand_in.assert_empty("DEL");
}
