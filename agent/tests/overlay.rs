//! The files that are laid over the root fit the agent that they run: names, ports and groups are
//! written in both, and a slip would show only on a booted card.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dpu_agent::doctor::SERVICES;
use dpu_agent::pods::routed::GROUP;
use dpu_plan::{Agent, Link, Plan};

fn overlay() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../rootfs-overlay")
}

fn read(path: &str) -> String {
    fs::read_to_string(overlay().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The lines that say something.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[test]
fn every_service_that_the_doctor_wants_is_enabled_and_all_else_is_not() {
    let preset = read("usr/lib/systemd/system-preset/00-dpukit.preset");
    let rules: Vec<_> = lines(&preset).collect();
    for unit in SERVICES {
        assert!(rules.contains(&format!("enable {unit}").as_str()), "{unit} is not enabled");
    }
    assert_eq!(rules.last(), Some(&"disable *"));
}

#[test]
fn units_of_our_own_are_enabled_and_run_what_there_is() {
    let preset = read("usr/lib/systemd/system-preset/00-dpukit.preset");
    let units = fs::read_dir(overlay().join("usr/lib/systemd/system")).unwrap();
    let mut seen = 0;
    for unit in units.map(|unit| unit.unwrap().path()).filter(|path| path.is_file()) {
        let name = unit.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&unit).unwrap();
        // A service without a place to be enabled at is started by the path unit of its name.
        let starter =
            if text.contains("[Install]") { name.clone() } else { name.replace(".service", ".path") };
        assert!(lines(&preset).any(|line| line == format!("enable {starter}")), "{starter} is not enabled");
        seen += 1;
        if unit.extension().is_some_and(|ending| ending == "path") {
            continue;
        }
        let command = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        match command.strip_prefix("/usr/bin/dpu-agent ").and_then(|words| words.split(' ').next()) {
            Some(sub) => {
                assert!(
                    ["confirm", "setup", "serve", "grow-data", "images", "join", "octep", "seed", "settle"]
                        .contains(&sub),
                    "{name} runs {sub}"
                );
            }
            None => assert!(overlay().join(&command[1..]).is_file(), "{name} runs {command}"),
        }
    }
    assert_eq!(seen, 12);
}

#[test]
fn the_agent_gets_the_rights_of_plugins_where_it_has_plugins() {
    let generator = overlay().join("usr/lib/systemd/system-generators/dpu-agent-plugins");
    let granted = |plan: &str, own: Option<&str>| {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [("usr/lib/dpukit/plan.toml", Some(plan)), ("etc/dpukit/pods.toml", own)] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if let Some(text) = text {
                fs::write(path, text).unwrap();
            }
        }
        let (units, root) = (root.path().join("units"), root.path());
        fs::create_dir(&units).unwrap();
        // It is told two more folders, as systemd has it.
        let output = Command::new(&generator).args([&units; 3]).env("DPUKIT_ROOT", root).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let target = fs::read_link(units.join("dpu-agent.service.d/plugins.conf")).ok()?;
        assert!(overlay().join(target.strip_prefix("/").unwrap()).is_file(), "{target:?}");
        Some(())
    };
    let (delegate, routed) = ("[pods]\nnetwork = { delegate = {} }\n", "[pods.network.routed]\n");
    assert_eq!(granted(delegate, None), Some(()));
    assert_eq!(granted("[pods.network.delegate]\n", None), Some(()));
    assert_eq!(granted(routed, Some(delegate)), Some(()));
    assert_eq!(granted(delegate, Some(routed)), None, "the card's own file stands in for the plan");
    assert_eq!(granted("# delegate\n[pods]\n", None), None);
}

#[test]
fn the_firewall_opens_the_agents_port_to_the_link_alone() {
    let rules = read("etc/nftables.conf");
    let port = Agent::PORT.to_string();
    let opening: Vec<_> = lines(&rules).filter(|line| line.contains(&port)).collect();
    let start = format!("iifgroup {} tcp dport {port} accept", Link::GROUP);
    assert!(matches!(opening.as_slice(), [line] if line.starts_with(&start)), "{opening:?}");
    let pods = lines(&rules).position(|line| line.starts_with(&format!("iifgroup {GROUP} drop")));
    let first = lines(&rules).position(|line| line.contains("dport"));
    assert!(pods.is_some() && pods < first, "a pod is kept out before anything is opened");
    assert!(rules.contains("policy drop;"));
    assert!(rules.contains("table inet dpukit") && rules.contains("chain input"));
}

#[test]
fn the_boards_plans_keep_to_the_firewalls_group_and_port() {
    let boards = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/boards");
    let mut seen = 0;
    for board in fs::read_dir(boards).unwrap() {
        let path = board.unwrap().path();
        let table: toml::Table = toml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let Some(setup) = table.get("setup") else { continue };
        let plan: Plan =
            setup.clone().try_into().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!((plan.link.group, plan.agent.port), (Link::GROUP, Agent::PORT), "{}", path.display());
        seen += 1;
    }
    assert!(seen > 0, "no board has a plan");
}

#[test]
fn no_key_and_no_machine_id_is_in_the_image() {
    assert_eq!(read("etc/machine-id"), "");
    let ssh = fs::read_dir(overlay().join("etc/ssh")).unwrap();
    let names: Vec<_> = ssh.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["sshd_config.d"]);
}

#[test]
fn sshd_uses_the_keys_that_are_made() {
    let config = read("etc/ssh/sshd_config.d/10-dpukit.conf");
    let script = read("usr/lib/dpukit/ssh-keys");
    let made = script.lines().find_map(|line| line.trim().strip_prefix("for type in ")).unwrap();
    let made: Vec<_> = made.trim_end_matches("; do").split(' ').collect();
    let used: Vec<_> = lines(&config).filter_map(|line| line.strip_prefix("HostKey ")).collect();
    let wanted: Vec<_> = made.iter().map(|kind| format!("/etc/ssh/ssh_host_{kind}_key")).collect();
    assert_eq!(used, wanted);
}
