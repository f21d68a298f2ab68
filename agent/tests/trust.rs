//! Hosts and the agent, over real connections: who gets in, and who does not.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use dpu_agent::Card;
use dpu_agent::programs::System;
use dpu_agent::serve::{self, Pace, Served};
use dpu_agent::tree::Tree;
use dpu_agent::trusted::accept::Incoming;
use dpu_agent::trusted::{Door, Places};
use dpu_api::CniAddRequest;
use dpu_api::cni_action_client::CniActionClient;
use dpu_api::v1::pairing_client::PairingClient;
use dpu_api::v1::pairing_server::{Pairing, PairingServer};
use dpu_api::v1::trust_client::TrustClient;
use dpu_api::v1::{FinishRequest, FinishResponse, RenewRequest, RenewResponse, StartRequest, StartResponse};
use dpu_trust::authority::{Authority, certificate_pem};
use dpu_trust::card::{Roster, Trust};
use dpu_trust::client::{self, Identity};
use dpu_trust::exchange::{Answer, Claim, HostStart, renewal};
use dpu_trust::hosts::{Certificate, Fingerprint};
use dpu_trust::window::{Window, uptime};
use dpu_trust::{Code, HostKey};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code as Said, Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const CODE: &str = "ACDEF-GHJKM";
const DAY: Duration = Duration::from_hours(24);

/// A card with its agent, as it is after its first start; it serves no pods, which it says to who gets in.
struct World {
    folder: tempfile::TempDir,
    address: SocketAddr,
    running: Option<(watch::Sender<bool>, JoinHandle<Result<()>>)>,
}

impl World {
    /// A card that was given [`CODE`].
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        dpu_trust::keep::write(&folder.path().join("given"), CODE.as_bytes(), 0o400).unwrap();
        let mut world = Self { folder, address: SocketAddr::from(([127, 0, 0, 1], 0)), running: None };
        world.start(false).await.unwrap();
        world
    }

    fn card(&self, insecure: bool) -> Card {
        let root = self.folder.path().to_owned();
        let (plan, _pods) = include_str!("../plan/examples/virt.toml").split_once("\n# Pods").unwrap();
        let mut plan: dpu_plan::Plan = toml::from_str(plan).unwrap();
        plan.agent.insecure = insecure;
        let tree = Tree::new(root, Box::new(|path, value| fs::write(path, value)));
        Card { tree, programs: Box::new(System), plan, patience: Duration::ZERO }
    }

    fn places(&self) -> Places {
        Places::of(&self.card(false))
    }

    /// Starts the agent.
    async fn start(&mut self, insecure: bool) -> Result<()> {
        let card = Arc::new(self.card(insecure));
        for folder in ["dev", "run"] {
            fs::create_dir_all(card.tree.at(format!("/{folder}")))?;
        }
        fs::write(card.tree.at("/dev/console"), "")?;
        let given = self.folder.path().join("given");
        let door = if insecure {
            Door::open(&card)?
        } else {
            Door::guarded(&Places::of(&card), self.address.ip(), Some(&given))?
        };
        let listener = TcpListener::bind((self.address.ip(), 0)).await?;
        self.address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let pace = Pace { farewell: Duration::from_millis(100), ..Pace::CARD };
        let (served, incoming) = (Served::start(card), door.incoming(listener));
        let server = tokio::spawn(serve::serve(served, door, self.address, incoming, pace, stopped));
        self.running = Some((stop, server));
        Ok(())
    }

    async fn stop(&mut self) {
        let (stop, server) = self.running.take().unwrap();
        stop.send(true).unwrap();
        server.await.unwrap().unwrap();
    }

    async fn pair(&self, name: &str) -> Result<Identity> {
        client::pair(self.address, &CODE.parse()?, name).await
    }

    /// Makes a call of the plugin's as a host, over a new connection.
    async fn ask(&self, identity: &Identity) -> Result<()> {
        got_in(&client::paired(self.address, identity).await?.channel).await
    }

    /// What a host hears that is refused.
    async fn refusal(&self, identity: &Identity) -> String {
        format!("{:#}", self.ask(identity).await.unwrap_err())
    }

    fn roster(&self) -> Roster {
        Roster::new(&self.places().trust)
    }

    fn names(&self) -> Vec<String> {
        self.roster().hosts().unwrap().all().iter().map(|host| host.name.clone()).collect()
    }

    fn window(&self) -> Window {
        Window::new(&self.places().window, &self.places().trust)
    }

    fn console(&self) -> String {
        fs::read_to_string(self.places().console).unwrap()
    }

    fn authority(&self) -> Authority {
        authority(&self.places().trust)
    }

    /// A host of this card's authority, in its list where `listed`.
    fn host(&self, name: &str, end: Duration, listed: bool) -> Identity {
        let (identity, certificate) = host(&self.authority(), name, end);
        if listed {
            self.roster().change(|hosts| hosts.pair(name, certificate, dpu_trust::now())).unwrap();
        }
        identity
    }
}

fn authority(folder: &Path) -> Authority {
    Authority::of_pem(&fs::read_to_string(folder.join("authority.pem")).unwrap()).unwrap()
}

