//! Who gets in, and who does not.

use std::sync::Arc;
use std::time::Duration;

use dpu_agent::trusted::accept::{Incoming, Limits};
use dpu_api::v1::pairing_client::PairingClient;
use dpu_api::v1::trust_client::TrustClient;
use dpu_api::v1::{RenewRequest, StartRequest};
use dpu_trust::Code;
use dpu_trust::authority::Authority;
use dpu_trust::card::Trust;
use dpu_trust::client::{self, Identity};
use dpu_trust::hosts::{Certificate, Fingerprint};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tonic::transport::{Endpoint, Server};
use tonic::{Code as Said, Status};

use crate::world::{DAY, World, authority, got_in, host, is_healthy};

#[tokio::test]
async fn a_host_with_the_code_gets_in_and_nobody_else_does() {
    let world = World::new().await;
    let stranger = client::stranger(world.address).await.unwrap().channel;
    assert!(is_healthy(stranger.clone()).await, "health is for all");
    let refused = got_in(&stranger).await.unwrap_err();
    let status = refused.downcast_ref::<Status>().unwrap();
    assert_eq!(status.code(), Said::Unauthenticated);
    assert!(status.message().contains("pair host and card"), "{status}");
    let renew = TrustClient::new(stranger.clone()).renew(RenewRequest::default()).await.unwrap_err();
    assert_eq!(renew.code(), Said::Unauthenticated);

    let wrong: Code = "ACDEF-GHJKN".parse().unwrap();
    let error = format!("{:#}", client::pair(world.address, &wrong, "node1").await.err().unwrap());
    assert_eq!(error, "the card said: the code is not the card's; the next try has to wait 1 s");
    let error = format!("{:#}", world.pair("node1").await.err().unwrap());
    assert_eq!(error, "the card said: a wrong code was tried: try again in 1 s");
    assert_eq!(world.names(), [""; 0]);
    tokio::time::sleep(Duration::from_millis(1100)).await;

    let identity = world.pair("node1").await.unwrap();
    world.ask(&identity).await.unwrap();
    assert_eq!(world.names(), ["node1"]);
    // The stranger's connection is no better for it.
    assert!(got_in(&stranger).await.is_err());
    let error = format!("{:#}", world.pair("node2").await.err().unwrap());
    assert!(error.contains("run `dpu-agent pairing open` on it"), "the code is good once: {error}");
}

#[tokio::test]
async fn certificates_that_are_foreign_over_or_revoked_end_in_the_handshake() {
    let (world, other) = (World::new().await, World::new().await);
    let good = world.pair("node1").await.unwrap();
    let theirs = other.pair("node1").await.unwrap();

    // Another card's certificate, though its host trusts this card.
    let foreign = Identity { authority: good.authority.clone(), ..theirs.clone() };
    let error = world.refusal(&foreign).await;
    assert!(error.contains("fatal alert: UnknownCA"), "{error}");
    // This card, for a host of another.
    let error = world.refusal(&theirs).await;
    assert!(error.contains("invalid peer certificate: UnknownIssuer"), "{error}");
    // Made by somebody who knows what the authority is called.
    let (forged, _) = host(&Authority::random().unwrap(), "node1", dpu_trust::now() + DAY);
    let error = world.refusal(&Identity { authority: good.authority.clone(), ..forged }).await;
    assert!(error.contains("fatal alert: UnknownCA"), "{error}");

    let over = world.host("old", dpu_trust::now().saturating_sub(DAY), true);
    let error = world.refusal(&over).await;
    assert!(error.contains("fatal alert: CertificateExpired"), "{error}");
    let unknown = world.host("unknown", dpu_trust::now() + DAY, false);
    let error = world.refusal(&unknown).await;
    assert!(error.contains("fatal alert: CertificateRevoked"), "{error}");

    // A server's certificate is no host's.
    let (server, entry) = {
        let server = world.authority().sign_server(world.address.ip(), dpu_trust::now() + DAY).unwrap();
        let sha256 = Fingerprint::of(&server.certificate);
        (server.pem(), Certificate { sha256, ends: (dpu_trust::now() + DAY).as_secs() })
    };
    world.roster().change(|hosts| hosts.pair("server", entry, dpu_trust::now())).unwrap();
    let as_host = Identity { authority: good.authority.clone(), certificate: server.clone(), key: server };
    let error = world.refusal(&as_host).await;
    assert!(error.contains("fatal alert: "), "{error}");

    let error = world.refusal(&Identity { key: theirs.key, ..good.clone() }).await;
    assert!(error.contains("using the host's certificate"), "{error}");
    world.ask(&good).await.unwrap();
}

