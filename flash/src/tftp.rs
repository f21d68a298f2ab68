//! The TFTP server for as long as a card is flashed: it gives what is put into it, and nothing else.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_tftp::packet;
use async_tftp::server::{Handler, TftpServerBuilder};
use futures_lite::future;
use futures_lite::io::{AsyncRead, Sink};

/// How long the server waits for an answer before it sends a window again.
///
/// Shorter than U-Boot's own time, or both ends would send again at once, and for ever to no avail.
const RESEND: Duration = Duration::from_millis(400);
/// How often it does. U-Boot asks anew by itself.
const RESENDS: u32 = 50;
/// How often it looks whether it should end.
const TICK: Duration = Duration::from_millis(50);

type Files = Arc<Mutex<BTreeMap<String, Arc<Vec<u8>>>>>;

/// A running server; it ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    files: Files,
    sent: Arc<AtomicU64>,
    port: u16,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server on a port of all addresses of this machine; 0 for one that is free.
    pub fn start(port: u16) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        let port = socket.local_addr()?.port();
        let (files, sent, end) = (Files::default(), Arc::default(), Arc::new(AtomicBool::new(false)));
        let offer = Offer { files: Arc::clone(&files), sent: Arc::clone(&sent) };
        let ended = Arc::clone(&end);
        let thread = std::thread::Builder::new().name("tftp".into()).spawn(move || {
            let served = async {
                let server = TftpServerBuilder::with_handler(offer)
                    .std_socket(socket)?
                    .timeout(RESEND)
                    .ignore_client_timeout()
                    .max_send_retries(RESENDS)
                    .build()
                    .await?;
                server.serve().await
            };
            let until = async {
                while !ended.load(Ordering::Relaxed) {
                    async_io::Timer::after(TICK).await;
                }
                Ok(())
            };
            // A server that fails is seen by the card, which then says so on its console.
            let _ = future::block_on(future::or(served, until));
        })?;
        Ok(Self { files, sent, port, end, thread: Some(thread) })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Offers a file in place of all others.
    pub fn offer(&self, name: &str, content: Arc<Vec<u8>>) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        *files = BTreeMap::from([(name.to_owned(), content)]);
    }

    /// How many bytes were taken for packets so far; those sent again do not count again.
    pub fn sent(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Offer {
    files: Files,
    sent: Arc<AtomicU64>,
}

impl Handler for Offer {
    type Reader = Reader;
    type Writer = Sink;

    async fn read_req_open(
        &mut self,
        _: &SocketAddr,
        path: &Path,
    ) -> Result<(Reader, Option<u64>), packet::Error> {
        let name = path.to_str().unwrap_or_default();
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let content = files.get(name).cloned().ok_or(packet::Error::FileNotFound)?;
        let size = content.len() as u64;
        Ok((Reader { content, at: 0, sent: Arc::clone(&self.sent) }, Some(size)))
    }

    async fn write_req_open(
        &mut self,
        _: &SocketAddr,
        _: &Path,
        _: Option<u64>,
    ) -> Result<Sink, packet::Error> {
        Err(packet::Error::PermissionDenied)
    }
}

struct Reader {
    content: Arc<Vec<u8>>,
    at: usize,
    sent: Arc<AtomicU64>,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let rest = self.content.get(self.at..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        self.sent.fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }
}

/// The address of this machine that packets to `card` leave from.
pub fn own_address(card: Ipv4Addr) -> Result<Ipv4Addr> {
    let find = || -> io::Result<SocketAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // No packet is sent: the kernel only looks up the route.
        socket.connect((card, 9))?;
        socket.local_addr()
    };
    match find().with_context(|| format!("looking for the way to the card's address {card}"))? {
        SocketAddr::V4(address) => Ok(*address.ip()),
        SocketAddr::V6(_) => anyhow::bail!("the way to {card} is not one of IPv4"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stand-in for a card: asks for a file and answers as RFC 1350 wants, losing the packets that `lose` says.
    fn fetch(port: u16, name: &str, lose: impl Fn(u16, usize) -> bool) -> io::Result<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut request = vec![0, 1];
        request.extend(name.bytes());
        request.extend(b"\0octet\0blksize\x001024\0");
        socket.send_to(&request, ("127.0.0.1", port))?;
        let (mut content, mut next, mut seen) = (Vec::new(), 1_u16, 0);
        loop {
            let mut packet = [0; 2048];
            let (count, from) = socket.recv_from(&mut packet)?;
            let number = u16::from_be_bytes([packet[2], packet[3]]);
            match packet[1] {
                6 => drop(socket.send_to(&[0, 4, 0, 0], from)?),
                3 => {
                    seen += 1;
                    if lose(number, seen) {
                        continue;
                    }
                    if number == next {
                        content.extend(&packet[4..count]);
                        next = next.wrapping_add(1);
                    }
                    socket.send_to(&[0, 4, packet[2], packet[3]], from)?;
                    if count < 4 + 1024 {
                        return Ok(content);
                    }
                }
                _ => return Err(io::Error::other(String::from_utf8_lossy(&packet[4..count]).into_owned())),
            }
        }
    }

    #[test]
    fn what_is_offered_is_given_though_packets_are_lost_and_nothing_else_is() {
        let server = Server::start(0).unwrap();
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).take(100_000).collect();
        server.offer("piece", Arc::new(content.clone()));
        assert_eq!(fetch(server.port(), "piece", |_, _| false).unwrap(), content);
        assert!(server.sent().load(Ordering::Relaxed) >= 100_000);
        assert_eq!(fetch(server.port(), "piece", |number, seen| number == 3 && seen == 3).unwrap(), content);
        for name in ["other", "../piece", "/etc/passwd", ""] {
            assert!(fetch(server.port(), name, |_, _| false).is_err(), "{name} was given");
        }
        server.offer("another", Arc::new(vec![1]));
        assert!(fetch(server.port(), "piece", |_, _| false).is_err());
        let port = server.port();
        drop(server);
        assert!(UdpSocket::bind(("0.0.0.0", port)).is_ok(), "the port is still taken");
    }
}
