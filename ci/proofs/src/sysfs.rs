//! Folders that look like `/sys` of a host and of its card.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The id of the VFs that the host gives to pods.
pub const HOST_VF: &str = "177d:b903";
/// The id of the card's ends.
pub const CARD_VF: &str = "177d:a0f7";

/// The files of a made-up machine.
#[derive(Debug)]
pub struct Files {
    folder: TempDir,
}

impl Files {
    /// A machine without PCI devices.
    #[allow(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(files.at("/sys/bus/pci/devices")).unwrap();
        files
    }

    /// Where the machine's `/` is.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Where `path` of the machine is.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root().join(path.strip_prefix('/').unwrap())
    }

    /// Makes a file, with the folders above it.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A file's text; empty where there is none.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_default()
    }

    /// The files below a folder, with their paths from there, sorted.
    pub fn below(&self, path: &str) -> Vec<String> {
        let mut found = Vec::new();
        let top = self.at(path);
        let mut folders = vec![top.clone()];
        while let Some(folder) = folders.pop() {
            // What goes away meanwhile is not there.
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    _ => found.push(entry.path().strip_prefix(&top).unwrap().display().to_string()),
                }
            }
        }
        found.sort();
        found
    }

    fn device(&self, address: &str, id: &str) {
        let (vendor, device) = id.split_once(':').unwrap();
        self.write(&format!("/sys/bus/pci/devices/{address}/vendor"), format!("0x{vendor}\n"));
        self.write(&format!("/sys/bus/pci/devices/{address}/device"), format!("0x{device}\n"));
    }

    /// Makes a PF of the host with so many VFs, and gives the VFs' addresses.
    pub fn pf(&self, pf: u32, vfs: u32) -> Vec<String> {
        let bus = 1 + pf * 0x40;
        let address = format!("0000:{bus:02x}:00.0");
        self.device(&address, "177d:b900");
        let folder = format!("/sys/bus/pci/devices/{address}");
        let (_, device) = HOST_VF.split_once(':').unwrap();
        self.write(&format!("{folder}/sriov_vf_device"), format!("{device}\n"));
        self.write(&format!("{folder}/sriov_numvfs"), format!("{vfs}\n"));
        let made = (0..vfs).map(|number| {
            let vf = format!("0000:{bus:02x}:{:02x}.{:x}", 16 + number / 8, number % 8);
            self.device(&vf, HOST_VF);
            symlink(format!("../{vf}"), self.at(&format!("{folder}/virtfn{number}"))).unwrap();
            vf
        });
        made.collect()
    }

    /// Makes the end of this number on the card, and gives its address.
    pub fn end(&self, number: u32) -> String {
        let address = format!("0002:01:{:02x}.{:x}", number / 8, number % 8);
        self.device(&address, CARD_VF);
        let folder = format!("/sys/bus/pci/devices/{address}");
        symlink("../../../drivers/rvu_nicvf", self.at(&format!("{folder}/driver"))).unwrap();
        address
    }

    /// Says which names the interface of a device may have: the kernel's is not made up, and which of them
    /// it has is asked of it.
    pub fn interface(&self, address: &str, names: &[String]) {
        for name in names {
            fs::create_dir_all(self.at(&format!("/sys/bus/pci/devices/{address}/net/{name}"))).unwrap();
        }
    }
}
