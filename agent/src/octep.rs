//! Runs `octep_cp_agent`, which answers the firmware for the card's end of SDP, as systemd wants a service run.
//!
//! Its devices are found by their ids at each start; which of them it is given, and how, the image says for the
//! firmware that it was built for. On a card that is known to run other firmware it is not started. It is ready when it says so: the plan's `ready` in a line of
//! its output, all of which goes on to the journal.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use dpu_plan::{Octep, Start, Word};

use crate::setup::{VFIO_DRIVER, vfio_devices};
use crate::{Card, firmware};

/// The longest piece of output that is looked at as one line.
const LONGEST: u64 = 8192;

/// Runs it to its end; `ready` is called once, when it says that it is ready.
///
/// # Errors
/// The card runs other firmware, a device is missing or not on `vfio-pci`, it can't be started, or it ends other
/// than well.
pub fn run(card: &Card, out: &mut impl Write, ready: impl FnOnce()) -> Result<()> {
    let octep = card.plan.octep.as_ref().context("the board's plan has no `octep`: its card needs none")?;
    let name = octep.program.display();
    firmware::refuse_other(card)?;
    let start = octep
        .start
        .as_ref()
        .context("the image was built for no firmware: how it is started is not known")?;
    if let Start::Module(module) = start {
        card.programs.run("modprobe", &[module])?;
    }
    let (output, mut child) = {
        let (reader, writer) = io::pipe().context("making a pipe")?;
        // Into a pipe the C library prints only what fills a buffer: stdbuf(1) has it print each line.
        let mut command = Command::new("stdbuf");
        command.args(["--output=L", "--error=L"]).arg(&octep.program).args(arguments(card, octep, start)?);
        let started = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn();
        (reader, started.with_context(|| format!("starting `{name}`"))?)
        // Here the pipe's other end is closed in this process, so that it ends with the program.
    };
    pass_on(output, out, &octep.ready, ready).with_context(|| format!("reading what `{name}` says"))?;
    let status = child.wait()?;
    if !status.success() {
        bail!("`{name}` ended with {status}");
    }
    Ok(())
}

/// `CONFIG -- --dpi_dev 0000:06:00.0 --pem_dev 0001:00:10.0`: the configuration, and what it is given.
fn arguments(card: &Card, octep: &Octep, start: &Start) -> Result<Vec<String>> {
    let mut given = start
        .words()
        .map(|word| match word {
            Word::Plain(word) => Ok(word.to_owned()),
            Word::Devices(name) => Ok(addresses(card, octep, name)?.join(",")),
        })
        .collect::<Result<Vec<_>>>()?;
    if !given.is_empty() {
        given.insert(0, "--".to_owned());
    }
    given.insert(0, octep.config.display().to_string());
    Ok(given)
}

/// The addresses of the devices of a name, all of them on `vfio-pci`.
fn addresses(card: &Card, octep: &Octep, name: &str) -> Result<Vec<String>> {
    let plan = octep.devices.iter().find(|device| device.name == name);
    let plan = plan.with_context(|| format!("the plan's `octep.devices` has no `{name}`"))?;
    let devices = vfio_devices(card, plan)?;
    if devices.is_empty() {
        bail!(
            "there is no device `{name}` with the id `{}`: the card's firmware is of another SDK than the image",
            plan.id
        );
    }
    for device in &devices {
        let driver = device.driver(&card.tree)?;
        if driver.as_deref() != Some(VFIO_DRIVER) {
            bail!(
                "`{name}` (`{}`) is on {}, not on `{VFIO_DRIVER}`: `dpu-agent setup --phase vfio` says why",
                device.address,
                driver.map_or_else(|| "no driver".to_owned(), |driver| format!("`{driver}`"))
            );
        }
    }
    Ok(devices.into_iter().map(|device| device.address).collect())
}

