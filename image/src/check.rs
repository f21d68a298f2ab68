//! What a card must do once booted, checked on the emulated card from outside.
//!
//! The checks are a table: a name, what runs on the card, and what its output must be. "Failed" and
//! "could not be checked" are different things in a report.

mod firewall;
mod pairing;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dpu_trust::client::Identity;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::config::{Config, Emulator};
use crate::emulator::{Card, Programs};
use crate::kconfig::{self, Requirements};

/// How one check went.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What was checked, as a sentence that holds.
    pub name: String,
    /// `Err` with what was found instead.
    pub result: Result<(), String>,
}

/// How a card did.
#[derive(Debug)]
pub struct Report {
    /// All checks in order.
    pub findings: Vec<Finding>,
    /// From power-on to the agent's first healthy answer, in the first boot.
    pub healthy_after: Option<Duration>,
    /// The console's transcript.
    pub console: PathBuf,
}

impl Report {
    /// Whether everything holds.
    pub fn is_good(&self) -> bool {
        self.findings.iter().all(|finding| finding.result.is_ok())
    }
}

/// What is needed to check an image.
#[derive(Debug)]
pub struct Subject<'a> {
    pub config: &'a Config,
    pub emulator: &'a Emulator,
    pub programs: &'a Programs,
    pub image: &'a Path,
    /// A folder for the card's files, transcript and throw-away key.
    pub folder: &'a Path,
    /// How long a boot may take before it counts as failed.
    pub patience: Duration,
}

impl Subject<'_> {
    /// The console's transcript, of all boots.
    fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }
}

/// One line of the table: a script for the card, and what of its output is right.
struct Check {
    name: String,
    script: String,
    right: Right,
}

enum Right {
    /// Exactly this, white space at the ends aside.
    Is(String),
    /// Anything, if the script ends with 0.
    Ends,
    /// The output goes to a judgement of its own.
    Config,
}

impl Check {
    fn is(name: impl Into<String>, script: impl Into<String>, right: impl Into<String>) -> Self {
        Self { name: name.into(), script: script.into(), right: Right::Is(right.into()) }
    }

    fn ends(name: impl Into<String>, script: impl Into<String>) -> Self {
        Self { name: name.into(), script: script.into(), right: Right::Ends }
    }
}

