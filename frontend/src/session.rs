//! One connection to a back-end, from connect to hang-up: the handshake and the messages after it.
//!
//! It holds nothing that outlives the back-end; what does is in [`crate::Device`]. Messages ask for an answer
//! wherever REPLY_ACK was negotiated, so that a refusal is seen at the call that caused it.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost::VhostBackend;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag};
use vhost::vhost_user::{Frontend, VhostUserFrontend};

use crate::channel::BackendChannel;
use crate::config::{BlkConfig, CONFIG_LEN, WCE_OFFSET};
use crate::error::{Error, Result};
use crate::features::{ProtocolFeatures, feature};
use crate::memory::{GuestMemory, Region};
use crate::options::{DeviceOptions, MemoryMessages};
use crate::ring::Ring;

/// More queues than any back-end has; `vhost` wants a number.
const QUEUES_MAX: u64 = 256;

/// A connection whose features are negotiated.
pub struct Session {
    frontend: Frontend,
    stream: UnixStream,
    features: u64,
    protocol_features: ProtocolFeatures,
    channel: Option<BackendChannel>,
}

impl Session {
    /// Connects, retrying until the deadline, and negotiates; no memory, no queue yet.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::MissingFeatures`], [`Error::Message`].
    pub fn connect(path: &Path, options: &DeviceOptions) -> Result<Session> {
        let stream = connect_until(path, Instant::now() + options.connect_timeout)?;
        stream.set_read_timeout(Some(options.reply_timeout)).map_err(Error::system("setting the reply timeout"))?;
        let clone = stream.try_clone().map_err(Error::system("duplicating the socket"))?;
        let mut frontend = Frontend::from_stream(clone, QUEUES_MAX);
        let offered = frontend.get_features().map_err(Error::message("GET_FEATURES"))?;
        let missing = options.required_features & !offered;
        if missing != 0 {
            return Err(Error::MissingFeatures { offered, missing });
        }
        let features = offered & options.features;
        let protocol_features = negotiate_protocol(&mut frontend, features, options)?;
        let channel = open_channel(&mut frontend, protocol_features)?;
        frontend.set_owner().map_err(Error::message("SET_OWNER"))?;
        frontend.set_features(features).map_err(Error::message("SET_FEATURES"))?;
        Ok(Session { frontend, stream, features, protocol_features, channel })
    }

    /// Features acknowledged.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Protocol features acknowledged.
    pub fn protocol_features(&self) -> ProtocolFeatures {
        self.protocol_features
    }

    /// The connection of crate `vhost`, for messages this crate does not send.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// The back-end's channel to us, if negotiated.
    pub fn channel(&mut self) -> Option<&mut BackendChannel> {
        self.channel.as_mut()
    }

    /// Whether the back-end hung up.
    pub fn is_closed(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ended = PollFlags::HUP | PollFlags::ERR;
        poll(&mut fds, Some(&now)).is_err() || fds.iter().any(|fd| fd.revents().intersects(ended))
    }

    /// Number of queues the back-end has; 1 without MQ.
    ///
    /// # Errors
    /// [`Error::Message`].
    pub fn queue_count(&mut self) -> Result<u64> {
        if !self.protocol_features.contains(ProtocolFeatures::MQ) {
            return Ok(1);
        }
        self.frontend.get_queue_num().map_err(Error::message("GET_QUEUE_NUM"))
    }

    /// Reads the configuration space.
    ///
    /// # Errors
    /// [`Error::Message`].
    pub fn config(&mut self) -> Result<BlkConfig> {
        let buf = [0u8; CONFIG_LEN];
        let flags = VhostUserConfigFlags::empty();
        let len = u32::try_from(CONFIG_LEN).unwrap_or(u32::MAX);
        let reply = self.frontend.get_config(0, len, flags, &buf).map_err(Error::message("GET_CONFIG"))?;
        Ok(BlkConfig::from_bytes(&reply.1))
    }

    /// Switches the device's write cache on or off.
    ///
    /// # Errors
    /// [`Error::NotNegotiated`] without CONFIG_WCE; [`Error::Message`].
    pub fn set_write_cache(&mut self, on: bool) -> Result<()> {
        if self.features & feature::CONFIG_WCE == 0 {
            return Err(Error::NotNegotiated("CONFIG_WCE"));
        }
        let flags = VhostUserConfigFlags::WRITABLE;
        self.frontend.set_config(WCE_OFFSET, flags, &[u8::from(on)]).map_err(Error::message("SET_CONFIG"))
    }

