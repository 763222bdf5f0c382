//! A qcow2 image with something wrong in it, opened and used by a guest.
//!
//! Whatever the bytes say: nothing panics, hangs or takes much memory, and nothing that the guest writes ends up where the
//! image keeps its metadata. The input says which image, what is changed in it, and what the guest does.

#![no_main]

mod bytes;
mod guest;
mod judge;
mod mutation;
mod seeds;

use bytes::Bytes;
use guest::Guest;
use libfuzzer_sys::{Corpus, fuzz_target};

/// Requests of a guest at most.
const REQUESTS: usize = 24;

fuzz_target!(|data: &[u8]| -> Corpus {
    let mut input = Bytes::new(data);
    let mut image = seeds::image(input.byte());
    mutation::mutate(&mut image, &mut input);
    let known = judge::metadata(&image);
    let Some(mut guest) = Guest::open(&image, input.byte()) else { return Corpus::Keep };
    for _ in 0..REQUESTS {
        if input.is_empty() {
            break;
        }
        guest.request(&mut input);
    }
    guest.close();
    judge::judge(&known, &guest.image());
    Corpus::Keep
});
