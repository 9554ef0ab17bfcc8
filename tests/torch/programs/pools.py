"""MemPool: allocations, cached memory, nested pools, threads, graphs, and its end."""

import threading

import torch
from sampled import sample

cuda = torch.cuda
pool = cuda.MemPool()
print(pool.use_count(), len(pool.id), isinstance(pool, cuda.MemPool))


def block():
    return torch.empty(3 << 20, dtype=torch.uint8, device="cuda")


with cuda.use_mem_pool(pool):
    first, small = block(), torch.empty(1000, device="cuda")
    print(pool.use_count())
print(pool.use_count())
sample("inside")
print({tuple(segment["segment_pool_id"]) == tuple(pool.id) for segment in cuda.memory_snapshot(pool.id)})
address = first.data_ptr()
del first
outside = block()
print("eager code has nothing of it", outside.data_ptr() != address)
with cuda.use_mem_pool(pool):
    again = block()
    print("it serves again inside", again.data_ptr() == address)
    other = cuda.MemPool()
    with cuda.use_mem_pool(other):
        nested = block()


def alone():
    print("a thread of its own is outside", block().data_ptr() != address)


with cuda.use_mem_pool(pool):
    thread = threading.Thread(target=alone)
    thread.start()
    thread.join()
graph = cuda.CUDAGraph()
with cuda.graph(graph, pool=pool.id):
    result = torch.zeros(100, device="cuda")
graph.replay()
print(pool.use_count())
del graph
print(pool.use_count())
try:
    with cuda.use_mem_pool(pool):
        torch.empty(1 << 45, dtype=torch.uint8, device="cuda")
except cuda.OutOfMemoryError as why:
    print(type(why).__name__)
with cuda.use_mem_pool(pool, device=0):
    inside = torch.ones(10).cuda()
del pool
print(inside.cpu().sum().item())
sample("the pool is gone, its blocks live")
del small, again, nested, result, inside, outside, other
cuda.empty_cache()
sample("end")
