//! The card's service `Updates`, called.

use std::io::Read as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use dpu_api::v1::install_request::Part;
use dpu_api::v1::updates_client::UpdatesClient;
use dpu_api::v1::{self, InstallRequest, RestartRequest, StateRequest, StateResponse};
use tokio::sync::mpsc::{self, Sender};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::bundle::{Bundle, CHUNK};
use super::progress::Progress;
use crate::card;
use crate::config::Peer;
use crate::deadline::Deadline;

/// How long a connection, and a short call, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The agent on the card.
pub struct Card {
    peer: Peer,
}

impl Card {
    /// The agent `peer`. Nothing is sent yet.
    pub fn new(peer: Peer) -> Self {
        Self { peer }
    }

    /// How the slots are.
    pub async fn state(&self) -> Result<StateResponse> {
        let mut updates = self.updates().await?;
        short(updates.state(StateRequest {})).await
    }

    /// Starts the card anew, into a slot that was installed.
    pub async fn restart(&self) -> Result<()> {
        let mut updates = self.updates().await?;
        short(updates.restart(RestartRequest { anyway: false })).await.map(drop)
    }

    /// Sends a bundle, and waits until it is installed.
    pub async fn install(&self, bundle: Bundle) -> Result<()> {
        let mut updates = self.updates().await?;
        let (parts, stream) = mpsc::channel(4);
        let sending = tokio::task::spawn_blocking(move || send(bundle, &parts));
        let installed = watch(&mut updates, ReceiverStream::new(stream)).await;
        // A bundle that can't be read is why the card got no whole one.
        sending.await.context("sending the bundle")??;
        installed.map_err(|status| said(&status))
    }

    async fn updates(&self) -> Result<UpdatesClient<Channel>> {
        let deadline = Deadline::after(Instant::now(), PATIENCE);
        Ok(UpdatesClient::new(card::channel(&self.peer, deadline).await?))
    }
}

/// Reads the bundle, as fast as the card takes it.
fn send(mut bundle: Bundle, parts: &Sender<InstallRequest>) -> Result<()> {
    let progress = Progress::octets("sending the bundle", bundle.size);
    let announced = v1::Bundle { size: bundle.size, sha256: bundle.sha256 };
    let mut part = Part::Bundle(announced);
    let mut done = 0;
    // Where the card takes no more, its answer says why.
    while parts.blocking_send(InstallRequest { part: Some(part) }).is_ok() {
        progress.at(done);
        let mut chunk = vec![0; CHUNK];
        let length = bundle.file.read(&mut chunk).context("reading the bundle")?;
        if length == 0 {
            break;
        }
        chunk.truncate(length);
        done += length as u64;
        part = Part::Chunk(chunk);
    }
    Ok(())
}

/// Shows what the card does with the bundle, until it is done.
async fn watch(
    updates: &mut UpdatesClient<Channel>,
    parts: ReceiverStream<InstallRequest>,
) -> Result<(), Status> {
    let mut told = updates.install(parts).await?.into_inner();
    let mut progress = None;
    while let Some(step) = told.message().await? {
        let progress = progress.get_or_insert_with(|| Progress::steps("installing", 100));
        progress.step(step.percent.into(), &printable(&step.step));
    }
    Ok(())
}

/// What comes from the card is shown to people: no control character gets to their terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect()
}

async fn short<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T> {
    let answer =
        timeout(PATIENCE, call).await.map_err(|_| anyhow!("no answer from the card in {PATIENCE:?}"))?;
    answer.map(Response::into_inner).map_err(|status| said(&status))
}

fn said(status: &Status) -> anyhow::Error {
    if status.code() == Code::Unimplemented {
        return anyhow!(
            "the card's system is too old for this: it takes no updates from the host; run `rauc install` on the \
             card with a newer system once, or flash it"
        );
    }
    anyhow!("the card said: {}", printable(&card::reason(status)))
}
