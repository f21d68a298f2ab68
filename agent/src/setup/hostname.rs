//! The host name: that of the host that the card is in, with the board's suffix.
//!
//! The host's name comes from `dpukit.host=` on the kernel's command line, from `/etc/dpukit/host`, or
//! from the host that was paired first; where none is known, the card keeps the name that it has.
//! `dpu-hostname.path` runs the phase again when a host is paired.

use anyhow::{Context as _, Result, bail};
use dpu_trust::card::{FOLDER, HOSTS};
use dpu_trust::hosts::Hosts;

use crate::Card;
use crate::report::Report;

const STATIC: &str = "/etc/hostname";
const LIVE: &str = "/proc/sys/kernel/hostname";
const FILE: &str = "/etc/dpukit/host";
const PARAMETER: &str = "dpukit.host=";

pub fn apply(card: &Card, report: &mut Report) -> Result<()> {
    let Some(wanted) = wanted(card)? else {
        report.found(unnamed(card)?);
        return Ok(());
    };
    // Written first: the name is then kept even where the running kernel does not take it.
    if card.tree.read_if(STATIC)?.as_deref() == Some(&wanted) {
        report.found(format!("`{STATIC}` says `{wanted}`"));
    } else {
        card.tree.save(STATIC, format!("{wanted}\n").as_bytes())?;
        report.did(format!("wrote `{wanted}` to `{STATIC}`"));
    }
    if card.tree.read(LIVE)? != wanted {
        card.tree.set(LIVE, &wanted)?;
        report.did(format!("named the running system `{wanted}`"));
    }
    Ok(())
}

pub fn check(card: &Card, report: &mut Report) -> Result<()> {
    let Some(wanted) = wanted(card)? else {
        report.found(unnamed(card)?);
        return Ok(());
    };
    let has = card.tree.read(LIVE)?;
    let kept = card.tree.read_if(STATIC)?.unwrap_or_default();
    if has != wanted {
        report.wrong(format!("the card is called `{has}`, not `{wanted}`"));
    } else if kept != wanted {
        report.wrong(format!("the card is called `{has}`, but `{STATIC}` says `{kept}`"));
    } else {
        report.found(format!("the card is called `{has}`"));
    }
    Ok(())
}

fn unnamed(card: &Card) -> Result<String> {
    Ok(format!("no host is named, so the card keeps its name `{}`", card.tree.read(LIVE)?))
}

/// The name that the card should have; none where its host is not known.
fn wanted(card: &Card) -> Result<Option<String>> {
    let Some((host, origin)) = host(card)? else { return Ok(None) };
    let name = format!("{host}{}", card.plan.hostname.suffix);
    validate(&name).with_context(|| format!("making a name from the host `{host}` of {origin}"))?;
    Ok(Some(name))
}

/// The host's name, and where it is from.
fn host(card: &Card) -> Result<Option<(String, String)>> {
    let line = card.tree.read("/proc/cmdline")?;
    // As with the kernel's own parameters, the last one counts.
    if let Some(host) = line.split_whitespace().rev().find_map(|word| word.strip_prefix(PARAMETER)) {
        return Ok(Some((host.to_owned(), "the kernel's command line".to_owned())));
    }
    if let Some(host) = card.tree.read_if(FILE)?.filter(|host| !host.is_empty()) {
        return Ok(Some((host, format!("`{FILE}`"))));
    }
    Ok(paired(card)?.map(|host| (host, "the paired host".to_owned())))
}

/// The first label of the name under which the first host was paired.
fn paired(card: &Card) -> Result<Option<String>> {
    let path = format!("{FOLDER}/{HOSTS}");
    let Some(text) = card.tree.read_if(&path)? else { return Ok(None) };
    let hosts = Hosts::parse(&text).with_context(|| format!("reading `{path}`"))?;
    let name = hosts.all().first().map(|host| host.name.as_str());
    Ok(name.and_then(|name| name.split('.').next()).map(str::to_owned))
}

