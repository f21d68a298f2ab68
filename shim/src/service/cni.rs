//! Our CNI configuration among those of others.
//!
//! A runtime takes the first file by name that ends with `.conf`, `.conflist` or `.json`
//! (`ConfFiles` of CNI's libcni, as containerd and CRI-O use it).

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use super::aside;
use super::config::{Config, Others, WhileDown};
use super::machine::Machine;
use super::report::Report;
use crate::files;

/// By this key, which runtimes leave alone, we know a file of ours again.
const MARK: (&str, &str) =
    ("writtenBy", "dpu-host, from /etc/dpukit/host.toml: it is written anew when the card comes up");

/// What is in the folder of configurations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// Whether ours is in place, as it should be.
    pub in_place: bool,
    /// The one that a runtime takes.
    pub first: Option<String>,
    /// Those of others that are in place.
    pub others: Vec<String>,
    /// Those of others that were moved aside, by their names of now.
    pub aside: Vec<String>,
}

/// Looks into the folder.
pub fn look(machine: &Machine) -> Result<Standing> {
    let Config { folder, file, .. } = &machine.config;
    let names = configurations(machine)?;
    let aside = aside::list(&machine.files, folder)?;
    Ok(Standing {
        in_place: there(machine)? == There::Ours,
        first: names.first().cloned(),
        others: names.into_iter().filter(|name| name != file).collect(),
        aside: aside.iter().map(aside::Aside::file).collect(),
    })
}

/// Puts our configuration in place, and those of others aside that are to be.
pub fn place(machine: &Machine, report: &mut Report) -> Result<()> {
    let Config { folder, file, .. } = &machine.config;
    let path = folder.join(file);
    match there(machine)? {
        There::Ours => report.found(format!("`{}` is in place", path.display())),
        found => {
            if found == There::Others {
                put_aside(machine, file, report)?;
            }
            files::replace(&machine.files.at(&path), text(&machine.config)?.as_bytes())?;
            report.did(format!("put `{}` in place", path.display()));
        }
    }
    // Ours is there by now, so that there is no moment without any.
    for name in configurations(machine)?.iter().filter(|name| *name != file) {
        let is_meant = match machine.config.others {
            Others::Before => name < file,
            Others::All => true,
            Others::None => false,
        };
        if is_meant {
            report.try_to(|report| put_aside(machine, name, report));
        }
    }
    Ok(())
}

/// Takes our configuration away because the card is down, where that is wanted and lets no other network
/// take over.
pub fn withdraw(machine: &Machine, report: &mut Report) -> Result<()> {
    let path = machine.config.folder.join(&machine.config.file);
    let shown = path.display();
    if matches!(there(machine)?, There::Nothing | There::Others) {
        report.found(format!("`{shown}` is not in place"));
        return Ok(());
    }
    if machine.config.while_down == WhileDown::Keep {
        report.found(format!("`{shown}` stays in place, as `watch.while-down` wants it"));
        return Ok(());
    }
    let others = look(machine)?.others;
    if let Some(other) = others.first() {
        report
            .found(format!("`{shown}` stays in place: without it, pods would get the network of `{other}`"));
        return Ok(());
    }
    take_away(machine, report)
}

/// Takes our configuration away.
pub fn take_away(machine: &Machine, report: &mut Report) -> Result<()> {
    let path = machine.config.folder.join(&machine.config.file);
    if matches!(there(machine)?, There::Ours | There::Older) {
        files::remove(&machine.files.at(&path))?;
        report.did(format!("took `{}` away", path.display()));
    }
    Ok(())
}

/// Puts those of others back in their places.
pub fn restore(machine: &Machine, report: &mut Report) {
    report.try_to(|report| take_away(machine, report));
    aside::restore(&machine.files, &machine.config.folder, |_| true, report);
}

/// What is under our configuration's name.
#[derive(Debug, PartialEq, Eq)]
enum There {
    Nothing,
    /// What we would write.
    Ours,
    /// What we wrote, and would write otherwise now.
    Older,
    /// What somebody else wrote.
    Others,
}

fn there(machine: &Machine) -> Result<There> {
    let path = machine.config.folder.join(&machine.config.file);
    let real = machine.files.at(&path);
    let Ok(meta) = real.symlink_metadata() else { return Ok(There::Nothing) };
    if !meta.is_file() {
        return Ok(There::Others);
    }
    let found = std::fs::read(&real).with_context(|| format!("reading `{}`", path.display()))?;
    if found == text(&machine.config)?.as_bytes() {
        return Ok(There::Ours);
    }
    let is_marked = serde_json::from_slice::<Value>(&found).is_ok_and(|list| list[MARK.0] == MARK.1);
    Ok(if is_marked { There::Older } else { There::Others })
}

fn text(config: &Config) -> Result<String> {
    let mut list = config.list.clone();
    list[MARK.0] = MARK.1.into();
    Ok(serde_json::to_string_pretty(&list)? + "\n")
}

