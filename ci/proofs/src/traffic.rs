//! Traffic between network namespaces: pings, and long streams with a checksum at both ends.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use dpukit_host::namespace::Namespace;
use sha2::{Digest as _, Sha256};

/// How long a stream may stand still.
const PATIENCE: Duration = Duration::from_secs(30);

/// Does something in a namespace that `ip netns` knows; in this one where the name is empty.
pub fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    if namespace.is_empty() {
        return work();
    }
    let opened = Namespace::open(&Path::new("/run/netns").join(namespace)).unwrap();
    opened.within(|| Ok(work())).unwrap_or_else(|error| panic!("in `{namespace}`: {error:#}"))
}

/// Pings an address from a namespace until it answers, at most so long.
pub fn ping(namespace: &str, address: &str, most: Duration) -> Result<(), String> {
    let end = Instant::now() + most;
    loop {
        // One try, which an unreachable neighbour may end early.
        let mut command = std::process::Command::new("ip");
        command.args(["netns", "exec", namespace, "ping", "-n", "-q", "-c", "1", "-W", "0.5", address]);
        let output = command.output().expect("`ping` is needed: `ci/install` installs it");
        if output.status.success() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(crate::run::shown(&output));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Sends so many octets from one namespace to an address in another, and fails unless what arrives is what
/// was sent.
pub fn stream(from: &str, to: &str, address: &str, octets: u64) {
    let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), 0);
    let listener = within(to, || TcpListener::bind(address)).unwrap();
    let address = listener.local_addr().unwrap();
    let receiver = thread::spawn(move || receive(&listener));
    let sent =
        within(from, || send(address, octets)).unwrap_or_else(|error| panic!("{from} to {address}: {error}"));
    let received = receiver.join().unwrap().unwrap_or_else(|error| panic!("{address} from {from}: {error}"));
    assert_eq!(received, (octets, sent), "{from} to {address}: what arrived is not what was sent");
}

fn send(address: SocketAddr, octets: u64) -> io::Result<[u8; 32]> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut sum = Sha256::new();
    let mut noise = Noise(octets | 1);
    let mut block = vec![0; 256 << 10];
    let mut left = octets;
    while left > 0 {
        let part = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        noise.fill(&mut block[..part]);
        sum.update(&block[..part]);
        stream.write_all(&block[..part])?;
        left -= part as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The other end says that it has all: only then is the network no longer needed.
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0])?;
    Ok(sum.finalize().into())
}

fn receive(listener: &TcpListener) -> io::Result<(u64, [u8; 32])> {
    let mut stream = listener.accept()?.0;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut sum = Sha256::new();
    let mut block = vec![0; 256 << 10];
    let mut octets = 0;
    loop {
        match stream.read(&mut block)? {
            0 => break,
            part => {
                sum.update(&block[..part]);
                octets += part as u64;
            }
        }
    }
    stream.write_all(&[1])?;
    Ok((octets, sum.finalize().into()))
}

/// Octets that repeat after a very long time only (George Marsaglia's xorshift64).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, block: &mut [u8]) {
        for part in block.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            part.copy_from_slice(&self.0.to_le_bytes()[..part.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_arrives_whole_over_the_loopback() {
        stream("", "", "127.0.0.1", (3 << 20) + 5);
    }

    #[test]
    fn noise_does_not_repeat_soon() {
        let mut block = [0; 64];
        Noise(1).fill(&mut block);
        assert_ne!(block[..32], block[32..]);
    }
}
