//! Standard input, environment and sysfs of the plugin.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dpukit_proofs::programs;
use dpukit_proofs::run::shown;
use dpukit_proofs::sysfs::Files;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::{SLACK, any_json, property};

/// A configuration of which some keys have other values, and whose agent is not there.
fn any_config() -> impl Strategy<Value = Vec<u8>> {
    const KEYS: [&str; 14] = [
        "cniVersion",
        "name",
        "agent",
        "tls",
        "insecure",
        "vf",
        "mtu",
        "hostIPAM",
        "ipam",
        "deviceID",
        "runtimeConfig",
        "prevResult",
        "cni.dev/valid-attachments",
        "logLevel",
    ];
    let change = prop::collection::vec((prop::sample::select(KEYS.to_vec()), any_json()), 0..4);
    let near = change.prop_map(|changes| {
        let mut config = json!({"cniVersion": "1.1.0", "name": "n", "type": "offload-cni", "insecure": true,
            "agent": "127.0.0.1:9", "deadlineSeconds": 0.5, "prevResult": {}, "cni.dev/valid-attachments": []});
        for (key, value) in changes {
            config[key] = value;
        }
        config.to_string().into_bytes()
    });
    let near = near.boxed();
    let cut = (near.clone(), any::<prop::sample::Index>()).prop_map(|(mut text, at)| {
        text.truncate(at.index(text.len()));
        text
    });
    prop_oneof![
        6 => near,
        1 => cut,
        1 => any_json().prop_map(|json| json.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

/// A value of a variable: a good one, none, or any octets.
fn any_value(good: &'static str) -> impl Strategy<Value = Option<OsString>> {
    prop_oneof![
        5 => Just(Some(OsString::from(good))),
        1 => Just(None),
        1 => "[A-Za-z0-9=;/._-]{0,24}".prop_map(|text| Some(text.into())),
        1 => prop::collection::vec(1..=255_u8, 0..24).prop_map(|octets| Some(OsString::from_vec(octets))),
    ]
}

fn any_environment() -> impl Strategy<Value = Vec<(&'static str, Option<OsString>)>> {
    let command = prop_oneof![
        6 => prop::sample::select(vec!["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"])
            .prop_map(|command| Some(OsString::from(command))),
        1 => any_value("add"),
    ];
    let values = (
        command,
        any_value("c1"),
        any_value("eth0"),
        any_value("/proc/self/ns/net"),
        any_value("/usr/lib/cni"),
        any_value("K8S_POD_NAMESPACE=default;K8S_POD_NAME=p"),
    );
    values.prop_map(|(command, container, interface, namespace, path, arguments)| {
        vec![
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", container),
            ("CNI_IFNAME", interface),
            ("CNI_NETNS", namespace),
            ("CNI_PATH", path),
            ("CNI_ARGS", arguments),
        ]
    })
}

/// Runs the plugin; fails unless it answers as CNI has it, in time, and is not at fault itself.
fn answers(
    root: &Path,
    environment: &[(&'static str, Option<OsString>)],
    input: &[u8],
) -> Result<bool, TestCaseError> {
    let mut program = Command::new(programs::plugin());
    program.env_clear().env("DPUKIT_ROOT", root);
    for (name, value) in environment {
        if let Some(value) = value {
            program.env(name, value);
        }
    }
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = program.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input);
    // One that would never end is killed, so that its case is told.
    let most = SLACK + Duration::from_millis(500);
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() >= most {
            child.kill().unwrap();
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let took = start.elapsed();
    let output = child.wait_with_output().unwrap();
    let about = shown(&output);
    prop_assert!(took < most, "it took {took:?}: {about}");
    prop_assert!(output.stderr.is_empty(), "{about}");
    prop_assert!(output.status.code().is_some_and(|code| code < 2), "{about}");
    let is_good = output.status.success();
    if is_good && output.stdout.is_empty() {
        return Ok(true);
    }
    let answer: Result<Map<String, Value>, _> = serde_json::from_slice(&output.stdout);
    prop_assert!(answer.is_ok(), "no JSON object: {about}");
    let answer = answer.unwrap_or_default();
    prop_assert_eq!(answer.contains_key("code"), !is_good, "{}", about);
    // 199 is the plugin's own fault.
    prop_assert!(answer.get("code") != Some(&json!(199)), "{about}");
    prop_assert!(is_good || answer["msg"].as_str().is_some_and(|text| !text.is_empty()), "{about}");
    Ok(is_good)
}

#[test]
#[ignore = "needs the built programs"]
fn the_plugin_answers_whatever_it_is_given() {
    let host = Files::new();
    host.pf(0, 1);
    property(600, &(any_environment(), any_config()), |(environment, input)| {
        answers(host.root(), &environment, &input)?;
        // Nothing was to be had, so nothing is held.
        prop_assert_eq!(host.below("/var/lib/dpukit/claims"), [""; 0]);
        Ok(())
    });
}

/// What a file of sysfs may hold.
fn any_attribute() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "0x[0-9a-f]{0,8}\n".prop_map(String::into_bytes),
        "-?[0-9]{0,12}\n".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..24),
    ]
}

#[test]
#[ignore = "needs the built programs"]
fn the_plugin_answers_whatever_sysfs_holds() {
    const ATTRIBUTES: [&str; 6] = [
        "0000:01:00.0/sriov_numvfs",
        "0000:01:00.0/vendor",
        "0000:01:00.0/sriov_vf_device",
        "0000:01:10.0/vendor",
        "0000:01:10.0/net",
        "0000:01:00.0/virtfn7",
    ];
    let changes = prop::collection::vec((prop::sample::select(ATTRIBUTES.to_vec()), any_attribute()), 1..4);
    let commands = prop::sample::select(vec!["ADD", "STATUS", "GC"]);
    let config = json!({"cniVersion": "1.1.0", "name": "n", "type": "offload-cni", "insecure": true,
        "agent": "127.0.0.1:9", "deadlineSeconds": 0.5, "cni.dev/valid-attachments": []});
    property(120, &(changes, commands), |(changes, command)| {
        let host = Files::new();
        host.pf(0, 2);
        for (attribute, octets) in changes {
            let path = format!("/sys/bus/pci/devices/{attribute}");
            if !host.at(&path).is_dir() {
                host.write(&path, octets);
            }
        }
        let mut environment = vec![("CNI_COMMAND", Some(command.into()))];
        if command == "ADD" {
            // It gets as far as the choice of a VF in a namespace that is not the host's.
            environment.extend([
                ("CNI_CONTAINERID", Some("c1".into())),
                ("CNI_IFNAME", Some("eth0".into())),
                ("CNI_NETNS", Some("/proc/1/ns/net".into())),
            ]);
        }
        answers(host.root(), &environment, config.to_string().as_bytes())?;
        Ok(())
    });
}

#[test]
#[ignore = "needs the built programs"]
fn the_plugin_answers_in_time_whatever_number_of_vfs_sysfs_tells() {
    let host = Files::new();
    host.pf(0, 2);
    host.write("/sys/bus/pci/devices/0000:01:00.0/sriov_numvfs", format!("{}\n", u32::MAX));
    let config = json!({"cniVersion": "1.1.0", "name": "n", "type": "offload-cni", "insecure": true,
        "agent": "127.0.0.1:9", "deadlineSeconds": 0.5});
    let environment = [("CNI_COMMAND", Some("STATUS".into()))];
    let answered = answers(host.root(), &environment, config.to_string().as_bytes());
    // Nobody is at the agent's address.
    assert!(matches!(answered, Ok(false)), "{answered:?}");
}
