//! Those who play the card, or stand between it and the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use dpu_agent::trusted::accept::{Incoming, Limits};
use dpu_api::v1::pairing_client::PairingClient;
use dpu_api::v1::pairing_server::{Pairing, PairingServer};
use dpu_api::v1::{FinishRequest, FinishResponse, StartRequest, StartResponse};
use dpu_trust::Code;
use dpu_trust::authority::Authority;
use dpu_trust::card::Trust;
use dpu_trust::client;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use crate::world::{CODE, World};

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
    let incoming = Incoming::new(listener, Some(acceptor), Limits::CARD);
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
    let incoming = Incoming::new(listener, Some(acceptor), Limits::CARD);
    let finished = Arc::new(AtomicBool::new(false));
    let service = PairingServer::new(Impostor(Arc::clone(&finished)));
    let server = tokio::spawn(Server::builder().serve_with_incoming(service, incoming));
    let error = client::pair(address, &CODE.parse().unwrap(), "node1").await.err().unwrap();
    assert!(format!("{error:#}").starts_with("what answers is not the card"), "{error:#}");
    assert!(finished.load(Ordering::Relaxed));
    server.abort();
}
