//! Asking for an export, and what is said of it.

use super::{Malformed, info_type, put_string, take_string, take_u16, take_u32, take_u64, text};

use std::cmp::Ordering;

/// The data of GO and INFO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    /// The export's name, as sent.
    pub name: &'a [u8],
    /// What is asked of it, each of [`info_type`] or another.
    pub types: Vec<u16>,
}

impl<'a> InfoRequest<'a> {
    /// As received.
    ///
    /// # Errors
    /// Lengths that do not fit.
    pub fn decode(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut data = data;
        let name = take_string(&mut data)?;
        let count = take_u16(&mut data)?;
        match data.len().cmp(&(usize::from(count) * 2)) {
            Ordering::Less => return Err(Malformed::Lengths),
            Ordering::Equal => {}
            Ordering::Greater => return Err(Malformed::Trailing),
        }
        let types = data.as_chunks().0.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
        Ok(Self { name, types })
    }

    /// Whether this is asked.
    pub fn asks(&self, kind: u16) -> bool {
        self.types.contains(&kind)
    }
}

/// The data of GO and INFO, as sent. At most 65535 types.
pub fn encode_info_request(name: &str, types: &[u16]) -> Vec<u8> {
    let mut data = Vec::new();
    put_string(&mut data, name.as_bytes());
    data.extend(u16::try_from(types.len()).unwrap_or(u16::MAX).to_be_bytes());
    types.iter().take(usize::from(u16::MAX)).for_each(|kind| data.extend(kind.to_be_bytes()));
    data
}

/// What is said of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Info {
    /// What a client has to know.
    Export {
        /// Bytes.
        size: u64,
        /// Of [`super::export_flags`].
        flags: u16,
    },
    /// Its name.
    Name(String),
    /// What humans are told of it.
    Description(String),
    /// Which requests it takes.
    BlockSize {
        /// Bytes that offsets and lengths are multiples of.
        minimum: u32,
        /// Bytes that they had better be multiples of.
        preferred: u32,
        /// The most bytes of a read or write.
        maximum: u32,
    },
    /// Something else, to be passed over.
    Unknown(u16),
}

impl Info {
    /// The data of its reply.
    pub fn encode(&self) -> Vec<u8> {
        let mut data = Vec::new();
        match self {
            Self::Export { size, flags } => {
                data.extend(info_type::EXPORT.to_be_bytes());
                data.extend(size.to_be_bytes());
                data.extend(flags.to_be_bytes());
            }
            Self::Name(name) => {
                data.extend(info_type::NAME.to_be_bytes());
                data.extend_from_slice(name.as_bytes());
            }
            Self::Description(text) => {
                data.extend(info_type::DESCRIPTION.to_be_bytes());
                data.extend_from_slice(text.as_bytes());
            }
            Self::BlockSize { minimum, preferred, maximum } => {
                data.extend(info_type::BLOCK_SIZE.to_be_bytes());
                [minimum, preferred, maximum].iter().for_each(|size| data.extend(size.to_be_bytes()));
            }
            Self::Unknown(kind) => data.extend(kind.to_be_bytes()),
        }
        data
    }

    /// As received.
    ///
    /// # Errors
    /// Lengths that do not fit, no text, or sizes that a client cannot keep to.
    pub fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut data = data;
        let info = match take_u16(&mut data)? {
            info_type::EXPORT => Self::Export { size: take_u64(&mut data)?, flags: take_u16(&mut data)? },
            info_type::NAME => return text(data).map(Self::Name),
            info_type::DESCRIPTION => return text(data).map(Self::Description),
            info_type::BLOCK_SIZE => {
                let mut size = || take_u32(&mut data);
                Self::BlockSize { minimum: size()?, preferred: size()?, maximum: size()? }
            }
            kind => return Ok(Self::Unknown(kind)),
        };
        if data.is_empty() { Ok(info) } else { Err(Malformed::Lengths) }
    }
}

/// The answer to EXPORT_NAME, which has no frame. Without `no_zeroes` 124 zeroes follow.
pub fn encode_export(out: &mut Vec<u8>, size: u64, flags: u16, no_zeroes: bool) {
    out.extend(size.to_be_bytes());
    out.extend(flags.to_be_bytes());
    if !no_zeroes {
        out.extend([0; 124]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::STRING_MAX;
    use super::*;

    #[test]
    fn requests_are_read_as_they_were_written() {
        let data = encode_info_request("disk", &[3, 1, 77]);
        assert_eq!(data, b"\0\0\0\x04disk\0\x03\0\x03\0\x01\0\x4d");
        let request = InfoRequest::decode(&data).unwrap();
        assert_eq!((request.name, request.types), (b"disk".as_slice(), vec![3, 1, 77]));
    }

    #[test]
    fn requests_whose_lengths_do_not_fit_are_refused() {
        let data = encode_info_request("disk", &[3]);
        for len in 0..data.len() {
            assert_eq!(InfoRequest::decode(&data[..len]), Err(Malformed::Lengths), "cut at {len}");
        }
        assert_eq!(InfoRequest::decode(&[&data[..], &[0]].concat()), Err(Malformed::Trailing));
        assert_eq!(InfoRequest::decode(b"\0\0\0\x01\0\0\0"), Err(Malformed::Nul));
        let long = u32::try_from(STRING_MAX + 1).unwrap();
        assert_eq!(InfoRequest::decode(&long.to_be_bytes()), Err(Malformed::StringLength(long)));
    }

    #[test]
    fn what_is_said_of_an_export_is_read_as_it_was_written() {
        let all = [
            Info::Export { size: 1 << 40, flags: 0x501 },
            Info::Name("disk".into()),
            Info::Description(String::new()),
            Info::BlockSize { minimum: 1, preferred: 4096, maximum: 1 << 25 },
            Info::Unknown(9),
        ];
        for info in all {
            assert_eq!(Info::decode(&info.encode()), Ok(info));
        }
        assert_eq!(Info::decode(&[0]), Err(Malformed::Lengths));
        assert_eq!(Info::decode(&[0, 3, 0, 0, 0, 1]), Err(Malformed::Lengths));
    }
}
