/* NVML, which PyTorch loads for the text of out-of-memory errors and for expandable segments: one machine
 * without links. */
#include "fake.h"

#include <stdio.h>

enum { NOT_SUPPORTED = 3 };

FAKE int nvmlInit_v2(void) { return 0; }
FAKE int nvmlShutdown(void) { return 0; }
FAKE int nvmlDeviceGetCount_v2(unsigned *count) { return *count = fake_cuda_cards(), 0; }
FAKE int nvmlDeviceGetHandleByPciBusId_v2(const char *text, any *handle) { return (void)text, *handle = (any)64, 0; }
FAKE int nvmlDeviceGetHandleByIndex_v2(unsigned index, any *handle) { return *handle = (any)(uintptr_t)(64 + index), 0; }
FAKE int nvmlDeviceGetNvLinkRemoteDeviceType(any device, unsigned link, int *type) {
    return (void)device, (void)link, (void)type, NOT_SUPPORTED;
}
FAKE int nvmlDeviceGetNvLinkRemotePciInfo_v2(any device, unsigned link, any info) {
    return (void)device, (void)link, (void)info, NOT_SUPPORTED;
}
FAKE int nvmlDeviceGetComputeRunningProcesses(any device, unsigned *count, any infos) {
    return (void)device, (void)infos, *count = 0, 0;
}
FAKE int nvmlDeviceGetComputeRunningProcesses_v3(any device, unsigned *count, any infos) {
    return (void)device, (void)infos, *count = 0, 0;
}
FAKE int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    return snprintf(version, length, "580.0 of a fake card"), 0;
}
FAKE int nvmlSystemGetCudaDriverVersion(int *version) { return *version = 13020, 0; }
FAKE int nvmlSystemGetCudaDriverVersion_v2(int *version) { return *version = 13020, 0; }
FAKE int nvmlDeviceGetGpuFabricInfoV(any device, any info) { return (void)device, (void)info, NOT_SUPPORTED; }
FAKE const char *nvmlErrorString(int error) { return (void)error, "an error of the fake NVML"; }
