//! What a card sets up at boot: the `[setup]` part of a board file, which the agent reads as
//! `/usr/lib/dpukit/plan.toml`.
//!
//! The builder and the agent share these types, so a board file that the builder takes is one that
//! the card understands. Unknown keys are refused, and a value of these types cannot be wrong:
//! what is wrong in one place is said by its type, what is wrong between places by [`Plan`].
//!
//! # The schema, by example
//!
//! The emulated card (`virt`), whose VFs are those of QEMU's `igb`:
//!
//! ```toml
#![doc = include_str!("../examples/virt.toml")]
//! ```
//!
//! The Marvell card (`cn106`), whose SDP VFs are made by its kernel at boot:
//!
//! ```toml
#![doc = include_str!("../examples/cn106.toml")]
//! ```
//!
//! A card's own `/etc/dpukit/pods.toml` holds a `[pods]` table that wins over the plan's.
//!
//! No address of a device is ever written down: devices are found by their PCI id, since addresses
//! move with the firmware.

mod images;
mod pods;
mod read;
mod start;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use images::{CardImage, IMAGES, Images};
pub use pods::{Cilium, Delegate, Network, OVERRIDE, Override, Pods, Routed};
pub use start::{Start, Word};
pub use values::{HostSuffix, InterfaceAddress, PciId, Size, Subnet};

/// Where the plan is in the image.
pub const PATH: &str = "/usr/lib/dpukit/plan.toml";

/// Where the image says which versions it was built of: [`Versions`].
pub const VERSIONS: &str = "/usr/lib/dpukit/versions.toml";

/// What the image was built of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Versions {
    /// Part (`firmware`, `octep-agent`, `kernel`, …) to version.
    pub versions: BTreeMap<String, String>,
}

/// How often a slot is tried, on boards whose start script counts that on the disk: [`Slots`].
pub const SLOTS: &str = "/usr/lib/dpukit/slots.toml";

/// What the card has to know of its slots, where U-Boot does not count for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Slots {
    /// How often a slot is tried that nobody has called good; one digit.
    pub attempts: u8,
}

/// The whole plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "RawPlan")]
pub struct Plan {
    /// Whether swap is turned off; Kubernetes asks for it.
    pub swap: Swap,
    /// How the card's host name is made.
    pub hostname: Hostname,
    /// The huge pages to reserve, and where to mount them.
    pub huge_pages: HugePages,
    /// PFs whose VFs are to be made.
    pub sriov: Vec<Sriov>,
    /// Devices whose network interfaces are brought up.
    pub interfaces: Vec<Interface>,
    /// Devices to bind to `vfio-pci`.
    pub vfio: Vec<Vfio>,
    /// The crypto engine, where the card has one.
    pub cpt: Option<Sriov>,
    /// The interface to the host, where the agent answers.
    pub link: Link,
    /// The agent itself.
    pub agent: Agent,
    /// The program that answers the firmware; a card without it needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub octep: Option<Octep>,
    /// How pods are connected; a card without it has no pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<Pods>,
}

/// `swap = "off"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Swap {
    /// All swap is turned off.
    #[default]
    Off,
    /// Swap is left as it is.
    Keep,
}

/// `hostname = { suffix = "-dpu" }`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Hostname {
    /// What is put behind the host's name: the card in `node1` is `node1-dpu`.
    pub suffix: HostSuffix,
}

/// `huge-pages = { total = "256MiB", sizes = ["32MiB", "512MiB", "1GiB"], mount = "/dev/huge" }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HugePages {
    /// How much memory to reserve in all; rounded up to whole pages.
    pub total: Size,
    /// Page sizes that serve, the best first. Which of them a kernel offers depends on its base
    /// page size.
    pub sizes: Vec<Size>,
    /// Where the pages are mounted as `hugetlbfs`: an absolute path.
    pub mount: PathBuf,
}

/// `[[sriov]]` or `[cpt]`: a PF whose VFs are made through `sriov_numvfs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Sriov {
    /// The PF's id. Every device of that id gets its VFs.
    pub id: PciId,
    /// How many VFs each PF gets.
    pub vfs: NonZeroU16,
    /// For CPT: how many of the engine's local functions the kernel keeps for itself; written
    /// before the VFs are made. The driver's own default is one for each CPU, which on 24 cores
    /// leaves none of the 64 after two VFs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvf_limits: Option<NonZeroU16>,
    /// Whether the board has the device. One that it lacks is reported as absent, not as failed.
    #[serde(default = "yes")]
    pub expected: bool,
}

/// `[[interfaces]]`: devices whose network interfaces are brought up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Interface {
    /// The id of the devices.
    pub id: PciId,
    /// See [`Sriov::expected`].
    #[serde(default = "yes")]
    pub expected: bool,
}

