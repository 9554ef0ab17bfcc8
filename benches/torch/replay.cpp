// Replays a sequence of allocations through whatever allocator PyTorch has, the way a tensor's storage asks it. Loaded by run.py.
// Also the bare shim: functions for PyTorch's pluggable allocator that do next to nothing, the floor below which none can be.

#include <c10/cuda/CUDACachingAllocator.h>

#include <chrono>
#include <vector>

// Size -1 gives the slot back.
struct Operation {
    int64_t slot, size;
};

// Does the sequence `rounds` times over; writes the nanoseconds of each round to `nanoseconds`.
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
