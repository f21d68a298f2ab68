//! Host, card and the world behind it.
//!
//! | namespace | plays | has |
//! | --- | --- | --- |
//! | the process's own | the host | the link `pf0`, the VFs `vf0`, `vf1` … |
//! | `card` | the card | the link `sdp0`, the VFs' ends `sdp1`, `sdp2` …, the uplink `up0` |
//! | `outside` | the world | `world`, with one address of each family |
//! | `wire` | copper | what joins VFs and ends, see [`crate::driver`] |

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use dpukit_host::pairing::{self, PairArguments};
use serde_json::{Value, json};

use crate::agent::{Agent, LINK, PORT};
use crate::call::{Answer, Call};
use crate::clean::{self, Picture};
use crate::driver::{self, Driver, Vf};
use crate::run::{ip, run, try_run, wait_until};
use crate::sysfs::Files;

/// The addresses of the world, in both families.
pub const WORLD: [&str; 2] = ["203.0.113.2", "2001:db8:f::2"];
/// Where the host keeps what pairing made.
const TLS: &str = "/etc/dpukit/tls";
/// The ranges of the pods' addresses.
pub const RANGES: [&str; 2] = ["10.244.0.0/24", "fd00:10:244::/64"];

/// The stage.
pub struct Stage {
    /// The host's files.
    pub host: Files,
    /// The agent, with the card's files.
    pub agent: Agent,
    /// The VFs, in the order in which they are given out.
    pub vfs: Vec<Vf>,
    /// The plugin's configuration.
    pub config: Value,
    /// What gives VFs back that vanished with a namespace.
    pub driver: Driver,
    empty: Option<Picture>,
}

/// What a stage is to be like.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// How many PFs the host has.
    pub pfs: u32,
    /// How many VFs each of them has.
    pub vfs: u32,
    /// Whether VFs and the card's ends are wired through a bridge, so that one outlives the other, or are two
    /// ends of one veth, which costs less.
    pub bridged: bool,
    /// Whether pods get IPv6 addresses too.
    pub ipv6: bool,
    /// Whether host and card are paired and talk over TLS, or talk in plain text.
    pub secure: bool,
}

impl Stage {
    /// A host with so many VFs on each of so many PFs, and its card, whose agent answers.
    pub fn new(pfs: u32, vfs: u32) -> Self {
        Self::of(Shape { pfs, vfs, bridged: true, ipv6: true, secure: true })
    }

    /// As [`Stage::new`], of another shape.
    pub fn of(shape: Shape) -> Self {
        let mut stage = Self::without_agent(shape);
        stage.agent.start();
        if shape.secure {
            stage.pair();
        }
        stage.wait_until_ready();
        stage.empty = Some(Picture::take(&stage.host, &stage.agent.files));
        stage
    }

    /// As [`Stage::new`], with an agent that is not started.
    pub fn without_agent(shape: Shape) -> Self {
        let Shape { pfs, vfs, bridged, ipv6, secure } = shape;
        run("mount -t tmpfs tmpfs /run");
        run("ip link set dev lo up");
        for namespace in ["card", "outside", "wire"] {
            run(&format!("ip netns add {namespace}"));
            run(&format!("ip -n {namespace} link set dev lo up"));
        }
        set_sysctls();
        // Copper has no addresses.
        for what in ["default", "all"] {
            run(&format!("ip netns exec wire sysctl -q -w net.ipv6.conf.{what}.disable_ipv6=1"));
        }
        let (host, card) = (Files::new(), Files::new());
        let vfs = devices(&host, &card, pfs, vfs);
        connect_card();
        driver::wire(&vfs, bridged);
        card.write("/usr/lib/dpukit/plan.toml", plan(ipv6, secure));
        let mut config = json!({
            "cniVersion": "1.1.0",
            "name": "offload",
            "type": "offload-cni",
            "agent": Agent::address().to_string(),
            "logLevel": "debug",
        });
        if secure {
            let file = |name: &str| host.at(TLS).join(name);
            config["tls"] =
                json!({"ca": file("ca.pem"), "certificate": file("host.pem"), "key": file("host.key")});
        } else {
            config["insecure"] = json!(true);
        }
        let driver = Driver::start(if bridged { &vfs } else { &[] });
        Self { host, agent: Agent::new(card), vfs, config, driver, empty: None }
    }

