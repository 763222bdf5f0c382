//! Making a ring with the best flags this kernel has, and telling an operator why it has none.

use crate::error::GraphError;
use io_uring::IoUring;
use std::io;

type Flags = fn(&mut io_uring::Builder);

/// Newest first; each step drops what older kernels lack (6.1; 5.19; 5.18).
const STEPS: [Flags; 4] = [
    |b| {
        b.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all().setup_no_sqarray();
    },
    |b| {
        b.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all();
    },
    |b| {
        b.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
    },
    |_| {},
];

/// A ring with `entries` submission and `completions` completion entries.
pub fn build(entries: u32, completions: u32) -> io::Result<IoUring> {
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for step in STEPS {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(completions).setup_clamp().dontfork();
        step(&mut builder);
        match builder.build(entries) {
            Ok(ring) => return Ok(ring),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// The operator's explanation of a refused ring.
pub fn explain(error: io::Error) -> GraphError {
    let why = match error.raw_os_error() {
        Some(libc::EPERM) => match std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
            Ok(value) if value.trim() != "0" => format!(
                "io_uring is switched off by sysctl kernel.io_uring_disabled={}; set it to 0 (or add this user's \
                 group to kernel.io_uring_group)",
                value.trim()
            ),
            _ => "a seccomp filter refuses io_uring_setup; allow io_uring_setup, io_uring_enter and \
                  io_uring_register in the container's or service's profile"
                .to_owned(),
        },
        Some(libc::ENOSYS) => "this kernel is built without CONFIG_IO_URING, or a seccomp filter hides it".to_owned(),
        Some(libc::ENOMEM) => "no memory for the ring; raise RLIMIT_MEMLOCK (ulimit -l)".to_owned(),
        _ => crate::error::errno_text(&error),
    };
    GraphError::Uring(format!("Cannot set up io_uring: {why}"))
}

/// Errors of an enter that only mean "come again": a signal, a passed deadline, a completion ring to be emptied first.
///
/// # Panics
/// On any other error: a ring that was set up and given valid entries has no other.
pub fn tolerate(error: &io::Error) {
    let code = error.raw_os_error().unwrap_or(0);
    let again = [libc::EINTR, libc::ETIME, libc::EBUSY, libc::EAGAIN, libc::ENOMEM];
    assert!(again.contains(&code), "io_uring_enter: {error}");
}
