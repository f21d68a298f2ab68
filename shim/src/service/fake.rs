//! A kernel for tests: it writes down what it was asked, and does it to a made-up host.

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Result, bail};

use super::config::Config;
use super::machine::{Kernel, Machine};
use crate::fake::Fake;
use crate::files::Files;

/// A made-up host with its machine.
pub struct Host {
    pub fake: Fake,
    pub machine: Machine,
    asked: Rc<RefCell<Vec<String>>>,
    refused: Rc<RefCell<Option<&'static str>>>,
}

struct Fiction {
    root: PathBuf,
    asked: Rc<RefCell<Vec<String>>>,
    refused: Rc<RefCell<Option<&'static str>>>,
}

/// The PF's address.
pub const PF: &str = "0000:01:00.0";

impl Host {
    /// A host with a card of one PF of 8 VFs at most, whose drivers are not loaded.
    pub fn new(config: &str) -> Self {
        let fake = Fake::new();
        fake.pf(PF, "177d:b903", 8);
        let device = format!("/sys/bus/pci/devices/{PF}");
        fake.file(&format!("{device}/device"), "0xb900\n");
        fake.file(&format!("{device}/sriov_totalvfs"), "8\n");
        fake.file(&format!("{device}/sriov_numvfs"), "0\n");
        let (asked, refused) = (Rc::default(), Rc::default());
        let fiction =
            Fiction { root: fake.root().to_owned(), asked: Rc::clone(&asked), refused: Rc::clone(&refused) };
        let machine = Machine {
            files: Files::below(fake.root()),
            kernel: Box::new(fiction),
            config: Config::parse(config).unwrap(),
            waiting: Cell::new(None),
        };
        Self { fake, machine, asked, refused }
    }

    /// What the kernel was asked since the last time.
    pub fn asked(&self) -> Vec<String> {
        self.asked.take()
    }

    /// Has the kernel refuse what begins so.
    pub fn refuse(&self, start: &'static str) {
        *self.refused.borrow_mut() = Some(start);
    }

    /// The card's firmware becomes ready, and the driver makes the PF's interface.
    pub fn start_firmware(&self) {
        self.fake.interface(PF, "enp1s0");
        self.bind("octeon_ep");
    }

    /// Binds the PF to a driver.
    pub fn bind(&self, driver: &str) {
        self.bind_vf(PF, driver);
    }

    /// Binds a VF to a driver.
    pub fn bind_vf(&self, address: &str, driver: &str) {
        let link = self.fake.at(&format!("/sys/bus/pci/devices/{address}/driver"));
        symlink(format!("../../../bus/pci/drivers/{driver}"), link).unwrap();
    }
}

impl Fiction {
    fn ask(&self, what: String) -> Result<()> {
        let refused = self.refused.borrow().filter(|start| what.starts_with(start));
        self.asked.borrow_mut().push(what);
        if refused.is_some() {
            bail!("the kernel refuses");
        }
        Ok(())
    }
}

impl Kernel for Fiction {
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.ask([&[program], arguments].concat().join(" "))?;
        if program == "modprobe" {
            let driver = arguments.last().unwrap();
            fs::create_dir_all(self.root.join("sys/bus/pci/drivers").join(driver)).unwrap();
        }
        Ok(String::new())
    }

    fn set(&self, path: &str, value: &str) -> Result<()> {
        let (_, name) = path.rsplit_once('/').unwrap();
        self.ask(format!("{name}={value}"))?;
        fs::write(self.root.join(path.trim_start_matches('/')), value).unwrap();
        Ok(())
    }
}
