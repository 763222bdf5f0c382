//! Where in the first cluster a header has what comes after its fields, and where another one may have it.

use super::extensions::{self, END_LEN};
use super::fields::Fields;
use super::{Header, LENGTH_V2};
use std::ops::Range;

/// Bytes of the first cluster that a header uses besides its fields; none of a header that says nothing sensible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// From the first extension to the end of their end mark.
    pub extensions: Range<usize>,
    /// The name of the backing file.
    pub name: Range<usize>,
}

impl Used {
    /// By the header in this cluster.
    pub fn by(cluster: &[u8]) -> Self {
        let fields = Fields(cluster);
        let start = if fields.u32(4) == 2 { LENGTH_V2 } else { fields.u32(100) } as usize;
        let offset = usize::try_from(fields.u64(8)).unwrap_or(usize::MAX).min(cluster.len());
        let end = if offset == 0 { cluster.len() } else { offset };
        let lens = extensions::walk(cluster, start, end).map_while(Result::ok);
        let len: usize = lens.map(|(_, data)| END_LEN + data.len().next_multiple_of(8)).sum();
        let name = offset..offset.saturating_add(fields.u32(16) as usize).min(cluster.len());
        Self { extensions: start..(start + len + END_LEN).min(end), name: if offset == 0 { 0..0 } else { name } }
    }

    /// The first place from `natural` on that a name of this length can have without touching what is used.
    pub(super) fn beside(&self, natural: usize, len: usize) -> usize {
        let ends = [self.extensions.end, self.name.end].map(|end| end.next_multiple_of(8));
        let free = |at: &usize| {
            let apart = |used: &Range<usize>| at + len <= used.start || used.end <= *at;
            *at >= natural && apart(&self.extensions) && apart(&self.name)
        };
        let places = [natural, ends[0], ends[1]].into_iter().filter(free);
        places.min().unwrap_or_else(|| natural.max(ends[0]).max(ends[1]))
    }
}

impl Header {
    /// As [`Header::to_bytes`], with the name of the backing file where another header uses nothing.
    ///
    /// # Errors
    /// As there.
    pub fn to_bytes_beside(&self, used: &Used) -> Result<Vec<u8>, super::HeaderError> {
        self.to_bytes_with(|natural, len| used.beside(natural, len))
    }
}
