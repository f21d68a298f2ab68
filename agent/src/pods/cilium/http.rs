//! HTTP to a socket of this machine: one connection for each call, ended by a deadline, and no answer larger
//! than it may be.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

/// Who is talked to.
#[derive(Debug)]
pub struct Client {
    /// The socket that is listened on.
    pub socket: PathBuf,
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// What is done.
    pub method: Method,
    /// To what, encoded, with the query.
    pub path: String,
    /// A header beside those of every call.
    pub header: Option<(&'static str, &'static str)>,
    /// JSON.
    pub body: Option<String>,
    /// The largest answer that is taken, in octets.
    pub most: usize,
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Fault {
    /// The call did not get there.
    Unreachable(anyhow::Error),
    /// The call may have been heard, and done.
    Lost(anyhow::Error),
}

impl Client {
    /// Calls once.
    pub async fn call(&self, call: &Call, deadline: Instant) -> Result<Answer, Fault> {
        let begun = Instant::now();
        let name = || format!("{} {}", call.method, call.path);
        let sent = AtomicBool::new(false);
        let talking = async {
            let connecting = || format!("connecting to `{}`", self.socket.display());
            let stream = UnixStream::connect(&self.socket).await;
            let stream = stream.with_context(connecting).map_err(Fault::Unreachable)?;
            let hands = http1::Builder::new().max_buf_size(64 << 10).handshake(TokioIo::new(stream)).await;
            let (mut sender, connection) = hands.with_context(connecting).map_err(Fault::Unreachable)?;
            let _driver = Driver(tokio::spawn(async move {
                // The sender hears of what goes wrong.
                let _ = connection.await;
            }));
            let request = call.request().with_context(name).map_err(Fault::Unreachable)?;
            sent.store(true, Ordering::Relaxed);
            let response = sender.send_request(request).await;
            let response = response.with_context(name).map_err(Fault::Lost)?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), call.most).collect().await;
            let body = body.map_err(|error| {
                Fault::Lost(anyhow!("{error}").context(format!("reading the answer to {}", name())))
            })?;
            Ok(Answer { status, body: body.to_bytes() })
        };
        timeout_at(deadline.into(), talking).await.unwrap_or_else(|_| {
            let error = anyhow!("{}: no answer in {:.1?}", name(), begun.elapsed());
            Err(if sent.load(Ordering::Relaxed) { Fault::Lost(error) } else { Fault::Unreachable(error) })
        })
    }
}

impl Call {
    fn request(&self) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let mut request = Request::builder().method(&self.method).uri(&self.path).header(HOST, "localhost");
        if let Some((name, value)) = self.header {
            request = request.header(name, value);
        }
        if self.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::from(self.body.clone().unwrap_or_default()))
    }
}

/// What moves a connection's octets; it ends with the call.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
