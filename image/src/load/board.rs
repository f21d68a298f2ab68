//! `image/boards/<name>.toml`: one kind of card, laid over those that it extends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use dpu_plan::Plan;

use super::component::{self, Read};
use super::diagnostics::{Diagnostic, Diagnostics};
use super::reader::{Reader, Section, Wrong};
use super::tree::{self, Node, Value};
use super::{FOLDERS, declared, exists, kernel, known, plan, stems, suggest, u_boot, updates, values};
use crate::config::{
    Board, Boot, Disk, Emulator, Endpoint, Firewall, Kernel, Network, Parts, Root, Source, Tools,
};

pub(super) const MIB: u64 = 1 << 20;

/// A board file's own lines, which those that extend it do not get.
#[derive(Debug)]
pub struct Header {
    pub description: Option<String>,
    pub is_abstract: bool,
    extends: Option<(String, super::diagnostics::Place)>,
}

/// What a board's names are looked up in.
pub(super) struct Names<'a> {
    pub(super) root: &'a Path,
    components: &'a BTreeMap<String, Read>,
    pub(super) fragments: BTreeSet<String>,
    pub(super) requirements: BTreeSet<String>,
}

/// Takes a board file's header out of its tree.
pub fn header(node: &mut Node, problems: &mut Diagnostics) -> Header {
    let mut own = Node::empty(node.place.clone());
    if let (Value::Table(table), Value::Table(own)) = (&mut node.value, &mut own.value) {
        let keys = ["description", "abstract", "extends"];
        own.extend(keys.into_iter().filter_map(|key| table.remove_entry(key)));
    }
    let reader = Reader::default();
    let top = reader.top(&own);
    let description = top.text("description", values::line);
    let is_abstract = top.truth("abstract").unwrap_or_default();
    let place = top.entry("extends").map(|entry| entry.node.place.clone());
    let extends = top.maybe_text("extends", values::name("a board")).zip(place);
    problems.extend(reader.finish());
    Header { description, is_abstract, extends }
}

/// Reads a board.
pub fn read(
    root: &Path,
    name: &str,
    components: &BTreeMap<String, Read>,
    problems: &mut Diagnostics,
) -> Option<Board> {
    let files: BTreeMap<_, _> = declared(root, FOLDERS.boards, problems).into_iter().collect();
    let Some(path) = files.get(name) else {
        let hint = suggest::hint(name, "board", files.keys().map(String::as_str));
        let message = format!("there is no board `{}`", name.escape_debug());
        problems.push(Diagnostic::of_file(FOLDERS.boards, message).hint(hint));
        return None;
    };
    let mut node = tree::read(root, path, problems)?;
    let header = header(&mut node, problems);
    if header.is_abstract {
        let message = format!("the board `{name}` is only there to be extended: it cannot be built");
        let hint = "name a board that is not `abstract`, with `--board`";
        problems.push(Diagnostic::new(&node.place, message, "").hint(hint));
        return None;
    }
    let node = extended(root, &files, name, node, &header, problems)?;
    let names = Names {
        root,
        components,
        fragments: stems(&root.join(FOLDERS.fragments), "config"),
        requirements: stems(&root.join(FOLDERS.requirements), "toml"),
    };
    let reader = Reader::default();
    let board = board(reader.top(&node), name, header.description, &names);
    problems.extend(reader.finish());
    board
}

/// Lays a board over those that it extends, each over the next.
fn extended(
    root: &Path,
    files: &BTreeMap<String, PathBuf>,
    name: &str,
    node: Node,
    header: &Header,
    problems: &mut Diagnostics,
) -> Option<Node> {
    let mut chain = vec![name.to_owned()];
    let mut layers = vec![node];
    let mut next = header.extends.clone();
    while let Some((base, place)) = next {
        if chain.contains(&base) {
            let message = format!("boards extend each other in a circle: {} -> {base}", chain.join(" -> "));
            problems.push(Diagnostic::new(&place, message, "the circle closes here"));
            return None;
        }
        let Some(path) = files.get(&base) else {
            let hint = suggest::hint(
                &base,
                "board",
                files.keys().map(String::as_str).filter(|other| *other != name),
            );
            problems
                .push(Diagnostic::new(&place, format!("there is no board `{base}`"), "`extends`").hint(hint));
            return None;
        };
        let mut node = tree::read(root, path, problems)?;
        next = self::header(&mut node, problems).extends;
        chain.push(base);
        layers.push(node);
    }
    let mut merged = Node::empty(layers.first()?.place.clone());
    for layer in layers.into_iter().rev() {
        if let (Value::Table(merged), Value::Table(mut layer)) = (&mut merged.value, layer.value) {
            let add = layer.remove("add");
            tree::lay_over(merged, layer);
            if let Some(add) = add {
                tree::add(merged, add, "", problems);
            }
        }
    }
    Some(merged)
}

