//! Whether a binary runs in an image that has nothing else: 64-bit ELF, no interpreter, no library needed.

use anyhow::{Context, Result, bail, ensure};

const MAGIC: &[u8] = b"\x7fELF\x02\x01"; // 64 bits, little endian: both of our architectures
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
/// Bytes of one entry of the dynamic section: a tag and a value.
const DYNAMIC_ENTRY: usize = 16;

/// Fails where a dynamic linker would be wanted. A static binary that may be loaded anywhere (static-pie) has a dynamic
/// section too, for its own relocations; what it must not have there is the name of a library.
pub fn require_static(file: &[u8]) -> Result<()> {
    ensure!(file.starts_with(MAGIC), "it is no 64-bit little-endian ELF file");
    let offset = usize::try_from(u64_at(file, 0x20)?)?;
    let (size, count) = (usize::from(u16_at(file, 0x36)?), usize::from(u16_at(file, 0x38)?));
    for header in (0..count).map(|n| offset.saturating_add(n * size)) {
        match u32_at(file, header)? {
            PT_INTERP => bail!("it asks for a dynamic linker (PT_INTERP); was it built with +crt-static?"),
            PT_DYNAMIC => {
                let from = usize::try_from(u64_at(file, header + 8)?)?;
                let length = usize::try_from(u64_at(file, header + 32)?)?;
                require_no_library(
                    file.get(from..from.saturating_add(length)).context("its dynamic section is cut off")?,
                )?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn require_no_library(dynamic: &[u8]) -> Result<()> {
    for entry in dynamic.chunks_exact(DYNAMIC_ENTRY) {
        match u64_at(entry, 0)? {
            DT_NULL => break,
            DT_NEEDED => bail!("it needs a shared library (DT_NEEDED)"),
            _ => {}
        }
    }
    Ok(())
}

fn bytes_at<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N]> {
    file.get(at..).and_then(|rest| rest.first_chunk()).copied().context("its headers are cut off")
}

fn u16_at(file: &[u8], at: usize) -> Result<u16> {
    bytes_at(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Result<u32> {
    bytes_at(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: usize) -> Result<u64> {
    bytes_at(file, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Headers, and segments of which each is a kind and its bytes.
    fn elf(segments: &[(u32, &[u8])]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.resize(64, 0);
        file[0x20..0x28].copy_from_slice(&64u64.to_le_bytes());
        file[0x36..0x38].copy_from_slice(&56u16.to_le_bytes());
        file[0x38..0x3a].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        let mut at = 64 + 56 * segments.len();
        for (kind, content) in segments {
            let mut header = [0; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..16].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
            file.extend(header);
            at += content.len();
        }
        segments.iter().for_each(|(_, content)| file.extend(*content));
        file
    }

    fn dynamic(tags: &[u64]) -> Vec<u8> {
        tags.iter().flat_map(|tag| [tag.to_le_bytes(), [0; 8]].concat()).collect()
    }

    #[test]
    fn static_and_position_independent_is_static() {
        require_static(&elf(&[(1, b"code")])).unwrap();
        require_static(&elf(&[(1, b"code"), (PT_DYNAMIC, &dynamic(&[4, 5, DT_NULL, DT_NEEDED]))])).unwrap();
    }

    #[test]
    fn what_needs_another_file_or_is_none_is_refused() {
        let said = |file: &[u8]| require_static(file).unwrap_err().to_string();
        assert!(said(&elf(&[(PT_INTERP, b"/lib64/ld-linux-x86-64.so.2\0")])).contains("PT_INTERP"));
        assert!(said(&elf(&[(PT_DYNAMIC, &dynamic(&[DT_NEEDED, DT_NULL]))])).contains("DT_NEEDED"));
        let whole = elf(&[(PT_DYNAMIC, &dynamic(&[4, 5]))]);
        assert!(said(&whole[..whole.len() - 8]).contains("cut off"));
        assert!(said(&whole[..70]).contains("cut off"));
        assert!(said(b"#!/bin/sh").contains("ELF"));
        // The test itself is an ordinary program.
        assert!(said(&std::fs::read(std::env::current_exe().unwrap()).unwrap()).contains("dynamic linker"));
    }
}