fn table(subject: &Subject<'_>) -> Vec<Check> {
    let emulator = subject.emulator;
    let name = format!("{}{}", pairing::NAME, subject.config.board.plan.hostname.suffix);
    let mut checks = vec![
        Check::is("the system is running", "systemctl is-system-running --wait", "running"),
        Check::is("no unit failed", "systemctl list-units --failed --no-legend --plain", ""),
        Check::is(
            "the root is squashfs, read-only",
            "findmnt -no FSTYPE,OPTIONS / | cut -d, -f1",
            "squashfs ro",
        ),
        Check::is(
            "the root can't be written",
            "touch /usr/x 2>&1 | grep -o 'Read-only file system'",
            "Read-only file system",
        ),
        Check::is("the folder `/` is root's alone to write", "stat -c '%a %U:%G' /", "755 root:root"),
        Check::is(
            "the root is behind dm-verity",
            "cat /sys/block/dm-0/dm/name; grep -o ' verity 1 ' /proc/cmdline",
            "root\n verity 1",
        ),
        Check::ends("every block of the root is what was built", "dd if=/dev/dm-0 of=/dev/null bs=1M"),
        Check::is(
            "a program with setuid is its group's alone",
            "stat -c '%a %U:%G' /usr/lib/dbus-1.0/dbus-daemon-launch-helper",
            "4754 root:messagebus",
        ),
        Check::ends("modules are stripped", "! grep -rlF .debug_info /usr/lib/modules"),
        Check::is(
            "/etc, /var and /root are on the data partition",
            "for m in /etc /var /root; do findmnt -no FSTYPE $m; done",
            "overlay\next4\next4",
        ),
        Check::ends(
            "the data partition has grown to the disk",
            "test $(df --output=size -BM /data | tail -1 | tr -dc 0-9) -gt 1000",
        ),
        Check::is(
            "256 MiB of huge pages of 32 MiB",
            "cat /sys/kernel/mm/hugepages/hugepages-32768kB/nr_hugepages; findmnt -no FSTYPE /dev/huge",
            "8\nhugetlbfs",
        ),
        Check::is(
            "a module that is not from the root is refused",
            "modprobe -r dummy; cp $(modinfo -n dummy) /var/tmp/x.ko; insmod /var/tmp/x.ko 2>&1 | \
             grep -o 'Operation not permitted'; modprobe dummy && echo but one from the root loads",
            "Operation not permitted\nbut one from the root loads",
        ),
        Check::ends("the agent's doctor finds nothing wrong", "dpu-agent doctor"),
        Check::is(
            "the card knows the host that paired",
            "dpu-agent pairing list | cut -d' ' -f1",
            pairing::NAME,
        ),
        Check::is(
            "the card is named after the host that paired",
            format!(
                "for try in $(seq 100); do grep -qx {name} /proc/sys/kernel/hostname && break; sleep 0.1; done; \
                 cat /proc/sys/kernel/hostname /etc/hostname"
            ),
            format!("{name}\n{name}"),
        ),
        Check::is(
            "the card's keys are root's alone",
            "cd /var/lib/dpukit/trust && stat -c '%U %a' . authority.pem server.pem hosts.json",
            "root 700\nroot 600\nroot 600\nroot 600",
        ),
        Check::is(
            "the watchdog waits for systemd",
            "readlink /proc/1/fd/* | grep -o watchdog; systemctl show --property=RuntimeWatchdogUSec --value",
            "watchdog\n1min",
        ),
        Check::is("swap is off", "cat /proc/swaps | tail -n +2", ""),
        Check::is("no password opens the card", "awk -F: '$2 !~ /^[!*]/' /etc/shadow", ""),
        Check {
            name: "the kernel has what the tables ask for".into(),
            script: "zcat /proc/config.gz".into(),
            right: Right::Config,
        },
    ];
    for pf in subject.config.board.plan.sriov.iter().filter(|pf| pf.expected) {
        let script = format!("{} cat $d/sriov_numvfs; done | sort -u", each(&pf.id.to_string()));
        checks.push(Check::is(format!("{} VFs of PF {}", pf.vfs, pf.id), script, pf.vfs.to_string()));
    }
    for (id, count) in &emulator.expect_vfio {
        let script = format!("{} basename $(readlink $d/driver); done | grep -c vfio-pci", each(id));
        checks.push(Check::is(format!("{count} devices {id} are on vfio-pci"), script, count.to_string()));
    }
    for module in &emulator.expect_modules {
        checks.push(Check::ends(format!("module {module} loads"), format!("modprobe {module}")));
    }
    checks
}

/// The head of a loop over the folders of all PCI devices with this id.
fn each(id: &str) -> String {
    let (vendor, device) = id.split_once(':').unwrap_or((id, ""));
    format!(
        "for d in /sys/bus/pci/devices/*; do [ $(cat $d/vendor)$(cat $d/device) = 0x{vendor}0x{device} ] || continue;"
    )
}

