//! The real plugin on this machine, and on the card the very image that would be flashed, in an emulated card
//! whose link ends here: pods reach each other through it, whatever happens to card, link and agent.
//!
//! All VFs of the emulated card share one wire, which is a tap interface here; the host's VFs are macvlan
//! interfaces on it that do not hear each other, so that packets between pods have to go through the card.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dpu_trust::Code;
use dpukit_host::pairing::{self, PairArguments};
use dpukit_image::config::{Config, Emulator};
use dpukit_image::emulator::{Card, Link, Programs};
use dpukit_image::load;
use dpukit_proofs::call::{Answer, Call};
use dpukit_proofs::inside::inside;
use dpukit_proofs::run::{ip, link, run, try_run};
use dpukit_proofs::stage::{end_pod, make_pod, wait_until_or};
use dpukit_proofs::sysfs::Files;
use dpukit_proofs::traffic::{ping, stream};
use serde_json::{Value, json};

/// The VFs of the host: the emulated card has one more, which is the link.
const VFS: u32 = 4;
/// The host's end of the link.
const HOST: &str = "192.168.1.2";
/// How long a boot may take on a busy machine without help for arm64.
const BOOT: Duration = Duration::from_mins(4);
/// How long a pod may be without its network once the card is there.
const PATIENCE: Duration = Duration::from_secs(20);

/// The host, with a card in it.
struct Machine {
    config: Config,
    programs: Programs,
    folder: tempfile::TempDir,
    files: Files,
    card: Card,
    qemu: Option<Child>,
    network: Value,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut_power();
    }
}

impl Machine {
    /// A host with a card that is off.
    fn new() -> Self {
        let given = |name: &str| {
            let value = std::env::var_os(name);
            PathBuf::from(
                value.unwrap_or_else(|| panic!("`{name}` is not set: run `cargo xtask test --only pods`")),
            )
        };
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let config = load::load(root, "virt").unwrap_or_else(|problems| panic!("{problems}"));
        let programs = Programs { tools: given("DPUKIT_CARD_TOOLS"), u_boot: given("DPUKIT_CARD_U_BOOT") };
        let folder = tempfile::tempdir().unwrap();
        let emulator = emulator(&config);
        let mut card =
            Card::new(&folder.path().join("card"), &given("DPUKIT_CARD_IMAGE"), emulator, &programs).unwrap();
        card.link = Link::Tap("link".into());
        card.make_key(&programs.tools).unwrap();
        fs::write(card.folder().join("code"), Code::random().unwrap().characters()).unwrap();
        card.code = Some(card.folder().join("code"));

        run("mount -t tmpfs tmpfs /run");
        run("ip link set dev lo up");
        run("ip tuntap add dev link mode tap user 0");
        ip("", &["link set dev link up".into(), format!("address add {HOST}/24 dev link")]);
        let files = Files::new();
        for (number, address) in files.pf(0, VFS).iter().enumerate() {
            let name = format!("vf{number}");
            run(&format!(
                "ip link add link link name {name} address 02:00:00:00:01:{number:02x} type macvlan mode private"
            ));
            files.interface(address, &[name]);
        }
        let tls = folder.path().join("tls");
        let file = |name: &str| tls.join(name).display().to_string();
        let network = json!({
            "cniVersion": "1.1.0",
            "name": "offload",
            "type": "offload-cni",
            "logLevel": "debug",
            "tls": {"ca": file("ca.pem"), "certificate": file("host.pem"), "key": file("host.key")},
        });
        Self { config, programs, folder, files, card, qemu: None, network }
    }

    /// Turns the card on.
    fn power_on(&mut self) {
        let console = File::options().create(true).append(true).open(self.console()).unwrap();
        let arguments = ["-display", "none", "-monitor", "none", "-serial", "stdio"];
        let port = self.config.board.plan.agent.port.get();
        let emulator = emulator(&self.config);
        let mut command =
            self.card.command(&self.config.board, emulator, &self.programs.tools, port, &arguments).unwrap();
        command.stdin(Stdio::null()).stdout(console.try_clone().unwrap()).stderr(console);
        self.qemu = Some(command.spawn().unwrap());
    }

    /// Cuts the card's power: what it has not written is lost.
    fn cut_power(&mut self) {
        if let Some(mut qemu) = self.qemu.take() {
            let _ = qemu.kill();
            let _ = qemu.wait();
        }
    }

    fn console(&self) -> PathBuf {
        self.folder.path().join("console.log")
    }

    /// Pairs with the card as a person does, once it answers.
    fn pair(&self) {
        let arguments = PairArguments {
            agent: "192.168.1.1:8000".parse().unwrap(),
            name: Some("host".into()),
            code_file: Some(self.card.folder().join("code")),
            folder: self.folder.path().join("tls"),
            renew: false,
            within: None,
        };
        self.wait("the card pairs", BOOT, || {
            pairing::run(&arguments).map(drop).map_err(|error| format!("{error:#}"))
        });
    }

    fn call(&self, command: &'static str, container: &str) -> Answer {
        let root = self.files.root().to_owned();
        Call {
            command,
            container: container.to_owned(),
            config: self.network.clone(),
            root,
            path: "/usr/lib/cni".into(),
        }
        .make()
    }

