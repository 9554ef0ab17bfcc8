"""Stacks from threads of autograd and of a program, and at its end, with a history."""

import atexit
import threading

import torch

memory = torch.cuda.memory


class Held:
    """Frees memory after everything else is gone."""

    def __init__(self):
        self.tensor = torch.empty(1000, device="cuda")

    def __del__(self):
        self.tensor = None


def innermost(size):
    """The functions that requested a block of so many bytes."""
    events = (event for trace in memory._snapshot()["device_traces"] for event in trace)
    found = {event["frames"][0]["name"] for event in events if event["action"] == "alloc" and event["size"] == size}
    return sorted(found)


memory._record_memory_history(stacks="python", max_entries=100_000)
at_the_end = atexit.register(lambda: torch.empty(1000, device="cuda"))
model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(4))).cuda()
for _ in range(20):
    model(torch.ones(8, 64, device="cuda")).sum().backward()
print("backward")


def hook(gradient):
    return gradient + torch.empty(4321, dtype=torch.uint8, device="cuda").sum() * 0


leaf = torch.ones(8, device="cuda", requires_grad=True)
leaf.register_hook(hook)
for _ in range(20):
    (leaf * 2).sum().backward()
print("hooks", innermost(4321))


def work():
    for _ in range(300):
        torch.empty(1234, dtype=torch.uint8, device="cuda")


workers = [threading.Thread(target=work) for _ in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print("workers", innermost(1234))
# This thread still works when the main thread has ended.
threading.Thread(target=work).start()
forever = Held()
forever.me = forever
print("the end", flush=True)
