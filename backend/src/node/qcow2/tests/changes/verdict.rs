//! What an image says after a power cut, and whether it may say so.

use super::disk::{Marks, SECTOR, Windows};
use super::recording::Recording;
use super::rig::{Files, Rig};
use super::start::changed;
use super::truth::{Begun, Said, Version};
use crate::io::{Buf, Memory};
use crate::node::{Kind, Request};
use std::collections::BTreeMap;
use std::ops::Range;

/// A bitmap as it is when the image is open.
pub struct Bitmap {
    pub granularity: u64,
    pub recording: bool,
    pub inconsistent: bool,
    pub marks: Marks,
}

/// An image that has been opened.
pub struct Found {
    pub size: u64,
    pub content: Vec<u64>,
    pub bitmaps: BTreeMap<String, Bitmap>,
}

/// Opens an image as a daemon does after a power cut.
pub fn look(seed: u64, files: &Files, windows: &Windows) -> Result<Found, String> {
    let mut rig = Rig::new(seed, files);
    rig.open().map_err(|error| format!("not opened: {error}"))?;
    let node = rig.node();
    let tracking = node.points().tracking();
    let mut bitmaps = BTreeMap::new();
    for info in tracking.list() {
        let mut marks = Marks::new(info.granularity.into());
        if !info.inconsistent {
            let bits = tracking.content(&info.name).expect("it is in the list");
            let next = |run: &Range<u64>| bits.next_marked(run.end);
            std::iter::successors(bits.next_marked(0), next).for_each(|run| marks.mark(&run));
        }
        let (granularity, recording, inconsistent) = (info.granularity.into(), info.recording, info.inconsistent);
        bitmaps.insert(info.name, Bitmap { granularity, recording, inconsistent, marks });
    }
    let size = node.length();
    let mut content = vec![0; windows.sectors()];
    for (first, bytes) in windows.within(size) {
        for (sector, value) in content[first..].iter_mut().zip(read(&mut rig, bytes)) {
            *sector = value;
        }
    }
    Ok(Found { size, content, bitmaps })
}

fn read(rig: &mut Rig, bytes: Range<u64>) -> Vec<u64> {
    let len = bytes.end - bytes.start;
    let memory = Memory::from(Buf::new(usize::try_from(len).unwrap()));
    let slot = rig.machine.begin(0, Request { kind: Kind::Read, fua: false, offset: bytes.start, len, memory });
    while slot.borrow().is_none() {
        assert!(rig.machine.step() || slot.borrow().is_some(), "a hang");
    }
    let (memory, result) = slot.take().unwrap();
    result.unwrap();
    let sectors = memory.into_buf().unwrap();
    let sectors = sectors.as_slice().chunks(usize::try_from(SECTOR).unwrap());
    sectors.map(|sector| u64::from_le_bytes(*sector.first_chunk().unwrap())).collect()
}

/// What happened to a journal besides a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    Whole,
    /// It may be believed or not, and may say too much.
    Damaged,
}

/// How the bitmaps go on that an image has after a power cut at this event, or what is wrong with them.
pub fn judge(
    recording: &Recording,
    event: usize,
    journal: Journal,
    found: &Found,
) -> Result<BTreeMap<String, Begun>, String> {
    let lives = &recording.truth.lives;
    if let Some(name) = found.bitmaps.keys().find(|name| !lives.contains_key(*name)) {
        return Err(format!("nobody has made {name}"));
    }
    let mut all = BTreeMap::new();
    for (name, life) in lives {
        let acked =
            life.versions.iter().rposition(|version| version.acked.is_some_and(|acked| acked <= event)).unwrap();
        let later = life.versions[acked + 1..].iter().filter(|version| version.from <= event);
        let bitmap = found.bitmaps.get(name);
        if matches!(life.versions[acked].said, Said::Gone) && bitmap.is_some_and(|bitmap| bitmap.inconsistent) {
            // The first bitmap of an image is in it a moment before its journal is named: nobody has been told of it.
            if life.versions.len() > acked + 1 && life.versions[acked + 1].from <= event {
                let granularity = life.granularity;
                all.insert(name.clone(), Begun { granularity, said: Said::Lost, may: Marks::new(granularity) });
                continue;
            }
        }
        let mut wrong = Vec::new();
        let fits = [&life.versions[acked]].into_iter().chain(later).rev().find_map(|version| {
            let granularity = bitmap.map_or(life.granularity, |bitmap| bitmap.granularity);
            fit(recording, (event, journal), found, granularity, version, bitmap).map_err(|why| wrong.push(why)).ok()
        });
        match (fits, bitmap) {
            (None, _) => return Err(format!("{name}: {}", wrong.join("; or "))),
            (Some(Said::Gone), _) => {}
            (Some(said), bitmap) => {
                let (granularity, may) = bitmap.map_or((512, Marks::new(512)), |b| (b.granularity, b.marks.clone()));
                all.insert(name.clone(), Begun { granularity, said, may });
            }
        }
    }
    Ok(all)
}

/// Whether a bitmap may be what an image was to have, and how it goes on then.
fn fit(
    recording: &Recording,
    (event, journal): (usize, Journal),
    found: &Found,
    granularity: u64,
    version: &Version,
    bitmap: Option<&Bitmap>,
) -> Result<Said, String> {
    let truth = &recording.truth;
    let may_be_lost = journal == Journal::Damaged || truth.unsafe_since.iter().any(|events| events.contains(&event));
    let bitmap = match (bitmap, &version.said) {
        (None, Said::Gone) => return Ok(Said::Gone),
        (None, _) if may_be_lost => return Ok(Said::Gone),
        (None, _) => return Err("is gone".into()),
        (Some(_), Said::Gone) => return Err("was removed".into()),
        (Some(bitmap), Said::Lost) if bitmap.inconsistent => return Ok(Said::Lost),
        (Some(_), Said::Lost) => return Err("is believed, and was lost".into()),
        (Some(bitmap), _) if bitmap.inconsistent && may_be_lost => return Ok(Said::Lost),
        (Some(bitmap), _) if bitmap.inconsistent => return Err("is inconsistent".into()),
        (Some(bitmap), _) => bitmap,
    };
    let (must, recording) = match &version.said {
        Said::Recording { base, must } => {
            let mut must = must.clone();
            must.add(&changed(&truth.windows, base, &found.content, found.size, granularity));
            (must, true)
        }
        Said::Exact { must, recording } => (must.clone(), *recording),
        Said::Gone | Said::Lost => unreachable!("handled above"),
    };
    if bitmap.recording != recording {
        return Err(format!("records: {}, and not: {recording}", bitmap.recording));
    }
    if let Some(missed) = must.outside(&bitmap.marks, found.size) {
        return Err(format!("does not mark {missed:#x}"));
    }
    let may = truth.may_mark(version, granularity, event);
    if let Some(marked) =
        bitmap.marks.outside(&may, truth.settled(found.size, event)).filter(|_| journal == Journal::Whole)
    {
        return Err(format!("marks {marked:#x}, where nobody has written"));
    }
    Ok(match &version.said {
        Said::Recording { base, .. } => Said::Recording { base: base.clone(), must },
        _ => Said::Exact { must: bitmap.marks.clone(), recording },
    })
}
