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
use super::placed::Placed;
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
    let folder = &machine.config.folder;
    let names = configurations(machine, folder)?;
    let aside = aside::list(&machine.files, folder)?;
    Ok(Standing {
        in_place: there(machine)? == There::Ours,
        first: names.first().cloned(),
        others: names.into_iter().filter(|name| !is_ours(machine, folder, name)).collect(),
        aside: aside.iter().map(aside::Aside::file).collect(),
    })
}

/// Puts our configuration in place, and those of others aside that are to be.
pub fn place(machine: &Machine, report: &mut Report) -> Result<()> {
    let Config { folder, file, .. } = &machine.config;
    let path = folder.join(file);
    Placed::change(&machine.files, |placed| placed.configurations.insert(folder.clone()))?;
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
    for name in configurations(machine, folder)?.iter().filter(|name| *name != file) {
        if is_ours(machine, folder, name) {
            // It had another name by an earlier configuration.
            report.try_to(|report| remove(machine, folder, name, report));
            continue;
        }
        let is_meant = match machine.config.others {
            Others::Before => name < file,
            Others::All => true,
            Others::None => false,
        };
        if is_meant {
            report.try_to(|report| put_aside(machine, name, report));
        }
    }
    for other in Placed::read(&machine.files)?.configurations.iter().filter(|other| *other != folder) {
        clear(machine, other, report);
    }
    Ok(())
}

/// Takes our configuration away because the card is down, where that is wanted and lets no other network
/// take over.
pub fn withdraw(machine: &Machine, report: &mut Report) -> Result<()> {
    let Config { folder, file, .. } = &machine.config;
    let path = folder.join(file);
    let shown = path.display();
    if ours(machine, folder)?.is_empty() {
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
    take_away(machine, folder, report)
}

/// Takes our configuration away from a folder, whatever its name is there.
fn take_away(machine: &Machine, folder: &Path, report: &mut Report) -> Result<()> {
    for name in ours(machine, folder)? {
        report.try_to(|report| remove(machine, folder, &name, report));
    }
    Ok(())
}

fn remove(machine: &Machine, folder: &Path, name: &str, report: &mut Report) -> Result<()> {
    let path = folder.join(name);
    files::remove(&machine.files.at(&path))?;
    report.did(format!("took `{}` away", path.display()));
    Ok(())
}

/// Takes ours away wherever it was put, and puts those of others back in their places.
pub fn restore(machine: &Machine, report: &mut Report) {
    report.try_to(|report| {
        let mut folders = Placed::read(&machine.files)?.configurations;
        folders.insert(machine.config.folder.clone());
        for folder in &folders {
            clear(machine, folder, report);
        }
        Ok(())
    });
}

/// Makes a folder what it was without us. It is forgotten once that is done.
fn clear(machine: &Machine, folder: &Path, report: &mut Report) {
    let wrong = report.wrong.len();
    report.try_to(|report| {
        // One of ours may have been moved aside, when it had another name.
        for aside in aside::list(&machine.files, folder)?.iter().map(aside::Aside::file) {
            if is_ours(machine, folder, &aside) {
                remove(machine, folder, &aside, report)?;
            }
        }
        take_away(machine, folder, report)
    });
    aside::restore(&machine.files, folder, |_| true, report);
    if report.wrong.len() == wrong {
        report.try_to(|_| Placed::change(&machine.files, |placed| placed.configurations.remove(folder)));
    }
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
    Ok(if found == text(&machine.config)?.as_bytes() {
        There::Ours
    } else if is_marked(&found) {
        There::Older
    } else {
        There::Others
    })
}

/// The configurations of a folder that we wrote, under whatever name.
fn ours(machine: &Machine, folder: &Path) -> Result<Vec<String>> {
    let mut names = configurations(machine, folder)?;
    names.retain(|name| is_ours(machine, folder, name));
    Ok(names)
}

/// Whether we wrote a file. One that cannot be read is not known to be ours.
fn is_ours(machine: &Machine, folder: &Path, name: &str) -> bool {
    let path = machine.files.at(folder.join(name));
    let is_file = path.symlink_metadata().is_ok_and(|meta| meta.is_file());
    is_file && std::fs::read(path).is_ok_and(|found| is_marked(&found))
}

fn is_marked(text: &[u8]) -> bool {
    serde_json::from_slice::<Value>(text).is_ok_and(|list| list[MARK.0] == MARK.1)
}

fn text(config: &Config) -> Result<String> {
    let mut list = config.list.clone();
    list[MARK.0] = MARK.1.into();
    Ok(serde_json::to_string_pretty(&list)? + "\n")
}

/// The files that a runtime reads, in its order.
fn configurations(machine: &Machine, folder: &Path) -> Result<Vec<String>> {
    let is_read = |name: &String| {
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
        matches!(ending, Some("conf" | "conflist" | "json"))
    };
    Ok(machine.files.names(folder)?.into_iter().filter(is_read).collect())
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

    #[test]
    fn ours_follows_its_name_and_its_folder() {
        for (before, after) in [("20-a", "30-b"), ("20-a", "10-b")] {
            let mut host = with(&format!("cni.file = \"{before}.conflist\""), &["05-theirs.conf"]);
            place(&host);
            host.machine.config = Config::parse(&format!("cni.file = \"{after}.conflist\"")).unwrap();
            assert_eq!(look(&host.machine).unwrap().others, [""; 0]);
            place(&host);
            assert_eq!(names(&host), format!("05-theirs.conf.dpukit-aside {after}.conflist"));
            withdraw(&host);
            assert_eq!(names(&host), "05-theirs.conf.dpukit-aside");
            place(&host);
            host.machine.config = Config::parse("cni.folder = \"/etc/other\"").unwrap();
            place(&host);
            assert_eq!(names(&host), "05-theirs.conf", "the old folder is as it was");
            let mut report = Report::default();
            restore(&host.machine, &mut report);
            assert_eq!(host.machine.files.names("/etc/other").unwrap(), [""; 0]);
            assert_eq!(Placed::read(&host.machine.files).unwrap(), Placed::default());
        }
    }

    #[test]
    fn ours_under_an_old_name_goes_while_the_card_is_down_and_is_not_put_back() {
        let mut host = with("cni.file = \"20-a.conflist\"", &[]);
        place(&host);
        host.machine.config = Config::parse("cni.file = \"30-b.conflist\"").unwrap();
        assert_eq!(withdraw(&host).did, [format!("took `{FOLDER}/20-a.conflist` away")]);
        place(&host);
        // As an earlier release did with an older one of ours.
        let text = host.machine.files.read_if(format!("{FOLDER}/30-b.conflist")).unwrap().unwrap();
        host.fake.file(&format!("{FOLDER}/20-a.conflist{}", aside::ENDING), &text);
        restore(&host.machine, &mut Report::default());
        assert_eq!(names(&host), "");
    }
}
