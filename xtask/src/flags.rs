//! What each command takes.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Builds, boots and checks flashable images for DPU cards.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    after_help = "Start with `cargo xtask image`, then `cargo xtask boot`.\n\
                  Results of all steps are kept in `$XDG_CACHE_HOME/dpukit` (or `DPUKIT_CACHE`)."
)]
pub struct Flags {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command knows.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// The card to build for: a file in `image/boards`.
    #[arg(long, global = true, default_value = "virt", value_name = "NAME")]
    pub board: String,
    /// Steps at a time, and threads of each [default: the machine's processors].
    #[arg(long, short, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Open no network connection: use what is downloaded.
    #[arg(long, global = true)]
    pub offline: bool,
    /// Fail rather than change the lock.
    #[arg(long, global = true)]
    pub locked: bool,
    /// The vendor's SDK, for a board that needs it: the archive as it was downloaded, or a folder with it.
    #[arg(long, global = true, value_name = "FILE")]
    pub sdk: Option<PathBuf>,
    /// A folder that stands in for a component's source: your own tree of `kernel`, say.
    #[arg(long = "override", global = true, value_name = "NAME=PATH", value_parser = assignment)]
    pub overrides: Vec<(String, PathBuf)>,
    /// Print errors and results only.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// The checkout to work on [default: that which this program was built from].
    #[arg(long, global = true, hide = true, value_name = "FOLDER")]
    pub root: Option<PathBuf>,
    /// How to tell what a build does: for people, or one JSON object per line on standard output. What a command is
    /// asked to print is printed as it is.
    #[arg(long, global = true, value_enum, default_value = "human", value_name = "FORMAT")]
    pub message_format: MessageFormat,
}

