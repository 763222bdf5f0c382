//! Prints the reference of the protocol. `docs/qmp.md` is its output.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(qmp_lite::reference::markdown().as_bytes())
}
