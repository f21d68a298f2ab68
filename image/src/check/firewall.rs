//! The card's firewall, tried from outside: what it does not know does not get in, by neither network.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Boot, Finding};
use crate::emulator::CLOSED;

/// Has something listen on the card, and calls it: it must answer once the firewall lets calls in, and not before.
pub fn check(boot: &Boot<'_>, ports: [u16; 2]) -> Result<Finding> {
    let listen = format!(
        "systemd-run --quiet --unit=echo systemd-socket-activate --accept --inetd --listen={CLOSED} cat; \
         until ss -Hltn sport = {CLOSED} | grep -q LISTEN; do sleep 0.1; done"
    );
    boot.ssh(&listen).context("having something listen")?;
    let closed = ports.map(answers);
    boot.ssh(&format!("nft insert rule inet dpukit input tcp dport {CLOSED} accept"))
        .context("opening the firewall")?;
    // A busy machine takes its time to start what answers.
    let open = ports.map(|port| (0..10).map(|_| answers(port)).find(Result::is_ok).ok_or("nothing"));
    boot.ssh("systemctl restart nftables; systemctl stop echo").context("closing the firewall again")?;
    let result = if closed.iter().all(Result::is_err) && open.iter().all(Result::is_ok) {
        Ok(())
    } else {
        Err(format!("by management and link: while it is closed {closed:?}, while it is open {open:?}"))
    };
    Ok(Finding { name: "the firewall keeps calls out, by management and by link".into(), result })
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
