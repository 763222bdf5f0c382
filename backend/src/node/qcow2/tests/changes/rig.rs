//! An image with its change journal's file, and the raw file that has its data if it has one, on the simulated kernel.

use crate::io::FileId;
use crate::io::sim::World;
use crate::node::qcow2::changes::{ChangesOptions, CrashSafe, OpenFile, Wanted, data_state};
use crate::node::qcow2::header::Header;
use crate::node::qcow2::journal::tie::Tie;
use crate::node::qcow2::open::{OpenError, Options};
use crate::node::qcow2::tests::bitmaps::opened::options;
use crate::node::qcow2::tests::machine::Machine;
use crate::node::{Driver, Node};
use std::path::PathBuf;
use std::sync::Arc;

/// Numbers of the files.
pub const IMAGE: usize = 0;
pub const JOURNAL: usize = 1;
pub const DATA: usize = 2;
/// The journal, for the simulator.
pub const JOURNAL_FILE: FileId = FileId(1);
/// Where the autoclear bits are in an image.
const AUTOCLEAR: usize = 88;

/// What is on the disks.
#[derive(Clone)]
pub struct Files {
    pub contents: Vec<Vec<u8>>,
    /// The journal's file is there.
    pub journal: bool,
}

pub struct Rig {
    pub machine: Machine,
    has_data: bool,
}

impl Rig {
    pub fn new(seed: u64, files: &Files) -> Self {
        let rig = Self { machine: Machine::new(seed, &files.contents, 1), has_data: files.contents.len() > DATA };
        if !files.journal {
            std::fs::remove_file(path(&rig.machine.file(JOURNAL))).unwrap();
        }
        rig.adopt_data();
        rig
    }

    /// The data file is another one here: what the image knows of its last change is put right.
    fn adopt_data(&self) {
        let (file, mut content) = (FileId(0), self.machine.world.content(FileId(0)));
        let cluster = usize::try_from(Header::cluster_size(&content).unwrap()).unwrap();
        let mut header = Header::parse(&content[..cluster.min(content.len())], content.len() as u64).unwrap();
        let tie = header.tie();
        if tie.data_left {
            let number = data_state(&self.machine.file(DATA)).unwrap();
            header.set_tie(Tie { number, ..tie });
            content[AUTOCLEAR..AUTOCLEAR + 8].copy_from_slice(&header.autoclear.to_be_bytes());
            self.machine.world.add_disk(file, content, 1);
        }
    }

    pub fn world(&self) -> World {
        self.machine.world.clone()
    }

    /// Opens the image, whose changes are to survive a power cut.
    pub fn open(&mut self) -> Result<(), OpenError> {
        let node = self.machine.file(JOURNAL);
        let path = path(&node);
        let file: OpenFile = Arc::new(move |wanted| {
            if wanted != Wanted::Found && !path.exists() {
                std::fs::write(&path, []).unwrap();
            }
            Ok(path.exists().then(|| node.clone()))
        });
        let changes = Some(ChangesOptions { crash_safe: CrashSafe::Power, demanded: false, file });
        self.open_with(Options { changes, ..options(false) })
    }

    pub fn open_with(&mut self, options: Options) -> Result<(), OpenError> {
        let data = self.has_data.then(|| self.machine.file(DATA));
        self.machine.open_over(data, None, options)
    }

    pub fn node(&self) -> Arc<Node> {
        self.machine.node.clone().unwrap()
    }

    pub fn has_journal_file(&self) -> bool {
        path(&self.machine.file(JOURNAL)).exists()
    }

    /// What programs find on the disks.
    pub fn files(&self) -> Files {
        Files { contents: self.machine.contents(), journal: self.has_journal_file() }
    }

    /// Stores the bitmaps and closes the image.
    pub fn close(&mut self) {
        let node = self.node();
        let stored = self.machine.run(move |io| async move {
            let Driver::Qcow2(image) = node.driver() else { panic!("no image") };
            image.store_bitmaps(&io, node.points()).await
        });
        stored.unwrap();
        self.machine.close().unwrap();
    }
}

fn path(node: &Node) -> PathBuf {
    let Driver::File(file) = node.driver() else { panic!("no file") };
    file.path().into()
}