/// `[[vfio]]`: devices that are given to a program through `vfio-pci`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Vfio {
    /// What the device is called in reports: `dpi`.
    pub name: String,
    /// The id of the devices.
    pub id: PciId,
    /// How many of the devices, in the order of their addresses; all of them when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<NonZeroU16>,
    /// How many devices to leave to others before the first that is taken.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skip: u16,
    /// See [`Sriov::expected`].
    #[serde(default = "yes")]
    pub expected: bool,
}

/// `[link]`: the interface that leads to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Link {
    /// The id of the VFs.
    pub id: PciId,
    /// Which of them, in the order of their addresses; VF 0 is wired to the host's PF.
    #[serde(default)]
    pub index: u16,
    /// The card's address on the link.
    pub address: InterfaceAddress,
    /// The interface's group, by which the firewall knows the link (`iifgroup`). The image's
    /// `/etc/nftables.conf` is written for [`Link::GROUP`].
    #[serde(default = "link_group")]
    pub group: NonZeroU32,
}

/// `[octep]`: how `octep_cp_agent` is run, which answers the firmware for the card's end of SDP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Octep {
    /// The program: an absolute path.
    pub program: PathBuf,
    /// Its configuration: an absolute path.
    pub config: PathBuf,
    /// Devices that it can be given, by the names that [`Start`] uses. Only those that it names are bound to
    /// `vfio-pci`.
    #[serde(default)]
    pub devices: Vec<Vfio>,
    /// How it is given its devices, which depends on the firmware's version. A board's file leaves it out: the
    /// builder writes what `image/rules.toml` says of the board's firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// What a line of its output holds when it is ready.
    #[serde(default = "octep_ready")]
    pub ready: String,
}

/// `agent = { port = 8000, insecure = false, metrics = "127.0.0.1:8001" }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Agent {
    /// The TCP port that the agent answers on, at the link's address. The image's
    /// `/etc/nftables.conf` is written for [`Agent::PORT`].
    pub port: NonZeroU16,
    /// Whether it answers in plain text, everybody on the link, instead of paired hosts over TLS: for a host
    /// whose plugin knows no TLS.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// Where the metrics for Prometheus are answered, in plain HTTP. For another address than the loopback's,
    /// the board's firewall has to be opened as well.
    pub metrics: SocketAddr,
}

impl Link {
    /// The group when none is named.
    pub const GROUP: NonZeroU32 = NonZeroU32::new(77).expect("77 is not zero");
}

impl Agent {
    /// The port when none is named; the existing peers on the host use it.
    pub const PORT: NonZeroU16 = NonZeroU16::new(8000).expect("8000 is not zero");

    /// Where metrics are when nothing is said.
    pub const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8001);
}

impl Default for Agent {
    fn default() -> Self {
        Self { port: Self::PORT, insecure: false, metrics: Self::METRICS }
    }
}

/// A plan whose parts have been read, but not compared with each other.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawPlan {
    #[serde(default)]
    swap: Swap,
    #[serde(default)]
    hostname: Hostname,
    huge_pages: HugePages,
    #[serde(default)]
    sriov: Vec<Sriov>,
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    vfio: Vec<Vfio>,
    cpt: Option<Sriov>,
    link: Link,
    #[serde(default)]
    agent: Agent,
    octep: Option<Octep>,
    pods: Option<Pods>,
}

impl TryFrom<RawPlan> for Plan {
    type Error = String;

    fn try_from(raw: RawPlan) -> Result<Self, String> {
        let RawPlan { swap, hostname, huge_pages, sriov, interfaces, vfio, cpt, link, agent, octep, pods } =
            raw;
        Self { swap, hostname, huge_pages, sriov, interfaces, vfio, cpt, link, agent, octep, pods }.checked()
    }
}

impl Plan {
    /// The plan, if its parts go together.
    ///
    /// # Errors
    /// What they get wrong together.
    pub fn checked(self) -> Result<Self, String> {
        match self.contradictions() {
            problems if problems.is_empty() => Ok(self),
            problems => Err(problems.join("; ")),
        }
    }

    /// All devices that are bound to `vfio-pci`: those of `vfio`, and those that `octep_cp_agent` is given.
    pub fn bound(&self) -> impl Iterator<Item = &Vfio> {
        self.vfio.iter().chain(self.octep.iter().flat_map(Octep::given))
    }

    /// What the parts, each right by itself, get wrong together.
    fn contradictions(&self) -> Vec<String> {
        let mut problems = self.huge_pages.problems();
        let pfs: Vec<_> = self.sriov.iter().chain(&self.cpt).map(|pf| pf.id).collect();
        problems.extend(repeated(&pfs).map(|id| format!("`sriov` and `cpt` name the PF `{id}` twice")));
        let ids: Vec<_> = self.interfaces.iter().map(|interface| interface.id).collect();
        problems.extend(repeated(&ids).map(|id| format!("`interfaces` names `{id}` twice")));
        let ids: Vec<_> = self.bound().map(|vfio| vfio.id).collect();
        problems.extend(repeated(&ids).map(|id| format!("`{id}` is to be on `vfio-pci` twice")));
        problems.extend(self.bound().filter_map(|vfio| self.taken(vfio)));
        problems.extend(self.octep.iter().flat_map(Octep::problems));
        problems
    }

