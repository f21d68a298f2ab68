//! A card whose agent runs, and hosts.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dpu_agent::Card;
use dpu_agent::programs::System;
use dpu_agent::serve::{self, Pace, Served};
use dpu_agent::tree::Tree;
use dpu_agent::trusted::{Door, Places};
use dpu_api::CniAddRequest;
use dpu_api::cni_action_client::CniActionClient;
use dpu_trust::HostKey;
use dpu_trust::authority::{Authority, certificate_pem};
use dpu_trust::card::Roster;
use dpu_trust::client::{self, Identity};
use dpu_trust::hosts::{Certificate, Fingerprint};
use dpu_trust::window::Window;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Code as Said;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

pub const CODE: &str = "ACDEF-GHJKM";
pub const DAY: Duration = Duration::from_hours(24);

/// A card with its agent, as it is after its first start; it serves no pods, which it says to who gets in.
pub struct World {
    pub folder: tempfile::TempDir,
    pub address: SocketAddr,
    running: Option<(watch::Sender<bool>, JoinHandle<Result<()>>)>,
}

impl World {
    /// A card that was given [`CODE`]. Those who connect come from the card's own address.
    pub async fn new() -> Self {
        Self::at([127, 0, 0, 1]).await
    }

    /// As [`World::new`], at another address than the one that those who connect come from.
    pub async fn on_a_link() -> Self {
        Self::at([127, 0, 0, 2]).await
    }

    async fn at(address: [u8; 4]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        dpu_trust::keep::write(&folder.path().join("given"), CODE.as_bytes(), 0o400).unwrap();
        let mut world = Self { folder, address: SocketAddr::from((address, 0)), running: None };
        world.start(false).await.unwrap();
        world
    }

    pub fn card(&self, insecure: bool) -> Card {
        let root = self.folder.path().to_owned();
        let (plan, _pods) = include_str!("../../plan/examples/virt.toml").split_once("\n# Pods").unwrap();
        let mut plan: dpu_plan::Plan = toml::from_str(plan).unwrap();
        plan.agent.insecure = insecure;
        let tree = Tree::new(root, Box::new(|path, value| fs::write(path, value)));
        Card { tree, programs: Box::new(System), plan, patience: Duration::ZERO }
    }

    pub fn places(&self) -> Places {
        Places::of(&self.card(false))
    }

    /// Starts the agent.
    pub async fn start(&mut self, insecure: bool) -> Result<()> {
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

    pub async fn stop(&mut self) {
        let (stop, server) = self.running.take().unwrap();
        stop.send(true).unwrap();
        server.await.unwrap().unwrap();
    }

    pub async fn pair(&self, name: &str) -> Result<Identity> {
        client::pair(self.address, &CODE.parse()?, name).await
    }

    /// Makes a call of the plugin's as a host, over a new connection.
    pub async fn ask(&self, identity: &Identity) -> Result<()> {
        got_in(&client::paired(self.address, identity).await?.channel).await
    }

    /// What a host hears that is refused.
    pub async fn refusal(&self, identity: &Identity) -> String {
        format!("{:#}", self.ask(identity).await.unwrap_err())
    }

    pub fn roster(&self) -> Roster {
        Roster::new(&self.places().trust)
    }

    pub fn names(&self) -> Vec<String> {
        self.roster().hosts().unwrap().all().iter().map(|host| host.name.clone()).collect()
    }

    pub fn window(&self) -> Window {
        Window::new(&self.places().window, &self.places().trust)
    }

    pub fn console(&self) -> String {
        fs::read_to_string(self.places().console).unwrap()
    }

    pub fn authority(&self) -> Authority {
        authority(&self.places().trust)
    }

    /// A host of this card's authority, in its list where `listed`.
    pub fn host(&self, name: &str, end: Duration, listed: bool) -> Identity {
        let (identity, certificate) = host(&self.authority(), name, end);
        if listed {
            self.roster().change(|hosts| hosts.pair(name, certificate, dpu_trust::now())).unwrap();
        }
        identity
    }
}

pub fn authority(folder: &Path) -> Authority {
    Authority::of_pem(&fs::read_to_string(folder.join("authority.pem")).unwrap()).unwrap()
}

pub fn host(authority: &Authority, name: &str, end: Duration) -> (Identity, Certificate) {
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
pub async fn got_in(channel: &Channel) -> Result<()> {
    match CniActionClient::new(channel.clone()).cmd_add(CniAddRequest::default()).await {
        Err(status)
            if status.code() != Said::FailedPrecondition && status.code() != Said::InvalidArgument =>
        {
            Err(status).context("refused")
        }
        _ => Ok(()),
    }
}

pub async fn is_healthy(channel: Channel) -> bool {
    let request = HealthCheckRequest { service: String::new() };
    HealthClient::new(channel).check(request).await.is_ok()
}
