//! The commands beside `image`, as a user starts them, on the copy of a checkout that was built.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use dpukit_image::recipes::{IMAGE, SYSTEM};
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
    what_is_old_goes(place)?;
    lock_is_kept(place)?;
    component_is_resolved_anew(place)?;
    damage_is_found(place)?;
    quiet_says_what_it_made(place)?;
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

/// What no build needs any more leaves the store, and nothing else.
fn what_is_old_goes(place: &Place<'_>) -> Result<()> {
    let file = place.root().join("kernel-config/storage.config");
    let before = fs::read_to_string(&file)?;
    fs::write(&file, format!("{before}\n# Another file system.\nCONFIG_NTFS3_FS=m\n"))?;
    let changes = said(place, &["kernel", "diff"]);
    fs::write(&file, before)?;
    let changes = changes?;
    ensure!(changes.contains("NTFS3_FS"), "`kernel diff` sees no new option: {changes}");
    says(place, &["store", "gc"], "1 entries, ")?;
    says(place, &["store", "gc"], "0 entries, ")?;
    let output = succeed(place.program_for_people(&["image", "--offline"]))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        told.contains("nothing changed: all from the store"),
        "`store gc` took what a build needs: {told}"
    );
    Ok(())
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

/// One component is asked of the archives again; the lock's others stay as they were.
fn component_is_resolved_anew(place: &Place<'_>) -> Result<()> {
    let file = place.root().join(format!("image/locks/{}.toml", place.board()));
    let before = fs::read_to_string(&file)?;
    let update = |name| place.program(&["lock", "--update", name]);
    fail(update("orcale"), &["has no component `orcale`", "its components are: ", "oracle"])?;
    fail(update("oracle"), &["offline"])?;
    fail(
        place.program_for_people(&["lock", "--update", "oracle", "--locked"]),
        &["forbids", "without `--locked`"],
    )?;
    ensure!(fs::read_to_string(&file)? == before, "an update that failed changed the lock");
    let output = succeed(place.program_for_people(&["lock", "--update", "oracle"]))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(told.contains("resolved oracle in "), "`lock --update` says: {told}");
    let others = |text: &str| {
        let (start, rest) = text.split_once("[component.oracle]").context("the lock has no `oracle`")?;
        let start = start.split_once("\n[component.").context("the lock has nothing before `oracle`")?.1;
        let rest = rest.split_once("\n[component.").map_or("", |(_, rest)| rest);
        Ok::<_, anyhow::Error>(format!("{start}{rest}"))
    };
    ensure!(
        others(&fs::read_to_string(&file)?)? == others(&before)?,
        "`lock --update oracle` changed others"
    );
    succeed(place.program(&["lock", "--check"]))?;
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
    let output = succeed(place.program_for_people(&["image", "--offline", "--jobs", "1"]))?;
    let table = String::from_utf8_lossy(&output.stderr);
    for (step, from) in [(SYSTEM, "store"), (IMAGE, "built")] {
        let is_told = |line: &str| line.split_whitespace().take(2).eq([step, from]);
        ensure!(table.lines().any(is_told), "the summary does not say that `{step}` is {from}: {table}");
    }
    place.is_the_same().context("built anew after damage")
}

/// With `--quiet` a build prints the files that it made, and nothing else.
fn quiet_says_what_it_made(place: &Place<'_>) -> Result<()> {
    let output = succeed(place.program_for_people(&["image", "--offline", "--quiet"]))?;
    let (files, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(told.is_empty(), "with `--quiet` a build says: {told}");
    ensure!(
        files.contains(".img") && files.lines().all(|file| Path::new(file).is_file()),
        "it made: {files}"
    );
    Ok(())
}
