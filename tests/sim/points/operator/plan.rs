//! What to ask for next: transactions of everything that can be done at one point in time.

use super::{Asked, Intent, Job, Kind};
use crate::points::machine::Machine;
use crate::points::setting::{Betrayal, DISKS, Stack};
use crate::points::site::GARBAGE;
use tidemark_backend::node::copy_before_write::CbwOptions;
use tidemark_jobs::action::{Action, BackupOptions, BackupSync, BitmapMode, BitmapName, MergeSource};
use tidemark_jobs::{OnError, Status};

/// The bitmap of which backups are made.
const CHAIN: &str = "chain";

/// A transaction that is being composed: bitmaps come before backups.
#[derive(Default)]
pub(super) struct Draft {
    pub bitmaps: Vec<Action>,
    pub backups: Vec<Action>,
    pub intents: Vec<Intent>,
}

impl Draft {
    /// `into` is added and gets what another bitmap marks.
    pub(super) fn merge(&mut self, node: &str, from: &str, into: &str, granularity: u64) {
        let (name, node) = (into.to_owned(), node.to_owned());
        let granularity = Some(granularity);
        let add = Action::BitmapAdd {
            node: node.clone(),
            name: name.clone(),
            granularity,
            persistent: false,
            disabled: true,
        };
        let sources = vec![MergeSource { node: None, name: from.to_owned() }];
        self.bitmaps.extend([add, Action::BitmapMerge { target: BitmapName { node, name }, sources }]);
    }
}

impl Machine {
    /// Sends a transaction of this and that.
    pub(super) fn transact(&mut self) -> Result<(), String> {
        let mut draft = Draft::default();
        self.clean_up(&mut draft)?;
        let number = self.operator.transactions;
        let jobs = self.operator.jobs.len();
        let doomed = self.random.u8(0..8) == 0;
        let [watch, backup] = [self.random.bool(), self.random.bool()];
        if !doomed && self.random.u8(0..8) == 0 {
            return self.ask_siblings();
        }
        for disk in 0..DISKS {
            if watch && self.random.u8(0..4) > 0 {
                self.plan_watch(disk, &mut draft);
            }
            if backup && self.random.u8(0..4) > 0 {
                self.plan_backup(disk, number, &mut draft);
            }
        }
        let Draft { bitmaps, backups, intents } = draft;
        if bitmaps.is_empty() && backups.is_empty() {
            return Ok(());
        }
        let grouped = bitmaps.is_empty() && self.random.bool();
        let mut actions = bitmaps;
        actions.extend(backups);
        if doomed {
            // Nobody may notice, wherever it fails.
            let at = self.random.usize(0..=actions.len());
            actions.insert(at, Action::Abort);
        }
        self.ask(actions, intents, grouped, doomed.then_some("Abort"));
        if doomed {
            self.forget_plans(jobs);
        }
        Ok(())
    }

    /// Nothing of the last transaction is going to happen.
    fn forget_plans(&mut self, jobs: usize) {
        for job in self.operator.jobs.drain(jobs..) {
            self.site.disks[job.disk].targets[job.target].taken = false;
            if matches!(job.kind, Kind::Base | Kind::Anew(_) | Kind::Link(_)) {
                self.operator.chains[job.disk].busy = false;
            }
        }
        if let Some(Asked { intents, .. }) = self.operator.asked.last_mut() {
            for intent in intents.drain(..) {
                if let Intent::Watch(disk) | Intent::Look { disk, .. } = intent {
                    self.operator.watches[disk].pending = false;
                }
            }
        }
    }

    fn plan_backup(&mut self, disk: usize, transaction: u32, draft: &mut Draft) {
        let free = self.site.disks[disk].targets.iter().position(|target| !target.taken);
        let (Some(target), Some(kind)) = (free, self.choose(disk)) else { return };
        let id = self.operator.name("job");
        let node = self.site.disks[disk].source.node.clone();
        let chain = &mut self.operator.chains[disk];
        match kind {
            Kind::Base if chain.exists => {
                draft.bitmaps.push(Action::BitmapClear(BitmapName { node, name: CHAIN.into() }));
                draft.intents.push(Intent::Clear(disk));
            }
            Kind::Base => {
                let granularity = Some(self.setting.disks[disk].chain_grain);
                let name = CHAIN.into();
                draft.bitmaps.push(Action::BitmapAdd { node, name, granularity, persistent: false, disabled: false });
                draft.intents.push(Intent::Clear(disk));
            }
            Kind::Link(_) => self.plan_link(disk, &node, draft),
            _ => {}
        }
        if matches!(kind, Kind::Base | Kind::Anew(_) | Kind::Link(_)) {
            self.operator.chains[disk].busy = true;
        }
        self.prepare_target(disk, target, kind);
        draft.backups.push(Action::Backup(self.options(disk, &id, target, kind)));
        self.operator.jobs.push(Job {
            id,
            disk,
            target,
            kind,
            transaction,
            cut: None,
            status: Status::Created,
            outcome: None,
            aborting: None,
        });
    }