fn board(top: Section<'_, '_>, name: &str, description: Option<String>, names: &Names<'_>) -> Option<Board> {
    // Taken out before, and known all the same.
    for key in ["description", "abstract", "extends", "add"] {
        top.entry(key);
    }
    let tools = tools(top.section("tools"), names);
    let built = top.section("kernel");
    let kernel = kernel::read(built, names);
    let made = top.maybe_section("u-boot");
    let u_boot = u_boot::read(made, names);
    let parts = parts(top.maybe_section("parts"), names);
    let endpoint = endpoint(top.maybe_section("endpoint"));
    let root = root(top.section("root"), names);
    let disk = disk(top.section("disk"));
    let cmdline = top.section("boot").text("cmdline", values::command_line);
    let firewall = top.section("firewall").list("open", values::opening).map(|open| Firewall { open });
    let drivers = top.section("network").list("dhcp-drivers", values::name("a driver"));
    let setup = top.section_entry("setup");
    let octep = setup.and_then(|entry| entry.node.table()?.get("octep")?.node.table());
    let plan = if let Some(start) = octep.and_then(|octep| octep.get("start")) {
        let wrong = Wrong::new("how octep_cp_agent is started is for `image/rules.toml` to say")
            .hint("take `start` out, and see `cargo xtask matrix`");
        top.refuse(&start.key, "setup.octep.start", wrong);
        None
    } else {
        setup.and_then(|entry| plan::read(&entry.node, "setup", &mut |problem| top.reader().say(problem)))
    };
    let updated = top.maybe_section("updates");
    let updates = updates::read(updated);
    let emulated = top.maybe_section("emulator");
    let emulator = emulator(emulated, names);

    if let (Some(kernel), Some(disk)) = (&kernel, &disk) {
        kernel::fits(built, &kernel.0, disk);
    }
    if let (Some(disk), Some(emulator)) = (&disk, &emulator) {
        disk_fits(emulated, disk, emulator);
    }
    if let (Some(plan), Some(emulator)) = (&plan, &emulator) {
        same_link(emulated, plan, emulator);
        bound_devices(emulated, plan, emulator);
    }
    let reserved = match (&kernel, &plan) {
        (Some((kernel, _)), Some(plan)) => huge_pages(top, kernel, plan),
        _ => None,
    };
    let is_emulated = emulated.is_present();
    if !made.is_present()
        && let Some(entry) = top.entry("emulator")
    {
        let wrong = Wrong::new("the emulated card has nothing that starts its system: `[u-boot]` is missing");
        top.refuse(&entry.key, "emulator", wrong.hint("write `[u-boot]`, as `image/boards/virt.toml` does"));
    }
    let (kernel, kernels) = kernel?;
    Some(Board {
        name: name.to_owned(),
        description: description?,
        tools: tools?,
        kernel,
        kernels,
        u_boot: if made.is_present() { Some(u_boot?) } else { None },
        parts,
        endpoint,
        root: root?,
        disk: disk?,
        boot: Boot { cmdline: format!("{} {}", cmdline?, reserved?) },
        firewall: firewall?,
        network: Network { dhcp_drivers: drivers? },
        plan: plan?,
        updates: if updated.is_present() { Some(updates?) } else { None },
        emulator: if is_emulated { Some(emulator?) } else { None },
    })
}

/// The name of a component of source `[deb]`.
pub(super) fn packages(name: &str, architecture: &str, names: &Names<'_>) -> Result<String, Wrong> {
    if let Some(Source::Deb(deb)) = of_kind(name, &["deb"], names)?
        && deb.architecture != architecture
    {
        return Err(Wrong::new(format!(
            "the component `{name}` is for {}, and one for {architecture} is wanted",
            deb.architecture
        )));
    }
    Ok(name.to_owned())
}

/// A component whose source is of one of these kinds; nothing where it has errors of its own.
pub(super) fn of_kind<'a>(
    name: &str,
    kinds: &[&str],
    names: &'a Names<'_>,
) -> Result<Option<&'a Source>, Wrong> {
    known(name, "component", names.components.keys())?;
    let component = names.components.get(name).and_then(|read| read.component.as_ref());
    let Some(source) = component.map(|component| &component.source) else { return Ok(None) };
    if kinds.contains(&source.kind()) {
        return Ok(Some(source));
    }
    let told = |kind: &str| match kind {
        "deb" => "packages (`[deb]`)",
        "local" => "a crate (`[local]`)",
        "git" => "a commit (`[git]`)",
        "oci" => "a container image (`[oci]`)",
        _ => "files of the user's (`[user]`)",
    };
    let (is, wanted) = (told(source.kind()), kinds.iter().map(|kind| told(kind)).collect::<Vec<_>>());
    let wanted = wanted.join(" or ");
    let verb = if wanted.starts_with('a') { "is" } else { "are" };
    Err(Wrong::new(format!("the component `{name}` is {is}, and {wanted} {verb} wanted")))
}

