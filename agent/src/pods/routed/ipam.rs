//! Addresses, kept by the standard IPAM plugin `host-local`
//! (<https://www.cni.dev/plugins/current/ipam/host-local/>), which is run as CNI has it: what it is to do in its
//! environment, its configuration on its standard input, its answer on its standard output.
//!
//! It keeps a file for each address, named as the address, which holds the container's id and the interface.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use dpu_plan::{Routed, Subnet};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use crate::pods::network::Refusal;
use crate::pods::request::Key;

const PLUGIN: &str = "host-local";
/// How many of it may run at once.
const PLACES: usize = 4;
/// The name of its folder.
const NETWORK: &str = "pods";

/// The IPAM plugin.
pub struct Ipam {
    folders: Vec<PathBuf>,
    subnets: Vec<Subnet>,
    gateways: Vec<IpAddr>,
    data: PathBuf,
    /// It locks its files, so more of it at once would only wait for each other.
    places: Semaphore,
}

/// An address that is taken, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The address.
    pub address: IpAddr,
    /// Whose it is.
    pub key: Key,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    ips: Vec<AnswerAddress>,
}

#[derive(Deserialize)]
struct AnswerAddress {
    address: String,
}

/// An error as a plugin writes it (CNI's specification, "Error").
#[derive(Deserialize)]
struct AnswerError {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

/// `Try again later` (CNI's specification, "Error Codes").
const TRY_AGAIN: u32 = 11;

impl Ipam {
    /// The plugin of a plan, which keeps its files in `data`.
    pub fn new(plan: &Routed, data: PathBuf) -> Self {
        let Routed { plugins, subnets, gateways, .. } = plan.clone();
        Self { folders: plugins, subnets, gateways, data, places: Semaphore::new(PLACES) }
    }

    /// Whether it has addresses to give.
    pub fn has_subnets(&self) -> bool {
        !self.subnets.is_empty()
    }

    /// The plugin's file.
    ///
    /// # Errors
    /// Where it is in none of the folders.
    pub fn program(&self) -> Result<PathBuf> {
        let places = self.folders.iter().map(|folder| folder.join(PLUGIN));
        places.clone().find(|place| place.is_file()).with_context(|| {
            let folders: Vec<_> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
            format!(
                "`{PLUGIN}` is in none of the folders `{}`: it is of CNI's standard plugins",
                folders.join(":")
            )
        })
    }

    /// Takes an address of each subnet.
    pub async fn add(&self, key: &Key, deadline: Instant) -> Result<Vec<IpAddr>, Refusal> {
        match self.take(key, &[], deadline).await {
            // What an ADD that was killed had taken.
            Err(Refusal::Later(error) | Refusal::Never(error)) if is_taken_by_itself(&error) => {
                self.del(key, deadline).await.map_err(Refusal::Later)?;
                self.take(key, &[], deadline).await
            }
            answer => answer,
        }
    }

    /// Takes these addresses, which a pod has though the plugin does not know it.
    pub async fn take_again(&self, key: &Key, addresses: &[IpAddr], deadline: Instant) -> Result<()> {
        self.take(key, addresses, deadline).await.map(drop).map_err(|refusal| match refusal {
            Refusal::Later(error) | Refusal::Never(error) => error,
        })
    }

    async fn take(&self, key: &Key, wanted: &[IpAddr], deadline: Instant) -> Result<Vec<IpAddr>, Refusal> {
        let output = match self.run("ADD", key, wanted, deadline).await {
            Ok(output) => output,
            Err(error) => {
                // It may have taken one before it was stopped.
                let grace = Instant::now() + std::time::Duration::from_secs(1);
                self.del(key, grace).await.unwrap_or_else(|error| tracing::error!("{error:#}"));
                return Err(Refusal::Later(error));
            }
        };
        if !output.status.success() {
            return Err(refusal(&output));
        }
        let answer = serde_json::from_slice::<Answer>(&output.stdout)
            .context("reading what `host-local` answered")
            .and_then(|answer| answer.ips.iter().map(|ip| address(&ip.address)).collect::<Result<Vec<_>>>());
        match answer {
            Ok(addresses) if addresses.len() == self.subnets.len() => Ok(addresses),
            other => {
                self.del(key, deadline).await.unwrap_or_else(|error| tracing::error!("{error:#}"));
                let many = self.subnets.len();
                Err(Refusal::Never(other.map_or_else(
                    |error| error,
                    |got| anyhow!("`host-local` gave {} addresses of {many} subnets", got.len()),
                )))
            }
        }
    }

