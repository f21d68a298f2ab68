//! The kernel's page size, and what follows from it: its option, and the huge pages that there are.

use dpu_plan::{HugePages, Size};

/// The size of a page of the kernel's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pages {
    #[default]
    Kib4,
    Kib64,
}

impl Pages {
    /// All of them, as they are written.
    pub const ALL: [(&str, Self); 2] = [("4KiB", Self::Kib4), ("64KiB", Self::Kib64)];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kib4 => "4KiB",
            Self::Kib64 => "64KiB",
        }
    }

    /// The kernel's option for it.
    pub fn option(self) -> &'static str {
        match self {
            Self::Kib4 => "ARM64_4K_PAGES",
            Self::Kib64 => "ARM64_64K_PAGES",
        }
    }

    /// The fragment that asks for it, laid over all of a board's; what they ask for by themselves needs none.
    pub fn fragment(self) -> Option<&'static str> {
        match self {
            Self::Kib4 => None,
            Self::Kib64 => Some("pages-64k"),
        }
    }

    /// The sizes of huge pages that a kernel with such pages offers, in MiB (Documentation/arm64/hugetlbpage.rst).
    fn huge(self) -> &'static [u64] {
        match self {
            Self::Kib4 => &[2, 32, 1 << 10],
            Self::Kib64 => &[2, 512, 16 << 10],
        }
    }

    /// What the kernel's command line says to have the board's huge pages reserved while memory is whole: the first
    /// of the plan's sizes that the kernel offers.
    ///
    /// # Errors
    /// It offers none of them.
    pub fn command_line(self, plan: &HugePages) -> Result<String, String> {
        let offers = |size: &&Size| self.huge().iter().any(|huge| huge << 20 == size.bytes());
        let Some(size) = plan.sizes.iter().find(offers) else {
            let offered: Vec<_> = self.huge().iter().filter_map(|huge| Size::new(huge << 20)).collect();
            let offered: Vec<_> = offered.iter().map(|size| format!("`{size}`")).collect();
            return Err(format!(
                "a kernel with pages of {} has none of these huge pages, but {}",
                self.name(),
                offered.join(", ")
            ));
        };
        let mib = size.bytes() >> 20;
        Ok(format!("default_hugepagesz={mib}M hugepagesz={mib}M hugepages={}", plan.pages_of(*size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(total: &str, sizes: &[&str]) -> HugePages {
        let sizes = sizes.iter().map(|size| size.parse().unwrap()).collect();
        HugePages { total: total.parse().unwrap(), sizes, mount: "/dev/huge".into() }
    }

    #[test]
    fn huge_pages_follow_from_the_pages() {
        let board = plan("256MiB", &["32MiB", "512MiB", "1GiB"]);
        let line = |pages: Pages| pages.command_line(&board).unwrap();
        assert_eq!(line(Pages::Kib4), "default_hugepagesz=32M hugepagesz=32M hugepages=8");
        assert_eq!(line(Pages::Kib64), "default_hugepagesz=512M hugepagesz=512M hugepages=1");
        assert_eq!(
            Pages::Kib64.command_line(&plan("1GiB", &["1GiB", "32MiB"])).unwrap_err(),
            "a kernel with pages of 64KiB has none of these huge pages, but `2MiB`, `512MiB`, `16GiB`"
        );
    }
}
