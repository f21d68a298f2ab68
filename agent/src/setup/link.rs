//! The link to the host: one VF's interface, with its address and its group.
//!
//! The group is how the firewall knows the link; interfaces' names come and go.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::interfaces;
use crate::Card;
use crate::pci::{self, Device};
use crate::report::Report;

pub fn apply(card: &Card, report: &mut Report) -> Result<()> {
    let device = find(card)?;
    interfaces::interface(card, &device)?;
    interfaces::settle(card);
    let name = interfaces::interface(card, &device)?;
    report.found(format!("the link is `{name}` (`{}`)", device.address));
    set_group(card, &device, &name, report)?;
    bring_up(card, &device, &name, report)?;
    set_address(card, &name, report)?;
    negotiate(card, &device, &name, report)
}

pub fn check(card: &Card, report: &mut Report) -> Result<()> {
    let (device, name) = match find(card).and_then(|device| Ok((device.interface(&card.tree)?, device))) {
        Ok((Some(name), device)) => (device, name),
        Ok((None, device)) => {
            report.wrong(format!("the link `{}` has no interface", device.address));
            return Ok(());
        }
        Err(error) => {
            report.wrong(format!("{error:#}"));
            return Ok(());
        }
    };
    let plan = &card.plan.link;
    let mut expect =
        |good: bool, yes: String, no: String| if good { report.found(yes) } else { report.wrong(no) };
    let group = group(card, &device, &name)?;
    expect(
        group == u64::from(plan.group.get()),
        format!("`{name}` is in group {group}"),
        format!("`{name}` is in group {group}, not {}: the firewall does not know the link", plan.group),
    );
    expect(interfaces::is_up(card, &device, &name)?, format!("`{name}` is up"), format!("`{name}` is down"));
    expect(
        has_address(card, &name)?,
        format!("`{name}` has {}", plan.address),
        format!("`{name}` lacks its address {}", plan.address),
    );
    Ok(())
}

/// The device that is the link.
pub fn find(card: &Card) -> Result<Device> {
    let plan = &card.plan.link;
    let mut devices = pci::devices(&card.tree, plan.id)?;
    let count = devices.len();
    if count <= usize::from(plan.index) {
        bail!("there is no VF {} to be the link: {count} devices have the id `{}`", plan.index, plan.id);
    }
    Ok(devices.swap_remove(plan.index.into()))
}

fn group(card: &Card, device: &Device, name: &str) -> Result<u64> {
    card.tree.number(device.path(&format!("net/{name}/netdev_group")))
}

fn set_group(card: &Card, device: &Device, name: &str, report: &mut Report) -> Result<()> {
    let wanted = card.plan.link.group;
    if group(card, device, name)? == u64::from(wanted.get()) {
        report.found(format!("`{name}` is in group {wanted}"));
        return Ok(());
    }
    card.programs.run("ip", &["link", "set", "dev", name, "group", &wanted.to_string()])?;
    report.did(format!("put `{name}` into group {wanted}"));
    Ok(())
}

fn bring_up(card: &Card, device: &Device, name: &str, report: &mut Report) -> Result<()> {
    if interfaces::is_up(card, device, name)? {
        report.found(format!("`{name}` is up"));
        return Ok(());
    }
    card.programs.run("ip", &["link", "set", "dev", name, "up"])?;
    report.did(format!("brought up `{name}`"));
    Ok(())
}

/// Lets a link negotiate anew that stays without a carrier. One of igb's VFs that misses its PF's word
/// that there is a link asks again after ten seconds only (`igbvf_has_link` in the kernel's
/// drivers/net/ethernet/intel/igbvf/netdev.c), and at once when told to. Where the host is not up, or
/// the driver can't, nothing changes.
fn negotiate(card: &Card, device: &Device, name: &str, report: &mut Report) -> Result<()> {
    const PATIENCE: Duration = Duration::from_millis(800);
    let path = device.path(&format!("net/{name}/carrier"));
    let carrier = || Ok(card.tree.read_if(&path)?.filter(|text| text != "0").map(drop));
    if !card.tree.exists(&path) || card.wait_at_most(PATIENCE, carrier)?.is_some() {
        return Ok(());
    }
    match card.programs.run("ethtool", &["--negotiate", name]) {
        Ok(()) => report.did(format!("let `{name}` negotiate its link anew")),
        Err(error) => tracing::debug!("`{name}` has no carrier: {error:#}"),
    }
    Ok(())
}

fn set_address(card: &Card, name: &str, report: &mut Report) -> Result<()> {
    let address = card.plan.link.address;
    if has_address(card, name)? {
        report.found(format!("`{name}` has {address}"));
        return Ok(());
    }
    card.programs.run("ip", &["address", "replace", &address.to_string(), "dev", name])?;
    report.did(format!("gave `{name}` the address {address}"));
    Ok(())
}

