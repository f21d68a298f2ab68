//! The link's phases against a real interface, in a network namespace.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{inside, run};
use dpu_agent::programs::System;
use dpu_agent::report::State;
use dpu_agent::serve::{self, Pace, Served};
use dpu_agent::tree::Tree;
use dpu_agent::trusted::{Door, Way};
use dpu_agent::{Card, setup};

/// A card whose only VF is the real interface `vf0`; all else that sysfs has is not there.
fn card(folder: &Path) -> Card {
    let device = folder.join("sys/bus/pci/devices/0002:01:00.1");
    fs::create_dir_all(device.join("net")).unwrap();
    fs::create_dir_all(folder.join("sys/bus/pci/drivers/rvu_nicvf")).unwrap();
    fs::write(device.join("vendor"), "0x177d\n").unwrap();
    fs::write(device.join("device"), "0xa0f7\n").unwrap();
    let _ = symlink("../../drivers/rvu_nicvf", device.join("driver"));
    let _ = symlink("/sys/class/net/vf0", device.join("net/vf0"));
    let tree = Tree::new(folder.to_owned(), Box::new(|path, value| fs::write(path, value)));
    let plan = toml::from_str(include_str!("../plan/examples/cn106.toml")).unwrap();
    Card { tree, programs: Box::new(System), plan, patience: Duration::ZERO }
}

/// Makes the two ends of the link; sysfs shows the interfaces of the namespace that it was mounted in.
fn make_link() {
    run("mount", &["-t", "sysfs", "sysfs", "/sys"]);
    run("ip", &["link", "set", "dev", "lo", "up"]);
    run("ip", &["link", "add", "vf0", "type", "veth", "peer", "name", "host"]);
    run("ip", &["link", "set", "dev", "host", "up"]);
    run("ip", &["address", "add", "192.168.1.2/24", "dev", "host"]);
}

#[test]
#[ignore = "needs root, for a network namespace"]
fn the_link_gets_its_group_and_its_address() {
    if !inside("the_link_gets_its_group_and_its_address", &["--net", "--mount"]) {
        return;
    }
    make_link();
    let folder = tempfile::tempdir().unwrap();
    let card = card(folder.path());
    let phase = setup::phase("link").unwrap();
    assert_eq!(setup::check(&card, phase).wrong.len(), 3);

    let record = setup::run(&card, phase);
    assert_eq!(record.state, State::Good, "{}", record.text());
    assert_eq!(record.report.did.len(), 3, "{}", record.text());
    let shown = run("ip", &["-details", "address", "show", "dev", "vf0"]);
    assert!(shown.contains("group 77") && shown.contains("inet 192.168.1.1/24"), "{shown}");
    assert!(setup::check(&card, phase).is_good());

    let record = setup::run(&card, phase);
    assert_eq!(record.report.did, Vec::<String>::new(), "{}", record.text());

    run("ip", &["address", "flush", "dev", "vf0"]);
    assert_eq!(setup::check(&card, phase).wrong, ["`vf0` lacks its address 192.168.1.1/24"]);
}

#[test]
#[ignore = "needs root, for a network namespace"]
fn the_agent_waits_for_the_link_and_answers_on_it() {
    if !inside("the_agent_waits_for_the_link_and_answers_on_it", &["--net", "--mount"]) {
        return;
    }
    make_link();
    let folder = tempfile::tempdir().unwrap();
    let card = Arc::new(card(folder.path()));
    let address = serve::address(&card);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let late = Arc::clone(&card);
        let setting_up = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(500));
            setup::run(&late, setup::phase("link").unwrap())
        });
        let listener = serve::listen(address, Duration::from_secs(20)).await.unwrap();
        assert_eq!(setting_up.await.unwrap().state, State::Good);
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (served, door) = (Served::start(Arc::clone(&card)), Door::open(&card).unwrap());
        let (way, incoming) = (Way::of(&card).unwrap(), door.incoming(listener));
        let server = tokio::spawn(serve::serve(served, door, address, incoming, Pace::CARD, stopped));
        let service = "dpukit.setup.link".to_owned();
        for _ in 0..100 {
            let answer = serve::ask_in(&way, address, service.clone(), Pace::CARD.answer).await;
            if answer.is_ok_and(|answer| answer.as_str_name() == "SERVING") {
                stop.send(true).unwrap();
                server.await.unwrap().unwrap();
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the link's phase was never answered to be serving");
    });
}
