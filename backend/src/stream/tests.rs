//! A connection delivers what was written, in order and in whole messages, whatever pieces it comes in; and when it
//! ends, whoever waits learns of it.

mod machine;

use super::*;
use crate::io::{Buf, FileTable, Memory, Uring, Wait, Workers, byte_count};
use crate::reactor::Reactor;
use machine::{Machine, message, read_message};
use std::cell::Cell;

/// Writers at the same time.
const WRITERS: u64 = 5;
/// Messages of each.
const MESSAGES: u64 = 8;

/// Has many tasks write messages, and reads them until the connection ends; what was read and how each write ended.
fn chatter(machine: &mut Machine, near: Stream, far: Stream) -> (Vec<(u64, u64)>, Vec<bool>) {
    let (read, written) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(Vec::new())));
    let left = Rc::new(Cell::new(WRITERS));
    for writer in 0..WRITERS {
        let (out, written, left) = (near.writer.clone(), written.clone(), left.clone());
        machine.spawn(async move {
            for number in 0..MESSAGES {
                let (head, payload) = message(writer, number);
                let sent = out.write(&head, payload).await.1.is_ok();
                written.borrow_mut().push(sent);
            }
            left.set(left.get() - 1);
            if left.get() == 0 {
                let _ = out.finish().await;
                out.shutdown();
            }
        });
    }
    let (mut incoming, seen, ended) = (far.reader, read.clone(), Rc::new(Cell::new(false)));
    let end = ended.clone();
    machine.spawn(async move {
        while let Ok(got) = read_message(&mut incoming).await {
            seen.borrow_mut().push(got);
        }
        end.set(true);
    });
    machine.run(|| ended.get() && left.get() == 0);
    (read.take(), written.take())
}

fn all_in_order(read: &[(u64, u64)]) -> bool {
    let of = |writer| read.iter().filter(|(from, _)| *from == writer).map(|(_, number)| *number).collect::<Vec<_>>();
    (0..WRITERS).all(|writer| of(writer).iter().copied().eq(0..of(writer).len() as u64))
}

#[test]
fn messages_of_many_writers_arrive_whole_and_each_writers_in_order() {
    let mut whole = 0;
    for seed in 0..60 {
        let (mut machine, near, far) = Machine::plain(seed);
        let (read, written) = chatter(&mut machine, near, far);
        assert!(written.iter().all(|sent| *sent), "seed {seed}");
        assert!(all_in_order(&read), "seed {seed}: {read:?}");
        whole += u64::from(read.len() as u64 == WRITERS * MESSAGES);
    }
    // A shutdown may overtake what is on its way, as a reset does; mostly it does not.
    assert!(whole > 20, "{whole} of 60");
}

#[test]
fn a_connection_cut_at_any_byte_ends_everybodys_waiting_and_no_message_arrives_in_part() {
    let mut random = fastrand::Rng::with_seed(1);
    for seed in 0..200 {
        let (mut machine, near, far) = Machine::plain(seed);
        machine.cut_near_after(random.u64(0..300_000));
        let (read, written) = chatter(&mut machine, near, far);
        assert!(all_in_order(&read), "seed {seed}: {read:?}");
        assert_eq!(written.len() as u64, WRITERS * MESSAGES, "each write has ended");
    }
}

#[test]
fn under_tls_messages_arrive_as_without_it() {
    for seed in 0..10 {
        let (mut machine, near, far) = Machine::secure(seed, None).unwrap();
        let (read, written) = chatter(&mut machine, near, far);
        assert!(written.iter().all(|sent| *sent), "seed {seed}");
        assert!(all_in_order(&read), "seed {seed}: {read:?}");
    }
}

