//! The half that writes: any number of tasks, whole messages, in order.

use super::Link;
use super::outbox::{Delivery, Letter};
use crate::error::IoError;
use crate::io::{Buf, Memory};
use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;

/// A way to write to a connection.
#[derive(Clone)]
pub struct Writer(Rc<Link>);

impl Writer {
    pub(super) fn new(link: Rc<Link>) -> Self {
        Self(link)
    }

    /// Sends `head` and then all of `payload`, as one message that no other comes into. Its place in the order is that of
    /// the call. The payload comes back when the system has taken it, or the connection has failed.
    pub fn write(&self, head: &[u8], payload: Memory) -> impl Future<Output = (Memory, Result<(), IoError>)> + use<> {
        let head = if head.is_empty() { Memory::empty() } else { Buf::copy_of(head).into() };
        let delivery = Rc::new(RefCell::new(Delivery::Waits(None)));
        self.0.post(Letter { head, payload, delivery: delivery.clone() });
        std::future::poll_fn(move |cx| {
            let mut delivery = delivery.borrow_mut();
            match std::mem::replace(&mut *delivery, Delivery::Taken) {
                Delivery::Ended(payload, result) => Poll::Ready((payload, result)),
                _ => {
                    *delivery = Delivery::Waits(Some(cx.waker().clone()));
                    Poll::Pending
                }
            }
        })
    }

    /// Says that no more comes, after all that was written: under TLS the other side can tell that from a cut.
    ///
    /// # Errors
    /// The connection's.
    pub async fn finish(&self) -> Result<(), IoError> {
        self.write(&[], Memory::empty()).await.1?;
        if let Some(crypt) = &self.0.crypt {
            crypt.borrow_mut().close();
            self.0.answer();
        }
        self.write(&[], Memory::empty()).await.1
    }

    /// Ends the connection both ways, at once.
    pub fn shutdown(&self) {
        self.0.socket.shutdown();
    }
}
