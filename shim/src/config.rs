//! The plugin's configuration: one plugin's part of a network list, as the runtime gives it on
//! standard input.
//!
//! ```json
//! {
//!   "cniVersion": "1.1.0",
//!   "name": "offload",
//!   "type": "offload-cni",
//!   "agent": "192.168.1.1:8000",
//!   "tls": {
//!     "ca": "/etc/dpukit/tls/ca.pem",
//!     "certificate": "/etc/dpukit/tls/host.pem",
//!     "key": "/etc/dpukit/tls/host.key"
//!   },
//!   "vf": "177d:b903",
//!   "mtu": 1450,
//!   "logLevel": "info",
//!   "deadlineSeconds": 5
//! }
//! ```
//!
//! | key | default | meaning |
//! | --- | --- | --- |
//! | `agent` | `192.168.1.1:8000` | where the agent on the card answers; an IP address with its port |
//! | `tls` | none | PEM files; `name` is the name in the agent's certificate where it is not the IP address |
//! | `insecure` | `false` | `true` talks to the agent in plain text, for cards that know no TLS |
//! | `vf` | `177d:b903` | vendor and device of the VFs that pods get |
//! | `mtu` | `1450` | the largest packet on the pod's routes, in octets; the card may ask for less |
//! | `hostIPAM` | `true` where `ipam` is given | whether addresses are made here, by the plugin in `ipam.type` |
//! | `ipam` | none | the section of that plugin |
//! | `deviceID`, `pciBusID`, `runtimeConfig.deviceID` | none | the PCI address of the VF, where a device plugin chose it |
//! | `logLevel` | `info` | `error`, `warn`, `info`, `debug` or `trace` |
//! | `deadlineSeconds` | `5` | how long a call may take in all, from 0.5 to 60 |
//!
//! Keys that are not known are left alone, as CNI wants it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use tracing::Level;

use crate::cni::{Attachment, Code, Outcome, Version};
use crate::vf::PciId;

/// How long a call may take where nothing else is said.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// A configuration that makes sense.
#[derive(Debug, Clone)]
pub struct Config {
    /// The version of CNI that is spoken.
    pub version: Version,
    /// The network's name.
    pub network: String,
    /// The agent on the card.
    pub agent: Peer,
    /// Which devices are VFs for pods.
    pub vf: PciId,
    /// The VF that a device plugin chose, by its PCI address.
    pub device: Option<String>,
    /// The largest packet on the pod's routes, in octets.
    pub mtu: u32,
    /// The plugin that makes addresses on the host; none where the card makes them.
    pub ipam: Option<String>,
    /// From which weight on things are logged.
    pub log: Level,
    /// How long a call may take in all.
    pub deadline: Duration,
    /// All of it, as it came.
    pub json: Map<String, Value>,
}

/// An agent, and why it may be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it answers.
    pub address: SocketAddr,
    /// How the two know each other; none where they talk in plain text.
    pub tls: Option<Tls>,
}

/// The files of mutual TLS, all PEM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Who signs the agent's certificate.
    pub ca: PathBuf,
    /// The host's certificate.
    pub certificate: PathBuf,
    /// The host's private key.
    pub key: PathBuf,
    /// The name in the agent's certificate; its IP address where nothing is said.
    pub name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    cni_version: Option<String>,
    name: Option<String>,
    agent: Option<String>,
    tls: Option<Tls>,
    #[serde(default)]
    insecure: bool,
    vf: Option<String>,
    mtu: Option<u32>,
    #[serde(rename = "hostIPAM")]
    host_ipam: Option<bool>,
    ipam: Option<RawIpam>,
    #[serde(rename = "deviceID")]
    device: Option<String>,
    #[serde(rename = "pciBusID")]
    bus: Option<String>,
    runtime_config: Option<RawRuntime>,
    log_level: Option<String>,
    deadline_seconds: Option<f64>,
}

#[derive(Deserialize)]
struct RawIpam {
    #[serde(rename = "type")]
    plugin: Option<String>,
}

