//! Huge pages: reserved in the pool of the right size, and mounted.
//!
//! The kernel's default pool is of no account: it may be of 2 MiB pages, which serve nobody here.

use anyhow::{Result, bail};
use dpu_plan::Size;

use crate::mounts::{self, Mount};
use crate::report::Report;
use crate::{Card, tree::Tree};

const POOLS: &str = "/sys/kernel/mm/hugepages";

pub fn apply(card: &Card, report: &mut Report) -> Result<()> {
    let pool = reserve(card, report)?;
    mount(card, &pool, report)
}

pub fn check(card: &Card, report: &mut Report) -> Result<()> {
    let offered = offered(card)?;
    let Some(pool) = enough(&card.tree, &offered)? else {
        report.wrong(lacking(card, &offered)?);
        return Ok(());
    };
    report.found(format!("{} pages of {} are reserved", pool.reserved(&card.tree)?, pool.size));
    let target = &card.plan.huge_pages.mount;
    match mounts::at(&card.tree, target)? {
        Some(mount) if is_mount_of(&mount, pool) => {
            report.found(format!("mounted at `{}`", target.display()));
        }
        Some(mount) => report.wrong(format!("`{}` has {}", target.display(), described(&mount))),
        None => report.wrong(format!("nothing is mounted at `{}`", target.display())),
    }
    Ok(())
}

/// The kernel's pages of one size.
struct Pool {
    size: Size,
    /// How many of them make the total.
    wanted: u64,
}

impl Pool {
    fn path(&self, attribute: &str) -> String {
        format!("{POOLS}/hugepages-{}kB/{attribute}", self.size.bytes() >> 10)
    }

    fn reserved(&self, tree: &Tree) -> Result<u64> {
        tree.number(self.path("nr_hugepages"))
    }
}

/// The plan's pools that this kernel has, the best first.
fn offered(card: &Card) -> Result<Vec<Pool>> {
    let plan = &card.plan.huge_pages;
    let pools = plan.sizes.iter().map(|&size| Pool { size, wanted: plan.pages_of(size) });
    let offered: Vec<_> = pools.filter(|pool| card.tree.exists(pool.path("nr_hugepages"))).collect();
    if offered.is_empty() {
        let wanted = plan.sizes.iter().map(|size| format!("`{size}`")).collect::<Vec<_>>().join(", ");
        let has = card.tree.names(POOLS)?.join(", ");
        let has = if has.is_empty() { "none at all".to_owned() } else { format!("only {has}") };
        bail!("the kernel offers no huge pages of {wanted}: it has {has}");
    }
    Ok(offered)
}

/// The first pool that already holds the total.
fn enough<'a>(tree: &Tree, pools: &'a [Pool]) -> Result<Option<&'a Pool>> {
    for pool in pools {
        if pool.reserved(tree)? >= pool.wanted {
            return Ok(Some(pool));
        }
    }
    Ok(None)
}

fn reserve(card: &Card, report: &mut Report) -> Result<Pool> {
    let mut offered = offered(card)?;
    if let Some(pool) = enough(&card.tree, &offered)? {
        report.found(format!("{} pages of {} were reserved already", pool.reserved(&card.tree)?, pool.size));
        return Ok(Pool { ..*pool });
    }
    let mut short = Vec::new();
    for pool in offered.drain(..) {
        match fill(&card.tree, &pool) {
            Ok(got) if got >= pool.wanted => {
                report.did(format!("reserved {got} pages of {}", pool.size));
                return Ok(pool);
            }
            Ok(got) => short.push(format!("{got} of {} pages of {}", pool.wanted, pool.size)),
            Err(error) => short.push(format!("{error:#}")),
        }
    }
    bail!("the kernel gave too few huge pages for {}: {}", card.plan.huge_pages.total, short.join("; "))
}

/// Asks for the pool's pages; gives back what came where that is too little to serve.
fn fill(tree: &Tree, pool: &Pool) -> Result<u64> {
    let before = pool.reserved(tree)?;
    tree.set(pool.path("nr_hugepages"), &pool.wanted.to_string())?;
    let got = pool.reserved(tree)?;
    if got < pool.wanted && got != before {
        tree.set(pool.path("nr_hugepages"), &before.to_string())?;
    }
    Ok(got)
}

fn lacking(card: &Card, offered: &[Pool]) -> Result<String> {
    let mut pools = Vec::new();
    for pool in offered {
        pools.push(format!("{} of {} pages of {}", pool.reserved(&card.tree)?, pool.wanted, pool.size));
    }
    Ok(format!("less than {} is reserved: {}", card.plan.huge_pages.total, pools.join("; ")))
}

fn mount(card: &Card, pool: &Pool, report: &mut Report) -> Result<()> {
    let target = &card.plan.huge_pages.mount;
    let shown = target.display().to_string();
    match mounts::at(&card.tree, target)? {
        Some(mount) if is_mount_of(&mount, pool) => {
            report.found(format!("mounted at `{shown}`"));
            return Ok(());
        }
        Some(mount) if mount.kind == "hugetlbfs" => {
            card.programs.run("umount", &[&shown])?;
            report.did(format!("took {} away from `{shown}`", described(&mount)));
        }
        Some(mount) => bail!("`{shown}` is taken: it has {}", described(&mount)),
        None => card.tree.make_folder(target)?,
    }
    let options = format!("pagesize={},mode=0755", pool.size.bytes());
    card.programs.run("mount", &["-t", "hugetlbfs", "-o", &options, "hugetlbfs", &shown])?;
    report.did(format!("mounted pages of {} at `{shown}`", pool.size));
    Ok(())
}

