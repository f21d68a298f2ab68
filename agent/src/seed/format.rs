//! What a seed says, and the files that come of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr as _;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use dpu_plan::InterfaceAddress;
use dpu_trust::Code;
use serde::{Deserialize, Deserializer};

/// `dpukit-seed.toml`; all of it may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Seed {
    /// The name of the host that the card is in: the card gets it with the board's suffix.
    host: Option<String>,
    /// Public keys that may log in as root, as `authorized_keys` has them.
    ssh_keys: Vec<String>,
    /// The code that a host may pair with, once.
    pairing_code: Option<Secret>,
    /// `[[network]]`
    network: Vec<Network>,
    time: Option<Time>,
    registry: Option<Registry>,
    kubernetes: Option<Kubernetes>,
}

/// A management interface: DHCP, unless addresses are given.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Network {
    /// Its name, with `*` and `?` as systemd.network(5) takes them.
    interface: String,
    #[serde(default)]
    addresses: Vec<Address>,
    #[serde(default)]
    gateways: Vec<IpAddr>,
    #[serde(default)]
    dns: Vec<IpAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Address(InterfaceAddress);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Time {
    servers: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Registry {
    /// A file beside the seed: certificates in PEM of who signs for the mirrors.
    ca_file: Option<PathBuf>,
    /// Registry to the addresses that are asked in its place, in order.
    mirrors: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Kubernetes {
    /// The API server: `10.1.2.10:6443`.
    server: String,
    /// Of the cluster's authority: `sha256:…`, as `kubeadm token create --print-join-command` shows it.
    ca_hashes: Vec<String>,
    /// A file beside the seed with the token of `kubeadm token create`.
    token_file: PathBuf,
}

/// A text that no error and no log may hold.
#[derive(Default)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// A file of the card that comes of a seed.
#[derive(Debug, PartialEq, Eq)]
pub struct Made {
    pub path: String,
    pub text: String,
    pub mode: u32,
}

/// What is beside the seed, by name.
pub type Beside<'a> = dyn Fn(&Path) -> Result<String> + 'a;

impl Seed {
    /// Reads a seed.
    ///
    /// # Errors
    /// Where it is none; the error shows no line of it, which could hold a secret.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            anyhow!("line {line}: {}", error.message())
        })
    }

    /// The files beside it that hold secrets.
    pub fn secrets(&self) -> Vec<&Path> {
        self.kubernetes.iter().map(|kubernetes| kubernetes.token_file.as_path()).collect()
    }

    /// All files that come of it; `now` is what the card has at a path. Everything is looked at before the first is
    /// written.
    ///
    /// # Errors
    /// All that is wrong with it, a line for each.
    pub fn files(&self, beside: &Beside<'_>, now: &dyn Fn(&str) -> Result<String>) -> Result<Vec<Made>> {
        let parts = [
            self.host(),
            self.ssh(now),
            self.pairing(),
            self.network(),
            self.time(),
            self.registry(beside, now),
            self.kubernetes(beside),
        ];
        let (mut made, mut wrong) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Ok(files) => made.extend(files),
                Err(error) => wrong.push(format!("{error:#}")),
            }
        }
        ensure!(wrong.is_empty(), wrong.join("\n"));
        Ok(made)
    }

    fn host(&self) -> Result<Vec<Made>> {
        let Some(host) = &self.host else { return Ok(Vec::new()) };
        let letters = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let ends = host.starts_with('-') || host.ends_with('-');
        ensure!(
            letters && !ends && (1..=48).contains(&host.len()),
            "`host` is `{}`: a host's name has letters, digits and hyphens",
            host.escape_debug()
        );
        Ok(vec![file("/etc/dpukit/host", format!("{host}\n"))])
    }

    fn ssh(&self, now: &dyn Fn(&str) -> Result<String>) -> Result<Vec<Made>> {
        const PATH: &str = "/etc/ssh/authorized_keys.d/root";
        if self.ssh_keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut text = now(PATH)?;
        for (number, key) in self.ssh_keys.iter().enumerate() {
            let is_key = ["ssh-", "ecdsa-", "sk-"].iter().any(|start| key.starts_with(start));
            ensure!(
                is_key && key.split(' ').count() >= 2 && !key.contains(['\n', '\0']),
                "`ssh-keys`: the {}. is no line of a public key, as `ssh-ed25519 AAAA… name`",
                number + 1
            );
            if !text.lines().any(|line| line == key) {
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push('\n');
                }
                text += &format!("{key}\n");
            }
        }
        Ok(vec![file(PATH, text)])
    }

    fn pairing(&self) -> Result<Vec<Made>> {
        let Some(Secret(code)) = &self.pairing_code else { return Ok(Vec::new()) };
        let code = Code::from_str(code).map_err(|_| {
            anyhow!("`pairing-code` is none: it has 8 to 32 characters of ACDEFGHJKMNPQRTVWXY23456789")
        })?;
        let path = "/etc/credstore/dpukit.pairing-code".into();
        Ok(vec![Made { path, text: code.characters().into(), mode: 0o600 }])
    }

    fn network(&self) -> Result<Vec<Made>> {
        let mut made = Vec::new();
        for (number, network) in self.network.iter().enumerate() {
            let Network { interface, addresses, gateways, dns } = network;
            let good = |letter: char| letter.is_ascii_alphanumeric() || "*?-_.".contains(letter);
            ensure!(
                (1..=15).contains(&interface.len()) && interface.chars().all(good),
                "`network`: `{}` is no interface's name",
                interface.escape_debug()
            );
            ensure!(
                gateways.is_empty() || !addresses.is_empty(),
                "`network`: `{interface}` has gateways, and no addresses; without them it gets both by DHCP"
            );
            let mut text = format!("# From the card's seed.\n[Match]\nName={interface}\n\n[Network]\n");
            if addresses.is_empty() {
                text += "DHCP=yes\n";
            }
            for Address(address) in addresses {
                let _ = writeln!(text, "Address={}/{}", address.address(), address.prefix());
            }
            for gateway in gateways {
                let _ = writeln!(text, "Gateway={gateway}");
            }
            for server in dns {
                let _ = writeln!(text, "DNS={server}");
            }
            made.push(file(format!("/etc/systemd/network/10-seed-{number}.network"), text));
        }
        Ok(made)
    }

    fn time(&self) -> Result<Vec<Made>> {
        let Some(Time { servers }) = &self.time else { return Ok(Vec::new()) };
        for server in servers {
            ensure!(is_host(server), "`time.servers`: `{}` is no server's name", server.escape_debug());
        }
        let text = format!("# From the card's seed.\n[Time]\nNTP={}\n", servers.join(" "));
        Ok(vec![file("/etc/systemd/timesyncd.conf.d/10-seed.conf", text)])
    }

    /// containerd's docs/hosts.md.
    fn registry(&self, beside: &Beside<'_>, now: &dyn Fn(&str) -> Result<String>) -> Result<Vec<Made>> {
        const CONFIG: &str = "/etc/containerd/config.toml";
        const FOLDER: &str = "/etc/containerd/certs.d";
        let Some(Registry { ca_file, mirrors }) = &self.registry else { return Ok(Vec::new()) };
        let mut made = Vec::new();
        let ca = match ca_file {
            Some(name) => {
                let text = beside_of(name, beside).context("`registry.ca-file`")?;
                ensure!(
                    text.contains("-----BEGIN CERTIFICATE-----"),
                    "`registry.ca-file`: `{}` has no certificate in PEM",
                    name.display()
                );
                let path = format!("{FOLDER}/seed-ca.pem");
                made.push(file(path.clone(), text));
                Some(path)
            }
            None => None,
        };
        for (registry, addresses) in mirrors {
            ensure!(is_host(registry), "`registry.mirrors`: `{}` is no registry", registry.escape_debug());
            let mut hosts = toml::Table::new();
            for address in addresses {
                let rest = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"));
                ensure!(
                    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains([' ', '"', '\n'])),
                    "`registry.mirrors`: `{}` is no address that begins with `https://`",
                    address.escape_debug()
                );
                let mut host = toml::Table::new();
                host.insert("capabilities".into(), vec!["pull", "resolve"].into());
                host.extend(ca.iter().map(|path| ("ca".to_owned(), path.clone().into())));
                hosts.insert(address.clone(), host.into());
            }
            let table = toml::Table::from_iter([("host".to_owned(), toml::Value::Table(hosts))]);
            made.push(file(format!("{FOLDER}/{registry}/hosts.toml"), toml::to_string(&table)?));
        }
        let mut config: toml::Table =
            toml::from_str(&now(CONFIG)?).with_context(|| format!("reading `{CONFIG}`"))?;
        let mut table = &mut config;
        for key in ["plugins", "io.containerd.grpc.v1.cri", "registry"] {
            let entry = table.entry(key).or_insert_with(|| toml::Table::new().into());
            table = entry.as_table_mut().with_context(|| format!("`{key}` of `{CONFIG}` is no table"))?;
        }
        table.insert("config_path".into(), FOLDER.into());
        config.entry("version").or_insert(toml::Value::Integer(2));
        made.push(file(CONFIG, toml::to_string(&config)?));
        Ok(made)
    }

    /// kubeadm's configuration of a join, as JSON, which is YAML too (kubeadm-config v1beta4).
    fn kubernetes(&self, beside: &Beside<'_>) -> Result<Vec<Made>> {
        let Some(Kubernetes { server, ca_hashes, token_file }) = &self.kubernetes else {
            return Ok(Vec::new());
        };
        let is_server = server.parse::<SocketAddr>().is_ok()
            || server
                .rsplit_once(':')
                .is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok());
        ensure!(is_server, "`kubernetes.server` is `{}`, not as `10.1.2.10:6443`", server.escape_debug());
        ensure!(
            !ca_hashes.is_empty(),
            "`kubernetes.ca-hashes` is empty: the card could not know the cluster from another"
        );
        for hash in ca_hashes {
            let digits = hash.strip_prefix("sha256:").unwrap_or_default();
            ensure!(
                digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()),
                "`kubernetes.ca-hashes`: `{}` is not `sha256:` and 64 digits",
                hash.escape_debug()
            );
        }
        let token = beside_of(token_file, beside).context("`kubernetes.token-file`")?;
        let token = token.trim();
        let good = |part: &str, length| {
            part.len() == length
                && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        ensure!(
            token.split_once('.').is_some_and(|(id, secret)| good(id, 6) && good(secret, 16)),
            "`kubernetes.token-file`: `{}` holds no token of kubeadm's",
            token_file.display()
        );
        let join = serde_json::json!({
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "JoinConfiguration",
            "discovery": { "bootstrapToken": {
                "apiServerEndpoint": server, "token": token, "caCertHashes": ca_hashes,
            } },
        });
        Ok(vec![Made { path: super::JOIN.into(), text: serde_json::to_string(&join)?, mode: 0o600 }])
    }
}

fn file(path: impl Into<String>, text: impl Into<String>) -> Made {
    Made { path: path.into(), text: text.into(), mode: 0o644 }
}

fn is_host(text: &str) -> bool {
    let good = |letter: char| letter.is_ascii_alphanumeric() || "-.:[]_".contains(letter);
    !text.is_empty() && text.len() < 254 && !text.starts_with(['.', '-']) && text.chars().all(good)
}

/// A file beside the seed: a name, and no path that leads elsewhere.
fn beside_of(name: &Path, beside: &Beside<'_>) -> Result<String> {
    let is_name = matches!(name.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    if !is_name {
        bail!("`{}` is not the name of a file beside the seed", name.display());
    }
    beside(name)
}
