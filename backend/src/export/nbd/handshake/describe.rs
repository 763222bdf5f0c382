//! What is said of an export.

use super::{Answers, Chosen, Next};
use crate::nbd_wire::handshake::{Info, InfoRequest, Malformed, encode_export, export_flags, info_type, option, reply};
use crate::nbd_wire::transmission::Headers;

/// The most bytes of a read or write.
pub const TRANSFER_MAX: u32 = 32 * 1024 * 1024;

/// The data of INFO and GO.
pub(super) fn decode(data: &[u8]) -> Result<InfoRequest<'_>, Malformed> {
    InfoRequest::decode(data)
}

/// Answers INFO and GO, up to the last word.
pub(super) fn answer(chosen: &Chosen, request: &InfoRequest<'_>, answers: &mut Answers<'_>) -> Next {
    let offer = &chosen.offer;
    let asks_sizes = request.asks(info_type::BLOCK_SIZE);
    if request.asks(info_type::NAME) {
        answers.reply(reply::INFO, &Info::Name(offer.name.clone()).encode());
    }
    if let Some(text) = &offer.description {
        answers.reply(reply::INFO, &Info::Description(text.clone()).encode());
    }
    // Whoever goes on without asking for sizes may send what it likes.
    let keeps_sizes = asks_sizes || answers.option == option::INFO;
    let minimum = if keeps_sizes { offer.alignment } else { 1 };
    let preferred = offer.alignment.max(4096);
    answers.reply(reply::INFO, &Info::BlockSize { minimum, preferred, maximum: TRANSFER_MAX }.encode());
    answers.reply(reply::INFO, &Info::Export { size: offer.size, flags: flags(chosen) }.encode());
    if answers.option == option::INFO && !asks_sizes && offer.alignment > 1 {
        return answers.refuse(reply::ERR_BLOCK_SIZE_REQD, "request NBD_INFO_BLOCK_SIZE to use this export");
    }
    answers.acknowledge()
}

/// Answers EXPORT_NAME.
pub(super) fn as_old(chosen: &Chosen, no_zeroes: bool, out: &mut Vec<u8>) {
    encode_export(out, chosen.offer.size, flags(chosen), no_zeroes);
}

/// An export's flags, with those that hang on what was agreed on.
fn flags(chosen: &Chosen) -> u16 {
    let mut flags = chosen.offer.flags;
    if chosen.headers >= Headers::Structured {
        flags |= export_flags::SEND_DF;
    }
    if chosen.headers == Headers::Extended {
        flags |= export_flags::BLOCK_STATUS_PAYLOAD;
    }
    flags
}
