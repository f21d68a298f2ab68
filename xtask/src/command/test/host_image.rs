//! The host's container image, in a real containerd: it brings the service to a made-up host, and takes it away.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dpukit_image::recipes::host_image_reference;

use super::deb::succeed;
use super::running::Running;

/// What the test runs.
pub const PROGRAMS: [&str; 3] = ["containerd", "ctr", "runc"];
const PATIENCE: Duration = Duration::from_mins(2);
/// The container's name.
const NAME: &str = "dpu-host";
/// What of the image is found on the host while it runs.
const BROUGHT: [&str; 4] = [
    "opt/dpukit/bin/dpu-host",
    "opt/dpukit/bin/offload-cni",
    "opt/cni/bin/offload-cni",
    "etc/NetworkManager/conf.d/90-dpukit.conf",
];

/// Runs the image whose archive this is.
pub fn run(archive: &Path) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder for containerd")?;
    let host = folder.path().join("host");
    // A host without a card, as far as the service looks: the kernel's own files are mounted over the empty folders.
    for name in ["etc", "proc", "dev", "sys/bus/pci/devices"] {
        fs::create_dir_all(host.join(name))?;
    }
    let containerd = Containerd::start(folder.path())?;
    succeed(containerd.ctr(&["images", "import"]).arg(archive))?;

    let mut command =
        containerd.ctr(&["run", "--rm", "--privileged", "--net-host", "--snapshotter", "native"]);
    for (from, to) in [(host.as_path(), ""), (Path::new("/proc"), "/proc"), (Path::new("/dev"), "/dev")] {
        let mount = format!("type=bind,src={},dst=/host{to},options=rbind:rw", from.display());
        command.args(["--mount", &mount]);
    }
    let log = folder.path().join("service.log");
    command.args([&host_image_reference(), NAME]).stdin(Stdio::null());
    let service =
        command.stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?).spawn();
    let mut service = Running(service.context("starting `ctr`")?);
    let told = || fs::read_to_string(&log).unwrap_or_default();
    wait("the service to look at the host", || {
        if let Some(status) = service.0.try_wait()? {
            bail!("it ended with {status}:\n{}", told());
        }
        Ok(host.join("run/dpukit/host.json").exists())
    })
    .with_context(told)?;
    for path in BROUGHT {
        ensure!(host.join(path).symlink_metadata().is_ok(), "the host has no `{path}`:\n{}", told());
    }
    // The programs that people use at the host need nothing of the container.
    let status = host.join("opt/dpukit/bin/dpu-host");
    succeed(Command::new(status).arg("--version"))?;

    succeed(&mut containerd.ctr(&["tasks", "kill", "--signal", "SIGTERM", NAME]))?;
    let mut ended = None;
    wait("the service to end", || {
        ended = service.0.try_wait()?;
        Ok(ended.is_some())
    })?;
    ensure!(ended.is_some_and(|status| status.success()), "the service ended with {ended:?}:\n{}", told());
    for path in BROUGHT.into_iter().chain(["etc/dpukit/host.toml", "opt/dpukit"]) {
        ensure!(host.join(path).symlink_metadata().is_err(), "the host still has `{path}`:\n{}", told());
    }
    Ok(())
}

/// containerd with folders of its own.
struct Containerd {
    socket: PathBuf,
    _running: Running,
}

impl Containerd {
    fn start(folder: &Path) -> Result<Self> {
        let at = |name: &str| folder.join(name);
        let config = format!(
            "version = 2\nroot = \"{root}/root\"\nstate = \"{root}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.devmapper\"]\n\
             [grpc]\naddress = \"{root}/containerd.sock\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{root}/opt\"\n",
            root = folder.display()
        );
        fs::write(at("config.toml"), config)?;
        let log = File::create(at("containerd.log"))?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(at("config.toml")).stdin(Stdio::null());
        let running =
            command.stdout(log.try_clone()?).stderr(log).spawn().context("starting `containerd`")?;
        let containerd = Self { socket: at("containerd.sock"), _running: Running(running) };
        wait("containerd to serve", || Ok(containerd.ctr(&["version"]).output()?.status.success()))
            .with_context(|| fs::read_to_string(at("containerd.log")).unwrap_or_default())?;
        Ok(containerd)
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket).args(arguments);
        command
    }
}

fn wait(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < end, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
