"""Drives a daemon with qemu.qmp: commands, errors, events, a second monitor client's wait, quit.

The argument is the daemon's directory, which has its monitor `qmp.sock` and an image `disk.img`.
"""

import asyncio
import sys

from qemu.qmp import ExecuteError, QMPClient


async def refused(client, text, command, arguments=None):
    try:
        await client.execute(command, arguments)
    except ExecuteError as error:
        assert str(error) == text, str(error)
        return error
    raise AssertionError(f"{command} was not refused")


async def use(client, directory):
    version = await client.execute("query-version")
    assert (version["qemu"]["major"], version["qemu"]["minor"]) >= (10, 0), version
    commands = {entry["name"] for entry in await client.execute("query-commands")}
    schema = await client.execute("query-qmp-schema")
    described = {entry["name"] for entry in schema if entry["meta-type"] == "command"}
    assert commands == described, commands ^ described

    image = {"driver": "file", "filename": f"{directory}/disk.img"}
    await client.execute("blockdev-add", {"driver": "raw", "node-name": "disk", "file": image})
    nodes = await client.execute("query-named-block-nodes", {"flat": True})
    assert [node["drv"] for node in nodes] == ["raw", "file"], nodes
    assert nodes[0]["image"]["virtual-size"] == 1 << 20, nodes

    address = {"type": "unix", "path": f"{directory}/disk.sock"}
    export = {"type": "vhost-user-blk", "id": "vda", "node-name": "disk", "addr": address}
    export |= {"writable": True, "num-queues": 4, "iothread": "io0"}
    await client.execute("block-export-add", export)
    await refused(client, "Block export id 'vda' is already in use", "block-export-add", export)
    await refused(client, "Node disk is in use", "blockdev-del", {"node-name": "disk"})
    error = await refused(client, "The command stop has not been found", "stop")
    assert error.error_class == "CommandNotFound", error.error_class

    await client.execute("block_resize", {"node-name": "disk", "size": 2 << 20})
    (device,) = await client.execute("query-block")
    assert device["inserted"]["image"]["virtual-size"] == 2 << 20, device
    (stats,) = await client.execute("query-blockstats")
    assert stats["device"] == "vda" and stats["stats"]["rd_operations"] == 0, stats

    with client.listener("BLOCK_EXPORT_DELETED") as deleted:
        await client.execute("block-export-del", {"id": "vda"})
        event = await asyncio.wait_for(deleted.get(), 20)
        assert event["data"] == {"id": "vda"}, event
    assert await client.execute("query-block-exports") == []
    await client.execute("blockdev-del", {"node-name": "disk"})
    assert await client.execute("query-named-block-nodes") == []
    print(f"{len(commands)} commands, {len(schema)} schema entries")


async def main(directory):
    path = f"{directory}/qmp.sock"
    client = QMPClient("first")
    await client.connect(path)
    await use(client, directory)

    second = QMPClient("second")
    waiting = asyncio.create_task(second.connect(path))
    await asyncio.sleep(0.2)
    assert not waiting.done(), "a second client was served beside the first"
    await client.disconnect()
    await asyncio.wait_for(waiting, 20)
    await second.execute("quit")
    try:
        await second.disconnect()
    except EOFError:
        pass  # After quit the daemon may be the first to hang up.
    print("done")


asyncio.run(main(sys.argv[1]))
