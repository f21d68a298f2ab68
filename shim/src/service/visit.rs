//! The service from a container, for hosts that take no package: a `DaemonSet` brings it, and what it needs.
//!
//! It makes the host's root its own, puts the programs there, for the runtime starts the plugin and people `dpu-host`, and
//! is the same service as the package's. When it is told to stop, it takes all of it away; not where the host itself
//! stops, as others would give the pods of its next start a network. Being killed it takes nothing away, and the next
//! container goes on.
//!
//! All of that happens under the one lock of `dpu-host`, so that a container that follows finds it whole, or not at all.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::config::{Config, PATH as CONFIG};
use super::machine::Machine;
use super::phases::VISITING;
use super::report::Report;
use super::restore::put_back;
use super::run::{lock, watch};
use crate::files::{self, Files};

/// The package's own program.
const PACKAGED: &str = "/usr/sbin/dpu-host";
/// What is brought: where the image has it, where the host gets it, and its mode. On many hosts `/usr` can't be written.
const BROUGHT: [(&str, &str, u32); 4] = [
    (PACKAGED, "/opt/dpukit/bin/dpu-host", 0o755),
    ("/usr/lib/cni/offload-cni", VISITING, 0o755),
    ("/usr/lib/NetworkManager/conf.d/90-dpukit.conf", "/etc/NetworkManager/conf.d/90-dpukit.conf", 0o644),
    ("/usr/lib/systemd/network/10-dpukit.network", "/etc/systemd/network/10-dpukit.network", 0o644),
];
/// How a configuration begins that a container brought.
const MARK: &str = "# From the container of dpu-host, which writes it at each start: change it there.\n";
/// Those who are told that the card's interfaces are none of theirs, where they run.
const MANAGERS: [(&str, &[&str]); 2] =
    [("nmcli", &["general", "reload", "conf"]), ("networkctl", &["reload"])];
/// Who knows that the host stops, and what they say then: the second while services still wait for their end.
const STOPS: [(&str, &[&str], &str); 2] = [
    ("systemctl", &["is-system-running"], "stopping"),
    (
        "busctl",
        &[
            "get-property",
            "org.freedesktop.login1",
            "/org/freedesktop/login1",
            "org.freedesktop.login1.Manager",
            "PreparingForShutdown",
        ],
        "b true",
    ),
];

/// Is the service of the host whose root is at `host`, until it is told to stop; then all is as it was before. `image` is
/// the container's own root.
///
/// # Errors
/// The host has the package or a configuration of its own, can't be written to or entered, or the service fails: what was
/// brought stays then, and so do pods.
pub fn run(image: &Path, host: &Path, stop: &Receiver<()>) -> Result<Report> {
    ensure!(host.is_absolute() && host != Path::new("/"), "the host's root can't be `{}`", host.display());
    ensure!(host.join("etc").is_dir(), "`{}` is no root of a host: mount its `/` there", host.display());
    let files = Load::read(image)?;
    // From here on the host's links lead where they lead on the host.
    nix::unistd::chroot(host)
        .and_then(|()| nix::unistd::chdir("/"))
        .with_context(|| format!("entering the host's root `{}`", host.display()))?;
    let _lock = lock(&Files::below("/"), Duration::from_secs(30))?;
    files.put()?;
    tell_managers();
    watch(Machine::open("/")?, stop)?;
    let mut report = Report::default();
    if stops() {
        report.found("the host stops: all stays as it is for its next start");
        return Ok(report);
    }
    if has_package() {
        report.found("the host has the package dpukit-host now: what both use is the package's");
    } else {
        put_back(&Machine::open_for_the_end("/")?.0, &mut report);
    }
    take_away(&mut report);
    tell_managers();
    Ok(report)
}

fn has_package() -> bool {
    Path::new(PACKAGED).exists()
}

/// What the image has for the host.
struct Load {
    files: Vec<(&'static str, u32, Vec<u8>)>,
    config: String,
}

impl Load {
    /// # Errors
    /// A file is not there, or the configuration makes no sense: the host keeps the one that it has.
    fn read(image: &Path) -> Result<Self> {
        let image = Files::below(image);
        let context = |path: &str| format!("reading `{path}` of the image");
        let config = fs::read_to_string(image.at(CONFIG)).with_context(|| context(CONFIG))?;
        Config::parse(&config).with_context(|| context(CONFIG))?;
        let read = |(from, to, mode): (&str, &'static str, u32)| {
            Ok((to, mode, fs::read(image.at(from)).with_context(|| context(from))?))
        };
        Ok(Self { files: BROUGHT.into_iter().map(read).collect::<Result<_>>()?, config })
    }

    /// Puts all of it onto the host.
    fn put(&self) -> Result<()> {
        if has_package() {
            bail!(
                "the host has the package dpukit-host, which does the same: remove it, or keep this container off"
            );
        }
        if !is_brought()? {
            bail!(
                "the host has a `{CONFIG}` of its own: move it away, and what it says into the container's"
            );
        }
        for (path, mode, bytes) in &self.files {
            let path = Path::new(path);
            if fs::read(path).is_ok_and(|there| there == *bytes) {
                continue;
            }
            files::install(path, bytes, *mode)?;
        }
        files::replace(Path::new(CONFIG), format!("{MARK}{}", self.config).as_bytes())
    }
}

/// Whether the host's configuration is a container's, or there is none.
fn is_brought() -> Result<bool> {
    match fs::symlink_metadata(CONFIG) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error).with_context(|| format!("reading `{CONFIG}`")),
        Ok(found) if !found.is_file() => return Ok(false),
        Ok(_) => {}
    }
    let bytes = fs::read(CONFIG).with_context(|| format!("reading `{CONFIG}`"))?;
    Ok(bytes.starts_with(MARK.as_bytes()))
}

fn take_away(report: &mut Report) {
    let mut paths: Vec<_> = BROUGHT.iter().map(|(_, to, _)| *to).collect();
    report.try_to(|_| {
        if is_brought()? {
            paths.push(CONFIG);
        }
        Ok(())
    });
    for path in paths {
        report.try_to(|report| {
            files::remove(Path::new(path))?;
            report.did(format!("removed `{path}`"));
            Ok(())
        });
    }
    // Where something else is in them they stay.
    for folder in ["/opt/dpukit/bin", "/opt/dpukit"] {
        let _ = fs::remove_dir(folder);
    }
}

fn tell_managers() {
    for (program, arguments) in MANAGERS {
        ask(program, arguments);
    }
}

/// Whether the host goes down, by any of those who know.
fn stops() -> bool {
    STOPS.into_iter().any(|(program, arguments, says)| ask(program, arguments) == says)
}

/// What a program of the host says; nothing where there is none.
fn ask(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    // systemctl would else say that it is nobody's system.
    command.args(arguments).env("SYSTEMD_IGNORE_CHROOT", "1").stdin(Stdio::null());
    let output = command.output();
    tracing::debug!("{program}: {output:?}");
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
