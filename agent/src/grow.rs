//! Lets the data partition take the whole disk, and its file system the whole partition.
//!
//! `systemd-repart` does the work, but is never left to find its way. It tells partitions apart by
//! their type alone, gives a definition to the first partition of its type, and makes a new
//! partition for a definition that is left over (repart.d(5)); a definition for `data` alone would
//! so grow slot A, or make a sixth partition. Hence this module reads the partition table, writes
//! definitions that hold all partitions of that type where they are and let only `data` grow, has
//! `systemd-repart` tell its plan first, and goes on only where the plan changes nothing but `data`.
//! The disk is named too: the one that the root lies on.

mod gpt;

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::mounts;
use crate::programs::{Programs, System};
use crate::report::Report;
use crate::storage::{self, LABEL, Partition};
use crate::tree::Tree;

/// Where the definitions for `systemd-repart` are written.
const DEFINITIONS: &str = "/run/dpukit/repart.d";
const GROWFS: &str = "/usr/lib/systemd/systemd-growfs";
/// Less than this behind the data partition is not worth a change.
const SLACK: u64 = 4 << 20;

/// Grows the running system's data partition.
pub fn run() -> Report {
    let mut report = Report::default();
    report.try_to(|report| grow(&Tree::system(), &System, report));
    report
}

/// Grows the data partition and its file system, where there is something to grow.
pub fn grow(tree: &Tree, programs: &dyn Programs, report: &mut Report) -> Result<()> {
    let partition = storage::data_partition(tree)?;
    grow_partition(tree, programs, &partition, report)?;
    // Also where the partition did not change: the start that changed it may have been cut short.
    grow_file_system(tree, programs, &partition, report)
}

fn grow_partition(
    tree: &Tree,
    programs: &dyn Programs,
    partition: &Partition,
    report: &mut Report,
) -> Result<()> {
    let table = read_table(tree, partition)?;
    let (node, disk) = (partition.node(), partition.disk_node());
    let data = table.data(partition.number)?;
    let behind = table.behind(data)?;
    if behind < SLACK {
        report.found(format!("`{node}` reaches to the end of the disk"));
        return Ok(());
    }
    define(tree, &table, data)?;
    let definitions = format!("--definitions={}", tree.at(DEFINITIONS).display());
    let disk = tree.at(disk).display().to_string();
    let run = |dry: &str| {
        programs
            .read("systemd-repart", &[&definitions, dry, "--json=short", "--discard=no", "--no-pager", &disk])
    };
    check_plan(&run("--dry-run=yes")?)?;
    run("--dry-run=no")?;
    let after = read_table(tree, partition)?;
    let left = after.behind(after.data(partition.number)?)?;
    if left >= SLACK {
        bail!("`systemd-repart` left {} MiB behind `{node}`", left >> 20);
    }
    report.did(format!("grew `{node}` by {} MiB", (behind - left) >> 20));
    Ok(())
}

fn read_table(tree: &Tree, partition: &Partition) -> Result<gpt::Table> {
    let disk = &partition.disk;
    // Both are in 512-byte units, whatever the disk's own sectors are.
    let size = tree.number(format!("/sys/class/block/{disk}/size"))?.saturating_mul(512);
    let sector = tree.number(format!("/sys/class/block/{disk}/queue/logical_block_size"))?;
    let node = partition.disk_node();
    File::open(tree.at(&node))
        .context("opening the disk")
        .and_then(|file| gpt::Table::read(file, sector, size))
        .with_context(|| format!("reading the partition table of `{node}`"))
}

/// Writes a definition for each partition of the data partition's type, in their order.
fn define(tree: &Tree, table: &gpt::Table, data: &gpt::Entry) -> Result<()> {
    let folder = tree.at(DEFINITIONS);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("emptying `{DEFINITIONS}`"));
        }
        _ => tree.make_folder(DEFINITIONS)?,
    }
    for entry in table.entries.iter().filter(|entry| entry.kind == data.kind) {
        let kind = &entry.kind;
        let definition = if entry.number == data.number {
            format!("[Partition]\nType={kind}\n")
        } else {
            let size = table.size(entry);
            format!("[Partition]\nType={kind}\nWeight=0\nSizeMinBytes={size}\nSizeMaxBytes={size}\n")
        };
        tree.save(Path::new(DEFINITIONS).join(format!("{:03}.conf", entry.number)), definition.as_bytes())?;
    }
    Ok(())
}

/// One partition of the plan that `systemd-repart --json` prints.
#[derive(Deserialize)]
struct Planned {
    label: String,
    activity: String,
}

/// Refuses a plan that does anything but grow the data partition.
fn check_plan(json: &str) -> Result<()> {
    let plan: Vec<Planned> =
        serde_json::from_str(json).context("`systemd-repart --json` printed something else than a plan")?;
    for Planned { label, activity } in &plan {
        let harmless = activity == "unchanged" || (label == LABEL && activity == "resize");
        if !harmless {
            bail!("`systemd-repart` would {activity} the partition `{label}`: nothing was changed");
        }
    }
    if plan.iter().filter(|planned| planned.label == LABEL).count() != 1 {
        bail!("`systemd-repart` does not see one partition `{LABEL}`: nothing was changed");
    }
    Ok(())
}

