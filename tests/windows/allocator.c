/* Makes the functions of giant-kitten the allocator of a PyTorch for Windows that was built without
 * CUDA: a `c10::Allocator` as Microsoft's compiler lays it out, and a `std::function` of that
 * compiler's library. On the simulated GPU, device memory is memory of the process, so tensors on
 * the CPU can lie in it. tests/windows/exceptions.py uses it. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EXPORT __declspec(dllexport)

typedef void *(*malloc_function)(size_t, int, void *);
typedef void (*free_function)(void *, size_t, int, void *);

static malloc_function allocate_with;
static free_function free_with;
static int device;

/* c10::DataPtr */
struct data_ptr {
    void *data;
    void (*deleter)(void *);
    void *context;
    int8_t type, index;
};

struct allocator {
    void **functions;
};

static void release(void *block) {
    free_with(block, 0, 0, NULL);
}

static void *destroy(struct allocator *self, unsigned flags) {
    (void)flags;
    return self;
}

/* The exception passes through this frame, which has nothing to destroy. */
static struct data_ptr *allocate(struct allocator *self, struct data_ptr *out, size_t bytes) {
    (void)self;
    void *block = allocate_with(bytes, device, NULL);
    *out = (struct data_ptr){block, release, block, 0, -1};
    return out;
}

static _Bool is_simple(struct allocator *self, const struct data_ptr *data) {
    (void)self, (void)data;
    return 1;
}

static void *raw_deleter(struct allocator *self) {
    (void)self;
    return (void *)release;
}

static void copy_data(struct allocator *self, void *to, const void *from, size_t bytes) {
    (void)self;
    memcpy(to, from, bytes);
}

/* The device that is asked for memory. */
EXPORT void gk_test_device(int number) {
    device = number;
}

/* The allocator to pass to c10::SetCPUAllocator. */
EXPORT void *gk_test_allocator(malloc_function allocate_function, free_function free_function_) {
    static void *functions[] = {(void *)destroy, (void *)allocate, (void *)is_simple, (void *)raw_deleter,
                                (void *)copy_data};
    static struct allocator allocator = {functions};
    allocate_with = allocate_function;
    free_with = free_function_;
    return &allocator;
}
