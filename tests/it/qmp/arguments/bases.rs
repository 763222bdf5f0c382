//! What is asked for each command, in each branch, and what there has to be before.
//!
//! Knows requests and names only.

/// A request that is complete without the argument in question.
pub struct Base {
    pub command: &'static str,
    /// The members it has to have, whose values go before those of [`VALUES`]. The first one of a union selects the
    /// branch.
    pub members: &'static [(&'static str, &'static str)],
    /// Requests before it; after ` until STATUS` its job has to come to that status.
    pub setup: &'static [&'static str],
}

const NODE: &str = "{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co', 'node-name': 'n'}}";
const FILE: &str =
    "{'execute': 'blockdev-add', 'arguments': {'driver': 'file', 'node-name': 'n', 'filename': 'DIR/disk.img'}}";
const EXPORT: &str = "{'execute': 'block-export-add', 'arguments': {'type': 'vhost-user-blk', 'id': 'e', \
                      'node-name': 'n', 'addr': {'type': 'unix', 'path': 'DIR/v.sock'}}}";
const SERVER: &str = "{'execute': 'nbd-server-start', 'arguments': {'addr': {'type': 'unix', 'data': {'path': \
                      'DIR/nbd.sock'}}}}";
const SHOWN: &str = "{'execute': 'block-export-add', 'arguments': {'type': 'nbd', 'id': 'e', 'node-name': 'n'}}";
const IOTHREAD: &str = "{'execute': 'object-add', 'arguments': {'qom-type': 'iothread', 'id': 'i'}}";

const GROUP: &str = "{'execute': 'object-add', 'arguments': {'qom-type': 'throttle-group', 'id': 'tg'}}";

const IMAGE: &str = "{'driver': 'file', 'filename': 'DIR/image'}";
const CHILD: &str = "{'driver': 'null-co', 'size': 1048576}";

// A disk with two bitmaps, and another one as long.
const DISK: &str = "{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co', 'node-name': 'n', 'size': 1048576}}";
const ZEROES: &str = "{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co', 'node-name': 'n', 'size': 1048576, \
                      'read-zeroes': true}}";
const TARGET: &str =
    "{'execute': 'blockdev-add', 'arguments': {'driver': 'null-co', 'node-name': 't', 'size': 1048576}}";
const BITMAP: &str = "{'execute': 'block-dirty-bitmap-add', 'arguments': {'node': 'n', 'name': 'b'}}";
const OTHER: &str = "{'execute': 'block-dirty-bitmap-add', 'arguments': {'node': 'n', 'name': 't'}}";
// Jobs in all states that last.
const RUNS: &str = "{'execute': 'blockdev-backup', 'arguments': {'job-id': 'endless', 'device': 'n', 'target': 't', \
                    'sync': 'none'}}";
const PENDS: &str = "{'execute': 'blockdev-backup', 'arguments': {'job-id': 'j', 'device': 'n', 'target': 't', \
                     'sync': 'full', 'auto-finalize': false, 'auto-dismiss': false}} until pending";
const CONCLUDES: &str = "{'execute': 'blockdev-backup', 'arguments': {'job-id': 'j', 'device': 'n', 'target': 't', \
                         'sync': 'full', 'auto-dismiss': false}} until concluded";
const PAUSE: &str = "{'execute': 'job-pause', 'arguments': {'id': 'endless'}} until paused";

const FILTER: &str = "{'driver': 'copy-before-write', 'node-name': 'f', 'file': 'n', 'target': 't'}";

const BACKUP: [(&str, &str); 4] = [("job-id", "'j'"), ("device", "'n'"), ("target", "'t'"), ("sync", "'full'")];

const DRIVE_MIRROR: [(&str, &str); 6] = [
    ("job-id", "'j'"),
    ("device", "'n'"),
    ("target", "'DIR/copy.img'"),
    ("format", "'raw'"),
    ("node-name", "'m'"),
    ("sync", "'full'"),
];

