//! Pods' networks made by a list of CNI plugins on the card: whatever fits CNI can connect pods.
//!
//! The list (`cep` by default) is called as libcni calls it: programs with `CNI_` variables, configuration on
//! standard input, forward for ADD and CHECK, backward for DEL, each given what the one before answered.
//! Where libcni leaves something open, this is what is done:
//!
//! - **The interface** (`CNI_IFNAME`) is the card's VF, not the pod's interface, which is out of the card's
//!   reach. The first plugin's configuration gets two keys more, `MacAddr` (the pod's hardware address) and
//!   `VfPCI` (the VF's PCI address).
//! - **The namespace** (`CNI_NETNS`) is the card's own. The pod's is on the host, plugins refuse an ADD without
//!   one, and the VF is in the card's. The Go agent gives its own namespace as well. Since plugins that are
//!   built with CNI's library 1.2 or later refuse to be called for the namespace that they run in,
//!   `CNI_NETNS_OVERRIDE=1` says that it is meant.
//! - **The pod** is in `CNI_ARGS`, in the words of the kubelet's runtimes.
//! - **Addresses from the host** are handed on as the capability `ips`. A list none of whose plugins takes it is
//!   refused: the pod would get an address that its network does not know.
//! - **Other capabilities**: `deviceID` is the VF's PCI address. `mac` is never given, see [`chain`].
//! - **What was begun is written down** before the first plugin runs, with the list as it was, and what was answered
//!   when the last has run (some plugins clean up by nothing else), so that it can be taken
//!   away when the agent was killed, the list was changed, or the caller has no books.
//! - **A failed ADD** is undone by DEL of the whole list, for which a quarter of the time is kept; what could not be
//!   undone is undone by the next ADD, DEL or [`Network::reconcile`].
//! - **DEL** calls all plugins, whatever one of them says, with the name that the VF had at ADD: plugins keep what
//!   they gave under it. Where another device has that name by now it is called with the VF's own, and where the VF
//!   has none, not at all: it would be the other device's network that is taken away.
//! - **CHECK** is asked of lists that have it (0.4.0, not `disableCheck`); of others there is nothing to ask, which is
//!   no failure. **GC** and **STATUS** are asked of lists of 1.1.0; GC not with `disableGC`.
//!
//! A call that is dropped before its end kills the plugin that runs, with all that it started.
//!
//! Sources: the CNI specification 1.1.0; libcni of CNI's library 1.2 (`libcni/api.go`, `libcni/conf.go`,
//! `pkg/skel/skel.go`); the Go agent's calls.

pub mod chain;
pub mod exec;
pub mod journal;
pub mod list;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use dpu_cni::{Outcome, Version};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::chain::{Chain, both, call_all, reason};
use self::exec::Plugins;
use self::journal::{Entry, Journal, boot};
use self::list::List;
use super::network::{Attachment, End, Made, Network, Reconciled, Refusal, Vf};

/// How long one network may take where nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is called, and where it is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name of the network list: `cep`.
    pub list: String,
    /// Where lists are: `/etc/cni/net.d`.
    pub folder: PathBuf,
    /// Where plugins are looked for, in this order: `/opt/cni/bin`, `/usr/lib/cni`.
    pub plugins: Vec<PathBuf>,
    /// Where is written down what was begun: `/var/lib/dpukit/agent/cni`.
    pub cache: PathBuf,
    /// The card's network namespace: `/proc/1/ns/net`.
    pub namespace: PathBuf,
    /// What tells which interfaces there are: `/sys/class/net`.
    pub interfaces: PathBuf,
}

/// Networks that plugins make.
#[derive(Debug)]
pub struct Delegate {
    settings: Settings,
    plugins: Plugins,
    journal: Journal,
}

/// What is told again at CHECK and DEL.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    /// The list that made the network, as it was written.
    list: Value,
    /// What its last plugin answered.
    result: Value,
    /// The run of the card's kernel in which it was made.
    boot: String,
}

impl Delegate {
    /// Networks of one list. Nothing is read before it is needed.
    pub fn new(settings: Settings) -> Self {
        let plugins = Plugins { folders: settings.plugins.clone() };
        let journal = Journal::new(settings.cache.clone());
        Self { settings, plugins, journal }
    }

