//! A device as the guest keeps it: memory, queues and the in-flight area, all of which outlive the back-end.
//!
//! [`Device::reconnect`] does what QEMU does when a back-end comes back: the same memory, the same rings, the same
//! eventfds, the in-flight area handed over, each ring resumed at its used index. It knows no request; queues may be
//! running in other threads meanwhile.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserInflight;

use crate::config::BlkConfig;
use crate::doorbell::Doorbell;
use crate::error::{Error, Result};
use crate::features::{ProtocolFeatures, feature};
use crate::inflight::Inflight;
use crate::memory::{Arena, GuestMemory, Region, RegionSpec};
use crate::options::{DeviceOptions, Notify};
use crate::queue::Queue;
use crate::ring::{Ring, RingLayout};
use crate::session::Session;

/// A vhost-user-blk device seen from the guest.
pub struct Device {
    path: PathBuf,
    options: DeviceOptions,
    session: Session,
    memory: GuestMemory,
    arena: Arena,
    queues: Vec<Vring>,
    inflight: Option<Inflight>,
}

/// What of a queue is needed to start its back-end half, again and again.
struct Vring {
    index: u16,
    ring: Ring,
    doorbell: Doorbell,
    started: bool,
}

impl Device {
    /// Connects, negotiates, creates guest memory and shares it. No queue runs yet.
    ///
    /// # Errors
    /// As [`Session::connect`]; [`Error::Region`] for impossible memory.
    pub fn connect(path: impl AsRef<Path>, options: DeviceOptions) -> Result<Device> {
        let memory = GuestMemory::new(&options.memory)?;
        let first = options.memory.first().ok_or(Error::Invalid { what: "number of memory regions", value: 0 })?;
        let arena = Arena::new(*first);
        let path = path.as_ref().to_owned();
        let session = Session::connect(&path, &options)?;
        let mut device = Device { path, options, session, memory, arena, queues: Vec::new(), inflight: None };
        device.set_up()?;
        Ok(device)
    }

    /// The connection, for messages one at a time.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Guest memory as of now; a snapshot.
    pub fn memory(&self) -> GuestMemory {
        self.memory.clone()
    }

    /// What is left of the first region, for data buffers.
    pub fn arena(&mut self) -> &mut Arena {
        &mut self.arena
    }

    /// The in-flight area, if INFLIGHT_SHMFD was negotiated.
    pub fn inflight(&self) -> Option<&Inflight> {
        self.inflight.as_ref()
    }

    /// Features acknowledged.
    pub fn features(&self) -> u64 {
        self.session.features()
    }

    /// Reads the configuration space.
    ///
    /// # Errors
    /// [`Error::Message`].
    pub fn config(&mut self) -> Result<BlkConfig> {
        self.session.config()
    }

    /// Creates queues 0 to `options.queues` and starts them.
    ///
    /// # Errors
    /// [`Error::ArenaFull`], [`Error::Message`].
    pub fn start(&mut self) -> Result<Vec<Queue>> {
        let queues = (0..self.options.queues).map(|index| self.create_queue(index)).collect::<Result<Vec<_>>>()?;
        (0..self.options.queues).try_for_each(|index| self.start_queue(index))?;
        Ok(queues)
    }

    /// Creates a queue in guest memory. The back-end does not know of it before [`Device::start_queue`], so a test
    /// can fill the ring first.
    ///
    /// # Errors
    /// [`Error::ArenaFull`], or [`Error::Invalid`] for an impossible queue size.
    pub fn create_queue(&mut self, index: u16) -> Result<Queue> {
        let layout = RingLayout::alloc(self.options.queue_size, &mut self.arena)?;
        let features = self.session.features();
        let ring = Ring::new(&self.memory, layout, features & feature::EVENT_IDX != 0)?;
        let segments = (features & feature::INDIRECT_DESC != 0).then_some(self.options.max_segments);
        let queue = Queue::new(index, ring.clone(), self.options.notify, segments, &mut self.arena)?;
        queue.start_quietly()?;
        self.queues.retain(|vring| vring.index != index);
        self.queues.push(Vring { index, ring, doorbell: queue.doorbell().clone(), started: false });
        Ok(queue)
    }

    /// Starts a created queue, or one that was stopped, at its used index, and kicks it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a queue that was not created; [`Error::Message`].
    pub fn start_queue(&mut self, index: u16) -> Result<()> {
        let notify = self.options.notify;
        let vring = find(&mut self.queues, index)?;
        let queue = usize::from(index);
        self.session.set_vring(index, &vring.ring, vring.ring.used_idx()?)?;
        let frontend = self.session.frontend();
        if notify != Notify::PollWithoutCall {
            frontend.set_vring_call(queue, vring.doorbell.call_fd()).map_err(Error::message("SET_VRING_CALL"))?;
        }
        frontend.set_vring_err(queue, vring.doorbell.error_fd()).map_err(Error::message("SET_VRING_ERR"))?;
        frontend.set_vring_kick(queue, vring.doorbell.kick_fd()).map_err(Error::message("SET_VRING_KICK"))?;
        vring.started = true;
        let doorbell = vring.doorbell.clone();
        if self.session.features() & feature::PROTOCOL_FEATURES != 0 {
            self.enable_queue(index, true)?;
        }
        doorbell.kick()
    }