/// The name of a component whose source is of this kind.
pub(super) fn named(name: &str, kind: &str, names: &Names<'_>) -> Result<String, Wrong> {
    of_kind(name, &[kind], names).map(|_| name.to_owned())
}

fn parts(parts: Section<'_, '_>, names: &Names<'_>) -> Parts {
    let of = |key, kind| parts.maybe_text(key, |name| named(name, kind, names));
    if let (None, Some(entry)) = (parts.entry("cilium"), parts.entry("cilium-agent")) {
        let wrong = Wrong::new("there is no image that this agent could be laid over")
            .hint("write `cilium` with a component that is a container image");
        parts.refuse(&entry.key, &parts.path("cilium-agent"), wrong);
    }
    Parts {
        firmware: of("firmware", "user"),
        octep_agent: of("octep-agent", "git"),
        host_drivers: of("host-drivers", "git"),
        cilium: of("cilium", "oci"),
        cilium_agent: of("cilium-agent", "git"),
    }
}

fn endpoint(endpoint: Section<'_, '_>) -> Endpoint {
    Endpoint {
        mac: endpoint.maybe_text("mac", values::mac),
        // SDP has 128 rings in all, and a VF at least one.
        vfs: endpoint.maybe_number("vfs", 0..=127),
        speed: endpoint.maybe_number("speed", 1..=400_000),
    }
}

fn tools(tools: Section<'_, '_>, names: &Names<'_>) -> Option<Tools> {
    let [base, kernel, rust] =
        ["base", "kernel", "rust"].map(|key| tools.text(key, |name| packages(name, "amd64", names)));
    let [cross, go, bundle] =
        ["cross", "go", "bundle"].map(|key| tools.maybe_text(key, |name| packages(name, "amd64", names)));
    Some(Tools { base: base?, kernel: kernel?, rust: rust?, cross, go, bundle })
}

fn root(root: Section<'_, '_>, names: &Names<'_>) -> Option<Root> {
    let oracle = root.text("oracle", |name| packages(name, "arm64", names));
    let packages = root.text("packages", |name| packages(name, "arm64", names));
    let agent = root.text("agent", |name| named(name, "local", names));
    let overlays = root.list("overlays", |path| exists(names.root, path, "folder"));
    let hostname = root.text("hostname", values::host_name);
    let outputs = |name: &Option<String>| names.components.get(name.as_deref()?).map(|read| &read.outputs);
    if let (Some(ours), Some(theirs)) = (outputs(&agent), outputs(&packages)) {
        // Each component by itself was looked at when it was read.
        component::clashes(ours, theirs, &mut |problem| root.reader().say(problem));
        component::clashes(theirs, ours, &mut |problem| root.reader().say(problem));
    }
    Some(Root {
        packages: packages?,
        agent: agent?,
        oracle: oracle?,
        overlays: overlays?,
        hostname: hostname?,
    })
}

fn disk(disk: Section<'_, '_>) -> Option<Disk> {
    let [boot, root, data] = ["boot", "root", "data"].map(|key| disk.text(key, values::size));
    Some(Disk { boot: boot?, root: root?, data: data? })
}

fn emulator(emulator: Section<'_, '_>, names: &Names<'_>) -> Option<Emulator> {
    let tools = emulator.text("tools", |name| packages(name, "amd64", names));
    let machine = emulator.text("machine", values::line);
    let cpu = emulator.text("cpu", values::line);
    let cpus = emulator.number("cpus", 1..=512);
    let memory = emulator.text("memory", values::size);
    let disk = emulator.text("disk", values::size);
    let devices = emulator.words("devices", argument);
    let link_host = emulator.text("link-host", values::address);
    let link_card = emulator.text("link-card", values::address);
    let expect_vfio = expect_vfio(emulator);
    let expect_modules = emulator.list("expect-modules", values::name("a module"));
    one_link(emulator, devices.as_deref());
    one_network(emulator, link_host, link_card);
    Some(Emulator {
        tools: tools?,
        machine: machine?,
        cpu: cpu?,
        cpus: cpus?,
        memory: memory?,
        disk: disk?,
        devices: devices?,
        link_host: link_host?,
        link_card: link_card?,
        expect_vfio,
        expect_modules: expect_modules?,
    })
}