    /// Why a device cannot be given to `vfio-pci`, if something else in the plan needs it.
    fn taken(&self, vfio: &Vfio) -> Option<String> {
        let name = &vfio.name;
        if vfio.id == self.link.id && vfio.skip <= self.link.index {
            let skip = self.link.index + 1;
            return Some(format!(
                "`vfio` device `{name}` would take the link to the host: write `skip = {skip}` or more"
            ));
        }
        let pf = self.sriov.iter().chain(&self.cpt).find(|pf| pf.id == vfio.id)?;
        Some(format!("`vfio` device `{name}` is the PF `{}`, whose driver has to make VFs", pf.id))
    }
}

impl HugePages {
    /// Pages of `size` that give the total, rounded up.
    pub fn pages_of(&self, size: Size) -> u64 {
        self.total.bytes().div_ceil(size.bytes())
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.sizes.is_empty() {
            problems.push("`huge-pages.sizes` is empty: name at least one page size".to_owned());
        }
        for size in self.sizes.iter().filter(|size| !size.bytes().is_power_of_two()) {
            problems.push(format!("`huge-pages.sizes` has `{size}`, which is no power of two"));
        }
        problems.extend(repeated(&self.sizes).map(|size| format!("`huge-pages.sizes` has `{size}` twice")));
        if !self.mount.is_absolute() {
            problems.push(format!("`huge-pages.mount` is `{}`, not an absolute path", self.mount.display()));
        }
        problems
    }
}

impl Octep {
    /// The devices that it is given.
    fn given(&self) -> impl Iterator<Item = &Vfio> {
        let names: Vec<_> = self.start.iter().flat_map(Start::devices).collect();
        self.devices.iter().filter(move |device| names.contains(&device.name.as_str()))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (key, path) in [("program", &self.program), ("config", &self.config)] {
            if !path.is_absolute() {
                problems.push(format!("`octep.{key}` is `{}`, not an absolute path", path.display()));
            }
        }
        let names: Vec<_> = self.devices.iter().map(|device| device.name.as_str()).collect();
        problems.extend(repeated(&names).map(|name| format!("`octep.devices` names `{name}` twice")));
        problems.extend(self.start.iter().flat_map(|start| start.problems(&names)));
        if self.ready.is_empty() {
            problems.push("`octep.ready` is empty: every line would hold it".to_owned());
        }
        problems
    }
}

/// The values that come up again.
fn repeated<T: Ord + Copy>(values: &[T]) -> impl Iterator<Item = T> {
    let mut seen = BTreeSet::new();
    values.iter().copied().filter(move |value| !seen.insert(*value))
}

fn yes() -> bool {
    true
}

fn octep_ready() -> String {
    "fw ready 1".to_owned()
}