    fn list(&self) -> Result<List> {
        let Settings { folder, list, .. } = &self.settings;
        List::find(folder, list).with_context(|| format!("looking for the network list `{list}`"))
    }

    fn chain<'a>(
        &'a self,
        list: &'a List,
        attachment: &'a Attachment,
        wanted: &'a [End],
    ) -> Result<Chain<'a>, Refusal> {
        Chain::new(&self.plugins, list, attachment, &self.settings.namespace, wanted).map_err(Refusal::Never)
    }

    /// Calls ADD, and undoes what was done where it fails.
    async fn make(
        &self,
        list: &List,
        attachment: &Attachment,
        wanted: &[End],
        deadline: Instant,
    ) -> Result<Value, Refusal> {
        let chain = self.chain(list, attachment, wanted)?;
        let entry = |result| Entry {
            attachment: attachment.clone(),
            list: list.written().clone(),
            boot: boot(),
            result,
        };
        self.journal.put(entry(None)).await.map_err(Refusal::Later)?;
        let now = Instant::now();
        let work = now + deadline.saturating_duration_since(now) * 3 / 4;
        let (outcome, result) = match chain.add(work).await {
            Ok(result) => (ends(&result).map(drop).map_err(Refusal::Never), Some(result)),
            Err((refusal, result)) => (Err(refusal), result),
        };
        // Plugins that clean up by the result have to be told it, whoever takes the network away.
        let kept = self.journal.put(entry(result.clone())).await.map_err(Refusal::Later);
        let refusal = match (outcome.and(kept), &result) {
            (Ok(()), Some(result)) => return Ok(result.clone()),
            (Ok(()), None) => Refusal::Never(anyhow!("no plugin answered")),
            (Err(refusal), _) => refusal,
        };
        match self.undo(&chain, attachment, result.as_ref(), deadline).await {
            Ok(()) => Err(refusal),
            // What is left is in the journal; the cause of it all is the ADD.
            Err(left) => {
                let left = reason(left).context("undoing it");
                Err(match refusal {
                    Refusal::Later(error) => Refusal::Later(anyhow!("{error:#}; {left:#}")),
                    Refusal::Never(error) => Refusal::Never(anyhow!("{error:#}; {left:#}")),
                })
            }
        }
    }

    async fn undo(
        &self,
        chain: &Chain<'_>,
        attachment: &Attachment,
        result: Option<&Value>,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        chain.del(result, deadline).await?;
        self.journal.remove(attachment).map_err(Refusal::Later)
    }

    /// Takes away a network by what is known of it; what the journal says is the newest.
    async fn take_down(
        &self,
        attachment: &Attachment,
        kept: Option<Kept>,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let entry = self.journal.get(attachment).map_err(Refusal::Later)?;
        let Some(attachment) = &self.as_added(attachment, entry.as_ref()) else {
            let Attachment { container, interface, .. } = attachment;
            tracing::warn!(
                "no plugin is asked to take away `{container}:{interface}`: its VF has no interface that is its own"
            );
            return self.journal.remove(attachment).map_err(Refusal::Later);
        };
        let (list, result) = match (entry, kept) {
            (Some(entry), kept) => (List::of(entry.list), entry.result.or(kept.map(|kept| kept.result))),
            (None, Some(kept)) => (List::of(kept.list), Some(kept.result)),
            (None, None) => (self.list(), None),
        };
        // A list that was read once can be read again; else the present one is the best guess.
        let list = list.or_else(|_| self.list()).map_err(Refusal::Later)?;
        let chain = self.chain(&list, attachment, &attachment.given)?;
        self.undo(&chain, attachment, result.as_ref(), deadline).await
    }

    /// The attachment with the name that plugins are to be told at DEL; none where there is none.
    fn as_added(&self, attachment: &Attachment, entry: Option<&Entry>) -> Option<Attachment> {
        let now = &attachment.vf.interface;
        let added = entry.map(|entry| &entry.attachment.vf.interface);
        let is_anothers = |name: &String| name != now && self.settings.interfaces.join(name).exists();
        let name = added.filter(|name| !is_anothers(name)).unwrap_or(now).clone();
        let vf = Vf { interface: name, ..attachment.vf.clone() };
        (!vf.interface.is_empty()).then(|| Attachment { vf, ..attachment.clone() })
    }

    async fn compare(&self, attachment: &Attachment, kept: &Kept, deadline: Instant) -> Result<(), Refusal> {
        let list = List::of(kept.list.clone()).map_err(Refusal::Never)?;
        if list.disable_check || list.version < Version::V0_4_0 {
            return Ok(());
        }
        let again = self.journal.get(attachment).map_err(Refusal::Later)?.and_then(|entry| entry.result);
        let chain = self.chain(&list, attachment, &attachment.given)?;
        chain.check(again.as_ref().unwrap_or(&kept.result), deadline).await
    }

    /// Makes a known network anew where it is gone, with the addresses that its pod has.
    async fn restore(&self, attachment: &Attachment, made: &Made) -> Result<()> {
        let kept = kept(made).context("what was kept of it makes no sense")?;
        let entry = self.journal.get(attachment)?;
        let made_in = entry.as_ref().map_or(&kept.boot, |entry| &entry.boot);
        if *made_in == boot() {
            match self.compare(attachment, &kept, Instant::now() + PATIENCE).await {
                Ok(()) => return Ok(()),
                Err(Refusal::Later(error)) => return Err(error),
                Err(Refusal::Never(error)) => tracing::warn!("making it anew: {error:#}"),
            }
        }
        let list = List::of(kept.list.clone())?;
        self.take_down(attachment, Some(kept), Instant::now() + PATIENCE).await.map_err(reason)?;
        let deadline = Instant::now() + PATIENCE;
        let result = self.make(&list, attachment, &made.ends, deadline).await.map_err(reason)?;
        let addresses = |ends: &[End]| ends.iter().map(|end| end.address).collect::<BTreeSet<_>>();
        let now = ends(&result)?;
        if !now.is_empty() && addresses(&now) != addresses(&made.ends) {
            let chain = self.chain(&list, attachment, &[]).map_err(reason)?;
            let undone = self.undo(&chain, attachment, Some(&result), deadline).await.map_err(reason);
            undone.context("undoing it")?;
            anyhow::bail!(
                "its plugins gave {:?} where the pod has {:?}: let the one that gives addresses take the capability `ips`, or make the pod anew",
                addresses(&now),
                addresses(&made.ends)
            );
        }
        Ok(())
    }

    /// Has the plugins forget what is of no known attachment.
    async fn collect(&self, known: &[(Attachment, Made)]) -> Result<Vec<anyhow::Error>> {
        let list = self.list()?;
        if list.version < Version::V1_1_0 || list.disable_gc {
            return Ok(Vec::new());
        }
        let mut valid = Vec::new();
        for (one, _) in known {
            // By the name that the plugins know.
            let entry = self.journal.get(one)?;
            let name = entry.as_ref().map_or(&one.vf.interface, |entry| &entry.attachment.vf.interface);
            valid.push(json!({ "containerID": one.container, "ifname": name }));
        }
        let mut added = Map::new();
        // An earlier version of the specification named the key otherwise, and libcni sends both.
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            added.insert(key.into(), valid.clone().into());
        }
        let failed = call_all(&self.plugins, &list, "GC", &added, Instant::now() + PATIENCE).await;
        Ok(failed.into_iter().map(reason).collect())
    }
}

