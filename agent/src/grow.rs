//! Lets the data partition take the whole disk, and its file system the whole partition.
//!
//! A partition table is the one thing on the disk without which no slot starts. It is written as it must be for a card
//! whose power may go (see [`gpt`]), and a copy that a cut spoiled is made anew at the next start, from the other one. The
//! kernel looks at that other one only where its line has the word `gpt` (its admin-guide/kernel-parameters.txt).

mod gpt;

use std::fs::File;

use anyhow::{Context as _, Result, bail};

use crate::mounts;
use crate::programs::{Programs, System};
use crate::report::Report;
use crate::storage::{self, Partition};
use crate::tree::Tree;

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
    let (name, node, disk) = (&partition.name, partition.node(), partition.disk_node());
    // Both are in 512-byte units, whatever the disk's own sectors are.
    let bytes = |path: String| Ok::<_, anyhow::Error>(tree.number(path)?.saturating_mul(512));
    let size = bytes(format!("/sys/class/block/{}/size", partition.disk))?;
    let sector = tree.number(format!("/sys/class/block/{}/queue/logical_block_size", partition.disk))?;
    let path = tree.at(&disk);
    let mut file = File::options().read(true).write(true).open(&path).context("opening the disk")?;
    let mut table = gpt::Table::read(&mut file, sector, size)
        .with_context(|| format!("reading the partition table of `{disk}`"))?;
    let grown = table.grow(partition.number, SLACK);
    // A spoiled copy is mended, whatever keeps the partition from growing.
    if !table.is_on_disk() {
        let written = table.write(&mut file, |file| file.sync_all());
        written.with_context(|| format!("writing the partition table of `{disk}`"))?;
        report.did(format!(
            "wrote the partition table of `{disk}`, whose two copies were not what they are now"
        ));
    }
    grown?;
    let wanted = table.size(partition.number).with_context(|| format!("`{node}` has no size"))?;
    let seen = || bytes(format!("/sys/class/block/{name}/size"));
    let before = seen()?;
    if before == wanted {
        report.found(format!("`{node}` reaches to the end of the disk"));
        return Ok(());
    }
    // Partitions in use can't be read anew, but told one by one how large they are.
    programs
        .run("partx", &["--update", "--nr", &partition.number.to_string(), &path.display().to_string()])?;
    let now = seen()?;
    if now != wanted {
        bail!("the kernel sees {} MiB of `{node}`, which has {}", now >> 20, wanted >> 20);
    }
    report.did(format!("grew `{node}` by {} MiB", wanted.saturating_sub(before) >> 20));
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
    use std::fs;

    use super::gpt::tests::disk;
    use super::*;
    use crate::fake::{self, Fake};
    use crate::storage::tests::with_disk;

    const MIB: u64 = 1 << 20;
    const NAMES: [&str; 5] = ["boot-a", "root-a", "boot-b", "root-b", "data"];

    /// A card whose disk has an image of 65 MiB on it.
    fn card(names: [&str; 5], size: u64) -> Fake {
        let fake = fake::virt();
        with_disk(&fake);
        fake.folder("/dev");
        let bounds = [1, 8, 16, 24, 32, 64].map(|mebibytes| mebibytes * MIB);
        let partitions: Vec<_> = (0..5).map(|i| (names[i], bounds[i], bounds[i + 1])).collect();
        fs::write(fake.card().tree.at("/dev/vda"), disk(&partitions, 65 * MIB, size)).unwrap();
        fake.file("/sys/class/block/vda/size", &(size / 512).to_string());
        fake.file("/sys/class/block/vda/queue/logical_block_size", "512");
        fake.file("/sys/class/block/vda5/dev", "254:5");
        fake.file("/sys/class/block/vda5/size", &(32 * MIB / 512).to_string());
        fake.mounted("30 22 254:5 / /data rw,noatime - ext4 /dev/vda5 rw");
        fake.answer("partx", "");
        fake.answer(GROWFS, "");
        fake
    }

    fn grown(fake: &Fake) -> Report {
        grown_with(fake, fake.card().programs.as_ref())
    }

    fn grown_with(fake: &Fake, programs: &dyn Programs) -> Report {
        let mut report = Report::default();
        report.try_to(|report| grow(&fake.card().tree, programs, report));
        report
    }

    /// The programs, and a kernel that hears of partx what the partition has.
    struct Kernel<'a>(&'a Fake);

    impl Programs for Kernel<'_> {
        fn read(&self, program: &str, arguments: &[&str]) -> Result<String> {
            if program == "partx" {
                self.0.file("/sys/class/block/vda5/size", &((256 - 32) * MIB / 512 - 40).to_string());
            }
            self.0.card().programs.read(program, arguments)
        }
    }

    #[test]
    fn a_larger_disk_is_taken_whole_and_the_kernel_told() {
        let fake = card(NAMES, 256 * MIB);
        let report = grown_with(&fake, &Kernel(&fake));
        assert!(report.is_good(), "{report:?}");
        assert_eq!(report.did[1], "grew `/dev/vda5` by 191 MiB", "{report:?}");
        let disk = fake.card().tree.at("/dev/vda");
        assert_eq!(
            fake.ran(),
            [format!("partx --update --nr 5 {}", disk.display()), format!("{GROWFS} /data")]
        );
        fake.forget();
        let report = grown(&fake);
        assert_eq!(report.did, Vec::<String>::new());
        assert_eq!(fake.ran(), [format!("{GROWFS} /data")]);
    }

    #[test]
    fn a_kernel_that_does_not_follow_is_told_each_time() {
        let fake = card(NAMES, 256 * MIB);
        for _ in 0..2 {
            assert_eq!(grown(&fake).wrong, ["the kernel sees 32 MiB of `/dev/vda5`, which has 223"]);
        }
        let report = grown_with(&fake, &Kernel(&fake));
        assert!(report.is_good(), "{report:?}");
    }

    #[test]
    fn a_copy_of_the_table_that_is_spoiled_is_made_anew() {
        let fake = card(NAMES, 65 * MIB);
        let disk = fake.card().tree.at("/dev/vda");
        let good = fs::read(&disk).unwrap();
        assert_eq!(grown(&fake).did, Vec::<String>::new());
        let mut bad = good.clone();
        bad[1024 + 40] ^= 1;
        fs::write(&disk, bad).unwrap();
        let report = grown(&fake);
        assert!(report.is_good() && report.did[0].starts_with("wrote the partition table"), "{report:?}");
        assert!(fs::read(&disk).unwrap() == good);
    }

    #[test]
    fn a_partition_that_fills_the_disk_is_left_and_its_file_system_grown() {
        let fake = card(NAMES, 65 * MIB);
        let report = grown(&fake);
        assert!(report.is_good(), "{report:?}");
        assert_eq!(fake.ran(), [format!("{GROWFS} /data")]);
    }

    #[test]
    fn a_data_folder_in_memory_is_not_grown() {
        let fake = card(NAMES, 65 * MIB);
        fake.unmounted("/data");
        fake.mounted("30 22 0:60 / /data rw - tmpfs tmpfs rw");
        assert!(grown(&fake).wrong[0].contains("is not mounted at `/data`"));
        assert!(fake.ran().is_empty());
    }

    #[test]
    fn a_table_that_is_not_what_the_kernel_sees_is_refused_and_only_mended() {
        let fake = card(["boot-a", "root-a", "boot-b", "root-b", "date"], 65 * MIB);
        let disk = fake.card().tree.at("/dev/vda");
        let good = fs::read(&disk).unwrap();
        let wrong = ["partition 5 is called `date` in the partition table, not `data`"];
        assert_eq!(grown(&fake).wrong, wrong);
        assert!(fs::read(&disk).unwrap() == good);
        let mut bad = good.clone();
        bad[512] ^= 1;
        fs::write(&disk, bad).unwrap();
        assert_eq!(grown(&fake).wrong, wrong);
        assert!(fs::read(&disk).unwrap() == good);
    }
}
