//! The board's root in an emulated card: what its doctor says where all of the card's devices are missing.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use dpukit_image::emulator::Card;
use dpukit_image::project::Project;
use dpukit_image::recipes::{self, IMAGE};

use super::snapshots::is_as_before;
use crate::command::boot::{emulator, programs};
use crate::command::test::running::Running;
use crate::flags::Common;
use crate::ui::Ui;

/// How long the card may take until it answers, beside compilers.
const PATIENCE: Duration = Duration::from_mins(4);

/// What the card is told at its first boot.
const SEED: &str =
    "host = \"node7\"\npairing-code = \"ACDEFGHJKM\"\n[time]\nservers = [\"ntp.example.org\"]\n";

/// What is asked of the card. The agent waits a minute for the link that is not there; a unit that is tried again and
/// again is met at any point of it. Without a link the agent's address is somewhere behind the default route, and what
/// is there is of no account.
const SCRIPT: &str = r"
systemctl is-system-running --wait
echo == doctor
dpu-agent doctor | sed 's/is activating ([a-z-]*)/is activating/; s/ for its health: .*/ for its health/;
    s/,version` is `[^`]*`/,version` is `VERSION`/'
echo == order of units
for unit in dpu-setup dpu-images dpu-octep dpu-agent containerd; do
    echo $unit: after $(systemctl show --property After --value $unit.service | tr ' ' '\n' |
        grep -E '^(dpu-|containerd|nftables|systemd-modules-load|systemd-udev-trigger)' | sort)
done
echo == container images
ctr --namespace k8s.io images list | awk '{ print $1, $3, $NF }' | sed -E 's/[0-9a-f]{64}/DIGEST/g'
ls /data/images
echo == the agent in the image, with our patches
ctr --namespace k8s.io run --rm --env K8S_NODE_NAME=node7-dpu quay.io/cilium/cilium:v1.17.0 agent /usr/bin/cilium-agent
echo == seed
cat /proc/sys/kernel/hostname /etc/systemd/timesyncd.conf.d/10-seed.conf
stat --format '%a %n' /etc/credstore/dpukit.pairing-code
";

/// Boots the root on the devices of `virt`'s emulated card.
pub fn check(common: &Common, ui: &Ui, virt: &Project, project: &mut Project) -> Result<()> {
    ui.notice("the board's root, on an emulated card that has none of its devices");
    // The kernel would write its first words to where the card has its console, and the emulated one has nothing.
    let cmdline = &mut project.sources.config.board.boot.cmdline;
    let words: Vec<_> = cmdline.split(' ').filter(|word| !word.starts_with("earlycon=")).collect();
    *cmdline = words.join(" ");
    let graph = recipes::graph(&project.sources)?;
    graph.build(&project.store, &[IMAGE], common.jobs(), ui)?;
    let emulator = emulator(virt)?;
    let programs = programs(common, ui, virt, emulator)?;
    let tools = &programs.tools;
    let folder = common.root().join("out/metal-card");
    let image = project.store.out(&graph.recipe(IMAGE).entry()).join("disk.img");
    let mut card = Card::new(&folder, &image, emulator, &programs)?;
    card.make_key(tools)?;
    // The board has another driver for its network, so the card is told of this one.
    for (name, text) in [
        ("network.network.50-emulated", "[Match]\nDriver=virtio_net\n\n[Network]\nDHCP=yes\n"),
        ("dpukit.seed", SEED),
    ] {
        let file = folder.join(name);
        fs::write(&file, text)?;
        card.credentials.insert(name.into(), file);
    }
    let console = folder.join("console.log");
    let log = File::create(&console)?;
    let arguments = ["-display", "none", "-monitor", "none", "-no-reboot", "-serial", "stdio"];
    let board = &project.sources.config.board;
    let mut command = card.command(board, emulator, tools, board.plan.agent.port.get(), &arguments)?;
    let command = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut qemu = Running(command.spawn()?);
    let said = ask(&card, tools, &mut qemu, &console)?;
    is_as_before(common, "card.txt", &(said + "\n"))?;
    drop(qemu);
    // A disk of gigabytes is of no use to anybody; the console is.
    fs::remove_file(card.disk())?;
    ui.notice(
        "the doctor is right about every missing device; containerd has the image that the card came with",
    );
    Ok(())
}

/// Runs the script as soon as the card takes it.
fn ask(card: &Card, tools: &Path, qemu: &mut Running, console: &Path) -> Result<String> {
    let start = Instant::now();
    loop {
        let error = match card.ssh(tools, SCRIPT) {
            Ok(said) => return Ok(said),
            Err(error) => error,
        };
        if let Some(status) = qemu.0.try_wait()? {
            bail!("the card went off ({status}) before it answered: `{}`", console.display());
        }
        if start.elapsed() > PATIENCE {
            return Err(error.context(format!("the card did not answer: `{}`", console.display())));
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}
