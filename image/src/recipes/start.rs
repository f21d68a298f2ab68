//! Which slot starts, on boards whose U-Boot is its makers': a script that U-Boot's boot scan finds on the disk, and
//! the counts that it keeps there. U-Boot's own variables are left alone: where those are, and whether they are there
//! twice, is known of no card.
//!
//! The counts are text of variables in the first block of a partition, which a disk writes whole or not at all.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::config::{Board, Counts};

/// How a slot is chosen, as U-Boot's variables.
pub const SLOTS: &str = "image/u-boot/slots.env";
/// What the counts are in a new image.
pub const COUNTS: &str = "BOOT_A_LEFT=3\nBOOT_B_LEFT=3\nBOOT_ORDER=A B\n";

/// Whether a board's counts are on its disk.
pub fn is_on_disk(board: &Board) -> bool {
    board.updates.as_ref().is_some_and(|updates| matches!(updates.counts, Counts::Disk))
}

/// How a slot is chosen, as text of an environment of U-Boot.
pub fn slots(root: &Path) -> Result<String> {
    fs::read_to_string(root.join(SLOTS)).with_context(|| format!("reading `{SLOTS}`"))
}

/// The script, from what [`slots`] reads.
///
/// The script of the slot goes behind the block of counts, and that behind this script, which was loaded where
/// `scriptaddr` says. `env import` takes the named variables alone, whatever else the block holds.
pub fn script(slots: &str) -> String {
    let slots = slots.replace("\\\n", "");
    let variables =
        slots.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    let variables: Vec<_> = variables.map(|(name, value)| format!("setenv {name} '{value}'\n")).collect();
    let variables = variables.concat();
    format!(
        "# devtype and devnum are set by U-Boot's boot scan; numbers are hexadecimal.\n\
         {variables}\
         setenv keep 'if test -n \"${{counts_block}}\"; then \
         env export -t -s 200 ${{counts_addr}} BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT; \
         ${{devtype}} write ${{counts_addr}} ${{counts_block}} 1; fi'\n\
         setenv start_slot 'if part number ${{devtype}} ${{devnum}} ${{part_name}} distro_bootpart; then run load_slot; fi'\n\
         test -n \"${{scriptaddr}}\" || setenv scriptaddr ${{loadaddr}}\n\
         setexpr counts_addr ${{scriptaddr}} + 10000\n\
         setexpr scriptaddr ${{scriptaddr}} + 20000\n\
         setenv BOOT_ORDER; setenv BOOT_A_LEFT; setenv BOOT_B_LEFT; setenv counts_block\n\
         if part start ${{devtype}} ${{devnum}} slots counts_block; then\n\
         \x20   ${{devtype}} dev ${{devnum}}\n\
         \x20   if ${{devtype}} read ${{counts_addr}} ${{counts_block}} 1; then\n\
         \x20       env import -t ${{counts_addr}} 200 BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT\n\
         \x20   fi\n\
         fi\n\
         run slots\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_has_each_variable_on_a_line_of_its_own() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let script = script(&slots(root).unwrap());
        for name in ["slots", "each_slot", "try_slot", "count_slot", "drop_slot", "load_slot"] {
            let line = script.lines().find(|line| line.starts_with(&format!("setenv {name} '"))).unwrap();
            // Between the quotes nothing is taken for something else.
            assert_eq!(line.matches('\'').count(), 2, "{line}");
            assert!(line.ends_with('\''), "{line}");
        }
        assert!(!script.contains("\\\n") && script.ends_with("run slots\n"));
    }
}
