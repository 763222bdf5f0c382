"""Corners of the NBD protocol, asked by libnbd: one line for each answer, the same from every server of the same disk.

Arguments: the URI of a writable export of 64 MiB or more, and its bitmap. The first MiB is used and left as it was.
"""

import sys

import nbd

MIB = 1 << 20
URI, BITMAP = sys.argv[1], sys.argv[2]


def connect(setup=lambda handle: None):
    handle = nbd.NBD()
    handle.set_strict_mode(0)
    setup(handle)
    handle.connect_uri(URI)
    return handle


def say(what, run):
    """What comes of it, errors by their number: texts differ between versions of libnbd."""
    try:
        result = run()
        if isinstance(result, (bytes, bytearray)):
            result = f"{len(result)} bytes, sum {sum(result)}"
        print(f"{what}: {result}")
    except nbd.Error as error:
        print(f"{what}: {error.errno}")


def context_names(handle, ask):
    names = []
    ask(lambda name: names.append(name) or 0)
    return names


def options():
    """The handshake, option by option."""
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.set_full_info(True)
    handle.connect_uri(URI)
    name = handle.get_export_name()
    exports = []
    say("list", lambda: handle.opt_list(lambda export, text: exports.append((export, text)) or 0))
    print(sorted(exports))
    say("info", lambda: (handle.opt_info(), handle.get_size(), handle.get_canonical_export_name()))
    say("description", handle.get_export_description)
    sizes = (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)
    say("sizes", lambda: [handle.get_block_size(size) for size in sizes])
    for asked in (None, "base:", "qemu:", "qemu:dirty-bitmap:", f"qemu:dirty-bitmap:{BITMAP}", "zzz:", "base:nope"):
        handle.clear_meta_contexts()
        if asked is not None:
            handle.add_meta_context(asked)
        say(f"contexts of {asked}", lambda: context_names(handle, handle.opt_list_meta_context))
    handle.set_export_name("nowhere")
    for ask in (handle.opt_info, handle.opt_go):
        say(f"{ask.__name__} of nothing", ask)
    handle.set_export_name("x" * 4096)
    say("info of a long name", handle.opt_info)
    handle.set_export_name(name)
    say("go after all that", lambda: (handle.opt_go(), handle.get_size()))
    handle.shutdown()
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.connect_uri(URI)
    say("abort", handle.opt_abort)


def abilities(handle):
    for name in sorted(dir(handle)):
        if name.startswith(("can_", "is_r")) and name not in ("can_meta_context", "is_ready"):
            say(name, getattr(handle, name))
    say("can_meta_context", lambda: handle.can_meta_context("base:allocation"))


def chunks(handle, offset, length, flags=0):
    """A structured read: (offset, length, whether it is a hole) of the pieces, in order of offset, neighbours joined."""
    pieces = []
    kinds = {nbd.READ_DATA: "data", nbd.READ_HOLE: "hole", nbd.READ_ERROR: "error"}
    handle.pread_structured(length, offset, lambda data, at, kind, _: pieces.append([at, len(data), kinds[kind]]), flags)
    joined = []
    for at, size, kind in sorted(pieces):
        if joined and joined[-1][2] == kind and sum(joined[-1][:2]) == at:
            joined[-1][1] += size
        else:
            joined.append([at, size, kind])
    return joined


def status(handle, offset, length, flags=0):
    """The extents of each context."""
    found = {}
    handle.block_status(length, offset, lambda name, at, entries, _: found.update({name: (at, list(entries))}), flags)
    return sorted(found.items())


def reads(handle, size):
    for offset, length in ((0, 0), (1, 1), (511, 514), (size - 1, 1), (size - 1, 2), (size, 1), (1 << 62, 512)):
        say(f"read {offset} {length}", lambda: handle.pread(length, offset))
    for length in (32 * MIB, 32 * MIB + 1, 64 * MIB):
        say(f"read of {length}", lambda: handle.pread(length, 0))
    for flags in (0, nbd.CMD_FLAG_DF, nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_REQ_ONE, nbd.CMD_FLAG_NO_HOLE):
        say(f"chunks, flags {flags}", lambda: chunks(handle, 512 * 1024, 8 * MIB, flags))


def writes(handle, size):
    first = handle.pread(MIB, 0)
    say("write", lambda: handle.pwrite(b"\x21" * 4096, 1000, nbd.CMD_FLAG_FUA))
    say("read it", lambda: handle.pread(4098, 999))
    say("write nothing", lambda: handle.pwrite(b"", 0))
    say("write past the end", lambda: handle.pwrite(b"\1" * 513, size - 512))
    say("write with a flag of others", lambda: handle.pwrite(b"\1", 0, nbd.CMD_FLAG_DF))
    say("zero", lambda: handle.zero(3000, 1500))
    say("zero quickly", lambda: handle.zero(65536, 65536, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE))
    say("zero past the end", lambda: handle.zero(1024, size - 512))
    say("trim", lambda: handle.trim(65536, 131072))
    say("trim past the end", lambda: handle.trim(1024, size - 512))
    say("cache", lambda: handle.cache(65536, 0))
    say("cache past the end", lambda: handle.cache(65536, size))
    say("flush", handle.flush)
    say("what is there now", lambda: handle.pread(MIB, 0))
    handle.pwrite(first, 0)


def extents(handle, size):
    for offset, length in ((0, size), (1, size - 1), (2 * MIB - 7, 20), (size - 1, 1), (size - 512, 1024), (0, 0)):
        for flags in (0, nbd.CMD_FLAG_REQ_ONE):
            say(f"status {offset} {length} {flags}", lambda: status(handle, offset, length, flags))
    say("status without a context", lambda: status(connect(), 0, 512))


def at_once(handle):
    """A hundred writes and reads under way on two connections; a flush on one covers what the other was told."""
    other = connect()
    first = handle.pread(MIB, 0)
    cookies = [handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([n + 1]) * 4096), n * 4096) for n in range(100)]
    while handle.aio_in_flight():
        handle.poll(-1)
    print("written", all(handle.aio_command_completed(cookie) for cookie in cookies))
    other.flush()
    buffers = [nbd.Buffer(4096) for _ in range(100)]
    cookies = [other.aio_pread(buffer, n * 4096) for n, buffer in enumerate(buffers)]
    while other.aio_in_flight():
        other.poll(-1)
    print("read", all(other.aio_command_completed(cookie) for cookie in cookies))
    print("the same", all(buffer.to_bytearray() == bytearray([n + 1]) * 4096 for n, buffer in enumerate(buffers)))
    handle.pwrite(first, 0)
    # Whoever leaves with requests under way keeps nobody waiting.
    for n in range(16):
        other.aio_pread(nbd.Buffer(MIB), n * MIB)
    del other
    say("after another has left", lambda: handle.pread(512, 0))


def plain():
    """The same disk without structured replies."""
    handle = connect(lambda handle: handle.set_request_structured_replies(False))
    say("structured", handle.get_structured_replies_negotiated)
    say("read", lambda: handle.pread(8 * MIB, 512 * 1024))
    say("read past the end", lambda: handle.pread(2, handle.get_size() - 1))
    say("status", lambda: status(handle, 0, 512))


def main():
    options()
    contexts = ("base:allocation", "qemu:allocation-depth", f"qemu:dirty-bitmap:{BITMAP}")
    handle = connect(lambda handle: [handle.add_meta_context(name) for name in contexts])
    size = handle.get_size()
    abilities(handle)
    reads(handle, size)
    extents(handle, size)
    writes(handle, size)
    at_once(handle)
    plain()
    handle.shutdown()


main()
