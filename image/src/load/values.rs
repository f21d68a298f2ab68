//! Checks of single values: each says why a text is refused and what to write instead.

use std::net::Ipv4Addr;
use std::path::{Component as Part, Path, PathBuf};

use dpu_plan::PciId;
use globset::GlobBuilder;

use super::reader::Wrong;
use crate::debian::version::Version;

/// Sizes above are typing errors: no disk or memory of a card comes near.
const LARGEST: u64 = 16 << 40;

type Checked<T> = Result<T, Wrong>;

/// Any text but an empty one, in one line.
pub fn line(text: &str) -> Checked<String> {
    if text.trim().is_empty() {
        return Err(Wrong::new("the text is empty"));
    }
    if text.chars().any(char::is_control) {
        return Err(Wrong::new("the text has a line break or another control character"));
    }
    Ok(text.to_owned())
}

/// Whether a text is a name for files, tables and parts: letters, digits, and `.`, `+`, `-`, `_` inside.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-_".contains(&byte))
}

/// A name; `what` says of what.
pub fn name(what: &str) -> impl Fn(&str) -> Checked<String> {
    move |text| {
        if is_name(text) {
            return Ok(text.to_owned());
        }
        Err(Wrong::new(format!("`{}` is not the name of {what}", text.escape_debug()))
            .hint("a name has letters, digits, `.`, `+`, `-` and `_`, and begins with a letter or a digit"))
    }
}

/// A size with a binary unit, in whole MiB: bytes.
pub fn size(text: &str) -> Checked<u64> {
    let (digits, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let wrong = || Wrong::new(format!("`{}` is not a size", text.escape_debug()));
    let shift = match unit.trim() {
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        "KiB" | "B" if !digits.is_empty() => {
            return Err(wrong().hint("sizes are multiples of 1 MiB: write a number and `MiB` or `GiB`"));
        }
        _ => return Err(wrong().hint(meant_size(digits, unit.trim()))),
    };
    if unit.len() != 3 || digits.is_empty() {
        return Err(wrong().hint("write it without spaces, as `64MiB`"));
    }
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    match bytes {
        Some(0) => Err(Wrong::new(format!("`{text}` is no size: it is zero"))),
        Some(bytes) if bytes <= LARGEST => Ok(bytes),
        _ => {
            Err(Wrong::new(format!("`{text}` is more than any card has")).hint("the largest size is `16TiB`"))
        }
    }
}

fn meant_size(digits: &str, unit: &str) -> String {
    let letter = unit.chars().next().map(|letter| letter.to_ascii_uppercase());
    match letter {
        Some(letter @ ('M' | 'G' | 'T')) if !digits.is_empty() && unit.len() <= 3 => {
            format!("did you mean `{digits}{letter}iB`?")
        }
        _ => "write a number and `MiB` or `GiB`, as `64MiB`".into(),
    }
}

/// A path inside the checkout, or inside a root: relative, and not out of it.
pub fn relative(text: &str) -> Checked<PathBuf> {
    let plain = Path::new(text).components().all(|part| matches!(part, Part::Normal(_)));
    if plain && clean(text) {
        return Ok(text.into());
    }
    let wrong = Wrong::new(format!("`{}` is not a relative path", text.escape_debug()));
    Err(match text.trim_matches('/') {
        rest if plain_path(rest) => wrong.hint(format!("did you mean `{rest}`?")),
        _ => wrong.hint("write it as `usr/bin/sh`: without `.`, `..`, `//` or a slash at its ends"),
    })
}

/// A path in the card's root, from its top.
pub fn absolute(text: &str) -> Checked<String> {
    match text.strip_prefix('/') {
        Some(rest) if plain_path(rest) => Ok(text.to_owned()),
        _ => {
            let wrong = Wrong::new(format!("`{}` is not an absolute path", text.escape_debug()));
            Err(match text.trim_matches('/') {
                rest if plain_path(rest) => wrong.hint(format!("did you mean `/{rest}`?")),
                _ => wrong.hint("write it as `/usr/bin/sh`: without `.`, `..`, `//` or a slash at its end"),
            })
        }
    }
}

fn plain_path(text: &str) -> bool {
    clean(text) && Path::new(text).components().all(|part| matches!(part, Part::Normal(_)))
}

fn clean(text: &str) -> bool {
    let parts = || text.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    !text.chars().any(char::is_control) && parts()
}

/// What a symbolic link points to.
pub fn target(text: &str) -> Checked<()> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(Wrong::new("a link has to point to something").hint("write it as `mawk` or `../lib/x`"));
    }
    Ok(())
}

/// A glob from the top of the root, in which `*` crosses slashes.
pub fn glob(text: &str) -> Checked<String> {
    if text.starts_with('/') {
        let meant = text.trim_start_matches('/');
        return Err(Wrong::new(format!(
            "the pattern `{text}` begins with a slash, as no path in a package does"
        ))
        .hint(format!("did you mean `{meant}`?")));
    }
    if text.trim().is_empty() {
        return Err(Wrong::new("the pattern is empty"));
    }
    match GlobBuilder::new(text).literal_separator(false).build() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Wrong::new(format!("`{text}` is not a pattern: {}", error.kind()))),
    }
}

/// A commit's name, whole: a shortened one can become ambiguous.
pub fn commit(text: &str) -> Checked<String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if text.len() == 40 && digits {
        return Ok(text.to_owned());
    }
    let wrong = Wrong::new(format!("`{}` is not the whole name of a commit", text.escape_debug()));
    Err(wrong.hint("write all its 40 hexadecimal digits, as `git rev-parse` prints them"))
}

/// A version as Debian's are, so that they can be compared.
pub fn version(text: &str) -> Checked<String> {
    match Version::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Wrong::new(error.to_string())),
    }
}

