//! Journals that are damaged, lost, of another size, image or time: none is believed where it says too little.

use super::recording::Recording;
use super::replay_files;
use super::rig::{Files, JOURNAL, Rig};
use super::start::{Shape, Start};
use super::verdict::{Found, Journal, judge, look};
use crate::node::qcow2::tests::bitmaps::opened::options;

const SECTOR: usize = 512;

/// A recording, and what is on its disks at some moment of its load.
struct Crashed {
    recording: Recording,
    event: usize,
    files: Files,
}

impl Crashed {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let shape = if seed.is_multiple_of(2) { Shape::Mapped } else { Shape::Large };
        let recording = Recording::make(seed, Start::new(shape, &mut random));
        let in_load = |event: &usize| recording.phases.at(*event) == "load";
        let events: Vec<usize> = (0..recording.events.len()).filter(in_load).collect();
        let event = random.choice(events).expect("there was a load");
        let files = Files { contents: replay_files(&recording, event), journal: true };
        Self { recording, event, files }
    }

    fn with_journal(&self, journal: Vec<u8>) -> Files {
        let mut files = self.files.clone();
        files.contents[JOURNAL] = journal;
        files
    }

    fn journal(&self) -> Vec<u8> {
        self.files.contents[JOURNAL].clone()
    }

    /// What is believed is right.
    fn look(&self, files: &Files, what: &str) -> Found {
        let found = look(1, files, &self.recording.truth.windows).unwrap();
        let judged = judge(&self.recording, self.event, Journal::Damaged, &found);
        assert!(
            judged.is_ok(),
            "recording {}, event {}, {what}: {}",
            self.recording.seed,
            self.event,
            judged.err().unwrap()
        );
        found
    }

    fn is_lost(&self, files: &Files, what: &str) {
        let found = self.look(files, what);
        let believed: Vec<&String> =
            found.bitmaps.iter().filter(|(_, bitmap)| !bitmap.inconsistent).map(|(name, _)| name).collect();
        assert!(believed.is_empty(), "recording {}, {what}: {believed:?}", self.recording.seed);
    }
}

#[test]
fn a_journal_that_is_not_the_images_own_is_never_believed() {
    for seed in 0..4 {
        let crashed = Crashed::new(seed);
        crashed.is_lost(&Files { journal: false, ..crashed.files.clone() }, "lost");
        crashed.is_lost(&crashed.with_journal(Vec::new()), "empty");
        crashed.is_lost(&crashed.with_journal(vec![0; crashed.journal().len()]), "zeroed");
        crashed.is_lost(&crashed.with_journal(Crashed::new(seed + 2).journal()), "another image's");
        let mut heads = crashed.journal();
        heads[..2 * SECTOR].iter_mut().for_each(|byte| *byte ^= 0x10);
        crashed.is_lost(&crashed.with_journal(heads), "without a head");
    }
}

#[test]
fn a_journal_that_is_damaged_says_too_much_or_nothing() {
    for seed in 0..4 {
        let crashed = Crashed::new(seed);
        let mut random = fastrand::Rng::with_seed(seed);
        let whole = crashed.journal();
        for sector in 0..whole.len() / SECTOR {
            let mut journal = whole.clone();
            journal[sector * SECTOR + random.usize(0..SECTOR)] ^= 1 << random.u8(0..8);
            crashed.look(&crashed.with_journal(journal), &format!("sector {sector} damaged"));
        }
        for length in (0..whole.len()).step_by(SECTOR).chain([700, whole.len() - 1]) {
            crashed.look(&crashed.with_journal(whole[..length].to_vec()), &format!("{length} bytes long"));
        }
        let longer = whole.iter().copied().chain(std::iter::repeat_with(|| random.u8(..)).take(5 * SECTOR)).collect();
        crashed.look(&crashed.with_journal(longer), "longer");
    }
}

/// Somebody keeps a copy of an image that was not closed, opens the image, and then uses the copy after all.
#[test]
fn a_journal_that_was_begun_anew_does_not_go_with_an_older_copy_of_its_image() {
    for seed in 0..4 {
        let crashed = Crashed::new(seed);
        let mut rig = Rig::new(1, &crashed.files);
        rig.open().unwrap();
        let newer = rig.files().contents[JOURNAL].clone();
        crashed.is_lost(&crashed.with_journal(newer), "a newer one");
    }
}

/// Another program, or this one without a journal, has opened the image in between.
#[test]
fn what_was_opened_without_its_journal_is_inconsistent_for_ever() {
    for seed in 0..4 {
        let crashed = Crashed::new(seed);
        let mut rig = Rig::new(1, &crashed.files);
        rig.open_with(options(false)).unwrap();
        crashed.is_lost(&rig.files(), "opened without it");
        rig.close();
        crashed.is_lost(&rig.files(), "opened and closed without it");
    }
}