    /// Gives back what a container's interface has; it may have nothing.
    pub async fn del(&self, key: &Key, deadline: Instant) -> Result<()> {
        let output = self.run("DEL", key, &[], deadline).await?;
        if !output.status.success() {
            let (Refusal::Later(error) | Refusal::Never(error)) = refusal(&output);
            return Err(error.context(format!("giving back the addresses of `{key}`")));
        }
        Ok(())
    }

    /// All addresses that are taken.
    pub fn taken(&self) -> Result<Vec<Taken>> {
        let folder = self.data.join(NETWORK);
        let listing = || format!("listing `{}`", folder.display());
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(listing),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.with_context(listing)?.path();
            // Beside the addresses lie a lock and the last address of each subnet.
            let address = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            let Some(address) = address else { continue };
            let Some(key) = std::fs::read_to_string(&path).ok().and_then(|text| holder(&text)) else {
                tracing::warn!("`{}` names no container", path.display());
                continue;
            };
            found.push(Taken { address, key });
        }
        Ok(found)
    }

    fn configuration(&self, wanted: &[IpAddr]) -> Value {
        let range = |subnet: &Subnet| {
            let mut range = json!({ "subnet": subnet.to_string() });
            // It gives no pod the gateway's address.
            if let Some(gateway) = self.gateways.iter().find(|gateway| subnet.contains(**gateway)) {
                range["gateway"] = json!(gateway.to_string());
            }
            json!([range])
        };
        let mut configuration = json!({
            "cniVersion": "1.0.0",
            "name": NETWORK,
            "ipam": {
                "type": PLUGIN,
                "dataDir": self.data,
                "ranges": self.subnets.iter().map(range).collect::<Vec<_>>(),
            },
        });
        if !wanted.is_empty() {
            let wanted: Vec<_> = wanted.iter().map(ToString::to_string).collect();
            configuration["args"] = json!({ "cni": { "ips": wanted } });
        }
        configuration
    }

    async fn run(&self, command: &str, key: &Key, wanted: &[IpAddr], deadline: Instant) -> Result<Output> {
        let program = self.program()?;
        let folder = program.parent().unwrap_or(Path::new("/"));
        let mut run = Command::new(&program);
        run.env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &key.container)
            .env("CNI_IFNAME", &key.interface)
            // It has to be there, and is not looked at: the pod is on the host.
            .env("CNI_NETNS", "/proc/self/ns/net")
            // Plugins refuse their own namespace since CNI's library 1.2, but for those who mean it.
            .env("CNI_NETNS_OVERRIDE", "1")
            .env("CNI_PATH", folder);
        let input = self.configuration(wanted).to_string();
        let place = timeout_at(deadline.into(), self.places.acquire()).await;
        let _place = place.map_err(|_| anyhow!("too many calls of `{PLUGIN}` at once"))?;
        feed(run, &input, deadline).await.with_context(|| format!("{command} of `{}`", program.display()))
    }
}

/// Runs a program with this input, until the deadline at most.
///
/// # Streams
/// Standard output and standard error are returned.
pub async fn feed(mut program: Command, input: &str, deadline: Instant) -> Result<Output> {
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = program.spawn().context("starting it")?;
    let mut stdin = child.stdin.take().context("it has no standard input")?;
    let talk = async {
        // It may end without having read all; what it answers says why.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    match timeout_at(deadline.into(), talk).await {
        Ok(output) => output.context("waiting for its end"),
        Err(_) => bail!("it did not end in time"),
    }
}

