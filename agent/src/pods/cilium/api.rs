//! The calls of Cilium's API, each with what its answers mean.
//!
//! A busy Cilium (429, 502, 503) is asked again with growing, random pauses until the deadline; so is one whose
//! answer was lost, where asking twice does no harm. One that can't be reached is not waited for.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use hyper::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use super::http::{Answer, Call, Client, Fault};
use super::owners::Owners;
use super::words::{
    Allocation, Change, Configuration, DaemonConfiguration, Endpoint, EndpointHealth, Held, Status,
};
use crate::pods::network::{Attachment, Refusal};

/// The largest answer about one thing, in octets.
const ONE: usize = 1 << 20;
/// The largest list of endpoints, in octets: each comes with all identities that its policy names.
const LIST: usize = 32 << 20;
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// All but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Cilium's API.
#[derive(Debug)]
pub struct Api {
    /// Who is asked.
    pub client: Client,
    /// The first pause before asking again.
    pub pause: Duration,
    /// Whose addresses are being taken or given back.
    pub owners: Owners,
}

/// What became of an endpoint that was to be made.
#[derive(Debug)]
pub enum Put {
    /// It was made.
    Made,
    /// One with this attachment or address is there.
    Exists(String),
    /// It was not made.
    Refused(Refusal),
    /// Cilium failed while it made it.
    Failed(Refusal),
    /// It may have been made: the answer was lost.
    Lost(Refusal),
}

/// What became of an endpoint that was to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// It went, and its addresses with it, but for those that are none of Cilium's IPAM.
    Now,
    /// There was none.
    Before,
}

/// Why there is no answer of use.
enum Trouble {
    Fault(Fault),
    Answer(Answer),
    Nonsense(anyhow::Error),
}

impl Api {
    /// How Cilium is configured.
    pub async fn configuration(&self, deadline: Instant) -> Result<Configuration, Refusal> {
        let call = get("/v1/config".into(), ONE);
        let read = self.read::<DaemonConfiguration>(&call, deadline).await.map_err(|t| refusal(&call, t))?;
        read.status.ok_or_else(|| Refusal::Later(anyhow!("{}: the answer has no `status`", name(&call))))
    }

    /// Takes addresses of each family that is on, which come back by themselves where no endpoint is made with them.
    ///
    /// # Errors
    /// With whether there may be addresses all the same.
    pub async fn allocate(&self, owner: &str, deadline: Instant) -> Result<Vec<Held>, (Refusal, bool)> {
        let call = Call {
            method: Method::POST,
            path: format!("/v1/ipam?owner={}", encoded(owner)),
            header: Some(("expiration", "true")),
            body: None,
            most: ONE,
        };
        let trouble = match self.read::<Allocation>(&call, deadline).await {
            Ok(allocation) => match allocation.held() {
                Ok(held) => return Ok(held),
                Err(error) => Trouble::Nonsense(anyhow!(error)),
            },
            Err(trouble) => trouble,
        };
        let unsure = matches!(trouble, Trouble::Fault(Fault::Lost(_)) | Trouble::Nonsense(_));
        Err((refusal(&call, trouble), unsure))
    }

    /// Takes these very addresses, for good. False where it is given already.
    pub async fn claim(&self, held: &Held, owner: &str, deadline: Instant) -> Result<bool, Refusal> {
        let path =
            format!("/v1/ipam/{}?owner={}{}", held.address, encoded(owner), pool("&pool=", &held.pool));
        let call = Call { method: Method::POST, path, header: None, body: None, most: ONE };
        match self.ask(&call, deadline).await {
            Ok(Answer { status: 200 | 201, .. }) => Ok(true),
            // Which of them it is depends on Cilium's version.
            Ok(Answer { status: 409 | 500, .. }) => Ok(false),
            other => Err(refusal(&call, trouble(other))),
        }
    }

    /// Gives an address back; it may be back already.
    pub async fn release(&self, address: IpAddr, of: &str, deadline: Instant) -> Result<(), Refusal> {
        let path = format!("/v1/ipam/{address}{}", pool("?pool=", of));
        let call = Call { method: Method::DELETE, path, header: None, body: None, most: ONE };
        match self.ask(&call, deadline).await {
            // 501 is for a family that is off.
            Ok(Answer { status: 200 | 404 | 501, .. }) => Ok(()),
            other => Err(refusal(&call, trouble(other))),
        }
    }

