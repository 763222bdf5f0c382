"""A backup program as they are: asks for the extents of both contexts in ranges of up to 4 GiB, reads what is dirty and
allocated, writes zeroes where it is dirty and holds zeroes, leaves the rest of its copy as it was.

Arguments: the URI of an export, its bitmap, the copy. A copy that is not there is made of what is dirty.
Prints how much was dirty and how much of it was read.
"""

import os
import sys

import nbd

ALLOCATION = "base:allocation"
# The longest request that 32 bits and whole sectors have room for.
RANGE = (1 << 32) - 512


def extents(handle, size):
    """Of each context, (offset, end, flags) over the whole export, without a gap."""
    found = {}
    offset = 0
    while offset < size:
        ends = {}

        def take(context, start, entries, _):
            assert start == offset, (start, offset)
            at = start
            for length, flags in zip(entries[::2], entries[1::2]):
                assert length > 0
                found.setdefault(context, []).append((at, min(at + length, size), flags))
                at += length
            ends[context] = at
            return 0

        handle.block_status(min(RANGE, size - offset), offset, take)
        # One context may have been told further than the other: the next request begins where all have ended.
        end = min(ends.values())
        assert end > offset
        for context, known in found.items():
            found[context] = [(at, min(to, end), flags) for at, to, flags in known if at < end]
        offset = end
    return found


def overlap(dirty, allocation):
    """Dirty pieces with the flags of what they hold."""
    pieces = []
    second = iter(allocation)
    start, end, flags = next(second)
    for at, to, is_dirty in dirty:
        while at < to:
            while end <= at:
                start, end, flags = next(second)
            piece = min(to, end)
            if is_dirty & 1:
                pieces.append((at, piece, flags))
            at = piece
    return pieces


def main():
    uri, bitmap, path = sys.argv[1:]
    context = f"qemu:dirty-bitmap:{bitmap}"
    handle = nbd.NBD()
    for name in (ALLOCATION, context):
        handle.add_meta_context(name)
    handle.connect_uri(uri)
    assert handle.can_meta_context(context), f"the export has no {context}"
    size = handle.get_size()
    most = handle.get_block_size(nbd.SIZE_MAXIMUM) or 32 << 20
    found = extents(handle, size)
    copy = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(copy, size)
    dirty = read = 0
    for at, end, flags in overlap(found[context], found[ALLOCATION]):
        dirty += end - at
        while at < end:
            length = min(most, end - at)
            is_zero = flags & nbd.STATE_ZERO
            os.pwrite(copy, bytes(length) if is_zero else handle.pread(length, at), at)
            read += 0 if is_zero else length
            at += length
    os.close(copy)
    handle.shutdown()
    print(f"{dirty} bytes are dirty, {read} of them were read")


main()