    fn choose(&mut self, disk: usize) -> Option<Kind> {
        let chain = &self.operator.chains[disk];
        let filter = matches!(self.setting.disks[disk].stack, Stack::Filter { .. });
        let mode = [BitmapMode::OnSuccess, BitmapMode::Never, BitmapMode::Always][self.random.usize(0..3)];
        let anew = if mode == BitmapMode::Never { BitmapMode::OnSuccess } else { mode };
        Some(match self.random.u8(0..12) {
            0 => Kind::Full,
            1 => Kind::Fleece,
            2 if filter => Kind::Past,
            3 if chain.exists && !chain.busy => Kind::Anew(anew),
            4..=10 if chain.base.is_some() && !chain.busy => Kind::Link(mode),
            11 if !chain.busy => Kind::Base,
            _ if !chain.busy && chain.base.is_none() => Kind::Base,
            _ => return None,
        })
    }

    /// A look at what the chain marks, and perhaps a bit less than it should.
    fn plan_link(&mut self, disk: usize, node: &str, draft: &mut Draft) {
        let bits = self.site.graph.find(node).and_then(|node| node.points().tracking().content(CHAIN)).unwrap();
        if self.is_betrayed(Betrayal::LostBit) {
            let grain = bits.granularity().bytes();
            let marked: Vec<u64> =
                (0..bits.len().div_ceil(grain)).map(|at| at * grain).filter(|at| bits.is_marked(*at)).collect();
            if !marked.is_empty() {
                bits.clear_range(marked[self.random.usize(0..marked.len())], grain);
            }
        } else if self.random.u8(0..3) == 0 {
            let into = self.operator.name("look");
            draft.merge(node, CHAIN, &into, bits.granularity().bytes());
            draft.intents.push(Intent::LookAtChain { disk, into });
        }
    }

    fn prepare_target(&mut self, disk: usize, target: usize, kind: Kind) {
        let target = &mut self.site.disks[disk].targets[target];
        target.taken = true;
        let base = self.operator.chains[disk].base.clone().filter(|_| matches!(kind, Kind::Link(_)));
        let content = base.unwrap_or_else(|| vec![GARBAGE; self.world.content(target.file).len()]);
        self.world.add_disk(target.file, content, 1);
        if let Some(Betrayal::Target(lie)) = self.setting.betrayal {
            let faults = tidemark_backend::io::sim::Faults { lie: Some(lie), ..self.setting.target_faults };
            self.world.set_faults_of(target.file, faults);
        }
    }

    fn options(&mut self, disk: usize, id: &str, target: usize, kind: Kind) -> BackupOptions {
        let policies = [OnError::Report, OnError::Ignore, OnError::Stop, OnError::Enospc, OnError::Auto];
        let random = &mut self.random;
        let mut policy = || policies[random.usize(0..policies.len())];
        let (on_source_error, on_target_error) = (policy(), policy());
        let place = &self.site.disks[disk];
        let (sync, mode) = match kind {
            Kind::Full | Kind::Base | Kind::Past => (BackupSync::Full, None),
            Kind::Anew(mode) => (BackupSync::Full, Some(mode)),
            Kind::Link(BitmapMode::OnSuccess) if random.bool() => (BackupSync::Incremental, None),
            Kind::Link(mode) => (BackupSync::Bitmap, Some(mode)),
            Kind::Fleece => (BackupSync::None, None),
        };
        let device = if kind == Kind::Past { format!("past{disk}") } else { place.source.node.clone() };
        BackupOptions {
            job_id: Some(id.to_owned()),
            device,
            target: place.targets[target].name.clone(),
            sync,
            speed: [0, 0, 0, 1 << 20, 16 << 20][random.usize(0..5)],
            bitmap: matches!(kind, Kind::Anew(_) | Kind::Link(_)).then(|| CHAIN.into()),
            bitmap_mode: mode,
            compress: false,
            on_source_error,
            on_target_error,
            auto_finalize: random.u8(0..4) > 0,
            auto_dismiss: random.u8(0..4) > 0,
            filter_node_name: None,
            discard_source: false,
            max_workers: [1, 2, 64][random.usize(0..3)],
            max_chunk: [0, 65536][random.usize(0..2)],
            copying: CbwOptions { min_chunk: [0, 4096, 65536][random.usize(0..3)], ..CbwOptions::default() },
        }
    }
}
