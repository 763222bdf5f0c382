//! The command channel to a guest: its second serial port, over a UNIX socket. Knows the protocol of
//! `image/init` and nothing else. A command that does not end in time is a failed test, not a hang.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::process::POLL;

/// What a command did.
pub struct Answer {
    /// Its exit status.
    pub status: i32,
    /// What it printed, standard output and error.
    pub text: String,
}

/// The connected channel. One command at a time.
pub struct Console {
    stream: UnixStream,
    unread: Vec<u8>,
    commands: u32,
}

impl Console {
    /// Connects to QEMU's end of the port and waits until the guest is up.
    pub fn connect(path: &Path, timeout: Duration) -> Self {
        let deadline = Instant::now() + timeout;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "QEMU opened no serial port: {error}"),
            }
            thread::sleep(POLL);
        };
        let mut console = Self { stream, unread: Vec::new(), commands: 0 };
        while console.line(deadline, "the boot of the guest") != "READY" {}
        console
    }

    /// Executes one line of shell in the guest.
    ///
    /// # Panics
    ///
    /// If it has not ended within `timeout`.
    pub fn execute(&mut self, command: &str, timeout: Duration) -> Answer {
        assert!(!command.contains('\n'), "a command is one line: {command}");
        self.commands += 1;
        writeln!(self.stream, "{} {command}", self.commands).expect("the serial port takes a command");
        let end = format!("RC {} ", self.commands);
        let deadline = Instant::now() + timeout;
        let mut text = String::new();
        loop {
            let line = self.line(deadline, command);
            if let Some(status) = line.strip_prefix(&end) {
                return Answer { status: status.parse().expect("a status is a number"), text };
            }
            if let Some(output) = line.strip_prefix('|') {
                text.push_str(output);
                text.push('\n');
            }
        }
    }

    /// Powers the guest off; nothing comes back.
    pub fn power_off(&mut self) {
        self.stream.write_all(b"0 poweroff\n").expect("the serial port takes a command");
    }

    fn line(&mut self, deadline: Instant, awaited: &str) -> String {
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the guest did not end in time: {awaited}\nso far: {}", self.partial());
            self.stream.set_read_timeout(Some(left)).expect("a timeout can be set");
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => panic!("QEMU ended during: {awaited}"),
                Ok(len) => self.unread.extend_from_slice(&chunk[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("the serial port failed during {awaited}: {error}"),
            }
        }
    }

    fn partial(&self) -> String {
        String::from_utf8_lossy(&self.unread).into_owned()
    }
}
