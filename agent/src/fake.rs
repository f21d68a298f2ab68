//! A small kernel for unit tests: a folder that looks like `/sys` and `/proc`, which answers writes
//! and programs as the real one would.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, bail};
use dpu_plan::{PciId, Plan};

use crate::Card;
use crate::programs::{Missing, Programs};
use crate::tree::Tree;

/// A made-up system.
pub struct Fake {
    /// The plan that cards of this system get.
    pub plan: Plan,
    inner: Arc<Inner>,
}

struct Inner {
    folder: tempfile::TempDir,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Attributes written, as `name=value`.
    written: Vec<String>,
    /// Commands run.
    ran: Vec<String>,
    /// Names of attributes whose writes are refused.
    refused: BTreeMap<String, ErrorKind>,
    /// Programs that fail, with what they say.
    failing: BTreeMap<String, String>,
    /// Programs that end well and do nothing.
    idle: BTreeSet<String>,
    /// Programs that are not there.
    missing: BTreeSet<String>,
    /// What commands print, by the beginning of their line.
    answers: BTreeMap<String, String>,
    /// The most pages that a pool gives, by its page size in KiB.
    pages: BTreeMap<u64, u64>,
    /// What the VFs of a PF are like.
    vfs: BTreeMap<String, Vf>,
    /// Devices that no driver takes.
    stubborn: BTreeSet<String>,
    /// How many IOMMU groups there are.
    groups: u32,
    /// Containerd's images: name to digest.
    images: BTreeMap<String, String>,
    /// Addresses of interfaces.
    addresses: BTreeMap<String, Vec<String>>,
}

#[derive(Clone)]
struct Vf {
    id: &'static str,
    driver: &'static str,
    addresses: Vec<String>,
    /// The VFs' interfaces, if they have any.
    interface: Option<&'static str>,
}

/// The emulated card, as its kernel leaves it.
pub fn virt() -> Fake {
    let fake = Fake::new(include_str!("../plan/examples/virt.toml"));
    fake.pf("0000:01:00.0", "8086:10c9", "igb", 7);
    fake.interface("0000:01:00.0", "eth0");
    let addresses = (0..7).map(|vf| format!("0000:01:{:02x}.{:x}", 16 + vf / 4, vf % 4 * 2)).collect();
    fake.vfs("0000:01:00.0", Vf { id: "8086:10ca", driver: "igbvf", addresses, interface: Some("eth") });
    fake.device("0000:00:03.0", "1b36:0005");
    fake
}

/// The Marvell card, as its kernel leaves it.
pub fn cn106() -> Fake {
    let fake = Fake::new(include_str!("../plan/examples/cn106.toml"));
    for (function, id, driver) in [
        (0, "177d:a0f6", "rvu_nicpf"),
        (1, "177d:a0f7", "rvu_nicvf"),
        (2, "177d:a0f7", "rvu_nicvf"),
        (3, "177d:a0f7", "rvu_nicvf"),
    ] {
        let address = format!("0002:01:00.{function}");
        fake.device(&address, id);
        fake.bind(&address, Some(driver));
        fake.interface(&address, &format!("sdp{function}"));
    }
    fake.device("0000:06:00.0", "177d:a080");
    fake.device("0001:00:10.0", "177d:a06c");
    fake.pf("0002:20:00.0", "177d:a0f2", "rvu_cptpf", 64);
    fake.file("/sys/bus/pci/devices/0002:20:00.0/kvf_limits", "24");
    let addresses = vec!["0002:20:01.0".to_owned()];
    fake.vfs("0002:20:00.0", Vf { id: "177d:a0f3", driver: "rvu_cptvf", addresses, interface: None });
    fake
}

