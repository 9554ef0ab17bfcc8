"""Repeated out-of-memory errors: a search for the largest batch, limits, and the state after."""

import torch

cuda = torch.cuda
kept = torch.arange(1000).cuda()
batch, tries = 1 << 24, 0
while True:
    try:
        work = torch.empty(batch, 1 << 17, dtype=torch.float16, device="cuda")
        break
    except torch.cuda.OutOfMemoryError as why:
        # PyTorch 2.1 has another text, and that of 2.3 ends where it prints the number as a
        # character.
        said = ("GPU 0 has a total capac" in str(why) or str(why).endswith("GPU ")) and isinstance(why, RuntimeError)
        tries, batch = tries + 1, batch // 2
        cuda.empty_cache()
        if not said:
            print(why)
print(tries > 3, cuda.memory_stats()["num_ooms"] == tries)
del work
for _ in range(3):
    try:
        torch.empty(800000000 << 30, dtype=torch.int8, device="cuda")
    except RuntimeError as why:
        print(str(why).partition(" GPU")[0])
try:
    torch.empty(8000000000 << 30, dtype=torch.int8, device="cuda")
except RuntimeError as why:
    print(why)
print(torch.equal(kept.cpu(), torch.arange(1000)))
for _ in range(50):
    work = torch.empty(1 << 20, device="cuda")
    del work
    cuda.empty_cache()
print(cuda.memory_allocated())
for wrong in (1, -0.1, 2.0):
    try:
        cuda.set_per_process_memory_fraction(wrong)
    except (TypeError, ValueError) as why:
        print(why)
address = cuda.caching_allocator_alloc(1)
print(cuda.memory_allocated())
cuda.caching_allocator_delete(address)
cuda.reset_peak_memory_stats()
cuda.reset_accumulated_memory_stats()
made = torch.empty(256, device="cuda")
stats = cuda.memory_stats()
print([stats[f"active_bytes.all.{field}"] for field in ("current", "peak", "allocated", "freed")])
del made
stats = cuda.memory_stats()
print([stats[f"active_bytes.all.{field}"] for field in ("current", "peak", "allocated", "freed")])