    /// Makes an endpoint.
    pub async fn put(&self, change: &Change, deadline: Instant) -> Put {
        let body = match serde_json::to_string(change).context("writing the endpoint") {
            Ok(body) => body,
            Err(error) => return Put::Refused(Refusal::Never(error)),
        };
        let call = Call {
            method: Method::PUT,
            path: format!("/v1/endpoint/{}", encoded("cilium-local:0")),
            header: None,
            body: Some(body),
            most: ONE,
        };
        match self.ask(&call, deadline).await {
            Ok(Answer { status: 201 | 200, .. }) => Put::Made,
            Ok(answer) if answer.status == 409 => Put::Exists(message(&answer)),
            // Such a 400 differs from others in its words alone.
            Ok(answer) if answer.status == 400 && message(&answer).contains("already") => {
                Put::Exists(message(&answer))
            }
            Ok(answer) if answer.status == 500 => Put::Failed(refusal(&call, Trouble::Answer(answer))),
            Err(fault @ Fault::Lost(_)) => Put::Lost(refusal(&call, Trouble::Fault(fault))),
            other => Put::Refused(refusal(&call, trouble(other))),
        }
    }

    /// The endpoint of this id, where there is one.
    pub async fn endpoint(&self, id: &str, deadline: Instant) -> Result<Option<Endpoint>, Refusal> {
        let call = get(format!("/v1/endpoint/{}", encoded(id)), ONE);
        match self.read(&call, deadline).await {
            Ok(endpoint) => Ok(Some(endpoint)),
            Err(Trouble::Answer(Answer { status: 404, .. })) => Ok(None),
            Err(trouble) => Err(refusal(&call, trouble)),
        }
    }

    /// All endpoints of the card.
    pub async fn endpoints(&self, deadline: Instant) -> Result<Vec<Endpoint>, Refusal> {
        let call = get("/v1/endpoint".into(), LIST);
        match self.read::<Option<Vec<Endpoint>>>(&call, deadline).await {
            Ok(endpoints) => Ok(endpoints.unwrap_or_default()),
            // So it says that there is none.
            Err(Trouble::Answer(Answer { status: 404, .. })) => Ok(Vec::new()),
            Err(trouble) => Err(refusal(&call, trouble)),
        }
    }

    /// Takes an endpoint away.
    pub async fn delete(&self, id: &str, deadline: Instant) -> Result<Gone, Refusal> {
        let path = format!("/v1/endpoint/{}", encoded(id));
        let call = Call { method: Method::DELETE, path, header: None, body: None, most: ONE };
        match self.ask(&call, deadline).await {
            Ok(Answer { status: 200, .. }) => Ok(Gone::Now),
            Ok(answer) if answer.status == 206 => {
                // It is gone; what hung on it may not be.
                tracing::warn!("{}: Cilium met {} errors on the way", name(&call), message(&answer));
                Ok(Gone::Now)
            }
            Ok(Answer { status: 404, .. }) => Ok(Gone::Before),
            other => Err(refusal(&call, trouble(other))),
        }
    }

    /// How an endpoint is; none where there is none.
    pub async fn health(&self, id: &str, deadline: Instant) -> Result<Option<EndpointHealth>, Refusal> {
        let call = get(format!("/v1/endpoint/{}/healthz", encoded(id)), ONE);
        match self.read(&call, deadline).await {
            Ok(health) => Ok(Some(health)),
            Err(Trouble::Answer(Answer { status: 404, .. })) => Ok(None),
            Err(trouble) => Err(refusal(&call, trouble)),
        }
    }

    /// How Cilium is; `brief` is quick, and leaves IPAM out.
    pub async fn status(&self, brief: bool, deadline: Instant) -> Result<Status, Refusal> {
        let header = brief.then_some(("brief", "true"));
        let call = Call { header, ..get("/v1/healthz".into(), LIST) };
        self.read(&call, deadline).await.map_err(|trouble| refusal(&call, trouble))
    }