fn refusal(output: &Output) -> Refusal {
    let Ok(AnswerError { code, msg, details }) = serde_json::from_slice(&output.stdout) else {
        let said = String::from_utf8_lossy(&output.stderr);
        return Refusal::Never(anyhow!("`{PLUGIN}` ended with {}: {}", output.status, said.trim()));
    };
    let texts: Vec<_> = [msg, details].into_iter().filter(|text| !text.is_empty()).collect();
    let error = anyhow!("`{PLUGIN}`: {}", texts.join("; "));
    // It has no code of its own for a subnet that is all taken.
    let passes = code == TRY_AGAIN || format!("{error}").contains("no IP addresses available");
    if passes { Refusal::Later(error) } else { Refusal::Never(error) }
}

fn is_taken_by_itself(error: &anyhow::Error) -> bool {
    error.to_string().contains("duplicate allocation")
}

/// `10.244.0.2/24`, without the prefix's length.
fn address(text: &str) -> Result<IpAddr> {
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    address.parse().with_context(|| format!("`{}` is no address", text.escape_debug()))
}

/// Whose an address is, by its file.
fn holder(text: &str) -> Option<Key> {
    let mut lines = text.lines();
    Key::new(lines.next()?.trim(), lines.next()?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ipam(folder: &Path, subnets: &[&str], gateways: &[&str]) -> Ipam {
        let plan = Routed {
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
            gateways: gateways.iter().map(|gateway| gateway.parse().unwrap()).collect(),
            mtu: 1450,
            masquerade: false,
            plugins: vec![folder.join("plugins")],
        };
        Ipam::new(&plan, folder.join("data"))
    }

    /// Makes a `host-local` of a shell script.
    fn script(folder: &Path, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = folder.join("plugins/host-local");
        std::fs::create_dir_all(folder.join("plugins")).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\nPATH=/usr/bin:/bin\ncd {}\n{text}", folder.display()))
            .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn key() -> Key {
        Key::new("c1", "eth0").unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + std::time::Duration::from_secs(5)
    }

    fn text(refusal: &Refusal) -> String {
        match refusal {
            Refusal::Later(error) => format!("later: {error:#}"),
            Refusal::Never(error) => format!("never: {error:#}"),
        }
    }

    #[test]
    fn its_configuration_is_that_of_the_plan() {
        let ipam = ipam(Path::new("/x"), &["10.244.0.0/24", "fd00::/64"], &["10.244.0.9"]);
        let wanted = ["10.244.0.7".parse().unwrap()];
        insta::assert_snapshot!(serde_json::to_string_pretty(&ipam.configuration(&wanted)).unwrap(), @r#"
        {
          "args": {
            "cni": {
              "ips": [
                "10.244.0.7"
              ]
            }
          },
          "cniVersion": "1.0.0",
          "ipam": {
            "dataDir": "/x/data",
            "ranges": [
              [
                {
                  "gateway": "10.244.0.9",
                  "subnet": "10.244.0.0/24"
                }
              ],
              [
                {
                  "subnet": "fd00::/64"
                }
              ]
            ],
            "type": "host-local"
          },
          "name": "pods"
        }
        "#);
    }

    #[tokio::test]
    async fn what_it_answers_is_read_and_what_it_refuses_is_sorted() {
        let folder = tempfile::tempdir().unwrap();
        let ipam = ipam(folder.path(), &["10.244.0.0/24"], &[]);
        assert!(
            text(&ipam.add(&key(), soon()).await.unwrap_err())
                .contains("`host-local` is in none of the folders")
        );
        script(
            folder.path(),
            "cat > in; env | sort > env; echo '{\"ips\":[{\"address\":\"10.244.0.2/24\"}]}'",
        );
        let got = ipam.add(&key(), soon()).await.unwrap();
        assert_eq!(got, ["10.244.0.2".parse::<IpAddr>().unwrap()]);
        let environment = std::fs::read_to_string(folder.path().join("env")).unwrap();
        for line in ["CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0"] {
            assert!(environment.contains(line), "{environment}");
        }
        for (answer, says) in [
            (
                r#"{"code":999,"msg":"no IP addresses available in range set: 10.244.0.1-10.244.0.254"}"#,
                "later: ",
            ),
            (r#"{"code":11,"msg":"busy"}"#, "later: `host-local`: busy"),
            (r#"{"code":7,"msg":"bad","details":"subnet"}"#, "never: `host-local`: bad; subnet"),
            ("nonsense", "never: `host-local` ended with exit status: 1: on stderr"),
        ] {
            script(folder.path(), &format!("echo '{answer}'; echo on stderr >&2; exit 1"));
            let error = text(&ipam.add(&key(), soon()).await.unwrap_err());
            assert!(error.starts_with(says), "{error}");
        }
        for answer in ["{}", "no JSON", r#"{"ips":[{"address":"none"}]}"#] {
            script(folder.path(), &format!("echo $CNI_COMMAND >> log; echo '{answer}'"));
            assert!(text(&ipam.add(&key(), soon()).await.unwrap_err()).starts_with("never: "));
        }
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert_eq!(log.matches("DEL").count(), 3, "what makes no sense is given back: {log}");
    }

    #[tokio::test]
    async fn one_that_hangs_is_stopped_and_what_it_took_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let ipam = ipam(folder.path(), &["10.244.0.0/24"], &[]);
        script(folder.path(), "echo $CNI_COMMAND $$ >> log; [ $CNI_COMMAND = DEL ] || exec sleep 60");
        let deadline = Instant::now() + std::time::Duration::from_millis(300);
        let error = text(&ipam.add(&key(), deadline).await.unwrap_err());
        assert!(error.contains("it did not end in time"), "{error}");
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert!(log.starts_with("ADD ") && log.contains("\nDEL "), "{log}");
        let pid = log.lines().next().unwrap().trim_start_matches("ADD ");
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!command.contains("sleep"), "it still runs");
    }

    #[tokio::test]
    async fn what_an_earlier_add_took_is_given_back_first() {
        let folder = tempfile::tempdir().unwrap();
        let ipam = ipam(folder.path(), &["10.244.0.0/24"], &[]);
        script(
            folder.path(),
            "echo $CNI_COMMAND >> log
             [ $CNI_COMMAND = DEL ] && { touch gone; exit; }
             [ -e gone ] && { echo '{\"ips\":[{\"address\":\"10.244.0.2/24\"}]}'; exit; }
             echo '{\"code\":999,\"msg\":\"10.244.0.2 has been allocated to c1, duplicate allocation is not allowed\"}'
             exit 1",
        );
        assert_eq!(ipam.add(&key(), soon()).await.unwrap().len(), 1);
        assert_eq!(std::fs::read_to_string(folder.path().join("log")).unwrap(), "ADD\nDEL\nADD\n");
    }

    #[test]
    fn taken_addresses_are_read_from_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let ipam = ipam(folder.path(), &["10.244.0.0/24"], &[]);
        assert_eq!(ipam.taken().unwrap(), []);
        let files = folder.path().join("data/pods");
        std::fs::create_dir_all(&files).unwrap();
        for (name, text) in [
            ("lock", ""),
            ("last_reserved_ip.0", "10.244.0.2"),
            ("10.244.0.2", "c1\r\neth0"),
            ("fd00::2", "c1\neth0\n"),
            ("10.244.0.3", "../c\r\neth0"),
            ("10.244.0.4", ""),
        ] {
            std::fs::write(files.join(name), text).unwrap();
        }
        let mut taken: Vec<_> = ipam.taken().unwrap().iter().map(|taken| taken.address.to_string()).collect();
        taken.sort();
        assert_eq!(taken, ["10.244.0.2", "fd00::2"]);
    }

    proptest! {
        #[test]
        fn whatever_is_answered_or_kept_nothing_panics(text in "\\PC{0,60}") {
            let _ = serde_json::from_str::<Answer>(&text);
            let _ = holder(&text);
            let _ = address(&text);
            let output = Output { status: std::process::ExitStatus::default(), stdout: text.into_bytes(), stderr: Vec::new() };
            let _ = refusal(&output);
        }
    }
}
