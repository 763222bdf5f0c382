//! Which metadata a client wants of an export, and under which numbers it gets them.

use super::{Malformed, STRING_MAX, put_string, take_string, take_u32, text};

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT, as far as it has been looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaQueries<'a> {
    /// The export's name, as sent.
    pub name: &'a [u8],
    count: u32,
    left: u32,
    rest: &'a [u8],
}

impl<'a> MetaQueries<'a> {
    /// As received.
    ///
    /// # Errors
    /// Lengths that do not fit, as far as the queries.
    pub fn decode(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut data = data;
        let name = take_string(&mut data)?;
        let count = take_u32(&mut data)?;
        Ok(Self { name, count, left: count, rest: data })
    }

    /// Whether there is no query: everything is asked for.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> Iterator for MetaQueries<'a> {
    type Item = Result<&'a [u8], Malformed>;

    /// The next query. One that is too long for a string comes as one that matches nothing.
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            // Nobody said that there is more.
            let more = !std::mem::take(&mut self.rest).is_empty();
            return more.then_some(Err(Malformed::Trailing));
        }
        self.left -= 1;
        let query = self.take();
        if query.is_err() {
            (self.left, self.rest) = (0, &[]);
        }
        Some(query)
    }
}

impl<'a> MetaQueries<'a> {
    fn take(&mut self) -> Result<&'a [u8], Malformed> {
        let len = take_u32(&mut self.rest)?;
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        let (query, rest) = self.rest.split_at_checked(size).ok_or(Malformed::Lengths)?;
        self.rest = rest;
        // As with QEMU, what is too long for the name of a context is no error.
        match query {
            _ if size > STRING_MAX => Ok(&[0]),
            query if query.contains(&0) => Err(Malformed::Nul),
            query => Ok(query),
        }
    }
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT, as sent.
pub fn encode_meta_queries(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    put_string(&mut data, name.as_bytes());
    data.extend(u32::try_from(queries.len()).unwrap_or(u32::MAX).to_be_bytes());
    queries.iter().for_each(|query| put_string(&mut data, query.as_bytes()));
    data
}

/// A context of an export, in a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaContext {
    /// Its number on this connection; says nothing in a list.
    pub id: u32,
    /// Its name.
    pub name: String,
}

impl MetaContext {
    /// The data of its reply.
    pub fn encode(&self) -> Vec<u8> {
        let mut data = self.id.to_be_bytes().to_vec();
        data.extend_from_slice(self.name.as_bytes());
        data
    }

    /// As received.
    ///
    /// # Errors
    /// Lengths that do not fit, or no text.
    pub fn decode(data: &[u8]) -> Result<Self, Malformed> {
        let mut data = data;
        Ok(Self { id: take_u32(&mut data)?, name: text(data)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queries(data: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
        MetaQueries::decode(data)?.collect()
    }

    #[test]
    fn queries_are_read_as_they_were_written() {
        let data = encode_meta_queries("disk", &["base:allocation", "qemu:"]);
        assert_eq!(MetaQueries::decode(&data).unwrap().name, b"disk");
        assert_eq!(queries(&data), Ok(vec![b"base:allocation".as_slice(), b"qemu:"]));
        let data = encode_meta_queries("disk", &[]);
        assert!(MetaQueries::decode(&data).unwrap().is_empty());
    }

    #[test]
    fn queries_whose_lengths_do_not_fit_are_refused() {
        let data = encode_meta_queries("disk", &["base:allocation"]);
        for len in 0..data.len() {
            assert_eq!(queries(&data[..len]), Err(Malformed::Lengths), "cut at {len}");
        }
        assert_eq!(queries(&[&data[..], &[0]].concat()), Err(Malformed::Trailing));
        assert_eq!(queries(&encode_meta_queries("disk", &["base:\0"])), Err(Malformed::Nul));
        // As many queries as a number can say, in few bytes.
        assert_eq!(queries(b"\0\0\0\0\xff\xff\xff\xff\0\0\0\0"), Err(Malformed::Lengths));
    }

    #[test]
    fn a_query_that_is_too_long_is_passed_over() {
        let long = "x".repeat(STRING_MAX + 1);
        let data = encode_meta_queries("disk", &[&long, "qemu:"]);
        assert_eq!(queries(&data), Ok(vec![b"\0".as_slice(), b"qemu:"]));
    }

    #[test]
    fn contexts_are_read_as_they_were_written() {
        let context = MetaContext { id: 2, name: "qemu:dirty-bitmap:b".into() };
        assert_eq!(MetaContext::decode(&context.encode()), Ok(context));
        assert_eq!(MetaContext::decode(&[0, 0, 0]), Err(Malformed::Lengths));
    }
}
