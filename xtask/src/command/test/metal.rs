//! The parts of boards of metal, built through their own recipes from stand-ins for their makers' sources.
//!
//! The kernel's stand-in is Debian's source of the same line, under a file that stands in for the vendor's
//! configuration: every option that is asked for has to take over arm64's defconfig too.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use dpukit_image::config::{Config, Local};
use dpukit_image::load;
use dpukit_image::project::{Project, Terms, lock_path};
use dpukit_image::recipes::{self, FIRMWARE, IMAGE, KERNEL_CONFIG, OCTEP, ROOT, Request};
use dpukit_image::store::cache_folder;
use xshell::{Shell, cmd};

use crate::flags::Common;
use crate::ui::Ui;

const BOARD: &str = "cn106";
const STAND_INS: &str = "image/tests/stand-ins";
/// `e_machine` of a program for the card, at 18 of its file (elf(5)): `EM_AARCH64`.
const AARCH64: [u8; 2] = [183, 0];

/// Builds what can be without an hour of compilers; `virt` is the board whose kernel's source stands in.
pub fn run(common: &Common, ui: &Ui, virt: &Project) -> Result<()> {
    ui.notice(&format!("the parts of board {BOARD}, from stand-ins"));
    let graph = recipes::graph(&virt.sources)?;
    let source = recipes::kernel_source(&virt.sources)?;
    graph.build(&virt.store, &[&source], common.jobs(), ui)?;
    let kernel = virt.store.out(&graph.recipe(&source).entry());

    let folder = tempfile::tempdir()?;
    let config = board(common, &kernel, folder.path())?;
    let terms = Terms { locked: common.locked, offline: common.offline };
    let request = Request { offline: common.offline, ..Request::default() };
    let mut project = Project::opened(config, &cache_folder()?, terms, request)?;
    project.make_current()?;
    project.sources.config.root = common.root();
    let graph = recipes::graph(&project.sources)?;
    graph.build(&project.store, &[OCTEP, KERNEL_CONFIG], common.jobs(), ui)?;
    let out = |step: &str| project.store.out(&graph.recipe(step).entry());

    let program = out(OCTEP).join("root/usr/bin/octep_cp_agent");
    let bytes = fs::read(&program).with_context(|| format!("reading `{}`", program.display()))?;
    ensure!(bytes.get(18..20) == Some(&AARCH64), "`{}` is not a program for the card", program.display());
    let configuration = fs::read_to_string(out(KERNEL_CONFIG).join("config"))?;
    for line in VENDOR.lines() {
        let is_decided = DECIDED.iter().any(|option| line.strip_prefix("CONFIG_") == Some(option));
        if configuration.lines().any(|have| have == line) == is_decided {
            let how = if is_decided { "took, and the board decides otherwise" } else { "did not take" };
            bail!("`{line}` of the vendor's configuration {how}");
        }
    }
    ui.notice("octep_cp_agent is built for the card; every option of the kernel took over the vendor's");
    drop(graph);
    whole_image(common, ui, virt, project)
}

/// The whole image, on the kernel of `virt`: the card's own takes an hour of compilers.
fn whole_image(common: &Common, ui: &Ui, virt: &Project, mut project: Project) -> Result<()> {
    let board = &mut project.sources.config.board;
    board.kernel = virt.sources.config.board.kernel.clone();
    let source = &virt.sources.config.board.kernel.source;
    let locked = virt.sources.lock.components.get(source).context("the lock has no source of the kernel")?;
    project.sources.lock.components.insert(source.clone(), locked.clone());
    let graph = recipes::graph(&project.sources)?;
    graph.build(&project.store, &[IMAGE], common.jobs(), ui)?;
    let out = |step: &str| project.store.out(&graph.recipe(step).entry());
    ensure!(out(IMAGE).starts_with(project.store.cache().join("private")), "the image could be shared");
    let shell = Shell::new()?;
    let root = out(ROOT).join("root.tar");
    let listed = cmd!(shell, "tar --list --file {root}").quiet().read()?;
    for path in IN_ROOT {
        ensure!(
            listed.lines().any(|line| line.trim_start_matches("./") == path),
            "`/{path}` is not in the root"
        );
    }
    let versions =
        cmd!(shell, "tar --extract --to-stdout --file {root} usr/lib/dpukit/versions.toml").quiet();
    let versions = versions.read()?;
    for line in ["firmware = \"12.25.01\"", "octep-agent = \"25.03.0\"", "--dpi_dev {dpi} --pem_dev {pem}"] {
        ensure!(versions.contains(line), "`versions.toml` of the root lacks `{line}`:\n{versions}");
    }
    let sums = fs::read_to_string(out(FIRMWARE).join("bundle/SHA256SUMS"))?;
    ensure!(sums.lines().count() == 2, "both files of the firmware are not in the bundle:\n{sums}");
    ui.notice("the whole image has the agent, the microcode, and what they go with");
    Ok(())
}