/// Host names as hostname(7) has them, in the 64 characters that Linux keeps.
fn validate(name: &str) -> Result<()> {
    let good = |label: &str| {
        let letters = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        !label.is_empty() && label.len() <= 63 && letters && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.len() > 64 {
        bail!("`{name}` has {} characters, a host name has 64 at most", name.len());
    }
    if !name.split('.').all(good) {
        bail!("`{name}` is no host name: it takes letters, digits and hyphens, in labels that dots part");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::validate;
    use crate::fake;
    use crate::report::State;
    use crate::setup::{Phase, check, phase, run};

    fn hostname() -> &'static Phase {
        phase("hostname").unwrap()
    }

    #[test]
    fn the_command_line_names_the_host_and_the_name_is_kept() {
        let fake = fake::virt();
        fake.file("/proc/cmdline", "ro dpukit.host=old quiet dpukit.host=node1");
        fake.file("/etc/dpukit/host", "node2");
        let record = run(&fake.card(), hostname());
        assert_eq!(
            record.report.did,
            ["wrote `node1-dpu` to `/etc/hostname`", "named the running system `node1-dpu`"]
        );
        assert_eq!(fake.read("/etc/hostname"), "node1-dpu\n");
        assert_eq!(check(&fake.card(), hostname()).found, ["the card is called `node1-dpu`"]);
    }

    #[test]
    fn a_file_names_the_host() {
        let fake = fake::virt();
        fake.file("/etc/dpukit/host", "node2\n");
        assert_eq!(check(&fake.card(), hostname()).wrong, ["the card is called `virt`, not `node2-dpu`"]);
        run(&fake.card(), hostname());
        assert_eq!(fake.read("/proc/sys/kernel/hostname"), "node2-dpu");
    }

    #[test]
    fn the_paired_host_gives_its_name_where_nothing_else_does() {
        let fake = fake::virt();
        let hosts = r#"{"version":1,"hosts":[{"name":"node3.example","paired":1,"certificates":[]},{"name":"node4","paired":2,"certificates":[]}]}"#;
        fake.file("/var/lib/dpukit/trust/hosts.json", hosts);
        run(&fake.card(), hostname());
        assert_eq!(fake.read("/etc/hostname"), "node3-dpu\n");
        fake.file("/etc/dpukit/host", "node2");
        assert_eq!(
            check(&fake.card(), hostname()).wrong,
            ["the card is called `node3-dpu`, not `node2-dpu`"]
        );
    }

    #[test]
    fn without_a_host_the_card_keeps_its_name() {
        let fake = fake::virt();
        fake.file("/etc/dpukit/host", "\n");
        let record = run(&fake.card(), hostname());
        assert_eq!(record.report.found, ["no host is named, so the card keeps its name `virt`"]);
        assert!(fake.written().is_empty());
    }

    #[test]
    fn what_is_no_host_name_is_refused_and_nothing_changed() {
        for host in ["-node", "no_de", "node..one", "a".repeat(64).as_str(), "nöde"] {
            let fake = fake::virt();
            fake.file("/etc/dpukit/host", host);
            let record = run(&fake.card(), hostname());
            assert_eq!(record.state, State::Failed, "{host}");
            assert!(record.report.wrong[0].contains("of `/etc/dpukit/host`"), "{}", record.text());
            assert_eq!(fake.read("/etc/hostname"), "virt\n");
        }
    }

    #[test]
    fn a_kernel_that_refuses_the_name_is_told_and_the_name_kept_for_the_next_start() {
        let fake = fake::virt();
        fake.file("/etc/dpukit/host", "node2");
        fake.refuse("hostname", std::io::ErrorKind::PermissionDenied);
        assert_eq!(run(&fake.card(), hostname()).state, State::Failed);
        assert_eq!(fake.read("/etc/hostname"), "node2-dpu\n");
    }

    proptest! {
        #[test]
        fn good_names_pass_and_no_name_panics(good in "[a-z0-9]{1,20}(-[a-z0-9]{1,8}){0,2}", any in "\\PC{0,80}") {
            prop_assert!(validate(&good).is_ok());
            let _ = validate(&any);
        }
    }
}