/// Writes what is read to `out`, line by line, and calls `ready` after the first line that holds `mark`.
fn pass_on(from: impl Read, out: &mut impl Write, mark: &str, ready: impl FnOnce()) -> Result<()> {
    let (mut from, mut ready) = (BufReader::new(from), Some(ready));
    let mut line = Vec::new();
    loop {
        line.clear();
        if from.by_ref().take(LONGEST).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        writeln!(out, "{}", text.trim_end())?;
        if text.contains(mark)
            && let Some(ready) = ready.take()
        {
            ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;
    use crate::fake::{self, Fake};
    use crate::setup;

    /// A card whose devices are bound, and a program in the place of `octep_cp_agent`.
    fn card(script: &str) -> (tempfile::TempDir, Fake) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("octep_cp_agent");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut fake = fake::cn106();
        fake.plan.octep.as_mut().unwrap().program = program;
        setup::run(&fake.card(), setup::phase("vfio").unwrap());
        (folder, fake)
    }

    /// What it said, how often it was ready, and how it ended.
    fn run_once(fake: &Fake) -> (String, u32, Result<()>) {
        let (mut out, ready) = (Vec::new(), Cell::new(0));
        let end = run(&fake.card(), &mut out, || ready.set(ready.get() + 1));
        (String::from_utf8(out).unwrap(), ready.get(), end)
    }

    #[test]
    fn it_gets_its_devices_and_is_ready_once_when_it_says_so() {
        let (_folder, fake) = card("echo $*; echo fw ready 0; echo 'app: fw ready 1' >&2; echo fw ready 1");
        let (said, ready, end) = run_once(&fake);
        assert_eq!(
            said,
            "/usr/lib/dpukit/octep/cn106xx.cfg -- --dpi_dev 0000:06:00.0 --pem_dev 0001:00:10.0\nfw ready 0\n\
             app: fw ready 1\nfw ready 1\n"
        );
        assert_eq!(ready, 1);
        end.unwrap();
    }

    #[test]
    fn newer_firmware_has_it_given_other_devices() {
        let (_folder, mut fake) = card("echo $*");
        for (address, id) in [("0002:01:00.4", "177d:a0ef"), ("0002:01:00.5", "177d:a0ef")] {
            fake.device(address, id);
        }
        fake.plan.octep.as_mut().unwrap().start =
            Some(Start::Arguments("--sdp_rvu_pf {sdp-rvu-pf} --pem_dev {pem}".into()));
        setup::run(&fake.card(), setup::phase("vfio").unwrap());
        let (said, ..) = run_once(&fake);
        let says = "cn106xx.cfg -- --sdp_rvu_pf 0002:01:00.4,0002:01:00.5 --pem_dev 0001:00:10.0\n";
        assert!(said.ends_with(says), "{said}");
    }

    #[test]
    fn for_older_firmware_a_module_of_the_kernel_has_the_devices() {
        let (_folder, mut fake) = card("echo $*");
        fake.plan.octep.as_mut().unwrap().start = Some(Start::Module("pcie_marvell_cnxk_ep".into()));
        fake.forget();
        let (said, ..) = run_once(&fake);
        assert_eq!(said, "/usr/lib/dpukit/octep/cn106xx.cfg\n");
        assert_eq!(fake.ran(), ["modprobe pcie_marvell_cnxk_ep"]);
    }

    #[test]
    fn it_is_not_started_on_other_firmware_or_for_none() {
        let (_folder, mut fake) = card("echo started");
        fake.file(dpu_plan::VERSIONS, "[versions]\nfirmware = \"12.25.01\"\n");
        fake.file("/sys/class/dmi/id/bios_version", "SDK12.25.06\n");
        let (said, ready, end) = run_once(&fake);
        let error = end.unwrap_err().to_string();
        assert!(error.starts_with("the card runs SDK 12.25.06 (`/sys/class/dmi"), "{error}");
        assert_eq!((said.as_str(), ready), ("", 0));
        fake.remove(dpu_plan::VERSIONS);
        fake.plan.octep.as_mut().unwrap().start = None;
        let (said, _, end) = run_once(&fake);
        assert!(end.unwrap_err().to_string().contains("built for no firmware"), "{said}");
    }

    #[test]
    fn an_end_that_is_none_is_told() {
        let (_folder, fake) = card("echo cannot map BAR; exit 3");
        let (said, ready, end) = run_once(&fake);
        assert_eq!((said.as_str(), ready), ("cannot map BAR\n", 0));
        let error = end.unwrap_err().to_string();
        assert!(error.ends_with("octep_cp_agent` ended with exit status: 3"), "{error}");
    }

    #[test]
    fn several_devices_of_an_option_are_parted_by_commas() {
        let (_folder, mut fake) = card("echo $*");
        fake.device("0000:06:00.1", "177d:a080");
        fake.plan.octep.as_mut().unwrap().devices[0].count = None;
        setup::run(&fake.card(), setup::phase("vfio").unwrap());
        let (said, ..) = run_once(&fake);
        assert!(said.contains("--dpi_dev 0000:06:00.0,0000:06:00.1 --pem_dev"), "{said}");
    }

    #[test]
    fn without_its_devices_it_is_not_started() {
        let (_folder, mut fake) = card("echo started");
        fake.bind("0001:00:10.0", None);
        let (said, _, end) = run_once(&fake);
        assert_eq!(
            end.unwrap_err().to_string(),
            "`pem` (`0001:00:10.0`) is on no driver, not on `vfio-pci`: `dpu-agent setup --phase vfio` says why"
        );
        fake.plan.octep.as_mut().unwrap().devices[1].id = "177d:a06d".parse().unwrap();
        let (more, _, end) = run_once(&fake);
        assert_eq!(
            end.unwrap_err().to_string(),
            "there is no device `pem` with the id `177d:a06d`: the card's firmware is of another SDK than the image"
        );
        assert_eq!(said + &more, "");
    }

    proptest! {
        #[test]
        fn whatever_is_said_is_passed_on(said in prop::collection::vec(any::<u8>(), 0..20_000)) {
            let mut out = Vec::new();
            pass_on(said.as_slice(), &mut out, "fw ready 1", || ()).unwrap();
            prop_assert!(String::from_utf8(out).is_ok());
        }
    }
}
