//! Which libraries a program names, and where it looks for them: `DT_NEEDED` and `DT_RUNPATH` of ELF files (elf(5)).

use anyhow::Result;
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use object::{Endianness, elf::FileHeader64};

use super::tree::Content;

/// Whether a path is one where programs and libraries lie; kernel modules are something else.
pub fn may_be_linked(path: &str) -> bool {
    let place = ["usr/bin/", "usr/sbin/", "usr/lib/", "usr/libexec/", "opt/"];
    place.iter().any(|start| path.starts_with(start)) && !path.starts_with("usr/lib/modules/")
}

/// What a file wants of the loader.
#[derive(Debug, Default)]
pub struct Linked {
    /// The libraries, by name.
    pub needed: Vec<String>,
    /// Folders that are its own, beside the loader's, as they are written in it.
    pub folders: Vec<String>,
}

/// What a file wants of the loader; nothing if it is not a 64-bit ELF file.
pub fn linked(content: &Content) -> Result<Linked> {
    let magic = content.read(|reader| {
        let mut magic = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(reader, 5), &mut magic)?;
        Ok(magic)
    })?;
    if magic != [0x7f, b'E', b'L', b'F', 2] {
        return Ok(Linked::default());
    }
    let bytes = content.bytes()?;
    let header = FileHeader64::<Endianness>::parse(bytes.as_slice())?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, bytes.as_slice())?;
    let mut linked = Linked::default();
    for segment in segments {
        let Some(dynamic) = segment.dynamic(endian, bytes.as_slice())? else { continue };
        let value = |tag: u32| {
            dynamic.iter().find(|entry| entry.tag32(endian) == Some(tag)).map(|entry| entry.d_val(endian))
        };
        let Some(table) = value(object::elf::DT_STRTAB) else { continue };
        for entry in dynamic.iter().filter(|entry| entry.tag32(endian) == Some(object::elf::DT_NEEDED)) {
            linked.needed.extend(string_at(&bytes, segments, endian, table + entry.d_val(endian)));
        }
        let path = value(object::elf::DT_RUNPATH).or_else(|| value(object::elf::DT_RPATH));
        let path = path.and_then(|path| string_at(&bytes, segments, endian, table + path));
        linked.folders.extend(path.iter().flat_map(|path| path.split(':')).map(str::to_owned));
    }
    Ok(linked)
}

/// The zero-terminated string at a virtual address.
fn string_at(
    bytes: &[u8],
    segments: &[object::elf::ProgramHeader64<Endianness>],
    endian: Endianness,
    address: u64,
) -> Option<String> {
    let segment = segments.iter().find(|segment| {
        segment.p_type(endian) == object::elf::PT_LOAD
            && (segment.p_vaddr(endian)..segment.p_vaddr(endian) + segment.p_filesz(endian))
                .contains(&address)
    })?;
    let start = usize::try_from(address - segment.p_vaddr(endian) + segment.p_offset(endian)).ok()?;
    let text = bytes.get(start..)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}
