//! U-Boot, from Debian's source package: that of a card without one of its makers', and U-Boot as a process
//! of the building machine, which tests flash in a card's stead.

use std::fs;

use anyhow::{Context as _, Result};

use super::{Sources, packages_enter, start, tools};
use crate::config::UBoot;
use crate::kconfig::{self, Config, Fragment};
use crate::sandbox::Sandbox;
use crate::step::{Graph, Room};

/// The step that makes the card's `u-boot.bin`.
pub const U_BOOT: &str = "u-boot";
/// The step that makes `u-boot`, a program that runs in the tool root of `[u-boot]`, and its `test.dtb`.
pub const SANDBOX: &str = "u-boot-sandbox";
/// The step with the source, Debian's patches applied.
const SOURCE: &str = "u-boot-source";

const UNPACK: &str = include_str!("u-boot-source.sh");
const CONFIGURE: &str = include_str!("u-boot-configure.sh");
const BUILD: &str = include_str!("u-boot-build.sh");

/// What differs between a U-Boot for a card and one for tests.
#[derive(Clone, Copy)]
struct Kind<'a> {
    step: &'static str,
    base: &'a str,
    /// Prefix of the compiler's name; empty for the building machine's own.
    cross: &'static str,
    /// Variables of U-Boot's `make`.
    make_with: &'static str,
    target: &'static str,
    /// Paths in the build's folder of what is kept.
    result: &'static str,
}

pub fn steps<'a>(graph: &mut Graph<'a>, sources: &'a Sources) -> Result<()> {
    let (board, root) = (&sources.config.board, &sources.config.root);
    let Some(u_boot) = &board.u_boot else { return Ok(()) };
    tools::tool_root(graph, sources, &u_boot.tools)?;
    let step = graph.step(SOURCE).needs(&u_boot.tools).content("script", UNPACK);
    packages_enter(step, sources, &u_boot.source)?.run(move |room| {
        let mut sandbox = Sandbox::new(room.result(&u_boot.tools));
        for (package, file) in sources.download(room, &u_boot.source)? {
            sandbox = sandbox.input(package.path.rsplit('/').next().unwrap_or_default(), file);
        }
        sandbox.run(room.place, UNPACK)
    });

    let read = |path: &std::path::Path| {
        fs::read_to_string(root.join(path)).with_context(|| format!("reading `{}`", path.display()))
    };
    let card = Kind {
        step: U_BOOT,
        base: &u_boot.base,
        cross: "aarch64-linux-gnu-",
        make_with: "CROSS_COMPILE=aarch64-linux-gnu-",
        target: "u-boot.bin",
        result: "u-boot.bin",
    };
    let mut environment = read(&u_boot.environment)?;
    if !start::is_on_disk(board) {
        environment += &start::slots(root)?;
    }
    build(graph, sources, u_boot, card, Fragment::load(&root.join(&u_boot.config))?, Some(environment))?;
    let sandbox = Kind {
        step: SANDBOX,
        base: "sandbox_defconfig",
        cross: "",
        // Its display would need a library of its own.
        make_with: "NO_SDL=1",
        target: "all",
        result: "u-boot arch/sandbox/dts/test.dtb",
    };
    let fragment = Fragment::load(&root.join("image/u-boot/sandbox.config"))?;
    build(graph, sources, u_boot, sandbox, fragment, None)
}

fn build<'a>(
    graph: &mut Graph<'a>,
    sources: &'a Sources,
    u_boot: &'a UBoot,
    kind: Kind<'a>,
    fragment: Fragment,
    environment: Option<String>,
) -> Result<()> {
    let explain = sources.config.root.join("kernel-config/explain.py");
    let explain = fs::read(&explain).with_context(|| format!("reading `{}`", explain.display()))?;
    let mut step = graph.step(kind.step).needs(SOURCE).needs(&u_boot.tools);
    if let Some(environment) = &environment {
        step = step.content("environment", environment);
    }
    step.content("scripts", format!("{CONFIGURE}{BUILD}"))
        .content("base", kind.base)
        .content("make", format!("{} {} {}", kind.make_with, kind.target, kind.result))
        .content("configuration", fragment.wishes())
        .content("explain.py", &explain)
        .run(move |room| {
            let file = |name: &str, text: &[u8]| -> Result<_> {
                let path = room.place.scratch.join(name);
                fs::write(&path, text).with_context(|| format!("writing `{}`", path.display()))?;
                Ok(path)
            };
            let environment = file("environment", environment.as_deref().unwrap_or_default().as_bytes())?;
            let sandbox = || {
                Sandbox::new(room.result(&u_boot.tools))
                    .input("source", room.result(SOURCE))
                    .input("environment", &environment)
                    .env("MAKE_WITH", kind.make_with)
            };
            let names: Vec<_> = fragment.options.iter().map(|option| option.name.as_str()).collect();
            sandbox()
                .input("fragment.config", file("fragment.config", fragment.wishes().as_bytes())?)
                .input("explain.py", file("explain.py", &explain)?)
                .env("BASE", kind.base)
                .env("CROSS_COMPILE", kind.cross)
                .env("WANTED", names.join(" "))
                .run(room.place, CONFIGURE)?;
            audit(room, &fragment)?;
            sandbox()
                .env("JOBS", room.jobs)
                .env("TARGET", kind.target)
                .env("RESULT", kind.result)
                .run(room.place, BUILD)
        });
    Ok(())
}

/// Fails with every option of the fragment that did not take.
fn audit(room: &Room<'_>, fragment: &Fragment) -> Result<()> {
    let read = |name: &str| {
        fs::read_to_string(room.place.out.join(name)).with_context(|| format!("reading `{name}`"))
    };
    let config = Config::parse(&read("config")?)?;
    kconfig::audit(
        &config,
        std::slice::from_ref(fragment),
        &[],
        read("version")?.trim(),
        &read("explained.json")?,
    )
    .context("configuring U-Boot")
}
