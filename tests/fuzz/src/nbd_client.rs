//! A server that says what it likes to the driver `nbd`, whose disk is read, written and mapped through an export of it.
//!
//! Whatever it says: nothing panics, takes much memory or time, and every request ends. The input says which form of replies
//! the server has, what it changes in its handshake, and what comes in the place of each reply.

#![no_main]

mod bytes;
mod liar;
mod served;

use liar::Liar;
use libfuzzer_sys::{Corpus, fuzz_target};
use served::Served;
use std::sync::Arc;
use std::time::Duration;
use tidemark_backend::nbd_wire::transmission::Command;
use tidemark_backend::node::nbd::{NbdClientOptions, NbdServer};
use tidemark_backend::node::options::DriverOptions;

fuzz_target!(|data: &[u8]| -> Corpus {
    let liar = Liar::start(data.to_vec());
    let options = NbdClientOptions {
        server: NbdServer::Unix(liar.socket()),
        export: "disk".into(),
        tls_creds: None,
        tls: None,
        tls_hostname: None,
        dirty_bitmap: None,
        reconnect_delay: Duration::ZERO,
        open_timeout: Duration::ZERO,
        connections: 1,
    };
    let served = Served::empty();
    if served.add(DriverOptions::Nbd(Arc::new(options))) {
        let mut client = served.connect();
        served::choose(&mut client);
        for offset in [0, 4096, 100] {
            served::read(&mut client, offset, 4096);
            served::ask(&mut client, Command::Write, offset, 512, &[5; 512]);
        }
        served::ask(&mut client, Command::WriteZeroes, 8192, 4096, &[]);
        served::ask(&mut client, Command::Trim, 8192, 4096, &[]);
        served::ask(&mut client, Command::Flush, 0, 0, &[]);
    }
    drop(served);
    liar.end();
    Corpus::Keep
});
