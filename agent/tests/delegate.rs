//! Delegated networks with the reference plugins of Debian's `containernetworking-plugins`, in namespaces of
//! their own.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{inside, run};
use dpu_agent::pods::delegate::{Delegate, Settings};
use dpu_agent::pods::network::{Attachment, End, Network as _, Pod, Refusal, Vf};

const PLUGINS: &str = "/usr/lib/cni";

fn delegate(folder: &Path, list: &str, namespace: &str) -> Delegate {
    assert!(Path::new(PLUGINS).join("bridge").exists(), "install `containernetworking-plugins`");
    fs::create_dir_all(folder.join("net.d")).unwrap();
    fs::write(folder.join("net.d/10-cep.conflist"), list).unwrap();
    Delegate::new(Settings {
        list: "cep".into(),
        folder: folder.join("net.d"),
        plugins: vec![folder.join("bin"), PathBuf::from(PLUGINS)],
        cache: folder.join("cache"),
        namespace: namespace.into(),
        interfaces: folder.join("net"),
    })
}

fn attachment(container: &str, interface: &str) -> Attachment {
    Attachment {
        container: container.into(),
        interface: "eth0".into(),
        pod: Pod { namespace: "default".into(), name: "web".into(), uid: "u-1".into() },
        mac: "02:00:00:00:00:07".into(),
        vf: Vf { address: "0002:01:00.3".into(), interface: interface.into() },
        given: Vec::new(),
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn text(refusal: Refusal) -> String {
    match refusal {
        Refusal::Later(error) => format!("later: {error:#}"),
        Refusal::Never(error) => format!("never: {error:#}"),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The addresses that `host-local` has given, by its files.
fn reserved() -> Vec<String> {
    let names = fs::read_dir("/var/lib/cni/networks/cep").into_iter().flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("10.")).collect();
    names.sort();
    names
}

/// Makes what the plugins keep their own.
fn own_state() {
    fs::create_dir_all("/var/lib/cni").unwrap();
    run("mount", &["-t", "tmpfs", "tmpfs", "/var/lib/cni"]);
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
    run("ip", &["link", "set", "dev", "lo", "up"]);
}

#[test]
#[ignore = "needs root, for network namespaces, and containernetworking-plugins"]
fn the_reference_plugins_make_check_restore_and_take_away_a_network() {
    let test = "the_reference_plugins_make_check_restore_and_take_away_a_network";
    if !inside(test, &["--net", "--mount"]) {
        return;
    }
    own_state();
    run("ip", &["netns", "add", "pod"]);
    let list = r#"{ "name": "cep", "cniVersion": "1.0.0", "plugins": [
        { "type": "bridge", "bridge": "br0", "isGateway": true, "capabilities": { "ips": true },
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.88.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
        { "type": "tuning", "mtu": 1400 }, { "type": "firewall", "backend": "iptables" } ] }"#;
    let folder = tempfile::tempdir().unwrap();
    let delegate = delegate(folder.path(), list, "/run/netns/pod");
    runtime().block_on(async {
        let one = attachment("c01", "sdp3");
        let made = delegate.add(&one, soon()).await.map_err(text).unwrap();
        assert_eq!(reserved(), ["10.88.0.2"]);
        let end = End { address: "10.88.0.2".parse().unwrap(), gateway: Some("10.88.0.1".parse().unwrap()) };
        assert_eq!(made.ends, [end]);
        let shown = run("ip", &["-netns", "pod", "address", "show", "dev", "sdp3"]);
        assert!(shown.contains("mtu 1400") && shown.contains("10.88.0.2/24"), "{shown}");
        run("ping", &["-c1", "-W5", "10.88.0.2"]);
        assert!(run("iptables", &["--list-rules"]).contains("10.88.0.2/32"));
        delegate.check(&one, &made, soon()).await.map_err(text).unwrap();

        // An ADD that is tried again begins anew.
        let made = delegate.add(&one, soon()).await.map_err(text).unwrap();
        assert_eq!(reserved().len(), 1);

        run("ip", &["-netns", "pod", "link", "del", "dev", "sdp3"]);
        let refusal = text(delegate.check(&one, &made, soon()).await.unwrap_err());
        assert!(refusal.starts_with("never: CHECK of the plugin `bridge`: "), "{refusal}");
        let known = [(one.clone(), made.clone())];
        assert_eq!(delegate.reconcile(&known).await.unwrap().freed, 0);
        assert_eq!(reserved(), [made.ends[0].address.to_string()]);
        run("ping", &["-c1", "-W5", &reserved()[0]]);
        delegate.check(&one, &made, soon()).await.map_err(text).unwrap();

        // Nobody knows of it any more.
        assert_eq!(delegate.reconcile(&[]).await.unwrap().freed, 1);
        assert_eq!(reserved(), Vec::<String>::new());
        assert!(!run("ip", &["-netns", "pod", "link", "show"]).contains("sdp3"));
        assert!(!run("iptables", &["--list-rules"]).contains("10.88.0."));
        delegate.del(&one, Some(&made), soon()).await.map_err(text).unwrap();
    });
}

#[test]
#[ignore = "needs root, for network namespaces, and containernetworking-plugins"]
fn an_add_that_fails_half_way_gives_its_address_back() {
    if !inside("an_add_that_fails_half_way_gives_its_address_back", &["--net", "--mount"]) {
        return;
    }
    own_state();
    run("ip", &["netns", "add", "pod"]);
    let list = r#"{ "name": "cep", "cniVersion": "0.4.0", "plugins": [
        { "type": "bridge", "bridge": "br0", "ipam": { "type": "host-local", "subnet": "10.88.0.0/24" } },
        { "type": "tuning", "sysctl": { "net.core.no_such_thing": "1" } } ] }"#;
    let folder = tempfile::tempdir().unwrap();
    let delegate = delegate(folder.path(), list, "/run/netns/pod");
    runtime().block_on(async {
        let refusal = text(delegate.add(&attachment("c01", "sdp3"), soon()).await.unwrap_err());
        assert!(refusal.starts_with("never: ADD of the plugin `tuning`: "), "{refusal}");
        assert_eq!(reserved(), Vec::<String>::new());
        assert!(!run("ip", &["-netns", "pod", "link", "show"]).contains("sdp3"));
        assert!(!run("ip", &["link", "show"]).contains("veth"));
    });
}

