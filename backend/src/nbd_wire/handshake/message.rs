//! The frames of the handshake: greeting, options, replies.

use super::{
    Malformed, OPTION_MAX, handshake_flags, length, put_string, reply, take_string, take_u16, take_u32, take_u64, text,
};

/// "NBDMAGIC"
const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT"
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Before each reply to an option.
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// What a server says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Of [`handshake_flags`].
    pub flags: u16,
}

impl Greeting {
    /// Its bytes.
    pub const LEN: usize = 18;

    /// As sent.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        bytes[16..].copy_from_slice(&self.flags.to_be_bytes());
        bytes
    }

    /// As received.
    ///
    /// # Errors
    /// No NBD server, or one that has no options.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut bytes = bytes.as_slice();
        if take_u64(&mut bytes)? != MAGIC {
            return Err(Malformed::Magic);
        }
        let option_magic = take_u64(&mut bytes)?;
        let flags = take_u16(&mut bytes)?;
        match option_magic == OPTION_MAGIC && flags & handshake_flags::FIXED_NEWSTYLE != 0 {
            true => Ok(Self { flags }),
            false => Err(Malformed::OldStyle),
        }
    }
}

/// A client's answer to the greeting: those of [`handshake_flags`] that it understands.
pub fn encode_client_flags(flags: u16) -> [u8; 4] {
    u32::from(flags).to_be_bytes()
}

/// The same as received.
///
/// # Errors
/// [`Malformed::Flags`] for any that a server does not offer.
pub fn decode_client_flags(bytes: [u8; 4]) -> Result<u16, Malformed> {
    let flags = u32::from_be_bytes(bytes);
    let known = handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES;
    match u16::try_from(flags) {
        Ok(flags) if flags & !known == 0 => Ok(flags),
        _ => Err(Malformed::Flags(flags & !u32::from(known))),
    }
}

/// Before the data of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Of [`super::option`], or another.
    pub option: u32,
    /// Bytes of data that follow, at most [`OPTION_MAX`].
    pub len: u32,
}

impl OptionHeader {
    /// Its bytes.
    pub const LEN: usize = 16;

    /// As sent.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.option.to_be_bytes());
        bytes[12..].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }

    /// As received.
    ///
    /// # Errors
    /// No option, or a larger one than there may be.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut bytes = bytes.as_slice();
        if take_u64(&mut bytes)? != OPTION_MAGIC {
            return Err(Malformed::Magic);
        }
        let (option, len) = (take_u32(&mut bytes)?, take_u32(&mut bytes)?);
        if len <= OPTION_MAX { Ok(Self { option, len }) } else { Err(Malformed::Lengths) }
    }
}

/// Before the data of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// The option that it is a reply to.
    pub option: u32,
    /// Of [`reply`], or another.
    pub kind: u32,
    /// Bytes of data that follow, at most [`OPTION_MAX`].
    pub len: u32,
}

impl ReplyHeader {
    /// Its bytes.
    pub const LEN: usize = 20;

    /// As received.
    ///
    /// # Errors
    /// No reply, or a larger one than there may be.
    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let mut bytes = bytes.as_slice();
        if take_u64(&mut bytes)? != REPLY_MAGIC {
            return Err(Malformed::Magic);
        }
        let (option, kind, len) = (take_u32(&mut bytes)?, take_u32(&mut bytes)?, take_u32(&mut bytes)?);
        if len <= OPTION_MAX { Ok(Self { option, kind, len }) } else { Err(Malformed::Lengths) }
    }

    /// Whether it says no.
    pub fn is_error(self) -> bool {
        self.kind & reply::ERROR != 0
    }
}

/// Appends a reply with its data.
pub fn encode_reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend(REPLY_MAGIC.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(length(data).to_be_bytes());
    out.extend_from_slice(data);
}

/// Appends an error with its text, for a human.
pub fn encode_error(out: &mut Vec<u8>, option: u32, kind: u32, text: &str) {
    encode_reply(out, option, kind, text.as_bytes());
}

/// An export in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What is said of it; empty if nothing is.
    pub description: String,
}

impl Listed {
    /// The data of its reply.
    pub fn encode(&self) -> Vec<u8> {
        let mut data = Vec::new();
        put_string(&mut data, self.name.as_bytes());
        data.extend_from_slice(self.description.as_bytes());
        data
    }

    /// As received.
    ///
    /// # Errors
    /// Lengths that do not fit, or no text.
    pub fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut data = data;
        let name = take_string(&mut data)?;
        Ok(Self { name: text(name)?, description: text(data)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_specification() {
        assert_eq!(&Greeting { flags: 3 }.encode(), b"NBDMAGICIHAVEOPT\0\x03");
        assert_eq!(&OptionHeader { option: 7, len: 258 }.encode(), b"IHAVEOPT\0\0\0\x07\0\0\x01\x02");
        let mut reply = Vec::new();
        encode_error(&mut reply, 3, reply::ERR_POLICY, "no");
        assert_eq!(reply, b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x03\x80\0\0\x02\0\0\0\x02no");
    }

    #[test]
    fn flags_that_were_not_offered_are_refused() {
        assert_eq!(decode_client_flags([0, 0, 0, 3]), Ok(3));
        assert_eq!(decode_client_flags([0, 0, 0, 7]), Err(Malformed::Flags(4)));
        assert_eq!(decode_client_flags([0x80, 0, 0, 1]), Err(Malformed::Flags(0x8000_0000)));
    }

    #[test]
    fn oversized_and_foreign_frames_are_refused() {
        let mut option = OptionHeader { option: 7, len: OPTION_MAX }.encode();
        assert!(OptionHeader::decode(&option).is_ok());
        option[15] = 1;
        assert_eq!(OptionHeader::decode(&option), Err(Malformed::Lengths));
        option[0] = 0;
        assert_eq!(OptionHeader::decode(&option), Err(Malformed::Magic));
        let oldstyle = *b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\0\0";
        assert_eq!(Greeting::decode(&oldstyle), Err(Malformed::OldStyle));
        assert_eq!(Greeting::decode(b"HTTP/1.1 400 Bad R"), Err(Malformed::Magic));
    }

    #[test]
    fn listed_exports_are_read_as_they_were_written() {
        let listed = Listed { name: "disk".into(), description: "of a guest".into() };
        assert_eq!(Listed::decode(&listed.encode()), Ok(listed));
        assert_eq!(Listed::decode(&[0, 0, 0, 5, b'a']), Err(Malformed::Lengths));
        assert_eq!(Listed::decode(&[0, 0, 0, 1, 0xff]), Err(Malformed::Text));
        assert_eq!(Listed::decode(&[0, 0, 0x10, 1]), Err(Malformed::StringLength(4097)));
    }
}
