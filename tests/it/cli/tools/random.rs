//! Random chains of images, made by QEMU.

use super::super::process::Place;
use super::{qemu_img, succeed};

/// Bytes of disks: some are no whole clusters.
const SIZES: [&str; 5] = ["1000448", "1048576", "2000384", "3145728", "5242880"];
/// Bytes of clusters.
const CLUSTERS: [&str; 4] = ["512", "4k", "64k", "2M"];

/// A chain `top` above `mid` above `base`, and `other`, which has nothing to do with them.
pub struct Chain {
    pub place: Place,
    pub base_format: &'static str,
    random: fastrand::Rng,
}

impl Chain {
    /// The chain of a seed.
    pub fn new(seed: u64) -> Self {
        let mut chain = Self { place: Place::new(), base_format: "raw", random: fastrand::Rng::with_seed(seed) };
        if chain.random.bool() {
            let size = chain.size();
            qemu_img(&chain.place, &["create", "-q", "-f", "raw", "base", size]);
            chain.write("base", "raw");
        } else {
            chain.base_format = "qcow2";
            chain.image("base", &[]);
        }
        chain.image("mid", &["-b", "base", "-F", chain.base_format]);
        chain.image("top", &["-b", "mid", "-F", "qcow2"]);
        chain.image("other", &[]);
        chain
    }

    /// A number below another.
    pub fn below(&mut self, end: usize) -> usize {
        self.random.usize(..end)
    }

    /// Bytes of a cluster.
    pub fn cluster(&mut self) -> &'static str {
        CLUSTERS[self.random.usize(..CLUSTERS.len())]
    }

    fn size(&mut self) -> &'static str {
        SIZES[self.random.usize(..SIZES.len())]
    }

    /// Makes an image and writes to it.
    fn image(&mut self, name: &str, backing: &[&str]) {
        let (cluster, size) = (format!("cluster_size={}", self.cluster()), self.size());
        let arguments = [&["create", "-q", "-f", "qcow2", "-o", &cluster], backing, &[name, size]].concat();
        qemu_img(&self.place, &arguments);
        self.write(name, "qcow2");
    }

    /// Writes something, zeroes and discards somewhere; what is past the end of the disk is refused.
    pub fn write(&mut self, name: &str, format: &str) {
        let mut commands = Vec::new();
        for _ in 0..self.random.usize(1..7) {
            let (offset, len) = (self.random.u64(..1800) * 512, self.random.u64(1..150) * 512);
            commands.push(match self.random.u8(..6) {
                0 => format!("write -z {offset} {len}"),
                1 => format!("write -z -u {offset} {len}"),
                2 => format!("discard {offset} {len}"),
                pattern => format!("write -P {} {offset} {len}", pattern - 3),
            });
        }
        if format == "qcow2" && self.random.bool() {
            // Whole clusters of all sizes that are used here but the largest, which that refuses.
            commands.push("write -c -P 9 262144 65536".to_owned());
        }
        let mut arguments = vec!["-f", format];
        commands.iter().for_each(|command| arguments.extend(["-c", command.as_str()]));
        arguments.push(name);
        // A command that is refused makes it fail; the others are done.
        self.place.run("qemu-io", &arguments);
        succeed(&self.place, "qemu-img", &["info", "-f", format, name]);
    }
}
