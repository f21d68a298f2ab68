//! Where the data partition is: on the disk that the root is on, under the name `data`; and its other partitions.
//!
//! The root is a device-mapper device (dm-verity) over a partition; sysfs shows what is below it,
//! and which other partitions the same disk has.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::mounts;
use crate::tree::Tree;

/// The partition's name in the partition table.
pub const LABEL: &str = "data";
/// The names of the slots' partitions.
const SLOTS: [&str; 4] = ["boot-a", "root-a", "boot-b", "root-b"];
/// Where it is mounted.
pub const MOUNT: &str = "/data";
/// Where [`crate::init`] writes why `/data` is in memory only.
pub const FALLBACK: &str = "/run/dpukit/data-fallback";

/// A partition and its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The disk's name: `vda`.
    pub disk: String,
    /// The partition's name: `vda5`.
    pub name: String,
    /// Its number in the partition table.
    pub number: u32,
}

impl Partition {
    /// The partition's device node.
    pub fn node(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// The disk's device node.
    pub fn disk_node(&self) -> String {
        format!("/dev/{}", self.disk)
    }
}

/// The data partition of the disk that the root is on.
pub fn data_partition(tree: &Tree) -> Result<Partition> {
    partition(tree, LABEL)
}

/// The partition of this name of the disk that the root is on: a card may have been flashed to another disk before.
pub fn partition(tree: &Tree, wanted: &str) -> Result<Partition> {
    let disk = roots_disk(tree)?;
    let mut found = Vec::new();
    let mut names = Vec::new();
    for (partition, label) in partitions(tree, &disk)? {
        if label == wanted {
            found.push(partition);
        } else {
            names.push(format!("`{label}`"));
        }
    }
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => bail!("the disk `{}` has no partition `{wanted}`, only {}", name_of(&disk), names.join(", ")),
        count => bail!("the disk `{}` has {count} partitions `{wanted}`", name_of(&disk)),
    }
}

/// The names of other disks than the root's that have slots.
pub fn others_with_slots(tree: &Tree) -> Result<Vec<String>> {
    let own = roots_disk(tree)?;
    let mut others = Vec::new();
    for name in tree.names("/sys/class/block")? {
        let disk = tree.real(Path::new("/sys/class/block").join(name))?;
        let is_other = !tree.exists(disk.join("partition")) && disk != own;
        if is_other && partitions(tree, &disk)?.iter().any(|(_, label)| SLOTS.contains(&label.as_str())) {
            others.push(name_of(&disk));
        }
    }
    Ok(others)
}

/// The sysfs folder of the disk that the root is on.
fn roots_disk(tree: &Tree) -> Result<PathBuf> {
    let root = mounts::at(tree, "/")?.context("nothing is mounted at `/`")?;
    disk_of(tree, &root.device)
}

/// The sysfs folder of the disk that a block device (`major:minor`) is on, through however many
/// layers of device mapper.
fn disk_of(tree: &Tree, device: &str) -> Result<PathBuf> {
    // Root devices have one or two layers; a limit keeps a wrong tree from going on for ever.
    const LAYERS: usize = 8;
    let mut folder = tree.real(format!("/sys/dev/block/{device}"))?;
    for _ in 0..LAYERS {
        let lower = tree.names(folder.join("slaves"))?;
        if lower.is_empty() {
            return whole_disk(tree, folder);
        }
        folder = common_lower(tree, &folder, &lower)?;
    }
    bail!("the root `{device}` has more than {LAYERS} layers")
}

/// What is below a mapped device. dm-verity may have its hashes on a second partition, but of the
/// same disk.
fn common_lower(tree: &Tree, folder: &Path, lower: &[String]) -> Result<PathBuf> {
    let mut all = Vec::new();
    for name in lower {
        all.push(tree.real(folder.join("slaves").join(name))?);
    }
    let disks = all.iter().map(|lower| whole_disk(tree, lower.clone())).collect::<Result<Vec<_>>>()?;
    if disks.iter().any(|disk| *disk != disks[0]) {
        bail!("the root lies on several disks: {}", lower.join(", "));
    }
    Ok(all.swap_remove(0))
}

/// The disk that `folder` is, or is a partition of.
fn whole_disk(tree: &Tree, folder: PathBuf) -> Result<PathBuf> {
    if !tree.exists(folder.join("partition")) {
        return Ok(folder);
    }
    let disk = folder.parent().map(Path::to_owned);
    disk.with_context(|| format!("`{}` is a partition of nothing", folder.display()))
}

/// A disk's partitions with their labels, in the order of their numbers.
fn partitions(tree: &Tree, disk: &Path) -> Result<Vec<(Partition, String)>> {
    let mut all = Vec::new();
    for name in tree.names(disk)? {
        let folder = disk.join(&name);
        if !tree.exists(folder.join("partition")) {
            continue;
        }
        let number = tree.number(folder.join("partition"))?;
        let number = u32::try_from(number).with_context(|| format!("`{name}` has the number {number}"))?;
        let label = label(tree, &folder)?;
        all.push((Partition { disk: name_of(disk), name, number }, label));
    }
    all.sort_by_key(|(partition, _)| partition.number);
    Ok(all)
}

/// The name of a block device in its disk's partition table, empty where it has none; `folder` is the device's in sysfs
/// (`PARTNAME`, the kernel's block/partitions/core.c).
pub fn label(tree: &Tree, folder: &Path) -> Result<String> {
    let event = tree.read_if(folder.join("uevent"))?.unwrap_or_default();
    let label = event.lines().find_map(|line| line.strip_prefix("PARTNAME="));
    Ok(label.unwrap_or_default().to_owned())
}

