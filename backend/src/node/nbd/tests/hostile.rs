//! Servers that say what they may not: whoever asked learns that it has failed, and nobody is asked again.

use super::machine::Machine;
use super::server::{Answer, CONTEXT, chunk, chunk_of, done};
use crate::error::IoError;
use crate::nbd_wire::transmission::{
    Command, Extent, Headers, Request, chunk_kind, failure, hole, offset_data, simple_reply, status,
};
use std::time::Duration;

/// A command is answered so; it fails, and so does the next one without another connection.
fn refuses(name: &str, command: Command, headers: Headers, answer: Answer) {
    let mut machine = Machine::new(1, headers, Duration::from_secs(5));
    machine.open().unwrap();
    machine.server.answer.set(Some(answer));
    for _ in 0..2 {
        let began = match command {
            Command::Read => machine.begin(command, 4096, Some(vec![0; 4096])),
            _ => machine.begin_bare(command, 4096, 4096),
        };
        assert_eq!(machine.wait(began).result, Err(IoError::Io), "{name} with {headers:?}");
    }
    assert_eq!(machine.server.connections.get(), 1, "{name} with {headers:?}");
}

#[test]
fn replies_that_may_not_be_end_the_connection_for_good() {
    for headers in [Headers::Structured, Headers::Extended] {
        let refuses = |name, command, answer| refuses(name, command, headers, answer);
        refuses("garbage", Command::Read, |_, _| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
        refuses("an unknown cookie", Command::Flush, |request, headers| {
            done(&Request { cookie: request.cookie + 1, ..*request }, headers)
        });
        refuses("data outside of what was asked for", Command::Read, |request, headers| {
            chunk(request, headers, chunk_kind::OFFSET_DATA, &[&offset_data(0)[..], &[1; 512]].concat())
        });
        refuses("more data than was asked for", Command::Read, |request, headers| {
            let payload = [&offset_data(request.offset)[..], &[1; 5000]].concat();
            chunk(request, headers, chunk_kind::OFFSET_DATA, &payload)
        });
        refuses("less data than was asked for", Command::Read, |request, headers| {
            let payload = [&offset_data(request.offset)[..], &[1; 512]].concat();
            chunk(request, headers, chunk_kind::OFFSET_DATA, &payload)
        });
        refuses("the same data twice", Command::Read, |request, headers| {
            let payload = [&offset_data(request.offset)[..], &[1; 4096]].concat();
            let first = chunk_of(request, headers, 0, chunk_kind::OFFSET_DATA, &payload);
            [first, chunk(request, headers, chunk_kind::OFFSET_DATA, &payload)].concat()
        });
        refuses("a hole outside", Command::Read, |request, headers| {
            chunk(request, headers, chunk_kind::OFFSET_HOLE, &hole(u64::MAX - 5, 4096))
        });
        refuses("nothing, with a payload", Command::Flush, |request, headers| {
            chunk(request, headers, chunk_kind::NONE, b"more")
        });
        refuses("nothing, and not the last", Command::Flush, |request, headers| {
            chunk_of(request, headers, 0, chunk_kind::NONE, &[])
        });
        refuses("data for a flush", Command::Flush, |request, headers| {
            chunk(request, headers, chunk_kind::OFFSET_DATA, &[0; 16])
        });
        refuses("the status of another context", Command::BlockStatus, |request, headers| {
            let extents = [Extent { len: 4096, flags: 0 }];
            chunk(request, headers, chunk_kind::BLOCK_STATUS, &status(CONTEXT + 1, &extents, headers))
        });
        refuses("no status", Command::BlockStatus, |request, headers| chunk(request, headers, chunk_kind::NONE, &[]));
        refuses("an endless status", Command::BlockStatus, |request, headers| {
            let mut bytes = chunk(request, headers, chunk_kind::BLOCK_STATUS, &[0; 8]);
            let at = if headers == Headers::Extended { 24 } else { 16 };
            bytes[at..at + 4].fill(if headers == Headers::Extended { 0x7f } else { 0xff });
            bytes.extend([0; 4096]);
            bytes
        });
        refuses("an error that is none", Command::Flush, |request, headers| {
            chunk(request, headers, chunk_kind::ERROR, &failure(0, "", None))
        });
        refuses("an error with an endless message", Command::Flush, |request, headers| {
            chunk(request, headers, chunk_kind::ERROR, &[7; 60_000])
        });
    }
    refuses("a simple reply to a read", Command::Read, Headers::Structured, |request, _| {
        [&simple_reply(request.cookie, 0)[..], &[0; 4096]].concat()
    });
    refuses("a structured reply", Command::Flush, Headers::Simple, |request, _| {
        chunk(request, Headers::Structured, chunk_kind::NONE, &[])
    });
}

#[test]
fn an_error_of_the_server_is_that_of_the_request_alone() {
    for headers in [Headers::Simple, Headers::Structured, Headers::Extended] {
        let mut machine = Machine::new(1, headers, Duration::ZERO);
        machine.open().unwrap();
        machine.server.answer.set(Some(|request, headers| match headers {
            Headers::Simple => simple_reply(request.cookie, 28).to_vec(),
            _ => chunk(request, headers, chunk_kind::ERROR, &failure(28, "full", None)),
        }));
        let refused = machine.begin(Command::Write, 0, Some(vec![1; 512]));
        assert_eq!(machine.wait(refused).result, Err(IoError::NoSpace));
        machine.server.answer.set(None);
        let next = machine.begin(Command::Read, 0, Some(vec![0; 512]));
        assert_eq!(machine.wait(next).result, Ok(()));
    }
}

#[test]
fn whatever_a_server_greets_with_opening_ends() {
    let mut random = fastrand::Rng::with_seed(9);
    let greetings = [
        b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\0\0\0\0\0\0\0\0\0\0".to_vec(),
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec(),
        b"NBDMAGICIHAVEOPT\0\x03\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x0b\0\0\0\x01\xff\xff\xff\xff".to_vec(),
        b"NBDMAGICIHAVEOPT\0\x03\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x63\0\0\0\x01\0\0\0\0".to_vec(),
        Vec::new(),
    ];
    let noise = (0..100).map(|_| {
        let mut bytes = b"NBDMAGICIHAVEOPT\0\x03\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x0b".to_vec();
        bytes.truncate(random.usize(0..bytes.len()));
        let len = random.usize(0..200);
        bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(len));
        bytes
    });
    for greeting in greetings.into_iter().chain(noise.collect::<Vec<_>>()) {
        let mut machine = Machine::new(2, Headers::Structured, Duration::ZERO);
        machine.server.greeting.replace(Some(greeting.clone()));
        assert!(machine.open().is_err(), "{greeting:?}");
    }
}
