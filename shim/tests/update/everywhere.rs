//! Many hosts, through a stand-in for ssh.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::card::{Answer, Card};

/// A stand-in for ssh: it keeps what comes, notes when it begins and ends, and fails for hosts that have a file.
const SSH: &str = r#"#!/bin/sh
set -eu
[ "$1 $2" = "-o BatchMode=yes" ]
at=$(dirname "$0")
echo "begin $3" >>"$at/log"
echo "$4" >>"$at/commands"
cat >"$at/got.$3"
echo "installing on $3"
if [ -e "$at/slow.$3" ]; then
    while ! [ -e "$at/got.$(cat "$at/slow.$3")" ]; do sleep 0.05; done
fi
echo "end $3" >>"$at/log"
if [ -e "$at/fails.$3" ]; then echo "error: the card said: it has no room" >&2; exit 1; fi
"#;

struct Hosts {
    card: Card,
    bundle: PathBuf,
}

impl Hosts {
    fn new(list: &str) -> Self {
        let card = Card::unpaired();
        let ssh = card.write("ssh/ssh", SSH);
        fs::set_permissions(ssh, fs::Permissions::from_mode(0o755)).unwrap();
        card.write("hosts", list);
        let bundle = card.bundle("good");
        Self { card, bundle }
    }

    fn update(&self, more: &[&str]) -> Answer {
        let at = |name: &str| self.card.folder.path().join(name).display().to_string();
        let (bundle, list, ssh) = (at("update.raucb"), at("hosts"), at("ssh/ssh"));
        let arguments = [&[bundle.as_str(), "--all", &list, "--ssh", &ssh], more].concat();
        self.card.update(&arguments)
    }

    /// What ssh was asked since the last time.
    fn log(&self) -> Vec<String> {
        let path = self.card.folder.path().join("ssh/log");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.card.folder.path().join("ssh").join(name)
    }
}

#[test]
fn hosts_get_the_bundle_in_their_order_one_after_the_other() {
    let hosts = Hosts::new("node1 # first\nnode2\n\nnode3\n");
    let answer = hosts.update(&["--within", "20m"]);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert_eq!(
        hosts.log(),
        ["begin node1", "end node1", "begin node2", "end node2", "begin node3", "end node3"]
    );
    for host in ["node1", "node2", "node3"] {
        assert_eq!(fs::read(hosts.file(&format!("got.{host}"))).unwrap(), fs::read(&hosts.bundle).unwrap());
        assert!(answer.out.contains(&format!("{host}: installing on {host}\n")), "{answer:?}");
    }
    let commands = fs::read_to_string(hosts.file("commands")).unwrap();
    assert_eq!(commands, "dpu-host update - --within 1200s\n".repeat(3));
}

#[test]
fn after_a_failure_no_other_begins_and_the_same_command_goes_on() {
    let hosts = Hosts::new("node1\nnode2\nnode3\n");
    fs::write(hosts.file("fails.node2"), "").unwrap();
    let answer = hosts.update(&[]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert_eq!(hosts.log(), ["begin node1", "end node1", "begin node2", "end node2"]);
    let (_, table) = answer.out.split_once("\n\n").unwrap();
    let (before, took) = table.split_once("done in ").unwrap();
    let took = took.trim_start_matches(|one: char| one.is_ascii_digit());
    insta::assert_snapshot!(format!("{before}done in N{took}"), @"
    host   card
    node1  done in N s
    node2  failed: the card said: it has no room
    node3  not begun
    ");
    assert!(answer.errors.ends_with(
        "error: 1 of 3 hosts are done: mend what failed, and the same command goes on with the others\n"
    ));

    fs::remove_file(hosts.file("fails.node2")).unwrap();
    let answer = hosts.update(&[]);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert_eq!(hosts.log(), ["begin node2", "end node2", "begin node3", "end node3"]);
    assert!(answer.out.contains("node1  done before\n"), "{answer:?}");
    assert_eq!(hosts.update(&[]).code, Some(0));
    assert_eq!(hosts.log(), [""; 0]);

    hosts.card.bundle("another");
    let answer = hosts.update(&[]);
    assert!(answer.errors.contains("is of another bundle: all hosts are begun anew"), "{answer:?}");
    assert_eq!(hosts.log().len(), 6);
}

#[test]
fn so_many_run_at_once_and_those_that_run_end() {
    let hosts = Hosts::new("node1\nnode2\nnode3\n");
    // The first waits for the second: alone it would wait for ever.
    fs::write(hosts.file("slow.node1"), "node2").unwrap();
    fs::write(hosts.file("fails.node1"), "").unwrap();
    fs::write(hosts.file("slow.node2"), "node1").unwrap();
    fs::write(hosts.file("fails.node2"), "").unwrap();
    let answer = hosts.update(&["--at-once", "2"]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    let log = hosts.log();
    assert_eq!(log.iter().filter(|line| line.starts_with("begin")).count(), 2, "{log:?}");
    assert_eq!(log.iter().filter(|line| line.starts_with("end")).count(), 2, "{log:?}");
    assert!(!hosts.file("got.node3").exists());
}

#[test]
fn what_can_not_be_done_for_all_is_told_before_any_is_begun() {
    let hosts = Hosts::new("-oProxyCommand=x\n");
    assert!(hosts.update(&[]).errors.contains("line 1: `-oProxyCommand=x` is no host"));
    hosts.card.write("hosts", "node1\n");
    hosts.card.write("hosts.state", "no state");
    assert!(hosts.update(&[]).errors.contains("does not say which hosts are done"));
    assert_eq!(hosts.update(&["--no-restart"]).code, Some(2));
    assert_eq!(hosts.update(&["--at-once", "0"]).code, Some(2));
    assert_eq!(hosts.log(), [""; 0]);
}
