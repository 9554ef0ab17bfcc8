/* A driver that can only pin host memory: a block that overflows is usable, and no action moves
 * it. */
#include "check.h"

#include <string.h>

static const size_t MIB = (size_t)1 << 20;

int main(void) {
    CHECK(gk_configure("dedicated:64MiB,shared:256MiB,reserve:0") == GK_OK);
    unsigned char *first = (unsigned char *)gk_malloc(40 * MIB, 0, NULL);
    unsigned char *second = (unsigned char *)gk_malloc(40 * MIB, 0, NULL);
    CHECK(first && second);
    memset(second, 42, 40 * MIB); /* the simulated GPU's memory is this process's */
    uint64_t dedicated = 0, shared = 0;
    CHECK(gk_tier(second, &dedicated, &shared) == GK_OK && dedicated == 0 && shared == 40 * MIB);
    CHECK(gk_mark(second, 1) == GK_OK);
    struct gk_activation activation;
    CHECK(gk_defaults(&activation) == GK_OK);
    activation.reserve = 16 * MIB;
    CHECK(gk_activate(0, &activation) == GK_IMMOVABLE && strstr(gk_last_error(), "80.00 MiB should be in the other tier"));
    struct gk_stats stats;
    stats.size = sizeof stats;
    CHECK(gk_stats(0, &stats) == GK_OK && stats.phase == GK_ACTIVE && stats.reserve == 16 * MIB);
    CHECK(stats.migrates == 0 && stats.stayed == 80 * MIB);
    unsigned char *scratch = (unsigned char *)gk_malloc(16 * MIB, 0, NULL);
    CHECK(gk_tier(scratch, &dedicated, NULL) == GK_OK && dedicated == 16 * MIB);
    CHECK(gk_move(second, GK_DEDICATED) == GK_IMMOVABLE && gk_move(second, GK_SHARED) == GK_OK);
    CHECK(gk_disable(0, NULL) == GK_IMMOVABLE && gk_free_vram(0) == GK_IMMOVABLE);
    for (size_t i = 0; i < 40 * MIB; i++)
        CHECK(second[i] == 42);
    gk_free(first, 40 * MIB, 0, NULL);
    gk_free(scratch, 16 * MIB, 0, NULL);
    CHECK(gk_free_vram(0) == GK_OK);
    puts("nothing moved, and that was said");
    return 0;
}
