//! From TCP to TLS: each connection gets a handshake of its own, so that a slow one holds up nobody.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use dpu_trust::exchange::Binding;
use dpu_trust::hosts::Fingerprint;
use dpu_trust::tls;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How many handshakes there are at once; others wait in the kernel's queue.
const HANDSHAKES: usize = 32;
/// How many connections without a certificate there are at once; one more is closed.
const STRANGERS: usize = 64;

/// The connections that come in, ready for HTTP/2.
pub struct Incoming(mpsc::Receiver<io::Result<Connection>>);

/// A connection.
pub struct Connection {
    stream: Inner,
    caller: Caller,
    /// Its place among the strangers.
    _place: Option<OwnedSemaphorePermit>,
}

enum Inner {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Who is at the other end; every call finds it in its extensions.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Where from.
    pub address: SocketAddr,
    /// The certificate that was verified in the handshake, if one was shown.
    pub certificate: Option<Fingerprint>,
    /// The connection's own secret; none in plain text.
    pub binding: Option<Binding>,
}

impl Incoming {
    /// Takes connections, with TLS where there is an acceptor.
    pub fn new(listener: TcpListener, acceptor: Option<TlsAcceptor>) -> Self {
        let (ready, incoming) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = ready.closed() => {}
                () = accept(listener, acceptor, ready.clone()) => {}
            }
        });
        Self(incoming)
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    ready: mpsc::Sender<io::Result<Connection>>,
) {
    const PAUSE: Duration = Duration::from_millis(200);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let strangers = Arc::new(Semaphore::new(STRANGERS));
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // A connection that broke off before it was taken, or too many open files: both pass.
                tracing::warn!("taking a connection: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let (acceptor, ready, strangers) = (acceptor.clone(), ready.clone(), Arc::clone(&strangers));
        tokio::spawn(async move {
            let connection = timeout(HANDSHAKE, greet(stream, address, acceptor, &strangers)).await;
            drop(place);
            match connection {
                // Where nobody takes it any more, the server is ending.
                Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
                Ok(Err(error)) => tracing::warn!(%address, "refused a connection: {error:#}"),
                Err(_) => tracing::warn!(%address, "refused a connection: no handshake in {HANDSHAKE:?}"),
            }
        });
    }
}

async fn greet(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    strangers: &Arc<Semaphore>,
) -> Result<Connection> {
    stream.set_nodelay(true)?;
    let Some(acceptor) = acceptor else {
        let caller = Caller { address, certificate: None, binding: None };
        return Ok(Connection { stream: Inner::Plain(stream), caller, _place: None });
    };
    let stream = acceptor.accept(stream).await?;
    let session = stream.get_ref().1;
    let certificate =
        session.peer_certificates().and_then(|chain| chain.first()).map(|one| Fingerprint::of(one));
    let binding = Some(tls::binding(session)?);
    let place = match certificate {
        Some(_) => None,
        None => Some(Arc::clone(strangers).try_acquire_owned().context("too many without a certificate")?),
    };
    let caller = Caller { address, certificate, binding };
    Ok(Connection { stream: Inner::Tls(Box::new(stream)), caller, _place: place })
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Inner::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Inner::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Inner::Plain(stream) => Pin::new(stream).poll_write(context, buffer),
            Inner::Tls(stream) => Pin::new(stream).poll_write(context, buffer),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Inner::Plain(stream) => Pin::new(stream).poll_flush(context),
            Inner::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Inner::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Inner::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
