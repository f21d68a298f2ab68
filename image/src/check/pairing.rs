//! Pairs with the emulated card as a host does.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use dpu_api::CniAddRequest;
use dpu_api::cni_action_client::CniActionClient;
use dpu_trust::Code;
use dpu_trust::client::{self, Identity};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::{ANSWER, Finding};

/// What the host is called that pairs.
pub const NAME: &str = "checking-host";

/// Tries to get in without a certificate, with a wrong code and with the right one; who it is then.
pub fn check(port: u16, code: &Code) -> Result<(Vec<Finding>, Option<Identity>)> {
    // The card is not to know it by chance: two codes of 47 bits.
    let wrong = Code::random()?;
    let closed = block_on(async {
        match asks_for_a_network(port, None).await? {
            tonic::Code::Unauthenticated => Ok(()),
            code => bail!("the agent said {code:?}"),
        }
    });
    let paired = block_on(pair(port, &wrong, code));
    let lets_in = paired.as_ref().map_err(|_| anyhow!("it is not paired")).and_then(|identity| {
        block_on(async {
            match asks_for_a_network(port, Some(identity)).await? {
                code @ (tonic::Code::Unauthenticated | tonic::Code::PermissionDenied) => {
                    bail!("the agent said {code:?}")
                }
                _ => Ok(()),
            }
        })
    });
    let (identity, paired) = match paired {
        Ok(identity) => (Some(identity), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let findings = [
        ("nobody without a certificate can ask for a pod's network", closed),
        ("the card pairs with the code that it was given, once, and with no other", paired),
        ("a paired host can ask for a pod's network", lets_in),
    ];
    let findings = findings.map(|(name, result)| Finding {
        name: name.to_owned(),
        result: result.map_err(|error| format!("{error:#}")),
    });
    Ok((findings.into(), identity))
}

async fn pair(port: u16, wrong: &Code, right: &Code) -> Result<Identity> {
    // What the card has a host wait for after its first wrong code, and more.
    const WAIT: Duration = Duration::from_millis(1500);
    let address = address(port);
    match client::pair(address, wrong, NAME).await {
        Ok(_) => bail!("it paired with a wrong code"),
        Err(error) if format!("{error:#}").contains("the code is not the card's") => {}
        Err(error) => return Err(error).context("trying a wrong code"),
    }
    sleep(WAIT).await;
    let identity = client::pair(address, right, NAME).await.context("trying the right code")?;
    if client::pair(address, right, "another-host").await.is_ok() {
        bail!("it paired a second host with the same code");
    }
    Ok(identity)
}

/// What the agent says to who asks for a pod's network. It would not get one: the request is empty.
async fn asks_for_a_network(port: u16, identity: Option<&Identity>) -> Result<tonic::Code> {
    let channel = connect(port, identity).await?;
    let answer = CniActionClient::new(channel).cmd_add(CniAddRequest::default()).await;
    Ok(answer.map_or_else(|status| status.code(), |_| tonic::Code::Ok))
}

/// Connects to the agent, as a host that has paired or as a stranger.
pub async fn connect(port: u16, identity: Option<&Identity>) -> Result<Channel> {
    let connecting = async {
        let connection = match identity {
            Some(identity) => client::paired(address(port), identity).await?,
            None => client::stranger(address(port)).await?,
        };
        Ok(connection.channel)
    };
    timeout(ANSWER, connecting).await.map_err(|_| anyhow!("no answer in {ANSWER:?}")).flatten()
}

/// Runs to its end.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
