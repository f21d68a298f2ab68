//! The host's package: what lintian says of it, whether another place makes the same bytes, and its life in
//! fresh Debian systems. Then the container image of the same.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use dpukit_image::recipes::{self, DEB, deb_name};
use dpukit_image::source::folder::copy_checkout;
use dpukit_image::store::Store;

use super::host_image;
use crate::command::deb::{build, build_image};
use crate::flags::{Common, Image};
use crate::ui::Ui;

/// What the package is to hold, as `dpkg-deb --contents` lists it without sizes and times.
const CONTENTS: &str = include_str!("deb-contents.txt");
const LIFE: &str = include_str!("deb-life.sh");
/// The Debian releases in which the package is installed.
const SUITES: [&str; 2] = ["bookworm", "trixie"];
/// What the package depends on, which is installed before: there is no network in its life.
const DEPENDENCIES: &str = "kmod,systemd";
/// The plugin is read in for every pod.
const LARGEST_PLUGIN: u64 = 4 << 20;

/// Builds and tests the package; returns why it could not be tested. With `long`, its dependencies are compiled in
/// another place as well.
pub fn run(common: &Common, ui: &Ui, long: bool) -> Result<Option<String>> {
    ui.notice("the host's package");
    let package = build(common, ui)?;
    let image = build_image(common, ui)?;
    if let Some(reason) = hindrance() {
        return super::leave_out("the tests of the host's package", &reason);
    }
    look_inside(&package)?;
    ui.notice("lintian");
    // Its warnings count as errors; it looks at the package and at nothing of the machine.
    let mut lintian = Command::new("lintian");
    lintian.args(["--no-cfg", "--profile", "debian", "--fail-on", "error,warning"]).arg(&package);
    succeed(&mut lintian)?;
    ui.notice("the host's container image");
    host_image::run(&image)?;
    for suite in SUITES {
        ui.notice(&format!("the package's life in a fresh {suite}"));
        live(suite, &package)?;
    }
    ui.notice("the same package in another place");
    build_elsewhere(common, ui, &package, long)?;
    Ok(None)
}

/// Why the tests cannot be run here; none where they can.
fn hindrance() -> Option<String> {
    for program in ["lintian", "mmdebstrap", "dpkg-deb"].into_iter().chain(host_image::PROGRAMS) {
        if Command::new(program).arg("--version").output().is_err() {
            return Some(format!("there is no `{program}`"));
        }
    }
    (!super::is_root()).then(|| "they have to be run by root".to_owned())
}

/// Compares the list of files, with owners and modes, and looks at the programs.
fn look_inside(package: &Path) -> Result<()> {
    let listed = succeed(Command::new("dpkg-deb").arg("--contents").arg(package))?;
    let lines = listed.lines().map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [mode, owner, _, _, _, path] = words[..] else { bail!("`{line}` is no line of a listing") };
        Ok(format!("{mode} {owner} {path}\n"))
    });
    let contents = lines.collect::<Result<String>>()?;
    ensure!(
        contents == CONTENTS,
        "the package holds other files than `xtask/src/command/test/deb-contents.txt` says:\n{contents}"
    );
    let folder = tempfile::tempdir().context("making a folder for the package")?;
    succeed(Command::new("dpkg-deb").arg("--extract").arg(package).arg(folder.path()))?;
    let plugin = folder.path().join("usr/lib/cni/offload-cni");
    let size = fs::metadata(&plugin)?.len();
    ensure!(size <= LARGEST_PLUGIN, "the plugin has {size} bytes, {LARGEST_PLUGIN} at most are wanted");
    for program in [plugin, folder.path().join("usr/sbin/dpu-host")] {
        // `ldd` fails for a program that needs no loader.
        let output = Command::new("ldd").arg(&program).output().context("running `ldd`")?;
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let is_static = told.contains("statically linked") || told.contains("not a dynamic executable");
        ensure!(is_static, "`{}` is not static: {told}", program.display());
    }
    Ok(())
}

/// Installs, changes and removes the package in a fresh system, without a network.
fn live(suite: &str, package: &Path) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder for a system")?;
    let root = folder.path().join("root");
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"]);
    mmdebstrap.arg(format!("--include={DEPENDENCIES}")).arg(suite).arg(&root);
    succeed(&mut mmdebstrap)?;
    fs::copy(package, root.join("package.deb"))?;
    // `/proc` is needed by systemd's programs; whatever is mounted goes with the namespace.
    let script = "mount -t proc proc \"$0/proc\" && exec chroot \"$0\" sh -c \"$1\"";
    let mut life = Command::new("unshare");
    life.args(["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-c", script]);
    life.arg(&root).arg(LIFE).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    succeed(&mut life).map(drop).with_context(|| format!("the package's life in {suite}"))
}

/// Builds it in a copy of the checkout with a store of its own, which borrows downloads and tools, and what the
/// programs depend on unless that is built too.
fn build_elsewhere(common: &Common, ui: &Ui, package: &Path, all: bool) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder for a build")?;
    let (root, cache) = (folder.path().join("checkout"), folder.path().join("cache"));
    fs::create_dir_all(&root)?;
    copy_checkout(&common.root(), &root)?;
    let project = common.open(ui, &Image::default())?;
    let theirs = project.store.cache();
    let ours = Store::open(&cache)?;
    symlink(theirs.join("downloads"), cache.join("downloads"))?;
    for (step, recipe) in &recipes::graph(&project.sources)?.recipes() {
        let entry = theirs.join("store").join(recipe.entry());
        let is_borrowed = step.starts_with("tools-") || !all && step.ends_with("-dependencies");
        if is_borrowed && entry.exists() {
            symlink(entry, ours.cache().join("store").join(recipe.entry()))?;
        }
    }
    let mut elsewhere = Command::new(std::env::current_exe()?);
    elsewhere.args(["deb", "--quiet", "--locked", "--root"]).arg(&root).env("DPUKIT_CACHE", &cache);
    succeed(&mut elsewhere)?;
    let (here, there) = (fs::read(package)?, fs::read(root.join("out").join(deb_name()))?);
    ensure!(here == there, "the step `{DEB}` makes another package in another place");
    Ok(())
}

/// Runs a program that must end well, and gives what it printed.
pub(super) fn succeed(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?} ended with {}:\n{out}{errors}", output.status);
    Ok(out.into_owned())
}
