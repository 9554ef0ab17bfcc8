"""The events and blocks of a snapshot with each kind of history, without segment events."""

import inspect

import torch

memory = torch.cuda.memory


def make(size):
    return torch.empty(size, dtype=torch.uint8, device="cuda")


def outer(size):
    return make(size)


def names(told):
    """The functions of this file; nothing if there are no frames."""
    found = told.get("frames")
    return found and [frame["name"] for frame in found if frame["filename"] == __file__][:2]


def show(when):
    snapshot = memory._snapshot()
    for event in snapshot["device_traces"][0] if snapshot["device_traces"] else ():
        if not event["action"].startswith("segment"):
            print(when, repr(event["action"]), event["size"], event["stream"] != 0, names(event))
    blocks = [block for segment in snapshot["segments"] for block in segment["blocks"] if block["state"] != "inactive"]
    for block in sorted(blocks, key=lambda block: block["size"]):
        print(when, "'blocks'", block["size"], block["requested_size"], block["state"], names(block))


early = make(5 << 20)
keeps = "clear_history" in inspect.signature(memory._record_memory_history).parameters or torch.__version__ >= "2.2"
kinds = [{}, {"context": None}, {"context": "alloc"}, {"context": "state"}, {"enabled": "state"}]
try:
    memory._record_memory_history(stacks="python", skip_actions=["free_requested"])
    kinds.append({"skip_actions": ["free_completed", "oom"]})
    memory._record_memory_history(enabled=None)
except TypeError:
    pass
side = torch.cuda.Stream()
for kind in kinds:
    memory._record_memory_history(stacks="python", max_entries=100, **kind)
    kept = outer(7 << 20)
    gone = outer(9 << 20)
    del gone
    with torch.cuda.stream(side):
        elsewhere = outer(3 << 20)
    try:
        make(1 << 45)
    except torch.cuda.OutOfMemoryError:
        pass
    show(kind)
    memory._record_memory_history(enabled=None)
    show("afterwards")
    del kept, elsewhere
    torch.cuda.synchronize()
if keeps:
    # One kind after another, and then fewer entries.
    for kind in ({"context": "all"}, {"context": None}, {"context": "state"}, {"context": "alloc"}):
        memory._record_memory_history(stacks="python", max_entries=100, **kind)
        kept = outer(2 << 20)
    show("goes on")
