//! Pods' networks on the card, made for the host's CNI plugin.
//!
//! - [`service`] answers the plugin's calls;
//! - [`request`] reads and checks what it asks for;
//! - [`vfs`] finds the card's end of the VF that a pod has;
//! - [`books`] keeps the attachments, one pod at a time, and [`state`] has them on the disk;
//! - [`network`] is the seam to what connects pods: [`routed`], [`delegate`] or [`cilium`];
//! - [`list`] and [`check`] tell people about it.

pub mod books;
pub mod check;
pub mod cilium;
pub mod delegate;
pub mod list;
mod locks;
pub mod network;
pub mod request;
pub mod routed;
pub mod service;
pub mod state;
pub mod vfs;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use dpu_plan::{OVERRIDE, PATH, PciId};

use crate::Card;
use crate::metrics::Metrics;
use crate::tree::Tree;
use books::Books;
use network::Network;
use state::Store;

/// The first pause before a busy Cilium is asked again.
const CILIUM_PAUSE: Duration = Duration::from_millis(50);

/// What the agent does about pods.
pub enum Pods {
    /// It connects them.
    On(Box<Books>),
    /// It does not.
    Off {
        /// Why.
        reason: String,
        /// What the disk has, which a DEL has to be told of.
        store: Store,
    },
}

impl Pods {
    /// Starts what the card's settings ask for; needs a runtime. What is wrong with them is no end of the agent:
    /// it is told to who asks.
    pub fn start(card: &Arc<Card>, metrics: &Arc<Metrics>) -> Self {
        let off = |reason: String| Self::Off { reason, store: Store::of(&card.tree) };
        match Self::try_start(card, metrics) {
            Ok(Some(books)) => Self::On(Box::new(books)),
            Ok(None) => {
                tracing::info!("this card serves no pods: its plan has no `[pods]`");
                off(format!("this card serves no pods: there is no `[pods]` in `{PATH}` and no `{OVERRIDE}`"))
            }
            Err(error) => {
                tracing::error!("this card serves no pods: {error:#}");
                off(format!("{error:#}"))
            }
        }
    }

    fn try_start(card: &Arc<Card>, metrics: &Arc<Metrics>) -> Result<Option<Books>> {
        let Some(settings) = settings(card)? else { return Ok(None) };
        let vf = vf_id(card, &settings);
        let network = network_of(card, vf, settings.network)?;
        Books::open(Arc::clone(card), vf, network, Arc::clone(metrics)).map(Some)
    }

    /// Compares with what exists where that is to be done, and tells whether an ADD could succeed now.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn look(&self) -> Result<()> {
        match self {
            Self::On(books) => {
                books.compare().await?;
                books.ready().await
            }
            Self::Off { reason, .. } => bail!("{reason}"),
        }
    }

    /// How many VFs pods have, and how many there are; none where that can't be told.
    pub fn usage(&self) -> Option<(usize, usize)> {
        match self {
            Self::On(books) => books.usage().ok(),
            Self::Off { .. } => None,
        }
    }
}

/// The card's `[pods]`: of its own file, or else of its plan; none where it has neither.
///
/// # Errors
/// Where its own file is wrong: the plan is no substitute, for subnets differ from card to card.
pub fn settings(card: &Card) -> Result<Option<dpu_plan::Pods>> {
    match card.tree.read_if(OVERRIDE)? {
        Some(text) => {
            let file = text.parse::<dpu_plan::Override>();
            Ok(Some(file.with_context(|| format!("`{OVERRIDE}` is wrong"))?.pods))
        }
        None => Ok(card.plan.pods.clone()),
    }
}

/// The id of the VFs that pods get.
pub fn vf_id(card: &Card, settings: &dpu_plan::Pods) -> PciId {
    settings.vf.unwrap_or(card.plan.link.id)
}

fn network_of(card: &Card, vf: PciId, plan: dpu_plan::Network) -> Result<Arc<dyn Network>> {
    let tree = &card.tree;
    Ok(match plan {
        dpu_plan::Network::Routed(plan) => Arc::new(routed::Routed::new(tree, plan)?),
        dpu_plan::Network::Delegate(plan) => Arc::new(delegate::Delegate::new(delegate::Settings {
            list: plan.list,
            folder: tree.at(plan.folder),
            plugins: plan.plugins,
            cache: tree.at(format!("{}/cni", state::FOLDER)),
            // The agent is in the card's own namespace, and so is the first process.
            namespace: "/proc/1/ns/net".into(),
            interfaces: tree.at("/sys/class/net"),
        })),
        dpu_plan::Network::Cilium(plan) => Arc::new(cilium::Cilium::new(cilium::Settings {
            socket: tree.at(plan.socket),
            vf,
            tree: Tree::below(tree.at("/")),
            pause: CILIUM_PAUSE,
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[test]
    fn the_cards_own_file_wins_over_its_plan() {
        let mut fake = fake::virt();
        let subnets = |fake: &fake::Fake| match settings(&fake.card()).unwrap().unwrap().network {
            dpu_plan::Network::Routed(routed) => routed.subnets[0].to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(subnets(&fake), "10.244.0.0/24");
        fake.file(OVERRIDE, "[pods]\nnetwork = { routed = { subnets = [\"10.244.7.0/24\"] } }\n");
        assert_eq!(subnets(&fake), "10.244.7.0/24");
        fake.plan.pods = None;
        assert_eq!(subnets(&fake), "10.244.7.0/24");
        fake.remove(OVERRIDE);
        assert_eq!(settings(&fake.card()).unwrap(), None);
    }

    #[tokio::test]
    async fn a_wrong_file_is_told_and_the_plan_does_not_stand_in() {
        let fake = fake::virt();
        fake.file(OVERRIDE, "[pods]\nnetwork = { routed = { subnets = [\"10.244.7.1/24\"] } }\n");
        let pods = Pods::start(&Arc::new(fake.card()), &Arc::default());
        let reason = format!("{:#}", pods.look().await.unwrap_err());
        assert!(reason.contains("`/etc/dpukit/pods.toml` is wrong: TOML parse error at line 2"), "{reason}");
        assert!(reason.contains("write `10.244.7.0/24`"), "{reason}");
    }

    #[tokio::test]
    async fn a_card_without_pods_says_so() {
        let mut fake = fake::virt();
        fake.plan.pods = None;
        let pods = Pods::start(&Arc::new(fake.card()), &Arc::default());
        let reason = pods.look().await.unwrap_err().to_string();
        assert!(reason.starts_with("this card serves no pods: there is no `[pods]`"), "{reason}");
        assert_eq!(pods.usage(), None);
    }
}
