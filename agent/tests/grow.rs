//! Growing a real partition table with the real `systemd-repart`.

use std::fs;
use std::path::Path;

use anyhow::Result;
use dpu_agent::grow::grow;
use dpu_agent::programs::{Programs, System};
use dpu_agent::report::Report;
use dpu_agent::tree::Tree;

const MIB: u64 = 1 << 20;
const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
const OWN: &str = "5cb9a0a8-1d2f-4b5c-9e39-8f7a44a1d0b1";

/// The real programs, save that the file system is not grown: no file system is there.
struct Repart;

impl Programs for Repart {
    fn read(&self, program: &str, arguments: &[&str]) -> Result<String> {
        if program == "systemd-repart" { System.read(program, arguments) } else { Ok(String::new()) }
    }
}

/// A system whose root is on the second partition of the disk, as sysfs shows it.
fn system(folder: &Path, kinds: [&str; 5], disk: u64) -> Tree {
    let names = ["boot-a", "root-a", "boot-b", "root-b", "data"];
    let sys = folder.join("sys/devices/block/vda");
    let class = folder.join("sys/class/block");
    for (name, number) in names.iter().zip(1..) {
        let partition = sys.join(format!("vda{number}"));
        fs::create_dir_all(&partition).unwrap();
        fs::write(partition.join("partition"), format!("{number}\n")).unwrap();
        fs::write(partition.join("uevent"), format!("PARTNAME={name}\n")).unwrap();
        fs::write(partition.join("dev"), format!("254:{number}\n")).unwrap();
    }
    fs::create_dir_all(sys.join("queue")).unwrap();
    fs::write(sys.join("queue/logical_block_size"), "512\n").unwrap();
    fs::write(sys.join("size"), format!("{}\n", disk / 512)).unwrap();
    fs::create_dir_all(&class).unwrap();
    fs::create_dir_all(folder.join("sys/dev/block")).unwrap();
    std::os::unix::fs::symlink("../../devices/block/vda", class.join("vda")).unwrap();
    std::os::unix::fs::symlink("../../devices/block/vda/vda5", class.join("vda5")).unwrap();
    std::os::unix::fs::symlink("../../devices/block/vda/vda2", folder.join("sys/dev/block/254:2")).unwrap();
    fs::create_dir_all(folder.join("proc/self")).unwrap();
    let mounts = "22 1 254:2 / / ro - squashfs /dev/root ro\n30 22 254:5 / /data rw - ext4 /dev/vda5 rw\n";
    fs::write(folder.join("proc/self/mountinfo"), mounts).unwrap();
    fs::create_dir_all(folder.join("dev")).unwrap();
    let bounds = [1, 8, 16, 24, 32, 64].map(|mebibytes| mebibytes * MIB);
    let partitions: Vec<_> = (0..5).map(|i| (kinds[i], names[i], bounds[i], bounds[i + 1])).collect();
    fs::write(folder.join("dev/vda"), image(&partitions, 65 * MIB)).unwrap();
    fs::OpenOptions::new().write(true).open(folder.join("dev/vda")).unwrap().set_len(disk).unwrap();
    Tree::new(folder.to_owned(), Box::new(|path, value| fs::write(path, value)))
}

/// A whole GUID partition table, with both copies and their check sums (UEFI specification, 5.3).
fn image(partitions: &[(&str, &str, u64, u64)], size: u64) -> Vec<u8> {
    let sectors = size / 512;
    let mut entries = vec![0; 128 * 128];
    for (index, (kind, name, start, end)) in partitions.iter().enumerate() {
        let entry = &mut entries[index * 128..][..128];
        entry[..16].copy_from_slice(&guid(kind));
        entry[16] = u8::try_from(index + 1).unwrap();
        entry[32..40].copy_from_slice(&(start / 512).to_le_bytes());
        entry[40..48].copy_from_slice(&(end / 512 - 1).to_le_bytes());
        for (place, unit) in name.encode_utf16().enumerate() {
            entry[56 + place * 2..][..2].copy_from_slice(&unit.to_le_bytes());
        }
    }
    let head = |own: u64, other: u64, at: u64| {
        let mut head = b"EFI PART\0\0\x01\0\x5c\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        for number in [own, other, 34, sectors - 34] {
            head.extend(number.to_le_bytes());
        }
        head.extend([7; 16]);
        head.extend(at.to_le_bytes());
        for number in [128, 128, crc(&entries)] {
            head.extend(number.to_le_bytes());
        }
        let sum = crc(&head);
        head[16..20].copy_from_slice(&sum.to_le_bytes());
        head
    };
    let mut image = vec![0; usize::try_from(size).unwrap()];
    let mut put = |sector: u64, bytes: &[u8]| {
        image[usize::try_from(sector * 512).unwrap()..][..bytes.len()].copy_from_slice(bytes);
    };
    let protective = u32::try_from(sectors - 1).unwrap().to_le_bytes();
    let mut mbr = vec![0; 512];
    mbr[446..458].copy_from_slice(&[0, 0, 2, 0, 0xee, 255, 255, 255, 1, 0, 0, 0]);
    mbr[458..462].copy_from_slice(&protective);
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    put(0, &mbr);
    put(1, &head(1, sectors - 1, 2));
    put(2, &entries);
    put(sectors - 33, &entries);
    put(sectors - 1, &head(sectors - 1, 1, sectors - 33));
    image
}

fn guid(text: &str) -> [u8; 16] {
    let number = u128::from_str_radix(&text.replace('-', ""), 16).unwrap().to_be_bytes();
    [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map(|at: usize| number[at])
}

fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// First and last sector of each partition, from the disk.
fn bounds(folder: &Path) -> Vec<(u64, u64)> {
    let image = fs::read(folder.join("dev/vda")).unwrap();
    let number = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
    (0..6).map(|index| 1024 + index * 128).map(|entry| (number(entry + 32), number(entry + 40))).collect()
}

fn grown(tree: &Tree) -> Report {
    let mut report = Report::default();
    report.try_to(|report| grow(tree, &Repart, report));
    report
}

#[test]
#[ignore = "needs systemd-repart"]
fn only_the_data_partition_grows_whatever_the_types_are() {
    for kinds in [[LINUX; 5], [LINUX, LINUX, LINUX, LINUX, OWN], [LINUX, OWN, LINUX, OWN, OWN]] {
        let folder = tempfile::tempdir().unwrap();
        let disk = 256 * MIB;
        let tree = system(folder.path(), kinds, disk);
        let before = bounds(folder.path());
        let report = grown(&tree);
        assert!(report.is_good(), "{report:?}");
        assert!(report.did[0].starts_with("grew `/dev/vda5` by 19"), "{report:?}");
        let after = bounds(folder.path());
        assert_eq!(after[..4], before[..4]);
        assert_eq!(after[4].0, before[4].0);
        assert!(after[4].1 > (disk - 2 * MIB) / 512, "{after:?}");
        assert_eq!(after[5], (0, 0), "a partition was made");

        let report = grown(&tree);
        assert_eq!(report.did, Vec::<String>::new(), "{report:?}");
        assert!(report.is_good(), "{report:?}");
    }
}
