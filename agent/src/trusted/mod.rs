//! Who may ask: the way from a TCP connection to a call.
//!
//! - [`accept`] makes TLS of connections, a bounded number at once ([`crowd`]), each within a deadline;
//! - [`gate`] lets a call through, or not, by the certificate of its connection;
//! - [`pairing`] answers the calls by which a host gets its certificate;
//! - [`command`] is `dpu-agent pairing`.
//!
//! What is behind it, and why, is the page of the crate `dpu-trust`.

pub mod accept;
pub mod command;
pub mod crowd;
pub mod gate;
pub mod pairing;

mod console;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dpu_api::v1::pairing_server::PairingServer;
use dpu_api::v1::trust_server::TrustServer;
use dpu_trust::card::{self, Trust};
use dpu_trust::hosts::Host;
use dpu_trust::window::{Window, uptime};
use dpu_trust::{Code, client, keep};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tonic::transport::{Channel, Endpoint};

use crate::Card;
use accept::{Incoming, Limits};
use console::Console;
use gate::GateLayer;
use pairing::{Desk, Service};

/// Where the card's code is kept while the card is on.
const WINDOW: &str = "/run/dpukit/pairing";
/// The credential that holds the code that a card is given, at build (`/usr/lib/credstore`) or at boot (see
/// systemd.system-credentials(7)).
const CREDENTIAL: &str = "dpukit.pairing-code";
const CONSOLE: &str = "/dev/console";

/// How the agent's port is kept.
#[derive(Clone)]
pub enum Door {
    /// In plain text, open to all who come by the link: the plan says `insecure = true`.
    Plain,
    /// With TLS.
    Guarded(Arc<Guard>),
}

/// What guards the door.
pub struct Guard {
    trust: Arc<Trust>,
    desk: Arc<Desk>,
    acceptor: TlsAcceptor,
}

/// Files and devices that the door needs.
#[derive(Debug, Clone)]
pub struct Places {
    /// The folder of [`Trust`].
    pub trust: PathBuf,
    /// The folder of [`Window`].
    pub window: PathBuf,
    /// The console that people look at.
    pub console: PathBuf,
}

impl Places {
    /// Those of a card.
    pub fn of(card: &Card) -> Self {
        let at = |path: &str| card.tree.at(path);
        Self { trust: at(card::FOLDER), window: at(WINDOW), console: at(CONSOLE) }
    }
}

impl Door {
    /// Gets the door ready, as the plan wants it; at the card's first start this makes its authority.
    ///
    /// # Errors
    /// Where the card's keys can't be read, were damaged, or can't be made.
    pub fn open(card: &Card) -> Result<Self> {
        if card.plan.agent.insecure {
            tracing::warn!(
                "INSECURE: the agent speaks plain text, and everybody on the link can ask for pods' networks; \
                 remove `insecure = true` from the board's `agent` and pair the host to end this"
            );
            return Ok(Self::Plain);
        }
        let given =
            std::env::var_os("CREDENTIALS_DIRECTORY").map(|folder| PathBuf::from(folder).join(CREDENTIAL));
        Self::guarded(&Places::of(card), card.plan.link.address.address(), given.as_deref())
    }

    /// The door with TLS, for an agent at an address; `given` is the file of a code that the card was given.
    ///
    /// # Errors
    /// As [`Door::open`].
    pub fn guarded(places: &Places, address: IpAddr, given: Option<&Path>) -> Result<Self> {
        Ok(Self::Guarded(Arc::new(Guard::new(places, address, given)?)))
    }

    /// The connections that come in.
    pub fn incoming(&self, listener: TcpListener) -> Incoming {
        Incoming::new(listener, self.guard().map(|guard| guard.acceptor.clone()), Limits::CARD)
    }

    /// What lets calls through.
    pub fn gate(&self) -> GateLayer {
        GateLayer::new(self.guard().map(|guard| Arc::clone(guard.trust.roster())))
    }

