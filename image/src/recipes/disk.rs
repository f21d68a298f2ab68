//! The boot file system, the data file system, and the disk that holds them all.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use gptman::{GPT, GPTPartitionEntry};

use super::images::IMAGES;
use super::kernel::KERNEL;
use super::root::{SYSTEM, Verity, uuid};
use super::{IMAGE, Sources, start};
use crate::config::Config;
use crate::hash::Hash;
use crate::sandbox::Sandbox;
use crate::step::{Graph, Room};

/// The step that makes `boot.img`, with the kernel and U-Boot's script, and the empty `data.img`.
pub const BOOT: &str = "boot";
const BOOT_SCRIPT: &str = include_str!("boot.sh");
/// U-Boot's script and the disk are made here.
const CODE: &str = include_str!("disk.rs");

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// The partitions' type: "Linux filesystem data" of the Discoverable Partitions Specification.
const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
/// "Legacy BIOS bootable": where U-Boot looks for a boot script.
const BOOTABLE: u64 = 1 << 2;
/// Of the partitions with the script that chooses a slot, and with its counts.
const START_SIZE: u64 = MIB;

pub fn steps<'a>(graph: &mut Graph<'a>, sources: &'a Sources) -> Result<()> {
    let config = &sources.config;
    let board = &config.board;
    let images = graph.has(IMAGES);
    let mut step = graph.step(BOOT).needs(&board.tools.base).needs(KERNEL).needs(SYSTEM);
    if images {
        step = step.needs(IMAGES);
    }
    let start =
        if start::is_on_disk(board) { Some(start::script(&start::slots(&config.root)?)) } else { None };
    if let Some(start) = &start {
        step = step.content("start", start);
    }
    step.content("script", BOOT_SCRIPT)
        .content("code", CODE)
        .content("boot", format!("{:?} {:?}", board.boot, board.disk))
        .run(move |room| boot(room, config, images, start.as_deref()));
    graph
        .step(IMAGE)
        .needs(BOOT)
        .needs(SYSTEM)
        .content("code", CODE)
        .content(
            "layout",
            format!("{:?} {} {}", board.disk, start::is_on_disk(board), env!("CARGO_PKG_VERSION")),
        )
        .content("start", include_str!("start.rs"))
        .run(move |room| image(room, config));
    Ok(())
}

/// Makes `boot.img` with the kernel and U-Boot's script, `data.img`, which is empty but for container images, and
/// `start.img` with the script that chooses a slot.
fn boot(room: &Room<'_>, config: &Config, images: bool, start: Option<&str>) -> Result<()> {
    let verity =
        fs::read_to_string(room.result(SYSTEM).join("verity.json")).context("reading the root's verity")?;
    let verity: Verity = serde_json::from_str(&verity).context("reading the root's verity")?;
    let script = room.place.scratch.join("boot.cmd");
    fs::write(&script, boot_script(&config.board.boot.cmdline, &verity))?;
    let seed = Hash::of(format!("boot {}", room.entry(SYSTEM))).to_string();
    let data = if images { room.result(IMAGES).join("data") } else { room.place.scratch.join("data") };
    fs::create_dir_all(&data)?;
    let mut sandbox = Sandbox::new(room.result(&config.board.tools.base));
    if let Some(start) = start {
        let script = room.place.scratch.join("start.cmd");
        fs::write(&script, start)?;
        let seed = Hash::of(format!("start {seed}")).to_string();
        sandbox =
            sandbox.input("start.cmd", &script).env("START_UUID", uuid(&seed)).env("START_SIZE", START_SIZE);
    }
    sandbox
        .input("data", data)
        .input("Image", room.result(KERNEL).join("Image"))
        .input("boot.cmd", &script)
        .env("BOOT_UUID", uuid(&seed))
        .env("DATA_UUID", uuid(&seed[32..].repeat(2)))
        .env("BOOT_SIZE", config.board.disk.boot)
        .env("DATA_SIZE", config.board.disk.data)
        .run(room.place, BOOT_SCRIPT)
}

/// U-Boot's script: the same in both slots, for the root is the partition behind the one it lies on.
///
/// A wrong block of the root restarts the card (`restart_on_corruption` of the kernel's
/// admin-guide/device-mapper/verity.rst). Answered with an error instead, it leaves a system that neither works
/// nor ends, and U-Boot is never asked for the other slot.
///
/// An eMMC is found when it likes, and `dm-mod.create` waits for no device that nobody names (dm-init.rst beside it).
///
/// `gpt` lets the kernel take the partition table's second copy where the first is spoiled, which the agent makes anew
/// (`agent/src/grow.rs`); without it, such a disk has no partitions (its block/partitions/efi.c). It holds for every
/// disk of the card.
fn boot_script(cmdline: &str, verity: &Verity) -> String {
    let Verity { root_hash, salt, data_blocks } = verity;
    let (sectors, tree) = (data_blocks * 8, data_blocks + 1);
    format!(
        "# devtype, devnum and distro_bootpart are set by U-Boot's boot scan; numbers are hexadecimal.\n\
         setexpr root_part ${{distro_bootpart}} + 1\n\
         part uuid ${{devtype}} ${{devnum}}:${{root_part}} root_uuid\n\
         setenv root PARTUUID=${{root_uuid}}\n\
         if test ${{root_part}} = 2; then setenv slot A; else setenv slot B; fi\n\
         setenv bootargs \"{cmdline} gpt rauc.slot=${{slot}} ro root=/dev/dm-0 rootwait dm-mod.waitfor=${{root}} dm-mod.create=\\\"root,,,ro,0 {sectors} verity 1 \
         ${{root}} ${{root}} 4096 4096 {data_blocks} {tree} sha256 {root_hash} {salt} \
         1 restart_on_corruption\\\"\"\n\
         load ${{devtype}} ${{devnum}}:${{distro_bootpart}} ${{kernel_addr_r}} Image\n\
         booti ${{kernel_addr_r}} - ${{fdtcontroladdr}}\n"
    )
}

