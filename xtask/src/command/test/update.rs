//! Updates of a running card, in an emulated one: an update is installed and stays, and whatever is wrong with one,
//! the card comes up from the slot that was good, with its data.

pub mod host;
mod on_disk;
pub mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use dpukit_image::config::{Signer, Signing};
use dpukit_image::project::Project;
use dpukit_image::update::{self, Slot};

use self::host::Host;
use self::server::{HOST, Server};
use super::machine::{Machine, small};
use super::variant::{Variant, room, signing};
use crate::command::boot::{emulator, programs};
use crate::flags::Common;
use crate::ui::Ui;

/// Leaves not one block of the data partition free.
const FILL: &str = "dd if=/dev/zero of=/data/fill bs=1M 2>/dev/null; \
    dd if=/dev/zero of=/data/fill2 bs=1k 2>/dev/null; sync";

/// A kernel that panics, and then does nothing more (its Documentation/admin-guide/sysrq.rst).
const HANG: &str = "sh -c 'echo 0 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger'";

/// Runs all proofs, on one card and on one with a makers' U-Boot.
pub fn run(common: &Common, ui: &Ui, project: &Project) -> Result<()> {
    ui.notice("updates: images and bundles");
    let emulator = &small(emulator(project)?);
    let programs = programs(common, ui, project, emulator)?;
    let folder = room(common)?;
    let shelf = Shelf::fill(common, ui, folder.path())?;
    let mut machine =
        Machine::new("update", &project.sources.config, emulator, &programs, folder.path(), &shelf.image)?;
    let server = Server::start(&shelf.folder)?;
    let url = |name: &str| format!("http://{HOST}:{}/{name}.raucb", server.port());

    ui.notice("updates: the first system, and bundles that are not for this card");
    machine.power_on()?;
    machine.wait("A", "first")?;
    machine.leave_data()?;
    machine.refuses(&url("foreign"), "signature")?;
    machine.refuses(&url("other-board"), "compatible")?;
    machine.refuses(&url("none"), "404")?;

    ui.notice("updates: one that is good");
    let took = machine.install(&url("second"))?;
    ui.notice(&format!("  installed in {:.0} s", took.as_secs_f64()));
    machine.restart("B", "second")?;
    machine.keeps_data()?;

    // From here on from a host that is paired, over the link.
    let (port, code) = machine.pairing()?;
    let host = Host::pair(&common.root(), folder.path().join("host"), port, code)?;
    let bundle = |name: &str| shelf.folder.join(format!("{name}.raucb"));

    ui.notice("updates: a data partition that is full");
    machine.ssh(FILL)?;
    host.fails_to_update(&bundle("second"), "MiB free")?;
    machine.refuses(&url("second"), "pre-install handler")?;
    machine.restart("B", "second")?;
    let doctor = machine.doctor()?;
    ensure!(
        doctor.contains("MiB of `/data` are free") && !doctor.contains("slot A"),
        "`dpu-agent doctor` of a card that is full says:\n{doctor}"
    );
    machine.ssh("rm -f /data/fill /data/fill2; sync")?;
    machine.keeps_data()?;

    ui.notice("updates: one that is good, from the host");
    host.updates(&bundle("second"))?;
    machine.wait("A", "second")?;
    machine.keeps_data()?;

    for (name, what, told, heard) in [
        ("sick", "an agent that never gets healthy", "was given up", "it was never healthy there"),
        ("bad-root", "a root with wrong bytes", "does not come up", "it did not come up there"),
        ("bad-kernel", "a kernel that is none", "does not come up", "it did not come up there"),
    ] {
        ui.notice(&format!("updates: {what}"));
        let start = Instant::now();
        host.fails_to_update(&bundle(name), heard)?;
        machine.wait("A", "second")?;
        let took = start.elapsed().as_secs_f64();
        ui.notice(&format!("  sent, installed, and back in the slot that was good after {took:.0} s"));
        let doctor = machine.doctor()?;
        ensure!(doctor.contains(told), "`dpu-agent doctor` does not say why the card went back:\n{doctor}");
        machine.keeps_data()?;
    }

    ui.notice("updates: a kernel that hangs, U-Boot's variables absurd, then gone");
    machine.ssh(
        "fw_setenv BOOT_ORDER 'X $Y'; fw_setenv BOOT_A_LEFT 99999999999999999999; fw_setenv BOOT_B_LEFT ''",
    )?;
    let took = machine.restart_by(HANG, "A", "second")?;
    ui.notice(&format!("  up again {:.0} s after it hung", took.as_secs_f64()));
    machine.power_off()?;
    machine.spoil_variables()?;
    machine.power_on()?;
    machine.wait("A", "second")?;
    machine.keeps_data()?;
    machine.power_off()?;
    on_disk::run(common, ui, emulator, &programs)
}