pub const BASES: [Base; 57] = [
    Base { command: "blockdev-add", members: &[("driver", "'null-co'"), ("node-name", "'n'")], setup: &[] },
    Base {
        command: "blockdev-add",
        members: &[("driver", "'file'"), ("node-name", "'n'"), ("filename", "'DIR/disk.img'")],
        setup: &[],
    },
    Base {
        command: "blockdev-add",
        members: &[("driver", "'host_device'"), ("node-name", "'n'"), ("filename", "'DIR/disk.img'")],
        setup: &[],
    },
    Base {
        command: "blockdev-add",
        members: &[("driver", "'raw'"), ("node-name", "'n'"), ("file", CHILD)],
        setup: &[],
    },
    Base {
        command: "blockdev-add",
        members: &[("driver", "'qcow2'"), ("node-name", "'n'"), ("file", IMAGE)],
        setup: &[],
    },
    Base {
        command: "blockdev-add",
        members: &[("driver", "'blkdebug'"), ("node-name", "'n'"), ("image", CHILD)],
        setup: &[],
    },
    Base {
        command: "blockdev-add",
        members: &[("driver", "'copy-before-write'"), ("node-name", "'c'"), ("file", "'n'"), ("target", "'t'")],
        setup: &[DISK, TARGET, BITMAP],
    },
    Base {
        command: "blockdev-add",
        members: &[("driver", "'snapshot-access'"), ("node-name", "'c'"), ("file", FILTER)],
        setup: &[DISK, TARGET],
    },
    Base {
        command: "blockdev-add",
        members: &[("driver", "'throttle'"), ("node-name", "'n'"), ("throttle-group", "'tg'"), ("file", CHILD)],
        setup: &[GROUP],
    },
    Base { command: "blockdev-del", members: &[("node-name", "'n'")], setup: &[NODE] },
    Base { command: "block_resize", members: &[("node-name", "'n'"), ("size", "524288")], setup: &[FILE] },
    Base {
        command: "block-export-add",
        members: &[
            ("type", "'vhost-user-blk'"),
            ("id", "'e'"),
            ("node-name", "'n'"),
            ("addr", "{'type': 'unix', 'path': 'DIR/v.sock'}"),
        ],
        setup: &[NODE, IOTHREAD],
    },
    Base {
        command: "block-export-add",
        members: &[("type", "'nbd'"), ("id", "'e'"), ("node-name", "'n'"), ("writable", "true")],
        setup: &[DISK, BITMAP, IOTHREAD, SERVER],
    },
    Base {
        command: "nbd-server-start",
        members: &[("addr", "{'type': 'unix', 'data': {'path': 'DIR/nbd.sock'}}")],
        setup: &[],
    },
    Base { command: "nbd-server-stop", members: &[], setup: &[NODE, SERVER, SHOWN] },
    Base { command: "nbd-server-add", members: &[("device", "'n'"), ("name", "'e'")], setup: &[DISK, BITMAP, SERVER] },
    Base { command: "nbd-server-remove", members: &[("name", "'e'")], setup: &[NODE, SERVER, SHOWN] },
    Base { command: "block-export-del", members: &[("id", "'e'")], setup: &[NODE, EXPORT] },
    Base { command: "object-add", members: &[("qom-type", "'iothread'"), ("id", "'i'")], setup: &[] },
    Base { command: "object-add", members: &[("qom-type", "'throttle-group'"), ("id", "'i'")], setup: &[] },
    Base { command: "qom-get", members: &[("path", "'tg'"), ("property", "'limits'")], setup: &[GROUP] },
    Base {
        command: "qom-set",
        members: &[("path", "'tg'"), ("property", "'limits'"), ("value", "{'iops-total': 5}")],
        setup: &[GROUP],
    },
    Base { command: "object-del", members: &[("id", "'i'")], setup: &[IOTHREAD] },
    Base { command: "query-named-block-nodes", members: &[], setup: &[DISK, BITMAP] },
    Base { command: "block-dirty-bitmap-add", members: &[("node", "'n'"), ("name", "'b'")], setup: &[DISK] },
    Base { command: "block-dirty-bitmap-remove", members: &[("node", "'n'"), ("name", "'b'")], setup: &[DISK, BITMAP] },
    Base { command: "block-dirty-bitmap-clear", members: &[("node", "'n'"), ("name", "'b'")], setup: &[DISK, BITMAP] },
    Base { command: "block-dirty-bitmap-enable", members: &[("node", "'n'"), ("name", "'b'")], setup: &[DISK, BITMAP] },
    Base {
        command: "block-dirty-bitmap-disable",
        members: &[("node", "'n'"), ("name", "'b'")],
        setup: &[DISK, BITMAP],
    },
    Base {
        command: "block-dirty-bitmap-merge",
        members: &[("node", "'n'"), ("target", "'t'"), ("bitmaps", "['b']")],
        setup: &[DISK, BITMAP, OTHER],
    },
    Base { command: "transaction", members: &[("actions", "[]")], setup: &[DISK, TARGET, BITMAP, OTHER] },
    Base { command: "blockdev-backup", members: &BACKUP, setup: &[DISK, TARGET, BITMAP] },
    Base { command: "blockdev-mirror", members: &BACKUP, setup: &[DISK, TARGET] },
    Base { command: "drive-mirror", members: &DRIVE_MIRROR, setup: &[ZEROES] },
    Base {
        command: "drive-backup",
        members: &[
            ("job-id", "'j'"),
            ("device", "'n'"),
            ("target", "'DIR/made'"),
            ("sync", "'full'"),
            ("format", "'raw'"),
        ],
        setup: &[ZEROES, BITMAP],
    },
    Base { command: "query-jobs", members: &[], setup: &[] },
    Base { command: "query-block-jobs", members: &[], setup: &[] },
    Base { command: "job-pause", members: &[("id", "'endless'")], setup: &[DISK, TARGET, RUNS] },
    Base { command: "job-resume", members: &[("id", "'endless'")], setup: &[DISK, TARGET, RUNS, PAUSE] },
    Base { command: "job-cancel", members: &[("id", "'endless'")], setup: &[DISK, TARGET, RUNS] },
    Base { command: "job-complete", members: &[("id", "'endless'")], setup: &[DISK, TARGET, RUNS] },
    Base { command: "job-finalize", members: &[("id", "'j'")], setup: &[DISK, TARGET, PENDS] },
    Base { command: "job-dismiss", members: &[("id", "'j'")], setup: &[DISK, TARGET, CONCLUDES] },
    Base { command: "block-job-pause", members: &[("device", "'endless'")], setup: &[DISK, TARGET, RUNS] },
    Base { command: "block-job-resume", members: &[("device", "'endless'")], setup: &[DISK, TARGET, RUNS, PAUSE] },
    Base { command: "block-job-cancel", members: &[("device", "'endless'")], setup: &[DISK, TARGET, RUNS, PAUSE] },
    Base { command: "block-job-complete", members: &[("device", "'endless'")], setup: &[DISK, TARGET, RUNS] },
    Base { command: "block-job-finalize", members: &[("id", "'j'")], setup: &[DISK, TARGET, PENDS] },
    Base { command: "block-job-dismiss", members: &[("id", "'j'")], setup: &[DISK, TARGET, CONCLUDES] },
    Base {
        command: "block-job-set-speed",
        members: &[("device", "'endless'"), ("speed", "65536")],
        setup: &[DISK, TARGET, RUNS],
    },
    Base {
        command: "block-job-change",
        members: &[("type", "'mirror'"), ("id", "'endless'"), ("copy-mode", "'background'")],
        setup: &[DISK, TARGET, RUNS],
    },
    Base { command: "query-blockstats", members: &[], setup: &[NODE] },
    Base { command: "query-block", members: &[], setup: &[] },
    Base { command: "query-block-exports", members: &[], setup: &[] },
    Base { command: "query-version", members: &[], setup: &[] },
    Base { command: "qmp_capabilities", members: &[], setup: &[] },
    Base { command: "query-commands", members: &[], setup: &[] },
];

