//! The host that the plugin runs on.

use anyhow::{Context as _, Result};

use crate::claims::Store;
use crate::cni::Code;
use crate::files::Files;
use crate::namespace::Namespace;
use crate::netlink::{Link, Netlink};
use crate::vf::Vf;

/// What of the host is worked on.
pub struct Host {
    /// Its files.
    pub files: Files,
    /// Who has which VF.
    pub store: Store,
    /// Its network namespace.
    pub namespace: Namespace,
    /// The interfaces in that namespace.
    pub netlink: Netlink,
}

impl Host {
    /// The host whose files are `files`, with the namespace that this thread is in.
    pub fn open(files: Files) -> Result<Self> {
        Ok(Self {
            store: Store::open(&files)?,
            namespace: Namespace::own()?,
            netlink: Netlink::here().context(Code::KERNEL)?,
            files,
        })
    }

    /// The interface of a VF; none while it is not in the host's namespace.
    pub fn interface(&mut self, vf: &Vf) -> Result<Option<Link>> {
        for name in vf.interfaces(&self.files)? {
            let link = self.netlink.link(&name).context(Code::KERNEL)?;
            // Between the two questions the name may have become another device's.
            let ours = |link: &Link| link.device.as_ref().is_none_or(|device| *device == vf.address);
            if let Some(link) = link.filter(ours) {
                return Ok(Some(link));
            }
        }
        Ok(None)
    }
}
