//! What is asked for the commands that change chains of images, with the images `DIR/image`, `DIR/over` and `DIR/top` above
//! each other, and what there has to be before.

use super::bases::Base;

const BELOW: &str = "{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2', 'node-name': 'n', 'file': {'driver': \
                     'file', 'filename': 'DIR/image'}}}";
const BETWEEN: &str = "{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2', 'node-name': 'o', 'file': {'driver': \
                       'file', 'filename': 'DIR/over'}, 'backing': 'n'}}";
const ABOVE: &str = "{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2', 'node-name': 'c', 'file': {'driver': \
                     'file', 'filename': 'DIR/top'}, 'backing': 'o'}}";
// Only then QEMU calls an image by its name, and not by a description of the whole chain.
const NAMED: [&str; 2] = [
    "{'execute': 'change-backing-file', 'arguments': {'device': 'c', 'image-node-name': 'o', 'backing-file': \
     'DIR/image'}}",
    "{'execute': 'change-backing-file', 'arguments': {'device': 'c', 'image-node-name': 'c', 'backing-file': 'DIR/over'}}",
];
const CHAIN: [&str; 5] = [BELOW, BETWEEN, ABOVE, NAMED[0], NAMED[1]];
const APART: &str = "{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2', 'node-name': 'c', 'file': {'driver': \
                     'file', 'filename': 'DIR/over'}, 'backing': null}}";
const EXPORT: &str = "{'execute': 'block-export-add', 'arguments': {'type': 'vhost-user-blk', 'id': 'e', \
                      'node-name': 'n', 'addr': {'type': 'unix', 'path': 'DIR/v.sock'}}}";
const TAKEN: &str = "{'execute': 'blockdev-snapshot-internal-sync', 'arguments': {'device': 'n', 'name': 'kept'}}";

pub const CHAINS: [Base; 9] = [
    Base {
        command: "block-stream",
        members: &[("job-id", "'j'"), ("device", "'c'"), ("base-node", "'n'")],
        setup: &CHAIN,
    },
    Base {
        command: "block-stream",
        members: &[("job-id", "'j'"), ("device", "'c'"), ("base", "'DIR/image'")],
        setup: &CHAIN,
    },
    Base {
        command: "block-stream",
        members: &[("job-id", "'j'"), ("device", "'c'"), ("bottom", "'o'")],
        setup: &CHAIN,
    },
    Base { command: "block-commit", members: &[("job-id", "'j'"), ("device", "'c'")], setup: &CHAIN },
    Base {
        command: "change-backing-file",
        members: &[("device", "'c'"), ("image-node-name", "'o'"), ("backing-file", "'DIR/image'")],
        setup: &CHAIN,
    },
    Base { command: "blockdev-snapshot", members: &[("node", "'n'"), ("overlay", "'c'")], setup: &[BELOW, APART] },
    Base {
        command: "blockdev-snapshot-sync",
        members: &[("node-name", "'n'"), ("snapshot-file", "'DIR/snapshot'"), ("snapshot-node-name", "'c'")],
        setup: &[BELOW, EXPORT],
    },
    Base {
        command: "blockdev-snapshot-internal-sync",
        members: &[("device", "'n'"), ("name", "'s'")],
        setup: &[BELOW],
    },
    Base {
        command: "blockdev-snapshot-delete-internal-sync",
        members: &[("device", "'n'"), ("name", "'kept'")],
        setup: &[BELOW, TAKEN],
    },
];
