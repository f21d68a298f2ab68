//! A host with a card: the agent runs in this process, on a made-up system.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use dpu_agent::Card as System;
use dpu_agent::programs::{self, Programs};
use dpu_agent::serve::{self, Pace, Served};
use dpu_agent::tree::Tree;
use dpu_agent::trusted::{Door, Places};
use dpukit_host::pairing::{self, PairArguments};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

const CODE: &str = "ACDEF-GHJKM";
const RAUC: &str = include_str!("rauc.sh");
const SYSTEMCTL: &str = include_str!("systemctl.sh");
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_dpu-host");

/// The programs of the card: stand-ins in a folder.
struct StandIns(PathBuf);

impl StandIns {
    fn path(&self, program: &str) -> String {
        self.0.join(program).display().to_string()
    }
}

impl Programs for StandIns {
    fn read(&self, program: &str, arguments: &[&str]) -> Result<String> {
        programs::System.read(&self.path(program), arguments)
    }

    fn watch(&self, program: &str, arguments: &[&str], tell: &mut dyn FnMut(&str)) -> Result<()> {
        programs::System.watch(&self.path(program), arguments, tell)
    }
}

/// The card and its host's configuration.
pub struct Card {
    pub folder: TempDir,
    address: SocketAddr,
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

/// What the program did: its exit code and all that it said.
#[derive(Debug)]
pub struct Answer {
    pub code: Option<i32>,
    pub out: String,
    pub errors: String,
}

impl Card {
    /// A card in slot A whose host is paired.
    pub fn new() -> Self {
        let card = Self::unpaired();
        let folder = card.folder.path().join("host/etc/dpukit/tls");
        let code_file = Some(card.folder.path().join("given"));
        let name = Some("node1".to_owned());
        let agent = card.address;
        pairing::run(&PairArguments { agent, name, code_file, folder, renew: false, within: None }).unwrap();
        card.configure("");
        card
    }

    /// A card in slot A that nobody is paired with.
    pub fn unpaired() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut card = Self { folder, address: SocketAddr::from(([127, 0, 0, 1], 0)), running: None };
        dpu_trust::keep::write(&card.folder.path().join("given"), CODE.as_bytes(), 0o400).unwrap();
        for (name, text) in [("rauc", RAUC), ("systemctl", SYSTEMCTL)] {
            let path = card.write(&format!("programs/{name}"), text);
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        card.write("card/dev/console", "");
        card.write("card/etc/rauc/system.conf", "");
        card.write("card/etc/os-release", "IMAGE_VERSION=\"0.1.0\"\n");
        card.runs("A", "boot-1");
        card.write("card/var/lib/dpukit/slots.json", r#"{"good":{"A":"root-of-A"}}"#);
        card.start(false);
        card.configure("");
        card
    }

    /// What the card is started with: each slot has a tree of hashes of its own.
    pub fn runs(&self, slot: &str, boot: &str) {
        let verity = format!("0 8 verity 1 254:4 254:4 4096 4096 1 2 sha256 root-of-{slot} 00");
        self.write("card/proc/cmdline", &format!("rauc.slot={slot} dm-mod.create=\"root,,,ro,{verity}\""));
        self.write("card/proc/sys/kernel/random/boot_id", boot);
    }

    /// Starts the agent, at the address that it had before.
    pub fn start(&mut self, insecure: bool) {
        let plan = include_str!("../../../agent/plan/examples/virt.toml");
        let (plan, _pods) = plan.split_once("\n# Pods").unwrap();
        let mut plan: dpu_plan::Plan = toml::from_str(plan).unwrap();
        plan.agent.insecure = insecure;
        let root = self.folder.path().join("card");
        let tree = Tree::new(root, Box::new(|path, value| fs::write(path, value)));
        let programs = Box::new(StandIns(self.folder.path().join("programs")));
        let system = Arc::new(System { tree, programs, plan, patience: Duration::ZERO });
        let given = self.folder.path().join("given");
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = oneshot::channel();
        let address = self.address;
        let running = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let door = if insecure {
                    Door::open(&system).unwrap()
                } else {
                    Door::guarded(&Places::of(&system), address.ip(), Some(&given)).unwrap()
                };
                let listener = tokio::net::TcpListener::bind(address).await.unwrap();
                let address = listener.local_addr().unwrap();
                let pace = Pace { farewell: Duration::from_millis(100), ..Pace::CARD };
                let (served, incoming) = (Served::start(system), door.incoming(listener));
                ready.send(address).unwrap();
                serve::serve(served, door, address, incoming, pace, stopped).await.unwrap();
            });
        });
        self.address = is_ready.blocking_recv().unwrap();
        self.running = Some((stop, running));
    }

    /// Ends the agent.
    pub fn stop(&mut self) {
        let (stop, running) = self.running.take().unwrap();
        stop.send(true).unwrap();
        running.join().unwrap();
    }

    /// Writes the host's configuration.
    pub fn configure(&self, lines: &str) {
        let at = |name: &str| self.folder.path().join("host/etc/dpukit/tls").join(name).display().to_string();
        let (ca, certificate, key) = (at("ca.pem"), at("host.pem"), at("host.key"));
        let text = format!(
            "[card]\nagent = \"{}\"\n{lines}\n[tls]\nca = \"{ca}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n",
            self.address
        );
        self.write("host/etc/dpukit/host.toml", &text);
    }

    /// What looks like a bundle to the host, and tells the stand-in for RAUC what to do.
    pub fn bundle(&self, content: &str) -> PathBuf {
        let path = self.write("update.raucb", "");
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(format!("hsqs\n{content}\n").as_bytes()).unwrap();
        // More than the card takes in one part.
        file.write_all(&vec![7; 3 << 20]).unwrap();
        file.write_all(&100_u64.to_be_bytes()).unwrap();
        path
    }

    /// What the stand-in for RAUC installed last.
    pub fn installed(&self) -> Option<Vec<u8>> {
        fs::read(self.folder.path().join("programs/rauc.installed")).ok()
    }

    /// The commands that the stand-in for systemctl was given.
    pub fn restarts(&self) -> String {
        fs::read_to_string(self.folder.path().join("programs/systemctl.ran")).unwrap_or_default()
    }

    /// What lies where bundles come in.
    pub fn left(&self) -> Vec<String> {
        let folder = self.folder.path().join("card/var/lib/dpukit/update");
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Begins `dpu-host update`.
    pub fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(PROGRAM);
        command.arg("update").args(arguments).env("DPUKIT_ROOT", self.folder.path().join("host"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs `dpu-host update` to its end.
    pub fn update(&self, arguments: &[&str]) -> Answer {
        self.end(self.begin(arguments))
    }

    pub fn end(&self, child: Child) -> Answer {
        let output = child.wait_with_output().unwrap();
        let text = |octets| {
            let text = String::from_utf8(octets).unwrap();
            text.replace(&self.folder.path().display().to_string(), "")
                .replace(&self.address.to_string(), "CARD")
        };
        Answer { code: output.status.code(), out: text(output.stdout), errors: text(output.stderr) }
    }
}

/// Waits until something is so.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("{what} never came");
}

/// Reads a child's lines on standard error until one holds a text.
pub fn read_until(child: &mut Child, wanted: &str) {
    let pipe = child.stderr.as_mut().unwrap();
    let mut said = Vec::new();
    let mut octet = [0];
    while !String::from_utf8_lossy(&said).contains(wanted) {
        assert_eq!(pipe.read(&mut octet).unwrap(), 1, "it ended with {}", String::from_utf8_lossy(&said));
        said.push(octet[0]);
    }
}
