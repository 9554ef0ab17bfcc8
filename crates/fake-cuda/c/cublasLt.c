/* cuBLASLt: one algorithm for every product. */
#include "fake.h"

struct result {
    uint64_t algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

FAKE int cublasLtMatmulAlgoGetHeuristic(any handle, any description, any a, any b, any c, any d, any preference, int wanted,
                                        struct result *results, int *found) {
    (void)handle, (void)description, (void)a, (void)b, (void)c, (void)d, (void)preference, (void)wanted;
    memset(results, 0, sizeof *results);
    results->algorithm[0] = 1;
    results->waves = 1;
    return *found = 1, 0;
}

FAKE size_t cublasLtGetVersion(void) { return 130400; }
