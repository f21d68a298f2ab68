//! The plugin's client with the real agent, over TLS, with the files that pairing makes.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use dpu_agent::trusted::{Door, Places};
use dpu_api::CniAddRequest;
use dpu_api::v1::pairing_server::PairingServer;
use dpu_trust::card::Roster;
use tempfile::TempDir;
use tonic::transport::Server;
use tower::ServiceExt as _;

use super::*;
use crate::config::Tls;
use crate::pairing::{Outcome, PairArguments, run};

const CODE: &str = "ACDEF-GHJKM";

/// The agent's door, with nothing behind it but pairing: whatever else is asked is not known there.
struct Agent {
    folder: TempDir,
    address: SocketAddr,
}

impl Agent {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        dpu_trust::keep::write(&folder.path().join("given"), CODE.as_bytes(), 0o400).unwrap();
        let at = |name: &str| folder.path().join(name);
        let places = Places { trust: at("trust"), window: at("run"), console: at("console") };
        let given = at("given");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let door = Door::guarded(&places, address.ip(), Some(&given)).unwrap();
                let incoming = door.incoming(tokio::net::TcpListener::from_std(listener).unwrap());
                let (pairing, trust) = door.services();
                let (pairing, trust): (PairingServer<_>, _) = (pairing.unwrap(), trust.unwrap());
                let services =
                    tower::service_fn(move |request: tonic::codegen::http::Request<tonic::body::Body>| {
                        let (pairing, trust) = (pairing.clone(), trust.clone());
                        async move {
                            if request.uri().path().starts_with("/dpukit.v1.Pairing/") {
                                pairing.oneshot(request).await
                            } else {
                                trust.oneshot(request).await
                            }
                        }
                    });
                ready.send(()).unwrap();
                let service = tower::Layer::layer(&door.gate(), services);
                Server::builder().serve_with_incoming(service, incoming).await.unwrap();
            });
        });
        is_ready.recv().unwrap();
        Self { folder, address }
    }

    fn arguments(&self) -> PairArguments {
        PairArguments {
            agent: self.address,
            name: Some("node1".to_owned()),
            code_file: Some(self.folder.path().join("given")),
            folder: self.folder.path().join("tls"),
            renew: false,
            within: None,
        }
    }

    /// The agent, as the plugin's configuration names it.
    fn peer(&self) -> Peer {
        let path = |name: &str| self.folder.path().join("tls").join(name);
        let tls =
            Tls { ca: path("ca.pem"), certificate: path("host.pem"), key: path("host.key"), name: None };
        Peer { address: self.address, tls: Some(tls) }
    }

    /// Asks for a pod's network. The agent here has none to give, and says so to who gets in.
    fn ask(&self) -> Result<()> {
        let mut card = Card::new(self.peer())?;
        let answer = card.add(
            &CniAddRequest::default(),
            Deadline::after(Instant::now(), Duration::from_secs(3)),
            || (),
        );
        unless(answer.map(drop), &[tonic::Code::Unimplemented])
    }
}

#[test]
fn the_plugin_gets_in_with_what_pairing_and_renewing_make() {
    let agent = Agent::start();
    let error = format!("{:#}", agent.ask().unwrap_err());
    assert!(error.contains("pair host and card to make it"), "{error}");
    let arguments = agent.arguments();
    assert_eq!(run(&arguments).unwrap(), Outcome::Paired("node1".to_owned()));
    agent.ask().unwrap();

    let renew = PairArguments { renew: true, name: None, code_file: None, ..arguments.clone() };
    let not_due = PairArguments { within: Some(100), ..renew.clone() };
    assert_eq!(run(&not_due).unwrap(), Outcome::NotDue);
    let key = || fs::read_to_string(agent.folder.path().join("tls/host.key")).unwrap();
    let before = key();
    assert_eq!(run(&PairArguments { within: Some(400), ..renew.clone() }).unwrap(), Outcome::Renewed);
    assert_ne!(key(), before);
    agent.ask().unwrap();
    assert_eq!(run(&renew).unwrap(), Outcome::Renewed);
    agent.ask().unwrap();

    // The code is good once, and what the host has stays.
    let error = format!("{:#}", run(&arguments).unwrap_err());
    assert!(error.contains("`dpu-agent pairing open`"), "{error}");
    agent.ask().unwrap();

    let roster = Roster::new(&agent.folder.path().join("trust"));
    assert!(roster.change(|hosts| Ok(hosts.revoke("node1"))).unwrap());
    let error = format!("{:#}", agent.ask().unwrap_err());
    assert!(error.contains("CertificateRevoked"), "{error}");
    assert!(run(&renew).is_err());
}

#[test]
fn the_plugin_gets_in_while_its_certificate_is_renewed() {
    let agent = Agent::start();
    run(&agent.arguments()).unwrap();
    let renew = PairArguments { renew: true, name: None, code_file: None, ..agent.arguments() };
    let renewing =
        thread::spawn(move || (0..6).for_each(|_| assert_eq!(run(&renew).unwrap(), Outcome::Renewed)));
    let mut calls = 0;
    while !renewing.is_finished() || calls < 20 {
        agent.ask().unwrap();
        calls += 1;
    }
    renewing.join().unwrap();
}
