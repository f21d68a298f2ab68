//! What a bundle holds, as text beside what it is to hold.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use dpukit_image::project::Project;
use dpukit_image::recipes::{self, DRIVERS, FIRMWARE, IMAGE, IMAGES, OCTEP, ROOT, SYSTEM};
use dpukit_image::sandbox::Sandbox;
use dpukit_image::step::Graph;
use serde_json::Value;

use crate::flags::Common;

/// What the parts of metal bring into the card's root.
const IN_ROOT: [&str; 5] = [
    "usr/bin/octep_cp_agent",
    "usr/lib/dpukit/images.toml",
    "usr/lib/dpukit/octep/cn106xx.cfg",
    "usr/lib/dpukit/versions.toml",
    "usr/lib/firmware/mrvl/ae.out",
];

/// Compares a text with `xtask/src/command/test/metal/<name>`.
pub fn is_as_before(common: &Common, name: &str, text: &str) -> Result<()> {
    let path = common.root().join("xtask/src/command/test/metal").join(name);
    let before = fs::read_to_string(&path).unwrap_or_default();
    if before == text {
        return Ok(());
    }
    let now = common.root().join("out").join(format!("metal-{name}"));
    fs::create_dir_all(now.parent().unwrap_or(&now))?;
    fs::write(&now, text)?;
    let difference = Command::new("diff").arg("-u").arg(&path).arg(&now).output();
    let difference = difference.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    bail!(
        "it is otherwise than `{}` says; if that is right, copy `{}` there\n{}",
        path.display(),
        now.display(),
        difference.unwrap_or_default()
    )
}

/// Compares all that the bundle holds.
pub fn compare(common: &Common, project: &Project, graph: &Graph<'_>) -> Result<()> {
    let out = |step: &str| project.store.out(&graph.recipe(step).entry());
    ensure!(out(IMAGE).starts_with(project.store.cache().join("private")), "the image could be shared");
    let root = out(ROOT).join("root.tar");
    let listed = read(Command::new("tar").arg("--list").arg("--file").arg(&root))?;
    for path in IN_ROOT {
        ensure!(
            listed.lines().any(|line| line.trim_start_matches("./") == path),
            "`/{path}` is not in the root"
        );
    }
    let mut text = String::new();
    section(&mut text, "partitions: name, type, attributes, first byte, bytes");
    text += &partitions(&out(IMAGE).join("disk.img"))?;
    let disk = project.store.out(&graph.recipe("boot").entry());
    let tools = project.store.out(&graph.recipe(&project.sources.config.board.tools.base).entry());
    section(&mut text, "boot partition: mode, owner, name");
    text += &files(&tools, &disk.join("boot.img"), "/")?;
    section(&mut text, "data partition: mode, owner, name");
    text += &files(&tools, &disk.join("data.img"), "/images")?;
    section(&mut text, "U-Boot's script");
    text += &slot_script(&tools, &disk.join("boot.img"), &out(SYSTEM).join("verity.json"))?;
    section(&mut text, "start partition: mode, owner, name");
    text += &files(&tools, &disk.join("start.img"), "/")?;
    section(&mut text, "the script that chooses a slot");
    text += &script(&tools, &disk.join("start.img"))?;
    for path in ["plan.toml", "versions.toml"] {
        section(&mut text, path);
        let path = format!("usr/lib/dpukit/{path}");
        let file =
            read(Command::new("tar").args(["--extract", "--to-stdout", "--file"]).arg(&root).arg(path))?;
        // The stand-in for the kernel's source is of whatever version Debian's lock has.
        let lines =
            file.lines().map(|line| if line.starts_with("kernel = ") { "kernel = KERNEL" } else { line });
        text.extend(lines.flat_map(|line| [line, "\n"]));
    }
    section(&mut text, "images.toml");
    let list = fs::read_to_string(out(IMAGES).join("root/usr/lib/dpukit/images.toml"))?;
    text += &list;
    section(&mut text, "cn106xx.cfg");
    text += &fs::read_to_string(out(OCTEP).join("root/usr/lib/dpukit/octep/cn106xx.cfg"))?;
    section(&mut text, "firmware");
    text += &fs::read_to_string(out(FIRMWARE).join("bundle/SHA256SUMS"))?;
    section(&mut text, "the host's drivers");
    let package =
        recipes::drivers_name(&project.sources)?.context("the board has no drivers for the host")?;
    let contents = read(Command::new("dpkg-deb").arg("--contents").arg(out(DRIVERS).join(&package)))?;
    for line in contents.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [mode, owner, .., path] = words[..] else { bail!("`{line}` is no line of a listing") };
        writeln!(text, "{mode} {owner} {path}")?;
    }
    is_as_before(common, "bundle.txt", &without_hashes(&text, &list))
}

