//! What is renewed, kept, and damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use dpu_agent::serve::Served;
use dpu_agent::trusted::Door;
use dpu_api::v1::trust_client::TrustClient;
use dpu_api::v1::{RenewRequest, RenewResponse};
use dpu_trust::HostKey;
use dpu_trust::authority::{Authority, certificate_pem};
use dpu_trust::client::{self, Identity};
use dpu_trust::exchange::renewal;
use tokio::sync::watch;
use tonic::Code as Said;

use crate::world::{DAY, World, got_in, is_healthy};

#[tokio::test]
async fn certificates_change_while_calls_go_on_and_none_fails() {
    let world = World::new().await;
    let first = world.pair("node1").await.unwrap();
    let (address, identity) = (world.address, first.clone());
    let (stop, stopped) = watch::channel(false);
    let calls = tokio::spawn(async move {
        let old = client::paired(address, &identity).await.unwrap().channel;
        let mut calls = 0;
        while !*stopped.borrow() {
            got_in(&old).await.unwrap();
            let new = client::paired(address, &identity).await.unwrap().channel;
            got_in(&new).await.unwrap();
            calls += 2;
        }
        calls
    });
    let server = world.places().trust.join("server.pem");
    let mut seen = vec![fs::read_to_string(&server).unwrap()];
    let mut current = first.clone();
    for round in 1..=3 {
        current = client::renew(world.address, &current).await.unwrap();
        // A host whose clock is far ahead makes the agent's certificate due.
        let connection = client::paired(world.address, &current).await.unwrap();
        let (key, time) = (HostKey::random().unwrap(), (dpu_trust::now() + DAY * 500 * round).as_secs());
        let public = key.public().unwrap();
        let possession = key.sign(&renewal(&connection.binding, public, time)).unwrap();
        let request = RenewRequest { public_key: public.0.to_vec(), time, possession };
        let RenewResponse { certificate } =
            TrustClient::new(connection.channel).renew(request).await.unwrap().into_inner();
        let ahead =
            Identity { certificate: certificate_pem(&certificate.into()), key: key.pem(), ..current.clone() };
        world.ask(&ahead).await.unwrap();
        seen.push(fs::read_to_string(&server).unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.send(true).unwrap();
    let calls = calls.await.expect("a call failed");
    assert!(calls > 10, "{calls}");
    seen.dedup();
    assert_eq!(seen.len(), 4, "the agent's certificate was made anew each time");
    world.ask(&first).await.unwrap();
    world.ask(&current).await.unwrap();
}

#[tokio::test]
async fn a_renewal_by_a_key_that_is_not_there_is_refused() {
    let world = World::new().await;
    let identity = world.pair("node1").await.unwrap();
    let connection = client::paired(world.address, &identity).await.unwrap();
    let (mine, theirs) = (HostKey::random().unwrap(), HostKey::random().unwrap().public().unwrap());
    let possession = mine.sign(&renewal(&connection.binding, theirs, 1)).unwrap();
    let request = RenewRequest { public_key: theirs.0.to_vec(), time: 1, possession };
    let said = TrustClient::new(connection.channel).renew(request).await.unwrap_err();
    assert_eq!(said.code(), Said::InvalidArgument);
}

#[tokio::test]
async fn a_restart_forgets_nothing() {
    let mut world = World::new().await;
    let identity = world.pair("node1").await.unwrap();
    world.stop().await;
    world.start(false).await.unwrap();
    world.ask(&identity).await.unwrap();
    assert!(world.pair("node2").await.is_err(), "the code that it was given is used up");
    for entry in fs::read_dir(world.places().trust).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
    for folder in [world.places().trust, world.places().window] {
        assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o7777, 0o700);
    }
}

#[tokio::test]
async fn damage_is_told_and_nothing_is_made_anew() {
    let mut world = World::new().await;
    let identity = world.pair("node1").await.unwrap();
    world.stop().await;
    let folder = world.places().trust;
    let whole = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let (authority, hosts) = (whole("authority.pem"), whole("hosts.json"));
    let half = &authority[..authority.len() / 2];
    let other = Authority::random().unwrap().pem();
    let mixed = format!(
        "{}{}",
        &authority[..authority.find("-----BEGIN CERT").unwrap()],
        &other[other.find("-----BEGIN CERT").unwrap()..]
    );
    for (name, damage, says) in [
        ("authority.pem", None, "authority.pem` is missing: put a copy of the folder back"),
        ("authority.pem", Some(""), "authority.pem` is damaged, its private key: "),
        ("authority.pem", Some(half), "authority.pem` is damaged, its "),
        ("authority.pem", Some(&mixed), "authority.pem` is damaged, its key and its certificate do not fit"),
        ("hosts.json", None, "hosts.json` is missing: put a copy of the folder back"),
        (
            "hosts.json",
            Some("{\"version\": 1, \"hosts\""),
            "hosts.json` is damaged: put a copy of the folder back",
        ),
    ] {
        let path = folder.join(name);
        match damage {
            Some(text) => dpu_trust::keep::write(&path, text.as_bytes(), 0o600).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let error = format!("{:#}", world.start(false).await.unwrap_err());
        assert!(error.contains(says) && error.contains("give up all pairings"), "{name}: {error}");
        assert_eq!(fs::read_to_string(&path).ok().as_deref(), damage, "{name} was touched");
        for (name, text) in [("authority.pem", &authority), ("hosts.json", &hosts)] {
            dpu_trust::keep::write(&folder.join(name), text.as_bytes(), 0o600).unwrap();
        }
    }
    fs::set_permissions(folder.join("authority.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = format!("{:#}", world.start(false).await.unwrap_err());
    assert!(error.contains("has mode 0644, so others may have read it"), "{error}");
    fs::set_permissions(folder.join("authority.pem"), fs::Permissions::from_mode(0o600)).unwrap();

    // What can be made anew without harm is: the authority signs another.
    dpu_trust::keep::write(&folder.join("server.pem"), b"nonsense", 0o600).unwrap();
    world.start(false).await.unwrap();
    world.ask(&identity).await.unwrap();
}

#[tokio::test]
async fn a_list_that_is_damaged_while_the_agent_runs_lets_nobody_in() {
    let world = World::new().await;
    let identity = world.pair("node1").await.unwrap();
    let connection = client::paired(world.address, &identity).await.unwrap().channel;
    got_in(&connection).await.unwrap();
    let list = world.places().trust.join("hosts.json");
    let text = fs::read(&list).unwrap();
    dpu_trust::keep::write(&list, b"{", 0o600).unwrap();
    assert!(got_in(&connection).await.is_err());
    assert!(world.ask(&identity).await.is_err());
    assert!(is_healthy(client::stranger(world.address).await.unwrap().channel).await);
    dpu_trust::keep::write(&list, &text, 0o600).unwrap();
    got_in(&connection).await.unwrap();
}

#[tokio::test]
async fn metrics_tell_when_the_certificates_of_paired_hosts_end() {
    let world = World::new().await;
    let end = dpu_trust::now() + 2 * DAY;
    world.host("node1", dpu_trust::now() + DAY, true);
    world.host("node2", end, true);
    let door = Door::guarded(&world.places(), world.address.ip(), None).unwrap();
    let served = Served::start(Arc::new(world.card(false)));
    let metric = "dpu_peer_certificate_expiry_timestamp_seconds";
    let text = served.metrics_text(&door);
    assert!(text.contains(&format!("{metric}{{peer=\"node2\"}} {}\n", end.as_secs())), "{text}");
    assert!(text.contains(&format!("{metric}{{peer=\"node1\"}}")), "{text}");
    world.roster().change(|hosts| Ok(hosts.revoke("node1"))).unwrap();
    let text = served.metrics_text(&door);
    assert!(!text.contains("node1") && text.contains("node2"), "{text}");
}
