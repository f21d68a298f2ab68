//! The agent on the card, called over gRPC.
//!
//! The plugin is a program of a few milliseconds with one thing to do after the other, so the runtime
//! that gRPC needs has one thread, and nothing of it runs but while a call is under way.

mod connect;
pub mod messages;

use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use dpu_api::cni_action_client::CniActionClient;
use dpu_api::{CniAddRequest, CniAddResponse, CniCheckRequest, CniDelRequest, CnigcRequest};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::cni::Code;
use crate::config::Peer;
use crate::deadline::Deadline;

/// The agents that this process talks to.
#[derive(Default)]
pub struct Cards {
    known: Vec<Card>,
}

impl Cards {
    /// The agent `peer`. Nothing is sent yet.
    pub fn of(&mut self, peer: &Peer) -> Result<&mut Card> {
        let at = self.known.iter().position(|card| card.peer == *peer);
        let at = at.unwrap_or(self.known.len());
        if at == self.known.len() {
            self.known.push(Card::new(peer.clone())?);
        }
        Ok(&mut self.known[at])
    }
}

/// An agent.
pub struct Card {
    peer: Peer,
    runtime: Runtime,
    channel: Option<Channel>,
    asked: bool,
}

impl Card {
    fn new(peer: Peer) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("starting the runtime for gRPC").context(Code::IO)?;
        Ok(Self { peer, runtime, channel: None, asked: false })
    }

    /// Whether any request was sent, which the agent may have heard whatever became of the answer.
    pub fn was_asked(&self) -> bool {
        self.asked
    }

    /// Makes a pod's network.
    pub fn add(&mut self, request: &CniAddRequest, deadline: Deadline) -> Result<CniAddResponse> {
        self.call("cmdAdd", request, deadline, async |channel, request| {
            CniActionClient::new(channel).cmd_add(request).await
        })
    }

    /// Takes a pod's network away. An agent that does not know it is content.
    pub fn del(&mut self, request: &CniDelRequest, deadline: Deadline) -> Result<()> {
        let answer = self.call("cmdDel", request, deadline, async |channel, request| {
            CniActionClient::new(channel).cmd_del(request).await
        });
        unless(answer.map(drop), &[tonic::Code::NotFound])
    }

    /// Checks a pod's network. Older agents cannot, and nothing is wrong with that.
    pub fn check(&mut self, request: &CniCheckRequest, deadline: Deadline) -> Result<()> {
        let answer = self.call("cmdCheck", request, deadline, async |channel, request| {
            CniActionClient::new(channel).cmd_check(request).await
        });
        unless(answer.map(drop), &[tonic::Code::Unimplemented])
    }

    /// Takes away all networks that are not listed. Older agents cannot.
    pub fn gc(&mut self, request: &CnigcRequest, deadline: Deadline) -> Result<()> {
        let answer = self.call("cmdGC", request, deadline, async |channel, request| {
            CniActionClient::new(channel).cmd_gc(request).await
        });
        unless(answer.map(drop), &[tonic::Code::Unimplemented])
    }

    /// Whether the agent says that it can make networks. One that cannot say is taken at its being there.
    pub fn is_ready(&mut self, deadline: Deadline) -> Result<bool> {
        for service in ["CNIAction", ""] {
            let request = HealthCheckRequest { service: service.to_owned() };
            let answer = self.call("Health/Check", &request, deadline, async |channel, request| {
                HealthClient::new(channel).check(request).await
            });
            match answer {
                Ok(answer) => return Ok(answer.status() == ServingStatus::Serving),
                Err(error) => unless(Err(error), &[tonic::Code::NotFound, tonic::Code::Unimplemented])?,
            }
        }
        Ok(true)
    }

    /// Makes a call, again and again until the deadline where trying again may help.
    ///
    /// # Errors
    /// [`Code::TRY_AGAIN`] where the agent could not be reached or was too busy until the deadline,
    /// [`Code::REFUSED`] where it said no, [`Code::CONFIGURATION`] where the TLS files are no good.
    fn call<Q: Clone, A>(
        &mut self,
        name: &str,
        request: &Q,
        deadline: Deadline,
        call: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A> {
        let Self { peer, runtime, channel, asked } = self;
        let mut tries: u32 = 0;
        let mut calling = async || {
            loop {
                tries += 1;
                let error = match attempt(peer, channel, asked, request, deadline, &call).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                };
                let pause = pause(tries);
                if error.is_final || pause >= deadline.left() {
                    return Err(error);
                }
                tracing::debug!(call = name, tries, "the agent did not answer: {:#}", error.reason);
                sleep(pause).await;
            }
        };
        let ended = runtime.block_on(calling());
        ended.map_err(|error| {
            let code = if error.is_final { Code::REFUSED } else { Code::TRY_AGAIN };
            let tried = if tries > 1 { format!(", {tries} times") } else { String::new() };
            let reason =
                error.reason.context(format!("asking the agent at {} for {name}{tried}", peer.address));
            // What is wrong with the files was said closer to them.
            if reason.downcast_ref::<Code>().is_some() { reason } else { reason.context(code) }
        })
    }
}