fn link_group() -> NonZeroU32 {
    Link::GROUP
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIRT: &str = include_str!("../examples/virt.toml");
    const CN106: &str = include_str!("../examples/cn106.toml");

    fn error_of(text: &str) -> String {
        text.parse::<Plan>().expect_err("the plan was taken").to_string()
    }

    #[test]
    fn the_examples_are_plans_and_survive_being_written() {
        for text in [VIRT, CN106] {
            let plan: Plan = text.parse().unwrap();
            let written = toml::to_string(&plan).unwrap();
            assert_eq!(written.parse::<Plan>().unwrap(), plan, "{written}");
        }
    }

    #[test]
    fn an_example_holds_what_it_says() {
        let plan: Plan = CN106.parse().unwrap();
        assert_eq!(plan.huge_pages.total.bytes(), 256 << 20);
        let pages: Vec<_> =
            plan.huge_pages.sizes.iter().map(|size| plan.huge_pages.pages_of(*size)).collect();
        assert_eq!(pages, [8, 1, 1]);
        assert_eq!(plan.link.id.to_string(), "177d:a0f7");
        assert_eq!(plan.link.group, Link::GROUP);
        assert_eq!((plan.agent.port, plan.agent.insecure), (Agent::PORT, false));
        assert_eq!(plan.swap, Swap::Off);
        assert_eq!(plan.cpt.unwrap().kvf_limits, NonZeroU16::new(1));
        assert_eq!(plan.agent.metrics, Agent::METRICS);
        assert!(matches!(plan.pods.unwrap().network, Network::Delegate(_)));
        let plan: Plan = VIRT.parse().unwrap();
        assert!(matches!(plan.pods.unwrap().network, Network::Routed(_)));
    }

    #[test]
    fn a_card_need_not_have_pods() {
        let (text, _) = VIRT.split_once("\n# Pods").unwrap();
        assert_eq!(text.parse::<Plan>().unwrap().pods, None);
    }

    #[test]
    fn an_unknown_key_is_refused_and_named() {
        let error = error_of(&VIRT.replace("total =", "totel ="));
        assert!(error.contains("totel") && error.contains("total"), "{error}");
        let error = error_of(&format!("swop = \"off\"\n{VIRT}"));
        assert!(error.contains("swop"), "{error}");
    }

    #[test]
    fn wrong_values_are_refused_where_they_stand() {
        for (right, wrong, says) in [
            ("\"256MiB\"", "\"256MB\"", "`256MB` is not a size"),
            ("\"8086:10c9\"", "\"8086-10c9\"", "`8086-10c9` is not a PCI id"),
            ("\"192.168.1.1/24\"", "\"192.168.1.1\"", "`192.168.1.1` is not an interface address"),
            ("vfs = 7", "vfs = 0", "nonzero"),
            ("\"-dpu\"", "\"_dpu\"", "`_dpu` cannot end a host name"),
        ] {
            assert!(VIRT.contains(right), "{right}");
            let error = error_of(&VIRT.replacen(right, wrong, 1));
            assert!(error.contains(says) && error.contains("line "), "{error}");
        }
    }

    #[test]
    fn parts_that_contradict_each_other_are_all_named() {
        let text = VIRT
            .replace("[\"32MiB\", \"512MiB\", \"1GiB\"]", "[\"32MiB\", \"3MiB\", \"32MiB\"]")
            .replace("\"/dev/huge\"", "\"dev/huge\"")
            + "\n[[vfio]]\nname = \"vf\"\nid = \"8086:10ca\"\n[[vfio]]\nname = \"pf\"\nid = \"8086:10c9\"\n";
        let error = error_of(&text);
        for says in [
            "`3MiB`, which is no power of two",
            "has `32MiB` twice",
            "`dev/huge`, not an absolute path",
            "`vf` would take the link to the host: write `skip = 1` or more",
            "`pf` is the PF `8086:10c9`",
        ] {
            assert!(error.contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn a_device_behind_the_link_can_go_to_vfio() {
        let text = format!("{VIRT}\n[[vfio]]\nname = \"vf\"\nid = \"8086:10ca\"\nskip = 1\ncount = 2\n");
        assert!(text.parse::<Plan>().is_ok());
    }

    #[test]
    fn one_id_named_twice_is_refused() {
        let again = "\n[[interfaces]]\nid = \"8086:10ca\"\n";
        assert!(error_of(&format!("{VIRT}{again}")).contains("`interfaces` names `8086:10ca` twice"));
        let again = "\n[[sriov]]\nid = \"177d:a0f2\"\nvfs = 1\n";
        assert!(error_of(&format!("{CN106}{again}")).contains("name the PF `177d:a0f2` twice"));
    }

    #[test]
    fn what_octep_is_given_has_to_be_there() {
        let text = CN106
            .replace("--pem_dev {pem}", "--pem_dev {pen} --more={dpi}")
            .replace("name = \"sdp-rvu-pf\"", "name = \"dpi\"")
            .replace("\"/usr/bin/octep_cp_agent\"", "\"octep_cp_agent\"\nready = \"\"");
        let error = error_of(&text);
        for says in [
            "`octep_cp_agent` is to be given the device `pen`, which `octep.devices` does not name",
            "`--more={dpi}` of `octep.start` is no word of its own: write `{NAME}` by itself",
            "`octep.devices` names `dpi` twice",
            "`octep.program` is `octep_cp_agent`, not an absolute path",
            "`octep.ready` is empty",
        ] {
            assert!(error.contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn what_octep_is_not_given_stays_with_the_kernel() {
        let names = |text: &str| -> Vec<_> {
            let plan: Plan = text.parse().unwrap();
            plan.bound().map(|device| device.name.clone()).collect()
        };
        assert_eq!(names(CN106), ["dpi", "pem"]);
        let newer = CN106.replace("--dpi_dev {dpi}", "--sdp_rvu_pf {sdp-rvu-pf}");
        assert_eq!(names(&newer), ["pem", "sdp-rvu-pf"]);
        let older = CN106
            .replace("arguments = \"--dpi_dev {dpi} --pem_dev {pem}\"", "module = \"pcie_marvell_cnxk_ep\"");
        assert_eq!(names(&older), [""; 0]);
    }

    #[test]
    fn without_page_sizes_there_is_no_plan() {
        let error = error_of(&VIRT.replace("[\"32MiB\", \"512MiB\", \"1GiB\"]", "[]"));
        assert!(error.contains("name at least one page size"), "{error}");
    }
}