/// `NAME=PATH`
fn assignment(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), path.into())),
        _ => Err("write it as `NAME=PATH`, with a component's name and a folder".into()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MessageFormat {
    Human,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build the flashable image of a board into `out/<board>`.
    ///
    /// Everything that enters is named in the board's lock; steps whose inputs did not change come from
    /// the store.
    Image(Image),
    /// Build the host's package, `out/dpukit-host_<version>_amd64.deb`.
    ///
    /// It is the same for all boards, and installs on Debian, Ubuntu and their kin.
    Deb,
    /// Build the host's container image, `out/dpukit-host_<version>_amd64.oci.tar`.
    ///
    /// It does what the package does, on hosts that take none: `image/kubernetes/host.yaml` is a `DaemonSet` of it.
    HostImage,
    /// Boot the image in an emulated card.
    ///
    /// The console is on your terminal; Ctrl-A X leaves. The image is not changed: the card writes into
    /// a layer beside it.
    Boot(Boot),
    /// Flash a card, over its U-Boot console and TFTP.
    ///
    /// The program `dpukit-flash` does the same on a machine without the sources.
    Flash(Box<dpukit_flash::flags::Flash>),
    /// Run all checks: formatting, lints, tests, and a boot of the image.
    Test(Test),
    /// Write the hashes of everything that enters a build.
    ///
    /// Without options, resolves what the lock lacks and leaves the rest as it is.
    Lock(Lock),
    /// Show which versions of the board's parts go together, and what was run together.
    Matrix,
    /// Make a key of your own that signs updates, and the certificate that cards trust.
    ///
    /// Images of a checkout whose `dpukit.local.toml` names them take updates that are signed with it.
    Key(Key),
    /// Look at the kernel's configuration.
    #[command(subcommand)]
    Kernel(Kernel),
    /// Look after the store of built steps.
    #[command(subcommand)]
    Store(Store),
    /// Measure what the project promises in numbers, on this machine.
    #[command(subcommand)]
    Bench(Bench),
    /// Say what of this machine would stop a build, and the mend.
    Doctor,
    /// Remove `out/`. The store stays; see `store gc`.
    Clean,
}

#[derive(Debug, Clone, Default, Args)]
pub struct Image {
    /// A file of public keys that may log in as root. Without it, a key is given at first boot.
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Key {
    /// Where to put `update.key` and `update.crt`: outside of the checkout.
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
}

#[derive(Debug, Args)]
pub struct Boot {
    /// Check what the card must do, and exit 0 or 1.
    #[arg(long)]
    pub check: bool,
    /// Make the card and print its QEMU command instead of running it; by hand it takes a QEMU that is installed.
    #[arg(long, conflicts_with = "check")]
    pub print: bool,
    /// A file of public keys that may log in as root on this emulated card.
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    pub ssh_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Test {
    /// Run these checks alone.
    #[arg(long, value_enum, value_name = "PART")]
    pub only: Option<Part>,
    /// Where to write what could not be run here, and why: how the parts that run at once tell the whole.
    #[arg(long, value_name = "FILE", hide = true, requires = "only")]
    pub left_out: Option<PathBuf>,
    /// Also what takes more than a quarter of an hour: every step a second time, the kernel too; the kernel
    /// of the board of metal; 500 power cuts.
    #[arg(long)]
    pub long: bool,
}

/// A part of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Formatting, lints, and the tests of every crate.
    Sources,
    /// The image alone, which all parts behind this one boot, alter or compare.
    Image,
    /// Pods from end to end: plugin and agent in network namespaces, under containerd, and on a bad day.
    Pods,
    /// Whole builds that are killed, run twice at once, have no root, a full disk, a read-only cache.
    Builds,
    /// The parts of boards of metal, from stand-ins for their makers' sources.
    Metal,
    /// Every step a second time: the same bytes. Runs only if it is named, or with `--long`.
    Repeat,
    /// The root against what mmdebstrap makes of the same packages.
    Root,
    /// The image in an emulated card, and one with a wrong byte.
    Boot,
    /// A blank emulated card flashed over its console, interrupted and not; firmware into U-Boot's sandbox.
    Flash,
    /// Updates of an emulated card: good ones, bad ones, and the way back.
    Update,
    /// Power cuts of an emulated card at random moments, with what was not flushed lost.
    Power,
    /// The host's package: lintian, the same bytes elsewhere, and its life in fresh Debian systems.
    Deb,
}

#[derive(Debug, Args)]
pub struct Lock {
    /// Only say whether the lock is whole; exit 1 if not.
    #[arg(long)]
    pub check: bool,
    /// Resolve this component anew, from what the archives hold today; `all` for every one.
    #[arg(long, value_name = "NAME", conflicts_with = "check")]
    pub update: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Kernel {
    /// Configure the kernel and check every wanted option; takes some seconds, builds nothing.
    Check,
    /// Change options in Kconfig's menu and print the lines for a fragment.
    Menu,
    /// Compare the configuration with that of the last whole build, or with a file.
    Diff {
        /// A `.config` to compare with.
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Store {
    /// List what is in it.
    Ls,
    /// Remove what no board's last build is made of.
    Gc {
        /// Only say what would go.
        #[arg(long)]
        dry_run: bool,
    },
    /// Hash everything again; an entry that was altered is named and removed.
    Verify,
    /// Say which input of a step changed since the last whole build.
    Why {
        /// The step's name, as `kernel`.
        step: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Rebuild the image after typical changes, in a copy of the checkout, and boot it.
    Image {
        /// How often each change is made; the median is shown.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
        runs: u16,
        /// First build once from nothing, in an empty cache, downloads and kernel included.
        #[arg(long)]
        cold: bool,
    },
    /// Flash a blank emulated card, beside the same bytes by hand-typed commands of U-Boot.
    Flash,
    /// Make pods with the host's plugin and the card's agent, beside Go's `ptp` and `host-local`; needs root.
    Cni {
        /// How often each call is made; the median and the 99th percentile are shown.
        #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(1..))]
        runs: u16,
    },
}
