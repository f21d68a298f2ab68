//! The pairing's messages: those that are none, replayed, or late.

use std::fs;
use std::time::Duration;

use dpu_api::v1::pairing_client::PairingClient;
use dpu_api::v1::{FinishRequest, StartRequest};
use dpu_trust::client;
use dpu_trust::exchange::{Answer, Claim, HostStart};
use dpu_trust::window::uptime;
use dpu_trust::{Code, HostKey};
use tonic::Code as Said;

use crate::world::{CODE, World};

/// A pairing as its messages go over the wire.
struct Recorded {
    start: StartRequest,
    finish: FinishRequest,
}

async fn record(connection: &client::Connection, code: &Code) -> Recorded {
    let mut card = PairingClient::new(connection.channel.clone());
    let (host, message) = HostStart::new(code, &connection.binding);
    let start = StartRequest { message };
    let started = card.start(start.clone()).await.unwrap().into_inner();
    let key = HostKey::random().unwrap();
    let claim = Claim { name: "node1".into(), key: key.public().unwrap(), time: 1 };
    let (_, Answer { possession, proof }) =
        host.answer(&started.session, &started.message, &claim, &key).unwrap();
    let public_key = claim.key.0.to_vec();
    let finish =
        FinishRequest { session: started.session, name: claim.name, public_key, time: 1, possession, proof };
    Recorded { start, finish }
}

#[tokio::test]
async fn a_name_that_is_none_is_refused() {
    let world = World::new().await;
    for name in ["", "a b", "../x", "a\u{1b}[2J"] {
        let error = format!("{:#}", world.pair(name).await.err().unwrap());
        assert!(error.contains("is no host name") && !error.contains('\u{1b}'), "{error}");
    }
    assert_eq!(world.names(), [""; 0]);
}

#[tokio::test]
async fn a_host_that_pairs_again_replaces_itself() {
    let world = World::new().await;
    let before = world.pair("node1").await.unwrap();
    let code = world.window().open(uptime()).unwrap();
    let after = client::pair(world.address, &code, "node1").await.unwrap();
    world.ask(&after).await.unwrap();
    assert!(world.refusal(&before).await.contains("CertificateRevoked"));
    assert_eq!(world.names(), ["node1"]);
}

#[tokio::test]
async fn a_replayed_pairing_is_refused() {
    let world = World::new().await;
    let connection = client::stranger(world.address).await.unwrap();
    let mut card = PairingClient::new(connection.channel.clone());
    let code: Code = CODE.parse().unwrap();

    // Brought by another connection, the end of a session is worth nothing.
    let recorded = record(&connection, &code).await;
    let elsewhere = client::stranger(world.address).await.unwrap();
    let said = PairingClient::new(elsewhere.channel.clone()).finish(recorded.finish.clone()).await;
    assert_eq!(said.unwrap_err().code(), Said::FailedPrecondition);
    // And that was this session's only end.
    assert_eq!(card.finish(recorded.finish).await.unwrap_err().code(), Said::FailedPrecondition);
    assert_eq!(world.names(), [""; 0]);

    let recorded = record(&connection, &code).await;
    card.finish(recorded.finish.clone()).await.unwrap();
    assert_eq!(world.names(), ["node1"]);
    assert_eq!(card.finish(recorded.finish.clone()).await.unwrap_err().code(), Said::FailedPrecondition);

    // All of it again, on the same connection, in a session of its own, while the card waits for a host.
    world.roster().change(|hosts| Ok(hosts.revoke("node1"))).unwrap();
    world.window().open(uptime()).unwrap();
    let started = card.start(recorded.start).await.unwrap().into_inner();
    let finish = FinishRequest { session: started.session, ..recorded.finish };
    assert_eq!(card.finish(finish).await.unwrap_err().code(), Said::PermissionDenied);
    assert_eq!(world.names(), [""; 0]);
}

#[tokio::test]
async fn a_code_that_was_replaced_ends_the_sessions_that_began_with_it() {
    let world = World::new().await;
    let connection = client::stranger(world.address).await.unwrap();
    let recorded = record(&connection, &CODE.parse().unwrap()).await;
    world.window().open(uptime()).unwrap();
    let said = PairingClient::new(connection.channel).finish(recorded.finish).await.unwrap_err();
    assert_eq!(said.code(), Said::FailedPrecondition);
    assert!(said.message().contains("the code is over"), "{said}");
}

#[tokio::test]
async fn messages_that_are_none_are_refused() {
    let world = World::new().await;
    let connection = client::stranger(world.address).await.unwrap();
    let mut card = PairingClient::new(connection.channel.clone());
    for message in [vec![], vec![0x41; 10], vec![0x42; 33], vec![0x41; 34]] {
        let said = card.start(StartRequest { message }).await.unwrap_err();
        assert_eq!(said.code(), Said::InvalidArgument, "{said}");
    }
    assert_eq!(card.finish(FinishRequest::default()).await.unwrap_err().code(), Said::FailedPrecondition);
    let recorded = record(&connection, &CODE.parse().unwrap()).await;
    let short = FinishRequest { public_key: vec![1; 31], ..recorded.finish };
    assert_eq!(card.finish(short).await.unwrap_err().code(), Said::InvalidArgument);
    world.pair("node1").await.unwrap();
}

#[tokio::test]
async fn a_card_without_a_code_shows_one_on_its_console() {
    let mut world = World::new().await;
    world.stop().await;
    fs::remove_file(world.folder.path().join("given")).unwrap();
    fs::remove_dir_all(world.places().window).unwrap();
    world.start(false).await.unwrap();
    let mut shown = String::new();
    for _ in 0..100 {
        shown = world.console();
        if shown.contains("with the code ") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let code = shown.split("with the code ").nth(1).unwrap_or_else(|| panic!("{shown}"));
    let code: Code = code.lines().next().unwrap().parse().unwrap();
    let identity = client::pair(world.address, &code, "node1").await.unwrap();
    world.ask(&identity).await.unwrap();
}