#[derive(Deserialize)]
struct RawRuntime {
    #[serde(rename = "deviceID")]
    device: Option<String>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`Code::DECODE`] where it is no JSON object of the right types, [`Code::VERSION`] where its
    /// version is none of ours, [`Code::CONFIGURATION`] where a value makes no sense.
    pub fn parse(text: &str) -> Result<Self> {
        let json = serde_json::from_str(text).context("reading standard input").context(Code::DECODE)?;
        Self::of_json(json)
    }

    /// As [`Config::parse`], of JSON that was read before.
    pub fn of_json(json: Map<String, Value>) -> Result<Self> {
        let raw = Raw::deserialize(&json).context("reading the configuration").context(Code::DECODE)?;
        // Before CNI 0.3 the version could be left out.
        let version = Version::parse(raw.cni_version.as_deref().unwrap_or("0.2.0"))?;
        Self::checked(version, raw, json).context(Code::CONFIGURATION)
    }

    fn checked(version: Version, raw: Raw, json: Map<String, Value>) -> Result<Self> {
        Ok(Self {
            version,
            network: raw.name.filter(|name| !name.is_empty()).context("`name` is missing")?,
            agent: peer(raw.agent.as_deref(), raw.tls, raw.insecure)?,
            vf: raw.vf.as_deref().unwrap_or("177d:b903").parse().map_err(wrong("vf"))?,
            device: raw
                .runtime_config
                .and_then(|runtime| runtime.device)
                .or(raw.device)
                .or(raw.bus)
                .filter(|device| !device.is_empty()),
            mtu: mtu(raw.mtu)?,
            ipam: ipam(raw.host_ipam, raw.ipam)?,
            log: raw.log_level.as_deref().map_or(Ok(Level::INFO), level)?,
            deadline: raw.deadline_seconds.map_or(Ok(DEADLINE), deadline)?,
            json,
        })
    }

    /// The result of the call before, which CHECK compares with.
    ///
    /// # Errors
    /// [`Code::CONFIGURATION`] where there is none, [`Code::DECODE`] where it cannot be read.
    pub fn previous(&self) -> Result<Outcome> {
        let Some(previous) = self.json.get("prevResult") else {
            return Err(Code::CONFIGURATION.because("`prevResult` is missing, and CHECK compares with it"));
        };
        Outcome::deserialize(previous).context("reading `prevResult`").context(Code::DECODE)
    }

    /// The attachments that GC is to leave.
    ///
    /// # Errors
    /// [`Code::CONFIGURATION`] where there is no list, [`Code::DECODE`] where it cannot be read.
    pub fn valid(&self) -> Result<Vec<Attachment>> {
        // The second is how libcni first wrote it.
        let keys = ["cni.dev/valid-attachments", "cni.dev/attachments"];
        let Some((key, list)) = keys.iter().find_map(|key| Some((key, self.json.get(*key)?))) else {
            return Err(Code::CONFIGURATION.because(format_args!("`{}` is missing", keys[0])));
        };
        // Go writes an empty list as `null`.
        let list = Option::<Vec<Attachment>>::deserialize(list);
        Ok(list.with_context(|| format!("reading `{key}`")).context(Code::DECODE)?.unwrap_or_default())
    }

    /// What is needed to undo an ADD later, without what belongs to this one call.
    pub fn to_keep(&self) -> Map<String, Value> {
        let passing = ["prevResult", "cni.dev/valid-attachments", "cni.dev/attachments"];
        self.json
            .iter()
            .filter(|(key, _)| !passing.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

/// The version that a configuration asks for, as far as it can be told from one that may be broken.
pub fn version_of(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Versioned {
        #[serde(rename = "cniVersion")]
        version: Option<String>,
    }
    serde_json::from_str::<Versioned>(text).ok()?.version
}

fn wrong(key: &'static str) -> impl Fn(String) -> anyhow::Error {
    move |reason| anyhow::anyhow!("`{key}`: {reason}")
}

fn peer(agent: Option<&str>, tls: Option<Tls>, insecure: bool) -> Result<Peer> {
    let agent = agent.unwrap_or("192.168.1.1:8000");
    let address = agent.parse().with_context(|| {
        format!(
            "`agent` is `{}`, it should be an IP address and a port, like `192.168.1.1:8000`",
            agent.escape_debug()
        )
    })?;
    match (&tls, insecure) {
        (None, false) => anyhow::bail!(
            "there is no `tls`: name the files `ca`, `certificate` and `key` there, which pairing with the card makes, or set `insecure` to `true` for a card that knows no TLS"
        ),
        (Some(_), true) => anyhow::bail!("`tls` and `insecure` contradict each other: remove one of them"),
        _ => {}
    }
    if let Some(tls) = &tls {
        let files = [("ca", &tls.ca), ("certificate", &tls.certificate), ("key", &tls.key)];
        for (key, path) in files {
            anyhow::ensure!(
                path.is_absolute(),
                "`tls.{key}` is `{}`, it should be an absolute path",
                path.display()
            );
        }
    }
    Ok(Peer { address, tls })
}

fn mtu(mtu: Option<u32>) -> Result<u32> {
    // The least that IPv6 works with (RFC 8200), and the most that an IP header can say.
    let allowed = 1280..=65_535;
    let mtu = mtu.unwrap_or(1450);
    anyhow::ensure!(
        allowed.contains(&mtu),
        "`mtu` is {mtu}, it should be from {} to {}",
        allowed.start(),
        allowed.end()
    );
    Ok(mtu)
}

fn ipam(wanted: Option<bool>, ipam: Option<RawIpam>) -> Result<Option<String>> {
    if wanted == Some(false) {
        return Ok(None);
    }
    let plugin = ipam.and_then(|ipam| ipam.plugin).filter(|plugin| !plugin.is_empty());
    if wanted == Some(true) && plugin.is_none() {
        anyhow::bail!("`hostIPAM` is `true`, and `ipam.type` names no plugin");
    }
    if let Some(plugin) = &plugin {
        anyhow::ensure!(
            !plugin.contains(['/', '\0']) && plugin != "." && plugin != "..",
            "`ipam.type` is `{}`, it should be a plugin's name",
            plugin.escape_debug()
        );
    }
    Ok(plugin)
}

fn level(text: &str) -> Result<Level> {
    match text {
        "error" => Ok(Level::ERROR),
        "warn" | "warning" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        "trace" => Ok(Level::TRACE),
        _ => anyhow::bail!(
            "`logLevel` is `{}`, known are error, warn, info, debug and trace",
            text.escape_debug()
        ),
    }
}

fn deadline(seconds: f64) -> Result<Duration> {
    anyhow::ensure!(
        (0.5..=60.0).contains(&seconds),
        "`deadlineSeconds` is {seconds}, it should be from 0.5 to 60"
    );
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn config(change: &Value) -> Result<Config> {
        let mut json = json!({"cniVersion": "1.1.0", "name": "n", "type": "offload-cni", "insecure": true});
        for (key, value) in change.as_object().unwrap() {
            json[key] = value.clone();
        }
        Config::parse(&json.to_string())
    }

    fn error(change: &Value) -> String {
        format!("{:#}", config(change).unwrap_err())
    }

    /// The example in the page above.
    fn example() -> String {
        let lines = include_str!("config.rs").lines().map(|line| line.trim_start_matches("//! "));
        let inside = lines.skip_while(|line| *line != "```json").skip(1).take_while(|line| *line != "```");
        inside.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_says_what_is_the_default() {
        let config = Config::parse(&example()).unwrap();
        let short = json!({"cniVersion": "1.1.0", "name": "offload", "tls": config.json["tls"]});
        let default = Config::parse(&short.to_string()).unwrap();
        assert_eq!(config.agent, default.agent);
        assert_eq!((config.vf, config.mtu, config.log), (default.vf, default.mtu, default.log));
        assert_eq!((config.deadline, config.ipam, config.device), (default.deadline, None, None));
    }

    #[test]
    fn plain_text_is_only_for_those_who_ask_for_it() {
        insta::assert_snapshot!(error(&json!({"insecure": false})), @r#"invalid configuration: there is no `tls`: name the files `ca`, `certificate` and `key` there, which pairing with the card makes, or set `insecure` to `true` for a card that knows no TLS"#);
        let tls = json!({"ca": "/a", "certificate": "/b", "key": "/c"});
        insta::assert_snapshot!(error(&json!({"tls": tls})), @r#"invalid configuration: `tls` and `insecure` contradict each other: remove one of them"#);
        let tls = json!({"ca": "a", "certificate": "/b", "key": "/c"});
        insta::assert_snapshot!(error(&json!({"tls": tls, "insecure": false})), @r#"invalid configuration: `tls.ca` is `a`, it should be an absolute path"#);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = [
            json!({"name": ""}),
            json!({"agent": "card:8000"}),
            json!({"vf": "177d"}),
            json!({"mtu": 100}),
            json!({"hostIPAM": true}),
            json!({"ipam": {"type": "../sh"}}),
            json!({"logLevel": "loud"}),
            json!({"deadlineSeconds": 0}),
            json!({"mtu": "many"}),
            json!({"cniVersion": "0.2.0"}),
        ];
        insta::assert_snapshot!(wrong.iter().map(error).collect::<Vec<_>>().join("\n"), @r#"
        invalid configuration: `name` is missing
        invalid configuration: `agent` is `card:8000`, it should be an IP address and a port, like `192.168.1.1:8000`: invalid socket address syntax
        invalid configuration: `vf`: `177d` is no vendor and device, like `177d:b903`
        invalid configuration: `mtu` is 100, it should be from 1280 to 65535
        invalid configuration: `hostIPAM` is `true`, and `ipam.type` names no plugin
        invalid configuration: `ipam.type` is `../sh`, it should be a plugin's name
        invalid configuration: `logLevel` is `loud`, known are error, warn, info, debug and trace
        invalid configuration: `deadlineSeconds` is 0, it should be from 0.5 to 60
        cannot decode: reading the configuration: invalid type: string "many", expected u32
        incompatible CNI version: `cniVersion` is `0.2.0`, known are 0.3.1, 0.4.0, 1.0.0, 1.1.0
        "#);
    }

    #[test]
    fn a_device_plugin_is_heard_in_all_three_places() {
        for key in
            [json!({"deviceID": "d"}), json!({"pciBusID": "d"}), json!({"runtimeConfig": {"deviceID": "d"}})]
        {
            assert_eq!(config(&key).unwrap().device.as_deref(), Some("d"), "{key}");
        }
    }

    #[test]
    fn addresses_are_made_here_where_ipam_is_given_and_not_switched_off() {
        let ipam = json!({"type": "host-local"});
        assert_eq!(config(&json!({"ipam": ipam})).unwrap().ipam.as_deref(), Some("host-local"));
        assert_eq!(config(&json!({"ipam": ipam, "hostIPAM": false})).unwrap().ipam, None);
        assert_eq!(config(&json!({"ipam": {}})).unwrap().ipam, None);
    }

    #[test]
    fn valid_attachments_come_under_either_key_and_a_missing_list_is_no_empty_one() {
        let list = json!([{"containerID": "c", "ifname": "eth0"}]);
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let valid = config(&json!({key: list})).unwrap().valid().unwrap();
            assert_eq!(valid[0].to_string(), "c:eth0");
            assert!(config(&json!({key: null})).unwrap().valid().unwrap().is_empty());
        }
        assert!(config(&json!({})).unwrap().valid().is_err());
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(text: String) {
            let _ = Config::parse(&text);
            let _ = version_of(&text);
        }

        #[test]
        fn no_values_make_it_panic(values in prop::collection::vec(value(), 12)) {
            let keys = ["agent", "tls", "insecure", "vf", "mtu", "hostIPAM", "ipam", "runtimeConfig",
                "deadlineSeconds", "prevResult", "cni.dev/valid-attachments", "logLevel"];
            let change: Map<_, _> = keys.iter().map(ToString::to_string).zip(values).collect();
            if let Ok(config) = config(&Value::Object(change)) {
                let _ = config.previous();
                let _ = config.valid();
            }
        }
    }

    /// Values that are near to what is wanted, and others.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<u32>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            "[0-9a-f]{4}:[0-9a-f]{4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            let keys =
                prop_oneof!["type|ca|certificate|key|ips|address|interfaces|mac|containerID", ".{0,4}"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((keys, inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }
}
