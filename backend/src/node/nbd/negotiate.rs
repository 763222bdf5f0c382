//! The client's end of the handshake. What the server says is checked and bounded; why it fails is said in QEMU's words.

use super::options::NbdClientOptions;
use crate::error::IoError;
use crate::io::Memory;
use crate::nbd_wire::handshake::{
    BASE_ALLOCATION, Greeting, Info, MetaContext, OptionHeader, ReplyHeader, encode_client_flags, encode_info_request,
    encode_meta_queries, handshake_flags, info_type, option, reply,
};
use crate::nbd_wire::transmission::{Headers, export_flags};
use crate::stream::Stream;

/// Bytes of a reply's data at most: strings have no more than 4096.
const DATA_MAX: u32 = 16 * 1024;
/// Replies to one option at most.
const REPLIES_MAX: usize = 256;
/// Bytes of a read or write at most, if the server says nothing.
const MAXIMUM: u32 = 32 * 1024 * 1024;

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Bytes of the export.
    pub size: u64,
    /// [`export_flags`].
    pub flags: u16,
    /// The form of requests and replies.
    pub headers: Headers,
    /// The number of the context that block status is asked of, if there is one.
    pub context: Option<u32>,
    /// Offsets and lengths are multiples of this power of two.
    pub minimum: u32,
    /// Bytes of a read or write at most.
    pub maximum: u32,
}

impl Agreed {
    /// Whether the server has said that it can do this.
    pub fn can(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// The reply that ends an option: whether the server took it.
enum End {
    Taken,
    Unsupported,
}

/// A handshake under way.
struct Handshake<'a> {
    stream: Stream,
    options: &'a NbdClientOptions,
}

/// Asks the server for the export.
///
/// # Errors
/// For a human.
pub(super) async fn negotiate(stream: Stream, options: &NbdClientOptions) -> Result<(Stream, Agreed), String> {
    let mut handshake = Handshake { stream, options };
    handshake.greet().await?;
    if options.tls.is_some() {
        handshake = handshake.secure().await?;
    }
    let headers = handshake.headers().await?;
    let context = if headers == Headers::Simple { None } else { handshake.context().await? };
    let mut agreed = Agreed { size: 0, flags: 0, headers, context, minimum: 1, maximum: MAXIMUM };
    handshake.go(&mut agreed).await?;
    check(&agreed, options)?;
    Ok((handshake.stream, agreed))
}

fn check(agreed: &Agreed, options: &NbdClientOptions) -> Result<(), String> {
    if let Some(bitmap) = options.dirty_bitmap.as_ref().filter(|_| agreed.context.is_none()) {
        return Err(format!("requested x-dirty-bitmap {bitmap} not found"));
    }
    if agreed.size > i64::MAX.unsigned_abs() - 512 {
        return Err(format!("The server's export is too large: {} bytes", agreed.size));
    }
    let (minimum, maximum) = (agreed.minimum, agreed.maximum);
    if !minimum.is_power_of_two() {
        return Err(format!("server minimum block size {minimum} is not a power of two"));
    }
    if minimum > 64 * 1024 || maximum < minimum {
        return Err(format!("server block sizes {minimum} to {maximum} cannot be used"));
    }
    Ok(())
}

impl Handshake<'_> {
    async fn greet(&mut self) -> Result<(), String> {
        let mut bytes = [0; Greeting::LEN];
        self.read(&mut bytes, "Failed to read initial magic").await?;
        let greeting = Greeting::decode(&bytes).map_err(|error| error.to_string())?;
        let known = handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES;
        self.send(&encode_client_flags(greeting.flags & known)).await
    }

    async fn secure(mut self) -> Result<Self, String> {
        self.ask(option::STARTTLS, &[]).await?;
        if let End::Unsupported = self.end(option::STARTTLS, |_, _| Ok(false)).await? {
            return Err("Server does not support STARTTLS".to_owned());
        }
        let Self { stream, options } = self;
        let Some(client) = &options.tls else { return Ok(Self { stream, options }) };
        let session = client.session(options.certified_name()).map_err(|error| error.to_string())?;
        let stream = stream.secure(session).await.map_err(|error| error.to_string())?;
        Ok(Self { stream, options })
    }

    async fn headers(&mut self) -> Result<Headers, String> {
        for (option, headers) in
            [(option::EXTENDED_HEADERS, Headers::Extended), (option::STRUCTURED_REPLY, Headers::Structured)]
        {
            self.ask(option, &[]).await?;
            if let End::Taken = self.end(option, |_, _| Ok(false)).await? {
                return Ok(headers);
            }
        }
        Ok(Headers::Simple)
    }

