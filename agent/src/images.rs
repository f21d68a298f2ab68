//! Gives containerd the images that the card came with, so that its pods start without a registry.
//!
//! An archive is taken once, if it is the very one that the root's list names, and removed then. The image is pinned:
//! kubelet, short of space, would otherwise remove it while no pod runs of it.
//!
//! An update brings archives for the other slot's system (`before-update` of the root), and that one may have another
//! image of the same name. So each has a second name, by its digest: whichever system starts finds its own again.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use dpu_plan::{CardImage, IMAGES, Images};

use crate::Card;
use crate::report::Report;

/// Where kubelet looks for images in containerd.
const NAMESPACE: [&str; 2] = ["--namespace", "k8s.io"];
/// Keeps kubelet from removing an image (containerd, internal/cri/labels).
const PINNED: &str = "io.cri-containerd.pinned=pinned";
const UNPINNED: &str = "io.cri-containerd.pinned=";
/// Where archives are.
const ARCHIVES: &str = "/data/images";

/// What second names begin with: a registry that nobody asks for them.
const KEPT: &str = "localhost/dpukit:";

/// Gives containerd what it lacks, and removes archives for a system that does not run.
pub fn bring(card: &Card, report: &mut Report) -> Result<()> {
    let wanted = wanted(card)?;
    report.try_to(|report| clear(card, &wanted, report));
    for image in wanted {
        report.try_to(|report| bring_one(card, &image, report));
    }
    Ok(())
}

/// Lets images go that only the system in the other slot came with, before an update takes its place: kubelet removes
/// them when it needs the space.
pub fn forget(card: &Card, report: &mut Report) -> Result<()> {
    let wanted = wanted(card)?;
    let images = list(card)?;
    let is_own = |digest: &str| wanted.iter().any(|image| image.digest == digest);
    for (kept, digest) in images.iter().filter(|(name, digest)| name.starts_with(KEPT) && !is_own(digest)) {
        // Names by a digest alone are containerd's own.
        let is_name = |name: &str| name != kept && !name.starts_with("sha256:");
        for (name, _) in images.iter().filter(|(name, other)| other == digest && is_name(name)) {
            ctr(card, &["label", name, UNPINNED])?;
            report.did(format!("left `{name}` to kubelet"));
        }
        ctr(card, &["remove", kept])?;
    }
    Ok(())
}

/// Looks whether containerd has all, changing nothing.
pub fn look(card: &Card, report: &mut Report) -> Result<()> {
    let wanted = wanted(card)?;
    if wanted.is_empty() {
        report.absent("the card came with no container images");
        return Ok(());
    }
    let images = list(card)?;
    for CardImage { name, digest, .. } in wanted {
        match digest_of(&images, &name) {
            Some(there) if there == digest => report.found(format!("containerd has `{name}`")),
            Some(there) => {
                report
                    .wrong(format!("containerd's `{name}` is `{there}`, and the card came with `{digest}`"));
            }
            None => report.wrong(format!("containerd does not have `{name}`")),
        }
    }
    Ok(())
}

fn wanted(card: &Card) -> Result<Vec<CardImage>> {
    let Some(text) = card.tree.read_if(IMAGES)? else { return Ok(Vec::new()) };
    let images: Images = text.parse().with_context(|| format!("reading `{IMAGES}`"))?;
    Ok(images.image)
}

fn bring_one(card: &Card, image: &CardImage, report: &mut Report) -> Result<()> {
    give(card, image, report)?;
    let archive = &image.archive;
    remove(&card.tree.at(archive)).with_context(|| format!("removing `{}`", archive.display()))
}

