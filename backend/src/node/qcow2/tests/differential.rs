//! Random requests of two queues to images of every kind, beside everybody else who knows the format: a plain model says
//! what each read has to find; when the image is closed, QEMU and `imago` have to find the same, in the image and in its
//! snapshots, and `qemu-img check` nothing wrong and nothing leaked. A copy of the files made at any moment, as a daemon
//! that is killed leaves them, has all that was flushed.

mod coverage;
mod imago;
mod life;
mod load;
mod origin;
mod qemu;

use coverage::Coverage;
use std::time::Instant;

/// What came of all sequences.
#[derive(Default)]
struct Total {
    coverage: Coverage,
    operations: u64,
    copies: u64,
    snapshots: u64,
    /// Disks that were read by `imago`, too.
    imago: u64,
    /// Images with what it does not know: zstd, extended entries.
    not_by_imago: u64,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn images_agree_with_the_model_and_imago_and_qemu_whatever_two_queues_do() {
    let (start, seeds) = (number("START", 1), number("SEEDS", 60));
    let (mut total, began) = (Total::default(), Instant::now());
    for seed in start..start + seeds {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| life::live(seed, &mut total)));
        assert!(result.is_ok(), "seed {seed}");
        if seed % 1000 == 0 {
            println!("seed {seed}, {} s", began.elapsed().as_secs());
        }
    }
    let Total { coverage, operations, copies, snapshots, imago, not_by_imago } = &total;
    println!("{seeds} sequences from seed {start} on, {operations} operations, {snapshots} snapshots");
    println!(
        "{copies} copies under load; {imago} disks read by imago, too, not {not_by_imago} with what it does not know"
    );
    println!("{coverage}");
    let empty = coverage.empty();
    assert!(empty.is_empty() || seeds < ENOUGH, "nothing has tried {empty:?}");
}

/// Sequences that come to every cell of the table.
const ENOUGH: u64 = 60;