    /// The number of the context that is wanted.
    async fn context(&mut self) -> Result<Option<u32>, String> {
        let wanted = self.options.dirty_bitmap.as_deref().unwrap_or(BASE_ALLOCATION);
        self.ask(option::SET_META_CONTEXT, &encode_meta_queries(&self.options.export, &[wanted])).await?;
        let mut found = None;
        let each = |kind, data: &[u8]| {
            if kind != reply::META_CONTEXT {
                return Ok(false);
            }
            let context = MetaContext::decode(data).map_err(|error| error.to_string())?;
            if context.name != wanted || found.is_some() {
                return Err(format!("Negotiation failure: Server returned unexpected context '{}'", context.name));
            }
            found = Some(context.id);
            Ok(true)
        };
        self.end(option::SET_META_CONTEXT, each).await?;
        Ok(found)
    }

    async fn go(&mut self, agreed: &mut Agreed) -> Result<(), String> {
        let request = encode_info_request(&self.options.export, &[info_type::BLOCK_SIZE]);
        self.ask(option::GO, &request).await?;
        let each = |kind, data: &[u8]| {
            if kind != reply::INFO {
                return Ok(false);
            }
            match Info::decode(data).map_err(|error| error.to_string())? {
                Info::Export { size, flags } => (agreed.size, agreed.flags) = (size, flags),
                Info::BlockSize { minimum, maximum, .. } => {
                    (agreed.minimum, agreed.maximum) = (minimum, maximum.min(MAXIMUM));
                }
                _ => {}
            }
            Ok(true)
        };
        match self.end(option::GO, each).await? {
            End::Taken if agreed.can(export_flags::HAS_FLAGS) => Ok(()),
            End::Taken => Err("broken server omitted NBD_INFO_EXPORT".to_owned()),
            End::Unsupported => Err("Server does not support NBD_OPT_GO".to_owned()),
        }
    }

    async fn ask(&mut self, option: u32, data: &[u8]) -> Result<(), String> {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let mut bytes = OptionHeader { option, len }.encode().to_vec();
        bytes.extend_from_slice(data);
        self.send(&bytes).await
    }

    /// Takes the replies to an option until one ends it; `each` says whether one of the others belongs there.
    async fn end(
        &mut self,
        option: u32,
        mut each: impl FnMut(u32, &[u8]) -> Result<bool, String>,
    ) -> Result<End, String> {
        for _ in 0..REPLIES_MAX {
            let (header, data) = self.reply(option).await?;
            match header.kind {
                reply::ACK => return Ok(End::Taken),
                reply::ERR_UNSUP => return Ok(End::Unsupported),
                _ if header.is_error() => return Err(refusal(header.kind, option)),
                kind if each(kind, &data)? => {}
                kind => {
                    return Err(format!("Unexpected reply type {kind} to option {option} ({})", option::name(option)));
                }
            }
        }
        Err(format!("Too many replies to option {option} ({})", option::name(option)))
    }

    async fn reply(&mut self, option: u32) -> Result<(ReplyHeader, Vec<u8>), String> {
        let mut bytes = [0; ReplyHeader::LEN];
        self.read(&mut bytes, "failed to read option reply").await?;
        let header = ReplyHeader::decode(&bytes).map_err(|_| "Unexpected option reply magic".to_owned())?;
        if header.option != option {
            return Err(format!(
                "Unexpected option type {} ({}), expected {option} ({})",
                header.option,
                option::name(header.option),
                option::name(option)
            ));
        }
        if header.len > DATA_MAX {
            return Err(format!("option {option} ({}) has a reply of {} bytes", option::name(option), header.len));
        }
        let mut data = vec![0; usize::try_from(header.len).unwrap_or(0)];
        self.read(&mut data, "failed to read option reply").await?;
        Ok((header, data))
    }

    async fn read(&mut self, bytes: &mut [u8], what: &str) -> Result<(), String> {
        let read = self.stream.reader.read_exact(bytes).await;
        read.map_err(|_| format!("{what}: Unexpected end-of-file before all data were read"))
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (_, sent) = self.stream.writer.write(bytes, Memory::empty()).await;
        sent.map_err(|_: IoError| "Failed to send an option: Broken pipe".to_owned())
    }
}

/// Why the server refuses an option.
fn refusal(kind: u32, option: u32) -> String {
    let named = format!("option {option} ({})", option::name(option));
    match kind {
        reply::ERR_POLICY => format!("Denied by server for {named}"),
        reply::ERR_INVALID => format!("Invalid parameters for {named}"),
        reply::ERR_PLATFORM => format!("Server lacks support for {named}"),
        reply::ERR_TLS_REQD => format!("TLS negotiation required before {named}"),
        reply::ERR_UNKNOWN => "Requested export not available".to_owned(),
        reply::ERR_SHUTDOWN => format!("Server shutting down before {named}"),
        reply::ERR_BLOCK_SIZE_REQD => format!("Server requires INFO_BLOCK_SIZE for {named}"),
        _ => format!("Unknown error code when asking for {named}"),
    }
}
