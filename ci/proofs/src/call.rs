//! Calls of the plugin, as a runtime makes them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::programs;

/// A call.
#[derive(Debug, Clone)]
pub struct Call {
    /// `ADD`, `DEL` and so on.
    pub command: &'static str,
    /// The container, which is the name of its namespace as well.
    pub container: String,
    /// The plugin's configuration.
    pub config: Value,
    /// Where the host's `/` is.
    pub root: PathBuf,
    /// Where plugins are that ours may run (`CNI_PATH`).
    pub path: String,
}

/// What the plugin answered.
#[derive(Debug)]
pub struct Answer {
    /// Whether it ended well.
    pub success: bool,
    /// Its standard output.
    pub text: String,
    /// From its start to its end.
    pub took: Duration,
}

/// A call that is under way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    start: Instant,
}

impl Call {
    /// Starts it.
    pub fn start(&self) -> Running {
        let mut program = Command::new(programs::plugin());
        program.env_clear().envs(self.environment());
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = program.spawn().unwrap();
        // One that is killed at once reads nothing.
        let _ = child.stdin.take().unwrap().write_all(self.config.to_string().as_bytes());
        Running { child, start }
    }

    /// The variables that tell the plugin what to do.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("DPUKIT_ROOT", self.root.display().to_string()),
            ("CNI_COMMAND", self.command.to_owned()),
            ("CNI_PATH", self.path.clone()),
        ];
        if !matches!(self.command, "STATUS" | "GC" | "VERSION") {
            let pod = &self.container;
            all.extend([
                ("CNI_CONTAINERID", pod.clone()),
                ("CNI_IFNAME", "eth0".to_owned()),
                ("CNI_NETNS", format!("/run/netns/{pod}")),
                ("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{pod}")),
            ]);
        }
        all
    }

    /// Makes it.
    pub fn make(&self) -> Answer {
        self.start().answer()
    }
}

impl Running {
    /// The answer.
    pub fn answer(self) -> Answer {
        let output = self.child.wait_with_output().unwrap();
        let took = self.start.elapsed();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        Answer { success: output.status.success(), text: String::from_utf8(output.stdout).unwrap(), took }
    }

    /// Kills it after so long, unless it was faster: then its answer.
    pub fn kill_after(mut self, time: Duration) -> Option<Answer> {
        while self.start.elapsed() < time {
            if self.child.try_wait().unwrap().is_some() {
                return Some(self.answer());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        // It may have ended between the last look and the kill.
        status.code().is_some().then(|| self.answer())
    }
}

impl Answer {
    /// The result of a call that succeeded.
    pub fn result(&self) -> Value {
        assert!(self.success, "{self:?}");
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    /// Of a call that succeeded and had nothing to say.
    pub fn result_is_empty(&self) {
        assert!(self.success && self.text.is_empty(), "{self:?}");
    }

    /// The code, and what went wrong, of a call that failed.
    pub fn error(&self) -> (u64, String) {
        assert!(!self.success, "{self:?}");
        let error: Value = serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{self:?}"));
        (error["code"].as_u64().unwrap(), error["details"].as_str().unwrap_or_default().to_owned())
    }

    /// The pod's address of a family, without its prefix's length.
    pub fn address(&self, is_ipv6: bool) -> Option<String> {
        address(&self.result(), is_ipv6)
    }
}

/// The address of a family in a result, without its prefix's length.
pub fn address(result: &Value, is_ipv6: bool) -> Option<String> {
    let all = result["ips"].as_array()?.iter().filter_map(|ip| ip["address"].as_str());
    let mut ours = all.filter(|address| address.contains(':') == is_ipv6);
    ours.next().map(|address| address.split('/').next().unwrap_or(address).to_owned())
}
