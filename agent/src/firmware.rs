//! Which firmware the card runs, as far as it tells, and whether the image was built for it.
//!
//! Firmware and `octep_cp_agent` speak one protocol that changes from SDK to SDK (`image/rules.toml`). No interface
//! of the vendor's is known that tells the SDK, so it is looked for in the texts by which firmware names itself;
//! whether the vendor's builds name their SDK there, as they do in the names of their files, has not been seen on a
//! card yet.

use anyhow::{Context as _, Result, bail};
use dpu_plan::{VERSIONS, Versions};

use crate::Card;
use crate::report::Report;

/// Where firmware names itself. U-Boot writes its version into the device tree that it hands over (`fdt_chosen` in
/// its `boot/fdt_support.c`); the other boot chain of these cards, UEFI, tells it through DMI.
const PLACES: [&str; 2] =
    ["/sys/firmware/devicetree/base/chosen/u-boot,version", "/sys/class/dmi/id/bios_version"];

/// What the card tells of its firmware.
#[derive(Debug, PartialEq, Eq)]
enum Running {
    /// The SDK's version, and where it was read.
    Known { version: String, place: &'static str },
    /// Why nothing is known.
    Unknown(String),
}

/// The firmware is what the image was built for.
pub fn look(card: &Card, report: &mut Report) -> Result<()> {
    let Some(wanted) = wanted(card)? else {
        report.absent("the image was built for no firmware in particular");
        return Ok(());
    };
    match running(card)? {
        Running::Known { version, place } if is_same(&version, &wanted) => {
            report.found(format!("the card runs SDK {version} (`{place}`), as the image wants"));
        }
        Running::Known { version, place } => {
            report.wrong(format!(
                "the card runs SDK {version} (`{place}`), and the image was built for SDK {wanted}"
            ));
        }
        Running::Unknown(why) => report.unknown.push(format!("the image was built for SDK {wanted}: {why}")),
    }
    Ok(())
}

/// Fails where the card is known to run other firmware than the image was built for.
pub fn refuse_other(card: &Card) -> Result<()> {
    let mut report = Report::default();
    look(card, &mut report)?;
    if report.wrong.is_empty() {
        return Ok(());
    }
    bail!("{}: `dpu-agent doctor` names the mend", report.wrong.join("; "))
}

/// The firmware that the image was built for.
fn wanted(card: &Card) -> Result<Option<String>> {
    let Some(text) = card.tree.read_if(VERSIONS)? else { return Ok(None) };
    let versions: Versions = text.parse().with_context(|| format!("reading `{VERSIONS}`"))?;
    Ok(versions.versions.get("firmware").cloned())
}

fn running(card: &Card) -> Result<Running> {
    let mut said = Vec::new();
    for place in PLACES {
        let Some(text) = card.tree.read_if(place)? else { continue };
        let text = text.trim_matches(['\0', ' ']).to_owned();
        if let Some(version) = sdk_in(&text) {
            return Ok(Running::Known { version: version.to_owned(), place });
        }
        said.push(format!("`{place}` is `{}`, which names no SDK", text.escape_debug()));
    }
    Ok(Running::Unknown(if said.is_empty() {
        format!("there is neither {}", PLACES.map(|place| format!("`{place}`")).join(" nor "))
    } else {
        said.join("; ")
    }))
}

/// The version behind `SDK`, as the vendor's files have it in their names: `…-SDK12.25.01…`.
fn sdk_in(text: &str) -> Option<&str> {
    text.match_indices("SDK").find_map(|(at, word)| {
        let rest = text[at + word.len()..].trim_start_matches(['-', '_', ' ']);
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let version = rest[..end].trim_end_matches('.');
        (version.split('.').filter(|part| !part.is_empty()).count() >= 3).then_some(version)
    })
}

/// Whether two versions have the same numbers, however many zeroes stand before one.
fn is_same(one: &str, other: &str) -> bool {
    let numbers = |text: &str| text.split('.').map(|part| part.trim_start_matches('0').to_owned()).collect();
    let (one, other): (Vec<_>, Vec<_>) = (numbers(one), numbers(other));
    one == other
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fake::{self, Fake};

    fn built_for(version: &str) -> Fake {
        let fake = fake::cn106();
        fake.file(
            VERSIONS,
            &format!("# What it is.\n[versions]\nfirmware = {version:?}\nkernel = \"6.1.67\"\n"),
        );
        fake
    }

    fn looked(fake: &Fake) -> String {
        let mut report = Report::default();
        report.look(|report| look(&fake.card(), report));
        report.lines().trim().to_owned()
    }

    #[test]
    fn an_image_for_no_firmware_asks_for_none() {
        assert_eq!(looked(&fake::virt()), "absent  the image was built for no firmware in particular");
    }

    #[test]
    fn firmware_is_read_where_it_names_itself() {
        let fake = built_for("12.25.01");
        assert!(looked(&fake).starts_with("unknown the image was built for SDK 12.25.01: there is neither"));
        fake.file(PLACES[1], "edk2-stable\n");
        fake.file(PLACES[0], "U-Boot 2023.04-dirty\0");
        assert!(looked(&fake).contains("`U-Boot 2023.04-dirty`, which names no SDK; "), "{}", looked(&fake));
        refuse_other(&fake.card()).unwrap();
        fake.file(PLACES[1], "SDK12.25.1\n");
        assert!(looked(&fake).starts_with("found   the card runs SDK 12.25.1 (`/sys/class/dmi"));
        fake.file(PLACES[0], "2023.04-SDK-12.25.03.\0");
        assert_eq!(
            looked(&fake),
            "wrong   the card runs SDK 12.25.03 (`/sys/firmware/devicetree/base/chosen/u-boot,version`), and the \
             image was built for SDK 12.25.01"
        );
        let error = refuse_other(&fake.card()).unwrap_err().to_string();
        assert!(error.ends_with("SDK 12.25.01: `dpu-agent doctor` names the mend"), "{error}");
    }

    #[test]
    fn a_damaged_list_of_versions_is_not_taken_for_none() {
        let fake = built_for("12.25.01");
        fake.file(VERSIONS, "versions = 3\n");
        assert!(
            looked(&fake).starts_with("unknown reading `/usr/lib/dpukit/versions.toml`"),
            "{}",
            looked(&fake)
        );
        assert!(refuse_other(&fake.card()).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,20}(SDK)?\\PC{0,20}") {
            let _ = sdk_in(&text);
        }
    }
}
