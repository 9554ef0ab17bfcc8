"""Graphs: several, a common pool, a training step, callables, failing captures, inner streams."""

import torch
from sampled import sample
from torch import nn

cuda = torch.cuda
side = cuda.Stream()
model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Dropout(0.1), nn.Linear(512, 256)).cuda()
given, wanted = torch.zeros(32, 256, device="cuda"), torch.zeros(32, 256, device="cuda")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def step():
    optimizer.zero_grad(set_to_none=True)
    loss = nn.functional.mse_loss(model(given), wanted)
    loss.backward()
    optimizer.step()
    return loss


side.wait_stream(cuda.current_stream())
with cuda.stream(side):
    for _ in range(3):
        step()
cuda.current_stream().wait_stream(side)
cuda.empty_cache()
sample("warm")

first, second = cuda.CUDAGraph(), cuda.CUDAGraph()
with cuda.graph(first):
    out = model(given)
with cuda.graph(second, pool=first.pool()):
    again = model(out)
first.replay()
second.replay()
sample("two successive")

handle, graphs = cuda.graph_pool_handle(), []
for _ in range(4):
    graph = cuda.CUDAGraph()
    with cuda.graph(graph, pool=handle, stream=side):
        graphs.append((graph, model(given)))
for graph, _ in graphs:
    graph.replay()
eager = [torch.empty(1000, number + 1, device="cuda") for number in range(50)]
sample("a pool in common")
del graph, graphs, eager
cuda.empty_cache()
sample("its graphs are gone")
if torch.__version__ >= "2.2":
    # In earlier releases, a graph that was reset releases its pool again when it is deleted, which
    # crashes PyTorch's own allocator.
    first.reset()
del first, out, second, again
cuda.empty_cache()
sample("all graphs are gone")

whole = cuda.CUDAGraph()
with cuda.graph(whole):
    loss = step()
for turn in range(3):
    given.copy_(torch.full((32, 256), float(turn)))
    whole.replay()
sample("a step of training")

one, two = nn.Linear(256, 256).cuda(), nn.Sequential(nn.Linear(256, 256), nn.Dropout(0.5)).cuda()
hidden = torch.zeros(8, 256, device="cuda", requires_grad=True)
one, two = cuda.make_graphed_callables((one, two), ((given[:8],), (hidden,)))
for _ in range(3):
    two(one(torch.zeros(8, 256, device="cuda"))).sum().backward()
sample("callables")

for fails in (lambda: torch.empty(1 << 40, dtype=torch.uint8, device="cuda"), lambda: [][0]):
    graph = cuda.CUDAGraph()
    try:
        with cuda.graph(graph):
            inside = torch.ones(1000, device="cuda")
            fails()
    except Exception as why:
        print(type(why).__name__)
    cuda.synchronize()
    sample("a capture that failed")
    del inside, graph

graph = cuda.CUDAGraph()
with cuda.graph(graph, capture_error_mode="thread_local"):
    doubled = given * 2
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        other = doubled + 1
    doubled.record_stream(side)
    del doubled
    cuda.current_stream().wait_stream(side)
    result = other * 3
    del other
graph.replay()
cuda.synchronize()
sample("two streams in a capture")
del graph, result, whole, loss
cuda.synchronize()
cuda.empty_cache()
sample("end")
