//! What a target that is left alone has of requests that were under way then.

use super::*;

#[test]
fn a_target_that_is_left_has_all_of_a_write_or_nothing_also_where_a_discard_was_under_way() {
    let (all, part) = (0..8192, 2048..2560);
    for seed in 0..10 * seeds().end {
        let mut machine = Machine::new(seed);
        // What a discard leaves is what was written last.
        machine
            .world
            .set_faults_of(machine.files[0], Faults { discard_keeps: true, long_delay: 100, ..Faults::default() });
        let options = options(&mut machine.dice);
        machine.mirror(MirrorOptions { granularity: 512, copy_mode: CopyMode::WriteBlocking, ..options });
        machine.until_ready();
        machine.drain();
        machine.send(Kind::Write, all.clone(), 251);
        machine.drain();
        machine.command(Command::Cancel { force: false });
        let mut byte = 0;
        while machine.status().is_some() {
            let is_asked = |range: &Range<usize>| machine.asked.iter().any(|asked| asked.range == *range);
            if !is_asked(&part) {
                machine.send(Kind::Discard, part.clone(), 0);
            } else if !is_asked(&all) {
                byte = byte % 250 + 1;
                machine.send(Kind::Write, all.clone(), byte);
            }
            machine.step(false);
        }
        let target = machine.world.content(machine.files[1]);
        let whole = |(at, byte): (usize, &u8)| *byte == target[0] || part.contains(&at) && *byte == 0;
        assert!(target[all.clone()].iter().enumerate().all(whole), "seed {seed}: a part of a write");
    }
}
