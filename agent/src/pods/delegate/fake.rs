//! A folder with plugins that are shell scripts, their list, and what they were called with.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Delegate, Settings};
use crate::pods::network::{Attachment, Pod, Vf};

pub struct Fake {
    folder: tempfile::TempDir,
    pub delegate: Delegate,
}

pub fn attachment() -> Attachment {
    Attachment {
        container: "c01".into(),
        interface: "eth0".into(),
        pod: Pod { namespace: "default".into(), name: "web".into(), uid: "u-1".into() },
        mac: "02:00:00:00:00:07".into(),
        vf: Vf { address: "0002:01:00.3".into(), interface: "sdp3".into() },
        given: Vec::new(),
    }
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

impl Fake {
    /// Plugins of these names, which do nothing, in a list of this text.
    pub fn new(list: &str, plugins: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["net.d", "bin"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("net.d/10.conflist"), list).unwrap();
        for name in plugins {
            let script = format!(
                r#"#!/bin/sh
there='{there}'
input=$(cat)
say() {{ printf '%s\n' "$*"; }}
say "{name} $CNI_COMMAND $input" >>"$there/calls"
env | grep ^CNI_ | sort >"$there/environment"
if [ -e "$there/{name}.$CNI_COMMAND" ]; then . "$there/{name}.$CNI_COMMAND"; fi
"#,
                there = folder.path().display(),
            );
            let path = at("bin").join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let delegate = Delegate::new(Settings {
            list: "cep".into(),
            folder: at("net.d"),
            plugins: vec![at("none"), at("bin")],
            cache: at("cache"),
            namespace: PathBuf::from("/proc/1/ns/net"),
            interfaces: folder.path().join("net"),
        });
        Self { folder, delegate }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What a plugin does at a command, as a script.
    pub fn on(&self, plugin: &str, command: &str, script: &str) -> &Self {
        fs::write(self.path().join(format!("{plugin}.{command}")), script).unwrap();
        self
    }

    /// What was called since the last time, a line for each: plugin, command, configuration.
    pub fn calls(&self) -> String {
        let path = self.path().join("calls");
        let calls = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        calls
    }

    /// As [`Fake::calls`], without the configurations.
    pub fn order(&self) -> Vec<String> {
        let words = |call: &str| call.split(' ').take(2).collect::<Vec<_>>().join(" ");
        self.calls().lines().map(words).collect()
    }

    /// The configuration of the last call.
    pub fn last(&self) -> Value {
        let calls = self.calls();
        let last = calls.lines().last().unwrap();
        serde_json::from_str(last.splitn(3, ' ').nth(2).unwrap()).unwrap()
    }

    /// The environment of the last call.
    pub fn environment(&self) -> String {
        let environment = fs::read_to_string(self.path().join("environment")).unwrap();
        environment.replace(&self.path().display().to_string(), "/there")
    }

    /// How many networks are written down.
    pub fn begun(&self) -> usize {
        fs::read_dir(self.path().join("cache")).map_or(0, Iterator::count)
    }
}
