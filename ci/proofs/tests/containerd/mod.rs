//! containerd of its own: configuration, state, socket and images are in folders that end with the test.

mod image;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dpukit_proofs::programs;
use dpukit_proofs::protocols::runtime::runtime_service_client::RuntimeServiceClient;
use dpukit_proofs::protocols::runtime::{
    LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PodSandboxState, PodSandboxStatusRequest,
    PodSandboxStatusResponse, RemovePodSandboxRequest, RunPodSandboxRequest, StatusRequest,
    StopPodSandboxRequest,
};
use dpukit_proofs::run::run;
use dpukit_proofs::stage::{Stage, wait_until_or};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

/// As the kubelet's own limit for a sandbox.
const PATIENCE: Duration = Duration::from_mins(2);
const PROGRAMS: [&str; 4] = ["containerd", "ctr", "runc", "busybox"];

/// The runtime.
pub struct Containerd {
    folder: TempDir,
    runtime: Runtime,
    running: Option<Child>,
}

/// A pod that it made.
#[derive(Debug)]
pub struct Pod {
    /// The sandbox's id.
    pub id: String,
    /// The name of its network namespace.
    pub namespace: String,
    /// Its addresses, as the kubelet hears them.
    pub addresses: Vec<String>,
}

impl Containerd {
    /// Starts it with our configuration of the network, and gives it the image that every pod begins with.
    pub fn start(stage: &Stage) -> Self {
        for program in PROGRAMS {
            let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                .any(|folder| folder.join(program).is_file());
            assert!(found, "there is no `{program}`: `ci/install` installs it");
        }
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut containerd = Self { folder, runtime, running: None };
        containerd.configure(stage);
        containerd.restart(stage);
        let archive = containerd.at("pause.tar");
        image::write(&archive);
        run(&format!(
            "ctr -a {} -n k8s.io images import {}",
            containerd.socket().display(),
            archive.display()
        ));
        containerd
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.at("containerd.sock")
    }

    fn configure(&self, stage: &Stage) {
        for folder in ["bin", "net.d"] {
            fs::create_dir(self.at(folder)).unwrap();
        }
        symlink(programs::plugin(), self.at("bin/offload-cni")).unwrap();
        symlink("/usr/lib/cni/loopback", self.at("bin/loopback")).unwrap();
        let mut plugin = stage.config.clone();
        for key in ["name", "cniVersion"] {
            plugin.as_object_mut().unwrap().remove(key);
        }
        // This containerd knows CNI up to 1.0.0.
        let list = json!({"cniVersion": "1.0.0", "name": "offload", "plugins": [plugin]});
        fs::write(self.at("net.d/20-offload-cni.conflist"), list.to_string()).unwrap();
        let folder = self.folder.path().display();
        let config = format!(
            r#"version = 2
root = "{folder}/root"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.restart", "io.containerd.snapshotter.v1.devmapper"]

[grpc]
address = "{folder}/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
stream_server_address = "127.0.0.1"
stream_server_port = "0"
disable_apparmor = true
# A machine may not let root make a process safer from the kernel's hunger for memory.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{folder}/bin"
conf_dir = "{folder}/net.d"
"#,
            image = image::NAME,
        );
        fs::write(self.at("config.toml"), config).unwrap();
    }

    /// Starts it again after [`Containerd::kill`].
    pub fn restart(&mut self, stage: &Stage) {
        let log = File::options().append(true).create(true).open(self.at("log")).unwrap();
        let mut program = Command::new("containerd");
        program.arg("--config").arg(self.at("config.toml"));
        // The plugin inherits it.
        program.env("DPUKIT_ROOT", stage.host.root());
        program.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.running = Some(program.spawn().unwrap());
        wait_until_or("containerd serves", Duration::from_mins(1), || {
            let conditions = self.try_conditions().map_err(|error| format!("{error}\n{}", self.log()))?;
            if conditions.iter().all(|condition| condition.ends_with(": true")) {
                Ok(())
            } else {
                Err(format!("{conditions:?}\n{}", self.log()))
            }
        });
    }

    /// Ends it with SIGKILL. Its pods live on.
    pub fn kill(&mut self) {
        let mut child = self.running.take().expect("containerd runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The last of what it said.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.at("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn ask<T>(
        &self,
        ask: impl AsyncFnOnce(&mut RuntimeServiceClient<Channel>) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, String> {
        let socket = self.socket();
        self.runtime.block_on(async {
            let connect = tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            });
            let endpoint = Endpoint::from_static("http://containerd").timeout(PATIENCE);
            let channel =
                endpoint.connect_with_connector(connect).await.map_err(|error| format!("{error:?}"))?;
            let answer = ask(&mut RuntimeServiceClient::new(channel)).await;
            answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
        })
    }

    fn try_conditions(&self) -> Result<Vec<String>, String> {
        let answer = self.ask(async |client| client.status(StatusRequest {}).await)?;
        let conditions = answer.status.unwrap_or_default().conditions;
        Ok(conditions
            .into_iter()
            .map(|condition| format!("{}: {}", condition.r#type, condition.status))
            .collect())
    }

    /// What it says of itself.
    pub fn conditions(&self) -> Vec<String> {
        self.try_conditions().unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// Makes a pod; what it said where it could not.
    pub fn run(&self, name: &str, attempt: u32) -> Result<Pod, String> {
        let metadata = PodSandboxMetadata {
            name: format!("pod-{name}"),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt,
        };
        let config = PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory: self.at("pods").display().to_string(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: "/dpukit-proofs".into() }),
        };
        let request = RunPodSandboxRequest { config: Some(config) };
        let id = self.ask(async |client| client.run_pod_sandbox(request).await)?.pod_sandbox_id;
        let status = self.status(&id);
        let network = status.status.unwrap_or_default().network.unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        let addresses = [network.ip].into_iter().chain(more).collect();
        Ok(Pod { namespace: namespace(&status.info), id, addresses })
    }

    fn status(&self, id: &str) -> PodSandboxStatusResponse {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let answer = self.ask(async |client| client.pod_sandbox_status(request).await);
        answer.unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// Whether a pod runs.
    pub fn is_ready(&self, id: &str) -> bool {
        self.status(id).status.is_some_and(|status| status.state() == PodSandboxState::SandboxReady)
    }

    /// Ends a pod and forgets it, as the kubelet does, which asks for the end more than once.
    pub fn end(&self, id: &str) {
        for _ in 0..2 {
            let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
            let stopped = self.ask(async |client| client.stop_pod_sandbox(request).await);
            stopped.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        }
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let removed = self.ask(async |client| client.remove_pod_sandbox(request).await);
        removed.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The network namespaces of pods that there are.
pub fn namespaces() -> Vec<String> {
    let names = fs::read_dir("/run/netns").unwrap().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("cni-")).collect()
}

/// The name of a sandbox's network namespace, in containerd's own words about it.
fn namespace(info: &std::collections::HashMap<String, String>) -> String {
    let info: Value = serde_json::from_str(&info["info"]).unwrap();
    let all = info["runtimeSpec"]["linux"]["namespaces"].as_array().unwrap();
    let network = all.iter().find(|namespace| namespace["type"] == "network").unwrap();
    let path = Path::new(network["path"].as_str().unwrap());
    path.file_name().unwrap().to_str().unwrap().to_owned()
}
