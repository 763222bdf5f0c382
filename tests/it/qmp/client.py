"""Drives a daemon with qemu.qmp: commands, errors, events, backups, a second monitor client's wait, quit.

The argument is the daemon's directory, which has its monitor `qmp.sock` and an image `disk.img`.
"""

import asyncio
import sys

from qemu.qmp import ExecuteError, QMPClient

# What a disk has that is backed up.
CONTENT = bytes(range(256)) * 4096


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


async def back_up(client, directory):
    """Two backups of a bitmap's changes, the second one empty, and what is told of them."""
    for name in ("disk", "copy"):
        image = {"driver": "file", "filename": f"{directory}/disk.img" if name == "disk" else f"{directory}/copy.img"}
        await client.execute("blockdev-add", {"driver": "raw", "node-name": name, "file": image})
    bitmap = {"node": "disk", "name": "b"}
    backup = {"device": "disk", "target": "copy", "job-id": "j"}
    actions = [
        {"type": "block-dirty-bitmap-add", "data": bitmap},
        {"type": "blockdev-backup", "data": backup | {"sync": "full", "auto-finalize": False}},
    ]
    told = {"JOB_STATUS_CHANGE", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_PENDING", "BLOCK_JOB_CANCELLED"}
    with client.listener(told) as events:

        async def until(wanted):
            names = []
            while True:
                event = await asyncio.wait_for(events.get(), 20)
                names.append(event["data"].get("status", event["event"]))
                if names[-1] == wanted:
                    return names, event["data"]

        await client.execute("transaction", {"actions": actions})
        names, data = await until("BLOCK_JOB_PENDING")
        assert names == ["created", "running", "waiting", "pending", "BLOCK_JOB_PENDING"], names
        assert data == {"type": "backup", "id": "j"}, data
        (job,) = await client.execute("query-block-jobs")
        assert (job["device"], job["status"], job["io-status"]) == ("j", "pending", "ok"), job
        await refused(client, "Node 'copy' is busy: block device is in use by block job: backup",
                      "blockdev-del", {"node-name": "copy"})
        await client.execute("job-finalize", {"id": "j"})
        names, _ = await until("null")
        assert names == ["BLOCK_JOB_COMPLETED", "concluded", "null"], names

        await client.execute("blockdev-backup", backup | {"sync": "incremental", "bitmap": "b", "auto-dismiss": False})
        names, _ = await until("concluded")
        assert "BLOCK_JOB_COMPLETED" in names, names
        (job,) = await client.execute("query-jobs")
        assert (job["current-progress"], job["total-progress"]) == (0, 0), job
        await client.execute("job-dismiss", {"id": "j"})

        await client.execute("blockdev-backup", backup | {"sync": "none"})
        await client.execute("block-job-cancel", {"device": "j"})
        _, data = await until("BLOCK_JOB_CANCELLED")
        assert data == {"type": "backup", "device": "j", "len": 1 << 20, "offset": 0, "speed": 0}, data
        await until("null")
    error = await refused(client, "Block job 'j' not found", "block-job-cancel", {"device": "j"})
    assert error.error_class == "DeviceNotActive", error.error_class

    nodes = await client.execute("query-named-block-nodes", {"flat": True})
    (disk,) = [node for node in nodes if node["node-name"] == "disk"]
    (info,) = disk["dirty-bitmaps"]
    assert (info["name"], info["count"], info["recording"], info["busy"]) == ("b", 0, True, False), info
    with open(f"{directory}/copy.img", "rb") as copy:
        assert copy.read() == CONTENT
    for name in ("disk", "copy"):
        await client.execute("blockdev-del", {"node-name": name})


async def main(directory):
    path = f"{directory}/qmp.sock"
    client = QMPClient("first")
    await client.connect(path)
    await use(client, directory)
    for name, content in (("disk", CONTENT), ("copy", bytes(len(CONTENT)))):
        with open(f"{directory}/{name}.img", "wb") as image:
            image.write(content)
    await back_up(client, directory)

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
