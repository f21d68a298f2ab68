//! Bundles that are not what they were announced as, and hosts that may not send any.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use dpu_agent::trusted::Way;
use dpu_api::v1::install_request::Part;
use dpu_api::v1::updates_client::UpdatesClient;
use dpu_api::v1::{Bundle, InstallRequest, RestartRequest, StateRequest};
use dpu_trust::client;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code as Said, Status};

use crate::world::World;

/// A card that takes updates, and a paired host's connection to it.
async fn paired() -> (World, UpdatesClient<Channel>) {
    let world = World::new().await;
    takes_updates(&world);
    let host = world.pair("node1").await.unwrap();
    let connection = client::paired(world.address, &host).await.unwrap();
    (world, UpdatesClient::new(connection.channel))
}

fn takes_updates(world: &World) {
    let folder = world.folder.path().join("etc/rauc");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("system.conf"), "").unwrap();
}

fn file(world: &World) -> PathBuf {
    world.folder.path().join("var/lib/dpukit/update/bundle.raucb")
}

fn announced(size: u64, sha256: Vec<u8>) -> Part {
    Part::Bundle(Bundle { size, sha256 })
}

fn chunk(length: usize) -> Part {
    Part::Chunk(vec![7; length])
}

/// Sends parts, and gives what the card says at the end.
async fn send(updates: &mut UpdatesClient<Channel>, parts: Vec<Part>) -> Result<(), Status> {
    let parts = parts.into_iter().map(|part| InstallRequest { part: Some(part) });
    let mut told = updates.install(tokio_stream::iter(parts.collect::<Vec<_>>())).await?.into_inner();
    while told.message().await?.is_some() {}
    Ok(())
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..500 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} never came");
}

#[tokio::test]
async fn what_is_not_as_announced_is_refused_and_leaves_nothing() {
    let (world, mut updates) = paired().await;
    let any = || vec![0; 32];
    for (parts, code, text) in [
        (vec![], Said::InvalidArgument, "the first message has to say what comes"),
        (vec![chunk(9)], Said::InvalidArgument, "the first message has to say what comes"),
        (vec![announced(0, any())], Said::InvalidArgument, "a bundle has a size"),
        (vec![announced(9, vec![0; 31])], Said::InvalidArgument, "a bundle has a size"),
        (vec![announced(u64::MAX, any())], Said::ResourceExhausted, "make room on it"),
        (vec![announced(9, any()), chunk(8)], Said::InvalidArgument, "8 of 9 octets came"),
        (vec![announced(9, any()), chunk(5), chunk(5)], Said::InvalidArgument, "more came than 9 octets"),
        (vec![announced(9, any()), announced(9, any())], Said::InvalidArgument, "a second bundle"),
        (vec![announced(9, any()), chunk(9)], Said::DataLoss, "another SHA-256"),
    ] {
        let told = send(&mut updates, parts).await.unwrap_err();
        assert_eq!(told.code(), code, "{told}");
        assert!(told.message().contains(text), "{told}");
        assert!(!file(&world).exists(), "{told}");
    }
}

#[tokio::test]
async fn a_host_that_goes_away_before_the_end_leaves_nothing_and_another_may_send() {
    let (world, mut updates) = paired().await;
    let (parts, stream) = mpsc::channel(4);
    let part = |part| InstallRequest { part: Some(part) };
    parts.send(part(announced(1 << 20, vec![0; 32]))).await.unwrap();
    let told = updates.install(ReceiverStream::new(stream)).await.unwrap();
    parts.send(part(chunk(1 << 10))).await.unwrap();
    let path = file(&world);
    until("the beginning", || path.metadata().is_ok_and(|about| about.len() == 1 << 10)).await;
    let busy = send(&mut updates, vec![announced(9, vec![0; 32]), chunk(9)]).await.unwrap_err();
    assert_eq!(busy.code(), Said::Aborted, "{busy}");
    let busy = updates.restart(RestartRequest { anyway: true }).await.unwrap_err();
    assert_eq!(busy.code(), Said::Aborted, "no restart while a bundle comes: {busy}");
    assert!(path.exists(), "who is refused takes nothing from who is not");
    drop((told, parts));
    until("the removal", || !path.exists()).await;
    let told = send(&mut updates, vec![announced(9, vec![0; 32]), chunk(9)]).await.unwrap_err();
    assert_eq!(told.code(), Said::DataLoss, "{told}");
}

#[tokio::test]
async fn a_stranger_gets_no_word_of_updates() {
    let world = World::new().await;
    takes_updates(&world);
    let connection = client::stranger(world.address).await.unwrap();
    let mut updates = UpdatesClient::new(connection.channel);
    let told = send(&mut updates, vec![announced(9, vec![0; 32]), chunk(9)]).await.unwrap_err();
    assert_eq!(told.code(), Said::Unauthenticated, "{told}");
    let told = updates.state(StateRequest {}).await.unwrap_err();
    assert_eq!(told.code(), Said::Unauthenticated, "{told}");
    let told = updates.restart(RestartRequest { anyway: true }).await.unwrap_err();
    assert_eq!(told.code(), Said::Unauthenticated, "{told}");
    assert!(!file(&world).exists());
}

#[tokio::test]
async fn a_card_in_plain_text_and_an_image_without_updates_say_what_to_do() {
    let mut world = World::new().await;
    let host = world.pair("node1").await.unwrap();
    let connection = client::paired(world.address, &host).await.unwrap();
    let told = UpdatesClient::new(connection.channel).state(StateRequest {}).await.unwrap_err();
    assert_eq!(told.code(), Said::FailedPrecondition, "{told}");
    assert!(told.message().contains("flash the card with it once"), "{told}");

    takes_updates(&world);
    world.stop().await;
    world.start(true).await.unwrap();
    let mut updates = UpdatesClient::new(Way::Plain.channel(world.address).await.unwrap());
    for told in [
        updates.state(StateRequest {}).await.map(drop),
        updates.restart(RestartRequest { anyway: true }).await.map(drop),
        send(&mut updates, vec![announced(9, vec![0; 32])]).await,
    ] {
        let told = told.unwrap_err();
        assert_eq!(told.code(), Said::FailedPrecondition, "{told}");
        assert!(told.message().contains("updates are for paired hosts"), "{told}");
    }
}