/// Gives containerd an image, of its archive or by its second name.
fn give(card: &Card, image: &CardImage, report: &mut Report) -> Result<()> {
    let CardImage { name, digest, archive, sha256 } = image;
    let images = list(card)?;
    let has = |name: &str| images.iter().any(|(there, other)| there == name && other == digest);
    if has(name) {
        report.found(format!("containerd has `{name}`"));
        return Ok(());
    }
    let kept = format!("{KEPT}{}", digest.replace(':', "-"));
    if has(&kept) {
        ctr(card, &["tag", "--force", &kept, name])?;
        ctr(card, &["label", name, PINNED])?;
        report.did(format!("gave containerd `{name}` back"));
        return Ok(());
    }
    let shown = archive.display();
    if !card.tree.exists(archive) {
        bail!("containerd does not have `{name}`, and there is no `{shown}`: it has to be pulled");
    }
    let path = card.tree.at(archive);
    let found = hash_of(card, &path)?;
    if found != *sha256 {
        bail!("`{shown}` has the hash {found}, and the image was built with {sha256}: it is not taken");
    }
    ctr(card, &["import", &path.to_string_lossy()])?;
    match digest_of(&list(card)?, name) {
        Some(there) if there == digest => {}
        there => bail!("containerd took `{shown}`, and has `{name}` as {there:?}, not as `{digest}`"),
    }
    ctr(card, &["tag", "--force", name, &kept])?;
    for name in [name, &kept] {
        ctr(card, &["label", name, PINNED])?;
    }
    report.did(format!("gave containerd `{name}`"));
    Ok(())
}

fn ctr(card: &Card, arguments: &[&str]) -> Result<String> {
    let arguments: Vec<_> = NAMESPACE.iter().chain(&["images"]).chain(arguments).copied().collect();
    card.programs.read("ctr", &arguments)
}

/// The digest that containerd knows by a name.
fn digest_of<'a>(images: &'a [(String, String)], name: &str) -> Option<&'a str> {
    images.iter().find(|(reference, _)| reference == name).map(|(_, digest)| digest.as_str())
}

/// Names and digests of what containerd has: the first and the third column of its table.
fn list(card: &Card) -> Result<Vec<(String, String)>> {
    let table = ctr(card, &["list"])?;
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let named = |row: Vec<&str>| match row.as_slice() {
        [reference, _, digest, ..] => Some(((*reference).to_owned(), (*digest).to_owned())),
        _ => None,
    };
    Ok(rows.filter_map(named).collect())
}

/// Removes what the list does not name: archives of the other slot's system, or half of one.
fn clear(card: &Card, wanted: &[CardImage], report: &mut Report) -> Result<()> {
    if !card.tree.exists(ARCHIVES) {
        return Ok(());
    }
    for name in card.tree.names(ARCHIVES)? {
        let path = Path::new(ARCHIVES).join(name);
        if !wanted.iter().any(|image| image.archive == path) {
            let shown = path.display();
            remove(&card.tree.at(&path)).with_context(|| format!("removing `{shown}`"))?;
            report.did(format!("removed `{shown}`, which is for another system"));
        }
    }
    Ok(())
}