    /// Announces guest memory.
    ///
    /// # Errors
    /// [`Error::Message`].
    pub fn share_memory(&mut self, memory: &GuestMemory, messages: MemoryMessages) -> Result<()> {
        let slots = self.protocol_features.contains(ProtocolFeatures::CONFIGURE_MEM_SLOTS);
        if messages == MemoryMessages::Slots && slots {
            return memory.regions().iter().try_for_each(|region| self.add_region(region));
        }
        let table = memory.regions().iter().map(|region| region.message()).collect::<Result<Vec<_>>>()?;
        self.frontend.set_mem_table(&table).map_err(Error::message("SET_MEM_TABLE"))?;
        Ok(())
    }

    /// Announces one more region.
    ///
    /// # Errors
    /// [`Error::Message`], also without CONFIGURE_MEM_SLOTS.
    pub fn add_region(&mut self, region: &Region) -> Result<()> {
        self.frontend.add_mem_region(&region.message()?).map_err(Error::message("ADD_MEM_REG"))?;
        Ok(())
    }

    /// Takes one region back.
    ///
    /// # Errors
    /// [`Error::Message`], also without CONFIGURE_MEM_SLOTS.
    pub fn remove_region(&mut self, region: &Region) -> Result<()> {
        self.frontend.remove_mem_region(&region.message()?).map_err(Error::message("REM_MEM_REG"))
    }

    /// Sends the state of one ring up to, not including, its eventfds.
    ///
    /// # Errors
    /// [`Error::Message`]; [`Error::BadAddress`] if the layout is not in guest memory.
    pub fn set_vring(&mut self, index: u16, ring: &Ring, base: u16) -> Result<()> {
        let (queue, layout) = (usize::from(index), ring.layout());
        self.frontend.set_vring_num(queue, layout.size).map_err(Error::message("SET_VRING_NUM"))?;
        self.frontend.set_vring_base(queue, base).map_err(Error::message("SET_VRING_BASE"))?;
        let addresses = vhost::VringConfigData {
            queue_max_size: layout.size,
            queue_size: layout.size,
            flags: 0,
            desc_table_addr: ring.region().user_addr(layout.desc)?,
            used_ring_addr: ring.region().user_addr(layout.used)?,
            avail_ring_addr: ring.region().user_addr(layout.avail)?,
            log_addr: None,
        };
        self.frontend.set_vring_addr(queue, &addresses).map_err(Error::message("SET_VRING_ADDR"))
    }
}

fn connect_until(path: &Path, deadline: Instant) -> Result<UnixStream> {
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(source) if Instant::now() >= deadline => {
                return Err(Error::Connect { path: path.to_owned(), source });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn negotiate_protocol(frontend: &mut Frontend, features: u64, options: &DeviceOptions) -> Result<ProtocolFeatures> {
    if features & feature::PROTOCOL_FEATURES == 0 {
        return Ok(ProtocolFeatures::empty());
    }
    let offered = frontend.get_protocol_features().map_err(Error::message("GET_PROTOCOL_FEATURES"))?;
    let protocol_features = offered & options.protocol_features;
    frontend.set_protocol_features(protocol_features).map_err(Error::message("SET_PROTOCOL_FEATURES"))?;
    if protocol_features.contains(ProtocolFeatures::REPLY_ACK) {
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    Ok(protocol_features)
}

fn open_channel(frontend: &mut Frontend, features: ProtocolFeatures) -> Result<Option<BackendChannel>> {
    if !features.contains(ProtocolFeatures::BACKEND_REQ) {
        return Ok(None);
    }
    let channel = BackendChannel::new(features.contains(ProtocolFeatures::REPLY_ACK))?;
    frontend.set_backend_request_fd(&channel.backend_end()).map_err(Error::message("SET_BACKEND_REQ_FD"))?;
    Ok(Some(channel))
}

impl AsRawFd for Session {
    fn as_raw_fd(&self) -> i32 {
        self.stream.as_raw_fd()
    }
}
