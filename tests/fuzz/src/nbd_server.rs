//! What strangers say to the NBD server, over a real socket: from the first byte, or after a handshake of each form.
//!
//! Whatever the bytes say: nothing panics, the connection ends when the client has, and a good client that is there all the
//! time reads what it should. The first byte of the input says how much of a handshake comes first.

#![no_main]

mod served;

use libfuzzer_sys::{Corpus, fuzz_target};
use served::Served;
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use tidemark_backend::nbd_wire::handshake::{OptionHeader, encode_info_request, encode_meta_queries, option};
use tidemark_backend::nbd_wire::transmission::Headers;
use tidemark_backend::node::options::{DriverOptions, NullOptions};

/// Bytes of the disk, which is zeroes.
const DISK: u64 = 1 << 20;

/// After the greeting.
const FLAGS: [u8; 4] = [0, 0, 0, 3];

/// The server, and the client that nothing may happen to.
struct Machine {
    served: Served,
    good: UnixStream,
    runs: u64,
}

impl Machine {
    fn new() -> Self {
        let disk = NullOptions { size: DISK, read_zeroes: true, latency_ns: 0 };
        let served = Served::empty();
        assert!(served.add(DriverOptions::Null(disk)), "a good node opens");
        let mut good = served.connect();
        served::choose(&mut good);
        Self { served, good, runs: 0 }
    }

    fn run(&mut self, hello: &[u8], bytes: &[u8]) {
        let mut bad = self.served.connect();
        let reader = bad.try_clone().expect("a second handle");
        // Who does not read gets no answers, and is not what is tried here.
        let reading = std::thread::spawn(move || drain(reader));
        // The server may have closed it already.
        let _ = bad.write_all(hello).and_then(|()| bad.write_all(bytes));
        let _ = bad.shutdown(Shutdown::Write);
        reading.join().expect("its end");
        self.runs += 1;
        if self.runs.is_multiple_of(64) {
            assert!(served::read(&mut self.good, 0, 512) == Some(vec![0; 512]), "the good client reads something else");
        }
    }
}

/// Reads until the other end closes, which it has to.
fn drain(mut stream: UnixStream) {
    let mut bytes = [0; 65536];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(error) => panic!("the connection does not end: {error}"),
        }
    }
}

/// So much of a handshake.
fn hello(first: u8) -> Vec<u8> {
    let headers = match first % 5 {
        0 => return Vec::new(),
        1 => return FLAGS.to_vec(),
        2 => Headers::Simple,
        3 => Headers::Structured,
        _ => Headers::Extended,
    };
    let mut bytes = FLAGS.to_vec();
    let mut say = |option: u32, data: &[u8]| {
        bytes.extend(OptionHeader { option, len: u32::try_from(data.len()).unwrap_or(0) }.encode());
        bytes.extend(data);
    };
    match headers {
        Headers::Simple => {}
        Headers::Structured => say(option::STRUCTURED_REPLY, &[]),
        Headers::Extended => say(option::EXTENDED_HEADERS, &[]),
    }
    if headers != Headers::Simple {
        say(option::SET_META_CONTEXT, &encode_meta_queries("disk", &["base:allocation", "qemu:allocation-depth"]));
    }
    say(option::GO, &encode_info_request("disk", &[]));
    bytes
}

thread_local! {
    static MACHINE: RefCell<Machine> = RefCell::new(Machine::new());
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((first, bytes)) = data.split_first() else { return Corpus::Reject };
    MACHINE.with_borrow_mut(|machine| machine.run(&hello(*first), bytes));
    Corpus::Keep
});
