//! What `cargo xtask flash` and `dpukit-flash` take.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::console::link::Place;
use crate::firmware::Copy;
use crate::network::{Cidr, Cidr0};

/// Puts a bundle on a card, over its U-Boot console and TFTP.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[command(after_help = "\
Examples:
  dpukit-flash --board cn106 --bundle out/cn106 --console /dev/ttyUSB0
  dpukit-flash --board cn106 --bundle out/cn106 --dry-run --firmware
  dpukit-flash --board cn106 --bundle out/cn106 --card-address 192.168.7.2/24 \\
      --host-interface enp3s0 --host-address 192.168.7.1/24

Run again after whatever made it stop: what is on the card already is left as it is.")]
pub struct Flash {
    /// The card's console: `/dev/ttyUSB0`, `unix:PATH` or `tcp:HOST:PORT`.
    #[arg(long, value_name = "PLACE", default_value = "/dev/ttyUSB0")]
    pub console: Place,
    /// The folder with what is flashed [default: `out/<board>`].
    #[arg(long, value_name = "FOLDER")]
    pub bundle: Option<PathBuf>,
    /// Flash the system's image; what is done if neither this nor `--firmware` is given.
    #[arg(long)]
    pub system: bool,
    /// Flash the makers' firmware into the SPI flash.
    #[arg(long)]
    pub firmware: bool,
    /// The disk of the card that the system goes to: `emmc`, `nvme`, `virtio`, whichever the board has.
    #[arg(long, value_name = "DISK", default_value = "emmc")]
    pub to: String,
    /// The copy of the firmware that is written.
    #[arg(long, value_enum, value_name = "COPY", default_value = "primary")]
    pub copy: Copy,
    /// Write a copy of the firmware that the card may have to come back with.
    #[arg(long)]
    pub i_know: bool,
    /// Print each command of U-Boot, and touch nothing.
    #[arg(long)]
    pub dry_run: bool,

    /// Bits a second of a serial console [default: the board's].
    #[arg(long, value_name = "N")]
    pub baud: Option<u32>,
    /// Take the prompt that is there, without starting the card anew.
    #[arg(long)]
    pub no_reset: bool,
    /// A command of this machine that starts the card anew: of a BMC, or of a switched socket.
    #[arg(long, value_name = "COMMAND", conflicts_with = "no_reset")]
    pub reset_command: Option<String>,
    /// How long a person has to switch the card on, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = clap::value_parser!(u16).range(1..))]
    pub wait: u16,
    /// Leave the card at U-Boot's prompt in the end.
    #[arg(long)]
    pub no_boot: bool,
    /// Where all that the console says is kept [default: `flash.log` in the bundle].
    #[arg(long, value_name = "FILE")]
    pub transcript: Option<PathBuf>,

    /// The card's network interface, in U-Boot's words [default: the board's].
    #[arg(long, value_name = "NAME")]
    pub card_interface: Option<String>,
    /// An address for the card [default: by DHCP].
    #[arg(long, value_name = "ADDRESS/LENGTH")]
    pub card_address: Option<Cidr>,
    /// This machine's address, as the card reaches it [default: found].
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    pub host_address: Option<Cidr0>,
    /// Give an interface of this machine `--host-address` meanwhile; takes root.
    #[arg(long, value_name = "NAME", requires = "host_address")]
    pub host_interface: Option<String>,
    /// A TFTP server that there is, instead of the program's own.
    #[arg(long, value_name = "ADDRESS", requires = "tftp_folder")]
    pub tftp_server: Option<Ipv4Addr>,
    /// The folder that this server gives.
    #[arg(long, value_name = "FOLDER", requires = "tftp_server")]
    pub tftp_folder: Option<PathBuf>,
    /// The port of the program's own TFTP server [default: one that is free where the card can be told, else 69].
    #[arg(long, value_name = "N", conflicts_with = "tftp_server", value_parser = clap::value_parser!(u16).range(1..))]
    pub tftp_port: Option<u16>,
}

impl Flash {
    /// Whether the system is flashed.
    pub fn wants_system(&self) -> bool {
        self.system || !self.firmware
    }

    pub fn session(&self) -> crate::session::Terms {
        crate::session::Terms {
            no_reset: self.no_reset,
            patience: Duration::from_secs(self.wait.into()),
            reset_command: self.reset_command.clone(),
        }
    }

    pub fn network(&self) -> crate::network::Terms {
        crate::network::Terms {
            card_interface: self.card_interface.clone(),
            card_address: self.card_address,
            host_address: self.host_address,
            host_interface: self.host_interface.clone(),
            server: self.tftp_server.zip(self.tftp_folder.clone()),
            port: self.tftp_port,
        }
    }
}
