//! The commands beside `image`, as a user starts them, on the copy of a checkout that was built.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use dpukit_image::recipes::IMAGE;
use rustix::fs::{FlockOperation, fcntl_lock};

use super::builds::{Place, fail, succeed};

pub fn run(place: &Place<'_>) -> Result<()> {
    says(place, &["doctor"], "user namespaces")?;
    says(place, &["matrix"], "kernel")?;
    says(place, &["store", "ls"], "-image")?;
    says(place, &["store", "gc", "--dry-run"], "would be freed")?;
    says(place, &["boot", "--print"], "qemu-system-aarch64 -machine virt")?;
    running_card_is_kept(place)?;
    says(place, &["kernel", "check"], "every requirement is met")?;
    // Beside events, a line for each change.
    let changes = said(place, &["kernel", "diff"])?;
    ensure!(changes.lines().all(|line| line.starts_with('{')), "`kernel diff` sees a change: {changes}");
    fail(place.program(&["kernel", "diff", "/nowhere"]), &["/nowhere"])?;
    option_is_explained(place)?;
    lock_is_kept(place)?;
    damage_is_found(place)?;
    succeed(place.program(&["clean"]))?;
    ensure!(!place.root().join("out").exists(), "`clean` left `out`");
    // Whoever reads the output may go away in the middle.
    let mut build = place.program(&["image"])?.spawn()?;
    drop((build.stdout.take(), build.stderr.take()));
    ensure!(build.wait()?.success(), "a build whose output nobody reads failed");
    place.is_the_same().context("built while nobody read its output")
}

/// What a command prints, on standard output and beside it.
fn said(place: &Place<'_>, words: &[&str]) -> Result<String> {
    let output = succeed(place.program(words))?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn says(place: &Place<'_>, words: &[&str], wanted: &str) -> Result<()> {
    let said = said(place, words)?;
    ensure!(said.contains(wanted), "`{}` does not say `{wanted}`: {said}", words.join(" "));
    Ok(())
}

/// An option that does not take is told with its place and what it lacks.
fn option_is_explained(place: &Place<'_>) -> Result<()> {
    let file = place.root().join("kernel-config/storage.config");
    let before = fs::read_to_string(&file)?;
    fs::write(&file, format!("{before}\n# A wish that nothing here fulfils.\nCONFIG_USB_STORAGE=y\n"))?;
    let wanted =
        ["`USB_STORAGE`=y (`storage.config` line", "needs `USB` = m or y (is n)", "hint: mend the fragments"];
    let failed = fail(place.program(&["kernel", "check"]), &wanted);
    fs::write(&file, before)?;
    failed
}

/// A card that runs keeps its disk: another is not made in its place. QEMU's lock is held here as QEMU holds it.
fn running_card_is_kept(place: &Place<'_>) -> Result<()> {
    let disk = place.root().join("out").join(place.board()).join("card/disk.img");
    let held = fs::File::open(&disk).with_context(|| format!("reading `{}`", disk.display()))?;
    fcntl_lock(&held, FlockOperation::NonBlockingLockShared).context("locking a card's disk")?;
    let before = (held.metadata()?.len(), held.metadata()?.modified()?);
    for words in [&["boot", "--print"][..], &["boot"]] {
        fail(place.program(words), &["disk.img` is in use", "hint: end that card first"])?;
    }
    ensure!(
        (held.metadata()?.len(), held.metadata()?.modified()?) == before,
        "a running card's disk was made anew"
    );
    Ok(())
}

/// A lock that lacks a component is told, and with `--locked` kept as it is.
fn lock_is_kept(place: &Place<'_>) -> Result<()> {
    succeed(place.program(&["lock", "--check"]))?;
    let file = place.root().join(format!("image/locks/{}.toml", place.board()));
    let before = fs::read_to_string(&file)?;
    let changed = before.replacen("[component.oracle]", "[component.oracles]", 1);
    ensure!(changed != before, "`{}` has no component `oracle`", file.display());
    fs::write(&file, &changed)?;
    let output = place.program(&["lock", "--check"])?.output()?;
    let told = String::from_utf8_lossy(&output.stdout).contains("`oracle` is not in the lock");
    ensure!(output.status.code() == Some(1) && told, "`lock --check` takes a lock without a component");
    fail(place.program(&["image", "--locked"]), &["lacks", "oracle", "without `--locked`"])?;
    ensure!(fs::read_to_string(&file)? == changed, "`--locked` changed the lock");
    fs::write(&file, "version = 1\n<<<<<<< ours\n")?;
    fail(place.program(&["lock"]), &["remove it and run `cargo xtask lock`"])?;
    Ok(fs::write(&file, before)?)
}

/// One altered byte of the store is found, and the next build makes it anew.
fn damage_is_found(place: &Place<'_>) -> Result<()> {
    let file = place.store()?.out(&place.entry(IMAGE)).join("disk.map");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let text = fs::read_to_string(&file)?;
    fs::write(&file, text.replacen('0', "1", 1))?;
    let output = place.program(&["store", "verify"])?.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && errors.contains("-image` was altered"), "{errors}");
    succeed(place.program(&["image"]))?;
    place.is_the_same().context("built anew after damage")
}