/// Commands whose arguments are exercised elsewhere, and where.
pub const ELSEWHERE: [(&str, &str); 4] = [
    ("quit", "`commands.rs`; it has no arguments"),
    ("query-qmp-schema", "`schema.rs`; it has no arguments"),
    ("blockdev-create", "`creation.rs` and `scripts/creations.txt`: each needs a file and a job of its own"),
    ("blockdev-reopen", "`scripts/reopens.txt`: its arguments are those of `blockdev-add`"),
];

/// What undoes any of the requests; what there is nothing of is an error.
pub const CLEANUP: &str = "{'execute': 'nbd-server-stop'}\
                           {'execute': 'block-export-del', 'arguments': {'id': 'e', 'mode': 'hard'}}\
                           {'execute': 'blockdev-snapshot-delete-internal-sync', 'arguments': {'device': 'n', 'name': 's'}}\
                           {'execute': 'blockdev-snapshot-delete-internal-sync', 'arguments': {'device': 'n', 'name': 'kept'}}\
                           {'execute': 'blockdev-del', 'arguments': {'node-name': 'c'}}\
                           {'execute': 'blockdev-del', 'arguments': {'node-name': 'o'}}\
                           {'execute': 'blockdev-del', 'arguments': {'node-name': 'n'}}\
                           {'execute': 'blockdev-del', 'arguments': {'node-name': 't'}}\
                           {'execute': 'object-del', 'arguments': {'id': 'i'}}\
                           {'execute': 'object-del', 'arguments': {'id': 'tg'}}";

