//! What a build is told: the checked form of boards, components and suites.
//!
//! The raw TOML is read, and all that is wrong with it said, in [`crate::load`]; a value of these
//! types can no longer be wrong. The schema, with an example for each key, is in that module's page.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
pub use dpu_plan::Start;

use crate::hash::Hash;
use crate::hint::WithHint as _;
use crate::load::suggest;
use crate::pages::Pages;
use crate::rules::Range;

/// Everything that `image/` declares, for one board.
#[derive(Debug, Clone)]
pub struct Config {
    /// The root of the checkout; never enters a hash.
    pub root: PathBuf,
    pub board: Board,
    /// All components, by name, whether the board uses them or not.
    pub components: BTreeMap<String, Component>,
    pub suites: Suites,
    /// Which versions of parts go together.
    pub rules: Rules,
    /// What of this machine's own settings has a say.
    pub local: Local,
}

impl Config {
    /// Puts the folders of [`Local::overrides`] in place of components' sources.
    ///
    /// # Errors
    /// Where there is no such component, or a folder can't stand in for it.
    pub fn stand_in(&mut self) -> Result<()> {
        for (name, folder) in &self.local.overrides {
            let Some(component) = self.components.get_mut(name) else {
                let names: Vec<_> = self.components.keys().map(String::as_str).collect();
                return Err(anyhow!(
                    "there is no component `{name}`, that `{}` would stand in for",
                    folder.display()
                ))
                .hint(|| suggest::hint(name, "component", names));
            };
            let is_kernel = self.board.kernel.source == *name;
            match &component.source {
                Source::Local(local) => {
                    return Err(anyhow!("`{name}` is part of this checkout"))
                        .hint(|| format!("change it in `{}`", local.path.display()));
                }
                Source::Deb(_) if !is_kernel => {
                    return Err(anyhow!("`{name}` is many packages, and no folder can stand in for them"))
                        .hint(|| format!("change what it takes in `image/components/{name}.toml`"));
                }
                _ if !folder.exists() => {
                    return Err(anyhow!(
                        "there is no `{}`, that would stand in for `{name}`",
                        folder.display()
                    ))
                    .hint(|| "name a folder".into());
                }
                _ => component.instead = Some(folder.clone()),
            }
        }
        Ok(())
    }
}

/// `dpukit.local.toml`, and what the command line lays over it: this machine's own, never committed.
#[derive(Debug, Clone, Default)]
pub struct Local {
    /// A folder of git repositories that are asked first.
    pub git_mirrors: Option<PathBuf>,
    /// Component of source `user` to the file or folder that the user brings for it.
    pub files: BTreeMap<String, PathBuf>,
    /// Component to a folder that stands in for its source.
    pub overrides: BTreeMap<String, PathBuf>,
    /// Who signs updates; images of one who has nobody for it take none.
    pub signing: Option<Signing>,
}

/// How bundles are signed, and what cards trust.
#[derive(Debug, Clone)]
pub struct Signing {
    /// The signer's certificate, as PEM.
    pub certificate: PathBuf,
    /// What has its key.
    pub signer: Signer,
    /// The certificates that images trust, as PEM: the signer's own, or that of who issued it.
    pub keyring: PathBuf,
}

/// What has the key that bundles are signed with.
#[derive(Debug, Clone)]
pub enum Signer {
    /// A file, as PEM.
    Key(PathBuf),
    /// A program with arguments, which gets what is to be signed on standard input and gives CMS (RFC 5652) in DER
    /// with that in it on standard output: for keys that are in a token or with a service.
    Command(Vec<String>),
}