/// The files that a runtime reads, in its order.
fn configurations(machine: &Machine) -> Result<Vec<String>> {
    let is_read = |name: &String| {
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
        matches!(ending, Some("conf" | "conflist" | "json"))
    };
    Ok(machine.files.names(&machine.config.folder)?.into_iter().filter(is_read).collect())
}

fn put_aside(machine: &Machine, name: &str, report: &mut Report) -> Result<()> {
    let folder = &machine.config.folder;
    let new = aside::put(&machine.files, folder, name)?;
    report.did(format!("moved `{}` aside to `{new}`", folder.join(name).display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::fake::Host;

    const FOLDER: &str = "/etc/cni/net.d";
    const OURS: &str = "20-offload-cni.conflist";

    fn with(config: &str, others: &[&str]) -> Host {
        let host = Host::new(config);
        for name in others {
            host.fake.file(&format!("{FOLDER}/{name}"), name);
        }
        host
    }

    fn place(host: &Host) -> Report {
        let mut report = Report::default();
        super::place(&host.machine, &mut report).unwrap();
        assert_eq!(report.wrong, [""; 0]);
        report
    }

    fn withdraw(host: &Host) -> Report {
        let mut report = Report::default();
        super::withdraw(&host.machine, &mut report).unwrap();
        report
    }

    fn names(host: &Host) -> String {
        host.machine.files.names(FOLDER).unwrap().join(" ")
    }

    const THEIRS: &[&str] = &["05-cilium.conf", "10-calico.conflist", "30-bridge.json", "README", "k8s.d"];

    #[test]
    fn those_that_a_runtime_would_take_before_ours_are_moved_aside() {
        let host = with("", THEIRS);
        assert_eq!(look(&host.machine).unwrap().first.as_deref(), Some("05-cilium.conf"));
        place(&host);
        assert_eq!(
            names(&host),
            "05-cilium.conf.dpukit-aside 10-calico.conflist.dpukit-aside 20-offload-cni.conflist 30-bridge.json README k8s.d"
        );
        let standing = look(&host.machine).unwrap();
        assert_eq!((standing.in_place, standing.first.as_deref()), (true, Some(OURS)));
        assert_eq!(place(&host).did, [""; 0], "a second time changes nothing");
        let mut report = Report::default();
        restore(&host.machine, &mut report);
        assert_eq!(names(&host), THEIRS.join(" "));
        for name in THEIRS {
            let text = host.machine.files.read_if(format!("{FOLDER}/{name}")).unwrap();
            assert_eq!(text.as_deref(), Some(*name));
        }
    }

    #[test]
    fn all_or_none_are_moved_aside_on_request() {
        let host = with("cni.others = \"all\"", &["10-a.conf", "30-b.conf"]);
        place(&host);
        assert_eq!(names(&host), format!("10-a.conf.dpukit-aside {OURS} 30-b.conf.dpukit-aside"));
        let host = with("cni.others = \"none\"", &["10-a.conf", "30-b.conf"]);
        place(&host);
        assert_eq!(names(&host), format!("10-a.conf {OURS} 30-b.conf"));
    }

    #[test]
    fn while_the_card_is_down_ours_is_away() {
        let host = with("", &["10-a.conf"]);
        assert_eq!(withdraw(&host).did, [""; 0]);
        assert_eq!(names(&host), "10-a.conf", "a card that never was up changes nothing");
        place(&host);
        assert_eq!(withdraw(&host).did, [format!("took `{FOLDER}/{OURS}` away")]);
        assert_eq!(names(&host), "10-a.conf.dpukit-aside", "pods get no other network meanwhile");
        place(&host);
        assert_eq!(names(&host), format!("10-a.conf.dpukit-aside {OURS}"));
    }

    #[test]
    fn ours_stays_where_another_network_would_take_over() {
        let host = with("", &["30-b.conf"]);
        place(&host);
        assert_eq!(
            withdraw(&host).found,
            [format!(
                "`{FOLDER}/{OURS}` stays in place: without it, pods would get the network of `30-b.conf`"
            )]
        );
        let host = with("watch.while-down = \"keep\"", &[]);
        place(&host);
        withdraw(&host);
        assert_eq!(names(&host), OURS);
    }

    #[test]
    fn a_file_of_our_name_that_is_not_ours_is_moved_aside() {
        let host = with("", &[OURS]);
        assert_eq!(withdraw(&host).did, [""; 0]);
        place(&host);
        assert_eq!(names(&host), format!("{OURS} {OURS}.dpukit-aside"));
        let mut report = Report::default();
        restore(&host.machine, &mut report);
        assert_eq!(host.machine.files.read_if(format!("{FOLDER}/{OURS}")).unwrap().as_deref(), Some(OURS));
    }

    #[test]
    fn ours_follows_the_configuration() {
        let mut host = with("", &[]);
        place(&host);
        host.machine.config = Config::parse("cni.mtu = 1400").unwrap();
        assert!(!look(&host.machine).unwrap().in_place);
        place(&host);
        let text = host.machine.files.read_if(format!("{FOLDER}/{OURS}")).unwrap().unwrap();
        assert!(text.contains("\"mtu\": 1400"), "{text}");
        assert_eq!(names(&host), OURS, "an older one of ours is not kept");
    }
}