fn hash_of(card: &Card, path: &Path) -> Result<String> {
    let said = card.programs.read("sha256sum", &["--binary", &path.to_string_lossy()])?;
    Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Fake};

    const NAME: &str = "quay.io/cilium/cilium:v1.17.0";
    const ARCHIVE: &str = "/data/images/cilium.tar";

    /// A card with an archive that the made-up `ctr` understands: name and digest.
    fn card(digest: &str) -> Fake {
        let fake = fake::virt();
        let archive = format!("{NAME} sha256:{digest}");
        fake.file(ARCHIVE, &archive);
        let image = CardImage {
            name: NAME.into(),
            digest: "sha256:1".into(),
            archive: ARCHIVE.into(),
            sha256: hash_of(&fake.card(), &fake.card().tree.at(ARCHIVE)).unwrap(),
        };
        fake.file(IMAGES, &toml::to_string(&Images { image: vec![image] }).unwrap());
        fake
    }

    fn brought(fake: &Fake) -> String {
        let mut report = Report::default();
        report.try_to(|report| bring(&fake.card(), report));
        report.lines()
    }

    fn looked(fake: &Fake) -> String {
        let mut report = Report::default();
        report.look(|report| look(&fake.card(), report));
        report.lines()
    }

    #[test]
    fn an_image_is_taken_once_and_its_archive_goes() {
        let fake = card("1");
        assert_eq!(looked(&fake), format!("  wrong   containerd does not have `{NAME}`\n"));
        assert_eq!(brought(&fake), format!("  did     gave containerd `{NAME}`\n"));
        assert!(fake.ran().contains(&format!("ctr --namespace k8s.io images label {NAME} {PINNED}")));
        assert!(!fake.card().tree.exists(ARCHIVE));
        assert!(fake.ran().contains(&format!("ctr --namespace k8s.io images label {KEPT}sha256-1 {PINNED}")));
        fake.forget();
        assert_eq!(brought(&fake), format!("  found   containerd has `{NAME}`\n"));
        assert_eq!(fake.ran(), ["ctr --namespace k8s.io images list"]);
        assert_eq!(looked(&fake), format!("  found   containerd has `{NAME}`\n"));
    }

    /// Has the system of the other slot start, which came with this digest under the same name.
    fn other_slot(fake: &Fake, digest: &str) {
        let text = fake.card().tree.read(IMAGES).unwrap();
        let mut list: Images = text.parse().unwrap();
        list.image[0].digest = format!("sha256:{digest}");
        fake.file(ARCHIVE, &format!("{NAME} sha256:{digest}"));
        list.image[0].sha256 = hash_of(&fake.card(), &fake.card().tree.at(ARCHIVE)).unwrap();
        fake.file(IMAGES, &toml::to_string(&list).unwrap());
    }

    #[test]
    fn each_slots_system_finds_its_own_image_under_one_name() {
        let fake = card("1");
        brought(&fake);
        other_slot(&fake, "2");
        assert_eq!(brought(&fake), format!("  did     gave containerd `{NAME}`\n"));
        other_slot(&fake, "1");
        fake.remove(ARCHIVE);
        assert_eq!(brought(&fake), format!("  did     gave containerd `{NAME}` back\n"));
        assert_eq!(looked(&fake), format!("  found   containerd has `{NAME}`\n"));

        // The next update takes the other slot's place, and its image is let go.
        fake.forget();
        forget(&fake.card(), &mut Report::default()).unwrap();
        let ran = fake.ran();
        assert_eq!(ran[1..], [format!("ctr --namespace k8s.io images remove {KEPT}sha256-2")]);
    }

    #[test]
    fn an_image_of_another_name_that_only_the_other_slot_has_is_left_to_kubelet() {
        let fake = card("1");
        brought(&fake);
        let list = fake.card().tree.read(IMAGES).unwrap();
        fake.file(IMAGES, &list.replace("v1.17.0", "v1.17.1").replace("sha256:1", "sha256:3"));
        forget(&fake.card(), &mut Report::default()).unwrap();
        assert!(fake.ran().contains(&format!("ctr --namespace k8s.io images label {NAME} {UNPINNED}")));
    }

    #[test]
    fn archives_for_another_system_go() {
        let fake = card("1");
        fake.file("/data/images/cilium-2.tar", "");
        fake.file("/data/images/cilium-3.tar.new", "");
        let said = brought(&fake);
        assert!(said.contains("removed `/data/images/cilium-2.tar`, which is for another system"), "{said}");
        assert_eq!(fake.card().tree.names(ARCHIVES).unwrap(), [""; 0]);
    }

    #[test]
    fn an_archive_that_was_altered_is_not_taken() {
        let fake = card("1");
        fake.file(ARCHIVE, &format!("{NAME} sha256:2"));
        let said = brought(&fake);
        assert!(said.contains("it is not taken") && !said.contains("did"), "{said}");
        assert!(fake.card().tree.exists(ARCHIVE), "it may be looked at");
    }

    #[test]
    fn an_archive_with_another_image_is_told() {
        let fake = card("2");
        let said = brought(&fake);
        assert!(said.contains("as Some(\"sha256:2\"), not as `sha256:1`"), "{said}");
        assert!(
            looked(&fake).contains("is `sha256:2`, and the card came with `sha256:1`"),
            "{}",
            looked(&fake)
        );
    }

    #[test]
    fn what_is_nowhere_has_to_be_pulled() {
        let fake = card("1");
        fake.remove(ARCHIVE);
        assert!(brought(&fake).contains("there is no `/data/images/cilium.tar`: it has to be pulled"));
    }

    #[test]
    fn a_card_without_images_asks_containerd_nothing() {
        let fake = fake::virt();
        assert_eq!(looked(&fake), "  absent  the card came with no container images\n");
        assert_eq!(brought(&fake), "");
        assert_eq!(fake.ran(), [""; 0]);
    }

    #[test]
    fn a_containerd_that_does_not_answer_is_told() {
        let fake = card("1");
        fake.fail("ctr", "ctr: cannot access /run/containerd/containerd.sock");
        assert!(looked(&fake).starts_with("  unknown `ctr --namespace k8s.io images list` failed"));
        assert!(brought(&fake).starts_with("  wrong   `ctr --namespace k8s.io images list` failed"));
    }
}
