//! The program itself, as systemd runs it.

mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::{inside, run};

const PROGRAM: &str = env!("CARGO_BIN_EXE_dpu-agent");

/// Puts a plan where the program looks for it, in this mount namespace only.
fn install_plan(plan: &str) {
    run("mount", &["-t", "tmpfs", "tmpfs", "/mnt"]);
    fs::create_dir_all("/mnt/upper/dpukit").unwrap();
    fs::create_dir_all("/mnt/work").unwrap();
    fs::write("/mnt/upper/dpukit/plan.toml", plan).unwrap();
    let options = "lowerdir=/usr/lib,upperdir=/mnt/upper,workdir=/mnt/work";
    run("mount", &["-t", "overlay", "overlay", "-o", options, "/usr/lib"]);
    // Keys and codes that it makes are this namespace's own.
    for folder in ["/var/lib", "/run"] {
        run("mount", &["-t", "tmpfs", "tmpfs", folder]);
    }
}

/// The agent, with a socket that stands for systemd's. Killed at the end.
struct Agent {
    child: Child,
    socket: UnixDatagram,
}

impl Agent {
    fn start(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let child = Command::new(PROGRAM)
            .arg("serve")
            .env("NOTIFY_SOCKET", path)
            .env("WATCHDOG_USEC", "600000")
            .spawn()
            .unwrap();
        Self { child, socket }
    }

    /// Waits until systemd is told a line that begins so.
    fn tells(&self, wanted: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        let mut told = Vec::new();
        while Instant::now() < end {
            let mut bytes = [0; 4096];
            let Ok(length) = self.socket.recv(&mut bytes) else { continue };
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if text.lines().any(|line| line.starts_with(wanted)) {
                return;
            }
            told.push(text);
        }
        panic!("systemd was never told `{wanted}`, only {told:?}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs root, for namespaces"]
fn systemd_is_told_of_start_health_life_and_end() {
    if !inside("systemd_is_told_of_start_health_life_and_end", &["--net", "--mount"]) {
        return;
    }
    install_plan(include_str!("../plan/examples/virt.toml"));
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path());
    // The address comes late, as a link may.
    std::thread::sleep(Duration::from_millis(400));
    assert!(agent.child.try_wait().unwrap().is_none(), "the agent did not wait for its address");
    run("ip", &["link", "set", "dev", "lo", "up"]);
    run("ip", &["address", "add", "192.168.1.1/24", "dev", "lo"]);
    agent.tells("READY=1");
    agent.tells("STATUS=not serving: hugepages");
    agent.tells("WATCHDOG=1");
    agent.tells("WATCHDOG=1");
    run("kill", &["-TERM", &agent.child.id().to_string()]);
    agent.tells("STOPPING=1");
    assert!(agent.child.wait().unwrap().success());
}

#[test]
#[ignore = "needs root, for namespaces"]
fn the_doctor_finds_that_this_machine_is_no_card() {
    if !inside("the_doctor_finds_that_this_machine_is_no_card", &["--net", "--mount"]) {
        return;
    }
    install_plan(include_str!("../plan/examples/virt.toml"));
    let output = Command::new(PROGRAM).args(["doctor", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["good"], false);
    let sriov = json["checks"].as_array().unwrap().iter().find(|check| check["name"] == "sriov").unwrap();
    assert_eq!(sriov["state"], "failed");
    assert_eq!(sriov["wrong"][0], "no PF with the id `8086:10c9` was found");
    assert!(sriov["mend"].as_str().unwrap().contains("lspci"));
}

#[test]
#[ignore = "needs root, for namespaces"]
fn a_broken_plan_is_told_with_its_place() {
    if !inside("a_broken_plan_is_told_with_its_place", &["--mount"]) {
        return;
    }
    install_plan("[huge-pages]\ntotal = \"256MB\"\n");
    let output = Command::new(PROGRAM).arg("setup").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.starts_with("error: `/usr/lib/dpukit/plan.toml` is no plan: TOML parse error at line 2"),
        "{error}"
    );
    assert!(error.contains("`256MB` is not a size"), "{error}");
}

#[test]
fn without_a_plan_the_error_names_the_file() {
    if Path::new(dpu_plan::PATH).exists() {
        return;
    }
    let output = Command::new(PROGRAM).arg("doctor").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.starts_with("error: reading `/usr/lib/dpukit/plan.toml`: "), "{error}");
}

#[test]
fn the_first_process_is_nothing_else() {
    let output = Command::new(env!("CARGO_BIN_EXE_dpu-init")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is the first process of a card"));
}