/// Boots the image twice and checks it. Only what keeps the checks from being made is an error.
pub fn check(subject: &Subject<'_>, progress: &dyn Fn(&str)) -> Result<Report> {
    let mut card = Card::new(subject.folder, subject.image, subject.emulator, subject.programs)?;
    card.make_key(&subject.programs.tools)?;
    let code = card.make_code()?;
    let closed = card.open_closed_ports()?;
    let console = subject.console();
    let _ = fs::remove_file(&console);

    let mut report = Report { findings: Vec::new(), healthy_after: None, console };
    progress("first boot");
    let mut boot = Boot::start(subject, &card)?;
    let healthy = boot.wait_healthy(None);
    report.healthy_after = healthy.as_ref().ok().copied();
    report.findings.push(Finding {
        name: "the agent is healthy by gRPC over the link".into(),
        result: healthy.map(|_| ()).map_err(|error| format!("{error:#}")),
    });
    if report.is_good() {
        progress("pairing");
        let (findings, identity) = pairing::check(card.agent_port, &code)?;
        report.findings.extend(findings);
        progress("firewall");
        report.findings.push(firewall::check(&boot, subject.config.board.plan.agent.port.get(), closed)?);
        progress("checks");
        report.findings.extend(boot.run(&table(subject))?);
        report.findings.push(boot.key_of_the_image());
        let keep = "echo kept >/var/lib/dpukit-check; cat /etc/machine-id; cat /etc/ssh/ssh_host_ed25519_key.pub; sync";
        let before = boot.ssh(keep)?;
        report.findings.push(boot.power_off());
        progress("second boot");
        let mut boot = Boot::start(subject, &card)?;
        let healthy = boot.wait_healthy(identity.as_ref()).map(|_| ()).map_err(|error| format!("{error:#}"));
        let again = healthy.is_ok();
        report.findings.push(Finding {
            name: "the card boots a second time, and knows the host that paired".into(),
            result: healthy,
        });
        if again {
            let after = boot.ssh(
                "cat /var/lib/dpukit-check; cat /etc/machine-id; cat /etc/ssh/ssh_host_ed25519_key.pub",
            )?;
            let right = format!("kept\n{before}");
            report.findings.push(Finding {
                name: "/var, the machine's id and the host key are kept".into(),
                result: if after == right {
                    Ok(())
                } else {
                    Err(format!("wanted `{right}`, found `{after}`"))
                },
            });
            report.findings.push(boot.power_off());
        }
    }
    Ok(report)
}

/// A running card; dropped, it is killed.
struct Boot<'a> {
    subject: &'a Subject<'a>,
    card: &'a Card,
    qemu: Child,
    start: Instant,
    /// Where in the console's log this boot begins.
    from: u64,
}

