//! The card's PFs, found by their id and never by their address, and the VFs of each.

use anyhow::Result;

use crate::files::Files;
use crate::vf::PciId;

const DEVICES: &str = "/sys/bus/pci/devices";

/// One PF, or one VF of it: any PCI function with an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pf {
    /// Its PCI address: `0000:01:00.0`.
    pub address: String,
}

/// All PFs with this id, in the order of their addresses.
pub fn pfs(files: &Files, id: PciId) -> Result<Vec<Pf>> {
    let mut found = Vec::new();
    for address in files.names(DEVICES)? {
        let pf = Pf { address };
        if pf.id(files)? == Some(id.to_string()) {
            found.push(pf);
        }
    }
    Ok(found)
}

impl Pf {
    /// The path of one of its attributes.
    pub fn path(&self, attribute: &str) -> String {
        format!("{DEVICES}/{}/{attribute}", self.address)
    }

    fn id(&self, files: &Files) -> Result<Option<String>> {
        let number = |attribute| -> Result<Option<String>> {
            let text = files.read_if(self.path(attribute))?;
            Ok(text.and_then(|text| text.strip_prefix("0x").map(str::to_ascii_lowercase)))
        };
        Ok(number("vendor")?.zip(number("device")?).map(|(vendor, device)| format!("{vendor}:{device}")))
    }

    /// Its VFs, whatever their id is.
    pub fn vfs(&self, files: &Files) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        for name in files.names(self.path(""))?.iter().filter(|name| name.starts_with("virtfn")) {
            found.extend(files.link_name(self.path(name))?.map(|address| Self { address }));
        }
        Ok(found)
    }

    /// The driver that it is bound to.
    pub fn driver(&self, files: &Files) -> Result<Option<String>> {
        files.link_name(self.path("driver"))
    }

    /// Its network interface.
    pub fn interface(&self, files: &Files) -> Result<Option<String>> {
        Ok(files.names(self.path("net"))?.into_iter().next())
    }

    /// A number that an attribute holds; none where there is no such attribute, or it holds something else.
    pub fn number(&self, files: &Files, attribute: &str) -> Result<Option<u32>> {
        Ok(files.read_if(self.path(attribute))?.and_then(|text| text.parse().ok()))
    }
}
