//! A bad line between plugin and agent: replies get lost.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It serves.
    Good,
    /// It ends before a word.
    Refused,
    /// So many octets of the agent get through, then it ends.
    Cut(usize),
    /// So many octets of the agent get through, and then no more: nobody is told.
    Lost(usize),
}

type Judge = Box<dyn FnMut(u64) -> Fate + Send>;

/// The line. It lasts as long as the process.
pub struct Proxy {
    /// Where the plugin finds it.
    pub address: SocketAddr,
    spoilt: Arc<AtomicU64>,
}

impl Proxy {
    /// A line to the agent at `target`; `judge` says what becomes of the connection of each number.
    pub fn start(target: SocketAddr, judge: impl FnMut(u64) -> Fate + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let spoilt = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&spoilt);
        let judge: Mutex<Judge> = Mutex::new(Box::new(judge));
        thread::spawn(move || {
            for (number, stream) in (0..).zip(listener.incoming().flatten()) {
                let fate = (judge.lock().unwrap())(number);
                if fate != Fate::Good {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                // A line that breaks is a broken line, which is what this is for.
                thread::spawn(move || drop(carry(&stream, target, fate)));
            }
        });
        Self { address, spoilt }
    }

    /// How many connections did not go well.
    pub fn spoilt(&self) -> u64 {
        self.spoilt.load(Ordering::Relaxed)
    }
}

fn carry(plugin: &TcpStream, target: SocketAddr, fate: Fate) -> io::Result<()> {
    if fate == Fate::Refused {
        return plugin.shutdown(Shutdown::Both);
    }
    let agent = TcpStream::connect_timeout(&target, Duration::from_secs(1))?;
    for stream in [plugin, &agent] {
        stream.set_nodelay(true)?;
        // Nothing of a call takes longer; without it, lost connections would stay for ever.
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    }
    let (mut from, mut to) = (plugin.try_clone()?, agent.try_clone()?);
    let there = thread::spawn(move || {
        let copied = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
        copied
    });
    let copied = back(&agent, plugin, fate);
    if !matches!(fate, Fate::Lost(_)) {
        let _ = plugin.shutdown(Shutdown::Both);
    }
    let _ = there.join();
    let _ = agent.shutdown(Shutdown::Both);
    copied
}

fn back(mut agent: &TcpStream, mut plugin: &TcpStream, fate: Fate) -> io::Result<()> {
    let mut left = match fate {
        Fate::Cut(octets) | Fate::Lost(octets) => octets,
        _ => usize::MAX,
    };
    let mut block = [0; 16 << 10];
    loop {
        let part = agent.read(&mut block)?;
        if part == 0 {
            return Ok(());
        }
        let through = part.min(left);
        plugin.write_all(&block[..through])?;
        left -= through;
        if left == 0 && matches!(fate, Fate::Cut(_)) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What gets through of an agent that answers everything with ten octets.
    fn through(fate: Fate) -> Vec<u8> {
        let agent = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = agent.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in agent.incoming().flatten() {
                let mut asked = [0; 5];
                if stream.read_exact(&mut asked).is_ok() {
                    let _ = stream.write_all(b"0123456789");
                }
            }
        });
        let proxy = Proxy::start(target, move |_| fate);
        let mut stream = TcpStream::connect(proxy.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let _ = stream.write_all(b"hello");
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got);
        assert_eq!(proxy.spoilt(), u64::from(fate != Fate::Good));
        got
    }

    #[test]
    fn each_fate_comes_true() {
        assert_eq!(through(Fate::Good), b"0123456789");
        assert_eq!(through(Fate::Refused), b"");
        assert_eq!(through(Fate::Cut(4)), b"0123");
        assert_eq!(through(Fate::Lost(3)), b"012");
    }
}
