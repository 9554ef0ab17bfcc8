/* The life of a model in C: load, activate, generate, disable. It runs on the first GPU of this machine, as if
 * that had 5.2 GiB.
 *
 *   cargo build --release
 *   cc -Iinclude examples/generate.c -Ltarget/release -lgiant_kitten -o generate
 *   LD_LIBRARY_PATH=target/release ./generate
 *
 * Without a GPU, on a simulated one:
 *
 *   cargo build --release -p fake-cuda && ln -s libfake_cuda.so target/release/libcuda.so.1
 */
#include <giant_kitten.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { DEVICE = 0, WEIGHTS = 300, SCRATCH = 6 };
static const size_t MIB = (size_t)1 << 20;

static void must(int code, const char *what) {
    if (code != GK_OK) {
        fprintf(stderr, "%s: %s\n", what, gk_last_error());
        exit(1);
    }
}

static void *must_have(size_t bytes) {
    void *ptr = gk_malloc(bytes, DEVICE, NULL);
    if (!ptr) {
        fprintf(stderr, "%s\n", gk_last_error());
        exit(1);
    }
    return ptr;
}

static void report(const char *when) {
    struct gk_stats stats = {.size = sizeof stats};
    must(gk_stats(DEVICE, &stats), "statistics");
    printf("%-10s %7" PRIu64 " MiB of blocks in dedicated, %5" PRIu64 " MiB in shared, reserve in use %5" PRIu64 " MiB\n", when,
           stats.dedicated_allocated / MIB, stats.shared_allocated / MIB, stats.reserve_used / MIB);
}

static void generate(void) {
    void *scratch[SCRATCH];
    for (int i = 0; i < SCRATCH; i++)
        scratch[i] = must_have(200 * MIB);
    report("generate");
    for (int i = 0; i < SCRATCH; i++)
        gk_free(scratch[i], 200 * MIB, DEVICE, NULL);
}

int main(void) {
    must(gk_configure("dedicated:5.2GiB"), "options");

    void *weights[WEIGHTS];
    for (int i = 0; i < WEIGHTS; i++) {
        weights[i] = must_have(17 * MIB);
        must(gk_mark(weights[i], 1), "mark");
    }
    report("load");
    generate(); /* first come, first served: the scratch overflows into shared memory */

    struct gk_activation activation = {.reserve = 1300 * MIB};
    must(gk_activate(DEVICE, &activation), "activate");
    report("activate");
    generate(); /* the scratch is dedicated now, and some weights are shared instead */

    must(gk_disable(DEVICE, NULL), "disable");
    report("disable");
    must(gk_free_vram(DEVICE), "free_vram");
    report("free_vram");
    for (int i = 0; i < WEIGHTS; i++)
        gk_free(weights[i], 17 * MIB, DEVICE, NULL);
    return 0;
}