/// Cilium's agent in the image is built by the Go that Debian's lock has, which changes. `images` is the card's list.
fn without_hashes(text: &str, images: &str) -> String {
    let mut text = text.to_owned();
    for (name, value) in images.lines().filter_map(|line| line.split_once(" = ")) {
        let value = value.trim_matches('"');
        if let Some(hex) = value.strip_prefix("sha256:").filter(|_| name == "digest") {
            text = text.replace(hex, "DIGEST").replace(hex.get(..12).unwrap_or(hex), "DIGEST");
        } else if name == "sha256" {
            text = text.replace(value, "SHA256");
        }
    }
    text
}

fn section(text: &mut String, title: &str) {
    *text += &format!("{}== {title}\n", if text.is_empty() { "" } else { "\n" });
}

/// What a program that has to end well prints.
pub fn read(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&bytes(command)?).into_owned())
}

fn bytes(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let said = [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).concat();
    ensure!(output.status.success(), "{command:?} ended with {}:\n{said}", output.status);
    Ok(output.stdout)
}

fn partitions(disk: &Path) -> Result<String> {
    let table = gptman::GPT::find_from(&mut File::open(disk)?)?;
    let mut text = String::new();
    for (_, part) in table.iter().filter(|(_, part)| part.is_used()) {
        let kind = u128::from_be_bytes(part.partition_type_guid);
        writeln!(
            text,
            "{} {kind:032x} {} {} {}",
            part.partition_name,
            part.attribute_bits,
            part.starting_lba * table.sector_size,
            part.size()? * table.sector_size
        )?;
    }
    Ok(text)
}

fn debugfs(tools: &Path, image: &Path, request: &str) -> Result<Vec<u8>> {
    let sandbox = Sandbox::new(tools).input("file-system", image);
    bytes(&mut sandbox.command(&["debugfs", "-R", request, "/in/file-system"])?)
}

/// The files of a folder: debugfs(8) parts what it knows of one by slashes.
fn files(tools: &Path, image: &Path, folder: &str) -> Result<String> {
    let listed = debugfs(tools, image, &format!("ls -p {folder}"))?;
    let mut text = String::new();
    for line in String::from_utf8_lossy(&listed).lines() {
        let words: Vec<_> = line.split('/').collect();
        if let [_, _, mode, owner, group, name, ..] = words[..]
            && !name.starts_with('.')
        {
            writeln!(text, "{mode} {owner}:{group} {name}")?;
        }
    }
    Ok(text)
}

/// A script of U-Boot. Before its text are a header of 64 bytes and its length.
fn script(tools: &Path, image: &Path) -> Result<String> {
    let bytes = debugfs(tools, image, "cat /boot.scr")?;
    let text = bytes.get(72..).context("`boot.scr` is too short")?;
    String::from_utf8(text.to_vec()).context("`boot.scr` is no text")
}

/// A slot's script without what differs from root to root.
fn slot_script(tools: &Path, image: &Path, verity: &Path) -> Result<String> {
    let mut text = script(tools, image)?;
    let verity: Value = serde_json::from_slice(&fs::read(verity)?)?;
    let blocks = verity["data_blocks"].as_u64().context("`verity.json` has no `data_blocks`")?;
    for (value, name) in [
        (verity["root_hash"].as_str().unwrap_or_default().to_owned(), "ROOT-HASH"),
        (verity["salt"].as_str().unwrap_or_default().to_owned(), "SALT"),
        (format!("0 {} verity", blocks * 8), "0 SECTORS verity"),
        (format!(" {blocks} {} sha256", blocks + 1), " BLOCKS TREE sha256"),
    ] {
        ensure!(text.contains(&value), "U-Boot's script does not say `{value}`");
        text = text.replace(&value, name);
    }
    Ok(text)
}