fn host(authority: &Authority, name: &str, end: Duration) -> (Identity, Certificate) {
    let key = HostKey::random().unwrap();
    let certificate = authority.sign_host(name, key.public().unwrap(), end).unwrap();
    let identity = Identity {
        authority: certificate_pem(authority.certificate()),
        certificate: certificate_pem(&certificate),
        key: key.pem(),
    };
    (identity, Certificate { sha256: Fingerprint::of(&certificate), ends: end.as_secs() })
}

/// Asks for a pod's network. The card has none to give, and says that only to who may ask.
async fn got_in(channel: &Channel) -> Result<()> {
    match CniActionClient::new(channel.clone()).cmd_add(CniAddRequest::default()).await {
        Err(status)
            if status.code() != Said::FailedPrecondition && status.code() != Said::InvalidArgument =>
        {
            Err(status).context("refused")
        }
        _ => Ok(()),
    }
}

async fn is_healthy(channel: Channel) -> bool {
    let request = HealthCheckRequest { service: String::new() };
    HealthClient::new(channel).check(request).await.is_ok()
}

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
async fn a_name_that_is_none_is_refused() {
    let world = World::new().await;
    for name in ["", "a b", "../x", "a\u{1b}[2J"] {
        let error = format!("{:#}", world.pair(name).await.err().unwrap());
        assert!(error.contains("is no host name") && !error.contains('\u{1b}'), "{error}");
    }
    assert_eq!(world.names(), [""; 0]);
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
async fn a_host_that_pairs_again_replaces_itself() {
    let world = World::new().await;
    let before = world.pair("node1").await.unwrap();
    let code = world.window().open(uptime()).unwrap();
    let after = client::pair(world.address, &code, "node1").await.unwrap();
    world.ask(&after).await.unwrap();
    assert!(world.refusal(&before).await.contains("CertificateRevoked"));
    assert_eq!(world.names(), ["node1"]);
}

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

/// One in the middle, with TLS of its own on both sides, which passes on every message as it is.
#[derive(Clone)]
struct Middle(Channel);

#[tonic::async_trait]
impl Pairing for Middle {
    async fn start(&self, request: Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        PairingClient::new(self.0.clone()).start(request.into_inner()).await
    }

    async fn finish(&self, request: Request<FinishRequest>) -> Result<Response<FinishResponse>, Status> {
        PairingClient::new(self.0.clone()).finish(request.into_inner()).await
    }
}

#[tokio::test]
async fn one_in_the_middle_is_found_out() {
    let world = World::new().await;
    let card = client::stranger(world.address).await.unwrap().channel;
    let folder = tempfile::tempdir().unwrap();
    let own = Trust::open(folder.path(), world.address.ip(), dpu_trust::now()).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(own.server_config().unwrap()));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = Incoming::new(listener, Some(acceptor));
    let server = Server::builder().serve_with_incoming(PairingServer::new(Middle(card)), incoming);
    let server = tokio::spawn(server);

    let error = client::pair(address, &CODE.parse().unwrap(), "node1").await.err().unwrap();
    assert!(format!("{error:#}").contains("the code is not the card's"), "{error:#}");
    assert_eq!(world.names(), [""; 0]);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // The card that it went around is well.
    world.pair("node1").await.unwrap();
    server.abort();
}

/// One that plays the card, and does not have the code.
#[derive(Clone)]
struct Impostor(Arc<AtomicBool>);

#[tonic::async_trait]
impl Pairing for Impostor {
    async fn start(&self, request: Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        let wrong: Code = "22222-22222".parse().unwrap();
        let started = dpu_trust::exchange::CardStart::new(&wrong, &[0; 32], &request.into_inner().message);
        let (_, session, message) = started.unwrap();
        Ok(Response::new(StartResponse { session: session.to_vec(), message }))
    }

    async fn finish(&self, _: Request<FinishRequest>) -> Result<Response<FinishResponse>, Status> {
        self.0.store(true, Ordering::Relaxed);
        let authority = Authority::random().unwrap().certificate().to_vec();
        Ok(Response::new(FinishResponse { certificate: authority.clone(), authority, proof: vec![0; 32] }))
    }
}

#[tokio::test]
async fn one_that_plays_the_card_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let own = Trust::open(folder.path(), [127, 0, 0, 1].into(), dpu_trust::now()).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(own.server_config().unwrap()));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = Incoming::new(listener, Some(acceptor));
    let finished = Arc::new(AtomicBool::new(false));
    let service = PairingServer::new(Impostor(Arc::clone(&finished)));
    let server = tokio::spawn(Server::builder().serve_with_incoming(service, incoming));
    let error = client::pair(address, &CODE.parse().unwrap(), "node1").await.err().unwrap();
    assert!(format!("{error:#}").starts_with("what answers is not the card"), "{error:#}");
    assert!(finished.load(Ordering::Relaxed));
    server.abort();
}

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
    let world = World::new().await;
    let identity = world.pair("node1").await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(TcpStream::connect(world.address).await.unwrap());
    }
    world.ask(&identity).await.unwrap();
    // They are let go after their time.
    let mut octet = [0];
    let gone = tokio::time::timeout(Duration::from_secs(10), silent[0].read(&mut octet)).await.unwrap();
    assert!(matches!(gone, Ok(0) | Err(_)));
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