/// What ends any of the jobs, in the end.
pub const CANCEL: &str = "{'execute': 'job-cancel', 'arguments': {'id': 'endless'}}\
                          {'execute': 'job-cancel', 'arguments': {'id': 'j'}}\
                          {'execute': 'job-dismiss', 'arguments': {'id': 'j'}}";

/// What is looked at after a request that succeeded.
pub const STATE: [&str; 3] =
    ["{'execute': 'query-named-block-nodes'}", "{'execute': 'query-block-exports'}", "{'execute': 'query-jobs'}"];

/// Values by name; others have one by their type.
pub const VALUES: [(&str, &str); 42] = [
    ("driver", "'null-co'"),
    ("node-name", "'n'"),
    ("filename", "'DIR/disk.img'"),
    ("config", "'DIR/rules'"),
    ("size", "524288"),
    ("offset", "512"),
    ("file", CHILD),
    ("image", CHILD),
    ("backing", "null"),
    ("data-file", CHILD),
    ("overlap-check", "'all'"),
    ("id", "'e'"),
    ("iothread", "'i'"),
    ("path", "'DIR/w.sock'"),
    ("logical-block-size", "4096"),
    ("num-queues", "2"),
    ("align", "512"),
    ("event", "'none'"),
    ("new_state", "2"),
    ("poll-max-ns", "1000"),
    ("device", "'n'"),
    ("node", "'n'"),
    ("name", "'b'"),
    ("target", "'t'"),
    ("bitmap", "'b'"),
    ("bitmaps", "'b'"),
    ("granularity", "4096"),
    ("job-id", "'j'"),
    ("filter-node-name", "'f'"),
    ("speed", "1073741824"),
    ("max-chunk", "65536"),
    ("min-cluster-size", "65536"),
    ("cbw-timeout", "5"),
    ("copy-mode", "'background'"),
    ("replaces", "'n'"),
    ("buf-size", "1048576"),
    ("base-node", "'n'"),
    ("base", "'DIR/image'"),
    ("bottom", "'o'"),
    ("top-node", "'o'"),
    ("top", "'DIR/over'"),
    ("backing-file", "'DIR/image'"),
];