    async fn read<T: DeserializeOwned>(&self, call: &Call, deadline: Instant) -> Result<T, Trouble> {
        let answer = self.ask(call, deadline).await.map_err(Trouble::Fault)?;
        if !matches!(answer.status, 200 | 201) {
            return Err(Trouble::Answer(answer));
        }
        serde_json::from_slice(&answer.body).map_err(|error| Trouble::Nonsense(error.into()))
    }

    async fn ask(&self, call: &Call, deadline: Instant) -> Result<Answer, Fault> {
        let harmless = matches!(call.method, Method::GET | Method::DELETE);
        let mut pause = self.pause;
        loop {
            let outcome = self.client.call(call, deadline).await;
            let again = match &outcome {
                Ok(answer) => matches!(answer.status, 429 | 502 | 503),
                Err(Fault::Lost(_)) => harmless,
                Err(Fault::Unreachable(_)) => false,
            };
            let wait = random(pause);
            if !again || Instant::now() + wait >= deadline {
                return outcome;
            }
            tracing::debug!("{}: asking again in {wait:?}: {outcome:?}", name(call));
            sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// The id by which Cilium knows an attachment.
pub fn attachment_id(attachment: &Attachment) -> String {
    format!("cni-attachment-id:{}:{}", attachment.container, attachment.interface)
}

/// The id by which Cilium knows who has an address.
pub fn address_id(address: IpAddr) -> String {
    format!("{}:{address}", if address.is_ipv4() { "ipv4" } else { "ipv6" })
}

/// Text as a part of a path or a query.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

fn pool(key: &str, pool: &str) -> String {
    if pool.is_empty() { String::new() } else { format!("{key}{}", encoded(pool)) }
}

fn get(path: String, most: usize) -> Call {
    Call { method: Method::GET, path, header: None, body: None, most }
}

fn name(call: &Call) -> String {
    format!("{} {}", call.method, call.path)
}

fn trouble(outcome: Result<Answer, Fault>) -> Trouble {
    match outcome {
        Ok(answer) => Trouble::Answer(answer),
        Err(fault) => Trouble::Fault(fault),
    }
}

fn refusal(call: &Call, trouble: Trouble) -> Refusal {
    match trouble {
        Trouble::Fault(Fault::Unreachable(error) | Fault::Lost(error)) => {
            Refusal::Later(error.context("asking Cilium"))
        }
        Trouble::Nonsense(error) => {
            let error = error.context(format!("reading the answer to {}", name(call)));
            Refusal::Later(error.context("asking Cilium"))
        }
        Trouble::Answer(answer) => {
            let said = format!("{}: {} {}", name(call), answer.status, message(&answer));
            let error = anyhow!(said.trim_end().to_owned()).context("asking Cilium");
            let later = answer.status == 429 || answer.status >= 500;
            if later { Refusal::Later(error) } else { Refusal::Never(error) }
        }
    }
}

/// What an answer says of an error: a JSON string, as much of it as fits into a line of a log.
fn message(answer: &Answer) -> String {
    const MOST: usize = 300;
    let text = serde_json::from_slice::<String>(&answer.body);
    let text = text.unwrap_or_else(|_| String::from_utf8_lossy(&answer.body).into_owned());
    text.trim().chars().take(MOST).collect()
}

/// Between half of `most` and all of it, so that those who were refused at once don't come back at once.
fn random(most: Duration) -> Duration {
    let number = RandomState::new().build_hasher().finish();
    most.mul_f64(0.5 + 0.5 * f64::from(u32::try_from(number >> 32).unwrap_or(0)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_encoded_as_parts_of_a_path() {
        assert_eq!(encoded("cni-attachment-id:c01:eth0"), "cni-attachment-id%3Ac01%3Aeth0");
        assert_eq!(encoded("a b/../?&=é"), "a%20b%2F..%2F%3F%26%3D%C3%A9");
    }

    #[test]
    fn pauses_are_random_and_bounded() {
        let most = Duration::from_millis(100);
        let pauses: Vec<_> = (0..100).map(|_| random(most)).collect();
        assert!(pauses.iter().all(|pause| (most / 2..=most).contains(pause)), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
