//! The device that a front-end configures: answers to each vhost-user message (docs/interop/vhost-user.rst).
//!
//! Knows what is negotiated, the memory table and the rings; drives queue threads through [`Vring`]. Every refusal is an
//! `Error::ReqHandlerError`, so that the session can tell it from a broken conversation.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vhost::vhost_user::message::{
    FrontendReq, VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg, VhostUserSingleMemoryRegion,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures};

use super::super::ExportShared;
use super::super::config::{self, DeviceFacts, PROTOCOL_FEATURES};
use super::super::inflight::InflightArea;
use super::super::memory::{MAX_REGIONS, MemTable, MemoryFault, RegionSpec};
use super::super::ring::MAX_QUEUE_SIZE;
use super::channel::Header;
use super::vring::{Addresses, Common, Vring};

/// The state of a session.
pub(super) struct Device {
    export: Arc<ExportShared>,
    fault: Arc<MemoryFault>,
    memory: Arc<MemTable>,
    inflight: Option<Arc<InflightArea>>,
    features: u64,
    protocol_features: u64,
    /// What the driver wrote to `wce`, once it did.
    driver_wce: Option<bool>,
    vrings: Vec<Vring>,
}

impl Device {
    /// A device nothing is known of; the write cache is as the operator said.
    pub(super) fn new(export: Arc<ExportShared>, fault: Arc<MemoryFault>) -> Device {
        let device = Device {
            memory: Arc::new(MemTable::empty(fault.clone())),
            fault,
            inflight: None,
            features: 0,
            protocol_features: 0,
            driver_wce: None,
            vrings: (0..export.num_queues).map(Vring::new).collect(),
            export,
        };
        device.export.wce.store(!device.export.writethrough, Ordering::Relaxed);
        device
    }

    /// Whether the session can go on after `error`: it is a refusal of ours, the front-end heard of it or does not wait
    /// for anything, and what it concerns is not the memory that everything else depends on.
    pub(super) fn may_go_on(&self, header: &Header, error: &Error) -> bool {
        let is_refusal = matches!(error, Error::ReqHandlerError(_));
        let replies = self.protocol_features & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0;
        let waits_for_more = matches!(
            header.request(),
            Some(FrontendReq::GET_VRING_BASE | FrontendReq::GET_INFLIGHT_FD | FrontendReq::GET_FEATURES) | None
        );
        let is_local = matches!(
            header.request(),
            Some(
                FrontendReq::SET_CONFIG
                    | FrontendReq::SET_VRING_KICK
                    | FrontendReq::SET_VRING_CALL
                    | FrontendReq::SET_VRING_ERR
                    | FrontendReq::SET_VRING_ENABLE
            )
        );
        is_refusal && !waits_for_more && (is_local || (replies && header.needs_reply()))
    }

    /// The vring with this index and what it needs to start.
    fn vring(&mut self, index: u32) -> io::Result<(&mut Vring, Common<'_>)> {
        let common = Common {
            export: &self.export,
            memory: &self.memory,
            inflight: self.inflight.as_ref(),
            features: self.features,
        };
        let vring = usize::try_from(index).ok().and_then(|index| self.vrings.get_mut(index));
        Ok((vring.ok_or_else(|| invalid(format!("there is no virtqueue {index}")))?, common))
    }

    /// Uses another table; returns once every running queue does.
    fn use_memory(&mut self, table: MemTable) {
        self.memory = Arc::new(table);
        self.vrings.iter().for_each(|vring| vring.set_memory(&self.memory));
    }

    /// Virtio 1.2, section 5.2.5: a driver that can neither flush nor choose gets no cache; one that may choose starts
    /// without one if it cannot flush.
    fn update_write_cache(&self) {
        let wanted = self.driver_wce.unwrap_or_else(|| config::starts_with_write_cache(self.features));
        self.export.wce.store(wanted && !self.export.writethrough, Ordering::Relaxed);
    }

