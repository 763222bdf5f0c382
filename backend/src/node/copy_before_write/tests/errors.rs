//! Copies that fail or take too long.

use super::rig::{CHUNK, GARBAGE, LEN, MS, NEW, Rig, SECOND, Setup, old};
use crate::error::IoError;
use crate::io::sim::Faults;
use crate::node::copy_before_write::{CbwOptions, OnCbwError};
use crate::node::options::Delays;

const BROKEN: Faults = Faults {
    write_error: 1024,
    read_error: 0,
    no_space: 0,
    short: 0,
    flush_error: 0,
    long_delay: 0,
    write_back: 0,
    no_discard: false,
    no_zero: false,
    discard_keeps: false,
    lie: None,
};

fn rig(on_error: OnCbwError, timeout_ns: u64, write: u64) -> Rig {
    let options = CbwOptions { on_error, timeout_ns, min_chunk: 0 };
    Rig::new(Setup { options, target: Delays { write, ..Delays::default() }, ..Setup::default() })
}

fn guest_wrote(rig: &Rig) -> bool {
    rig.source()[..4096].iter().all(|byte| *byte == NEW)
}

#[test]
fn with_break_guest_write_a_write_whose_copy_fails_fails_and_the_past_stays() {
    let mut rig = rig(OnCbwError::BreakGuestWrite, 0, 0);
    rig.break_target(BROKEN);
    assert_eq!(rig.write(0, CHUNK), Err(IoError::Io));
    assert_eq!(rig.source(), old(), "the disk is as it was");
    assert_eq!(rig.read(0, LEN), Ok(old()));
    rig.break_target(Faults::default());
    assert_eq!(rig.write(0, CHUNK), Ok(()), "the chunk is owed again");
    assert!(guest_wrote(&rig));
    assert_eq!(rig.read(0, LEN), Ok(old()));
}

#[test]
fn with_break_guest_write_a_write_whose_old_data_cannot_be_read_fails_too() {
    let mut rig = rig(OnCbwError::BreakGuestWrite, 0, 0);
    rig.world.set_faults_of(rig.file("d"), Faults { read_error: 1024, ..Faults::default() });
    assert_eq!(rig.write(0, 512), Err(IoError::Io));
    assert!(rig.target().iter().all(|byte| *byte == GARBAGE), "nothing was copied");
    assert_eq!(rig.source(), old());
}

#[test]
fn with_break_snapshot_the_write_goes_on_and_nothing_of_the_past_can_be_read_any_more() {
    let mut rig = rig(OnCbwError::BreakSnapshot, 0, 0);
    assert_eq!(rig.write(64 * CHUNK, CHUNK), Ok(()));
    assert_eq!(rig.read(64 * CHUNK, 4096).as_deref(), Ok(&old()[64 * 4096..65 * 4096]));
    rig.break_target(BROKEN);
    assert_eq!(rig.write(0, CHUNK), Ok(()));
    assert!(guest_wrote(&rig));
    for offset in [0, 64 * CHUNK, 200 * CHUNK] {
        assert_eq!(rig.read(offset, 512), Err(IoError::Permission), "overwritten, copied or never touched");
    }
    let copies = rig.copy.copied_for_writes();
    rig.break_target(Faults::default());
    assert_eq!(rig.write(2 * CHUNK, CHUNK), Ok(()));
    assert_eq!(rig.copy.copied_for_writes(), copies, "nothing more is copied for nobody");
    assert_eq!(rig.read(2 * CHUNK, 512), Err(IoError::Permission), "what is lost stays lost");
}

#[test]
fn a_read_of_the_past_that_is_under_way_when_it_is_lost_does_not_return_the_present() {
    for seed in 0..100 {
        let options = CbwOptions { on_error: OnCbwError::BreakSnapshot, ..CbwOptions::default() };
        let mut rig = Rig::new(Setup { seed, options, ..Setup::default() });
        rig.break_target(BROKEN);
        let read = rig.begin_read(1, 0, 16384);
        let write = rig.begin(0, super::rig::write(0, 16384));
        rig.finish(&[&read, &write]);
        let read = super::rig::result(&read);
        assert!(
            read.as_ref().map_or_else(|error| *error == IoError::Permission, |data| *data == old()[..16384]),
            "seed {seed}"
        );
    }
}

#[test]
fn a_dead_target_holds_a_write_up_for_cbw_timeout_and_no_longer() {
    let mut rig = rig(OnCbwError::BreakGuestWrite, SECOND, 10 * SECOND);
    assert_eq!(rig.write(0, CHUNK), Err(IoError::Io));
    assert!((SECOND..1010 * MS).contains(&rig.world.now()));
    assert_eq!(rig.write(512, 512), Err(IoError::Io), "the next one does not wait longer for the same copy");
    assert!((2 * SECOND..2020 * MS).contains(&rig.world.now()));
    assert_eq!(rig.source(), old());
    // The copy goes on behind.
    rig.run_until(11 * SECOND);
    let now = rig.world.now();
    assert_eq!(rig.write(0, CHUNK), Ok(()));
    assert!(rig.world.now() < now + 5 * MS, "its chunk is copied");
    assert_eq!(rig.read(0, LEN), Ok(old()));
}

#[test]
fn a_dead_target_breaks_the_snapshot_after_cbw_timeout_if_that_is_to_break() {
    let mut rig = rig(OnCbwError::BreakSnapshot, SECOND, 10 * SECOND);
    assert_eq!(rig.write(0, CHUNK), Ok(()));
    assert!((SECOND..1010 * MS).contains(&rig.world.now()) && guest_wrote(&rig));
    rig.run_until(11 * SECOND);
    assert_eq!(rig.read(0, 512), Err(IoError::Permission), "what the copy has read is not the past");
    let now = rig.world.now();
    assert_eq!(rig.write(8 * CHUNK, CHUNK), Ok(()));
    assert!(rig.world.now() < now + 5 * MS);
}

#[test]
fn a_filter_is_not_closed_before_its_copies_have_ended() {
    let mut rig = rig(OnCbwError::BreakGuestWrite, SECOND, 10 * SECOND);
    assert_eq!(rig.write(0, CHUNK), Err(IoError::Io));
    rig.guests_leave();
    rig.past = rig.graph.find("d").unwrap();
    rig.close("past").unwrap();
    assert_eq!(rig.close("cbw").unwrap_err().to_string(), "Node cbw is in use");
    assert_eq!(rig.close("t").unwrap_err().to_string(), "Node t is in use");
    rig.run_until(11 * SECOND);
    assert_eq!(rig.target()[..4096], old()[..4096], "the copy has ended");
    rig.close("cbw").unwrap();
    rig.close("t").unwrap();
}
