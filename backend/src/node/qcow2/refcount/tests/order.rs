//! What is on the disk after a power cut or a full disk, and with several at it at once.

use super::counts::{counts, geometry, number};
use super::machine::{Machine, image, leaks};
use crate::error::IoError;
use crate::io::sim::Faults;
use crate::node::qcow2::refcount::{Refcounts, Run};
use crate::node::qcow2::store::Store;
use crate::reactor::Handle;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

/// 64 clusters a block, 64 blocks a table of one cluster: something new is needed often.
fn small() -> Vec<u8> {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| image("cluster_size=512,refcount_bits=64", "1M")).clone()
}

/// What somebody holds, and which of it has to be on the disk.
#[derive(Default)]
struct Ledger {
    held: Vec<Run>,
    stable: BTreeSet<u64>,
}

fn hosts(runs: &[Run]) -> BTreeSet<u64> {
    runs.iter().flat_map(|run| (0..run.clusters).map(|number| run.host + number * 512)).collect()
}

/// Takes, frees and writes back at random. What is being freed may be gone from the disk from then on.
async fn work(io: Handle, refcounts: Arc<Refcounts>, store: Store, ledger: Rc<RefCell<Ledger>>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..150 {
        match random.u8(0..8) {
            0 => {
                let held = ledger.borrow().held.clone();
                let written = refcounts.write_back(&io).await;
                if written.is_ok() && store.flush(&io).await.is_ok() {
                    let mut ledger = ledger.borrow_mut();
                    let still_held = hosts(&ledger.held);
                    ledger.stable.extend(hosts(&held).intersection(&still_held));
                }
            }
            1 | 2 if ledger.borrow().held.len() > 4 => {
                let run = {
                    let mut ledger = ledger.borrow_mut();
                    let at = random.usize(0..ledger.held.len());
                    let run = ledger.held.swap_remove(at);
                    hosts(&[run]).iter().for_each(|host| _ = ledger.stable.remove(host));
                    run
                };
                let _ = refcounts.release(&io, run.host, run.clusters).await;
            }
            _ => {
                let count = random.u64(1..90);
                let taken = match random.bool() {
                    true => refcounts.allocate(&io, count).await,
                    false => refcounts.allocate_contiguous(&io, count).await,
                };
                let Ok(run) = taken else { continue };
                let twice = hosts(&ledger.borrow().held).intersection(&hosts(&[run])).count();
                assert_eq!(twice, 0, "{run:?} is somebody else's");
                ledger.borrow_mut().held.push(run);
                let _ = store.grow(&io, run.host + run.clusters * 512).await;
            }
        }
    }
}

/// Every block and the table count themselves, once: they are where the file says.
fn counts_itself(content: &[u8]) -> bool {
    let found = counts(content);
    let (offset, clusters) = (number(content, 48, 8), number(content, 56, 4));
    let entries = (0..clusters * 64).map(|entry| number(content, usize::try_from(offset + entry * 8).unwrap(), 8));
    let blocks = entries.filter(|entry| *entry != 0);
    blocks.chain((0..clusters).map(|number| offset + number * 512)).all(|host| found.get(&host) == Some(&1))
}

#[test]
fn after_a_power_cut_all_that_was_stable_is_counted_and_no_table_is_broken() {
    let (mut tables_moved, mut kept) = (0, 0);
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut machine = Machine::new(seed, small());
        let refcounts = machine.open();
        let filling = refcounts.clone();
        // Not far from where the table has to move.
        let run = machine.run(|io| Box::pin(async move { filling.allocate_contiguous(&io, 3850).await })).unwrap();
        machine.flush(&refcounts).unwrap();
        machine.set_faults(Faults { write_back: random.u16(0..400), ..Faults::default() });
        let ledger = Rc::new(RefCell::new(Ledger { held: vec![run], stable: hosts(&[run]) }));
        let tasks: Vec<_> = (0..2)
            .map(|reactor| {
                let (refcounts, store, ledger) = (refcounts.clone(), machine.store(), ledger.clone());
                machine.begin(reactor, |io| Box::pin(work(io, refcounts, store, ledger, seed * 2 + reactor as u64)))
            })
            .collect();
        for _ in 0..random.u32(1..300) {
            if tasks.iter().all(|task| task.borrow().is_some()) || !machine.step() {
                break;
            }
        }
        let stable = ledger.borrow().stable.clone();
        let content = machine.cut_power();
        let found = counts(&content);
        let lost: Vec<_> = stable.iter().filter(|host| found.get(host) != Some(&1)).collect();
        assert!(lost.is_empty(), "seed {seed}: {lost:?} are stable and not counted");
        assert!(counts_itself(&content), "seed {seed}");
        if seed % 20 == 0 {
            leaks(&content);
        }
        kept += stable.len();
        tables_moved += u32::from(number(&content, 48, 8) != 512);
    }
    println!("{kept} clusters were stable, {tables_moved} tables had moved");
    assert!(tables_moved > 10 && kept > 1000);
}

