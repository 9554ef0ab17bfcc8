// Replays a sequence of allocations through PyTorch's current allocator, as a tensor's storage
// requests them. run.py loads it. It also has the bare shim: functions for PyTorch's pluggable
// allocator that do next to nothing, the lower bound for all of them.

#include <c10/cuda/CUDACachingAllocator.h>

#include <chrono>
#include <vector>

// Size -1 frees the slot.
struct Operation {
    int64_t slot, size;
};

// Runs the sequence `rounds` times, and writes the nanoseconds of each round to `nanoseconds`.
extern "C" void replay(const Operation *operations, size_t count, size_t slots, size_t rounds, double *nanoseconds) {
    c10::Allocator *allocator = c10::cuda::CUDACachingAllocator::get();
    std::vector<c10::DataPtr> held(slots);
    for (size_t round = 0; round < rounds; round++) {
        const auto start = std::chrono::steady_clock::now();
        for (size_t i = 0; i < count; i++) {
            if (operations[i].size < 0)
                held[operations[i].slot].clear();
            else
                held[operations[i].slot] = allocator->allocate(operations[i].size);
        }
        nanoseconds[round] = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
    }
}

extern "C" void *bare_malloc(size_t size, int, cudaStream_t) {
    static uintptr_t next = uintptr_t(1) << 40;
    return reinterpret_cast<void *>(next += (size + 511) & ~size_t(511));
}

extern "C" void bare_free(void *, size_t, int, cudaStream_t) {}
