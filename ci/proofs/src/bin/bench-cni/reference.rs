//! The reference plugins, in Go: `ptp` with `host-local`, of Debian's package `containernetworking-plugins`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// Where Debian's package has them.
pub const FOLDER: &str = "/usr/lib/cni";

/// The plugin `ptp`, with a configuration that gives each pod an IPv4 address.
pub struct Reference {
    config: Value,
}

impl Reference {
    /// With its books in this folder.
    pub fn new(books: &Path) -> Self {
        assert!(program().is_file(), "there is no `{FOLDER}/ptp`: `ci/install` installs it");
        let ranges = json!([[{"subnet": "10.245.0.0/16"}]]);
        let ipam = json!({"type": "host-local", "ranges": ranges, "dataDir": books,
            "routes": [{"dst": "0.0.0.0/0"}]});
        let config =
            json!({"cniVersion": "1.0.0", "name": "reference", "type": "ptp", "mtu": 1450, "ipam": ipam});
        Self { config }
    }

    /// Starts a call.
    pub fn start(&self, command: &str, container: &str) -> Child {
        let mut program = Command::new(program());
        program.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        program.env("CNI_COMMAND", command).env("CNI_PATH", FOLDER).env("CNI_IFNAME", "ref0");
        program.env("CNI_CONTAINERID", container).env("CNI_NETNS", format!("/run/netns/{container}"));
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = program.spawn().unwrap();
        // One that needs no configuration may have ended without having read it.
        let _ = child.stdin.take().unwrap().write_all(self.config.to_string().as_bytes());
        child
    }

    /// Makes a call, which must succeed.
    pub fn call(&self, command: &str, container: &str) {
        let output = self.start(command, container).wait_with_output().unwrap();
        assert!(output.status.success(), "{command} of ptp: {}", dpukit_proofs::run::shown(&output));
    }
}

fn program() -> PathBuf {
    Path::new(FOLDER).join("ptp")
}