/// The first image, and what is offered to its card.
struct Shelf {
    folder: PathBuf,
    image: PathBuf,
}

impl Shelf {
    fn fill(common: &Common, ui: &Ui, folder: &Path) -> Result<Self> {
        let bundles = folder.join("bundles");
        fs::create_dir(&bundles)?;
        let own = signing(&folder.join("keys"))?;
        let variant = |name, files| Variant::marked(common, ui, folder, &own, name, files, |_| Ok(()));
        let first = variant("first", &[])?;
        let second = variant("second", &[])?;
        let sick = variant("sick", &SICK)?;
        let make = |name: &str, signing: &Signing, slot: &Slot, board: Option<&str>| {
            let mut config = second.config.clone();
            if let Some(board) = board {
                board.clone_into(&mut config.board.name);
            }
            update::make(&config, signing, second.tools()?, slot, &bundles.join(format!("{name}.raucb")))
        };
        make("second", &own, &second.slot, None)?;
        // A program of its own has this one's key.
        make("sick", &signed_by_program(&own, sick.tools()?)?, &sick.slot, None)?;
        make("foreign", &signing(&folder.join("other-keys"))?, &second.slot, None)?;
        make("other-board", &own, &second.slot, Some("other"))?;
        let spoiled = |file: &Path, name: &str, spoil: fn(&mut [u8]) -> Result<()>| -> Result<PathBuf> {
            let mut bytes = fs::read(file)?;
            spoil(&mut bytes)?;
            let path = folder.join(name);
            fs::write(&path, bytes)?;
            Ok(path)
        };
        let system = spoiled(&second.slot.system, "bad-root.img", spoil_root)?;
        make("bad-root", &own, &Slot { system, ..second.slot.clone() }, None)?;
        let boot = spoiled(&second.slot.boot, "bad-kernel.img", spoil_kernel)?;
        make("bad-kernel", &own, &Slot { boot, ..second.slot.clone() }, None)?;
        Ok(Self { folder: bundles, image: first.disk() })
    }
}

/// The agent of this one ends at once, and the card need not wait long to know.
const SICK: [(&str, &str); 2] = [
    ("usr/lib/systemd/system/dpu-agent.service.d/sick.conf", "[Service]\nExecStart=\nExecStart=/bin/false\n"),
    (
        "usr/lib/systemd/system/dpu-confirm.service.d/impatient.conf",
        "[Service]\nExecStart=\nExecStart=/usr/bin/dpu-agent confirm --within 10\n",
    ),
];

/// The same key, in the hands of `openssl` of the tool root.
fn signed_by_program(signing: &Signing, tools: &Path) -> Result<Signing> {
    let Signer::Key(key) = &signing.signer else { bail!("there is no key") };
    let at = |path: &str| tools.join(path).display().to_string();
    let loader = [
        at("usr/lib64/ld-linux-x86-64.so.2"),
        "--library-path".into(),
        at("usr/lib/x86_64-linux-gnu"),
        at("usr/bin/openssl"),
    ];
    let words = "cms -sign -nosmimecap -nodetach -binary -outform DER -signer";
    let mut command: Vec<_> = loader.into_iter().chain(words.split(' ').map(str::to_owned)).collect();
    command.extend(
        [signing.certificate.as_path(), Path::new("-inkey"), key.as_path()]
            .map(|word| word.display().to_string()),
    );
    Ok(Signing { signer: Signer::Command(command), ..signing.clone() })
}

/// Turns over a byte in each of the root's first blocks: what they hold is read at each start.
fn spoil_root(bytes: &mut [u8]) -> Result<()> {
    let start = bytes.get_mut(..4 << 20).context("the root is too small")?;
    start.iter_mut().skip(64 << 10).step_by(4096).for_each(|byte| *byte = !*byte);
    Ok(())
}

/// Takes the magic number out of the kernel (its Documentation/arm64/booting.rst: `ARM\x64` at 56).
fn spoil_kernel(bytes: &mut [u8]) -> Result<()> {
    const MAGIC: &[u8] = b"ARM\x64";
    let block = |bytes: &[u8], at: usize| bytes.get(at + 56..at + 60) == Some(MAGIC);
    let at = (0..bytes.len()).step_by(1024).find(|at| block(bytes, *at)).context("there is no kernel")?;
    bytes[at + 56..at + 60].fill(0);
    Ok(())
}