impl Fake {
    fn new(plan: &str) -> Self {
        let inner = Inner { folder: tempfile::tempdir().unwrap(), state: Mutex::default() };
        let fake = Self { plan: plan.parse().unwrap(), inner: Arc::new(inner) };
        fake.file("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0");
        fake.file("/sys/kernel/mm/hugepages/hugepages-32768kB/nr_hugepages", "0");
        fake.file("/sys/bus/pci/drivers_probe", "");
        fake.file("/proc/cmdline", "ro root=/dev/dm-0 console=ttyAMA0");
        fake.file("/proc/swaps", "Filename Type Size Used Priority\n");
        fake.file("/proc/sys/kernel/hostname", "virt");
        fake.file("/etc/hostname", "virt\n");
        fake.file("/proc/self/mountinfo", "");
        fake.mounted("22 1 254:0 / / ro,relatime - squashfs /dev/root ro");
        fake
    }

    /// A card that runs on this system.
    pub fn card(&self) -> Card {
        let inner = Arc::clone(&self.inner);
        let set = move |path: &Path, value: &str| inner.set(path, value);
        Card {
            tree: Tree::new(self.inner.folder.path().to_owned(), Box::new(set)),
            programs: Box::new(FakePrograms(Arc::clone(&self.inner))),
            plan: self.plan.clone(),
            patience: Duration::ZERO,
        }
    }

    /// Makes a file.
    pub fn file(&self, path: &str, text: &str) {
        self.inner.file(path, text);
    }

