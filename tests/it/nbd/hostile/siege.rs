//! A guest at work while hundreds of hostile clients are at the NBD server: how long its requests take with and without
//! them, and what the daemon has kept of it all when they have gone.
//!
//! `HOSTILE_SECONDS` and `HOSTILE_CONNECTIONS` make it larger than what is needed to find mistakes (`make nbd-hostile`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tidemark_frontend::Status;

use super::super::site::Site;
use super::Scene;
use super::attack::attack;
use crate::cli::process::wait_until;
use crate::vhost::daemon::DISK;

/// What the heap may keep of it all when the server's threads have ended, in bytes.
const KEPT: u64 = 2 << 20;
/// After that threads of the server have ended that have nothing to do.
const THREADS_END: Duration = Duration::from_secs(7);

/// With and without, this many times.
const PAIRS: u32 = 12;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().expect("a number"))
}

/// Bytes of memory that the daemon has (proc(5), `VmRSS`).
pub fn resident(site: &Site) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", site.daemon.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("KiB") * 1024
}

/// The 99th percentile of a guest's requests of 4 KiB, one at a time, in microseconds.
fn p99(scene: &mut Scene, time: Duration, rng: &mut Rng) -> f64 {
    let end = Instant::now() + time;
    let mut times = Vec::new();
    while Instant::now() < end {
        let offset = rng.u64(8..DISK / 4096) * 4096;
        let begin = Instant::now();
        if rng.bool() {
            assert_eq!(scene.guest.write(offset, &[7; 4096]), Status::Ok);
        } else {
            scene.guest.read(offset, 4096);
        }
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    times[times.len() * 99 / 100]
}

/// One phase with clients at work; how much they did.
fn under_attack(scene: &mut Scene, connections: usize, time: Duration, rng: &mut Rng) -> (f64, u64) {
    let (over, acts) = (AtomicBool::new(false), AtomicU64::new(0));
    let socket = scene.site.file("nbd");
    let seed = rng.u64(..);
    let found = thread::scope(|scope| {
        scope.spawn(|| attack(&socket, connections, seed, &over, &acts));
        // All of them are there.
        wait_until("the clients", || acts.load(Ordering::Relaxed) > 3 * connections as u64);
        let found = p99(scene, time, rng);
        scene.goes_on("an attack");
        over.store(true, Ordering::Relaxed);
        found
    });
    (found, acts.load(Ordering::Relaxed))
}

/// The geometric mean of ratios and its 95 % interval, by drawing from them again and again.
fn interval(ratios: &[f64], rng: &mut Rng) -> (f64, f64, f64) {
    let mean = |draw: &mut dyn FnMut(usize) -> f64| {
        let logs: f64 = (0..ratios.len()).map(|index| draw(index).ln()).sum();
        (logs / ratios.len() as f64).exp()
    };
    let mut means: Vec<f64> = (0..2000).map(|_| mean(&mut |_| ratios[rng.usize(..ratios.len())])).collect();
    means.sort_by(f64::total_cmp);
    (mean(&mut |index| ratios[index]), means[50], means[1949])
}

#[test]
fn a_daemon_besieged_by_hostile_clients_serves_its_guest_and_keeps_nothing_of_them() {
    let seconds = from_environment("HOSTILE_SECONDS", 1);
    let connections = usize::try_from(from_environment("HOSTILE_CONNECTIONS", 100)).unwrap();
    let phase = Duration::from_secs(seconds) / PAIRS;
    let mut rng = Rng::with_seed(6);
    let mut scene = Scene::new(", 'max-connections': 0");
    let files = |scene: &Scene| scene.site.daemon.open_files();
    // What is taken once and for good: pages of the program, and what the allocator keeps of a thread that goes on.
    p99(&mut scene, phase, &mut rng);
    scene.goes_on("nothing");
    println!("bytes and descriptors of a new daemon: {:?}", (resident(&scene.site), files(&scene)));
    under_attack(&mut scene, connections, phase, &mut rng);
    thread::sleep(THREADS_END);
    let before = (resident(&scene.site), files(&scene));
    let (mut ratios, mut acts) = (Vec::new(), 0);
    for _ in 0..PAIRS {
        let (besieged, done) = under_attack(&mut scene, connections, phase, &mut rng);
        let alone = p99(&mut scene, phase, &mut rng);
        println!("p99 {besieged:.0} us with {connections} hostile connections, {alone:.0} us without");
        ratios.push(besieged / alone);
        acts += done;
    }
    let (mean, low, high) = interval(&ratios, &mut rng);
    println!("p99 with them is {mean:.2} times that without (95 %: {low:.2} to {high:.2}); they did {acts} things");
    wait_until("the descriptors", || files(&scene) <= before.1);
    println!("bytes and descriptors before: {before:?}");
    wait_until("the memory", || resident(&scene.site) <= before.0 + KEPT);
    // What goes on going is told, too.
    thread::sleep(Duration::from_secs(seconds.min(15)));
    let after = (resident(&scene.site), files(&scene));
    println!("bytes and descriptors after: {after:?}");
    scene.goes_on("the siege");
}
