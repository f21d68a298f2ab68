//! The agent on the card, called over gRPC.
//!
//! The plugin is a program of a few milliseconds with one thing to do after the other, so the runtime
//! that gRPC needs has one thread, and nothing of it runs but while a call is under way.

mod connect;
pub mod messages;
#[cfg(test)]
mod paired;

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

    /// Takes in an agent that was reached meanwhile.
    pub fn take_in(&mut self, card: Card) {
        if self.known.iter().all(|known| known.peer != card.peer) {
            self.known.push(card);
        }
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

    /// The agent `peer`, with a connection if that can be had at once. If it can't, the first call says why.
    pub fn reach(peer: &Peer, deadline: Deadline) -> Result<Self> {
        let mut card = Self::new(peer.clone())?;
        card.channel = card.runtime.block_on(connect::connect(peer, deadline)).ok();
        Ok(card)
    }

    /// Whether any request was sent, which the agent may have heard whatever became of the answer.
    pub fn was_asked(&self) -> bool {
        self.asked
    }

    /// Makes a pod's network.
    ///
    /// `meanwhile` is called when the agent is there and is about to be asked; where it is asked again, it is
    /// called again.
    pub fn add(
        &mut self,
        request: &CniAddRequest,
        deadline: Deadline,
        meanwhile: impl Fn(),
    ) -> Result<CniAddResponse> {
        self.call("cmdAdd", request, deadline, async |channel, request| {
            meanwhile();
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
    /// [`Code::REFUSED`] where it said no, [`Code::DISTRUST`] and [`Code::CONFIGURATION`] where it is
    /// for TLS.
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
                let failure = match attempt(peer, channel, asked, request, deadline, &call).await {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                };
                *channel = None;
                let pause = pause(tries);
                if failure.code != Code::TRY_AGAIN || pause >= deadline.left() {
                    return Err(failure);
                }
                tracing::debug!(call = name, tries, "the agent did not answer: {:#}", failure.reason);
                sleep(pause).await;
            }
        };
        runtime.block_on(calling()).map_err(|Failure { reason, code }| {
            let tried = if tries > 1 { format!(", {tries} times") } else { String::new() };
            reason.context(format!("asking the agent at {} for {name}{tried}", peer.address)).context(code)
        })
    }
}

/// A connection to the agent `peer`, for calls that may take longer than one of a pod's.
pub async fn channel(peer: &Peer, deadline: Deadline) -> Result<Channel> {
    let connected = connect::connect(peer, deadline).await;
    connected
        .map_err(|failure| failure.reason.context(format!("connecting to the agent at {}", peer.address)))
}

/// All that is known of why a call was not answered.
pub fn reason(status: &Status) -> String {
    match Said::of(status).text {
        text if text.is_empty() => format!("{:?}", status.code()),
        text => text,
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

impl Said {
    fn of(status: &Status) -> Self {
        let causes = std::iter::successors(status.source(), |error| (*error).source());
        let texts = [status.message().to_owned()].into_iter().chain(causes.map(ToString::to_string));
        let mut texts: Vec<_> = texts.filter(|text| !text.is_empty()).collect();
        texts.dedup();
        Self { code: status.code(), text: texts.join(": ") }
    }
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
    /// What kind of failure it is; another try may help only with [`Code::TRY_AGAIN`].
    code: Code,
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
        // The request's own clock may be the first to tell that it is late.
        Ok(Err(status)) if !deadline.is_over() => {
            let code = if is_passing(&status) { Code::TRY_AGAIN } else { Code::REFUSED };
            Err(Failure { reason: Said::of(&status).into(), code })
        }
        _ => Err(Failure { reason: anyhow!("no answer in {left:.1?}"), code: Code::TRY_AGAIN }),
    }
}

/// Whether trying again may help: the connection broke, or gRPC says so (its guide "Status codes").
fn is_passing(status: &Status) -> bool {
    use tonic::Code as Grpc;
    let is_broken = status.source().is_some();
    let passes =
        [Grpc::Unavailable, Grpc::ResourceExhausted, Grpc::Aborted, Grpc::DeadlineExceeded, Grpc::Cancelled];
    is_broken || passes.contains(&status.code())
}

/// How long to wait before the next try: longer each time, and not the same for all who wait.
fn pause(tries: u32) -> Duration {
    const LONGEST: u64 = 400;
    let most = (25_u64 << tries.min(6)).min(LONGEST);
    let clock = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let spread = u64::from(clock.subsec_micros()) ^ u64::from(std::process::id());
    Duration::from_millis(most / 2 + spread % (most / 2))
}