/// The card as it is: the VF is in the namespace that the plugins run in.
#[test]
#[ignore = "needs root, for network namespaces, and containernetworking-plugins"]
fn plugins_take_the_cards_own_namespace_and_act_on_the_vf() {
    if !inside("plugins_take_the_cards_own_namespace_and_act_on_the_vf", &["--net", "--mount"]) {
        return;
    }
    own_state();
    run("ip", &["link", "add", "sdp3", "type", "veth", "peer", "name", "host"]);
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("bin/give");
    fs::create_dir(folder.path().join("bin")).unwrap();
    let answer = r#"#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion":"1.0.0","interfaces":[{"name":"sdp3","sandbox":"/proc/self/ns/net"}],"ips":[{"interface":0,"address":"10.88.0.9/32"}]}'
"#;
    fs::write(&main, answer).unwrap();
    fs::set_permissions(&main, fs::Permissions::from_mode(0o755)).unwrap();
    let list = r#"{ "name": "cep", "cniVersion": "1.0.0", "plugins": [ { "type": "give" }, { "type": "tuning", "mtu": 1300 } ] }"#;
    let delegate = delegate(folder.path(), list, "/proc/self/ns/net");
    runtime().block_on(async {
        let one = attachment("c01", "sdp3");
        let made = delegate.add(&one, soon()).await.map_err(text).unwrap();
        assert!(run("ip", &["link", "show", "dev", "sdp3"]).contains("mtu 1300"));
        delegate.check(&one, &made, soon()).await.map_err(text).unwrap();
        delegate.del(&one, Some(&made), soon()).await.map_err(text).unwrap();
        // `tuning` gives back what it found.
        assert!(run("ip", &["link", "show", "dev", "sdp3"]).contains("mtu 1500"));
    });
}

/// What the units' files say of a setting, all lines together.
fn settings(units: &[&str], key: &str) -> Vec<String> {
    let overlay = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rootfs-overlay/usr/lib");
    let texts = units.iter().map(|unit| fs::read_to_string(overlay.join(unit)).unwrap());
    let text = texts.collect::<Vec<_>>().join("\n");
    let values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// The agent's unit keeps from plugins what they need, and the file for cards with plugins gives it to them.
/// Capabilities and read-only places are as systemd makes them; the namespace is that of the first process.
#[test]
#[ignore = "needs root, for network namespaces, and containernetworking-plugins"]
fn plugins_work_with_the_rights_that_the_agents_unit_gives_them() {
    const INSIDE: &str = "DPU_AGENT_TEST_RIGHTS";
    let test = "plugins_work_with_the_rights_that_the_agents_unit_gives_them";
    if std::env::var_os(INSIDE).is_none() {
        let run = |units: &[&str]| {
            let system = settings(units, "ProtectSystem").pop().unwrap();
            let mode = if system == "strict" { "ro" } else { "rw" };
            let mut bounds = "-all".to_owned();
            for capability in settings(units, "CapabilityBoundingSet") {
                bounds += &format!(",+{}", capability.trim_start_matches("CAP_").to_lowercase());
            }
            let script = format!(
                "mkdir -p /var/lib/cni && mount -t tmpfs -o {mode} tmpfs /var/lib/cni \
                 && mount -t tmpfs -o {mode} tmpfs /run \
                 && setpriv --no-new-privs --bounding-set={bounds} \"$0\" \"$@\"; exit $?"
            );
            let program = std::env::current_exe().unwrap();
            let mut command = std::process::Command::new("unshare");
            command.args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", &script]);
            command.arg(program).args(["--exact", test, "--include-ignored", "--nocapture"]);
            let output = command.env(INSIDE, "1").output().unwrap();
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            (output.status.success() && text.contains("1 passed"), text)
        };
        let (passed, text) = run(&["systemd/system/dpu-agent.service"]);
        assert!(!passed && text.contains("ADD of the plugin `bridge`"), "{text}");
        let (passed, text) = run(&["systemd/system/dpu-agent.service", "dpukit/dpu-agent-plugins.conf"]);
        assert!(passed, "{text}");
        return;
    }
    run("ip", &["link", "set", "dev", "lo", "up"]);
    let list = r#"{ "name": "cep", "cniVersion": "1.0.0", "plugins": [
        { "type": "bridge", "bridge": "br0", "isGateway": true,
          "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.88.0.0/24" }]] } },
        { "type": "tuning", "mtu": 1400 } ] }"#;
    let folder = tempfile::tempdir().unwrap();
    let delegate = delegate(folder.path(), list, "/proc/1/ns/net");
    runtime().block_on(async {
        let one = attachment("c01", "sdp3");
        let made = delegate.add(&one, soon()).await.map_err(text).unwrap();
        assert!(run("ip", &["link", "show", "dev", "sdp3"]).contains("mtu 1400"));
        delegate.del(&one, Some(&made), soon()).await.map_err(text).unwrap();
        assert_eq!(reserved(), Vec::<String>::new());
    });
}
