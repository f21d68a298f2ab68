//! The parts of boards of metal, built through their own recipes from stand-ins for their makers' sources, and the
//! whole of them, booted.
//!
//! The kernel's stand-in is Debian's source of the same line. The makers' configuration is laid over arm64's defconfig
//! and looked at; building it takes an hour, and is for who asks. What is built and booted is the board's trimmed kernel,
//! which from that source is the very kernel of `virt`.

mod boot;
mod drivers;
mod snapshots;
mod stand_ins;

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use dpukit_image::project::{Project, Terms};
use dpukit_image::recipes::{self, KERNEL, KERNEL_CONFIG, OCTEP, Request};
use dpukit_image::store::cache_folder;

use crate::flags::Common;
use crate::ui::Ui;
use stand_ins::StandIns;

/// `e_machine` of a program for the card, at 18 of its file (elf(5)): `EM_AARCH64`.
const AARCH64: [u8; 2] = [183, 0];

/// Where the board's fragments decide otherwise than the makers' configuration, with their reasons.
const DECIDED: [&str; 5] = ["ARM64_64K_PAGES=y", "VFIO=y", "VFIO_PCI=y", "VFIO_NOIOMMU=y", "OVERLAY_FS=m"];

/// Builds what can be without an hour of compilers, with `long` the kernel too; `virt` is the board whose kernel's source
/// stands in. Returns what could not be tested here, and why.
pub fn run(common: &Common, ui: &Ui, virt: &Project, long: bool) -> Result<Option<String>> {
    ui.notice("the parts of board cn106, from stand-ins");
    let graph = recipes::graph(&virt.sources)?;
    let source = recipes::kernel_source(&virt.sources)?;
    graph.build(&virt.store, &[&source], common.jobs(), ui)?;
    let stand_ins = StandIns::new(&common.root(), &virt.store.out(&graph.recipe(&source).entry()))?;

    let project = open(common, &stand_ins, &[])?;
    agent(common, ui, &project)?;
    configuration(common, ui, &project, &DECIDED)?;
    if long {
        ui.notice("the kernel with the makers' configuration");
        recipes::graph(&project.sources)?.build(&project.store, &[KERNEL], common.jobs(), ui)?;
    }
    // Who wants the makers' pages changes one line.
    let large = open(common, &stand_ins, &[("pages = \"4KiB\"", "pages = \"64KiB\"")])?;
    let cmdline = &large.sources.config.board.boot.cmdline;
    ensure!(cmdline.contains(" hugepagesz=512M hugepages=1"), "the huge pages do not follow: {cmdline}");
    configuration(common, ui, &large, &DECIDED[1..])?;
    ui.notice(
        "octep_cp_agent is built for the card; every option took over the makers', with either size of page",
    );
    whole(common, ui, virt, project)
}

/// Opens the board with lines of its file changed.
fn open(common: &Common, stand_ins: &StandIns, changes: &[(&str, &str)]) -> Result<Project> {
    let config = stand_ins.board(changes)?;
    let terms = Terms { locked: common.locked, offline: common.offline };
    let request = Request { offline: common.offline, ..Request::default() };
    let mut project = Project::opened(config, &cache_folder()?, terms, request)?;
    project.make_current()?;
    project.sources.config.root = common.root();
    Ok(project)
}

fn agent(common: &Common, ui: &Ui, project: &Project) -> Result<()> {
    let graph = recipes::graph(&project.sources)?;
    graph.build(&project.store, &[OCTEP], common.jobs(), ui)?;
    let root = project.store.out(&graph.recipe(OCTEP).entry()).join("root");
    let program = root.join("usr/bin/octep_cp_agent");
    let bytes = fs::read(&program).with_context(|| format!("reading `{}`", program.display()))?;
    ensure!(bytes.get(18..20) == Some(&AARCH64), "`{}` is not a program for the card", program.display());
    Ok(())
}

/// Every option that is asked for has to take over the makers', and theirs where the board does not decide.
fn configuration(common: &Common, ui: &Ui, project: &Project, decided: &[&str]) -> Result<()> {
    let graph = recipes::graph(&project.sources)?;
    graph.build(&project.store, &[KERNEL_CONFIG], common.jobs(), ui)?;
    let out = project.store.out(&graph.recipe(KERNEL_CONFIG).entry());
    let configuration = fs::read_to_string(out.join("config"))?;
    for line in stand_ins::VENDOR.lines() {
        let is_decided = decided.iter().any(|option| line.strip_prefix("CONFIG_") == Some(option));
        if configuration.lines().any(|have| have == line) == is_decided {
            let how = if is_decided { "took, and the board decides otherwise" } else { "did not take" };
            bail!("`{line}` of the vendor's configuration {how}");
        }
    }
    Ok(())
}

/// The whole bundle, with the trimmed kernel, and its root in an emulated card.
fn whole(common: &Common, ui: &Ui, virt: &Project, mut project: Project) -> Result<Option<String>> {
    let board = &mut project.sources.config.board;
    let trimmed = board.kernels.get("trimmed").context("the board has no trimmed kernel")?;
    board.kernel = trimmed.clone();
    let source = &virt.sources.config.board.kernel.source;
    board.kernel.source.clone_from(source);
    let locked = virt.sources.lock.components.get(source).context("the lock has no source of the kernel")?;
    project.sources.lock.components.insert(source.clone(), locked.clone());
    let graph = recipes::graph(&project.sources)?;
    let of_virt = recipes::graph(&virt.sources)?;
    // Else every run of this would build a kernel for itself.
    ensure!(
        graph.recipe(KERNEL).entry() == of_virt.recipe(KERNEL).entry(),
        "the board's trimmed kernel is not `virt`'s any more: `kernel.configs.trimmed` of cn106 has to say the same"
    );
    graph.build(&project.store, &recipes::bundle(&graph), common.jobs(), ui)?;
    snapshots::compare(common, &project, &graph)?;
    ui.notice("the bundle is whole: partitions, boot files, U-Boot's script, plan, images, endpoint");
    drop(graph);
    boot::check(common, ui, virt, &mut project)?;
    drivers::live(ui, &project)
}