    /// Makes host and card known to each other, as people do: with a code that the card shows.
    fn pair(&self) {
        let said = self.agent.command(&["pairing", "open"]);
        let code = self.host.at("/code");
        fs::write(&code, said.lines().next().unwrap_or_default()).unwrap();
        let paired = pairing::run(&PairArguments {
            agent: Agent::address(),
            name: Some("host".into()),
            code_file: Some(code),
            folder: self.host.at(TLS),
            renew: false,
            within: None,
        });
        paired.unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
    }

    /// Waits until the agent says that it can make networks.
    pub fn wait_until_ready(&self) {
        wait_until_or("the card is ready", Duration::from_secs(30), || {
            let answer = self.call("STATUS", "", &json!({}));
            if answer.success { Ok(()) } else { Err(format!("{answer:?}\n{}", self.logs())) }
        });
    }

    /// A call with `change` laid over the configuration.
    pub fn prepare(&self, command: &'static str, container: &str, change: &Value) -> Call {
        let mut config = self.config.clone();
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        Call {
            command,
            container: container.to_owned(),
            config,
            root: self.host.root().to_owned(),
            path: "/usr/lib/cni".into(),
        }
    }

    /// Makes a call.
    pub fn call(&self, command: &'static str, container: &str, change: &Value) -> Answer {
        self.prepare(command, container, change).make()
    }

    /// Makes a pod and gives it its interface, which must succeed.
    pub fn add(&self, container: &str) -> Answer {
        make_pod(container);
        let answer = self.call("ADD", container, &json!({}));
        assert!(answer.success, "{answer:?}\n{}", self.logs());
        answer
    }

    /// Takes a pod's interface away, which must succeed, and then the pod.
    pub fn del(&self, container: &str) {
        let answer = self.call("DEL", container, &json!({}));
        assert!(answer.success && answer.text.is_empty(), "{answer:?}\n{}", self.logs());
        end_pod(container);
    }

    /// The VF of a result.
    pub fn vf_of(&self, result: &Value) -> &Vf {
        let mac = result["interfaces"][0]["mac"].as_str().unwrap();
        self.vfs.iter().find(|vf| vf.mac() == mac).unwrap_or_else(|| panic!("no VF has {mac}"))
    }

    /// The files of a folder of the plugin's.
    pub fn files(&self, folder: &str) -> Vec<String> {
        self.host.below(&format!("/var/lib/dpukit/{folder}"))
    }

    /// Fails unless every VF is on the host as it was at first, and nothing is left of any pod: no claim,
    /// route, address, file or process.
    pub fn must_be_clean(&self) {
        let mut wrong = Vec::new();
        // What the kernel does after a change, as forgetting routes, it does in its own time.
        for _ in 0..100 {
            wrong = driver::strays(&self.vfs);
            if let Some(empty) = &self.empty {
                let differences = empty.differences(&Picture::take(&self.host, &self.agent.files));
                wrong.extend(differences);
            }
            let agent = format!("{} ", self.agent.id());
            wrong.extend(clean::processes().into_iter().filter(|process| !process.starts_with(&agent)));
            if wrong.is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("left behind:\n{}\n{}", wrong.join("\n"), self.logs());
    }

    /// The last words of both programs.
    pub fn logs(&self) -> String {
        let last = |text: &str| {
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(60)..].join("\n")
        };
        let plugin = self.host.read("/var/log/dpukit/offload-cni.log");
        format!("the plugin's log:\n{}\nthe agent's log:\n{}", last(&plugin), last(&self.agent.log()))
    }
}