fn is_mount_of(mount: &Mount, pool: &Pool) -> bool {
    mount.kind == "hugetlbfs" && mount.option("pagesize").and_then(page_size) == Some(pool.size)
}

/// The kernel writes the page size as `32M` or `64K`.
fn page_size(text: &str) -> Option<Size> {
    format!("{text}iB").parse().ok()
}

fn described(mount: &Mount) -> String {
    match mount.option("pagesize") {
        Some(size) => format!("`{}` with pages of {size}", mount.kind),
        None => format!("`{}`", mount.kind),
    }
}

#[cfg(test)]
mod tests {
    use crate::fake;
    use crate::report::State;
    use crate::setup::{check, phase, run};

    fn hugepages() -> &'static super::super::Phase {
        phase("hugepages").unwrap()
    }

    #[test]
    fn pages_are_reserved_in_the_pool_of_the_right_size_and_mounted() {
        let fake = fake::virt();
        let record = run(&fake.card(), hugepages());
        assert_eq!(record.report.did, ["reserved 8 pages of 32MiB", "mounted pages of 32MiB at `/dev/huge`"]);
        assert_eq!(fake.read("/sys/kernel/mm/hugepages/hugepages-32768kB/nr_hugepages"), "8");
        assert_eq!(fake.read("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"), "0");
        assert_eq!(fake.ran(), ["mount -t hugetlbfs -o pagesize=33554432,mode=0755 hugetlbfs /dev/huge"]);
    }

    #[test]
    fn pages_that_the_kernel_reserved_at_boot_count_whatever_their_size() {
        let fake = fake::virt();
        fake.file("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "1");
        let record = run(&fake.card(), hugepages());
        assert_eq!(record.report.found, ["1 pages of 1GiB were reserved already"]);
        assert_eq!(fake.read("/sys/kernel/mm/hugepages/hugepages-32768kB/nr_hugepages"), "0");
    }

    #[test]
    fn a_size_that_gives_too_little_is_given_back_and_the_next_is_tried() {
        let fake = fake::virt();
        fake.limit_pages(32 << 10, 5);
        fake.file("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", "0");
        let record = run(&fake.card(), hugepages());
        assert_eq!(record.state, State::Good, "{}", record.text());
        assert_eq!(record.report.did[0], "reserved 1 pages of 1GiB");
        assert_eq!(fake.read("/sys/kernel/mm/hugepages/hugepages-32768kB/nr_hugepages"), "0");
    }

    #[test]
    fn too_few_pages_of_every_size_fail_with_the_numbers() {
        let fake = fake::virt();
        fake.limit_pages(32 << 10, 5);
        let record = run(&fake.card(), hugepages());
        assert_eq!(
            record.report.wrong,
            ["the kernel gave too few huge pages for 256MiB: 5 of 8 pages of 32MiB"]
        );
        assert_eq!(fake.ran(), Vec::<String>::new());
        assert_eq!(
            check(&fake.card(), hugepages()).wrong,
            ["less than 256MiB is reserved: 0 of 8 pages of 32MiB"]
        );
    }

    #[test]
    fn a_kernel_without_a_size_that_serves_is_told_apart() {
        let fake = fake::virt();
        fake.remove("/sys/kernel/mm/hugepages/hugepages-32768kB");
        let record = run(&fake.card(), hugepages());
        assert_eq!(
            record.report.wrong,
            ["the kernel offers no huge pages of `32MiB`, `512MiB`, `1GiB`: it has only hugepages-2048kB"]
        );
    }

    #[test]
    fn a_write_that_the_kernel_refuses_is_told_with_its_reason() {
        let fake = fake::virt();
        fake.refuse("nr_hugepages", std::io::ErrorKind::PermissionDenied);
        let record = run(&fake.card(), hugepages());
        assert!(
            record.report.wrong[0].contains("writing `8` to `/sys/kernel/mm/hugepages/"),
            "{}",
            record.text()
        );
        assert!(record.report.wrong[0].contains("permission denied"), "{}", record.text());
    }

    #[test]
    fn pages_of_another_size_at_the_mount_point_are_replaced() {
        let fake = fake::virt();
        fake.mounted("50 1 0:40 / /dev/huge rw - hugetlbfs hugetlbfs rw,pagesize=2M");
        let record = run(&fake.card(), hugepages());
        assert_eq!(record.report.did[1], "took `hugetlbfs` with pages of 2M away from `/dev/huge`");
        assert!(check(&fake.card(), hugepages()).is_good());
    }

    #[test]
    fn another_file_system_at_the_mount_point_is_left_alone() {
        let fake = fake::virt();
        fake.mounted("50 1 0:40 / /dev/huge rw - tmpfs tmpfs rw");
        let record = run(&fake.card(), hugepages());
        assert_eq!(record.report.wrong, ["`/dev/huge` is taken: it has `tmpfs`"]);
        assert_eq!(check(&fake.card(), hugepages()).wrong, ["`/dev/huge` has `tmpfs`"]);
    }
}