/// One kind of card: what differs between cards, and nothing else.
#[derive(Debug, Clone)]
pub struct Board {
    pub name: String,
    pub description: String,
    pub tools: Tools,
    pub kernel: Kernel,
    /// The kernel by each of the board's configurations, where its file has several to choose from.
    pub kernels: BTreeMap<String, Kernel>,
    /// None for a card whose makers' U-Boot stays.
    pub u_boot: Option<UBoot>,
    pub parts: Parts,
    pub endpoint: Endpoint,
    pub root: Root,
    pub disk: Disk,
    pub boot: Boot,
    pub firewall: Firewall,
    pub network: Network,
    /// What `dpu-agent setup` does at boot, written into the image as it is.
    pub plan: dpu_plan::Plan,
    /// How a running card is updated; a board without it is flashed anew.
    pub updates: Option<Updates>,
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
    /// A C compiler and libraries for the card's architecture; parts that are built from C need it.
    pub cross: Option<String>,
    /// Go; an agent of Cilium's that is built needs it.
    pub go: Option<String>,
    /// RAUC, which makes and signs bundles.
    pub bundle: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Kernel {
    /// A component whose packages hold `usr/src/linux-source-*.tar.xz`, or one of source `git`.
    pub source: String,
    pub pages: Pages,
    /// The make target that the fragments are laid over: `tinyconfig`, `defconfig`.
    pub base: String,
    /// A configuration of the card's makers, laid over the base before the fragments.
    pub vendor: Option<VendorConfig>,
    /// Names of `kernel-config/<name>.config`, applied in this order; that of the pages is among them.
    pub fragments: Vec<String>,
    /// Names of `kernel-config/requirements/<name>.toml`.
    pub requirements: Vec<String>,
    /// The largest `Image` that is accepted, in bytes.
    pub image_limit: u64,
}

/// A file of a component of source `git`.
#[derive(Debug, Clone)]
pub struct VendorConfig {
    pub source: String,
    /// The file's path in the source.
    pub path: PathBuf,
}

/// U-Boot, where this builder makes it.
#[derive(Debug, Clone)]
pub struct UBoot {
    /// A component of source packages.
    pub source: String,
    /// A component of packages: U-Boot's compilers.
    pub tools: String,
    /// The make target that the fragment is laid over: `qemu_arm64_defconfig`.
    pub base: String,
    /// The fragment of its configuration, relative to the checkout.
    pub config: PathBuf,
    /// Its environment while nothing was saved, relative to the checkout.
    pub environment: PathBuf,
}

/// What a card of metal has beside kernel, root and agent: names of components.
#[derive(Debug, Clone, Default)]
pub struct Parts {
    /// Of source `user`: the makers' firmware.
    pub firmware: Option<String>,
    /// Of source `git`: the program that serves the firmware's side of the endpoint.
    pub octep_agent: Option<String>,
    /// Of source `git`: the host's drivers of the endpoint.
    pub host_drivers: Option<String>,
    /// Of source `oci`: the image of Cilium's agent.
    pub cilium: Option<String>,
    /// Of source `git`: the source of an agent of our own, which takes the place of the image's.
    pub cilium_agent: Option<String>,
}

/// What the host is told of the endpoint, where it is to be otherwise than in the configuration of `octep_cp_agent` as
/// its makers give it.
#[derive(Debug, Clone, Default)]
pub struct Endpoint {
    /// The address of the first PF, `02:00:00:01:06:00`; its VFs' and then the next PF's count up from it.
    pub mac: Option<String>,
    /// How many VFs a PF has.
    pub vfs: Option<u16>,
    /// Megabits per second.
    pub speed: Option<u32>,
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
    /// The kernel's command line with its huge pages, without the root's part, which the builder adds.
    pub cmdline: String,
}

/// How U-Boot and the running system agree on the slot that starts.
#[derive(Debug, Clone)]
pub struct Updates {
    /// How often a slot is tried that nobody has called good.
    pub attempts: u8,
    pub counts: Counts,
}

/// Where is counted which slot starts how often.
#[derive(Debug, Clone)]
pub enum Counts {
    /// In U-Boot's variables, which are there twice: lines of `fw_env.config` (libubootenv's
    /// `docs/fw_env_config.md`).
    Variables([String; 2]),
    /// On the disk, by a script that U-Boot finds there: its variables are left alone.
    Disk,
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
    /// A component of source `deb` with QEMU and an ssh client.
    pub tools: String,
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
    /// What [`Rules`] know it by; packages have theirs in the lock.
    pub version: Option<String>,
    pub source: Source,
    /// A developer's folder that stands in for the source.
    pub instead: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub enum Source {
    /// Debian packages, with all that they depend on.
    Deb(DebSource),
    /// A crate of this workspace, built for the card.
    Local(LocalSource),
    /// One commit of a git repository.
    Git(GitSource),
    /// A container image.
    Oci(OciSource),
    /// Files that the user has to bring.
    User(UserSource),
}

impl Source {
    /// The kind, as it is written in a component's file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Deb(_) => "deb",
            Self::Local(_) => "local",
            Self::Git(_) => "git",
            Self::Oci(_) => "oci",
            Self::User(_) => "user",
        }
    }
}