#[tonic::async_trait]
impl Network for Delegate {
    fn name(&self) -> &'static str {
        "delegate"
    }

    async fn add(&self, attachment: &Attachment, deadline: Instant) -> Result<Made, Refusal> {
        let list = self.list().map_err(Refusal::Never)?;
        if !attachment.given.is_empty() && !list.takes("ips") {
            return Err(Refusal::Never(anyhow!(
                "the host gave the pod {}, and no plugin of the list `{}` takes the capability `ips`: declare it there, or let the card give addresses",
                attachment.given.iter().map(|end| end.address.to_string()).collect::<Vec<_>>().join(", "),
                list.name
            )));
        }
        if self.journal.get(attachment).map_err(Refusal::Later)?.is_some() {
            // Plugins need not take an ADD twice.
            let now = Instant::now();
            let half = now + deadline.saturating_duration_since(now) / 2;
            self.take_down(attachment, None, half)
                .await
                .map_err(|refusal| Refusal::Later(reason(refusal).context("undoing an earlier try")))?;
        }
        let result = self.make(&list, attachment, &attachment.given, deadline).await?;
        made(&list, result).map_err(Refusal::Never)
    }

    async fn del(
        &self,
        attachment: &Attachment,
        made: Option<&Made>,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let kept = made.and_then(|made| {
            kept(made).inspect_err(|error| tracing::warn!("what was kept makes no sense: {error:#}")).ok()
        });
        self.take_down(attachment, kept, deadline).await
    }

    async fn check(&self, attachment: &Attachment, made: &Made, deadline: Instant) -> Result<(), Refusal> {
        let kept = kept(made).context("what was kept of it makes no sense").map_err(Refusal::Never)?;
        self.compare(attachment, &kept, deadline).await
    }

    async fn reconcile(&self, known: &[(Attachment, Made)]) -> Result<Reconciled> {
        let mut freed = 0;
        let mut wrong = Vec::new();
        let same = |one: &Attachment, other: &Attachment| {
            one.container == other.container && one.interface == other.interface
        };
        for entry in self.journal.all()? {
            if known.iter().any(|(one, _)| same(one, &entry.attachment)) {
                continue;
            }
            let mut left = entry.attachment;
            if known.iter().any(|(one, _)| one.vf.interface == left.vf.interface) {
                // The name is a living pod's by now.
                left.vf.interface.clear();
            }
            let Attachment { container, interface, .. } = &left;
            match self.take_down(&left, None, Instant::now() + PATIENCE).await {
                Ok(()) => freed += 1,
                Err(refusal) => wrong.push(reason(refusal).context(format!("{container}:{interface}"))),
            }
        }
        for (attachment, made) in known {
            if let Err(error) = self.restore(attachment, made).await {
                let Attachment { container, interface, .. } = attachment;
                wrong.push(error.context(format!("{container}:{interface}")));
            }
        }
        match self.collect(known).await {
            Ok(errors) => wrong.extend(errors),
            Err(error) => wrong.push(error),
        }
        Ok(Reconciled { freed, wrong })
    }

    async fn ready(&self) -> Result<()> {
        let list = self.list()?;
        for plugin in &list.plugins {
            self.plugins.find(&plugin.kind)?;
        }
        if list.version < Version::V1_1_0 {
            return Ok(());
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        let failed = call_all(&self.plugins, &list, "STATUS", &Map::new(), deadline).await;
        failed.into_iter().reduce(both).map_or(Ok(()), |refusal| Err(reason(refusal)))
    }
}

