//! ADD: a pod gets a VF, and its network on the card.
//!
//! All that can be wrong is looked at first; then the VF is claimed, while the card is connected to; addresses are
//! made; and the card is asked, while the interface is handed over. Where one of these fails, those before are undone.

use std::cell::Cell;
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context as _, Result};
use dpu_api::{CniAddRequest, CniAddResponse, IpaMallocatedbyHost};

use crate::card::{Card, Cards, messages};
use crate::choose::{Wish, choose};
use crate::claims::{Before, Claim, Left, Lock};
use crate::cni::{Attachment, Code, Interface, Invocation, Outcome, Pod};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::device;
use crate::host::Host;
use crate::ipam::Ipam;
use crate::namespace::{Namespace, Place};
use crate::netlink::Netlink;
use crate::network::{self, Network};
use crate::undo::Undo;
use crate::vf::Vf;

/// Gives a pod its interface.
///
/// # Errors
/// Whatever goes wrong; then nothing is left behind but what a tombstone tells of.
pub fn add(host: &mut Host, call: &Invocation, config: &Config, deadline: Deadline) -> Result<Outcome> {
    let attachment = call.attachment()?;
    let pod = Pod::of_arguments(&call.arguments)?;
    let path = call.namespace.as_deref().unwrap_or_else(|| "".as_ref());
    let namespace = Namespace::open(path)?;
    if namespace.is(&host.namespace) {
        return Err(Code::ENVIRONMENT.because("`CNI_NETNS` is the host's own network namespace"));
    }
    let place = namespace.place(path, &host.files)?;

    let mut undo = Undo { call, config: Some(config), cards: Cards::default() };
    // What fails needs time to be undone, within the deadline as well.
    let working = deadline.part(85);
    let claim = |vf: Vf, before: Before| Claim {
        attachment: attachment.clone(),
        network: config.network.clone(),
        pod: pod.clone(),
        namespace: Place::clone(&place),
        vf,
        before,
        left: Left::ALL,
        config: config.to_keep(),
    };
    let mut begin = || {
        let gc = host.store.keep_gc_waiting(deadline)?;
        let lock = host.store.lock(attachment, deadline)?;
        undo_earlier(host, &mut undo, attachment, working, &lock)?;
        must_be_free(&namespace, &attachment.interface)?;
        let chosen =
            choose(host, &mut undo, &Wish { config, deadline: working, lock: &lock, claim: &claim })?;
        anyhow::Ok((gc, lock, chosen))
    };
    let (begun, card) = thread::scope(|scope| {
        let reaching = scope.spawn(|| Card::reach(&config.agent, working));
        (begin(), reaching.join())
    });
    let (_gc, lock, (mut claim, index)) = begun?;
    if let Ok(Ok(card)) = card {
        undo.cards.take_in(card);
    }
    tracing::info!(vf = claim.vf.address, interface = claim.before.name, "claimed");

    match connect(host, &mut undo, config, &claim, index, &namespace, working) {
        Ok(outcome) => {
            drop(lock);
            undo.settle_all(host, deadline);
            Ok(outcome.in_version(config.version))
        }
        Err(error) => {
            claim.left.card = undo.cards.of(&config.agent)?.was_asked();
            if let Err(error) = undo.undo(host, claim, deadline, &lock) {
                tracing::error!("undoing the ADD: {error:#}");
            }
            Err(error)
        }
    }
}

/// A runtime does not ask twice for one interface, unless the first time failed or was cut short: what
/// that left is undone.
fn undo_earlier(
    host: &mut Host,
    undo: &mut Undo,
    attachment: &Attachment,
    deadline: Deadline,
    lock: &Lock,
) -> Result<()> {
    for earlier in [host.store.claim(attachment)?, host.store.tombstone(attachment)?].into_iter().flatten() {
        tracing::warn!(vf = earlier.vf.address, "undoing an earlier ADD of the same interface");
        if !undo.undo(host, earlier, deadline, lock)?.left.is_nothing() {
            return Err(
                Code::TRY_AGAIN.because(format_args!("an earlier ADD of `{attachment}` is not undone yet"))
            );
        }
    }
    Ok(())
}

fn must_be_free(namespace: &Namespace, interface: &str) -> Result<()> {
    let mut inside = Netlink::inside(namespace)?;
    match inside.link(interface).context(Code::KERNEL)? {
        None => Ok(()),
        Some(_) => {
            Err(Code::ENVIRONMENT.because(format_args!("the pod has an interface `{interface}` already")))
        }
    }
}

/// Makes the network of a claim.
fn connect(
    host: &mut Host,
    undo: &mut Undo,
    config: &Config,
    claim: &Claim,
    index: u32,
    namespace: &Namespace,
    deadline: Deadline,
) -> Result<Outcome> {
    let held = match &config.ipam {
        Some(plugin) => Some(Ipam { call: undo.call, plugin, config }.add(&claim.attachment, deadline)?),
        None => None,
    };
    let (ip_info, ip6_info) = held.as_ref().map_or((None, None), network::details);
    let request = CniAddRequest {
        pod_info: Some(messages::pod(claim)),
        intf_info: Some(messages::interface(claim)),
        mac_addr: claim.before.mac.to_string(),
        ipam_allocatedby_host: Some(IpaMallocatedbyHost { ipam_allocatedby_host: held.is_some() }),
        ip_info,
        ip6_info,
        ..CniAddRequest::default()
    };
    let card = undo.cards.of(&config.agent)?;
    let Host { store, netlink, .. } = host;
    let hand_over = || {
        let _turn = store.turn_to_move(deadline);
        device::hand_over(netlink, index, namespace, &claim.attachment.interface)
    };
    let (answer, kept) = thread::scope(|scope| {
        let keeping = scope.spawn(|| store.keep(claim));
        (ask_and_move(card, &request, hand_over, deadline), keeping.join())
    });
    let answer = answer?;
    kept.map_err(|_| Code::INTERNAL.because("writing the claim panicked"))??;
    let network = Network::of(&answer, held.as_ref(), config.mtu)?;
    let link = device::set_up(claim, namespace, &network.setting(), deadline).context(Code::KERNEL)?;
    tracing::info!(vf = claim.vf.address, ?network, "the pod has its network");
    let interface = Interface {
        name: link.name,
        mac: link.mac,
        mtu: Some(link.mtu),
        sandbox: Some(claim.namespace.path.display().to_string()),
        pci: Some(claim.vf.address.clone()),
    };
    Ok(Outcome { interfaces: vec![interface], ..network.outcome() })
}

/// Asks the card for the pod's network, and moves the interface while the card works: the kernel takes longer
/// for that than for all else together, and waits most of it.
fn ask_and_move(
    card: &mut Card,
    request: &CniAddRequest,
    hand_over: impl FnOnce() -> Result<()> + Send,
    deadline: Deadline,
) -> Result<CniAddResponse> {
    let (answer, moved) = thread::scope(|scope| {
        let hand_over = Cell::new(Some(hand_over));
        let moving = Cell::new(None);
        let begin = || {
            if let Some(hand_over) = hand_over.take() {
                moving.set(Some(scope.spawn(hand_over)));
            }
        };
        let answer = card.add(request, deadline, begin);
        (answer, moving.take().map(ScopedJoinHandle::join))
    });
    let answer = answer?;
    match moved {
        Some(Ok(moved)) => moved.context(Code::KERNEL)?,
        _ => return Err(Code::INTERNAL.because("moving the interface panicked")),
    }
    Ok(answer)
}
