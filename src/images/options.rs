//! What `-o` says of an image that is to be made: the words, values and refusals of `qemu-img`.
//!
//! Knows which options a format has, not whether they go together: whoever makes the image does.

use super::size;
use crate::image::Format;
use anyhow::{Result, anyhow, bail, ensure};
use tidemark_backend::graph::create::FilePreallocation;
use tidemark_backend::node::qcow2::create::{CreateOptions, Preallocation};
use tidemark_backend::node::qcow2::header::Compression;

/// What the options of one image are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given(Vec<(String, String)>);

const RAW: [&str; 4] = ["size", "preallocation", "nocow", "extent_size_hint"];
const QCOW2: [&str; 12] = [
    "size",
    "compat",
    "backing_file",
    "backing_fmt",
    "cluster_size",
    "preallocation",
    "lazy_refcounts",
    "refcount_bits",
    "data_file",
    "data_file_raw",
    "compression_type",
    "extended_l2",
];

impl Given {
    /// Reads `name=value` lists, whose commas are doubled in values; a name alone is switched on.
    ///
    /// # Errors
    /// An option that the format does not have.
    pub fn read(lists: &[String], format: Format) -> Result<Self> {
        let mut given = Vec::new();
        for part in lists.iter().flat_map(|list| split(list)) {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None => (part, "on".to_owned()),
            };
            ensure!(!name.starts_with("encrypt"), "Encrypted images cannot be made here: use qemu-img");
            let known = if format == Format::Raw { &RAW[..] } else { &QCOW2[..] };
            ensure!(known.contains(&name.as_str()), "Invalid parameter '{name}'");
            given.push((name, value));
        }
        Ok(Self(given))
    }

    /// The last value of an option.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// `size` in bytes.
    ///
    /// # Errors
    /// It is no size.
    pub fn size(&self) -> Result<Option<u64>> {
        self.number("size")
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        let read = |value: &str| size::parse(value).map_err(|_| anyhow!(not_a_number(name)));
        self.get(name).map(read).transpose()
    }

    fn switch(&self, name: &str) -> Result<Option<bool>> {
        match self.get(name) {
            None => Ok(None),
            Some("on" | "yes" | "true" | "y") => Ok(Some(true)),
            Some("off" | "no" | "false" | "n") => Ok(Some(false)),
            Some(_) => bail!("Parameter '{name}' expects 'on' or 'off'"),
        }
    }

    /// `preallocation`.
    ///
    /// # Errors
    /// There is no such mode.
    pub fn preallocation(&self) -> Result<Preallocation> {
        let given = self.get("preallocation").map(preallocation);
        given.transpose().map(Option::unwrap_or_default)
    }

    /// All that is said of a qcow2 image of `size` bytes.
    ///
    /// # Errors
    /// A value that makes no sense.
    pub fn of_qcow2(&self, size: u64) -> Result<CreateOptions> {
        let version = match self.get("compat") {
            None | Some("1.1" | "v3") => 3,
            Some("0.10" | "v2") => 2,
            Some(other) => bail!("Parameter 'compat' does not accept value '{other}'"),
        };
        let compression = match self.get("compression_type") {
            None | Some("zlib") => Compression::Zlib,
            Some("zstd") => Compression::Zstd,
            Some(other) => bail!("Parameter 'compression_type' does not accept value '{other}'"),
        };
        let plain = CreateOptions::default();
        Ok(CreateOptions {
            size: size.next_multiple_of(512),
            cluster_size: self.number("cluster_size")?.unwrap_or(plain.cluster_size),
            version,
            refcount_bits: self.number("refcount_bits")?.unwrap_or(plain.refcount_bits),
            lazy_refcounts: self.switch("lazy_refcounts")?.unwrap_or(false),
            backing: self.get("backing_file").map(str::to_owned),
            backing_format: self.get("backing_fmt").map(str::to_owned),
            data_file_raw: self.switch("data_file_raw")?.unwrap_or(false),
            extended_l2: self.switch("extended_l2")?.unwrap_or(false),
            compression,
            ..plain
        })
    }

    /// Says something more; it goes before what was said.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }
}

/// What space is taken ahead, by its name.
///
/// # Errors
/// There is no such mode.
pub fn preallocation(name: &str) -> Result<Preallocation> {
    match name {
        "off" => Ok(Preallocation::Off),
        "metadata" => Ok(Preallocation::Metadata),
        "falloc" => Ok(Preallocation::Falloc),
        "full" => Ok(Preallocation::Full),
        other => bail!("Parameter 'preallocation' does not accept value '{other}'"),
    }
}

/// What space a file takes from the start.
pub fn of_file(preallocation: Preallocation) -> FilePreallocation {
    match preallocation {
        Preallocation::Off => FilePreallocation::Off,
        Preallocation::Metadata => FilePreallocation::Metadata,
        Preallocation::Falloc => FilePreallocation::Falloc,
        Preallocation::Full => FilePreallocation::Full,
    }
}

/// QEMU's words for what is no size.
pub fn not_a_number(name: &str) -> String {
    format!(
        "Parameter '{name}' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, mega-, \
         giga-, tera-, peta-\nand exabytes, respectively."
    )
}

/// The parts between single commas.
pub fn split(list: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = list.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            ',' if chars.peek() == Some(&',') => {
                chars.next();
                parts.last_mut().into_iter().for_each(|part| part.push(','));
            }
            ',' => parts.push(String::new()),
            char => parts.last_mut().into_iter().for_each(|part| part.push(char)),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(list: &str) -> Result<Given> {
        Given::read(&[list.to_owned()], Format::Qcow2)
    }

    #[test]
    fn commas_are_doubled_and_the_last_word_counts() {
        let given = given("backing_file=a,,b=c,cluster_size=4k,lazy_refcounts,cluster_size=8k").unwrap();
        assert_eq!(given.get("backing_file"), Some("a,b=c"));
        let options = given.of_qcow2(1000).unwrap();
        assert_eq!((options.cluster_size, options.lazy_refcounts, options.size), (8192, true, 1024));
    }

    #[test]
    fn what_the_format_does_not_have_is_refused_with_the_words_of_qemu_img() {
        for (list, text) in [
            ("foo=1", "Invalid parameter 'foo'"),
            ("preallocation=foo", "Parameter 'preallocation' does not accept value 'foo'"),
            ("lazy_refcounts=maybe", "Parameter 'lazy_refcounts' expects 'on' or 'off'"),
            ("compat=2", "Parameter 'compat' does not accept value '2'"),
        ] {
            let refused = given(list).and_then(|given| {
                given.preallocation()?;
                given.of_qcow2(0)
            });
            assert_eq!(refused.unwrap_err().to_string(), text);
        }
        assert!(Given::read(&["cluster_size=4k".to_owned()], Format::Raw).is_err());
    }
}
