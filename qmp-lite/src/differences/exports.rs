//! Exports, what they tell, and NBD.

use super::Difference;

pub const DIFFERENCES: &[Difference] = &[
    Difference {
        subject: "block-export-add",
        case: "an NBD export, read-only, of the file of an image that is written",
        qemu: "Refuses it, and the image while there is such an export: the file may become longer.",
        ours: "Takes both; the export has the length that the file had.",
        reason: "Clients see a length once, and what is within it can be read as by any other export.",
    },
    Difference {
        subject: "block-export-add",
        case: "a node under backup gets an export that writes",
        qemu: "Refuses it: the backup's filter is not below.",
        ours: "Takes it; what it writes is copied first.",
        reason: "A guest can be started or moved while its disk is backed up (decision 14).",
    },
    Difference {
        subject: "block-export-add",
        case: "the uppermost image of a commit",
        qemu: "Refuses it: the commit's filter is not below.",
        ours: "Takes it; it shows the same all the time.",
        reason: "A guest can be started or moved while its disk's chain is made shorter.",
    },
    Difference {
        subject: "block-export-add",
        case: "a writable export of a file that somebody else writes to",
        qemu: "Lets both write.",
        ours: "Refuses it, unless `locking` of the file is `off`.",
        reason: "A guest's file system does not survive it (decision 5).",
    },
    Difference {
        subject: "block-export-add",
        case: "threads of a vhost-user export",
        qemu: "Serves its queues in the main thread, or in `iothread`.",
        ours: "Has a thread for each queue; an `iothread` says how long they poll.",
        reason: "One disk is not slower for another's requests.",
    },
    Difference {
        subject: "query-block-exports",
        case: "an export of a node under a backup or a mirror",
        qemu: "Lists it with the job's filter.",
        ours: "Lists it with the node that it was made with.",
        reason: "Whoever goes from export to node finds the disk and its bitmaps at any time (decision 14).",
    },
    Difference {
        subject: "BLOCK_IO_ERROR",
        case: "a request of an export fails",
        qemu: "Is not told: only devices of a virtual machine have this event.",
        ours: "Is told, with the export as device.",
        reason: "Somebody can do something about the storage before the guest complains.",
    },
    Difference {
        subject: "nbd-server-start",
        case: "an address that cannot be listened on",
        qemu: "Names no address: Failed to bind socket.",
        ours: "Names it: Failed to listen on ADDRESS.",
        reason: "An operator has to know which.",
    },
    Difference {
        subject: "nbd-server-start",
        case: "handshakes without an end",
        qemu: "Takes options of up to 32 MiB, as many as there are.",
        ours: "Refuses one of more than 64 KiB, and hangs up after 4096 of them.",
        reason: "Whoever reaches the socket can say anything (decision 23).",
    },
    Difference {
        subject: "nbd-server-start",
        case: "a sparse read that fails",
        qemu: "Hangs up.",
        ours: "Answers the error.",
        reason: "The client can go on with the rest of the disk (decision 23).",
    },
];
