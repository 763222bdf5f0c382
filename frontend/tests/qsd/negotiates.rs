//! Session: features, configuration, memory messages, configuration changes.

use std::time::Duration;

use tidemark_frontend::{
    Device, DeviceOptions, Error, MemoryMessages, ProtocolFeatures, RegionSpec, Request, Status, feature,
};

use crate::daemon::{Daemon, PATIENCE};

#[test]
fn the_configuration_space_tells_size_and_queues() {
    let daemon = Daemon::with_file(3 << 20, 0);
    let config = daemon.connect(DeviceOptions::default()).config().unwrap();
    assert_eq!(config.capacity_bytes(), 3 << 20);
    assert_eq!(config.blk_size, 512);
    assert_eq!(config.num_queues, 4);
    assert!(config.max_discard_sectors > 0 && config.max_write_zeroes_sectors > 0);
}

#[test]
fn only_what_is_asked_for_is_acknowledged() {
    let daemon = Daemon::with_file(1 << 20, 0);
    let options = DeviceOptions::default().with_feature(feature::EVENT_IDX | feature::DISCARD, false);
    let mut device = daemon.connect(options);
    assert_eq!(device.features() & (feature::EVENT_IDX | feature::DISCARD), 0);
    assert_ne!(device.features() & feature::WRITE_ZEROES, 0);
    assert_eq!(device.session().queue_count().unwrap(), 4);
}

#[test]
fn a_required_feature_that_is_missing_ends_the_connection() {
    let daemon = Daemon::with_file(1 << 20, 0);
    let options = DeviceOptions { required_features: feature::RO, ..DeviceOptions::default() };
    let path = daemon.disk().with_file_name("socket");
    match Device::connect(path, options) {
        Err(Error::MissingFeatures { missing, .. }) => assert_eq!(missing, feature::RO),
        other => panic!("connected to a writable disk as if it were read-only: {:?}", other.err()),
    }
}

#[test]
fn connecting_to_nobody_ends_at_the_deadline_with_the_path() {
    let options = DeviceOptions { connect_timeout: Duration::from_millis(30), ..DeviceOptions::default() };
    let error = Device::connect("/nonexistent/socket", options).err().unwrap();
    assert_eq!(error.to_string(), "cannot connect to /nonexistent/socket");
}

#[test]
fn memory_may_be_announced_in_any_order_and_either_way() {
    let low = RegionSpec { addr: 0, len: 2 << 20 };
    let high = RegionSpec { addr: 4 << 30, len: 2 << 20 };
    for memory in [vec![low, high], vec![high, low]] {
        for memory_messages in [MemoryMessages::Table, MemoryMessages::Slots] {
            let daemon = Daemon::with_file(1 << 20, 0x5a);
            let memory = memory.clone();
            let mut device = daemon.connect(DeviceOptions { memory, memory_messages, ..DeviceOptions::default() });
            read_into(&mut device, low.addr + (1 << 20));
            read_into(&mut device, high.addr + (1 << 20));
        }
    }
}

#[test]
fn a_plugged_region_carries_data_and_can_be_unplugged() {
    let daemon = Daemon::with_file(1 << 20, 0x5a);
    let mut device = daemon.connect(DeviceOptions::default());
    assert!(device.session().protocol_features().contains(ProtocolFeatures::CONFIGURE_MEM_SLOTS));
    device.add_region(RegionSpec { addr: 1 << 32, len: 1 << 20 }).unwrap();
    read_into(&mut device, 1 << 32);
    device.remove_region(1 << 32).unwrap();
    assert!(device.memory().region(1 << 32, 1).is_err());
}

#[test]
fn a_resize_arrives_as_a_configuration_change() {
    let daemon = Daemon::with_file(1 << 20, 0);
    let mut device = daemon.connect(DeviceOptions::default());
    let answer = daemon.qmp(r#"{"execute":"block_resize","arguments":{"node-name":"d","size":2097152}}"#);
    assert!(answer.contains("return"), "{answer}");
    let channel = device.session().channel().expect("BACKEND_REQ was negotiated");
    assert!(channel.wait_config_change(PATIENCE).unwrap());
    assert_eq!(device.config().unwrap().capacity_bytes(), 2 << 20);
}

fn read_into(device: &mut Device, addr: u64) {
    let mut queue = device.create_queue(0).unwrap();
    device.start_queue(0).unwrap();
    let data = [tidemark_frontend::GuestBuf { addr, len: 4096 }];
    let done = queue.run(&Request::Read { offset: 0, data: &data }, PATIENCE).unwrap();
    assert_eq!(done.status, Status::Ok);
    assert_eq!(device.memory().to_vec(data[0]).unwrap(), vec![0x5a; 4096]);
    device.stop_queue(0).unwrap();
}