/// One argument of QEMU, in which only `{link}` stands for something.
fn argument(text: &str) -> Result<String, Wrong> {
    values::line(text)?;
    let rest = text.replace("{link}", "");
    match rest.split_once('{').and_then(|(_, rest)| rest.split_once('}')) {
        Some((word, _)) if values::is_name(word) => {
            Err(Wrong::new(format!("`{{{word}}}` stands for nothing"))
                .hint("only `{link}` stands for something"))
        }
        _ => Ok(text.to_owned()),
    }
}

fn expect_vfio(emulator: Section<'_, '_>) -> BTreeMap<String, usize> {
    let mut expected = BTreeMap::new();
    for (id, path, entry) in emulator.free("expect-vfio") {
        if let Err(wrong) = values::pci(id) {
            emulator.refuse(&entry.key, &path, wrong);
        } else if let Some(count) = emulator.number_of::<u32>(&entry.node, &path, 1..=256)
            && let Ok(count) = usize::try_from(count)
        {
            expected.insert(id.clone(), count);
        }
    }
    expected
}

/// The link to the host needs just one NIC on it.
fn one_link(emulator: Section<'_, '_>, devices: Option<&[String]>) {
    let (Some(devices), Some(entry)) = (devices, emulator.entry("devices")) else { return };
    let count: usize = devices.iter().map(|argument| argument.matches("{link}").count()).sum();
    if count != 1 {
        let wrong = Wrong::new(format!("{count} devices are on the link to the host, and one has to be"))
            .hint("give one NIC `netdev={link}`");
        emulator.refuse(&entry.node.place, &emulator.path("devices"), wrong);
    }
}

/// The builder gives the link a network of 256 addresses.
fn one_network(emulator: Section<'_, '_>, host: Option<Ipv4Addr>, card: Option<Ipv4Addr>) {
    let (Some(host), Some(card), Some(entry)) = (host, card, emulator.entry("link-host")) else { return };
    let path = emulator.path("link-host");
    if host == card {
        let wrong = Wrong::new(format!("host and card have the same address, `{host}`"));
        emulator.refuse(&entry.node.place, &path, wrong);
    } else if host.octets()[..3] != card.octets()[..3] {
        let wrong =
            Wrong::new(format!("`{host}` and the card's `{card}` are not in one network of 256 addresses"));
        emulator.refuse(&entry.node.place, &path, wrong);
    }
}

/// What the command line says of huge pages.
fn huge_pages(top: Section<'_, '_>, kernel: &Kernel, plan: &Plan) -> Option<String> {
    match kernel.pages.command_line(&plan.huge_pages) {
        Ok(line) => Some(line),
        Err(problem) => {
            let entry = top.section_entry("setup")?;
            top.refuse(&entry.key, "setup.huge-pages.sizes", Wrong::new(problem));
            None
        }
    }
}

fn disk_fits(emulator: Section<'_, '_>, disk: &Disk, emulated: &Emulator) {
    // 1 MiB before the first partition and 1 MiB after the last hold the two partition tables.
    let needed = 2 * (disk.boot + disk.root) + disk.data + 2 * MIB;
    if needed <= emulated.disk {
        return;
    }
    if let Some(entry) = emulator.entry("disk") {
        let (has, needed) = (emulated.disk / MIB, needed / MIB);
        let message =
            format!("the disk has {has} MiB, and two slots and the data partition need {needed} MiB");
        emulator.refuse(&entry.node.place, &emulator.path("disk"), Wrong::new(message));
    }
}

fn same_link(emulator: Section<'_, '_>, plan: &Plan, emulated: &Emulator) {
    let set_up = plan.link.address.address();
    if set_up == emulated.link_card {
        return;
    }
    if let Some(entry) = emulator.entry("link-card") {
        let message =
            format!("the card is looked for at `{}`, and sets itself up as `{set_up}`", emulated.link_card);
        let wrong = Wrong::new(message).hint("write the address of `setup.link.address`");
        emulator.refuse(&entry.node.place, &emulator.path("link-card"), wrong);
    }
}

fn bound_devices(emulator: Section<'_, '_>, plan: &Plan, emulated: &Emulator) {
    for (id, path, entry) in emulator.free("expect-vfio") {
        let bound = plan.bound().any(|vfio| vfio.id.to_string() == id.to_lowercase());
        if !bound && emulated.expect_vfio.contains_key(id) {
            let wrong = Wrong::new(format!("nothing binds `{id}` to `vfio-pci`"))
                .hint(format!("write `[[setup.vfio]]` with `id = \"{id}\"`, or take it out here"));
            emulator.refuse(&entry.key, &path, wrong);
        }
    }
}
