//! The Debian mirrors that this machine's own apt uses: sources.list(5), in both its formats.

use std::path::Path;

/// Base addresses for an archive, named by the last part of their path (`debian`, `debian-security`),
/// out of `/etc/apt`; in the order of the files, each once. A machine without apt has none.
pub fn of_machine(archive: &str) -> Vec<String> {
    let apt = Path::new("/etc/apt");
    let mut files: Vec<_> = std::fs::read_dir(apt.join("sources.list.d"))
        .into_iter()
        .flatten()
        .filter_map(|file| Some(file.ok()?.path()))
        .collect();
    files.sort();
    files.insert(0, apt.join("sources.list"));
    let mut found = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let addresses = match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => of_stanzas(&text),
            Some("list") => of_lines(&text),
            _ => Vec::new(),
        };
        for address in addresses {
            let address = address.trim_end_matches('/').to_owned();
            let names_archive = address.rsplit('/').next() == Some(archive);
            let is_http = address.starts_with("http://") || address.starts_with("https://");
            if names_archive && is_http && !found.contains(&address) {
                found.push(address);
            }
        }
    }
    found
}

/// `deb [options] ADDRESS suite …`, one a line.
fn of_lines(text: &str) -> Vec<String> {
    let address = |line: &str| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1.trim_start(),
            None => rest,
        };
        rest.split_whitespace().next().map(str::to_owned)
    };
    text.lines().filter_map(address).collect()
}

/// Stanzas with `Types`, `URIs` and perhaps `Enabled: no` (deb822).
fn of_stanzas(text: &str) -> Vec<String> {
    let mut addresses = Vec::new();
    for stanza in text.split("\n\n") {
        let mut fields = Vec::<(String, String)>::new();
        for line in stanza.lines().filter(|line| !line.starts_with('#')) {
            match line.split_once(':') {
                Some((name, value)) if !line.starts_with([' ', '\t']) => {
                    fields.push((name.to_ascii_lowercase(), value.to_owned()));
                }
                _ => {
                    if let Some((_, value)) = fields.last_mut() {
                        value.push(' ');
                        value.push_str(line);
                    }
                }
            }
        }
        let field = |name: &str| {
            let found = fields.iter().find(|(field, _)| field == name);
            found.map(|(_, value)| value.split_whitespace().collect::<Vec<_>>()).unwrap_or_default()
        };
        let off =
            field("enabled").first().is_some_and(|value| matches!(*value, "no" | "false" | "off" | "0"));
        if !off && field("types").contains(&"deb") {
            addresses.extend(field("uris").into_iter().map(str::to_owned));
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_give_their_addresses() {
        let text = "# deb http://off.example.org/debian x main\n\
                    deb http://a.example.org/debian trixie main\n\
                    deb [arch=amd64 signed-by=/x] https://b.example.org/debian trixie main\n\
                    deb-src http://c.example.org/debian trixie main\ndeb [broken\n";
        assert_eq!(of_lines(text), ["http://a.example.org/debian", "https://b.example.org/debian"]);
    }

    #[test]
    fn stanzas_give_their_addresses_unless_they_are_off() {
        let text = "Types: deb deb-src\n# a remark\nURIs: http://a.example.org/debian\n http://b.example.org/debian\n\
                    Suites: trixie\n\nTypes: deb\nURIs: http://off.example.org/debian\nEnabled: no\n\n\
                    Types: deb-src\nURIs: http://source.example.org/debian\n";
        assert_eq!(of_stanzas(text), ["http://a.example.org/debian", "http://b.example.org/debian"]);
    }
}
