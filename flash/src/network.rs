//! The way of files into the card's memory: its address, this machine's, and a TFTP server at this end.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::board::Board;
use crate::console::Transfer;
use crate::hint::WithHint as _;
use crate::pieces::Piece;
use crate::tftp::{self, Server};
use crate::u_boot::{Answer, Refused, UBoot};
use crate::watch::Watch;

/// Where U-Boot asks for files unless it is told otherwise (RFC 1350).
const TFTP: u16 = 69;
/// How often a file is asked for before the network counts as down.
const TRIES: usize = 3;
/// How long an address that was given to this machine stays if the program can't take it away again: seconds.
const LEASE: &str = "7200";

/// An address with the length of its network's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub address: Ipv4Addr,
    /// 1 to 30.
    pub length: u8,
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(address, length)| {
            Some(Self { address: address.parse().ok()?, length: length.parse().ok()? })
        });
        parts
            .filter(|cidr| (1..=30).contains(&cidr.length) && !cidr.address.is_unspecified())
            .ok_or_else(|| "write it as `192.168.7.2/24`".into())
    }
}

impl Cidr {
    fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::MAX << (32 - u32::from(self.length)))
    }
}

/// What a person says of the network.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// The card's interface, in U-Boot's words.
    pub card_interface: Option<String>,
    /// The card's address; none for DHCP.
    pub card_address: Option<Cidr>,
    /// This machine's address, as the card reaches it.
    pub host_address: Option<Cidr0>,
    /// The interface of this machine that is given `host_address` while the card is flashed.
    pub host_interface: Option<String>,
    /// A TFTP server of the user's, and the folder that it serves.
    pub server: Option<(Ipv4Addr, PathBuf)>,
    /// The port of our own server.
    pub port: Option<u16>,
}

/// An address, with or without the length of its network's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr0 {
    pub address: Ipv4Addr,
    pub length: Option<u8>,
}

impl FromStr for Cidr0 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return Cidr::from_str(text)
                .map(|cidr| Self { address: cidr.address, length: Some(cidr.length) });
        }
        let address = text.parse().map_err(|_| "write it as `192.168.7.1` or `192.168.7.1/24`")?;
        Ok(Self { address, length: None })
    }
}

/// Gives files to the card.
#[derive(Debug)]
pub struct Network {
    giver: Giver,
    count: u32,
    /// Whether the card can unpack what it is given.
    pub packed: bool,
    _lent: Option<Lent>,
}

#[derive(Debug)]
enum Giver {
    Own(Server),
    Folder(Placed),
    /// Nobody: a dry run.
    None,
}

/// The file in a folder of the user's, taken away again.
#[derive(Debug)]
struct Placed {
    folder: PathBuf,
    file: Option<PathBuf>,
}

impl Drop for Placed {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            let _ = fs::remove_file(file);
        }
    }
}

/// An address that an interface of this machine has for as long as the card is flashed.
#[derive(Debug)]
struct Lent {
    interface: String,
    address: String,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let _ = ip(&["address", "del", &self.address, "dev", &self.interface]);
    }
}

/// What this machine's end can do, known before the card is touched.
#[derive(Debug)]
pub struct Prepared {
    giver: Giver,
    lent: Option<Lent>,
}

/// Opens this machine's end: a server that can't be started is no reason to have reset a card.
pub fn prepare(board: &Board, terms: &Terms, dry: bool) -> Result<Prepared> {
    if dry {
        return Ok(Prepared { giver: Giver::None, lent: None });
    }
    let giver = match &terms.server {
        Some((_, folder)) => {
            let probe = tempfile::Builder::new().prefix("dpukit-").tempfile_in(folder);
            probe.with_context(|| format!("writing into the TFTP server's folder `{}`", folder.display()))?;
            Giver::Folder(Placed { folder: folder.clone(), file: None })
        }
        None => Giver::Own(own_server(board, terms.port)?),
    };
    let lent = terms.host_interface.as_ref().map(|interface| lend(interface, terms)).transpose()?;
    Ok(Prepared { giver, lent })
}

fn own_server(board: &Board, port: Option<u16>) -> Result<Server> {
    // A port of its own needs no right, and no other server is in its way.
    let wanted = port.unwrap_or(if board.network.port_can_be_set { 0 } else { TFTP });
    if wanted != TFTP && !board.network.port_can_be_set {
        bail!("U-Boot of `{}` asks at port {TFTP} only", board.description);
    }
    match Server::start(wanted) {
        Ok(server) => Ok(server),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(anyhow!(
            "the port {TFTP} of TFTP may be opened by root only, and this U-Boot knows no other"
        ))
        .hint(|| {
            "run it with `sudo`, or give a server that there is: `--tftp-server ADDRESS --tftp-folder FOLDER`"
                .into()
        }),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(anyhow!("the port {wanted} is taken: another TFTP server runs on this machine")).hint(|| {
                "use it: `--tftp-server ADDRESS --tftp-folder FOLDER`, with the folder that it serves".into()
            })
        }
        Err(error) => Err(error).context("starting the TFTP server"),
    }
}

