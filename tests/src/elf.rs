//! As much of programs in ELF, little-endian, as it takes to know and to change by which loader they start.

/// The kind of a program header that names the loader.
const INTERPRETER: u64 = 3;

/// A program's bytes.
#[derive(Debug, Clone, Copy)]
pub struct Elf<'a> {
    bytes: &'a [u8],
    /// Whether it is for 64 bits.
    wide: bool,
    /// Where the header is that names the loader.
    header: Option<usize>,
}

impl<'a> Elf<'a> {
    /// None if these are not the bytes of a program.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let wide = match bytes.get(..6)? {
            b"\x7fELF\x02\x01" => true,
            b"\x7fELF\x01\x01" => false,
            _ => return None,
        };
        let at = |wide_at, wide_len, at, len| if wide { (wide_at, wide_len) } else { (at, len) };
        let mut elf = Self { bytes, wide, header: None };
        let start = elf.number(at(32, 8, 28, 4))?;
        let size = elf.number(at(54, 2, 42, 2))?;
        let count = elf.number(at(56, 2, 44, 2))?;
        for i in 0..count {
            let place = usize::try_from(start.checked_add(i * size)?).ok()?;
            if elf.number((place, 4))? == INTERPRETER {
                elf.header = Some(place);
            }
        }
        Some(elf)
    }

    /// Whether it runs where there is nothing else.
    #[must_use]
    pub fn is_static(&self) -> bool {
        self.header.is_none()
    }

    /// The path of its loader.
    #[must_use]
    pub fn interpreter(&self) -> Option<String> {
        let header = self.header?;
        let start = usize::try_from(self.number(self.offset(header))?).ok()?;
        let len = usize::try_from(self.number(self.size(header))?).ok()?;
        let path = self.bytes.get(start..start.checked_add(len)?)?;
        let path = path.split(|byte| *byte == 0).next()?;
        String::from_utf8(path.to_vec()).ok()
    }

    /// The same program with another loader, whose path is put at its end. None if it has none.
    #[must_use]
    pub fn with_interpreter(&self, path: &str) -> Option<Vec<u8>> {
        let header = self.header?;
        let mut bytes = self.bytes.to_vec();
        let (start, len) = (bytes.len() as u64, path.len() as u64 + 1);
        bytes.extend_from_slice(path.as_bytes());
        bytes.push(0);
        for ((at, width), value) in [(self.offset(header), start), (self.size(header), len)] {
            bytes.get_mut(at..at + width)?.copy_from_slice(value.to_le_bytes().get(..width)?);
        }
        Some(bytes)
    }

    /// Where a header says where in the file its part begins.
    fn offset(&self, header: usize) -> (usize, usize) {
        if self.wide { (header + 8, 8) } else { (header + 4, 4) }
    }

    /// Where a header says how long its part is in the file.
    fn size(&self, header: usize) -> (usize, usize) {
        if self.wide { (header + 32, 8) } else { (header + 16, 4) }
    }

    fn number(&self, (at, len): (usize, usize)) -> Option<u64> {
        let field = self.bytes.get(at..at.checked_add(len)?)?;
        Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_the_loader_that_it_was_given() {
        let test = std::fs::read("/proc/self/exe").unwrap();
        let elf = Elf::parse(&test).unwrap();
        if elf.is_static() {
            assert_eq!(elf.interpreter(), None);
            assert_eq!(elf.with_interpreter("/elsewhere/ld.so"), None);
            return;
        }
        assert!(elf.interpreter().unwrap().starts_with('/'));
        let changed = elf.with_interpreter("/elsewhere/ld.so").unwrap();
        let changed = Elf::parse(&changed).unwrap();
        assert_eq!(changed.interpreter().as_deref(), Some("/elsewhere/ld.so"));
        assert!(Elf::parse(b"#!/bin/sh\n").is_none());
        assert!(Elf::parse(b"\x7fELF\x02\x01").is_none());
    }
}
