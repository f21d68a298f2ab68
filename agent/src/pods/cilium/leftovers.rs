//! What failed tries left behind, when Cilium would not even let it be taken away in time.
//!
//! Each attachment's is tried again in the background, with growing pauses, until it is gone, somebody makes or
//! takes away the same attachment and takes it over, or it is given up. Addresses that were never bound to an
//! endpoint come back by themselves, ten minutes after Cilium gave them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout_at};

use super::undo::{Tried, undo};
use super::{Api, Attachment, Refusal};

/// How long one try may take.
const TRY: Duration = Duration::from_secs(2);
/// The longest pause between two.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// When it is given up.
const PATIENCE: Duration = Duration::from_mins(10);

/// What is being taken away in the background.
#[derive(Debug)]
pub struct Leftovers {
    api: Arc<Api>,
    tasks: Mutex<HashMap<String, Task>>,
}

#[derive(Debug)]
struct Task {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Tried>,
}

impl Leftovers {
    /// Nothing, yet.
    pub fn new(api: Arc<Api>) -> Self {
        Self { api, tasks: Mutex::default() }
    }

    /// Takes `tried` away in the background.
    pub fn keep(&self, attachment: &Attachment, tried: Tried) {
        if tried.is_nothing() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // The program ends; the next one's reconciliation finds it.
            return;
        };
        tracing::info!(container = attachment.container, "taking away in the background: {tried:?}");
        let (stop, stopped) = oneshot::channel();
        let task = runtime.spawn(work(Arc::clone(&self.api), attachment.clone(), tried, stopped));
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|_, task| !task.task.is_finished());
        // An attachment's leftovers are taken over before there can be new ones.
        tasks.insert(key(attachment), Task { stop, task });
    }

    /// What is left of an attachment now, of which nothing is done any more in the background.
    pub async fn take(&self, attachment: &Attachment, deadline: Instant) -> Result<Tried, Refusal> {
        let task = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.remove(&key(attachment))
        };
        let Some(Task { stop, mut task }) = task else { return Ok(Tried::default()) };
        // The receiver is gone where all is done.
        let _ = stop.send(());
        match timeout_at(deadline.into(), &mut task).await {
            Ok(Ok(tried)) => Ok(tried),
            Ok(Err(error)) => Err(Refusal::Later(anyhow!(error).context("taking away an earlier try"))),
            Err(_) => {
                let (stop, _) = oneshot::channel();
                let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                tasks.insert(key(attachment), Task { stop, task });
                Err(Refusal::Later(anyhow!("an earlier try of this pod is still being taken away")))
            }
        }
    }

    /// Waits until all is gone, or given up.
    pub async fn settle(&self) {
        let tasks: Vec<_> = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.drain().collect()
        };
        for (_, Task { stop, task }) in tasks {
            let _ = task.await;
            drop(stop);
        }
    }
}

fn key(attachment: &Attachment) -> String {
    format!("{}:{}", attachment.container, attachment.interface)
}

async fn work(
    api: Arc<Api>,
    attachment: Attachment,
    mut tried: Tried,
    mut stopped: oneshot::Receiver<()>,
) -> Tried {
    let end = Instant::now() + PATIENCE;
    let mut pause = api.pause;
    loop {
        tokio::select! {
            biased;
            // The other end is dropped only by who waits for the end of it.
            Ok(()) = &mut stopped => return tried,
            () = sleep(pause) => {}
        }
        match undo(&api, &attachment, &mut tried, Instant::now() + TRY).await {
            Ok(()) => return Tried::default(),
            Err(refusal) if Instant::now() < end => tracing::debug!("{:#}", super::reason(refusal)),
            Err(refusal) => {
                let why = super::reason(refusal);
                tracing::error!(
                    container = attachment.container,
                    "giving up to take away {tried:?}: {why:#}"
                );
                return tried;
            }
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