#[tokio::test]
async fn revocation_counts_at_once_and_for_open_connections() {
    let world = World::new().await;
    let identity = world.pair("node1").await.unwrap();
    let connection = client::paired(world.address, &identity).await.unwrap().channel;
    got_in(&connection).await.unwrap();
    assert!(world.roster().change(|hosts| Ok(hosts.revoke("node1"))).unwrap());
    let error = format!("{:#}", got_in(&connection).await.unwrap_err());
    assert!(error.contains("the certificate was revoked"), "{error}");
    assert!(world.refusal(&identity).await.contains("fatal alert: CertificateRevoked"));
    assert!(client::renew(world.address, &identity).await.is_err());
}

#[tokio::test]
async fn a_certificate_that_ends_ends_open_connections_too() {
    let world = World::new().await;
    let identity = world.host("node1", dpu_trust::now() + Duration::from_secs(2), true);
    let connection = client::paired(world.address, &identity).await.unwrap().channel;
    got_in(&connection).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let error = format!("{:#}", got_in(&connection).await.unwrap_err());
    assert!(error.contains("the certificate of `node1` is over"), "{error}");
}

#[tokio::test]
async fn plain_text_is_only_spoken_where_the_plan_says_so() {
    let mut world = World::new().await;
    let plain = |address| async move { Endpoint::from_shared(format!("http://{address}"))?.connect().await };
    // A host in plain text, as the Go plugin is.
    if let Ok(channel) = plain(world.address).await {
        assert!(got_in(&channel).await.is_err());
    }
    let identity = world.pair("node1").await.unwrap();
    world.stop().await;
    world.start(true).await.unwrap();
    got_in(&plain(world.address).await.unwrap()).await.unwrap();
    let mut pairing = PairingClient::new(plain(world.address).await.unwrap());
    let said = pairing.start(StartRequest::default()).await.unwrap_err();
    assert_eq!(said.code(), Said::Unimplemented);
    assert!(world.ask(&identity).await.is_err(), "a host with TLS does not speak plain text");
}

#[tokio::test]
async fn who_says_nothing_holds_up_nobody() {
    let world = World::on_a_link().await;
    let identity = world.pair("node1").await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(world.address).await.unwrap());
    }
    // Sooner than any of them is let go.
    tokio::time::timeout(Duration::from_secs(4), world.ask(&identity)).await.unwrap().unwrap();
    // They are let go after their time.
    let mut octet = [0];
    let gone = tokio::time::timeout(Duration::from_secs(10), silent[0].read(&mut octet)).await.unwrap();
    assert!(matches!(gone, Ok(0) | Err(_)));
}

#[tokio::test]
async fn strangers_shut_out_neither_newer_ones_nor_the_card_itself() {
    for world in [World::on_a_link().await, World::new().await] {
        let mut strangers = Vec::new();
        for _ in 0..=Limits::CARD.strangers {
            strangers.push(client::stranger(world.address).await.unwrap().channel);
        }
        assert!(is_healthy(strangers.pop().unwrap()).await, "the newest");
        let is_own = world.address.ip() == std::net::Ipv4Addr::LOCALHOST;
        assert_eq!(is_healthy(strangers.swap_remove(0)).await, is_own, "the oldest");
    }
}

#[tokio::test]
async fn a_stranger_has_its_time_and_a_paired_host_all_it_wants() {
    let folder = tempfile::tempdir().unwrap();
    let trust = Trust::open(folder.path(), [127, 0, 0, 2].into(), dpu_trust::now()).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(trust.server_config().unwrap()));
    let listener = TcpListener::bind(("127.0.0.2", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits { stranger: Duration::from_secs(1), ..Limits::CARD };
    let incoming = Incoming::new(listener, Some(acceptor), limits);
    let (_reporter, health) = tonic_health::server::health_reporter();
    let server = tokio::spawn(Server::builder().serve_with_incoming(health, incoming));
    let (identity, certificate) = host(&authority(folder.path()), "node1", dpu_trust::now() + DAY);
    trust.roster().change(|hosts| hosts.pair("node1", certificate, dpu_trust::now())).unwrap();

    let stranger = client::stranger(address).await.unwrap().channel;
    let paired = client::paired(address, &identity).await.unwrap().channel;
    assert!(is_healthy(stranger.clone()).await);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!is_healthy(stranger).await);
    assert!(is_healthy(paired).await);
    server.abort();
}
