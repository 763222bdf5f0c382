//! A disk that nobody uses costs nothing, before and after it was used.

use std::thread;
use std::time::Duration;

use tidemark_frontend::{DeviceOptions, Notify};

use super::daemon::{Daemon, FILE};
use super::load::Load;

/// CPU ticks used in a quiet time, which starts after a moment for what was going on to end.
fn quiet_ticks(daemon: &Daemon) -> u64 {
    thread::sleep(Duration::from_millis(300));
    let before = daemon.cpu_ticks();
    thread::sleep(Duration::from_secs(3));
    daemon.cpu_ticks() - before
}

#[test]
fn an_idle_guest_costs_no_cpu_time_before_and_after_load() {
    for (daemon, notify) in [(Daemon::serve(&[]), Notify::Wait), (Daemon::with_node(FILE, ""), Notify::Poll)] {
        assert_eq!(quiet_ticks(&daemon), 0, "nobody is connected");
        let mut device = daemon.connect(DeviceOptions::default().with_queues(4, 64).with_notify(notify));
        let mut load = Load::new(&mut device, 4, 6);
        assert_eq!(quiet_ticks(&daemon), 0, "connected");
        let before = daemon.cpu_ticks();
        load.steps(20_000);
        assert!(daemon.cpu_ticks() > before, "work costs something");
        load.drain();
        assert_eq!(quiet_ticks(&daemon), 0, "after load");
        drop((device, load));
        assert_eq!(quiet_ticks(&daemon), 0, "after the guest left");
    }
}