    /// A file's text.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.inner.at(path)).unwrap()
    }

    /// Makes a folder.
    pub fn folder(&self, path: &str) {
        fs::create_dir_all(self.inner.at(path)).unwrap();
    }

    /// Makes a symbolic link, with the folders above it.
    pub fn link(&self, path: &str, target: &str) {
        self.inner.link(path, target);
    }

    /// Takes a file, a link or a whole folder away.
    pub fn remove(&self, path: &str) {
        let path = self.inner.at(path);
        if path.is_symlink() || path.is_file() {
            fs::remove_file(path).unwrap();
        } else {
            fs::remove_dir_all(path).unwrap();
        }
    }

    /// Adds a line of `/proc/self/mountinfo`.
    pub fn mounted(&self, line: &str) {
        self.inner.mounted(line);
    }

    /// Takes the mounts at `target` away.
    pub fn unmounted(&self, target: &str) {
        self.inner.unmounted(target);
    }

    /// Adds a device on no driver, in an IOMMU group of its own.
    pub fn device(&self, address: &str, id: &str) {
        self.inner.device(address, id);
    }

    /// Puts a device on a driver, or on none.
    pub fn bind(&self, address: &str, driver: Option<&str>) {
        self.inner.bind(address, driver);
    }

    /// The driver that a device is on.
    pub fn driver(&self, address: &str) -> Option<String> {
        let target = fs::read_link(self.inner.at(&format!("/sys/bus/pci/devices/{address}/driver"))).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Puts a device into the IOMMU group of another.
    pub fn join_group(&self, member: &str, address: &str) {
        let group =
            fs::read_link(self.inner.at(&format!("/sys/bus/pci/devices/{member}/iommu_group"))).unwrap();
        let group = group.file_name().unwrap().to_string_lossy().into_owned();
        self.folder(&format!("/sys/kernel/iommu_groups/{group}/devices/{address}"));
    }

    /// Lets the kernel have made VFs before the test begins.
    pub fn set_vfs(&self, pf: &str, count: usize) {
        self.inner.set_vfs(pf, count);
    }

    /// Makes another PF, with so many VFs of this id whose interfaces are `second0` and so on.
    pub fn second_pf(&self, address: &str, vf: PciId, count: usize) {
        self.pf(address, "8086:10c9", "igb", 7);
        self.file(
            &format!("/sys/bus/pci/devices/{address}/sriov_vf_device"),
            &format!("{:04x}", vf.device()),
        );
        let bus = address.rsplit_once(':').unwrap().0;
        for number in 0..count {
            let address = format!("{bus}:10.{number}");
            self.device(&address, &vf.to_string());
            self.bind(&address, Some("igbvf"));
            self.interface(&address, &format!("second{number}"));
            self.link(&format!("/sys/bus/pci/devices/{bus}:00.0/virtfn{number}"), &format!("../{address}"));
        }
    }

    /// Gives a device's interface another name.
    pub fn rename(&self, address: &str, from: &str, to: &str) {
        let net = self.inner.at(&format!("/sys/bus/pci/devices/{address}/net"));
        fs::rename(net.join(from), net.join(to)).unwrap();
    }

    /// Makes a pool give so many pages at most.
    pub fn limit_pages(&self, kibibytes: u64, most: u64) {
        self.inner.state().pages.insert(kibibytes, most);
    }

    /// Makes writes to the attributes of this name fail.
    pub fn refuse(&self, attribute: &str, kind: ErrorKind) {
        self.inner.state().refused.insert(attribute.to_owned(), kind);
    }

    /// Makes a program fail.
    pub fn fail(&self, program: &str, says: &str) {
        self.inner.state().failing.insert(program.to_owned(), says.to_owned());
    }

    /// Makes a program do nothing, and end well.
    pub fn idle(&self, program: &str) {
        self.inner.state().idle.insert(program.to_owned());
    }

    /// Takes a program out of the image.
    pub fn without(&self, program: &str) {
        self.inner.state().missing.insert(program.to_owned());
    }

    /// Sets what commands that begin so print.
    pub fn answer(&self, command: &str, text: &str) {
        self.inner.state().answers.insert(command.to_owned(), text.to_owned());
    }

    /// Makes a device that no driver takes.
    pub fn stubborn(&self, address: &str) {
        self.inner.state().stubborn.insert(address.to_owned());
    }

    /// The attributes that were written since the last [`Fake::forget`], as `name=value`.
    pub fn written(&self) -> Vec<String> {
        self.inner.state().written.clone()
    }

    /// The commands that were run since the last [`Fake::forget`].
    pub fn ran(&self) -> Vec<String> {
        self.inner.state().ran.clone()
    }

    /// Forgets what was written and run until now.
    pub fn forget(&self) {
        let mut state = self.inner.state();
        state.written.clear();
        state.ran.clear();
    }

    fn pf(&self, address: &str, id: &str, driver: &str, total: u32) {
        self.device(address, id);
        self.bind(address, Some(driver));
        self.file(&format!("/sys/bus/pci/devices/{address}/sriov_totalvfs"), &total.to_string());
        self.file(&format!("/sys/bus/pci/devices/{address}/sriov_numvfs"), "0");
    }

    fn vfs(&self, pf: &str, vf: Vf) {
        self.inner.state().vfs.insert(pf.to_owned(), vf);
    }

    fn interface(&self, address: &str, name: &str) {
        self.inner.interface(address, name);
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.strip_prefix('/').unwrap())
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn mounted(&self, line: &str) {
        let path = self.at("/proc/self/mountinfo");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}{line}\n")).unwrap();
    }

    fn unmounted(&self, target: &str) {
        let path = self.at("/proc/self/mountinfo");
        let text = fs::read_to_string(&path).unwrap();
        let kept: Vec<_> = text.lines().filter(|line| line.split(' ').nth(4) != Some(target)).collect();
        fs::write(path, kept.join("\n") + "\n").unwrap();
    }

    fn device(&self, address: &str, id: &str) {
        let id: PciId = id.parse().unwrap();
        let folder = format!("/sys/bus/pci/devices/{address}");
        self.file(&format!("{folder}/vendor"), &format!("0x{:04x}\n", id.vendor()));
        self.file(&format!("{folder}/device"), &format!("0x{:04x}\n", id.device()));
        self.file(&format!("{folder}/driver_override"), "(null)");
        let group = {
            let mut state = self.state();
            state.groups += 1;
            state.groups - 1
        };
        fs::create_dir_all(self.at(&format!("/sys/kernel/iommu_groups/{group}/devices/{address}"))).unwrap();
        self.link(&format!("{folder}/iommu_group"), &format!("../../../../kernel/iommu_groups/{group}"));
    }

    fn bind(&self, address: &str, driver: Option<&str>) {
        let link = format!("/sys/bus/pci/devices/{address}/driver");
        if self.at(&link).is_symlink() {
            fs::remove_file(self.at(&link)).unwrap();
        }
        match driver {
            Some(driver) => {
                self.file(&format!("/sys/bus/pci/drivers/{driver}/unbind"), "");
                self.link(&link, &format!("../../drivers/{driver}"));
            }
            None => drop(fs::remove_dir_all(self.at(&format!("/sys/bus/pci/devices/{address}/net")))),
        }
    }

    fn interface(&self, address: &str, name: &str) {
        let folder = format!("/sys/bus/pci/devices/{address}/net/{name}");
        self.file(&format!("{folder}/flags"), "0x1002\n");
        self.file(&format!("{folder}/netdev_group"), "0\n");
    }

    fn set_vfs(&self, pf: &str, count: usize) {
        let vf = self.state().vfs[pf].clone();
        let folder = format!("/sys/bus/pci/devices/{pf}");
        for (number, address) in vf.addresses.iter().enumerate() {
            let _ = fs::remove_file(self.at(&format!("{folder}/virtfn{number}")));
            let _ = fs::remove_dir_all(self.at(&format!("/sys/bus/pci/devices/{address}")));
        }
        for (number, address) in vf.addresses.iter().enumerate().take(count) {
            self.device(address, vf.id);
            self.bind(address, Some(vf.driver));
            self.link(&format!("{folder}/virtfn{number}"), &format!("../{address}"));
            if let Some(name) = vf.interface {
                self.interface(address, &format!("{name}{}", number + 1));
            }
        }
        self.file(&format!("{folder}/sriov_numvfs"), &count.to_string());
    }

    /// A write to an attribute, as the kernel takes it.
    fn set(&self, path: &Path, value: &str) -> io::Result<()> {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        self.state().written.push(format!("{name}={}", value.escape_default()));
        if let Some(kind) = self.state().refused.get(&name) {
            return Err((*kind).into());
        }
        if !path.exists() {
            return Err(ErrorKind::NotFound.into());
        }
        match name.as_str() {
            "nr_hugepages" => self.reserve(path, value),
            "sriov_numvfs" => self.make_vfs(path, value),
            "unbind" => {
                self.bind(value, None);
                Ok(())
            }
            "drivers_probe" => {
                self.probe(value);
                Ok(())
            }
            _ => fs::write(path, value.trim_end()),
        }
    }

    fn reserve(&self, path: &Path, value: &str) -> io::Result<()> {
        let pool = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let size: u64 = pool.trim_start_matches("hugepages-").trim_end_matches("kB").parse().unwrap();
        let most = self.state().pages.get(&size).copied().unwrap_or(u64::MAX);
        fs::write(path, value.parse::<u64>().unwrap().min(most).to_string())
    }

    fn make_vfs(&self, path: &Path, value: &str) -> io::Result<()> {
        if value != "0" && fs::read_to_string(path)?.trim() != "0" {
            return Err(ErrorKind::ResourceBusy.into());
        }
        let pf = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        self.set_vfs(&pf, value.parse().unwrap());
        Ok(())
    }

    fn probe(&self, address: &str) {
        let path = self.at(&format!("/sys/bus/pci/devices/{address}/driver_override"));
        let driver = fs::read_to_string(path).unwrap();
        if !driver.is_empty() && !self.state().stubborn.contains(address) {
            self.bind(address, Some(&driver));
        }
    }

    /// The folder of an interface.
    fn net(&self, name: &str) -> PathBuf {
        let devices = fs::read_dir(self.at("/sys/bus/pci/devices")).unwrap();
        let mut folders = devices.map(|device| device.unwrap().path().join("net").join(name));
        folders.find(|folder| folder.exists()).unwrap_or_else(|| panic!("there is no interface {name}"))
    }
}