    /// Stops all queues; waits for their I/O. All stop fetching before the first is waited for.
    fn stop_all(&mut self) {
        self.vrings.iter_mut().for_each(Vring::disable);
        for vring in &mut self.vrings {
            vring.stop();
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop_all();
    }
}

fn refuse<E: Into<Box<dyn std::error::Error + Send + Sync>>>(error: E) -> Error {
    Error::ReqHandlerError(io::Error::other(error))
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn unsupported<T>(what: &'static str) -> Result<T> {
    Err(Error::ReqHandlerError(io::Error::new(io::ErrorKind::Unsupported, what)))
}

fn spec(region: &VhostUserMemoryRegion) -> RegionSpec {
    RegionSpec {
        guest_addr: region.guest_phys_addr,
        len: region.memory_size,
        user_addr: region.user_addr,
        file_offset: region.mmap_offset,
    }
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    /// Deprecated; "recommended that back-ends either ignore this message, or use it to disable all rings".
    fn reset_owner(&mut self) -> Result<()> {
        self.vrings.iter_mut().for_each(Vring::disable);
        Ok(())
    }

    /// Rings and driver's choices go. Memory and protocol features belong to the connection, which stays: a front-end
    /// that sends single regions does not send the same ones again.
    fn reset_device(&mut self) -> Result<()> {
        self.stop_all();
        self.vrings = (0..self.export.num_queues).map(Vring::new).collect();
        (self.features, self.driver_wce, self.inflight) = (0, None, None);
        self.export.wce.store(!self.export.writethrough, Ordering::Relaxed);
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(config::features(self.export.writable))
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !config::features(self.export.writable);
        if unknown != 0 {
            return Err(refuse(format!("features {unknown:#x} were not offered")));
        }
        if features != self.features {
            let (virtio, protocol) = (config::feature_names(features), self.protocol_features);
            tracing::info!(export = %self.export.id, %virtio, protocol = format_args!("{protocol:#x}"), "negotiated");
        }
        self.features = features;
        self.update_write_cache();
        if features & PROTOCOL_FEATURES == 0 {
            // Without SET_VRING_ENABLE rings start enabled.
            for index in 0..u32::from(self.export.num_queues) {
                let (vring, common) = self.vring(index).map_err(Error::ReqHandlerError)?;
                vring.set_enabled(true, &common).map_err(Error::ReqHandlerError)?;
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        let regions = regions.iter().map(spec).zip(files);
        self.use_memory(MemTable::new(regions, self.fault.clone()).map_err(refuse)?);
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.vring(index).and_then(|(vring, _)| vring.set_size(num)).map_err(Error::ReqHandlerError)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        desc: u64,
        used: u64,
        avail: u64,
        _log: u64,
    ) -> Result<()> {
        if !flags.is_empty() {
            return unsupported("logging of ring writes was not offered");
        }
        let addresses = Addresses { desc, used, avail };
        self.vring(index).and_then(|(vring, _)| vring.set_addresses(addresses)).map_err(Error::ReqHandlerError)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.vring(index).and_then(|(vring, _)| vring.set_base(base)).map_err(Error::ReqHandlerError)
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let (vring, _) = self.vring(index).map_err(Error::ReqHandlerError)?;
        Ok(VhostUserVringState::new(index, u32::from(vring.stop())))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let (vring, common) = self.vring(u32::from(index)).map_err(Error::ReqHandlerError)?;
        vring.set_kick(file, &common).map_err(Error::ReqHandlerError)
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.vring(u32::from(index)).and_then(|(vring, _)| vring.set_call(file)).map_err(Error::ReqHandlerError)
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.vring(u32::from(index)).and_then(|(vring, _)| vring.set_err(file)).map_err(Error::ReqHandlerError)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(config::protocol_features())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let unknown = features & !config::protocol_features().bits();
        if unknown != 0 {
            return Err(refuse(format!("protocol features {unknown:#x} were not offered")));
        }
        self.protocol_features = features;
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(u64::from(self.export.num_queues))
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let (vring, common) = self.vring(index).map_err(Error::ReqHandlerError)?;
        vring.set_enabled(enable, &common).map_err(Error::ReqHandlerError)
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        self.export.refresh_length();
        Ok(DeviceFacts::of(&self.export).config_space(offset as usize, size as usize))
    }

    fn set_config(&mut self, offset: u32, bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        match config::written_wce(offset, bytes) {
            None => Err(refuse(format!("{} bytes at {offset} of the configuration are read-only", bytes.len()))),
            Some(true) if self.export.writethrough => Err(refuse("the export is writethrough")),
            Some(wce) => {
                self.driver_wce = Some(wce);
                self.inflight.iter().for_each(|area| area.set_driver_wce(wce));
                self.update_write_cache();
                Ok(())
            }
        }
    }

    fn get_inflight_fd(&mut self, wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        let (queues, size) = (wanted.num_queues, wanted.queue_size);
        if queues > self.export.num_queues || size > MAX_QUEUE_SIZE {
            return Err(refuse(format!("no in-flight area for {queues} queues of {size}")));
        }
        let (area, file) = InflightArea::create(queues, size, &self.fault).map_err(refuse)?;
        self.driver_wce.iter().for_each(|wce| area.set_driver_wce(*wce));
        self.inflight = Some(area);
        Ok((VhostUserInflight::new(InflightArea::len_for(queues, size), 0, queues, size), file))
    }

    fn set_inflight_fd(&mut self, area: &VhostUserInflight, file: File) -> Result<()> {
        let VhostUserInflight { mmap_size, mmap_offset, num_queues, queue_size } = *area;
        let area = InflightArea::map(&file, mmap_offset, mmap_size, num_queues, queue_size, &self.fault);
        let area = area.map_err(refuse)?;
        self.driver_wce = self.driver_wce.or(area.driver_wce());
        self.inflight = Some(area);
        self.update_write_cache();
        Ok(())
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<u64>> {
        self.use_memory(self.memory.with_region(spec(region), &file).map_err(refuse)?);
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> Result<()> {
        self.use_memory(self.memory.without_region(spec(region)).map_err(refuse)?);
        Ok(())
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> Result<()> {
        unsupported("a block device has no GPU socket")
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        unsupported("shared objects were not offered")
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        unsupported("transfer of device state was not offered")
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported("transfer of device state was not offered")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported("shared memory regions were not offered")
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        unsupported("the dirty log was not offered")
    }
}
