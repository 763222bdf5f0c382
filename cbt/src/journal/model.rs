//! The Journal ordering under loom: an area is stable before a write into it is submitted, whoever has put it there, and
//! a checkpoint drops nothing that the bitmaps lack.

use super::{AreaSector, Areas};
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::{Bitmap, Granularity};
use loom::model::Builder;
use loom::sync::Arc;

/// Of the disk and of its areas: two of them.
const AREA: u64 = 1 << 20;
const NUMBER: u64 = 7;

/// A disk of two areas with one bitmap. What is stable is only ordered by what the journal orders.
struct Disk {
    /// The first words of the journal's two halves.
    halves: [AtomicU64; 2],
    live: AtomicU64,
    /// The bitmap as it was stored last: a bit per area.
    saved: AtomicU64,
    /// Areas that were written to.
    written: AtomicU64,
    dirty: Bitmap,
    /// Of those who write to the journal.
    turn: Mutex<()>,
    /// What a hold waits for.
    seat: Mutex<Arc<Areas>>,
}

impl Disk {
    fn new() -> Arc<Self> {
        let area = Granularity::new(AREA).unwrap();
        let zero = || AtomicU64::new(0);
        Arc::new(Self {
            halves: [zero(), zero()],
            live: AtomicU64::new(1),
            saved: zero(),
            written: zero(),
            dirty: Bitmap::new(2 * AREA, area).unwrap(),
            turn: Mutex::new(()),
            seat: Mutex::new(Arc::new(Areas::new(1, 2 * AREA, area).unwrap())),
        })
    }

    fn areas(&self) -> Arc<Areas> {
        self.seat.lock().unwrap().clone()
    }

    fn write_lacking(&self, areas: &Areas) {
        let sectors: Vec<AreaSector> = areas.lacking(NUMBER);
        for sector in &sectors {
            self.halves[usize::from(sector.generation % 2 == 1)].store(sector.words[0], Ordering::Relaxed);
        }
        areas.stable(&sectors);
    }

    fn cover(&self, areas: &Arc<Areas>, offset: u64) {
        areas.want(offset, 1);
        let _turn = self.turn.lock().unwrap();
        if !areas.cover(offset, 1) && Arc::ptr_eq(areas, &self.areas()) {
            self.write_lacking(areas);
        }
    }

    /// A write, as a queue submits it.
    fn write(&self, area: u64) {
        let offset = area * AREA;
        loop {
            let areas = {
                let areas = self.seat.lock().unwrap();
                if areas.cover(offset, 1) {
                    self.dirty.mark(offset, 1);
                    self.written.fetch_or(1 << area, Ordering::Relaxed);
                    self.judge(area);
                    return;
                }
                areas.clone()
            };
            self.cover(&areas, offset);
        }
    }

    fn checkpoint(&self) {
        let turn = self.turn.lock().unwrap();
        let last = self.areas();
        let next = Arc::new(Areas::new(2, 2 * AREA, last.area()).unwrap());
        next.want_touched_of(&last);
        self.write_lacking(&next);
        *self.seat.lock().unwrap() = next;
        drop(turn);
        let marked = (0..2).filter(|area| self.dirty.is_marked(area * AREA));
        self.saved.store(marked.map(|area| 1 << area).sum(), Ordering::Relaxed);
        let _turn = self.turn.lock().unwrap();
        self.live.store(2, Ordering::Relaxed);
        let written = self.written.load(Ordering::Relaxed);
        (0..2).filter(|area| written >> area & 1 == 1).for_each(|area| self.judge(area));
    }

    /// What an opening after a power cut would find.
    fn judge(&self, area: u64) {
        let live = self.live.load(Ordering::Relaxed);
        let halves = [2, 1].into_iter().filter(|generation| *generation >= live);
        let found = halves.map(|generation| self.halves[usize::from(generation % 2 == 1)].load(Ordering::Relaxed));
        let found = found.fold(self.saved.load(Ordering::Relaxed), |all, half| all | half);
        assert!(found >> area & 1 == 1, "area {area} is lost");
    }
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    // There are many words to look at: more than this finds nothing else, and takes hours.
    builder.preemption_bound = Some(2);
    builder.check(model);
}

#[test]
fn an_area_is_stable_before_a_write_into_it_is_submitted() {
    explore(|| {
        let disk = Disk::new();
        let other = disk.clone();
        let writer = loom::thread::spawn(move || other.write(0));
        disk.write(0);
        writer.join().unwrap();
    });
}

#[test]
fn a_checkpoint_drops_nothing_that_the_stored_bitmap_lacks() {
    explore(|| {
        let disk = Disk::new();
        let other = disk.clone();
        let writer = loom::thread::spawn(move || {
            other.write(0);
            other.write(1);
        });
        disk.checkpoint();
        writer.join().unwrap();
    });
}
