//! No wake-up is lost and no message: by model under loom, by load without it.

use super::*;

#[cfg(loom)]
mod model {
    use super::*;
    use loom::sync::atomic::AtomicUsize;

    struct Counter(AtomicUsize);

    impl Ring for Counter {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_sender_and_a_sleeper_never_miss_each_other() {
        loom::model(|| {
            let bell = Arc::new(Bell::new(Counter(AtomicUsize::new(0))));
            let mail = Arc::new(Mailbox::new(bell.clone()));
            let sender = {
                let mail = mail.clone();
                loom::thread::spawn(move || mail.send(1))
            };
            bell.arm();
            let awake = mail.is_filled();
            sender.join().unwrap();
            let rung = bell.ringer().0.load(Ordering::SeqCst) > 0;
            assert!(awake || rung, "asleep with a letter in the box");
            assert_eq!(mail.take(), [1]);
        });
    }
}

#[cfg(not(loom))]
#[test]
fn messages_of_two_senders_arrive_in_each_senders_order() {
    struct Nobody;
    impl Ring for Nobody {
        fn ring(&self) {}
    }
    let mail = Arc::new(Mailbox::new(Arc::new(Bell::new(Nobody))));
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        for sender in 0..2u32 {
            let mail = mail.clone();
            scope.spawn(move || (0..10_000u32).for_each(|n| mail.send((sender, n))));
        }
        while seen.len() < 20_000 {
            seen.extend(mail.take());
        }
    });
    for sender in 0..2 {
        let order: Vec<u32> = seen.iter().filter(|(from, _)| *from == sender).map(|(_, n)| *n).collect();
        assert!(order.is_sorted() && order.len() == 10_000);
    }
}
