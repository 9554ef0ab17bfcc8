/* cuBLAS: a handle, and its properties. */
#include "fake.h"

FAKE int cublasCreate_v2(any *handle) { return *handle = calloc(1, 4096), 0; }
FAKE int cublasGetVersion_v2(any handle, int *version) { return (void)handle, *version = 130400, 0; }
FAKE int cublasGetPointerMode_v2(any handle, int *mode) { return (void)handle, *mode = 0, 0; }
FAKE int cublasGetMathMode(any handle, int *mode) { return (void)handle, *mode = 0, 0; }
FAKE int cublasGetStream_v2(any handle, any *stream) { return (void)handle, *stream = NULL, 0; }
