//! Several memories moved by one operation: replies that are ready together leave together.

use super::{Keep, Memory};

impl Memory {
    /// All of what `parts` have in view, in order.
    pub fn gather(parts: Vec<Self>) -> Self {
        let segments = parts.iter().flat_map(|part| part.segments.iter().copied()).collect();
        let len = parts.iter().map(Self::len).sum();
        Self { segments, len, keep: Keep::Parts(parts), whole: None, outer: Vec::new() }
    }

    /// What it was gathered from, each as it was then; nothing for other memory.
    pub fn scatter(self) -> Vec<Self> {
        match self.keep {
            Keep::Parts(parts) => parts,
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Buf;

    #[test]
    fn parts_are_moved_as_one_and_come_back_as_they_were() {
        let mut middle = Memory::from(Buf::copy_of(b"-cde-"));
        middle.narrow(1, 3);
        let mut all = Memory::gather(vec![Buf::copy_of(b"ab").into(), middle, Buf::copy_of(b"f").into()]);
        let mut bytes = [0; 6];
        all.copy_to(0, &mut bytes);
        assert_eq!(&bytes, b"abcdef");
        // As after a short transfer.
        all.advance(4);
        assert_eq!(all.len(), 2);
        let lengths: Vec<u64> = all.scatter().iter().map(Memory::len).collect();
        assert_eq!(lengths, [2, 3, 1]);
    }
}
