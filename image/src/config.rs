//! What a build is told: the checked form of boards, components and suites.
//!
//! The raw TOML is read, and all that is wrong with it said, in [`crate::load`]; a value of these
//! types can no longer be wrong. The schema, with an example for each key, is in that module's page.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Everything that `image/` declares, for one board.
#[derive(Debug, Clone)]
pub struct Config {
    /// The root of the checkout; never enters a hash.
    pub root: PathBuf,
    pub board: Board,
    /// All components, by name, whether the board uses them or not.
    pub components: BTreeMap<String, Component>,
    pub suites: Suites,
}

/// One kind of card: what differs between cards, and nothing else.
#[derive(Debug, Clone)]
pub struct Board {
    pub name: String,
    pub description: String,
    pub tools: Tools,
    pub kernel: Kernel,
    pub root: Root,
    pub disk: Disk,
    pub boot: Boot,
    pub firewall: Firewall,
    pub network: Network,
    /// What `dpu-agent setup` does at boot, written into the image as it is.
    pub plan: dpu_plan::Plan,
    /// How to run the board in QEMU; a board of metal has none.
    pub emulator: Option<Emulator>,
}

/// Components (source `deb`) whose packages are unpacked into tool roots.
#[derive(Debug, Clone)]
pub struct Tools {
    /// bubblewrap, mkfs, mkimage and other small programs that every build needs.
    pub base: String,
    /// The kernel's compilers.
    pub kernel: String,
    /// Rust for the card's architecture.
    pub rust: String,
}

#[derive(Debug, Clone)]
pub struct Kernel {
    /// A component whose packages hold `usr/src/linux-source-*.tar.xz`.
    pub source: String,
    /// The make target that the fragments are laid over: `tinyconfig`, `defconfig`.
    pub base: String,
    /// Names of `kernel-config/<name>.config`, applied in this order.
    pub fragments: Vec<String>,
    /// Names of `kernel-config/requirements/<name>.toml`.
    pub requirements: Vec<String>,
    /// The largest `Image` that is accepted, in bytes.
    pub image_limit: u64,
}

#[derive(Debug, Clone)]
pub struct Root {
    /// A component of source `deb`: the packages of the card's system.
    pub packages: String,
    /// A component of source `local`: the agent.
    pub agent: String,
    /// A component of source `deb`: what mmdebstrap needs beside the root's packages to install them.
    pub oracle: String,
    /// Folders laid over the root, in this order, relative to the checkout.
    pub overlays: Vec<PathBuf>,
    /// The host name until the set-up learns the host's.
    pub hostname: String,
}

/// Sizes of the partitions, in bytes, each a multiple of 1 MiB.
#[derive(Debug, Clone)]
pub struct Disk {
    pub boot: u64,
    pub root: u64,
    /// The data partition as it is in the image; it grows to the disk's end at first boot.
    pub data: u64,
}

#[derive(Debug, Clone)]
pub struct Boot {
    /// The kernel's command line, without the root's part, which the builder adds.
    pub cmdline: String,
}

/// What comes in, beside ssh and the agent's port on the link interface.
#[derive(Debug, Clone)]
pub struct Firewall {
    /// `nft` port expressions with a protocol, as `tcp/10250` or `udp/8472`, or `esp`.
    pub open: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Network {
    /// Kernel drivers whose interfaces are configured with DHCP (networkd's `[Match] Driver=`).
    pub dhcp_drivers: Vec<String>,
}

/// How QEMU plays the card.
#[derive(Debug, Clone)]
pub struct Emulator {
    /// A component of source `deb` with QEMU, U-Boot and an ssh client.
    pub tools: String,
    /// Path of U-Boot in that tool root.
    pub firmware: PathBuf,
    pub machine: String,
    pub cpu: String,
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// The disk's size that the emulated card has, in bytes; the data partition grows to it.
    pub disk: u64,
    /// Further arguments, one each. `{link}` stands for the netdev of the link to the host.
    pub devices: Vec<String>,
    /// The host's address on the link.
    pub link_host: Ipv4Addr,
    /// The card's address on the link, where the agent answers.
    pub link_card: Ipv4Addr,
    /// PCI ids (`vvvv:dddd`) that must be on `vfio-pci` once booted, and how many of each.
    pub expect_vfio: BTreeMap<String, usize>,
    /// Modules that must load even with no device behind them.
    pub expect_modules: Vec<String>,
}

/// A named thing that enters a build.
#[derive(Debug, Clone)]
pub struct Component {
    pub name: String,
    pub description: String,
    pub source: Source,
}

#[derive(Debug, Clone)]
pub enum Source {
    /// Debian packages, with all that they depend on.
    Deb(DebSource),
    /// A crate of this workspace, built for the card.
    Local(LocalSource),
}

#[derive(Debug, Clone)]
pub struct DebSource {
    /// Suites to take packages from. Of several versions the highest wins, save that a suite
    /// marked `only-when-named` gives only packages written as `name/suite`.
    pub suites: Vec<String>,
    /// `amd64` or `arm64`.
    pub architecture: String,
    /// Wanted packages: `name`, `name:arch`, `name/suite`, `name:arch/suite`.
    pub packages: Vec<String>,
    /// Whether the dependencies are taken too; `false` for packages that are only data.
    pub dependencies: bool,
    /// Packages never taken, even where something depends on them, with the reason.
    pub without: BTreeMap<String, String>,
    /// Links to make, path to target: what update-alternatives would have made.
    pub links: BTreeMap<String, String>,
    /// Files to copy within the root, path to source: what maintainer scripts copy from `/usr/share`.
    pub copies: BTreeMap<String, String>,
    /// Modes and owners that maintainer scripts set: path to `MODE USER GROUP`, by name.
    pub modes: BTreeMap<String, String>,
    /// Paths that a package takes from all others, as dpkg-divert(1) does.
    pub diversions: BTreeMap<String, Diversion>,
    /// Paths left out when unpacking: globs from the root, without a leading slash, where `*` crosses slashes.
    pub leave_out: Vec<String>,
    /// Paths kept although `leave_out` names them.
    pub keep: Vec<String>,
    /// For each package with maintainer scripts: what answers them, or why nothing has to.
    pub scripts: BTreeMap<String, String>,
}

/// Where other packages' files of a diverted path go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diversion {
    /// The package whose own file stays at the path.
    pub by: String,
    /// The path that all others' file gets.
    pub to: String,
}

#[derive(Debug, Clone)]
pub struct LocalSource {
    /// The crate's name in the workspace.
    pub package: String,
    /// Folder of the crate, relative to the checkout.
    pub path: PathBuf,
    /// Rust's target triple.
    pub target: String,
    /// Program name to its absolute path in the image.
    pub install: BTreeMap<String, String>,
}

/// Debian archives and their suites.
#[derive(Debug, Clone)]
pub struct Suites {
    pub archives: BTreeMap<String, Archive>,
    pub suites: BTreeMap<String, Suite>,
}

#[derive(Debug, Clone)]
pub struct Archive {
    /// Base addresses, tried in order, after those that the machine's own apt uses.
    pub mirrors: Vec<String>,
    /// Base address of the snapshot service that knows files by their hash, if any.
    pub snapshot: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Suite {
    pub archive: String,
    /// Path below `dists/`.
    pub path: String,
    /// Files in `image/keys` that may sign the suite's Release file; one good signature is enough.
    pub keys: Vec<String>,
    /// See [`DebSource::suites`].
    pub only_when_named: bool,
}
