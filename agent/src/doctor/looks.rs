//! What the checks beside those of the phases look at: root, data, services, firewall, agent, pods.

use anyhow::{Context as _, Result};

use super::Ask;
use crate::report::{Report, State};
use crate::{Card, fresh, mounts, pods, programs, serve, storage};

/// Units that run on every card.
pub const SERVICES: &[&str] = &[
    "dpu-setup.service",
    "dpu-agent.service",
    "dpu-grow-data.service",
    "ssh.service",
    "nftables.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "containerd.service",
];

/// The unit of `octep_cp_agent`, on cards whose plan has it.
const OCTEP_SERVICE: &str = "dpu-octep.service";

/// The root is read-only, and dm-verity guards it.
pub(super) fn look_at_root(card: &Card, _: &Ask, report: &mut Report) -> Result<()> {
    let root = mounts::at(&card.tree, "/")?.context("nothing is mounted at `/`")?;
    if !root.has("ro") {
        report.wrong("the root can be written");
    }
    let Some(name) = card.tree.read_if(format!("/sys/dev/block/{}/dm/name", root.device))? else {
        report.wrong(format!("the root is `{}`, which is no mapped device: dm-verity is off", root.source));
        return Ok(());
    };
    match card.programs.read("dmsetup", &["status", "--target", "verity", &name]) {
        Ok(status) => report_verity(&name, &status, report),
        Err(error) if error.chain().any(<dyn std::error::Error>::is::<programs::Missing>) => {
            report_verity_from_command_line(card, &name, report)?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// `dmsetup status` says `V` while all blocks that were read were right, `C` once one was not
/// (Documentation/admin-guide/device-mapper/verity.rst of the kernel).
fn report_verity(name: &str, status: &str, report: &mut Report) {
    let mut words = status.split_whitespace().skip_while(|word| *word != "verity");
    match (words.next(), words.next()) {
        (Some(_), Some("V")) => {
            report.found(format!("`{name}` is read-only under dm-verity, all blocks good"));
        }
        (Some(_), Some("C")) => report.wrong(format!("dm-verity found wrong blocks on `{name}`")),
        (Some(_), state) => report.wrong(format!("dm-verity says {state:?} of `{name}`")),
        (None, _) => report.wrong(format!("`{name}` is a mapped device, but not one of dm-verity")),
    }
}

/// Without `dmsetup`, the kernel's command line still tells what the device was made as.
fn report_verity_from_command_line(card: &Card, name: &str, report: &mut Report) -> Result<()> {
    let line = card.tree.read("/proc/cmdline")?;
    let made = line.split("dm-mod.create=").nth(1).is_some_and(|table| {
        let table = table.trim_start_matches('"');
        table.split(',').next() == Some(name) && table.split_whitespace().any(|word| word == "verity")
    });
    if made {
        report.found(format!("`{name}` is read-only, and was made under dm-verity"));
    } else {
        report.wrong(format!("the kernel's command line does not put `{name}` under dm-verity"));
    }
    Ok(())
}

/// `/data` is the data partition and can be written, and `/var`, `/root` and `/etc` lie on it.
pub(super) fn look_at_data(card: &Card, _: &Ask, report: &mut Report) -> Result<()> {
    if let Some(reason) = card.tree.read_if(storage::FALLBACK)? {
        report.wrong(format!("what is written is lost at the next start: {reason}"));
    }
    let Some(data) = mounts::at(&card.tree, storage::MOUNT)? else {
        report.wrong(format!("nothing is mounted at `{}`", storage::MOUNT));
        return Ok(());
    };
    if data.kind != "ext4" {
        report.wrong(format!("`{}` is `{}`, not ext4", storage::MOUNT, data.kind));
    }
    if data.has("ro") {
        report.wrong(format!("`{}` cannot be written: the kernel met errors on it", storage::MOUNT));
    }
    for (target, inside) in [("/var", "/var"), ("/root", "/root")] {
        let mount = mounts::at(&card.tree, target)?;
        if mount.is_none_or(|mount| mount.device != data.device || mount.inside.to_str() != Some(inside)) {
            report.wrong(format!("`{target}` does not lie on the data partition"));
        }
    }
    let upper = format!("{}/etc/upper", storage::MOUNT);
    let etc = mounts::at(&card.tree, "/etc")?;
    if etc.is_none_or(|etc| etc.kind != "overlay" || etc.option("upperdir") != Some(upper.as_str())) {
        report.wrong("changes of `/etc` do not lie on the data partition");
    }
    if fresh::is_fresh(&card.tree) {
        let why = "a factory reset was asked for, or its first start has not settled";
        report.found(format!("all that the card keeps is removed at its next start: {why}"));
    }
    if report.wrong.is_empty() {
        report.found(format!("`{}` is mounted, with `/etc`, `/var` and `/root` on it", data.source));
    }
    Ok(())
}

/// The data partition reaches to the end of the disk, and is not full.
pub(super) fn look_at_space(card: &Card, _: &Ask, report: &mut Report) -> Result<()> {
    /// What logs, pods and an update's account take before anybody looks: 64 MiB, as uploads leave free.
    const SPARE: u64 = 64;
    const SECTOR: u64 = 512;
    // What alignment and the second partition table take.
    const SLACK: u64 = 4 << 20;
    let partition = storage::data_partition(&card.tree)?;
    let disk = format!("/sys/class/block/{}", partition.disk);
    let own = format!("/sys/class/block/{}", partition.name);
    let end =
        card.tree.number(format!("{own}/start"))?.saturating_add(card.tree.number(format!("{own}/size"))?);
    let behind = card.tree.number(format!("{disk}/size"))?.saturating_sub(end).saturating_mul(SECTOR);
    if behind > SLACK {
        report.wrong(format!("{} MiB behind `{}` are not used", behind >> 20, partition.node()));
    } else {
        report.found(format!("`{}` reaches to the end of the disk", partition.node()));
    }
    let said = card.programs.read("df", &["--output=avail", "--block-size=1M", storage::MOUNT])?;
    let free = said.lines().last().and_then(|line| line.trim().parse::<u64>().ok());
    let free = free.with_context(|| format!("`df` says `{said}`"))?;
    if free < SPARE {
        report.wrong(format!("only {free} MiB of `{}` are free", storage::MOUNT));
    }
    Ok(())
}

/// Units that every card runs are up, and no unit failed.
pub(super) fn look_at_services(card: &Card, _: &Ask, report: &mut Report) -> Result<()> {
    let services: Vec<_> =
        SERVICES.iter().copied().chain(card.plan.octep.is_some().then_some(OCTEP_SERVICE)).collect();
    let arguments: Vec<_> =
        ["show", "--property=Id,ActiveState,SubState"].iter().chain(&services).copied().collect();
    let shown = card.programs.read("systemctl", &arguments)?;
    let states = unit_states(&shown);
    for unit in &services {
        match states.iter().find(|(id, ..)| id == unit) {
            Some((_, "active", _)) => {}
            Some((_, active, sub)) => report.wrong(format!("`{unit}` is {active} ({sub})")),
            None => report.wrong(format!("`{unit}` is not known to systemd")),
        }
    }
    let failed = card.programs.read("systemctl", &["list-units", "--failed", "--plain", "--no-legend"])?;
    for unit in failed.lines().filter_map(|line| line.split_whitespace().next()) {
        if !services.contains(&unit) {
            report.wrong(format!("`{unit}` failed"));
        }
    }
    if report.wrong.is_empty() {
        report.found(format!("{} services are active, and no unit failed", services.len()));
    }
    Ok(())
}

/// Id, active state and sub-state of the units that `systemctl show` printed, with an empty line
/// between two of them.
fn unit_states(shown: &str) -> Vec<(&str, &str, &str)> {
    fn property<'a>(block: &'a str, name: &str) -> Option<&'a str> {
        block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
    shown
        .split("\n\n")
        .filter_map(|block| {
            Some((property(block, "Id")?, property(block, "ActiveState")?, property(block, "SubState")?))
        })
        .collect()
}

/// The firewall drops what it does not know, and lets the host ask the agent.
pub(super) fn look_at_firewall(card: &Card, _: &Ask, report: &mut Report) -> Result<()> {
    let listing = card.programs.read("nft", &["--numeric", "list", "chain", "inet", "dpukit", "input"]);
    let chain = match listing {
        Ok(chain) => chain,
        Err(error) if format!("{error:#}").contains("No such file or directory") => {
            report.wrong("the firewall is not loaded: all ports are open");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if !chain.contains("policy drop") {
        report.wrong("the firewall lets in what it does not know");
    }
    let (group, port) = (card.plan.link.group.to_string(), card.plan.agent.port.to_string());
    let lets_in = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let pair = |first: &str, second: &str| words.windows(2).any(|pair| pair == [first, second]);
        pair("iifgroup", &group) && pair("dport", &port) && words.contains(&"accept")
    };
    if chain.lines().any(lets_in) {
        report.found(format!("drops by default, port {port} is open to the link"));
    } else {
        report.wrong(format!(
            "the firewall keeps the host from the agent's port {port} (interface group {group})"
        ));
    }
    Ok(())
}

/// The agent answers, and says that the card serves.
#[allow(clippy::unnecessary_wraps, reason = "one signature for all checks")]
pub(super) fn look_at_agent(card: &Card, ask: &Ask, report: &mut Report) -> Result<()> {
    let address = serve::address(card);
    match ask(address, "") {
        Ok(true) => report.found(format!("`{address}` answers that the card serves")),
        Ok(false) => report.wrong(format!("`{address}` answers that the card does not serve")),
        Err(error) => report.wrong(format!("{error:#}")),
    }
    Ok(())
}

/// Pods can be connected: settings, state and VFs are good, and the agent says so too.
pub(super) fn look_at_pods(card: &Card, ask: &Ask, report: &mut Report) -> Result<()> {
    pods::check::look(card, report)?;
    if report.state() != State::Good {
        return Ok(());
    }
    match ask(serve::address(card), dpu_api::cni_action_server::SERVICE_NAME) {
        Ok(true) => report.found("the agent connects pods"),
        Ok(false) => report.wrong("the agent says that it cannot connect pods now"),
        Err(error) => report.wrong(format!("{error:#}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::examine;
    use crate::doctor::tests::{healthy, only_wrong, serving};

    #[test]
    fn a_root_without_verity_is_found_out() {
        let fake = healthy();
        fake.answer("dmsetup status", "0 200000 linear\n");
        assert_eq!(only_wrong(&fake, &serving).1, ["`root` is a mapped device, but not one of dm-verity"]);
        fake.remove("/sys/devices/virtual/block/dm-0/dm/name");
        let (name, wrong) = only_wrong(&fake, &serving);
        assert_eq!((name, wrong[0].contains("no mapped device")), ("root", true));
    }

    #[test]
    fn a_root_that_can_be_written_is_found_out() {
        let fake = healthy();
        fake.unmounted("/");
        fake.mounted("22 1 254:0 / / rw - ext4 /dev/root rw");
        assert_eq!(only_wrong(&fake, &serving), ("root", vec!["the root can be written".to_owned()]));
    }

    #[test]
    fn a_data_partition_that_is_full_is_a_warning() {
        let fake = healthy();
        fake.answer("df", "Avail\n  63\n");
        assert_eq!(
            only_wrong(&fake, &serving),
            ("space", vec!["only 63 MiB of `/data` are free".to_owned()])
        );
        for nonsense in ["", "Avail\n", "Avail\n -1\n"] {
            fake.answer("df", nonsense);
            assert_eq!(examine(&fake.card(), &serving).exit_code(), 3, "{nonsense}");
        }
    }

    #[test]
    fn without_dmsetup_the_command_line_tells_of_verity() {
        let fake = healthy();
        fake.without("dmsetup");
        assert_eq!(only_wrong(&fake, &serving).0, "root");
        fake.file("/proc/cmdline", "dm-mod.create=\"root,,,ro,0 200 verity 1 254:2 254:2 4096\" ro");
        assert!(examine(&fake.card(), &serving).good);
    }

    #[test]
    fn parts_that_do_not_lie_on_the_data_partition_are_named() {
        for (target, says) in [
            ("/var", "`/var` does not lie on the data partition"),
            ("/root", "`/root` does not lie on the data partition"),
            ("/etc", "changes of `/etc` do not lie on the data partition"),
        ] {
            let fake = healthy();
            fake.unmounted(target);
            assert_eq!(only_wrong(&fake, &serving), ("data", vec![says.to_owned()]));
        }
    }

    #[test]
    fn a_data_partition_that_the_kernel_stopped_writing_is_found_out() {
        let fake = healthy();
        fake.unmounted("/data");
        fake.mounted("30 22 254:5 / /data ro - ext4 /dev/vda5 ro");
        let says = "`/data` cannot be written: the kernel met errors on it";
        assert_eq!(only_wrong(&fake, &serving), ("data", vec![says.to_owned()]));
    }

    #[test]
    fn a_factory_reset_that_waits_for_the_next_start_is_told() {
        let fake = healthy();
        fake.folder("/data");
        fresh::ask(&fake.card().tree).unwrap();
        let diagnosis = examine(&fake.card(), &serving);
        assert!(diagnosis.good);
        assert!(
            diagnosis.text().contains("removed at its next start: a factory reset"),
            "{}",
            diagnosis.text()
        );
    }

    #[test]
    fn space_behind_the_data_partition_is_a_warning() {
        let fake = healthy();
        fake.file("/sys/class/block/vda/size", "8388608");
        let says = "2049 MiB behind `/dev/vda5` are not used";
        assert_eq!(only_wrong(&fake, &serving), ("space", vec![says.to_owned()]));
        assert!(examine(&fake.card(), &serving).text().contains("warning  space"));
    }

    #[test]
    fn units_that_are_down_failed_or_unknown_are_named() {
        let fake = healthy();
        let units = SERVICES[1..].iter().map(|unit| match *unit {
            "ssh.service" => format!("Id={unit}\nActiveState=inactive\nSubState=dead\n"),
            unit => format!("SubState=running\nActiveState=active\nId={unit}\n"),
        });
        fake.answer("systemctl show", &units.collect::<Vec<_>>().join("\n"));
        fake.answer("systemctl list-units", "other.service loaded failed failed Some other\n");
        assert_eq!(
            only_wrong(&fake, &serving).1,
            [
                "`dpu-setup.service` is not known to systemd",
                "`ssh.service` is inactive (dead)",
                "`other.service` failed"
            ]
        );
    }

    #[test]
    fn a_firewall_that_is_open_or_shuts_the_host_out_is_found_out() {
        let fake = healthy();
        fake.answer("nft --numeric list chain", "policy accept;\niifgroup 78 tcp dport 8000 accept\n");
        assert_eq!(
            only_wrong(&fake, &serving).1,
            [
                "the firewall lets in what it does not know",
                "the firewall keeps the host from the agent's port 8000 (interface group 77)"
            ]
        );
    }

    #[test]
    fn an_agent_that_says_no_is_told_apart_from_one_that_says_nothing() {
        let fake = healthy();
        let says = "`192.168.1.1:8000` answers that the card does not serve";
        assert_eq!(
            only_wrong(&fake, &|_, service| Ok(!service.is_empty())),
            ("agent", vec![says.to_owned()])
        );
        assert_eq!(
            only_wrong(&fake, &|_, service| if service.is_empty() {
                anyhow::bail!("nobody")
            } else {
                Ok(true)
            }),
            ("agent", vec!["nobody".to_owned()])
        );
    }
}
