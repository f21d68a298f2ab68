//! A folder that looks like a host's `/sys`, for tests of this crate and of the built program.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A made-up host.
pub struct Fake {
    folder: tempfile::TempDir,
}

#[allow(dead_code)] // Each test program uses a part of it.
impl Fake {
    /// A host without PCI devices.
    pub fn new() -> Self {
        let fake = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(fake.at("/sys/bus/pci/devices")).unwrap();
        fake
    }

    /// Where the host's `/` is.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Where `path` of the host is.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root().join(path.strip_prefix('/').unwrap())
    }

    /// Makes a file, with the folders above it.
    pub fn file(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Takes a file, a link or a whole folder away.
    pub fn remove(&self, path: &str) {
        let path = self.at(path);
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    /// Makes a PF with so many VFs of this id, and gives the VFs' addresses: those of the PF
    /// `0000:01:00.0` are `0000:01:10.0`, `0000:01:10.1` and so on.
    pub fn pf(&self, address: &str, vf_id: &str, vfs: u32) -> Vec<String> {
        let (vendor, device) = vf_id.split_once(':').unwrap();
        let pf = format!("/sys/bus/pci/devices/{address}");
        self.file(&format!("{pf}/vendor"), &format!("0x{vendor}\n"));
        self.file(&format!("{pf}/sriov_vf_device"), &format!("{device}\n"));
        self.file(&format!("{pf}/sriov_numvfs"), &format!("{vfs}\n"));
        let bus = address.rsplit_once(':').unwrap().0;
        let made = (0..vfs).map(|number| {
            let vf = format!("{bus}:{:02x}.{:x}", 16 + number / 8, number % 8);
            self.file(&format!("/sys/bus/pci/devices/{vf}/vendor"), &format!("0x{vendor}\n"));
            self.file(&format!("/sys/bus/pci/devices/{vf}/device"), &format!("0x{device}\n"));
            symlink(format!("../{vf}"), self.at(&format!("{pf}/virtfn{number}"))).unwrap();
            vf
        });
        made.collect()
    }

    /// Gives a VF an interface of this name, and takes the one away that it had.
    pub fn interface(&self, vf: &str, name: &str) {
        let net = self.at(&format!("/sys/bus/pci/devices/{vf}/net"));
        let _ = fs::remove_dir_all(&net);
        fs::create_dir_all(net.join(name)).unwrap();
    }
}
