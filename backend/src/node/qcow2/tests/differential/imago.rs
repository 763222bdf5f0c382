//! The disk as `imago` reads it, another implementation of the format.

use super::qemu::Qemu;
use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};

/// All of the image `disk`.
pub fn content(qemu: &Qemu) -> std::io::Result<Vec<u8>> {
    let image = Qcow2::<File>::builder_path(qemu.path("disk")).open(PermissiveImplicitOpenGate::default())?;
    let disk = FormatAccess::new(image);
    let mut bytes = vec![0xee; usize::try_from(disk.size()).unwrap()];
    disk.read(&mut bytes[..], 0)?;
    Ok(bytes)
}