/// Vendor and device of PCI devices.
pub fn pci(text: &str) -> Checked<PciId> {
    text.parse::<PciId>().map_err(|message| {
        let wrong = Wrong::new(message);
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let separated = text.len() <= 11 && digits.len() == 8;
        if separated {
            wrong.hint(format!("did you mean `{}:{}`?", &digits[..4], &digits[4..]))
        } else {
            wrong
        }
    })
}

/// An IPv4 address.
pub fn address(text: &str) -> Checked<Ipv4Addr> {
    text.parse().map_err(|_| {
        let wrong = Wrong::new(format!("`{}` is not an IPv4 address", text.escape_debug()));
        match text.split_once('/') {
            Some((address, _)) if address.parse::<Ipv4Addr>().is_ok() => {
                wrong.hint(format!("without the network's size: `{address}`"))
            }
            _ => wrong.hint("write it as `192.168.1.1`"),
        }
    })
}

/// A host name of one or more labels (RFC 1123).
pub fn host_name(text: &str) -> Checked<String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 64 && text.split('.').all(label) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("`{}` is not a host name", text.escape_debug()))
        .hint("it has lower-case letters, digits and hyphens, at most 64, and a hyphen at neither end"))
}

/// What a firewall lets in: `tcp/10250`, `udp/8472`, `tcp/9962-9964`, or a protocol without ports.
pub fn opening(text: &str) -> Checked<String> {
    let wrong = || Wrong::new(format!("`{}` is not what a firewall can open", text.escape_debug()));
    let example = "write protocol and port as `tcp/10250` or `udp/9962-9964`, or `esp`";
    if text == "esp" {
        return Ok(text.to_owned());
    }
    let Some((protocol, ports)) = text.split_once('/') else { return Err(wrong().hint(example)) };
    if !["tcp", "udp"].contains(&protocol) {
        let turned = ["tcp", "udp"].contains(&ports) && protocol.parse::<u16>().is_ok();
        return Err(wrong().hint(if turned {
            format!("did you mean `{ports}/{protocol}`?")
        } else {
            example.into()
        }));
    }
    let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
    match (port(low), port(high)) {
        (Some(low), Some(high)) if low <= high => Ok(text.to_owned()),
        (Some(low), Some(high)) => Err(wrong().hint(format!("did you mean `{protocol}/{high}-{low}`?"))),
        _ => Err(wrong().hint("ports are from 1 to 65535")),
    }
}

fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| digits)
}

/// The kernel's command line, as it can stand between quotes in U-Boot's script.
pub fn command_line(text: &str) -> Checked<String> {
    line(text)?;
    // arm64's COMMAND_LINE_SIZE is 2048; what the builder adds about the root takes some 500 of it.
    if text.len() > 1500 {
        return Err(Wrong::new(format!(
            "the line has {} letters, and the kernel takes 1500 of it",
            text.len()
        )));
    }
    if let Some(letter) = text.chars().find(|letter| !letter.is_ascii() || "\"'\\$;`".contains(*letter)) {
        return Err(Wrong::new(format!("U-Boot's script cannot hold the letter `{letter}`")));
    }
    let ours = ["root=", "dm-mod.create=", "rootwait", "ro", "rw"];
    let twice = text
        .split(' ')
        .find(|word| ours.iter().any(|key| word == key || key.ends_with('=') && word.starts_with(key)));
    if let Some(word) = text.split(' ').find(|word| word.contains("hugepages")) {
        return Err(Wrong::new(format!("`{word}` follows from `setup.huge-pages` and `kernel.pages`"))
            .hint(format!("leave `{word}` out")));
    }
    match twice {
        Some(word) => Err(Wrong::new(format!("`{word}` is the builder's to say, for it knows the root"))
            .hint(format!("leave `{word}` out"))),
        None => Ok(text.to_owned()),
    }
}

/// The address of one interface on Ethernet.
pub fn mac(text: &str) -> Checked<String> {
    let bytes: Option<Vec<_>> = text
        .split(':')
        .map(|byte| {
            let is_byte = byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
            is_byte.then(|| u8::from_str_radix(byte, 16).ok()).flatten()
        })
        .collect();
    match bytes.as_deref() {
        Some([first, ..]) if first & 1 == 1 => Err(Wrong::new(format!("`{text}` is an address of many"))
            .hint("the first byte has to be even, and `02` for one that nobody was given")),
        Some([_, _, _, _, _, _]) => Ok(text.to_owned()),
        _ => Err(Wrong::new(format!("`{}` is not an address on Ethernet", text.escape_debug()))
            .hint("write it as `02:00:00:01:06:00`")),
    }
}

/// Base address of an archive.
pub fn url(text: &str) -> Checked<String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let fine = |rest: &str| {
        rest.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[')
            && !rest.ends_with('/')
            && rest.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if rest.is_some_and(fine) {
        return Ok(text.to_owned());
    }
    let wrong = Wrong::new(format!("`{}` is not the address of an archive", text.escape_debug()));
    let without = text.trim_end_matches('/');
    Err(if without != text && rest.is_some() {
        wrong.hint(format!("did you mean `{without}`?"))
    } else {
        wrong.hint("write it as `https://host/path`")
    })
}

/// Mode, user and group of a file: `0640 root shadow`.
pub fn mode(text: &str) -> Checked<()> {
    let words: Vec<_> = text.split(' ').collect();
    let octal =
        |mode: &str| (3..=4).contains(&mode.len()) && mode.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match words.as_slice() {
        [mode, user, group] if octal(mode) && is_name(user) && is_name(group) => Ok(()),
        _ => Err(Wrong::new(format!("`{}` is not a mode with user and group", text.escape_debug()))
            .hint("write it as `0640 root shadow`")),
    }
}