fn grow_file_system(
    tree: &Tree,
    programs: &dyn Programs,
    partition: &Partition,
    report: &mut Report,
) -> Result<()> {
    let device = tree.read(format!("/sys/class/block/{}/dev", partition.name))?;
    let mounted = mounts::at(tree, storage::MOUNT)?;
    if mounted.is_none_or(|mount| mount.device != device) {
        bail!(
            "`{}` is not mounted at `{}`, so its file system was not grown",
            partition.node(),
            storage::MOUNT
        );
    }
    programs.run(GROWFS, &[storage::MOUNT])?;
    report.found(format!("the file system of `{}` is as large as its partition", partition.node()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::gpt::tests::{DATA, Made, write};
    use super::*;
    use crate::fake::{self, Fake};
    use crate::storage::tests::with_disk;

    const PLAN: &str = r#"[{"label":"root-a","activity":"unchanged"},{"label":"data","activity":"resize"}]"#;
    const MIB: u64 = 1 << 20;

    /// A card whose disk is larger than the image that was written to it.
    fn card(kinds: [&str; 5], disk: u64) -> Fake {
        let fake = fake::virt();
        with_disk(&fake);
        fake.folder("/dev");
        write(&fake.card().tree.at("/dev/vda"), &made(kinds, 64), disk);
        fake.file("/sys/class/block/vda/size", &(disk / 512).to_string());
        fake.file("/sys/class/block/vda/queue/logical_block_size", "512");
        fake.file("/sys/class/block/vda5/dev", "254:5");
        fake.mounted("30 22 254:5 / /data rw,noatime - ext4 /dev/vda5 rw");
        fake.answer("systemd-repart", PLAN);
        fake.answer(GROWFS, "");
        fake
    }

    fn made(kinds: [&str; 5], end: u64) -> Vec<Made> {
        let names = ["boot-a", "root-a", "boot-b", "root-b", "data"];
        let ends = [8, 16, 24, 32, end];
        let starts = [1, 8, 16, 24, 32];
        (0..5).map(|i| Made::new(kinds[i], names[i], starts[i] * MIB, ends[i] * MIB)).collect()
    }

    fn grown(fake: &Fake) -> Report {
        let card = fake.card();
        let mut report = Report::default();
        report.try_to(|report| grow(&card.tree, card.programs.as_ref(), report));
        report
    }

    const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

    #[test]
    fn partitions_of_the_same_type_are_held_where_they_are() {
        let fake = card([LINUX, DATA, LINUX, DATA, DATA], 256 * MIB);
        grown(&fake);
        let tree = fake.card().tree;
        assert_eq!(tree.names(DEFINITIONS).unwrap(), ["002.conf", "004.conf", "005.conf"]);
        let size = 8 * MIB;
        assert_eq!(
            fake.read("/run/dpukit/repart.d/002.conf"),
            format!("[Partition]\nType={DATA}\nWeight=0\nSizeMinBytes={size}\nSizeMaxBytes={size}\n")
        );
        assert_eq!(fake.read("/run/dpukit/repart.d/005.conf"), format!("[Partition]\nType={DATA}\n"));
    }

    #[test]
    fn the_plan_is_looked_at_before_the_disk_is_written() {
        let fake = card([LINUX; 5], 256 * MIB);
        let report = grown(&fake);
        let ran = fake.ran();
        assert!(ran[0].contains("--dry-run=yes") && ran[1].contains("--dry-run=no"), "{ran:?}");
        assert!(ran[1].ends_with("/dev/vda"), "{ran:?}");
        // The made-up program leaves the table as it is, which is found out.
        assert_eq!(report.wrong, ["`systemd-repart` left 191 MiB behind `/dev/vda5`"]);
    }

    #[test]
    fn a_plan_that_touches_anything_else_is_refused() {
        for (plan, says) in [
            (
                r#"[{"label":"root-a","activity":"resize"},{"label":"data","activity":"unchanged"}]"#,
                "would resize",
            ),
            (r#"[{"label":"data","activity":"create"}]"#, "would create the partition `data`"),
            (r#"[{"label":"root-a","activity":"unchanged"}]"#, "does not see one partition `data`"),
            ("{}", "something else than a plan"),
        ] {
            let fake = card([LINUX; 5], 256 * MIB);
            fake.answer("systemd-repart", plan);
            let report = grown(&fake);
            assert!(report.wrong[0].contains(says), "{report:?}");
            assert!(!fake.ran().iter().any(|line| line.contains("--dry-run=no")));
        }
    }

    #[test]
    fn a_partition_that_fills_the_disk_is_left_and_its_file_system_grown() {
        let fake = card([LINUX; 5], 65 * MIB);
        let report = grown(&fake);
        assert!(report.is_good(), "{report:?}");
        assert_eq!(fake.ran(), [format!("{GROWFS} /data")]);
    }

    #[test]
    fn a_data_folder_in_memory_is_not_grown() {
        let fake = card([LINUX; 5], 65 * MIB);
        fake.unmounted("/data");
        fake.mounted("30 22 0:60 / /data rw - tmpfs tmpfs rw");
        assert!(grown(&fake).wrong[0].contains("is not mounted at `/data`"));
        assert!(fake.ran().is_empty());
    }

    #[test]
    fn a_table_that_is_not_what_the_kernel_sees_is_refused() {
        let fake = card([LINUX; 5], 256 * MIB);
        let mut other = made([LINUX; 5], 64);
        other[4].name = "date".into();
        write(&fake.card().tree.at("/dev/vda"), &other, 256 * MIB);
        assert_eq!(grown(&fake).wrong, ["partition 5 is called `date` in the partition table, not `data`"]);
    }

    #[test]
    fn a_partition_behind_the_data_is_in_the_way() {
        let fake = card([LINUX; 5], 256 * MIB);
        let mut other = made([LINUX; 5], 64);
        other.push(Made::new(LINUX, "more", 64 * MIB, 80 * MIB));
        write(&fake.card().tree.at("/dev/vda"), &other, 256 * MIB);
        assert_eq!(grown(&fake).wrong, ["partition 6 (`more`) lies behind `data`, which so cannot grow"]);
    }
}