/// What the parts of metal bring into the card's root.
const IN_ROOT: [&str; 4] = [
    "usr/bin/octep_cp_agent",
    "usr/lib/dpukit/octep/cn106xx.cfg",
    "usr/lib/dpukit/versions.toml",
    "usr/lib/firmware/mrvl/ae.out",
];

/// What is known of the vendor's configuration, and an option that nothing else sets: it shows that the file
/// was laid over.
const VENDOR: &str = "\
CONFIG_ARM64_64K_PAGES=y
CONFIG_OCTEONTX2_AF=y
CONFIG_OCTEONTX2_PF=y
CONFIG_OCTEONTX2_VF=y
CONFIG_CRYPTO_DEV_OCTEONTX2_CPT=y
CONFIG_VFIO=y
CONFIG_VFIO_PCI=y
CONFIG_VFIO_NOIOMMU=y
CONFIG_ARM_SMMU_V3=y
CONFIG_OVERLAY_FS=m
CONFIG_CRYPTO_TEST=m
";

/// Where the board's fragments decide otherwise, with their reasons.
const DECIDED: [&str; 5] = ["ARM64_64K_PAGES=y", "VFIO=y", "VFIO_PCI=y", "VFIO_NOIOMMU=y", "OVERLAY_FS=m"];

/// The board with folders in place of all sources, and its lock in `folder`.
fn board(common: &Common, kernel: &Path, folder: &Path) -> Result<Config> {
    let mut config = load::load(&common.root(), BOARD)?;
    let vendor = folder.join("vendor");
    let path =
        &config.board.kernel.vendor.as_ref().context("the board has no configuration of a vendor")?.path;
    let file = vendor.join(path);
    fs::create_dir_all(file.parent().unwrap_or(&vendor))?;
    fs::write(&file, VENDOR)?;
    let sdk = folder.join("sdk/lib/firmware/mrvl");
    fs::create_dir_all(&sdk)?;
    fs::write(sdk.join("ae.out"), "stand-in")?;
    for name in ["fw-update-cn10ka-SDK12.25.01.bin", "flash-cn10ka-SDK12.25.01.img"] {
        fs::write(folder.join("sdk").join(name), "stand-in")?;
    }
    let overrides = [
        ("linux-marvell", kernel.to_owned()),
        ("dao", vendor),
        ("octep-agent", common.root().join(STAND_INS).join("octep")),
        ("sdk", folder.join("sdk")),
    ];
    let overrides = overrides.map(|(name, path)| (name.to_owned(), path));
    config.local = Local { overrides: BTreeMap::from(overrides), ..Local::default() };
    config.board.parts.cilium = None;
    config.board.parts.host_drivers = None;
    config.stand_in()?;
    let lock = lock_path(&config.root, BOARD);
    folder.clone_into(&mut config.root);
    let own = lock_path(folder, BOARD);
    fs::create_dir_all(own.parent().unwrap_or(folder))?;
    fs::copy(&lock, &own).with_context(|| format!("copying `{}`", lock.display()))?;
    Ok(config)
}
