/* NVRTC: programs of one byte. */
#include "fake.h"

FAKE int nvrtcVersion(int *major, int *minor) { return *major = 13, *minor = 2, 0; }
FAKE int nvrtcGetPTXSize(any program, size_t *size) { return (void)program, *size = 1, 0; }
FAKE int nvrtcGetCUBINSize(any program, size_t *size) { return (void)program, *size = 1, 0; }
FAKE int nvrtcGetProgramLogSize(any program, size_t *size) { return (void)program, *size = 1, 0; }
FAKE int nvrtcGetLoweredName(any program, const char *name, const char **lowered) { return (void)program, *lowered = name, 0; }