/// Makes a pod's namespace.
pub fn make_pod(container: &str) {
    run(&format!("ip netns add {container}"));
    run(&format!("ip -n {container} link set dev lo up"));
}

/// Ends a pod's namespace.
pub fn end_pod(container: &str) {
    run(&format!("ip netns del {container}"));
}

/// Waits until `look` is content, at most so long; its last complaint where it never is.
pub fn wait_until_or(what: &str, most: Duration, mut look: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + most;
    while let Err(error) = look() {
        assert!(Instant::now() < end, "never in {most:?}: {what}: {error}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// The settings of the kernel that the card's image makes, as far as they belong to a namespace.
fn set_sysctls() {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rootfs-overlay/usr/lib/sysctl.d/60-dpukit.conf");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("`{}`: {error}", file.display()));
    for line in text.lines().map(str::trim).filter(|line| line.trim_start_matches('-').starts_with("net.")) {
        let may_fail = line.starts_with('-');
        let setting = line.trim_start_matches('-').replace(' ', "");
        let set = try_run(&format!("ip netns exec card sysctl -q -w {setting}"));
        assert!(set.is_ok() || may_fail, "{set:?}");
    }
}

/// Makes the devices of both sides.
fn devices(host: &Files, card: &Files, pfs: u32, vfs: u32) -> Vec<Vf> {
    let mut made = Vec::new();
    for pf in 0..pfs {
        for (on_pf, address) in (0..).zip(host.pf(pf, vfs)) {
            // As the card's firmware numbers them: entry 0 is the link.
            let end = pfs * on_pf + pf + 1;
            let vf = Vf { number: pf * vfs + on_pf, on_pf, pf, address, end };
            host.interface(&vf.address, &[vf.name(), vf.other_name()]);
            made.push(vf);
        }
    }
    for number in 0..=pfs * vfs {
        let address = card.end(number);
        card.interface(&address, &[format!("sdp{number}")]);
    }
    made
}

/// The link between host and card, and the card's way to the world.
fn connect_card() {
    let own = std::process::id();
    ip(
        "card",
        &[
            format!("link add sdp0 type veth peer name pf0 netns {own}"),
            "link set dev sdp0 group 77 up".into(),
            format!("address add {}/24 dev sdp0", LINK.0),
            "link add up0 type veth peer name world netns outside".into(),
            "link set dev up0 up".into(),
            "address add 203.0.113.1/24 dev up0".into(),
            "address add 2001:db8:f::1/64 dev up0 nodad".into(),
        ],
    );
    ip("", &["link set dev pf0 up".into(), format!("address add {}/24 dev pf0", LINK.1)]);
    let [world4, world6] = WORLD;
    let [pods4, pods6] = RANGES;
    ip(
        "outside",
        &[
            "link set dev world up".into(),
            format!("address add {world4}/24 dev world"),
            format!("address add {world6}/64 dev world nodad"),
            format!("route add {pods4} via 203.0.113.1"),
            format!("route add {pods6} via 2001:db8:f::1"),
        ],
    );
    wait_until("the link has a carrier", Duration::from_secs(5), || {
        fs::read_to_string("/sys/class/net/pf0/carrier").is_ok_and(|carrier| carrier.trim() == "1")
            || try_run(&format!("ip route get {}", LINK.0)).is_ok()
    });
}

/// What the board wants of the card.
fn plan(ipv6: bool, secure: bool) -> String {
    let subnets = if ipv6 { &RANGES[..] } else { &RANGES[..1] };
    format!(
        r#"swap = "keep"

[huge-pages]
total = "2MiB"
sizes = ["2MiB"]
mount = "/dev/huge"

[link]
id = "177d:a0f7"
address = "{}/24"

[agent]
port = {PORT}
insecure = {}

[pods.network.routed]
subnets = {subnets:?}
"#,
        LINK.0, !secure
    )
}