#[test]
fn a_tls_connection_cut_at_any_byte_ends_everybodys_waiting() {
    let mut random = fastrand::Rng::with_seed(2);
    let mut met = 0;
    for seed in 0..30 {
        let Some((mut machine, near, far)) = Machine::secure(seed, Some(random.u64(0..300_000))) else { continue };
        let (read, _) = chatter(&mut machine, near, far);
        assert!(all_in_order(&read), "seed {seed}: {read:?}");
        met += 1;
    }
    assert!(met > 10, "{met} of 30 handshakes");
}

#[test]
fn bytes_that_came_before_the_handshake_are_not_taken_for_what_came_after_it() {
    let (mut machine, near, mut far) = Machine::plain(1);
    let refused = Rc::new(Cell::new(None));
    let slot = refused.clone();
    machine.spawn(async move {
        let _ = near.writer.write(b"reqinjected", Memory::empty()).await;
        let mut request = [0; 3];
        far.reader.read_exact(&mut request).await.unwrap();
        // One more, so that all of it has come.
        while !far.reader.is_filled() {
            let mut more = [0; 1];
            far.reader.read_exact(&mut more).await.unwrap();
        }
        let session = machine::server().session().unwrap();
        slot.set(Some(matches!(far.secure(session).await, Err(SecureError::Injected))));
    });
    machine.run(|| refused.get().is_some());
    assert_eq!(refused.get(), Some(true));
}

/// Both ends of a connection of this machine's kernel on one reactor.
fn real() -> (Reactor, Stream, Stream) {
    let files = Arc::new(FileTable::default());
    let reactor = Reactor::new(Box::new(Uring::new(files.clone(), Workers::new()).unwrap())).unwrap();
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let stream = |socket: std::os::unix::net::UnixStream| {
        // As a listener leaves them.
        socket.set_nonblocking(true).unwrap();
        Stream::plain(reactor.handle(), Arc::new(Socket::new(&files, socket.into()).unwrap()))
    };
    let (near, far) = (stream(near), stream(far));
    (reactor, near, far)
}

#[test]
fn on_kernel_sockets_a_large_message_in_many_segments_arrives() {
    let (mut reactor, near, mut far) = real();
    let (len, parts) = (3 << 20, 1500);
    let done = Rc::new(Cell::new(false));
    let end = done.clone();
    let handle = reactor.handle();
    handle.spawn(async move {
        let part = |number: usize| Memory::from(Buf::copy_of(&vec![u8::try_from(number % 251).unwrap(); len / parts]));
        let whole = Memory::gather((0..parts).map(part).collect());
        let (back, sent) = near.writer.write(b"head", whole).await;
        assert_eq!((back.len(), sent), ((len / parts * parts) as u64, Ok(())));
        near.writer.shutdown();
    });
    handle.spawn(async move {
        let mut head = [0; 4];
        far.reader.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"head");
        let (memory, read) = far.reader.read_memory(Buf::new(len / parts * parts).into()).await;
        assert_eq!(read, Ok(()));
        let mut bytes = vec![0; byte_count(memory.len())];
        memory.copy_to(0, &mut bytes);
        assert!(
            bytes.chunks(len / parts).zip(0..).all(|(part, number): (_, usize)| usize::from(part[0]) == number % 251)
        );
        assert_eq!(far.reader.has_more().await, Ok(false));
        end.set(true);
    });
    while !done.get() {
        reactor.turn(Wait::Forever, || false, |_| ());
    }
}

#[test]
fn a_shutdown_from_another_thread_ends_a_read_that_waits() {
    let (mut reactor, near, mut far) = real();
    let socket = far.reader.link.socket.clone();
    let (done, _open) = (Rc::new(Cell::new(false)), near);
    let end = done.clone();
    reactor.handle().spawn(async move {
        assert_eq!(far.reader.has_more().await, Ok(false));
        end.set(true);
    });
    reactor.turn(Wait::No, || false, |_| ());
    std::thread::spawn(move || socket.shutdown());
    while !done.get() {
        reactor.turn(Wait::Forever, || false, |_| ());
    }
}
