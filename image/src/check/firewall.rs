//! The card's firewall, tried from outside: what it does not know does not get in, by neither network.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Boot, Finding};
use crate::emulator::CLOSED;

/// Has something listen on the card, and calls it: it must answer once the firewall lets calls in, and not before.
/// Over the management network that is so of the agent's port too, where the agent itself does not listen.
pub fn check(boot: &Boot<'_>, agent: u16, ports: [u16; 3]) -> Result<Finding> {
    let listen = format!(
        "set -- $(ip -4 route show default | grep -o 'src [0-9.]*'); \
         systemd-run --quiet --unit=echo systemd-socket-activate --accept --inetd --listen={CLOSED} --listen=$2:{agent} cat; \
         until ss -Hltn sport = {CLOSED} | grep -q LISTEN && ss -Hltn src $2:{agent} | grep -q LISTEN; do sleep 0.1; done"
    );
    boot.ssh(&listen).context("having something listen")?;
    // At once, as each takes all its time to be silent.
    let closed = ports.map(|port| thread::spawn(move || answers(port)));
    let closed = closed.map(|call| call.join().unwrap_or(Err(io::ErrorKind::Other)));
    boot.ssh(&format!("nft insert rule inet dpukit input tcp dport '{{ {CLOSED}, {agent} }}' accept"))
        .context("opening the firewall")?;
    // A busy machine takes its time to start what answers.
    let open = ports.map(|port| (0..10).map(|_| answers(port)).find(Result::is_ok).ok_or("nothing"));
    boot.ssh("systemctl restart nftables; systemctl stop echo").context("closing the firewall again")?;
    let result = if closed.iter().all(Result::is_err) && open.iter().all(Result::is_ok) {
        Ok(())
    } else {
        Err(format!(
            "by management, by link, and to the agent's port by management: while it is closed {closed:?}, \
             while it is open {open:?}"
        ))
    };
    let name = "the firewall keeps calls out, by management and by link, from the agent's port by management";
    Ok(Finding { name: name.into(), result })
}

/// Whether what is said comes back. QEMU takes each call itself: only an answer shows that the card got it.
fn answers(port: u16) -> Result<(), io::ErrorKind> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let call = || -> io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])
    };
    call().map_err(|error| error.kind())
}