    /// Enables or disables a queue's ring (SET_VRING_ENABLE) without stopping it.
    ///
    /// # Errors
    /// [`Error::Message`].
    pub fn enable_queue(&mut self, index: u16, on: bool) -> Result<()> {
        let frontend = self.session.frontend();
        frontend.set_vring_enable(usize::from(index), on).map_err(Error::message("SET_VRING_ENABLE"))
    }

    /// Stops a queue; the back-end answers with its next avail index once nothing of it is in flight.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a queue that was not created; [`Error::Message`].
    pub fn stop_queue(&mut self, index: u16) -> Result<u32> {
        find(&mut self.queues, index)?.started = false;
        self.session.frontend().get_vring_base(usize::from(index)).map_err(Error::message("GET_VRING_BASE"))
    }

    /// Plugs a region of memory (ADD_MEM_REG).
    ///
    /// # Errors
    /// [`Error::Region`]; [`Error::Message`], also without CONFIGURE_MEM_SLOTS.
    pub fn add_region(&mut self, spec: RegionSpec) -> Result<()> {
        let region = Arc::new(Region::new(spec)?);
        let memory = self.memory.with(Arc::clone(&region))?;
        self.session.add_region(&region)?;
        self.memory = memory;
        Ok(())
    }

    /// Unplugs the region at `addr` (REM_MEM_REG). No request in flight may use it.
    ///
    /// # Errors
    /// [`Error::BadAddress`]; [`Error::Message`], also without CONFIGURE_MEM_SLOTS.
    pub fn remove_region(&mut self, addr: u64) -> Result<()> {
        let region = Arc::clone(self.memory.region(addr, 1)?);
        self.session.remove_region(&region)?;
        self.memory = self.memory.without(region.spec().addr);
        Ok(())
    }

    /// Resets the device and negotiates memory and features anew. Queues must be created again.
    ///
    /// # Errors
    /// [`Error::Message`], also without RESET_DEVICE.
    pub fn reset(&mut self) -> Result<()> {
        let features = self.session.features();
        let frontend = self.session.frontend();
        frontend.reset_device().map_err(Error::message("RESET_DEVICE"))?;
        frontend.set_features(features).map_err(Error::message("SET_FEATURES"))?;
        self.queues.clear();
        self.inflight = None;
        self.set_up()
    }

    /// Whether the back-end hung up.
    pub fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    /// Connects to the back-end's successor and resumes every started queue where its used ring stands.
    ///
    /// # Errors
    /// As [`Session::connect`]; [`Error::MissingFeatures`] if the successor offers less than was negotiated.
    pub fn reconnect(&mut self) -> Result<()> {
        let features = self.session.features();
        let mut options = self.options.clone();
        (options.features, options.required_features) = (features, features);
        self.session = Session::connect(&self.path, &options)?;
        self.set_up()?;
        let started: Vec<u16> = self.queues.iter().filter(|vring| vring.started).map(|vring| vring.index).collect();
        started.into_iter().try_for_each(|index| self.start_queue(index))
    }

    /// In-flight area first, then memory: the order in which QEMU starts a device.
    fn set_up(&mut self) -> Result<()> {
        if self.session.protocol_features().contains(ProtocolFeatures::INFLIGHT_SHMFD) {
            if self.inflight.is_none() {
                let wanted = VhostUserInflight::new(0, 0, self.options.queues, self.options.queue_size);
                let frontend = self.session.frontend();
                let (given, file) = frontend.get_inflight_fd(&wanted).map_err(Error::message("GET_INFLIGHT_FD"))?;
                self.inflight = Some(Inflight::new(file, &given));
            }
            if let Some(inflight) = &self.inflight {
                let frontend = self.session.frontend();
                let fd = inflight.file().as_raw_fd();
                frontend.set_inflight_fd(&inflight.message(), fd).map_err(Error::message("SET_INFLIGHT_FD"))?;
            }
        }
        self.session.share_memory(&self.memory, self.options.memory_messages)
    }
}

fn find(queues: &mut [Vring], index: u16) -> Result<&mut Vring> {
    let unknown = Error::Invalid { what: "queue", value: u64::from(index) };
    queues.iter_mut().find(|vring| vring.index == index).ok_or(unknown)
}
