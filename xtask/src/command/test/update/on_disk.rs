//! A card whose U-Boot is its makers': the slots are counted on the disk, by the script that its boot scan finds.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use dpukit_image::config::{Config, Counts, Emulator};
use dpukit_image::emulator::Programs;
use dpukit_image::update::{self, Slot};

use super::server::{HOST, Server};
use crate::command::test::machine::Machine;
use crate::command::test::variant::{Variant, room, signing};
use crate::flags::Common;
use crate::ui::Ui;

/// What stands in for the archive of a container image.
const ARCHIVE: &str = "layers and layers\n";
/// Has slot A start, which has no file system any more.
const TO_NOTHING: &str = "dd if=/dev/zero of=/dev/disk/by-partlabel/boot-a bs=1M count=1 conv=fsync 2>/dev/null && \
    rauc status mark-active other && dpu-agent slot-state get-primary";
const SPOIL: &str =
    "dd if=/dev/urandom of=/dev/disk/by-partlabel/slots bs=512 count=1 conv=fsync 2>/dev/null";

/// An update, the way back from a slot that does not start, and counts that are lost.
pub fn run(common: &Common, ui: &Ui, emulator: &Emulator, programs: &Programs) -> Result<()> {
    ui.notice("updates: a makers' U-Boot, and slots that are counted on the disk");
    let folder = room(common)?;
    let environment = folder.path().join("makers.env");
    fs::write(&environment, include_str!("makers.env"))?;
    let own = signing(&folder.path().join("keys"))?;
    let variant = |name| {
        Variant::marked(common, ui, folder.path(), &own, name, &[], |config| makers(config, &environment))
    };
    let (first, second) = (variant("first")?, variant("second")?);
    let bundles = folder.path().join("bundles");
    fs::create_dir(&bundles)?;
    let slot = Slot { images: Some(stand_in_images(&folder.path().join("images"))?), ..second.slot.clone() };
    update::make(&second.config, &own, second.tools()?, &slot, &bundles.join("second.raucb"))?;

    let programs = Programs { u_boot: first.u_boot.clone(), ..programs.clone() };
    let mut machine =
        Machine::new("update-on-disk", &first.config, emulator, &programs, folder.path(), &first.disk())?;
    let [variables, _] = machine.drives();
    machine.power_on()?;
    machine.wait("A", "first")?;
    machine.leave_data()?;
    let server = Server::start(&bundles)?;
    machine.install(&format!("http://{HOST}:{}/second.raucb", server.port()))?;
    let images = machine.ssh("cat /data/images/stand-in.tar; ls /data/images")?;
    ensure!(
        images == format!("{ARCHIVE}stand-in.tar"),
        "the bundle's container images did not arrive: {images}"
    );
    machine.restart("B", "second")?;
    machine.keeps_data()?;
    // The second system's own list does not name it.
    machine.ssh("test -z \"$(ls -A /data/images)\"").context("an archive for another system is kept")?;

    ui.notice("updates: the same, a slot that does not start, then counts that are lost");
    let next = machine.ssh(TO_NOTHING)?;
    ensure!(next.ends_with('A'), "slot A was to start next, and it is `{next}`");
    machine.restart("B", "second")?;
    let doctor = machine.doctor()?;
    ensure!(
        doctor.contains("slot A"),
        "`dpu-agent doctor` says nothing of the slot that does not start:\n{doctor}"
    );
    machine.ssh(SPOIL)?;
    machine.restart("B", "second")?;
    machine.keeps_data()?;
    machine.power_off()?;
    let untouched = fs::read(&variables)?.iter().all(|byte| *byte == 0);
    ensure!(untouched, "something was written where U-Boot would keep variables");
    Ok(())
}

/// A folder as the step `images` leaves it.
fn stand_in_images(folder: &Path) -> Result<PathBuf> {
    let list = folder.join("root/usr/lib/dpukit/images.toml");
    for (path, text) in [(folder.join("data/images/stand-in.tar"), ARCHIVE), (list, "image = []\n")] {
        fs::create_dir_all(path.parent().context("there is no folder")?)?;
        fs::write(path, text)?;
    }
    Ok(folder.to_owned())
}

/// The board with such a U-Boot.
fn makers(config: &mut Config, environment: &Path) -> Result<()> {
    let board = &mut config.board;
    board.updates.as_mut().context("the board takes no updates")?.counts = Counts::Disk;
    environment.clone_into(&mut board.u_boot.as_mut().context("the board has no U-Boot")?.environment);
    Ok(())
}
