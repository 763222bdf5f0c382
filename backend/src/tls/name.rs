//! Who a certificate is for, as text: the form that gnutls gives it, in which lists of who is let in are written.
//!
//! Certificates come from strangers: whatever is not as it should be has no name, and so is let in by no list. Sources:
//! RFC 5280, section 4.1 (where the name is), RFC 4514 (how it is written; the order is that of the certificate).

/// Tags of the encoding (X.690) that are met here.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const VERSION: u8 = 0xa0;

/// Attributes by their object identifiers (RFC 4514, section 3; RFC 4519).
const ATTRIBUTES: [(&[u8], &str); 11] = [
    (&[85, 4, 3], "CN"),
    (&[85, 4, 5], "serialNumber"),
    (&[85, 4, 6], "C"),
    (&[85, 4, 7], "L"),
    (&[85, 4, 8], "ST"),
    (&[85, 4, 10], "O"),
    (&[85, 4, 11], "OU"),
    (&[85, 4, 12], "title"),
    (&[9, 146, 38, 137, 147, 242, 44, 100, 1, 1], "UID"),
    (&[9, 146, 38, 137, 147, 242, 44, 100, 1, 25], "DC"),
    (&[42, 134, 72, 134, 247, 13, 1, 9, 1], "EMAIL"),
];

/// Values one after the other.
struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    /// The next one's tag and content; `None` at the end, and where this is no encoding.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut len = usize::from(first);
        if first >= 0x80 {
            let digits = usize::from(first & 0x7f);
            let (number, after) = rest.split_at_checked(digits).filter(|_| (1..=4).contains(&digits))?;
            len = number.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
            rest = after;
        }
        let (content, after) = rest.split_at_checked(len)?;
        self.0 = after;
        Some((tag, content))
    }

    /// The content of the next one, which has to be of this kind.
    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
    }
}

/// The distinguished name of a certificate's subject.
pub(super) fn subject(certificate: &[u8]) -> Option<String> {
    let certificate = Values(certificate).expect(SEQUENCE)?;
    let mut fields = Values(Values(certificate).expect(SEQUENCE)?);
    // Of version 1 certificates that is the serial number.
    if fields.next()?.0 == VERSION {
        fields.next()?;
    }
    // The algorithm, the issuer, the time.
    for _ in 0..3 {
        fields.expect(SEQUENCE)?;
    }
    let mut names = Values(fields.expect(SEQUENCE)?);
    let mut text = String::new();
    while !names.0.is_empty() {
        let mut parts = Values(names.expect(SET)?);
        let mut separator = if text.is_empty() { "" } else { "," };
        while !parts.0.is_empty() {
            let mut part = Values(parts.expect(SEQUENCE)?);
            let (attribute, (tag, value)) = (part.expect(OID)?, part.next()?);
            text.push_str(separator);
            push(&mut text, attribute, tag, value)?;
            separator = "+";
        }
    }
    Some(text)
}

fn push(text: &mut String, attribute: &[u8], tag: u8, value: &[u8]) -> Option<()> {
    let known = ATTRIBUTES.iter().find(|(oid, _)| *oid == attribute);
    match known {
        Some((_, name)) => {
            text.push_str(name);
            text.push('=');
            push_escaped(text, &string(tag, value)?);
        }
        None => {
            push_identifier(text, attribute);
            text.push_str("=#");
            value.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
        }
    }
    Some(())
}

/// A string of one of the kinds that names have.
fn string(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        // UTF8String, PrintableString, IA5String; the latter two are ASCII.
        0x0c | 0x13 | 0x16 => String::from_utf8(value.to_vec()).ok(),
        // BMPString.
        0x1e => {
            let units = value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            String::from_utf16(&units.collect::<Vec<_>>()).ok().filter(|_| value.len().is_multiple_of(2))
        }
        _ => None,
    }
}

fn push_escaped(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (at, char) in value.chars().enumerate() {
        let at_an_end = (char == ' ' && (at == 0 || at == last)) || (char == '#' && at == 0);
        if at_an_end || matches!(char, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            text.push('\\');
        }
        text.push(char);
    }
}

/// An object identifier in numbers.
fn push_identifier(text: &mut String, oid: &[u8]) {
    let (mut arc, mut first) = (0_u64, true);
    for byte in oid {
        arc = arc.wrapping_shl(7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            // The first two numbers stand in one.
            let head = (arc / 40).min(2);
            text.push_str(&match std::mem::replace(&mut first, false) {
                true => format!("{head}.{}", arc - head * 40),
                false => format!(".{arc}"),
            });
            arc = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    fn certificate(name: Vec<(DnType, DnValue)>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        name.into_iter().for_each(|(kind, value)| params.distinguished_name.push(kind, value));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn utf8(text: &str) -> DnValue {
        DnValue::Utf8String(text.into())
    }

    #[test]
    fn names_are_written_as_gnutls_writes_them() {
        let name = vec![
            (DnType::CountryName, DnValue::PrintableString("GB".try_into().unwrap())),
            (DnType::StateOrProvinceName, utf8("London")),
            (DnType::LocalityName, utf8("A, B")),
            (DnType::OrganizationName, utf8("Exämple \"Org\"")),
            (DnType::CommonName, utf8(" laptop;<1> #")),
        ];
        // What qemu-storage-daemon 10.0.2 compared with a list when a client had this name.
        let expected = r#"C=GB,ST=London,L=A\, B,O=Exämple \"Org\",CN=\ laptop\;\<1\> #"#;
        assert_eq!(subject(&certificate(name)).as_deref(), Some(expected));
        let own = vec![(DnType::CustomDnType(vec![1, 2, 840, 1]), utf8("x")), (DnType::CommonName, utf8("#1 "))];
        assert_eq!(subject(&certificate(own)).as_deref(), Some(r"1.2.840.1=#78,CN=\#1\ "));
    }

    #[test]
    fn no_bytes_are_too_strange_to_be_looked_at() {
        let whole = certificate(vec![(DnType::CommonName, utf8("somebody"))]);
        for end in 0..whole.len() {
            assert_eq!(subject(&whole[..end]), None, "cut at {end}");
        }
        for at in 0..whole.len() {
            for value in [0, 0x7f, 0x80, 0x84, 0xff, whole[at] ^ 1] {
                let mut strange = whole.clone();
                strange[at] = value;
                let _ = subject(&strange);
            }
        }
    }
}
