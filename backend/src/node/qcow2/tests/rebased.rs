//! An image that leaves what is below it: all is copied, stable, named no more, and then gone. Whenever the power is cut,
//! the image over what its header names is the disk.

use super::machine::Machine;
use super::model::{SECTOR, bytes};
use super::random::check;
use crate::io::{Buf, Memory};
use crate::node::qcow2::open::Options;
use crate::node::{Driver, Kind, Node, Request};
use crate::reactor::Handle;
use std::process::Command;
use std::sync::Arc;

/// Sectors of the disk.
const SECTORS: usize = 96;

/// An image of small clusters over a raw file, and what the disk is.
fn files() -> (Vec<Vec<u8>>, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let (image, base) = (directory.path().join("image"), directory.path().join("base"));
    let values = (0..SECTORS).map(|sector| if sector % 24 < 8 { 0 } else { sector as u64 + 1 });
    let content: Vec<u8> = values.flat_map(|value| bytes(value, 1)).collect();
    std::fs::write(&base, &content).unwrap();
    let size = (SECTORS * SECTOR).to_string();
    let options = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "-F", "raw", "-b"];
    let made = Command::new("qemu-img").args(options).arg(&base).arg(&image).arg(size).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    ([image, base].map(|path| std::fs::read(path).unwrap()).to_vec(), content)
}

fn options() -> Options {
    let (read_only, pass_discard) = (false, false);
    Options { read_only, l2_cache_bytes: 0, refcount_cache_bytes: 0, pass_discard, journal: None, changes: None }
}

/// What a stream does to the image, in its order.
async fn leave(io: Handle, node: Arc<Node>) {
    let Driver::Qcow2(image) = node.driver() else { unreachable!("made in open") };
    node.populate(&io, 0, node.length(), &mut None).await.unwrap();
    node.handle(&io, Request::flush()).await.1.unwrap();
    image.name_backing(&io, None).await.unwrap();
    image.change_backing(None);
}

fn content(machine: &mut Machine) -> Vec<u8> {
    let (node, len) = (machine.node.clone().unwrap(), SECTORS * SECTOR);
    let memory = Memory::from(Buf::new(len));
    let read = Request { kind: Kind::Read, fua: false, offset: 0, len: len as u64, memory };
    let (memory, result) = machine.run(move |io| async move { node.handle(&io, read).await });
    result.unwrap();
    memory.into_buf().unwrap().as_slice().to_vec()
}

#[test]
fn a_power_cut_at_any_step_of_leaving_what_is_below_leaves_the_disk() {
    let (files, expected) = files();
    let mut ends = [0, 0];
    for seed in 0..4 {
        for cut in 0.. {
            let mut machine = Machine::new(seed, &files, 1);
            machine.open(options()).unwrap();
            let node = machine.node.clone().unwrap();
            let task = machine.start(move |io| leave(io, node));
            let mut steps = 0;
            while steps < cut && task.borrow().is_none() {
                machine.step();
                steps += 1;
            }
            let done = task.borrow().is_some();
            let after = machine.cut_power();
            assert_eq!(check(&after).1, 0, "cut {cut}");
            let mut machine = Machine::new(seed, &after, 1);
            let named = u64::from_be_bytes(after[0][8..16].try_into().unwrap()) != 0;
            machine.open_over(None, named.then(|| machine.file(1)), options()).unwrap();
            assert!(content(&mut machine) == expected, "cut {cut} of {seed}, named: {named}");
            ends[usize::from(named)] += 1;
            if done {
                break;
            }
        }
    }
    assert!(ends.iter().all(|count| *count > 0), "{ends:?}");
}