/// One commit of a git repository, taken as raw files.
#[derive(Debug, Clone)]
pub struct GitSource {
    pub url: String,
    /// Asked after `url`, in this order.
    pub mirrors: Vec<String>,
    pub revision: Revision,
    /// Whether the repositories that the commit names as submodules are taken too.
    pub submodules: bool,
}

/// Which commit is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revision {
    /// 40 hexadecimal digits, and the branch that it is on, for servers that give no single commits.
    Commit { commit: String, branch: Option<String> },
    /// The newest of a branch when the lock is made.
    Branch(String),
}

/// A container image in a registry, for arm64.
#[derive(Debug, Clone)]
pub struct OciSource {
    /// The registry's host, with its port if it has one.
    pub registry: String,
    /// The name in the registry.
    pub repository: String,
    /// The tag, for people where there is a digest.
    pub tag: Option<String>,
    /// Of an index or of a manifest: `sha256:…`.
    pub digest: Option<Hash>,
    /// Other registries, with a path where they have one, that hold the same repository.
    pub mirrors: Vec<String>,
}

impl OciSource {
    /// The image as Kubernetes asks for it: `quay.io/cilium/cilium:v1.17.0`, or with its digest where it has no tag.
    pub fn reference(&self) -> String {
        let Self { registry, repository, tag, digest, .. } = self;
        match (tag, digest) {
            (Some(tag), _) => format!("{registry}/{repository}:{tag}"),
            (None, Some(digest)) => format!("{registry}/{repository}@sha256:{digest}"),
            (None, None) => format!("{registry}/{repository}:latest"),
        }
    }
}

/// Files that only the user can get, found by name in archives of any nesting.
#[derive(Debug, Clone)]
pub struct UserSource {
    /// Where to get it, for people.
    pub get: String,
    /// Name to the file's pattern, in which `{version}` is the component's version.
    pub files: BTreeMap<String, String>,
    /// Name to the end of a folder's path; all files below it are taken.
    pub folders: BTreeMap<String, String>,
    /// Name to the absolute path in the image; what has none is only flashed.
    pub install: BTreeMap<String, String>,
}

/// Which versions of parts go together.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub rules: BTreeMap<String, Rule>,
    pub sets: BTreeMap<String, Set>,
}

/// What holds for the boards whose parts are of these versions.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Part to range; all have to fit for the rule to hold.
    pub when: BTreeMap<String, Range>,
    /// Part to the range that it has to be in, where the board has the part.
    pub needs: BTreeMap<String, Range>,
    pub reason: String,
    /// How `octep_cp_agent` is given its devices, where the rule says so.
    pub start: Option<Start>,
}

/// Versions that somebody ran together.
#[derive(Debug, Clone)]
pub struct Set {
    /// Who, and how.
    pub verified: String,
    /// Part to version.
    pub parts: BTreeMap<String, String>,
    /// Part to the commit that it was of.
    pub commits: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub struct DebSource {
    /// Suites to take packages from. Of several versions the highest wins, save that a suite
    /// marked `only-when-named` gives only packages written as `name/suite`.
    pub suites: Vec<String>,
    /// `amd64`, `arm64`, or `source` for source packages as they are.
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
    /// Path below `dists/`; or, with a slash at its end, of a flat repository below the archive's base address
    /// (sources.list(5), "The deb and deb-src Types").
    pub path: String,
    /// What its Release file must have as its origin.
    pub origin: Option<String>,
    /// Files in `image/keys` that may sign the suite's Release file; one good signature is enough.
    pub keys: Vec<String>,
    /// See [`DebSource::suites`].
    pub only_when_named: bool,
}

impl Suite {
    /// Whether it is a flat repository: all architectures in one index, beside the Release file.
    pub fn is_flat(&self) -> bool {
        self.path.ends_with('/')
    }

    /// The path of one of its files below the archive's base address.
    pub fn file(&self, path: &str) -> String {
        match self.path.strip_suffix('/') {
            Some(".") => path.to_owned(),
            Some(folder) => format!("{folder}/{path}"),
            None => format!("dists/{}/{path}", self.path),
        }
    }
}