/// The programs of the made-up system.
struct FakePrograms(Arc<Inner>);

impl Programs for FakePrograms {
    fn read(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let line = crate::programs::line(program, arguments);
        {
            let mut state = self.0.state();
            state.ran.push(line.clone());
            if state.missing.contains(program) {
                return Err(Missing(program.to_owned()).into());
            }
            if let Some(says) = state.failing.get(program) {
                bail!("`{line}` failed with exit status: 1: {says}");
            }
            if state.idle.contains(program) {
                return Ok(String::new());
            }
            if let Some((_, text)) = state.answers.iter().rfind(|(begin, _)| line.starts_with(begin.as_str()))
            {
                return Ok(text.clone());
            }
        }
        self.effect(&line, arguments)
    }
}

impl FakePrograms {
    fn effect(&self, line: &str, arguments: &[&str]) -> Result<String> {
        let words: Vec<_> = line.split(' ').collect();
        match words.as_slice() {
            ["mount", "-t", "hugetlbfs", "-o", options, "hugetlbfs", target] => {
                let size = options.strip_prefix("pagesize=").and_then(|rest| rest.split(',').next()).unwrap();
                let size: u64 = size.parse()?;
                let size = size >> 20;
                self.0.mounted(&format!("60 1 0:50 / {target} rw - hugetlbfs hugetlbfs rw,pagesize={size}M"));
            }
            // What is to be found there lies there already.
            ["udevadm", "settle", "--timeout=20"]
            | ["mount", "-o", _, _]
            | ["mount", "-o", _, _, _]
            | ["ctr", "--namespace", "k8s.io", "images", "label", _, _] => {}
            ["umount", target] => self.0.unmounted(target),
            ["ctr", "--namespace", "k8s.io", "images", "list"] => {
                let state = self.0.state();
                let rows = state.images.iter().map(|(name, digest)| {
                    format!(
                        "{name} application/vnd.oci.image.manifest.v1+json {digest} 10.0 MiB linux/arm64 -\n"
                    )
                });
                return Ok(std::iter::once("REF TYPE DIGEST SIZE PLATFORMS LABELS\n".to_owned())
                    .chain(rows)
                    .collect());
            }
            ["ctr", "--namespace", "k8s.io", "images", "import", archive] => {
                let text = fs::read_to_string(archive)?;
                let (name, digest) = text.split_once(' ').unwrap();
                self.0.state().images.insert(name.to_owned(), digest.to_owned());
            }
            ["ctr", "--namespace", "k8s.io", "images", "tag", "--force", from, to] => {
                let images = &mut self.0.state().images;
                let digest = images[*from].clone();
                images.insert((*to).to_owned(), digest);
            }
            ["ctr", "--namespace", "k8s.io", "images", "remove", name] => {
                self.0.state().images.remove(*name);
            }
            ["sha256sum", "--binary", _] => return crate::programs::System.read("sha256sum", arguments),
            ["swapoff", "--all"] => self.0.file("/proc/swaps", "Filename Type Size Used Priority\n"),
            ["modprobe", module] => fs::create_dir_all(self.0.at(&format!("/sys/bus/pci/drivers/{module}")))?,
            ["ip", "link", "set", "dev", name, "up"] => {
                fs::write(self.0.net(name).join("flags"), "0x1003\n")?;
            }
            ["ip", "link", "set", "dev", name, "group", group] => {
                fs::write(self.0.net(name).join("netdev_group"), group)?;
            }
            ["ip", "address", "replace", address, "dev", name] => {
                let mut state = self.0.state();
                state.addresses.entry((*name).to_owned()).or_default().push((*address).to_owned());
            }
            ["ip", "-json", "address", "show", "dev", name] => return Ok(self.shown(name)),
            _ => panic!("no test knows the command `{line}` ({arguments:?})"),
        }
        Ok(String::new())
    }

    fn shown(&self, name: &str) -> String {
        let state = self.0.state();
        let addresses = state.addresses.get(name).into_iter().flatten().map(|address| {
            let (local, prefix) = address.split_once('/').unwrap();
            format!("{{\"family\":\"inet\",\"local\":\"{local}\",\"prefixlen\":{prefix}}}")
        });
        format!("[{{\"ifname\":\"{name}\",\"addr_info\":[{}]}}]", addresses.collect::<Vec<_>>().join(","))
    }
}
