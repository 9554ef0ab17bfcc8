/* The effect of GIANT_KITTEN in the environment: the reserve in force, or the text of the error. */
#include <giant_kitten.h>
#include <inttypes.h>
#include <stdio.h>

int main(void) {
    struct gk_stats stats = {.size = sizeof stats};
    if (gk_open(0) != GK_OK || gk_stats(0, &stats) != GK_OK)
        printf("%s\n", gk_last_error());
    else
        printf("reserve %" PRIu64 "\n", stats.reserve);
    return 0;
}
