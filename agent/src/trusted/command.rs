//! `dpu-agent pairing`: what a person at the card says about hosts.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Subcommand;
use dpu_trust::card::Roster;
use dpu_trust::window::{LIFE, Window, uptime};

use super::Places;
use crate::Card;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show the paired hosts, and until when their certificates are good
    List,
    /// Let one more host pair: prints the code for `dpu-host pair`, good once and for ten minutes
    Open,
    /// Take a host's certificates away, at once and on connections that are open
    Revoke {
        /// The host's name, as `dpu-agent pairing list` shows it
        name: String,
    },
}

/// Does it; what there is to tell.
///
/// # Errors
/// Where the card's files can't be read or written, or there is no such host.
pub fn run(card: &Card, action: &Action) -> Result<String> {
    if card.plan.agent.insecure {
        bail!("the plan says `insecure = true`: everybody may ask, and nobody is paired");
    }
    let places = Places::of(card);
    let roster = Roster::new(&places.trust);
    match action {
        Action::List => list(&roster, dpu_trust::now()),
        Action::Open => {
            let code = Window::new(&places.window, &places.trust).open(uptime())?;
            let minutes = LIFE.as_secs() / 60;
            Ok(format!("{code}\nrun `dpu-host pair` on the host with this code, within {minutes} minutes\n"))
        }
        Action::Revoke { name } => {
            if !roster.change(|hosts| Ok(hosts.revoke(name)))? {
                bail!("no host `{}` is paired: see `dpu-agent pairing list`", name.escape_debug());
            }
            Ok(format!("`{name}` is not paired any more\n"))
        }
    }
}

fn list(roster: &Roster, now: Duration) -> Result<String> {
    let hosts = roster.hosts()?;
    let mut text = String::new();
    for host in hosts.all() {
        let end = host.certificates.iter().map(|one| one.ends).max().unwrap_or_default();
        let state = match end.checked_sub(now.as_secs()) {
            Some(left) => format!("good for {} days", left / (24 * 60 * 60)),
            None => "over".to_owned(),
        };
        // A string takes all that is written to it.
        let _ = writeln!(
            text,
            "{}  paired {}, certificate {state}",
            host.name,
            dpu_trust::date(Duration::from_secs(host.paired))
        );
    }
    if text.is_empty() {
        text += "no host is paired\n";
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use dpu_trust::HostKey;
    use dpu_trust::card::Trust;

    use super::*;
    use crate::fake;

    #[test]
    fn hosts_are_listed_let_in_and_shut_out() {
        let fake = fake::virt();
        let card = fake.card();
        let error = format!("{:#}", run(&card, &Action::List).unwrap_err());
        assert!(error.starts_with("reading `") && error.contains("hosts.json"), "{error}");

        let places = Places::of(&card);
        let trust = Trust::open(&places.trust, card.plan.link.address.address(), dpu_trust::now()).unwrap();
        assert_eq!(run(&card, &Action::List).unwrap(), "no host is paired\n");
        let key = HostKey::random().unwrap().public().unwrap();
        trust.pair("node1", key, dpu_trust::now()).unwrap();
        let today = dpu_trust::date(dpu_trust::now());
        let listed = run(&card, &Action::List).unwrap();
        assert!(listed.starts_with(&format!("node1  paired {today}, certificate good for 36")), "{listed}");
        let later = dpu_trust::now() + dpu_trust::card::HOST_LIFE * 2;
        assert!(list(trust.roster(), later).unwrap().ends_with("certificate over\n"));

        let revoke = Action::Revoke { name: "node1".into() };
        assert_eq!(run(&card, &revoke).unwrap(), "`node1` is not paired any more\n");
        let error = run(&card, &revoke).unwrap_err().to_string();
        assert_eq!(error, "no host `node1` is paired: see `dpu-agent pairing list`");
        assert!(trust.roster().hosts().unwrap().all().is_empty());

        let opened = run(&card, &Action::Open).unwrap();
        let open = Window::new(&places.window, &places.trust).current(uptime()).unwrap().unwrap();
        assert_eq!(opened.lines().next(), Some(open.code.to_string().as_str()));
    }

    #[test]
    fn a_card_in_plain_text_pairs_nobody() {
        let mut fake = fake::virt();
        fake.plan.agent.insecure = true;
        assert!(run(&fake.card(), &Action::Open).unwrap_err().to_string().contains("insecure = true"));
    }
}