fn name_of(folder: &Path) -> String {
    folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
#[allow(missing_docs, reason = "helpers of other modules' tests")]
pub mod tests {
    use super::*;
    use crate::fake::{self, Fake};

    /// Gives a made-up system a disk `vda` with the image's partitions, under the root.
    pub fn with_disk(fake: &Fake) {
        with_partitions(fake, &["boot-a", "root-a", "boot-b", "root-b", "data"]);
    }

    /// As [`with_disk`], with partitions of these names.
    pub fn with_partitions(fake: &Fake, labels: &[&str]) {
        disk(fake, "vda", labels);
        fake.file("/sys/devices/virtual/block/dm-0/dm/name", "root\n");
        fake.link("/sys/dev/block/254:0", "../../devices/virtual/block/dm-0");
        below(fake, "dm-0", "pci0/block/vda/vda2");
    }

    /// Gives a made-up system a disk with partitions of these names.
    pub fn disk(fake: &Fake, name: &str, labels: &[&str]) {
        for (index, label) in labels.iter().enumerate() {
            let number = index + 1;
            let folder = format!("/sys/devices/pci0/block/{name}/{name}{number}");
            fake.file(&format!("{folder}/partition"), &format!("{number}\n"));
            let event = format!("MAJOR=8\nDEVNAME={name}{number}\nPARTN={number}\nPARTNAME={label}\n");
            fake.file(&format!("{folder}/uevent"), &event);
        }
        fake.folder(&format!("/sys/devices/pci0/block/{name}/queue"));
    }

    fn below(fake: &Fake, mapped: &str, lower: &str) {
        let name = lower.rsplit('/').next().unwrap();
        let link = format!("/sys/devices/virtual/block/{mapped}/slaves/{name}");
        fake.link(&link, &format!("../../../../{lower}"));
    }

    #[test]
    fn the_data_partition_is_on_the_disk_below_the_root() {
        let fake = fake::virt();
        with_disk(&fake);
        disk(&fake, "vdb", &["data"]);
        let partition = data_partition(&fake.card().tree).unwrap();
        assert_eq!(partition, Partition { disk: "vda".into(), name: "vda5".into(), number: 5 });
        assert_eq!((partition.node(), partition.disk_node()), ("/dev/vda5".into(), "/dev/vda".into()));
    }

    #[test]
    fn other_disks_with_slots_are_known_by_their_partitions() {
        let fake = fake::virt();
        with_disk(&fake);
        disk(&fake, "vdb", &["data"]);
        disk(&fake, "mmcblk0", &["env", "root-b"]);
        for name in ["vda", "vda/vda2", "vdb", "mmcblk0", "mmcblk0/mmcblk02"] {
            let short = name.rsplit('/').next().unwrap();
            fake.link(&format!("/sys/class/block/{short}"), &format!("../../devices/pci0/block/{name}"));
        }
        assert_eq!(others_with_slots(&fake.card().tree).unwrap(), ["mmcblk0"]);
    }

    #[test]
    fn a_root_without_device_mapper_will_do() {
        let fake = fake::virt();
        disk(&fake, "vda", &["boot-a", "root-a", "data"]);
        fake.link("/sys/dev/block/254:0", "../../devices/pci0/block/vda/vda2");
        assert_eq!(data_partition(&fake.card().tree).unwrap().name, "vda3");
    }

    #[test]
    fn hashes_on_another_partition_of_the_disk_will_do_but_not_on_another_disk() {
        let fake = fake::virt();
        with_disk(&fake);
        below(&fake, "dm-0", "pci0/block/vda/vda4");
        assert_eq!(data_partition(&fake.card().tree).unwrap().name, "vda5");
        disk(&fake, "vdb", &["hashes"]);
        below(&fake, "dm-0", "pci0/block/vdb/vdb1");
        let error = data_partition(&fake.card().tree).unwrap_err().to_string();
        assert_eq!(error, "the root lies on several disks: vda2, vda4, vdb1");
    }

    #[test]
    fn a_disk_without_the_partition_or_with_two_is_told() {
        let fake = fake::virt();
        with_disk(&fake);
        fake.file("/sys/devices/pci0/block/vda/vda4/uevent", "PARTNAME=data\n");
        let error = data_partition(&fake.card().tree).unwrap_err().to_string();
        assert_eq!(error, "the disk `vda` has 2 partitions `data`");
        fake.remove("/sys/devices/pci0/block/vda/vda4");
        fake.remove("/sys/devices/pci0/block/vda/vda5");
        let error = data_partition(&fake.card().tree).unwrap_err().to_string();
        assert_eq!(error, "the disk `vda` has no partition `data`, only `boot-a`, `root-a`, `boot-b`");
    }

    #[test]
    fn a_root_that_sysfs_does_not_know_is_told() {
        let error = format!("{:#}", data_partition(&fake::virt().card().tree).unwrap_err());
        assert!(error.starts_with("following `/sys/dev/block/254:0`"), "{error}");
    }

    #[test]
    fn layers_without_end_are_refused() {
        let fake = fake::virt();
        fake.folder("/sys/devices/virtual/block/dm-0");
        fake.link("/sys/dev/block/254:0", "../../devices/virtual/block/dm-0");
        below(&fake, "dm-0", "virtual/block/dm-0");
        let error = data_partition(&fake.card().tree).unwrap_err().to_string();
        assert_eq!(error, "the root `254:0` has more than 8 layers");
    }
}