    /// The calls by which a host gets its certificates.
    pub fn services(&self) -> (Option<PairingServer<Service>>, Option<TrustServer<Service>>) {
        let service = self.guard().map(|guard| Service(Arc::clone(&guard.desk)));
        (service.clone().map(PairingServer::new), service.map(TrustServer::new))
    }

    /// The paired hosts, each with when the last of its certificates ends, in seconds since 1970.
    ///
    /// # Errors
    /// Where the list of hosts is damaged.
    pub fn peers(&self) -> Result<Vec<(String, u64)>> {
        let Some(guard) = self.guard() else { return Ok(Vec::new()) };
        let hosts = guard.trust.roster().hosts()?;
        let last = |host: &Host| host.certificates.iter().map(|one| one.ends).max();
        Ok(hosts.all().iter().filter_map(|host| Some((host.name.clone(), last(host)?))).collect())
    }

    /// Sees to it, for ever, that codes and the agent's certificate do not get old.
    pub async fn tend(self) {
        const PAUSE: Duration = Duration::from_secs(10);
        let Self::Guarded(guard) = self else { return };
        let mut last = None;
        loop {
            let desk = Arc::clone(&guard.desk);
            let tended = tokio::task::spawn_blocking(move || desk.tend(uptime())).await;
            let error = match tended {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("{error:#}")),
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = error.as_ref().filter(|_| error != last) {
                tracing::error!("looking after pairing: {error}");
            }
            last = error;
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn guard(&self) -> Option<&Arc<Guard>> {
        match self {
            Self::Plain => None,
            Self::Guarded(guard) => Some(guard),
        }
    }
}

impl Guard {
    /// Reads or makes the card's keys, and takes the code in the file `given`, where it is there.
    fn new(places: &Places, address: IpAddr, given: Option<&Path>) -> Result<Self> {
        let trust = Arc::new(Trust::open(&places.trust, address, dpu_trust::now())?);
        let window = Window::new(&places.window, &places.trust);
        if let Some(given) = given
            && let Err(error) = give(&trust, &window, given)
        {
            // The card can still make a code of its own.
            tracing::error!("the pairing code that the card was given is not used: {error:#}");
        }
        let acceptor = TlsAcceptor::from(Arc::new(trust.server_config()?));
        let desk = Arc::new(Desk::new(Arc::clone(&trust), window, Console::new(&places.console)));
        Ok(Self { trust, desk, acceptor })
    }
}

fn give(trust: &Trust, window: &Window, path: &Path) -> Result<()> {
    let Some(text) = keep::read(path)? else { return Ok(()) };
    let code: Code = text.parse()?;
    if !trust.roster().hosts()?.all().is_empty() {
        tracing::info!("a host is paired: the pairing code that the card was given is not used");
    } else if window.give(&code, uptime())? {
        tracing::info!("waiting for a host with the pairing code that the card was given");
    } else {
        tracing::info!("the pairing code that the card was given is used up");
    }
    Ok(())
}

/// How to ask the agent from the card itself.
#[derive(Debug, Clone)]
pub enum Way {
    /// In plain text.
    Plain,
    /// With TLS, trusting the card's own authority alone.
    Tls(CertificateDer<'static>),
}

impl Way {
    /// That to the agent of this card.
    ///
    /// # Errors
    /// Where the card has no authority yet.
    pub fn of(card: &Card) -> Result<Self> {
        if card.plan.agent.insecure {
            return Ok(Self::Plain);
        }
        Trust::authority_in(&Places::of(card).trust).map(Self::Tls)
    }

    /// A channel to the agent.
    ///
    /// # Errors
    /// Where nobody answers, or another than the agent.
    pub async fn channel(&self, address: SocketAddr) -> Result<Channel> {
        match self {
            Self::Plain => {
                let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
                endpoint.connect().await.context("connecting in plain text")
            }
            Self::Tls(authority) => Ok(client::anonymous(address, authority.clone()).await?.channel),
        }
    }
}
