//! What is told of an image, for people: the lines of `qemu-img info`.

use super::size::size;
use super::snapshots;
use crate::inspect::printable;
use qmp_lite::block::image::{
    BlockGraphInfo, ImageInfo, ImageInfoSpecific, ImageInfoSpecificData, ImageInfoSpecificQCow2, Qcow2BitmapInfo,
};
use std::fmt::Display;

/// Lines, each with what stands before it.
struct Lines {
    indent: usize,
    text: String,
}

impl Lines {
    fn say(&mut self, line: impl Display) {
        self.text += &format!("{:indent$}{line}\n", "", indent = self.indent);
    }

    fn say_if(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.say(format_args!("{name}: {value}"));
        }
    }

    fn inside(&mut self, tell: impl FnOnce(&mut Self)) {
        self.indent += 4;
        tell(self);
        self.indent -= 4;
    }
}

/// An image, and the file that it is in.
pub fn text(info: &BlockGraphInfo) -> String {
    let mut lines = Lines { indent: 0, text: String::new() };
    image(&mut lines, &info.image, ["image", "file format", "virtual size"]);
    for child in &info.children {
        lines.say(format_args!("Child node '/{}':", child.name));
        lines.inside(|lines| image(lines, &child.info.image, ["filename", "protocol type", "file length"]));
    }
    lines.text
}

fn image(lines: &mut Lines, info: &ImageInfo, [name, format, length]: [&str; 3]) {
    lines.say(format_args!("{name}: {}", info.filename));
    lines.say(format_args!("{format}: {}", info.format));
    lines.say(format_args!("{length}: {} ({} bytes)", size(info.virtual_size), info.virtual_size));
    lines.say(format_args!("disk size: {}", info.actual_size.map_or("unavailable".to_owned(), size)));
    if let Some(cluster) = info.cluster_size {
        lines.say(format_args!("cluster_size: {cluster}"));
    }
    if info.dirty_flag == Some(true) {
        lines.say("cleanly shut down: no");
    }
    backing(lines, info);
    if let Some(list) = &info.snapshots {
        lines.say("Snapshot list:");
        snapshots::table(list).iter().for_each(|line| lines.say(line));
    }
    if let Some(ImageInfoSpecific { branch: ImageInfoSpecificData::Qcow2(specific), .. }) = &info.format_specific {
        lines.say("Format specific information:");
        lines.inside(|lines| qcow2(lines, &specific.data));
    }
}

fn backing(lines: &mut Lines, info: &ImageInfo) {
    let Some(name) = &info.backing_filename else { return };
    let actual = match &info.full_backing_filename {
        Some(full) if full != name => format!(" (actual path: {})", printable(full)),
        Some(_) => String::new(),
        None => " (cannot determine actual path)".to_owned(),
    };
    lines.say(format_args!("backing file: {}{actual}", printable(name)));
    if let Some(format) = &info.backing_filename_format {
        lines.say(format_args!("backing file format: {}", printable(format)));
    }
}

/// In QEMU's order.
fn qcow2(lines: &mut Lines, info: &ImageInfoSpecificQCow2) {
    lines.say(format_args!("compat: {}", info.compat));
    lines.say(format_args!("compression type: {}", info.compression_type.text()));
    lines.say_if("lazy refcounts", info.lazy_refcounts);
    if let Some(list) = &info.bitmaps {
        bitmaps(lines, list);
    }
    lines.say(format_args!("refcount bits: {}", info.refcount_bits));
    lines.say_if("data file", info.data_file.as_deref().map(printable));
    lines.say_if("data file raw", info.data_file_raw);
    lines.say_if("corrupt", info.corrupt);
    lines.say_if("extended l2", info.extended_l2);
}

fn bitmaps(lines: &mut Lines, bitmaps: &[Qcow2BitmapInfo]) {
    lines.say("bitmaps:");
    lines.inside(|lines| {
        for (index, bitmap) in bitmaps.iter().enumerate() {
            lines.say(format_args!("[{index}]:"));
            lines.inside(|lines| {
                lines.say("flags:");
                let flags = bitmap.flags.iter().enumerate();
                lines.inside(|lines| {
                    flags.for_each(|(index, flag)| lines.say(format_args!("[{index}]: {}", flag.text())))
                });
                lines.say(format_args!("name: {}", printable(&bitmap.name)));
                lines.say(format_args!("granularity: {}", bitmap.granularity));
            });
        }
    });
}
