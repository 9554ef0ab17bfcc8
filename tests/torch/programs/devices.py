"""Two devices: copies, streams, graphs, statistics, models split and replicated, threads."""

import threading

import torch

cuda = torch.cuda


def sample(label):
    for device in range(2):
        stats = cuda.memory_stats(device)
        names = ("requested_bytes.all.current", "requested_bytes.all.peak", "allocation.all.allocated", "num_ooms")
        print(label, device, [stats[name] for name in names])


known = torch.arange(1 << 20)
first = known.to("cuda:0")
second = first.to("cuda:1")
third = second.to("cuda:0", non_blocking=True)
print(torch.equal(second.cpu(), known), torch.equal(third.cpu(), known))
sample("copies")

with cuda.device(1):
    side = cuda.Stream()
    with cuda.stream(side):
        made = torch.ones(1 << 20, device="cuda")
    made.record_stream(cuda.current_stream())
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        inside = torch.ones(5, device="cuda") * 2
    graph.replay()
with cuda.stream(side):
    print(torch.zeros(3, device="cuda").device)
del made, graph, inside
sample("streams and graphs")

halves = torch.nn.Linear(64, 64).to("cuda:0"), torch.nn.Linear(64, 64).to("cuda:1")
for _ in range(3):
    halves[1](halves[0](torch.zeros(4, 64, device="cuda:0")).to("cuda:1")).sum().backward()
sample("halves")

replicated = torch.nn.DataParallel(torch.nn.Linear(64, 8).cuda(0), device_ids=[0, 1])
out = replicated(torch.zeros(32, 64, device="cuda:0"))
print(out.shape, out.device)
sample("replicated")

try:
    torch.empty(1 << 45, dtype=torch.uint8, device="cuda:1")
except cuda.OutOfMemoryError as why:
    # PyTorch 2.3 prints the number as a character.
    print("GPU 1" in str(why) or "GPU \x01" in str(why))


def work(device):
    cuda.set_device(device)
    for length in range(50):
        torch.arange(1000 + length).cuda().cpu()


threads = [threading.Thread(target=work, args=(number % 2,)) for number in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
cuda.set_device(1)
cuda.empty_cache()
cuda.reset_peak_memory_stats(0)
print(cuda.max_memory_allocated(0) == cuda.memory_allocated(0), {s["device"] for s in cuda.memory_snapshot()})
