//! `/etc/dpukit/host.toml`: what `dpu-host` is to do.
//!
//! A key that is left out has its default; one that is not known is refused. The file of the package names
//! every key with its meaning and its default:
//!
//! ```toml
#![doc = include_str!("../../deb/root/etc/dpukit/host.toml")]
//! ```

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::address::Cidr;
use crate::config::Config as Plugin;
use crate::files::Files;
use crate::vf::PciId;

/// The plugin's name, which is its file's.
pub const PLUGIN: &str = "offload-cni";

/// Where the configuration is.
pub const PATH: &str = "/etc/dpukit/host.toml";

/// What is to be done with the CNI configurations of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Others {
    /// Those that a runtime would take before ours are moved aside.
    Before,
    /// All are moved aside.
    All,
    /// None is touched.
    None,
}

/// What becomes of our CNI configuration while the card is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhileDown {
    /// It is taken away, so that the node is not ready.
    TakeAway,
    /// It stays, and each ADD fails with the reason.
    Keep,
}

/// A configuration that makes sense.
#[derive(Debug, Clone)]
pub struct Config {
    /// The PFs that the card shows the host.
    pub pf: PciId,
    /// Their VFs, which pods get.
    pub vf: PciId,
    /// The kernel's driver of the PFs.
    pub pf_driver: String,
    /// The kernel's driver of the VFs.
    pub vf_driver: String,
    /// How long the card's firmware may take to start.
    pub firmware: Duration,
    /// The host's address on the link to the card.
    pub address: Cidr,
    /// The PF that is the link, counted from 0 in the order of PCI addresses.
    pub link: usize,
    /// How many VFs each PF is to have, where it can have so many.
    pub vfs: u32,
    /// How often the card is looked at.
    pub every: Duration,
    /// After how many looks in a row that found the card down it is down.
    pub down_after: u32,
    /// After how many looks in a row that found the card up it is up again.
    pub up_after: u32,
    /// What becomes of our CNI configuration meanwhile.
    pub while_down: WhileDown,
    /// The folder of CNI configurations.
    pub folder: PathBuf,
    /// The name of ours in it.
    pub file: String,
    /// What is to be done with those of others.
    pub others: Others,
    /// Folders in which runtimes look for plugins.
    pub plugins: Vec<PathBuf>,
    /// The network list that the runtime gets.
    pub list: Value,
    /// Our plugin's part of it.
    pub plugin: Plugin,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Raw {
    card: RawCard,
    tls: RawTls,
    link: RawLink,
    vfs: RawVfs,
    watch: RawWatch,
    cni: RawCni,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawCard {
    agent: String,
    insecure: bool,
    pf: String,
    vf: String,
    pf_driver: String,
    vf_driver: String,
    firmware_seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawTls {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawLink {
    address: String,
    pf: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawVfs {
    count: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawWatch {
    every_seconds: f64,
    down_after: u32,
    up_after: u32,
    while_down: WhileDown,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RawCni {
    folder: PathBuf,
    file: String,
    network: String,
    others: Others,
    plugin_folders: Vec<PathBuf>,
    mtu: u32,
    log_level: String,
    deadline_seconds: f64,
    ipam: Option<Map<String, Value>>,
}

impl Default for RawCard {
    fn default() -> Self {
        Self {
            agent: "192.168.1.1:8000".into(),
            insecure: false,
            pf: "177d:b900".into(),
            vf: "177d:b903".into(),
            pf_driver: "octeon_ep".into(),
            vf_driver: "octeon_ep_vf".into(),
            firmware_seconds: 300,
        }
    }
}

impl Default for RawTls {
    fn default() -> Self {
        Self {
            ca: "/etc/dpukit/tls/ca.pem".into(),
            certificate: "/etc/dpukit/tls/host.pem".into(),
            key: "/etc/dpukit/tls/host.key".into(),
            name: None,
        }
    }
}

impl Default for RawLink {
    fn default() -> Self {
        Self { address: "192.168.1.2/24".into(), pf: 0 }
    }
}

impl Default for RawVfs {
    fn default() -> Self {
        Self { count: 8 }
    }
}

impl Default for RawWatch {
    fn default() -> Self {
        Self { every_seconds: 5.0, down_after: 3, up_after: 2, while_down: WhileDown::TakeAway }
    }
}

impl Default for RawCni {
    fn default() -> Self {
        Self {
            folder: "/etc/cni/net.d".into(),
            file: "20-offload-cni.conflist".into(),
            network: "offload".into(),
            others: Others::Before,
            plugin_folders: vec!["/opt/cni/bin".into()],
            mtu: 1450,
            log_level: "info".into(),
            deadline_seconds: 5.0,
            ipam: None,
        }
    }
}

impl Config {
    /// Reads the configuration of a host; the defaults where there is no file.
    ///
    /// # Errors
    /// Where it cannot be read or makes no sense: all keys that do not are told, with the line where that
    /// is known.
    pub fn read(files: &Files) -> Result<Self> {
        let text = files.read_if(PATH)?.unwrap_or_default();
        Self::parse(&text).with_context(|| format!("reading `{PATH}`"))
    }

    /// As [`Config::read`], of a text.
    pub fn parse(text: &str) -> Result<Self> {
        let raw: Raw = toml::from_str(text)?;
        let list = list(&raw);
        let mut wrong = Vec::new();
        let mut note = |key: &str, reason: String| wrong.push(format!("`{key}`: {reason}"));
        let pf = raw.card.pf.parse::<PciId>().map_err(|reason| note("card.pf", reason)).ok();
        let vf = raw.card.vf.parse::<PciId>().map_err(|reason| note("card.vf", reason)).ok();
        let address = raw.link.address.parse::<Cidr>().map_err(|reason| note("link.address", reason)).ok();
        for (key, driver) in
            [("card.pf-driver", &raw.card.pf_driver), ("card.vf-driver", &raw.card.vf_driver)]
        {
            if !is_module(driver) {
                note(key, format!("`{}` is no name of a kernel module", driver.escape_debug()));
            }
        }
        for (key, is_good, wanted) in [
            ("card.firmware-seconds", (1..=86_400).contains(&raw.card.firmware_seconds), "from 1 to 86400"),
            ("vfs.count", (1..=4096).contains(&raw.vfs.count), "from 1 to 4096"),
            ("watch.every-seconds", (0.1..=60.0).contains(&raw.watch.every_seconds), "from 0.1 to 60"),
            ("watch.down-after", (1..=1000).contains(&raw.watch.down_after), "from 1 to 1000"),
            ("watch.up-after", (1..=1000).contains(&raw.watch.up_after), "from 1 to 1000"),
            ("cni.file", is_file_name(&raw.cni.file), "a file's name that ends with `.conflist`"),
        ] {
            if !is_good {
                note(key, format!("it should be {wanted}"));
            }
        }
        for (key, path) in std::iter::once(("cni.folder", &raw.cni.folder))
            .chain(raw.cni.plugin_folders.iter().map(|path| ("cni.plugin-folders", path)))
        {
            if !path.is_absolute() {
                note(key, format!("`{}` should be an absolute path", path.display()));
            }
        }
        // The plugin checks its own part: what it would refuse for a pod is refused here.
        let plugin = Plugin::of_json(part(&list)).map_err(|error| note("cni", format!("{error:#}"))).ok();
        let (Some(pf), Some(vf), Some(address), Some(plugin), []) = (pf, vf, address, plugin, &wrong[..])
        else {
            bail!(wrong.join("; "));
        };
        Ok(Self {
            pf,
            vf,
            pf_driver: raw.card.pf_driver,
            vf_driver: raw.card.vf_driver,
            firmware: Duration::from_secs(raw.card.firmware_seconds),
            address,
            link: raw.link.pf,
            vfs: raw.vfs.count,
            every: Duration::from_secs_f64(raw.watch.every_seconds),
            down_after: raw.watch.down_after,
            up_after: raw.watch.up_after,
            while_down: raw.watch.while_down,
            folder: raw.cni.folder,
            file: raw.cni.file,
            others: raw.cni.others,
            plugins: raw.cni.plugin_folders,
            list,
            plugin,
        })
    }
}

/// The network list that the runtime gets. It names the oldest version that all runtimes in use know, and
/// the newer ones in `cniVersions`, which those that know them take from there (CNI 1.1.0).
fn list(raw: &Raw) -> Value {
    let mut plugin = json!({
        "type": PLUGIN,
        "agent": raw.card.agent,
        "vf": raw.card.vf,
        "mtu": raw.cni.mtu,
        "logLevel": raw.cni.log_level,
        "deadlineSeconds": raw.cni.deadline_seconds,
        "capabilities": {"deviceID": true},
    });
    if raw.card.insecure {
        plugin["insecure"] = true.into();
    } else {
        let RawTls { ca, certificate, key, name } = &raw.tls;
        plugin["tls"] = json!({"ca": ca, "certificate": certificate, "key": key});
        if let Some(name) = name {
            plugin["tls"]["name"] = name.clone().into();
        }
    }
    if let Some(ipam) = &raw.cni.ipam {
        plugin["ipam"] = Value::Object(ipam.clone());
    }
    json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": raw.cni.network,
        "plugins": [plugin],
    })
}

/// The first plugin's configuration as a runtime hands it to it.
fn part(list: &Value) -> Map<String, Value> {
    let mut part = list["plugins"][0].as_object().cloned().unwrap_or_default();
    for key in ["cniVersion", "name"] {
        part.insert(key.to_owned(), list[key].clone());
    }
    part
}

fn is_module(name: &str) -> bool {
    let is_known = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'_' || octet == b'-';
    !name.is_empty() && !name.starts_with('-') && name.bytes().all(is_known)
}

fn is_file_name(name: &str) -> bool {
    name.strip_suffix(".conflist").is_some_and(|stem| !stem.is_empty() && !stem.starts_with('.'))
        && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = include_str!("../../deb/root/etc/dpukit/host.toml");

    /// The package's file with every key that is commented out put in force, but those that have no default.
    fn in_force() -> String {
        let lines = EXAMPLE.lines().map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|first: char| first.is_ascii_lowercase()) => key,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn error(text: &str) -> String {
        format!("{:#}", Config::parse(text).unwrap_err())
    }

    #[test]
    fn the_packages_file_says_what_is_the_default() {
        let default = format!("{:?}", Config::parse("").unwrap());
        assert_eq!(format!("{:?}", Config::parse(EXAMPLE).unwrap()), default);
        assert_eq!(format!("{:?}", Config::parse(&in_force()).unwrap()), default);
    }

    #[test]
    fn the_packages_file_names_every_key() {
        let there: toml::Table = in_force().parse().unwrap();
        let keys = there.iter().flat_map(|(section, keys)| {
            keys.as_table().unwrap().keys().map(move |key| format!("{section}.{key}"))
        });
        // `tls.name` and `cni.ipam` have no default, and are named in comments.
        insta::assert_snapshot!(keys.collect::<Vec<_>>().join(" "), @r#"card.agent card.firmware-seconds card.insecure card.pf card.pf-driver card.vf card.vf-driver cni.deadline-seconds cni.file cni.folder cni.log-level cni.mtu cni.network cni.others cni.plugin-folders link.address link.pf tls.ca tls.certificate tls.key vfs.count watch.down-after watch.every-seconds watch.up-after watch.while-down"#);
        assert!(EXAMPLE.contains("# name = ") && EXAMPLE.contains("# [cni.ipam]"));
    }

    #[test]
    fn the_list_is_what_a_runtime_reads() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&Config::parse("").unwrap().list).unwrap(), @r#"
        {
          "cniVersion": "1.0.0",
          "cniVersions": [
            "0.4.0",
            "1.0.0",
            "1.1.0"
          ],
          "name": "offload",
          "plugins": [
            {
              "agent": "192.168.1.1:8000",
              "capabilities": {
                "deviceID": true
              },
              "deadlineSeconds": 5.0,
              "logLevel": "info",
              "mtu": 1450,
              "tls": {
                "ca": "/etc/dpukit/tls/ca.pem",
                "certificate": "/etc/dpukit/tls/host.pem",
                "key": "/etc/dpukit/tls/host.key"
              },
              "type": "offload-cni",
              "vf": "177d:b903"
            }
          ]
        }
        "#);
    }

    #[test]
    fn plain_text_leaves_the_certificates_out() {
        let list = Config::parse("card.insecure = true").unwrap().list;
        assert_eq!(
            (&list["plugins"][0]["insecure"], &list["plugins"][0]["tls"]),
            (&json!(true), &Value::Null)
        );
    }

    #[test]
    fn an_ipam_plugin_on_the_host_is_handed_on() {
        let config =
            Config::parse("[cni.ipam]\ntype = \"host-local\"\nranges = [[{subnet = \"10.1.0.0/24\"}]]");
        let config = config.unwrap();
        assert_eq!(config.plugin.ipam.as_deref(), Some("host-local"));
        assert_eq!(config.list["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.1.0.0/24");
    }

    #[test]
    fn what_is_wrong_is_named_all_at_once() {
        let text =
            "card = {pf = \"177d\", pf-driver = \"-r\"}\nvfs.count = 0\ncni = {mtu = 9, folder = \"net.d\"}";
        insta::assert_snapshot!(error(text), @r#"`card.pf`: `177d` is no vendor and device, like `177d:b903`; `card.pf-driver`: `-r` is no name of a kernel module; `vfs.count`: it should be from 1 to 4096; `cni.folder`: `net.d` should be an absolute path; `cni`: invalid configuration: `mtu` is 9, it should be from 1280 to 65535"#);
        insta::assert_snapshot!(error("[vfs]\nconut = 3"), @r#"
        TOML parse error at line 2, column 1
          |
        2 | conut = 3
          | ^^^^^
        unknown field `conut`, expected `count`
        "#);
        insta::assert_snapshot!(error("[cni]\nothers = \"some\""), @r#"
        TOML parse error at line 2, column 10
          |
        2 | others = "some"
          |          ^^^^^^
        unknown variant `some`, expected one of `before`, `all`, `none`
        "#);
        insta::assert_snapshot!(error("[cni]\nfile = \"../x.conflist\""), @r#"`cni.file`: it should be a file's name that ends with `.conflist`"#);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}") {
            let _ = Config::parse(&text);
        }
    }
}
