//! Who comes first where several threads want one processor: those that guests wait for, or those that only want to get on.
//!
//! The first ask for short turns, so that they have the processor as soon as there is something for them to do. The others
//! are content with a smaller share: a guest that sends one request after the other would otherwise have to wait for them
//! whenever it has used up its own. Where nobody else wants the processor neither makes a difference. Linux has turns of
//! chosen lengths since 6.12, shares (nice values) always.
#![allow(unsafe_code)]

/// Nanoseconds of the shortest turn that the kernel has (`sched_setattr(2)`).
const SHORT: u64 = 100_000;
/// What is added to a nice value: a third of the weight. More would let a job stand behind whatever else the machine does.
const NICER: i32 = 5;
/// The highest nice value.
const NICE_MAX: i32 = 19;

/// Asks for short turns for the calling thread.
pub fn take_short_turns() {
    change(|attributes| attributes.sched_runtime = SHORT);
}

/// Asks for a smaller share for the calling thread.
pub fn let_others_go_first() {
    change(|attributes| attributes.sched_nice = attributes.sched_nice.saturating_add(NICER).min(NICE_MAX));
}

/// Changes what the system has been told about the calling thread, unless an operator has chosen another scheduler for it.
fn change(edit: impl FnOnce(&mut libc::sched_attr)) {
    let Some(mut attributes) = attributes() else { return };
    edit(&mut attributes);
    // SAFETY: the kernel reads a structure that says how long it is.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if done != 0 {
        tracing::debug!("a thread is scheduled as before: {}", std::io::Error::last_os_error());
    }
}

/// What the system has been told about the calling thread, if the usual scheduler has it.
fn attributes() -> Option<libc::sched_attr> {
    let mut attributes = std::mem::MaybeUninit::<libc::sched_attr>::zeroed();
    let size = size_of::<libc::sched_attr>();
    // SAFETY: the kernel writes at most `size` bytes, all zeroes being a value.
    let (told, attributes) = unsafe {
        let told = libc::syscall(libc::SYS_sched_getattr, 0, attributes.as_mut_ptr(), size, 0);
        (told, attributes.assume_init())
    };
    let usual = u32::try_from(libc::SCHED_OTHER).ok()?;
    (told == 0 && attributes.sched_policy == usual).then_some(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the turns of a thread are that has asked like this, and its share.
    fn after(asks: fn()) -> Option<(u64, i32)> {
        let asked = move || {
            asks();
            attributes().map(|attributes| (attributes.sched_runtime, attributes.sched_nice))
        };
        std::thread::spawn(asked).join().unwrap()
    }

    #[test]
    fn a_thread_that_guests_wait_for_has_shorter_turns_and_one_that_works_for_itself_a_smaller_share() {
        // Whoever runs this may have chosen another scheduler, or have a kernel that does not tell.
        let Some((turn, nice)) = after(|| {}).filter(|(turn, _)| *turn > 0) else {
            println!("not tested: this kernel does not tell how long turns are, or another scheduler was chosen");
            return;
        };
        assert_eq!(after(take_short_turns), Some((SHORT, nice)));
        assert_eq!(after(let_others_go_first), Some((turn, (nice + NICER).min(NICE_MAX))));
        assert_eq!(after(|| {}), Some((turn, nice)), "the one that asked has ended");
    }
}