impl Drop for Boot<'_> {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl<'a> Boot<'a> {
    fn start(subject: &'a Subject<'a>, card: &'a Card) -> Result<Self> {
        let port = subject.config.board.plan.agent.port.get();
        let console_args = ["-display", "none", "-monitor", "none", "-no-reboot", "-serial", "stdio"];
        let log = File::options().create(true).append(true).open(subject.console())?;
        let from = log.metadata()?.len();
        let qemu = card
            .command(&subject.config.board, subject.emulator, &subject.programs.tools, port, &console_args)?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting QEMU")?;
        Ok(Self { subject, card, qemu, start: Instant::now(), from })
    }

    /// Asks the agent's health over the link until it is serving; as the host that has paired, if one has.
    fn wait_healthy(&mut self, identity: Option<&Identity>) -> Result<Duration> {
        let mut last = String::from("no answer");
        while self.start.elapsed() < self.subject.patience {
            if let Some(status) = self.qemu.try_wait()? {
                bail!("the card went off ({status}) before the agent answered");
            }
            match health(self.card.agent_port, identity) {
                Ok(ServingStatus::Serving) => return Ok(self.start.elapsed()),
                Ok(status) => last = format!("it answered {}", status.as_str_name()),
                Err(error) => last = format!("{error:#}"),
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        bail!("the agent was not healthy after {} s: {last}", self.subject.patience.as_secs())
    }

    /// Runs a script on the card as root; its output, trimmed.
    fn ssh(&self, script: &str) -> Result<String> {
        self.card.ssh(&self.subject.programs.tools, script)
    }

    /// Runs all checks of a table in one session.
    fn run(&self, checks: &[Check]) -> Result<Vec<Finding>> {
        let mut script = String::new();
        for (number, check) in checks.iter().enumerate() {
            script += &format!("echo '@@{number}'\n( {}\n) 2>&1; echo \"@@end $?\"\n", check.script);
        }
        let output = self.ssh(&script).context("logging in with the given key")?;
        let findings = checks.iter().enumerate().map(|(number, check)| {
            let part =
                output.split(&format!("@@{number}\n")).nth(1).and_then(|rest| rest.split_once("@@end "));
            let result = match part {
                None => Err("the card gave no answer".into()),
                Some((text, rest)) => {
                    self.judge(check, text.trim(), rest.lines().next().unwrap_or_default().trim())
                }
            };
            Finding { name: check.name.clone(), result }
        });
        Ok(findings.collect())
    }

    fn judge(&self, check: &Check, text: &str, status: &str) -> Result<(), String> {
        match &check.right {
            Right::Is(right) if right.trim() == text => Ok(()),
            Right::Is(right) => Err(format!("wanted `{}`, found `{text}`", right.trim())),
            Right::Ends if status == "0" => Ok(()),
            Right::Ends => Err(format!("ended with {status}: {text}")),
            Right::Config => self.judge_kernel(text).map_err(|error| format!("{error:#}")),
        }
    }

    fn judge_kernel(&self, text: &str) -> Result<()> {
        let config = kconfig::Config::parse(text)?;
        let folder = self.subject.config.root.join("kernel-config/requirements");
        let kernel = &self.subject.config.board.kernel;
        kconfig::require(&config, &Requirements::load_all(&folder, &kernel.requirements, kernel.pages)?)
    }

    /// Logs in by a key that is where the build puts one, and not where the credential does.
    fn key_of_the_image(&self) -> Finding {
        const GIVEN: &str = "/root/.ssh/authorized_keys";
        const BUILT_IN: &str = "/etc/ssh/authorized_keys.d/root";
        let there = format!("mkdir -p $(dirname {BUILT_IN}) && mv {GIVEN} {BUILT_IN}");
        let result = self.ssh(&there).and_then(|_| self.ssh(&format!("mv {BUILT_IN} {GIVEN}")));
        Finding {
            name: "a key that the image was built with may log in".into(),
            result: result.map(drop).map_err(|error| format!("{error:#}")),
        }
    }

    fn went_off_by_itself(&self) -> Result<()> {
        let mut log = File::open(self.subject.console())?;
        log.seek(SeekFrom::Start(self.from))?;
        let mut said = Vec::new();
        log.read_to_end(&mut said)?;
        let said = String::from_utf8_lossy(&said);
        for wanted in GOES_OFF {
            ensure!(said.contains(wanted), "its console does not say `{wanted}`");
        }
        Ok(())
    }

    /// Turns the card off as a person would.
    fn power_off(&mut self) -> Finding {
        let mut off = || -> Result<()> {
            // The connection may be cut before the command's end is told.
            let _ = self.ssh("systemctl poweroff");
            let start = Instant::now();
            while start.elapsed() < self.subject.patience {
                if let Some(status) = self.qemu.try_wait()? {
                    ensure!(status.success(), "QEMU ended with {status}");
                    return self.went_off_by_itself();
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            bail!("the card was still on after {} s", self.subject.patience.as_secs())
        };
        Finding {
            name: "the card powers off cleanly".into(),
            result: off().map_err(|error| format!("{error:#}")),
        }
    }
}

/// What a kernel and systemd say that go off in order (kernel/reboot.c, systemd's src/shutdown/shutdown.c): QEMU ends as
/// well where a card starts again, of a panic or a watchdog.
const GOES_OFF: [&str; 2] = ["All filesystems unmounted.", "reboot: Power down"];

/// How long a connection may take. QEMU's user network takes a call before the card can, and leaves it
/// hanging: only a new one gets through.
const ANSWER: Duration = Duration::from_secs(1);

/// One gRPC health call (grpc.health.v1) to the agent, as a host that has paired or as a stranger.
fn health(port: u16, identity: Option<&Identity>) -> Result<ServingStatus> {
    pairing::block_on(async {
        let channel = pairing::connect(port, identity).await?;
        let request = HealthCheckRequest { service: String::new() };
        Ok(HealthClient::new(channel).check(request).await?.into_inner().status())
    })
}