    fn wait(&self, what: &str, most: Duration, mut look: impl FnMut() -> Result<(), String>) {
        wait_until_or(what, most, || look().map_err(|error| format!("{error}\n{}", self.logs())));
    }

    fn wait_until_ready(&self) {
        self.wait("the card is ready", BOOT, || {
            let answer = self.call("STATUS", "");
            if answer.success { Ok(()) } else { Err(answer.text) }
        });
    }

    /// Makes a pod and gives it its interface; its addresses.
    fn add(&self, pod: &str) -> [String; 2] {
        make_pod(pod);
        let answer = self.call("ADD", pod);
        assert!(answer.success, "{answer:?}\n{}", self.logs());
        [false, true].map(|is_ipv6| answer.address(is_ipv6).unwrap_or_else(|| panic!("{answer:?}")))
    }

    fn must_reach(&self, pod: &str, addresses: &[String]) {
        for address in addresses {
            if let Err(error) = ping(pod, address, PATIENCE) {
                let card = self
                    .on_card("ip address; ip route; ip -6 route; ip neighbour; ip -6 neighbour; ip -s link");
                panic!("{pod} does not reach {address}: {error}\n{card}\n{}", self.logs());
            }
        }
    }

    /// Runs a script on the card as root.
    fn on_card(&self, script: &str) -> String {
        self.card
            .ssh(&self.programs.tools, script)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()))
    }

    fn logs(&self) -> String {
        let last = |text: String| {
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        let console = fs::read(self.console()).unwrap_or_default();
        format!(
            "the card's console:\n{}\nthe plugin's log:\n{}",
            last(String::from_utf8_lossy(&console).into_owned()),
            last(self.files.read("/var/log/dpukit/offload-cni.log"))
        )
    }
}

fn emulator(config: &Config) -> &Emulator {
    config.board.emulator.as_ref().expect("board `virt` is emulated")
}

#[test]
#[ignore = "needs root, for network namespaces and a tap interface, the built programs and the image"]
fn pods_reach_each_other_through_an_emulated_card_whatever_happens_to_it() {
    if !inside("pods_reach_each_other_through_an_emulated_card_whatever_happens_to_it") {
        return;
    }
    let mut machine = Machine::new();
    machine.power_on();
    machine.pair();
    machine.wait_until_ready();

    let (a, b) = (machine.add("a"), machine.add("b"));
    machine.must_reach("a", &b);
    machine.must_reach("b", &a);
    // The host reaches pods over the link, by the card.
    run(&format!("ip route add {} via 192.168.1.1", a[0]));
    try_run(&format!("ping -c 1 -W 10 {}", a[0]))
        .unwrap_or_else(|error| panic!("{error}\n{}", machine.logs()));
    stream("a", "b", &b[0], 16 << 20);
    stream("b", "a", &a[1], 16 << 20);

    println!("proof: the agent is killed");
    machine.on_card("systemctl kill --signal=KILL dpu-agent");
    machine.must_reach("a", &b);
    machine.wait_until_ready();
    let c = machine.add("c");
    machine.must_reach("c", &a);

    println!("proof: the link is pulled");
    run("ip link set dev link down");
    make_pod("d");
    let start = Instant::now();
    let (code, details) = machine.call("ADD", "d").error();
    assert_eq!(code, 11, "{details}");
    assert!(start.elapsed() < Duration::from_millis(5500), "ADD took {:?}", start.elapsed());
    assert_eq!(machine.call("STATUS", "").error().0, 50);
    run("ip link set dev link up");
    machine.wait_until_ready();
    machine.must_reach("b", &c);
    end_pod("d");

    println!("proof: the card loses its power");
    // What the card was told before its answer has to be on its disk, and nothing more is waited for.
    let d = machine.add("e");
    machine.cut_power();
    thread::sleep(Duration::from_secs(1));
    let answer = machine.call("DEL", "c");
    assert!(answer.success && answer.text.is_empty(), "{answer:?}");
    end_pod("c");
    machine.power_on();
    machine.wait_until_ready();
    for (pod, others) in [("a", &b), ("b", &d), ("e", &a)] {
        machine.must_reach(pod, others);
    }
    // What was deleted while the card was off is settled with the next calls.
    machine.wait("nothing is left to be told to the card", PATIENCE, || {
        machine.call("STATUS", "");
        let left = machine.files.below("/var/lib/dpukit/tombstones");
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    assert!(ping("a", &c[0], Duration::from_millis(600)).is_err(), "a pod that is gone answers");

    for pod in ["a", "b", "e"] {
        let answer = machine.call("DEL", pod);
        assert!(answer.success && answer.text.is_empty(), "{answer:?}");
        end_pod(pod);
    }
    for number in 0..VFS {
        assert!(link("", &format!("vf{number}")).is_some(), "vf{number} is not back");
    }
    assert_eq!(machine.files.below("/var/lib/dpukit/claims"), [""; 0]);
    // Nothing but the head of the table.
    assert_eq!(machine.on_card("dpu-agent pods").lines().count(), 1);
}