/// Takes these answers for success.
fn unless(answer: Result<()>, fine: &[tonic::Code]) -> Result<()> {
    answer.or_else(|error| match error.downcast_ref::<Said>() {
        Some(said) if fine.contains(&said.code) => Ok(()),
        _ => Err(error),
    })
}

/// What an agent said instead of an answer.
#[derive(Debug)]
struct Said {
    code: tonic::Code,
    text: String,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.text)
    }
}

impl Error for Said {}

/// Why a try came to nothing.
struct Failure {
    reason: anyhow::Error,
    /// Whether another try would end the same way.
    is_final: bool,
}

async fn attempt<Q: Clone, A>(
    peer: &Peer,
    kept: &mut Option<Channel>,
    asked: &mut bool,
    request: &Q,
    deadline: Deadline,
    call: &impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
) -> Result<A, Failure> {
    let channel = match kept {
        Some(channel) => channel.clone(),
        None => kept.insert(connect::connect(peer, deadline).await?).clone(),
    };
    let left = deadline.left();
    let mut request = Request::new(request.clone());
    // The agent hears how long its answer is waited for.
    request.set_timeout(left);
    *asked = true;
    match timeout(left, call(channel, request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        // Its own clock may be the first to say so.
        Ok(Err(_)) if deadline.is_over() => {
            *kept = None;
            Err(Failure { reason: anyhow!("no answer in {left:.1?}"), is_final: false })
        }
        Ok(Err(status)) => {
            let is_final = !is_passing(status.code());
            *kept = None;
            Err(Failure { reason: described(&status).into(), is_final })
        }
        Err(_) => {
            *kept = None;
            Err(Failure { reason: anyhow!("no answer in {left:.1?}"), is_final: false })
        }
    }
}

/// Whether trying again may help (the guide "gRPC status codes").
fn is_passing(code: tonic::Code) -> bool {
    use tonic::Code as Grpc;
    matches!(
        code,
        Grpc::Unavailable
            | Grpc::ResourceExhausted
            | Grpc::Aborted
            | Grpc::DeadlineExceeded
            | Grpc::Cancelled
    )
}

fn described(status: &Status) -> Said {
    let causes = std::iter::successors(status.source(), |error| (*error).source());
    let texts = [status.message().to_owned()].into_iter().chain(causes.map(ToString::to_string));
    let mut texts: Vec<_> = texts.filter(|text| !text.is_empty()).collect();
    texts.dedup();
    Said { code: status.code(), text: texts.join(": ") }
}

/// How long to wait before the next try: longer each time, and not the same for all who wait.
fn pause(tries: u32) -> Duration {
    const LONGEST: u64 = 400;
    let most = (25_u64 << tries.min(6)).min(LONGEST);
    let clock = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let spread = u64::from(clock.subsec_micros()) ^ u64::from(std::process::id());
    Duration::from_millis(most / 2 + spread % (most / 2))
}