/// What `ip -json address show` prints, as far as it matters here.
#[derive(Deserialize)]
struct Shown {
    #[serde(default)]
    addr_info: Vec<ShownAddress>,
}

#[derive(Deserialize)]
struct ShownAddress {
    local: Option<IpAddr>,
    prefixlen: Option<u8>,
}

fn has_address(card: &Card, name: &str) -> Result<bool> {
    let text = card.programs.read("ip", &["-json", "address", "show", "dev", name])?;
    let wanted = card.plan.link.address;
    Ok(addresses(&text)?.contains(&(wanted.address(), wanted.prefix())))
}

fn addresses(json: &str) -> Result<Vec<(IpAddr, u8)>> {
    let shown: Vec<Shown> = serde_json::from_str(json)
        .context("`ip -json address show` printed something else than addresses")?;
    let all = shown.into_iter().flat_map(|interface| interface.addr_info);
    Ok(all.filter_map(|address| address.local.zip(address.prefixlen)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::addresses;
    use crate::fake;
    use crate::report::State;
    use crate::setup::{Phase, check, phase, run};

    fn link() -> &'static Phase {
        phase("link").unwrap()
    }

    #[test]
    fn the_first_sdp_vf_gets_group_and_address() {
        let fake = fake::cn106();
        let record = run(&fake.card(), link());
        assert_eq!(record.state, State::Good, "{}", record.text());
        assert_eq!(
            fake.ran(),
            [
                "udevadm settle --timeout=20",
                "ip link set dev sdp1 group 77",
                "ip link set dev sdp1 up",
                "ip -json address show dev sdp1",
                "ip address replace 192.168.1.1/24 dev sdp1"
            ]
        );
        assert!(check(&fake.card(), link()).is_good());
    }

    #[test]
    fn a_link_without_a_carrier_negotiates_anew() {
        for (carrier, ran) in [("0\n", true), ("1\n", false)] {
            let fake = fake::cn106();
            let device = super::find(&fake.card()).unwrap();
            fake.idle("ethtool");
            fake.file(&device.path("net/sdp1/carrier"), carrier);
            let record = run(&fake.card(), link());
            assert_eq!(record.state, State::Good, "{}", record.text());
            assert_eq!(fake.ran().contains(&"ethtool --negotiate sdp1".to_owned()), ran);
        }
    }

    #[test]
    fn a_link_that_is_not_there_is_told_with_numbers() {
        let mut fake = fake::cn106();
        fake.plan.link.index = 7;
        let says = "there is no VF 7 to be the link: 3 devices have the id `177d:a0f7`";
        assert_eq!(run(&fake.card(), link()).report.wrong, [says]);
        assert_eq!(check(&fake.card(), link()).wrong, [says]);
    }

    #[test]
    fn each_thing_that_is_amiss_is_named() {
        let fake = fake::cn106();
        let report = check(&fake.card(), link());
        assert_eq!(
            report.wrong,
            [
                "`sdp1` is in group 0, not 77: the firewall does not know the link",
                "`sdp1` is down",
                "`sdp1` lacks its address 192.168.1.1/24"
            ]
        );
    }

    #[test]
    fn a_link_without_an_interface_is_told() {
        let fake = fake::cn106();
        fake.remove("/sys/bus/pci/devices/0002:01:00.1/net");
        let record = run(&fake.card(), link());
        assert_eq!(
            record.report.wrong,
            ["`0002:01:00.1` has no interface, although it is on the driver `rvu_nicvf`"]
        );
        assert_eq!(check(&fake.card(), link()).wrong, ["the link `0002:01:00.1` has no interface"]);
    }

    #[test]
    fn an_address_that_is_refused_is_told_with_what_ip_said() {
        let fake = fake::cn106();
        fake.fail("ip", "RTNETLINK answers: Operation not permitted");
        let record = run(&fake.card(), link());
        assert!(record.report.wrong[0].contains("Operation not permitted"), "{}", record.text());
    }

    #[test]
    fn what_ip_prints_is_read_and_the_rest_ignored() {
        let json = r#"[{},{"ifindex":2,"flags":["UP"],"addr_info":[{"family":"inet","local":"192.168.1.1",
            "prefixlen":24,"label":"eth0"},{"family":"inet6","local":"fe80::1","prefixlen":64},{"index":4}]}]"#;
        let all = addresses(json).unwrap();
        assert_eq!(all, [("192.168.1.1".parse().unwrap(), 24), ("fe80::1".parse().unwrap(), 64)]);
        assert!(addresses("not JSON").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,60}") {
            let _ = addresses(&text);
        }
    }
}
