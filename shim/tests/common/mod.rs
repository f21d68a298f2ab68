//! A host with VFs, a card with an agent, and pods, of network namespaces and veth pairs: what the built
//! plugin needs to do all its work.

#![allow(dead_code)] // Each test program uses a part of it.

pub mod agent;
#[path = "../../src/fake.rs"]
pub mod fake;

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use agent::Agent;
use fake::Fake;

const INSIDE: &str = "DPUKIT_TEST_INSIDE";

/// The hardware address and the MTU that the VF of this number has on the host.
pub fn mac(vf: usize) -> String {
    format!("02:00:00:00:00:{vf:02x}")
}

/// The MTU that all VFs have on the host.
pub const MTU: u64 = 1600;

/// Whether this process is in namespaces of its own already. If not, runs the test of this name again in
/// such, and fails as it fails.
pub fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    assert!(
        std::fs::metadata("/proc/self").unwrap().uid() == 0,
        "this test makes network namespaces: run it as root, or leave `--include-ignored` away"
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--include-ignored", "--nocapture"]).env(INSIDE, "1");
    let output = command.output().expect("`unshare` of util-linux is needed");
    // A name that no test has would end well, too.
    let passed = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(output.status.success() && passed, "{command:?}: {}", shown(&output));
    false
}

/// Runs a program that must end well.
pub fn run(line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(output.status.success(), "{line}: {}", shown(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn shown(output: &Output) -> String {
    format!(
        "{}\nstdout:\n{}\nstderr:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A host with its card. The VF of number N is the veth `vfN`; its other end is `cardN` in the namespace
/// `card`.
pub struct World {
    pub fake: Fake,
    pub agent: Agent,
    pub vfs: Vec<String>,
}

/// What the plugin answered.
#[derive(Debug)]
pub struct Answer {
    pub success: bool,
    pub text: String,
    pub took: Duration,
}

impl World {
    /// A host with so many VFs, whose agent answers.
    pub fn new(vfs: usize) -> Self {
        run("mount -t tmpfs tmpfs /run");
        run("ip link set dev lo up");
        run("ip netns add card");
        for (name, value) in [
            ("ipv4.ip_forward", "1"),
            ("ipv4.conf.default.arp_accept", "1"),
            ("ipv6.conf.all.forwarding", "1"),
            ("ipv6.conf.default.accept_untracked_na", "1"),
            // Nobody else is on these cables.
            ("ipv6.conf.default.accept_dad", "0"),
        ] {
            run(&format!("ip netns exec card sysctl -q -w net.{name}={value}"));
        }
        let fake = Fake::new();
        let addresses = fake.pf("0000:01:00.0", "177d:b903", u32::try_from(vfs).unwrap());
        let world = Self { fake, agent: Agent::start(), vfs: addresses };
        for vf in 0..vfs {
            world.plug(vf, &format!("vf{vf}"), &mac(vf), MTU);
        }
        world
    }

    /// Makes the interface of a VF, as its driver does.
    pub fn plug(&self, vf: usize, name: &str, mac: &str, mtu: u64) {
        run(&format!("ip link add {name} address {mac} mtu {mtu} type veth peer name card{vf} netns card"));
        run(&format!("ip -n card link set dev card{vf} up"));
        self.fake.interface(&self.vfs[vf], name);
        // The card's end answers for the gateway, and knows which pod is at this VF.
        for line in [
            "addr add 10.1.0.1/32 dev".to_owned(),
            "addr add fd00:1::1/128 dev".to_owned(),
            format!("route add 10.1.0.{}/32 dev", vf + 16),
            format!("route add fd00:1::{:x}/128 dev", vf + 16),
        ] {
            run(&format!("ip -n card {line} card{vf}"));
        }
    }

    /// Starts a call; `change` is laid over the configuration.
    pub fn start(&self, command: &str, container: &str, change: &Value) -> Child {
        let mut config = json!({
            "cniVersion": "1.1.0",
            "name": "offload",
            "type": "offload-cni",
            "agent": "127.0.0.1:8000",
            "insecure": true,
            "logLevel": "debug",
        });
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        self.start_with(command, container, &config.to_string())
    }

    /// Starts a call with this text on its standard input.
    pub fn start_with(&self, command: &str, container: &str, input: &str) -> Child {
        // Another build of it can be put through the same tests.
        let plugin = std::env::var_os("DPUKIT_PLUGIN").unwrap_or(env!("CARGO_BIN_EXE_offload-cni").into());
        let mut program = Command::new(plugin);
        program
            .env_clear()
            .env("DPUKIT_ROOT", self.fake.root())
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", format!("/run/netns/{container}"))
            .env("CNI_PATH", self.fake.root().join("plugins"))
            .env("CNI_ARGS", format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{container}"));
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = program.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child
    }

    /// Makes a call.
    pub fn call(&self, command: &str, container: &str, change: &Value) -> Answer {
        Answer::of(self.start(command, container, change))
    }

    /// Makes a pod's namespace and gives it an interface, which must succeed.
    pub fn add(&self, container: &str, change: &Value) -> Value {
        make_pod(container);
        let answer = self.call("ADD", container, change);
        assert!(answer.success, "{answer:?}\n{}", self.log());
        answer.result()
    }

    /// Takes a pod's interface away, which must succeed.
    pub fn del(&self, container: &str) {
        let answer = self.call("DEL", container, &json!({}));
        assert!(answer.success, "{answer:?}\n{}", self.log());
        assert_eq!(answer.text, "");
    }

    /// The names of the files in a folder of the plugin's.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let folder = self.fake.at(&format!("/var/lib/dpukit/{folder}"));
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Fails unless every VF is on the host as it was at first, and nothing is left of any pod.
    pub fn must_be_clean(&self) {
        for vf in 0..self.vfs.len() {
            let link =
                link("", &format!("vf{vf}")).unwrap_or_else(|| panic!("vf{vf} is not back\n{}", self.log()));
            assert_eq!((link["address"].as_str(), link["mtu"].as_u64()), (Some(mac(vf).as_str()), Some(MTU)));
            assert!(!link["flags"].to_string().contains("\"UP\""), "{link}");
        }
        assert_eq!(self.files("claims"), [""; 0]);
        assert_eq!(self.files("tombstones"), [""; 0]);
        let locks = self.files("locks");
        assert!(locks.iter().all(|name| name == "all"), "{locks:?}");
        assert_eq!(self.agent.attachments(), [""; 0], "the agent still has these");
    }

    /// What the plugin logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.fake.at("/var/log/dpukit/offload-cni.log")).unwrap_or_default()
    }

    /// Makes a plugin of a shell script.
    pub fn plugin(&self, name: &str, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        self.fake.file(&format!("/plugins/{name}"), script);
        let path = self.fake.at(&format!("/plugins/{name}"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Answer {
    /// The answer of a call that was started.
    pub fn of(child: Child) -> Self {
        let start = Instant::now();
        let output = child.wait_with_output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        Self { success: output.status.success(), text, took: start.elapsed() }
    }

    /// The result of a call that succeeded.
    pub fn result(&self) -> Value {
        assert!(self.success, "{self:?}");
        serde_json::from_str(&self.text).unwrap()
    }

    /// Of a call that succeeded and had nothing to say.
    pub fn result_is_empty(&self) {
        assert!(self.success && self.text.is_empty(), "{self:?}");
    }

    /// The code, and what went wrong, of a call that failed.
    pub fn error(&self) -> (u64, String) {
        assert!(!self.success, "{self:?}");
        let error: Value = serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{self:?}"));
        assert_eq!(error["cniVersion"], "1.1.0");
        (error["code"].as_u64().unwrap(), error["details"].as_str().unwrap_or_default().to_owned())
    }
}

/// Makes a pod's namespace.
pub fn make_pod(container: &str) {
    run(&format!("ip netns add {container}"));
    run(&format!("ip -n {container} link set dev lo up"));
}

/// An interface as `ip` shows it; in the host's namespace where none is named.
pub fn link(namespace: &str, name: &str) -> Option<Value> {
    show(namespace, "link").into_iter().find(|link| link["ifname"] == name)
}

/// What `ip` shows of a namespace; of the host's where none is named.
pub fn show(namespace: &str, what: &str) -> Vec<Value> {
    let inside = if namespace.is_empty() { String::new() } else { format!("-n {namespace} ") };
    let text = run(&format!("ip {inside}-json -details {what} show"));
    match serde_json::from_str(&text) {
        Ok(Value::Array(shown)) => shown,
        // `ip` prints nothing at all where there is nothing.
        _ => Vec::new(),
    }
}

/// Waits until `is_so`, at most ten seconds.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
