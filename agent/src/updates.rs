//! Updates that a paired host hands to the card: the service `Updates`.
//!
//! RAUC alone decides about a bundle: by its signature, the board and the version. The calls are for paired hosts
//! all the same, and an agent in plain text refuses them: a signature says who made a system, and not who may start
//! the card anew, fill its disk, or choose when it changes.

mod rauc;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dpu_api::v1::install_request::Part;
use dpu_api::v1::updates_server::Updates;
use dpu_api::v1::{
    InstallRequest, InstallResponse, Refused, RestartRequest, RestartResponse, Slot, StateRequest,
    StateResponse,
};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::Card;
use crate::slots::{self, Place};
use crate::trusted::gate::HostName;
use upload::Upload;

/// How long a host may be silent while it sends.
const PATIENCE: Duration = Duration::from_mins(1);

/// The calls, as gRPC has them.
#[derive(Clone)]
pub struct Service {
    card: Arc<Card>,
    /// Who has it installs, or restarts the card.
    turn: Arc<Semaphore>,
}

impl Service {
    /// The calls for a card; a bundle that an agent before left behind is removed.
    pub fn new(card: Arc<Card>) -> Self {
        if let Err(error) = upload::clear(&card.tree) {
            tracing::error!("a bundle is left over: {error:#}");
        }
        Self { card, turn: Arc::new(Semaphore::new(1)) }
    }

    /// The host that calls, where the card takes updates from it.
    fn host<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let host = request.extensions().get::<HostName>().map(|HostName(name)| name.clone());
        let host = host.ok_or_else(|| {
            Status::failed_precondition(
                "the card's agent speaks plain text (`insecure = true`), and updates are for paired hosts: \
                 pair host and card, or run `rauc install` on the card",
            )
        })?;
        if !slots::takes_updates(&self.card) {
            return Err(Status::failed_precondition(
                "the card's image takes no updates: it was built without a certificate for them; set `[signing]` \
                 in `dpukit.local.toml`, build the image and flash the card with it once",
            ));
        }
        Ok(host)
    }

    fn turn(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.turn).try_acquire_owned().map_err(|_| {
            Status::aborted("another update is under way on the card: try again when it is installed")
        })
    }

    /// Does what takes its time where it holds up no other call.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Card) -> Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let card = Arc::clone(&self.card);
        let done = tokio::task::spawn_blocking(move || work(&card)).await;
        done.map_err(anyhow::Error::from).flatten().map_err(|error| {
            tracing::error!("updates: {error:#}");
            Status::internal(format!("{error:#}"))
        })
    }
}

#[tonic::async_trait]
impl Updates for Service {
    type InstallStream = UnboundedReceiverStream<Result<InstallResponse, Status>>;

    async fn install(
        &self,
        request: Request<Streaming<InstallRequest>>,
    ) -> Result<Response<Self::InstallStream>, Status> {
        let host = self.host(&request)?;
        let turn = self.turn()?;
        let mut parts = request.into_inner();
        let Some(Part::Bundle(bundle)) = part(&mut parts).await? else {
            return Err(Status::invalid_argument("the first message has to say what comes"));
        };
        let upload = Upload::begin(&self.card.tree, &bundle)?;
        tracing::info!(host, size = bundle.size, "a bundle comes");
        // RAUC says little, and is not to wait for a host that does not listen.
        let (tell, told) = mpsc::unbounded_channel();
        let card = Arc::clone(&self.card);
        // A task of its own: an installation goes on where its host goes away.
        tokio::spawn(async move {
            let _turn = turn;
            let done = match receive(parts, upload).await {
                Ok(upload) => install(card, upload, tell.clone()).await,
                Err(status) => Err(status),
            };
            match done {
                Ok(()) => tracing::info!(host, "the bundle is installed"),
                Err(status) => {
                    tracing::error!(host, "the bundle is not installed: {}", status.message());
                    // Who went away hears nothing.
                    let _ = tell.send(Err(status));
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(told)))
    }

    async fn state(&self, request: Request<StateRequest>) -> Result<Response<StateResponse>, Status> {
        self.host(&request)?;
        self.run(state).await.map(Response::new)
    }

    async fn restart(&self, request: Request<RestartRequest>) -> Result<Response<RestartResponse>, Status> {
        let host = self.host(&request)?;
        let _turn = self.turn()?;
        if !request.into_inner().anyway && self.run(slots::outlook).await?.next.is_none() {
            return Err(Status::failed_precondition(
                "no installed slot waits: the card would start the slot that runs",
            ));
        }
        tracing::info!(host, "starting the card anew");
        self.run(|card| card.programs.run("systemctl", &["--no-block", "reboot"])).await?;
        Ok(Response::new(RestartResponse {}))
    }
}

/// The next part; none at the end.
async fn part(parts: &mut Streaming<InstallRequest>) -> Result<Option<Part>, Status> {
    let message = tokio::time::timeout(PATIENCE, parts.message()).await;
    let message = message
        .map_err(|_| Status::deadline_exceeded(format!("nothing came for {} s", PATIENCE.as_secs())))??;
    message.map(|message| message.part.ok_or_else(|| Status::invalid_argument("a part is empty"))).transpose()
}

/// Takes what the host sends, until it is whole. Writing has a thread of its own, since a disk may be slow.
async fn receive(mut parts: Streaming<InstallRequest>, mut upload: Upload) -> Result<Upload, Status> {
    let (chunks, mut incoming) = mpsc::channel::<Vec<u8>>(4);
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(chunk) = incoming.blocking_recv() {
            upload.take(&chunk)?;
        }
        Ok::<_, Status>(upload)
    });
    let received = loop {
        match part(&mut parts).await {
            Ok(Some(Part::Chunk(chunk))) => {
                if chunks.send(chunk).await.is_err() {
                    // Nobody writes any more, and the thread says why.
                    break Ok(());
                }
            }
            Ok(Some(Part::Bundle(_))) => {
                break Err(Status::invalid_argument("a second bundle was announced"));
            }
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
        }
    };
    drop(chunks);
    let mut upload = writing.await.map_err(|error| Status::internal(error.to_string()))??;
    received?;
    upload.finish()?;
    Ok(upload)
}

async fn install(
    card: Arc<Card>,
    upload: Upload,
    tell: UnboundedSender<Result<InstallResponse, Status>>,
) -> Result<(), Status> {
    let installing = tokio::task::spawn_blocking(move || {
        rauc::install(&*card.programs, upload.path(), |percent, step| {
            // Who went away hears nothing.
            let _ = tell.send(Ok(InstallResponse { percent, step: step.to_owned() }));
        })
    });
    let installed = installing.await.map_err(|error| Status::internal(error.to_string()))?;
    installed.map_err(|error| Status::failed_precondition(format!("{error:#}")))
}

fn state(card: &Card) -> Result<StateResponse> {
    let outlook = slots::outlook(card)?;
    let slot = |Place { slot, version }| Slot { name: slot, version: version.unwrap_or_default() };
    let refused = outlook.refused.map(|refused| Refused {
        slot: Some(Slot { name: refused.slot, version: refused.version }),
        reasons: refused.reasons,
    });
    Ok(StateResponse {
        running: Some(slot(outlook.running)),
        good: outlook.is_good,
        refused,
        next: outlook.next.map(slot),
        boot: card.tree.read("/proc/sys/kernel/random/boot_id")?,
    })
}
