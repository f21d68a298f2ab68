//! From TCP to TLS: each connection gets a handshake of its own, so that a slow one holds up nobody.
//!
//! Whoever is on the link can open connections, so both those in their handshake and those without a certificate
//! are bounded in number and in time, and the newest pushes out the oldest: one that holds its place in silence
//! shuts nobody out. The card's own connections, which systemd's watchdog depends on, need no place.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use dpu_trust::exchange::Binding;
use dpu_trust::hosts::Fingerprint;
use dpu_trust::tls;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::crowd::{Crowd, Place};

/// How many connections there are that nobody has vouched for, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many handshakes there are at once.
    pub handshakes: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How many connections without a certificate there are at once.
    pub strangers: usize,
    /// How long a connection without a certificate lasts.
    pub stranger: Duration,
}

impl Limits {
    /// Those of a card: more handshakes than a host starts at once, which has a pod for each VF at most, and the
    /// time that it takes to pair.
    pub const CARD: Self = Self {
        handshakes: 256,
        handshake: Duration::from_secs(5),
        strangers: 64,
        stranger: Duration::from_secs(30),
    };
}

/// The connections that come in, ready for HTTP/2.
pub struct Incoming(mpsc::Receiver<io::Result<Connection>>);

/// A connection.
pub struct Connection {
    stream: Inner,
    caller: Caller,
    /// The end of a stranger's time.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
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
    pub fn new(listener: TcpListener, acceptor: Option<TlsAcceptor>, limits: Limits) -> Self {
        let (ready, incoming) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = ready.closed() => {}
                () = accept(listener, acceptor, limits, ready.clone()) => {}
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
    limits: Limits,
    ready: mpsc::Sender<io::Result<Connection>>,
) {
    const PAUSE: Duration = Duration::from_millis(200);
    let handshakes = Crowd::new(limits.handshakes);
    let strangers = Crowd::new(limits.strangers);
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // A connection that broke off before it was taken, or too many open files: both pass.
                tracing::warn!("taking a connection: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        // Nobody on a wire can have an address of the card's own.
        let is_own = stream.local_addr().is_ok_and(|local| local.ip() == address.ip());
        let mut place = (!is_own).then(|| handshakes.enter());
        let (acceptor, ready, strangers) = (acceptor.clone(), ready.clone(), Arc::clone(&strangers));
        tokio::spawn(async move {
            let greeted = tokio::select! {
                greeted = timeout(limits.handshake, greet(stream, address, acceptor)) => greeted,
                () = pushed_out(&mut place) => {
                    tracing::warn!(%address, "refused a connection: {} newer ones are in their handshake", limits.handshakes);
                    return;
                }
            };
            drop(place);
            match greeted {
                Ok(Ok(mut connection)) => {
                    let is_stranger =
                        connection.caller.binding.is_some() && connection.caller.certificate.is_none();
                    if is_stranger && !is_own {
                        let mut place = Some(strangers.enter());
                        connection.end = Some(Box::pin(async move {
                            // Either way it is over.
                            let _ = timeout(limits.stranger, pushed_out(&mut place)).await;
                        }));
                    }
                    // Where nobody takes it any more, the server is ending.
                    drop(ready.send(Ok(connection)).await);
                }
                Ok(Err(error)) => tracing::warn!(%address, "refused a connection: {error:#}"),
                Err(_) => {
                    tracing::warn!(%address, "refused a connection: no handshake in {:?}", limits.handshake);
                }
            }
        });
    }
}

async fn greet(stream: TcpStream, address: SocketAddr, acceptor: Option<TlsAcceptor>) -> Result<Connection> {
    stream.set_nodelay(true)?;
    let Some(acceptor) = acceptor else {
        let caller = Caller { address, certificate: None, binding: None };
        return Ok(Connection { stream: Inner::Plain(stream), caller, end: None });
    };
    let stream = acceptor.accept(stream).await?;
    let session = stream.get_ref().1;
    let certificate =
        session.peer_certificates().and_then(|chain| chain.first()).map(|one| Fingerprint::of(one));
    let binding = Some(tls::binding(session)?);
    let caller = Caller { address, certificate, binding };
    Ok(Connection { stream: Inner::Tls(Box::new(stream)), caller, end: None })
}

/// Waits until a place is taken away; for ever where there is none to lose.
async fn pushed_out(place: &mut Option<Place>) {
    match place {
        Some(place) => place.is_lost().await,
        None => pending().await,
    }
}

impl Connection {
    /// Breaks the connection off where its time is over; else has the task woken when it is.
    fn until_its_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(end) = &mut self.end else { return Ok(()) };
        if end.as_mut().poll(context).is_pending() {
            return Ok(());
        }
        // A future is not asked again after its end.
        *end = Box::pin(async {});
        Err(io::Error::new(io::ErrorKind::TimedOut, "the time of a connection without a certificate is over"))
    }
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
        let this = self.get_mut();
        this.until_its_end(context)?;
        match &mut this.stream {
            Inner::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Inner::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.until_its_end(context)?;
        match &mut this.stream {
            Inner::Plain(stream) => Pin::new(stream).poll_write(context, buffer),
            Inner::Tls(stream) => Pin::new(stream).poll_write(context, buffer),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.until_its_end(context)?;
        match &mut this.stream {
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
