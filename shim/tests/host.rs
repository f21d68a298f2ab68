//! `dpu-host` as a service, on a host of network namespaces: its PF is a veth pair to the card.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use common::fake::Fake;
use common::{World, inside, link, make_pod, run, show, wait_until};
use serde_json::{Value, json};

const PF: &str = "0000:01:00.0";
const OURS: &str = "/etc/cni/net.d/20-offload-cni.conflist";

/// A host with a card whose drivers are not loaded and whose VFs are not made.
struct Node {
    world: World,
    told: Arc<Mutex<String>>,
    service: Option<Child>,
}

impl Node {
    fn new(config: &str) -> Self {
        let world = World::new(4);
        let fake = &world.fake;
        let device = format!("/sys/bus/pci/devices/{PF}");
        fake.file(&format!("{device}/device"), "0xb900\n");
        fake.file(&format!("{device}/sriov_totalvfs"), "4\n");
        fake.file(&format!("{device}/sriov_numvfs"), "0\n");
        fake.file("/sys/bus/pci/drivers_probe", "");
        fake.file("/usr/lib/cni/offload-cni", "the plugin");
        fake.file("/etc/cni/net.d/10-theirs.conflist", "theirs");
        let ours = "[card]\nagent = \"127.0.0.1:8000\"\ninsecure = true\n[watch]\nevery-seconds = 0.1\n";
        fake.file("/etc/dpukit/host.toml", &format!("{ours}{config}"));
        // What the kernel does when it loads a driver.
        program(fake, "/programs/modprobe", "#!/bin/sh\nmkdir -p \"$DPUKIT_ROOT/sys/bus/pci/drivers/$2\"\n");
        let socket = UnixDatagram::bind(fake.at("/notify")).unwrap();
        // As systemd: who does not listen holds up those who tell.
        let told = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&told);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                *heard.lock().unwrap() += &format!("{text}\n");
            }
        });
        Self { world, told, service: None }
    }

    /// The card's firmware becomes ready: the driver makes the PF's interface.
    fn start_firmware(&self) {
        run("ip link add pf0 type veth peer name link netns card");
        run("ip -n card link set dev link up");
        let device = format!("/sys/bus/pci/devices/{PF}");
        fs::create_dir_all(self.world.fake.at(&format!("{device}/net/pf0"))).unwrap();
        let driver = self.world.fake.at(&format!("{device}/driver"));
        symlink("../../../bus/pci/drivers/octeon_ep", driver).unwrap();
    }

    fn start(&mut self) {
        self.service = Some(command(&self.world.fake, &["run"]).spawn().unwrap());
    }

    /// Ends the service as systemd does, and gives what it logged.
    fn stop(&mut self) -> String {
        let service = self.service.take().unwrap();
        run(&format!("kill -TERM {}", service.id()));
        let output = service.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// What systemd was told since the last time.
    fn told(&self) -> String {
        std::mem::take(&mut *self.told.lock().unwrap())
    }

    fn has(&self, path: &str) -> bool {
        self.world.fake.at(path).symlink_metadata().is_ok()
    }

    /// How many VFs the PF was told to have.
    fn vfs(&self) -> String {
        let path = format!("/sys/bus/pci/devices/{PF}/sriov_numvfs");
        fs::read_to_string(self.world.fake.at(&path)).unwrap().trim().to_owned()
    }

    fn is_placed(&self) -> bool {
        self.has(OURS)
    }

    fn host(&self, arguments: &[&str]) -> Output {
        command(&self.world.fake, arguments).output().unwrap()
    }

    /// What `dpu-host status --json` says.
    fn status(&self) -> Value {
        serde_json::from_slice(&self.host(&["status", "--json"]).stdout).unwrap()
    }

    /// The checks that do not find all good.
    fn problems(&self) -> Vec<String> {
        let output = self.host(&["doctor", "--json"]);
        let diagnosis: Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = diagnosis["checks"].as_array().unwrap().iter();
        checks
            .filter(|check| check["state"] != "good")
            .map(|check| check["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The configuration that a runtime hands to the plugin.
    fn handed(&self) -> String {
        let list: Value = serde_json::from_slice(&fs::read(self.world.fake.at(OURS)).unwrap()).unwrap();
        let mut part = list["plugins"][0].clone();
        part["cniVersion"] = list["cniVersion"].clone();
        part["name"] = list["name"].clone();
        part.to_string()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(service) = &mut self.service {
            let _ = service.kill();
            let _ = service.wait();
        }
    }
}

/// Makes a program of the host's.
fn program(fake: &Fake, path: &str, script: &str) {
    fake.file(path, script);
    fs::set_permissions(fake.at(path), fs::Permissions::from_mode(0o755)).unwrap();
}

fn command(fake: &Fake, arguments: &[&str]) -> Command {
    let path = format!("{}:{}", fake.at("/programs").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_dpu-host"));
    command.args(arguments).env("DPUKIT_ROOT", fake.root()).env("PATH", path);
    command.env("NOTIFY_SOCKET", fake.at("/notify"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
#[ignore = "needs root for network namespaces"]
fn the_host_is_made_ready_and_left_as_it_was() {
    if !inside("the_host_is_made_ready_and_left_as_it_was") {
        return;
    }
    let mut node = Node::new("");
    node.start();
    wait_until("the service is ready", || node.told().contains("READY=1"));
    wait_until("it waits for the firmware", || node.told().contains("is not ready; it has 300s"));
    assert!(!node.is_placed() && node.has("/etc/cni/net.d/10-theirs.conflist"));

    node.start_firmware();
    wait_until("our configuration is in place", || node.is_placed());
    wait_until("theirs is aside", || !node.has("/etc/cni/net.d/10-theirs.conflist"));
    assert!(node.has("/etc/cni/net.d/10-theirs.conflist.dpukit-aside"));
    let pf = &show("", "address").into_iter().find(|link| link["ifname"] == "pf0").unwrap();
    assert_eq!(
        (&pf["addr_info"][0]["local"], &pf["addr_info"][0]["prefixlen"]),
        (&json!("192.168.1.2"), &json!(24))
    );
    assert_eq!(node.vfs(), "4");
    assert_eq!(
        fs::read_link(node.world.fake.at("/opt/cni/bin/offload-cni")).unwrap().to_str(),
        Some("/usr/lib/cni/offload-cni")
    );
    wait_until("systemd hears that the card is up", || {
        node.told().contains("STATUS=the card is up\nWATCHDOG=1")
    });
    assert_eq!(node.problems(), [""; 0]);
    assert_eq!(node.host(&["doctor"]).status.code(), Some(0));

    make_pod("one");
    let added = node.world.start_with("ADD", "one", &node.handed()).wait_with_output().unwrap();
    assert!(added.status.success(), "{added:?}");
    let status = node.status();
    assert_eq!((&status["vfs"][0]["pod"], &status["card"]["up"]), (&json!("default/pod-one"), &json!(true)));
    let text = String::from_utf8(node.host(&["status"]).stdout).unwrap();
    assert!(text.contains("VFs          4, of which pods have 1\n"), "{text}");
    assert!(text.contains("0000:01:10.0 vf0             default/pod-one one:eth0\n"), "{text}");

    let busy = node.host(&["restore"]);
    assert!(String::from_utf8_lossy(&busy.stderr).contains("another dpu-host is at work"), "{busy:?}");
    let before = fs::metadata(node.world.fake.at(OURS)).unwrap().modified().unwrap();
    let log = node.stop();
    assert!(log.contains("stopping on SIGTERM") && node.is_placed(), "{log}");
    node.start();
    wait_until("the service is ready again", || node.told().contains("READY=1"));
    let after = fs::metadata(node.world.fake.at(OURS)).unwrap().modified().unwrap();
    assert_eq!(before, after, "a new start of the service disturbs nothing");
    node.stop();

    let restored = node.host(&["restore"]);
    assert_eq!(restored.status.code(), Some(1), "a pod has a VF: {restored:?}");
    assert!(!node.is_placed() && !node.has("/opt/cni/bin/offload-cni"));
    assert_eq!(
        fs::read_to_string(node.world.fake.at("/etc/cni/net.d/10-theirs.conflist")).unwrap(),
        "theirs"
    );
    node.world.del("one");
    assert!(node.host(&["restore"]).status.success());
    assert_eq!(node.vfs(), "0");
}

#[test]
#[ignore = "needs root for network namespaces"]
fn a_card_that_goes_and_comes_takes_the_configuration_along() {
    if !inside("a_card_that_goes_and_comes_takes_the_configuration_along") {
        return;
    }
    let mut node = Node::new("");
    node.start_firmware();
    node.start();
    wait_until("our configuration is in place", || node.is_placed());
    make_pod("one");
    make_pod("two");
    let handed = node.handed();
    for pod in ["one", "two"] {
        let added = node.world.start_with("ADD", pod, &handed).wait_with_output().unwrap();
        assert!(added.status.success(), "{added:?}");
    }

    node.world.agent.stop();
    wait_until("our configuration is away", || !node.is_placed());
    assert!(!node.has("/etc/cni/net.d/10-theirs.conflist"), "pods get no other network meanwhile");
    let status = node.status();
    assert_eq!(status["card"]["up"], false);
    assert!(status["card"]["trouble"].as_str().unwrap().contains("asking the agent at 127.0.0.1:8000"));
    assert!(node.problems().contains(&"card".to_owned()));
    let deleted = node.world.start_with("DEL", "one", &handed).wait_with_output().unwrap();
    assert!(deleted.status.success(), "{deleted:?}");
    assert_eq!(node.world.files("tombstones"), ["one:eth0"]);
    // A VF of a real card comes back by itself; a veth ends with its namespace.
    run("ip netns del two");
    wait_until("the veth has ended", || link("card", "card1").is_none());
    node.world.plug(1, "vf1", &common::mac(1), common::MTU);

    node.world.agent.resume(None);
    wait_until("our configuration is back", || node.is_placed());
    wait_until("the tombstone is settled", || node.world.files("tombstones").is_empty());
    wait_until("the pod that went without a DEL is undone", || node.world.files("claims").is_empty());
    wait_until("the VFs are back", || link("", "vf0").is_some() && link("", "vf1").is_some());
    node.world.must_be_clean();
    let log = node.stop();
    assert!(
        log.contains("the card counts as down now") && log.contains("the card counts as up now"),
        "{log}"
    );
}

#[test]
#[ignore = "needs root for network namespaces"]
fn what_is_wrong_is_told_and_fails_alone() {
    if !inside("what_is_wrong_is_told_and_fails_alone") {
        return;
    }
    let mut node = Node::new("[link]\naddress = \"192.168.1.2/24\"\n");
    run("ip link add lan type veth peer name lan-end");
    run("ip address add 192.168.1.77/24 dev lan");
    node.start_firmware();
    node.start();
    wait_until("it says why", || {
        node.told().contains("`lan` has 192.168.1.77/24, which is in the link's network 192.168.1.2/24")
    });
    assert_eq!(node.vfs(), "4", "the other phases have done their work");
    assert!(!node.is_placed());
    assert_eq!(node.problems(), ["link", "service", "cni"]);
    run("ip link del lan");
    wait_until("our configuration is in place", || node.is_placed());
    node.stop();
}

#[test]
#[ignore = "needs root for network namespaces"]
fn what_stops_no_pod_does_not_stop_the_node_and_trouble_does_not_stop_the_clean_up() {
    if !inside("what_stops_no_pod_does_not_stop_the_node_and_trouble_does_not_stop_the_clean_up") {
        return;
    }
    let mut node = Node::new("");
    let device = format!("/sys/bus/pci/devices/{}", node.world.vfs[3]);
    node.world.fake.remove(&format!("{device}/net"));
    symlink("../../../bus/pci/drivers/vfio-pci", node.world.fake.at(&format!("{device}/driver"))).unwrap();
    node.start_firmware();
    node.start();
    wait_until("one VF of four without an interface stops nothing", || node.is_placed());
    let handed = node.handed();
    make_pod("one");
    let added = node.world.start_with("ADD", "one", &handed).wait_with_output().unwrap();
    assert!(added.status.success(), "{added:?}");
    node.world.agent.stop();
    let deleted = node.world.start_with("DEL", "one", &handed).wait_with_output().unwrap();
    assert!(deleted.status.success(), "{deleted:?}");
    assert_eq!(node.world.files("tombstones"), ["one:eth0"]);

    run("ip link add lan type veth peer name lan-end");
    run("ip address add 192.168.1.77/24 dev lan");
    wait_until("the link is in trouble", || {
        node.status()["card"]["trouble"].to_string().contains("`lan` has 192.168.1.77/24")
    });
    node.world.agent.resume(None);
    wait_until("the tombstone is settled", || node.world.files("tombstones").is_empty());
    assert!(node.status()["card"]["trouble"].to_string().contains("`lan` has 192.168.1.77/24"));
    let log = node.stop();
    assert!(log.contains("vfs: 1 VFs have no interface yet"), "{log}");
}

#[test]
#[ignore = "needs root for network namespaces"]
fn the_card_forgets_pods_that_this_host_does_not_know() {
    if !inside("the_card_forgets_pods_that_this_host_does_not_know") {
        return;
    }
    let mut node = Node::new("");
    node.world.fake.file(&format!("/sys/bus/pci/devices/{PF}/sriov_numvfs"), "4\n");
    for pod in ["one", "two", "three"] {
        node.world.add(pod, &json!({}));
    }
    let bring_back = |pod: &str, name: &str| {
        run(&format!("ip -n {pod} link set dev eth0 down"));
        run(&format!("ip -n {pod} link set dev eth0 name {name} netns {}", std::process::id()));
    };
    node.start_firmware();
    // The books of one are lost, with its VF back on the host; those of another are damaged, while it runs.
    bring_back("one", "vf0");
    node.world.fake.remove(&format!("/var/lib/dpukit/claims/{}", node.world.vfs[0]));
    node.world.fake.file(&format!("/var/lib/dpukit/claims/{}", node.world.vfs[1]), "{");
    node.start();
    wait_until("our configuration is in place", || node.is_placed());
    let log = node.stop();
    assert!(log.contains("reconcile: the card is not asked to clean up"), "{log}");
    assert_eq!(node.world.agent.attachments().len(), 3);

    node.world.fake.remove(&format!("/var/lib/dpukit/claims/{}", node.world.vfs[1]));
    bring_back("two", "vf1");
    node.start();
    wait_until("the pods that are not known are forgotten", || {
        node.world.agent.attachments() == ["three:eth0"]
    });
    node.stop();
}

#[test]
fn a_configuration_that_makes_no_sense_starts_nothing() {
    let fake = Fake::new();
    fake.file("/etc/dpukit/host.toml", "[vfs]\ncount = 8\nnumber = 8\n");
    for arguments in [&["run"][..], &["doctor"], &["status", "--json"]] {
        let output = command(&fake, arguments).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(
            errors.contains("error: reading `/etc/dpukit/host.toml`: TOML parse error at line 3"),
            "{errors}"
        );
        assert!(errors.contains("unknown field `number`"), "{errors}");
    }
    assert!(!fake.at("/var/lib/dpukit").exists() && !fake.at("/run/dpukit").exists());
    // The package's end is no time to mend it.
    let output = command(&fake, &["restore"]).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && errors.contains("unknown field `number`"), "{errors}");
}

#[test]
fn wrong_usage_is_told_apart() {
    let output = command(&Fake::new(), &["dance"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_host_without_a_card_is_told_with_mends() {
    let output = command(&Fake::new(), &["doctor"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("FAILED   driver       the driver `octeon_ep` is not loaded\n"), "{text}");
    assert!(text.contains("this host has no PF with the id `177d:b900`\n"), "{text}");
    assert!(text.contains("mend: see `lspci -nnk -d 177d:`"), "{text}");
}

#[test]
#[ignore = "needs root for network namespaces"]
fn the_journal_can_be_searched_by_container_and_pod() {
    if !inside("the_journal_can_be_searched_by_container_and_pod") {
        return;
    }
    let world = World::new(1);
    // `/run` is this test's own by now.
    fs::create_dir_all("/run/systemd/journal").unwrap();
    let journal = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
    journal.set_nonblocking(true).unwrap();
    world.fake.file("/run/systemd/journal/socket", "");
    world.add("c1", &json!({}));
    let mut buffer = vec![0; 1 << 16];
    // The first is empty: by it the plugin finds out whether there is a journal.
    let mut hear = || journal.recv(&mut buffer).expect("something is logged");
    let length = std::iter::repeat_with(&mut hear).find(|length| *length > 0).unwrap();
    let entry = String::from_utf8_lossy(&buffer[..length]).into_owned();
    // A value that may hold line breaks comes with its length before it (the journal's native protocol).
    for (field, value) in
        [("CONTAINER", "c1"), ("INTERFACE", "eth0"), ("POD", "default/pod-c1"), ("COMMAND", "ADD")]
    {
        let length = char::from(u8::try_from(value.len()).unwrap());
        let field = format!("{field}\n{length}\0\0\0\0\0\0\0{value}\n");
        assert!(entry.contains(&field), "{field:?} is not in {entry:?}");
    }
    assert!(entry.contains("SYSLOG_IDENTIFIER"), "{entry:?}");
    assert_eq!(world.log(), "", "what the journal has is not in a file as well");
}

/// What the image has, beside the program that this is about.
fn image() -> Fake {
    let image = Fake::new();
    image.file("/usr/sbin/dpu-host", "the program");
    image.file("/usr/lib/cni/offload-cni", "the plugin");
    image.file("/usr/lib/NetworkManager/conf.d/90-dpukit.conf", "not theirs");
    image.file("/usr/lib/systemd/network/10-dpukit.network", "not theirs");
    let config = "[card]\nagent = \"127.0.0.1:8000\"\ninsecure = true\n[watch]\nevery-seconds = 0.1\n";
    image.file("/etc/dpukit/host.toml", config);
    image
}

/// All files of a host but its kernel's, as paths in it.
fn tree(root: &Path, folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let shown = format!("/{}", path.strip_prefix(root).unwrap().display());
        if ["/dev", "/proc", "/sys", "/run", "/var/lib/dpukit"].contains(&shown.as_str()) {
            continue;
        }
        if path.is_dir() && !path.is_symlink() {
            found.extend(tree(root, &path));
        } else {
            found.insert(shown);
        }
    }
    found
}

/// The service from a container, whose root is `image`.
fn visit(node: &Node, image: &Fake) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dpu-host"));
    command.args(["run", "--host-root"]).arg(node.world.fake.root()).env("DPUKIT_ROOT", image.root());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
#[ignore = "needs root for network namespaces, and busybox"]
fn a_container_brings_the_service_and_takes_all_of_it_away() {
    if !inside("a_container_brings_the_service_and_takes_all_of_it_away") {
        return;
    }
    let (node, image) = (Node::new(""), image());
    let host = &node.world.fake;
    // A host that has not the package, but a root of its own: `chroot` leads there.
    for path in ["/usr/lib/cni/offload-cni", "/etc/dpukit/host.toml"] {
        fs::remove_file(host.at(path)).unwrap();
    }
    for folder in ["/proc", "/dev"] {
        fs::create_dir_all(host.at(folder)).unwrap();
        run(&format!("mount --bind {folder} {}", host.at(folder).display()));
    }
    let modprobe = "#!/bin/busybox sh\n/bin/busybox mkdir -p /sys/bus/pci/drivers/$2\n";
    program(host, "/usr/sbin/modprobe", modprobe);
    fs::create_dir_all(host.at("/bin")).unwrap();
    fs::copy("/usr/bin/busybox", host.at("/bin/busybox")).expect("busybox-static is needed");
    let before = tree(host.root(), host.root());

    let service = visit(&node, &image);
    wait_until("the driver is loaded", || node.has("/sys/bus/pci/drivers/octeon_ep"));
    node.start_firmware();
    wait_until("our configuration is in place", || node.is_placed());
    let plugin = host.at("/opt/dpukit/bin/offload-cni");
    assert_eq!(fs::read_to_string(&plugin).unwrap(), "the plugin");
    assert_eq!(fs::metadata(plugin).unwrap().permissions().mode() & 0o777, 0o755);
    let link = fs::read_link(host.at("/opt/cni/bin/offload-cni")).unwrap();
    assert_eq!(link.to_str(), Some("/opt/dpukit/bin/offload-cni"));
    wait_until("theirs is aside", || node.has("/etc/cni/net.d/10-theirs.conflist.dpukit-aside"));
    assert!(node.has("/etc/NetworkManager/conf.d/90-dpukit.conf"));

    // A container that is killed takes nothing away, and the next one goes on.
    run(&format!("kill -KILL {}", service.id()));
    service.wait_with_output().unwrap();
    assert!(node.is_placed() && node.has("/etc/dpukit/host.toml"));
    fs::remove_file(host.at("/run/dpukit/host.json")).unwrap();
    program(host, "/usr/sbin/systemctl", "#!/bin/busybox sh\necho stopping\n");
    let service = visit(&node, &image);
    wait_until("the card is up again", || {
        let state = fs::read(host.at("/run/dpukit/host.json")).unwrap_or_default();
        serde_json::from_slice::<Value>(&state).is_ok_and(|state| state["card"]["up"] == true)
    });
    run(&format!("kill -TERM {}", service.id()));
    let output = service.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        node.is_placed() && node.has("/etc/dpukit/host.toml"),
        "the host stops, and all stays: {output:?}"
    );

    fs::remove_file(host.at("/usr/sbin/systemctl")).unwrap();
    fs::remove_file(host.at("/run/dpukit/host.json")).unwrap();
    let service = visit(&node, &image);
    wait_until("the service has looked", || node.has("/run/dpukit/host.json"));
    run(&format!("kill -TERM {}", service.id()));
    let output = service.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for folder in ["/proc", "/dev"] {
        run(&format!("umount {}", host.at(folder).display()));
    }
    let after = tree(host.root(), host.root());
    let changed: Vec<_> = before.symmetric_difference(&after).collect();
    assert_eq!(changed, [""; 0], "the host is not as it was");
}

#[test]
#[ignore = "needs root for network namespaces"]
fn a_container_leaves_hosts_alone_that_are_set_up_otherwise() {
    if !inside("a_container_leaves_hosts_alone_that_are_set_up_otherwise") {
        return;
    }
    let (node, image) = (Node::new(""), image());
    let says = || {
        let output = visit(&node, &image).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(!node.has("/opt/dpukit"), "something was brought");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(says().contains("the host has a `/etc/dpukit/host.toml` of its own"));
    image.file("/etc/dpukit/host.toml", "[card]\nagend = 3\n");
    assert!(says().contains("unknown field `agend`"));
    image.file("/etc/dpukit/host.toml", "");
    node.world.fake.file("/usr/sbin/dpu-host", "the package's");
    assert!(says().contains("the host has the package dpukit-host"));
    fs::remove_dir_all(node.world.fake.at("/etc")).unwrap();
    assert!(says().contains("is no root of a host"));
}
