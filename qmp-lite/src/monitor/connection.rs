//! One client's connection: bytes in, commands run, replies and events out.
//!
//! Knows the socket and its two directions. The reading thread waits for the writing one when the
//! client does not read; nothing else ever waits for this client.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::outbox::Outbox;
use crate::dispatch::Dispatcher;
use crate::session::Session;
use crate::wire::{Reader, to_line, to_pretty_lines};

/// How long a send may wait before the state of the connection is looked at again.
const SEND: Duration = Duration::from_secs(1);

/// How long a client whose requests have ended may take to read what is left.
const LINGER: Duration = Duration::from_secs(5);

/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;

/// A connected client.
pub(super) struct Connection {
    socket: Arc<OwnedFd>,
    outbox: Arc<Outbox>,
}

impl Connection {
    /// A connection over `socket`.
    ///
    /// # Errors
    /// If it is no socket.
    pub(super) fn new(socket: OwnedFd, pretty: bool) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Send, Some(SEND))?;
        let socket = Arc::new(socket);
        let print = if pretty { to_pretty_lines } else { to_line };
        let given_up = socket.clone();
        let outbox = Outbox::new(print, move || hang_up(&given_up, Shutdown::Both));
        Ok(Self { socket, outbox: Arc::new(outbox) })
    }

    /// Ends the requests; replies still go out.
    pub(super) fn hang_up(&self) {
        self.outbox.hurry();
        hang_up(&self.socket, Shutdown::Read);
    }

    /// Serves the client until it hangs up or is hung up on.
    pub(super) fn serve(&self, dispatcher: &Arc<Dispatcher>, stopping: &AtomicBool) {
        std::thread::scope(|scope| {
            let writer = std::thread::Builder::new().name("qmp-write".into());
            if let Err(error) = writer.spawn_scoped(scope, || self.write()) {
                tracing::error!("QMP client refused: {error}");
                return;
            }
            self.read(dispatcher, stopping);
            self.outbox.finish();
        });
        hang_up(&self.socket, Shutdown::Both);
    }

    /// Reads requests and answers them, to the end of the stream.
    fn read(&self, dispatcher: &Arc<Dispatcher>, stopping: &AtomicBool) {
        let mut session = Session::default();
        let mut open = self.outbox.reply(&Session::greeting());
        let mut reader = Reader::default();
        let mut buffer = vec![0; READ_BYTES];
        while open {
            let len = match recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((len, _)) if len > 0 => len,
                Err(Errno::INTR) => continue,
                Ok(_) | Err(_) => break,
            };
            reader.feed(buffer.get(..len).unwrap_or_default(), |request| {
                // What follows a `quit` is not answered.
                if !open || stopping.load(Ordering::Acquire) || dispatcher.context().quit.is_requested() {
                    return;
                }
                let was_negotiated = session.is_negotiated();
                let reply = session.answer(request, dispatcher);
                if session.is_negotiated() && !was_negotiated {
                    dispatcher.context().events.listen(&self.outbox);
                }
                open = self.outbox.reply(&reply);
            });
        }
    }

    /// Sends texts as they come, to the last one or until the client is gone.
    fn write(&self) {
        while let Some(text) = self.outbox.next() {
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                let overdue = self.outbox.hurrying().is_some_and(|since| since > LINGER);
                match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                    Ok(len) if !overdue => {
                        rest = rest.get(len..).unwrap_or_default();
                        self.outbox.sent(len);
                    }
                    Err(Errno::INTR) => {}
                    // Nothing was read for a while. That is the client's right until it is over.
                    Err(Errno::AGAIN) if self.outbox.hurrying().is_none() => {}
                    Ok(_) | Err(_) => {
                        self.outbox.close();
                        hang_up(&self.socket, Shutdown::Both);
                        return;
                    }
                }
            }
        }
    }
}

/// Ends directions of a connection. That the client was faster makes no difference.
fn hang_up(socket: &OwnedFd, how: Shutdown) {
    let _ = shutdown(socket, how);
}