#[test]
fn several_reactors_take_and_free_at_once_while_others_write_back() {
    for seed in 0..20 {
        let mut machine = Machine::new(seed, small());
        let refcounts = machine.open();
        refcounts.set_cache_size(0);
        let ledger = Rc::<RefCell<Ledger>>::default();
        let tasks: Vec<_> = (0..4)
            .map(|number| {
                let (refcounts, store, ledger) = (refcounts.clone(), machine.store(), ledger.clone());
                machine.begin(number % 2, |io| Box::pin(work(io, refcounts, store, ledger, seed * 4 + number as u64)))
            })
            .collect();
        tasks.iter().for_each(|task| machine.finish(task));
        machine.flush(&refcounts).unwrap();
        let content = machine.content();
        let (found, held) = (counts(&content), hosts(&ledger.borrow().held));
        assert!(held.iter().all(|host| found.get(host) == Some(&1)), "seed {seed}");
        assert_eq!(leaks(&content), held.len() as u64, "seed {seed}");
    }
}

#[test]
fn storage_that_fails_now_and_then_takes_nothing_away() {
    for seed in 0..30 {
        let mut machine = Machine::new(seed, small());
        let refcounts = machine.open();
        refcounts.set_cache_size(0);
        machine.set_faults(Faults { no_space: 100, read_error: 30, short: 50, ..Faults::default() });
        let ledger = Rc::<RefCell<Ledger>>::default();
        let (counting, store, kept) = (refcounts.clone(), machine.store(), ledger.clone());
        machine.run(|io| Box::pin(work(io, counting, store, kept, seed)));
        machine.set_faults(Faults::default());
        machine.flush(&refcounts).unwrap();
        let content = machine.content();
        let (found, held) = (counts(&content), hosts(&ledger.borrow().held));
        assert!(held.iter().all(|host| found.get(host) == Some(&1)), "seed {seed}");
        assert_eq!(geometry(&content).refcount_order, 6);
        leaks(&content);
    }
}

#[test]
fn a_full_disk_takes_nothing_and_it_goes_on_when_there_is_space() {
    let mut machine = Machine::new(5, small());
    let refcounts = machine.open();
    // The first block counts 64 clusters; the next that is needed has to have space.
    let take = |machine: &mut Machine, count| {
        let refcounts = refcounts.clone();
        machine.run(|io| Box::pin(async move { refcounts.allocate_contiguous(&io, count).await }))
    };
    take(&mut machine, 20).unwrap();
    machine.flush(&refcounts).unwrap();
    let before = counts(&machine.content());
    machine.set_faults(Faults { no_space: 1024, ..Faults::default() });
    for count in [100, 5000] {
        assert_eq!(take(&mut machine, count), Err(IoError::NoSpace));
    }
    assert!(!refcounts.is_dirty(), "nothing was taken");
    let small = take(&mut machine, 1).unwrap();
    assert_eq!(machine.flush(&refcounts), Err(IoError::NoSpace));
    assert!(refcounts.is_dirty());
    machine.set_faults(Faults::default());
    let large = take(&mut machine, 5000).unwrap();
    machine.flush(&refcounts).unwrap();
    let found = counts(&machine.content());
    assert!(hosts(&[small, large]).iter().all(|host| found.get(host) == Some(&1) && !before.contains_key(host)));
}