fn image(room: &Room<'_>, config: &Config) -> Result<()> {
    let (boot, system) = (room.result(BOOT), room.result(SYSTEM));
    let sizes = &config.board.disk;
    let by_script = start::is_on_disk(&config.board);
    let bootable = |is: bool| if is { BOOTABLE } else { 0 };
    // Slot B is empty until the first update.
    let mut layout = vec![
        ("boot-a", sizes.boot, bootable(!by_script), Some(boot.join("boot.img"))),
        ("root-a", sizes.root, 0, Some(system.join("root.img"))),
        ("boot-b", sizes.boot, 0, None),
        ("root-b", sizes.root, 0, None),
    ];
    if by_script {
        let counts = room.place.scratch.join("counts");
        fs::write(&counts, start::COUNTS)?;
        layout.push(("start", START_SIZE, BOOTABLE, Some(boot.join("start.img"))));
        layout.push(("slots", START_SIZE, 0, Some(counts)));
    }
    // The last one, for it grows.
    layout.push(("data", sizes.data, 0, Some(boot.join("data.img"))));
    let total = layout.iter().map(|(_, size, ..)| size).sum::<u64>() + 2 * MIB;
    let path = room.place.out.join("disk.img");
    let mut disk = File::options().create_new(true).read(true).write(true).open(&path)?;
    disk.set_len(total).context("making the disk")?;

    let seed = |name: &str| Hash::of(format!("{name} {}", room.entry(BOOT))).to_string();
    let mut table = GPT::new_from(&mut disk, SECTOR, guid(&uuid(&seed("disk")))?)?;
    table.align = MIB / SECTOR;
    let mut start = MIB;
    let mut map = String::from("# partition, first byte, bytes\n");
    for (number, (name, size, attributes, content)) in (1..).zip(layout) {
        table[number] = GPTPartitionEntry {
            partition_type_guid: guid(LINUX)?,
            unique_partition_guid: guid(&uuid(&seed(name)))?,
            starting_lba: start / SECTOR,
            ending_lba: (start + size) / SECTOR - 1,
            attribute_bits: attributes,
            partition_name: name.into(),
        };
        if let Some(content) = content {
            copy_sparse(&content, &mut disk, start).with_context(|| format!("writing partition `{name}`"))?;
        }
        map.push_str(&format!("{name}\t{start}\t{size}\n"));
        start += size;
    }
    GPT::write_protective_mbr_into(&mut disk, SECTOR)?;
    table.write_into(&mut disk)?;
    disk.sync_all()?;
    fs::write(room.place.out.join("disk.map"), map)?;
    Ok(())
}

/// Text of a UUID to the bytes that a GPT holds: the first three fields are little-endian (UEFI 2.10, appendix A).
fn guid(text: &str) -> Result<[u8; 16]> {
    let hex: String = text.chars().filter(|digit| *digit != '-').collect();
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16)?;
    }
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Ok(bytes)
}

/// Copies a file into a new, empty disk at an offset, leaving out blocks of zeroes.
pub fn copy_sparse(from: &Path, disk: &mut File, offset: u64) -> Result<()> {
    let mut from = File::open(from).with_context(|| format!("reading `{}`", from.display()))?;
    let (mut buffer, hole) = (vec![0; 1 << 16], [0; 4096]);
    let mut at = offset;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return Ok(());
        }
        for block in buffer[..filled].chunks(hole.len()) {
            // The C library compares: this program is hardly optimized.
            if *block != hole[..block.len()] {
                disk.seek(SeekFrom::Start(at))?;
                disk.write_all(block)?;
            }
            at += block.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_has_its_first_fields_turned() {
        let bytes = guid("0fc63daf-8483-4772-8e79-3d69d8477de4").unwrap();
        assert_eq!(bytes[..8], [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47]);
        assert_eq!(bytes[8..10], [0x8e, 0x79]);
    }

    #[test]
    fn a_sparse_copy_has_the_same_content_and_holes() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let mut content = vec![0; 3 << 20];
        content[..4].copy_from_slice(b"head");
        *content.last_mut().unwrap() = 7;
        let from = folder.path().join("from");
        fs::write(&from, &content).unwrap();
        let to = folder.path().join("to");
        let mut disk = File::create(&to).unwrap();
        disk.set_len(content.len() as u64).unwrap();
        copy_sparse(&from, &mut disk, 0).unwrap();
        disk.sync_all().unwrap();
        assert_eq!(fs::read(&to).unwrap(), content);
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
