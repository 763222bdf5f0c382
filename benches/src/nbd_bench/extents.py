"""Asks an NBD server for all extents of a bitmap, as backup tools do: requests of 4 GiB, one after the other.

Prints the seconds from the first request to the last reply, and how many extents were marked.
"""

import sys
import time

import nbd

# As near to 4 GiB as 32 bits and the granularity allow.
STEP = (4 << 30) - (64 << 10)

context, uri = sys.argv[1:]
handle = nbd.NBD()
handle.add_meta_context(context)
handle.connect_uri(uri)
size = handle.get_size()
replies = []


def take(name, offset, entries, error):
    """Lengths and flags by turns; there may be fewer than were asked for."""
    if name == context:
        replies.append(entries)


at = 0
start = time.monotonic()
while at < size:
    handle.block_status(min(STEP, size - at), at, take)
    at += sum(replies[-1][0::2])
seconds = time.monotonic() - start

# A mark may go on from one reply to the next.
flags = [0] + [flag for entries in replies for flag in entries[1::2]]
marked = sum(now and not before for before, now in zip(flags, flags[1:]))
print(seconds, marked)