fn lend(interface: &str, terms: &Terms) -> Result<Lent> {
    let Some(Cidr0 { address, length: Some(length) }) = terms.host_address else {
        bail!("`--host-interface` needs `--host-address` with its length, as `192.168.7.1/24`");
    };
    let address = format!("{address}/{length}");
    // The kernel takes it away by itself should this program be killed.
    let lifetime = ["valid_lft", LEASE, "preferred_lft", LEASE];
    let mut arguments = vec!["address", "add", &address, "dev", interface];
    arguments.extend(lifetime);
    ip(&arguments).with_context(|| format!("giving `{interface}` the address {address}")).hint(|| {
        "that takes root, and an interface that `ip link` lists; or give the address by hand and leave `--host-interface` out"
            .into()
    })?;
    Ok(Lent { interface: interface.to_owned(), address })
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("running `ip` of iproute2")?;
    ensure!(
        output.status.success(),
        "`ip {}`: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Brings the card's network up.
pub fn up(u_boot: &mut UBoot<'_>, prepared: Prepared, terms: &Terms, watch: &dyn Watch) -> Result<Network> {
    watch.step("bringing the network up");
    let board = u_boot.board();
    for line in &board.network.prepare {
        u_boot.type_line(line)?;
    }
    if let Some(interface) = terms.card_interface.as_ref().or(board.network.interface.as_ref()) {
        ensure!(is_word(interface), "`{}` is no name of an interface", interface.escape_debug());
        if let Some(list) = &board.network.list
            && !u_boot.is_dry()
        {
            let said = u_boot.run(list, &[])?.text;
            if !said.split_whitespace().any(|word| word == interface) {
                return Err(anyhow!(
                    "the card has no network interface `{interface}`; it has:\n{}",
                    said.trim_end()
                ))
                .hint(|| "name one of them with `--card-interface`".into());
            }
        }
        u_boot.type_line(&format!("setenv ethact {interface}"))?;
    }
    let card = if let Some(cidr) = terms.card_address {
        u_boot.type_line(&format!("setenv ipaddr {}", cidr.address))?;
        u_boot.type_line(&format!("setenv netmask {}", cidr.mask()))?;
        Some(cidr.address)
    } else {
        let told = u_boot.run(&board.network.dhcp, &[]).context("asking for an address by DHCP")?.told;
        told.map(|told| told.parse().with_context(|| format!("`{told}` is no address"))).transpose()?
    };
    let given =
        terms.server.as_ref().map(|(server, _)| *server).or(terms.host_address.map(|host| host.address));
    let server = match (given.or(board.network.host), card) {
        (Some(address), _) => address,
        (None, Some(card)) => tftp::own_address(card)?,
        (None, None) => Ipv4Addr::UNSPECIFIED,
    };
    u_boot.type_line(&format!("setenv serverip {server}"))?;
    if let Giver::Own(own) = &prepared.giver
        && own.port() != TFTP
    {
        u_boot.type_line(&format!("setenv tftpdstp {}", own.port()))?;
    }
    if let Some(card) = card {
        watch.notice(&format!("the card has the address {card}, and asks for files at {server}"));
    }
    let packed = match &board.memory.unpack {
        Some(unpack) => crate::session::has_command(u_boot, &unpack.run)?,
        None => false,
    };
    if !packed {
        watch.notice("this U-Boot can't unpack: all is sent as it is");
    }
    Ok(Network { giver: prepared.giver, count: 0, packed, _lent: prepared.lent })
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"#_.-".contains(&byte))
}

impl Network {
    /// The port of the program's own server; none where there is no such server.
    pub fn port(&self) -> Option<u16> {
        match &self.giver {
            Giver::Own(server) => Some(server.port()),
            _ => None,
        }
    }

    /// Brings a piece into the card's memory and checks it there; returns where it lies. `done` and `total` are
    /// what of the whole is dealt with before it, in bytes.
    pub fn load(&mut self, u_boot: &mut UBoot<'_>, piece: &Piece, done: u64, total: u64) -> Result<u64> {
        let memory = &u_boot.board().memory;
        let length = piece.sent.len() as u64;
        self.count += 1;
        let name = format!("dpukit-{}-{}", std::process::id(), self.count);
        let sent = self.offer(&name, piece)?;
        let values = [("address", hex(memory.load)), ("file", name)];
        if let Some(console) = u_boot.console() {
            let start = sent.load(Ordering::Relaxed);
            console.follow(Some(Transfer {
                sent,
                start,
                last: start,
                length,
                size: piece.size,
                done,
                total,
            }));
        }
        let answer = transfer(u_boot, &values, length).context("loading over TFTP");
        if let Some(console) = u_boot.console() {
            console.follow(None);
        }
        let answer = answer?;
        if let Some(told) = answer.told {
            ensure!(told == length.to_string(), "the card got {told} bytes of {length}");
        }
        check(u_boot, memory.load, length, &piece.sent_hash).context("what came over TFTP")?;
        if !self.packed {
            return Ok(memory.load);
        }
        let Some(unpack) = &memory.unpack else { return Ok(memory.load) };
        let values =
            [("from", hex(memory.load)), ("address", hex(memory.unpacked)), ("size", hex(piece.size))];
        let answer = u_boot.run_for(unpack, &values, piece.size)?;
        if let Some(told) = answer.told {
            let unpacked = u64::from_str_radix(&told, 16).ok();
            ensure!(
                unpacked == Some(piece.size),
                "the card unpacked {told} (hex) bytes instead of {:x}",
                piece.size
            );
        }
        check(u_boot, memory.unpacked, piece.size, &piece.hash).context("what was unpacked")?;
        Ok(memory.unpacked)
    }

    fn offer(&mut self, name: &str, piece: &Piece) -> Result<Arc<AtomicU64>> {
        match &mut self.giver {
            Giver::Own(server) => {
                server.offer(name, Arc::clone(&piece.sent));
                return Ok(server.sent());
            }
            Giver::Folder(placed) => {
                if let Some(old) = placed.file.take() {
                    let _ = fs::remove_file(old);
                }
                let path = placed.folder.join(name);
                let file = placed.file.insert(path);
                fs::write(&*file, piece.sent.as_slice())
                    .with_context(|| format!("writing `{}`", file.display()))?;
            }
            Giver::None => {}
        }
        Ok(Arc::default())
    }
}

/// Has the card fetch a file; a transfer that got stuck is tried again, for that changes nothing on the card.
fn transfer(u_boot: &mut UBoot<'_>, values: &[(&str, String)], length: u64) -> Result<Answer> {
    let network = &u_boot.board().network;
    for _ in 1..TRIES {
        match u_boot.run_for(&network.tftp, values, length) {
            Err(error) if error.is::<Refused>() => {
                for line in &network.careful {
                    u_boot.type_line(line)?;
                }
            }
            other => return other,
        }
    }
    u_boot.run_for(&network.tftp, values, length)
}

/// Compares the hash of bytes in the card's memory.
///
/// # Errors
/// Where it is another: then what is there must not be written.
pub fn check(u_boot: &mut UBoot<'_>, address: u64, size: u64, hash: &str) -> Result<()> {
    match hash_of(u_boot, address, size)? {
        Some(found) if found != hash => {
            Err(anyhow!("the card's memory has the hash {found}, and {hash} was sent")).hint(|| {
                "nothing of it was written; run the command again, and look at the card's memory if it stays"
                    .into()
            })
        }
        _ => Ok(()),
    }
}

/// The hash of bytes in the card's memory; none in a dry run.
pub fn hash_of(u_boot: &mut UBoot<'_>, address: u64, size: u64) -> Result<Option<String>> {
    let values = [("address", hex(address)), ("size", hex(size))];
    Ok(u_boot.run_for(&u_boot.board().memory.hash, &values, size)?.told)
}

/// A number as U-Boot reads it.
pub fn hex(number: u64) -> String {
    format!("{number:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused() {
        let cidr: Cidr = "192.168.7.2/24".parse().unwrap();
        assert_eq!((cidr.mask().to_string(), cidr.length), ("255.255.255.0".into(), 24));
        assert_eq!("10.0.0.1/30".parse::<Cidr>().unwrap().mask().to_string(), "255.255.255.252");
        for text in ["192.168.7.2", "192.168.7.2/31", "192.168.7.2/0", "0.0.0.0/8", "a/24", "1.2.3.4/x", ""] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        assert_eq!("10.0.2.2".parse::<Cidr0>().unwrap().length, None);
        assert_eq!("10.0.2.2/24".parse::<Cidr0>().unwrap().length, Some(24));
        assert!("10.0.2".parse::<Cidr0>().is_err());
    }

    #[test]
    fn a_name_that_would_be_more_than_a_word_is_none() {
        assert!(is_word("rvu_pf#1") && is_word("e1000#0") && is_word("r8152_eth"));
        for text in ["", "a b", "a;reset", "a$b", "a\nb"] {
            assert!(!is_word(text), "{text}");
        }
    }
}
