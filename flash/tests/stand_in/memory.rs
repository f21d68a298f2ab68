//! The card's memory: what was written to it, at the places where it was.

use std::collections::BTreeMap;
use std::io::Read as _;

/// Sparse: a gap reads as the byte that memory has after a reset.
#[derive(Default)]
pub struct Memory {
    parts: BTreeMap<usize, Vec<u8>>,
    /// U-Boot's environment, which lies in memory too.
    pub variables: BTreeMap<String, String>,
}

const GAP: u8 = 0xa5;

impl Memory {
    pub fn write(&mut self, address: usize, content: &[u8]) {
        let mut whole = self.parts.remove(&address).unwrap_or_default();
        if whole.len() < content.len() {
            whole.resize(content.len(), GAP);
        }
        whole[..content.len()].copy_from_slice(content);
        self.parts.insert(address, whole);
    }

    pub fn read(&self, address: usize, size: usize) -> Vec<u8> {
        let mut content = vec![GAP; size];
        for (start, part) in self.parts.range(..address + size) {
            let from = address.max(*start);
            let to = (address + size).min(start + part.len());
            if from < to {
                content[from - address..to - address].copy_from_slice(&part[from - start..to - start]);
            }
        }
        content
    }

    /// What gzip at an address unpacks to.
    pub fn unpack(&self, address: usize) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        flate2::read::GzDecoder::new(self.parts.get(&address)?.as_slice()).read_to_end(&mut content).ok()?;
        Some(content)
    }

    pub fn spoil(&mut self, address: usize) {
        if let Some(byte) = self.parts.get_mut(&address).and_then(|part| part.last_mut()) {
            *byte ^= 1;
        }
    }
}