fn kept(made: &Made) -> Result<Kept> {
    Ok(Kept::deserialize(&made.kept)?)
}

/// What plugins made, in the words of [`Network`].
fn made(list: &List, result: Value) -> Result<Made> {
    let outcome = Outcome::deserialize(&result)?;
    let dns = outcome.dns.nameservers.iter().filter_map(|server| server.parse().ok()).collect();
    let routes = outcome.routes.iter().filter_map(|route| route.mtu);
    let interfaces = outcome.interfaces.iter().filter_map(|interface| interface.mtu);
    let mtu = routes.min().or_else(|| interfaces.min()).unwrap_or(0);
    let kept = Kept { list: list.written().clone(), result, boot: boot() };
    Ok(Made { ends: ends_of(&outcome), dns, mtu, kept: serde_json::to_value(kept)? })
}

fn ends(result: &Value) -> Result<Vec<End>> {
    let outcome = Outcome::deserialize(result).context("reading what the last plugin answered to ADD")?;
    Ok(ends_of(&outcome))
}

/// The first address of each family.
fn ends_of(outcome: &Outcome) -> Vec<End> {
    let ends = outcome.ips.iter().map(|ip| End { address: ip.address.address(), gateway: ip.gateway });
    let (four, six): (Vec<_>, Vec<_>) = ends.partition(|end| matches!(end.address, IpAddr::V4(_)));
    four.into_iter().take(1).chain(six.into_iter().take(1)).collect()
}
