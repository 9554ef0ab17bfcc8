/* The parts of the CUDA runtime whose structs differ between versions, built with the headers of each
 * version. Everything else is in Rust (src/runtime). The card reports the compute capability
 * FAKE_CUDA_CC (default 86). */
#include "fake.h"
#include <cuda_runtime_api.h>
#include <stdio.h>

#undef cudaGetDeviceProperties
#undef cudaStreamGetCaptureInfo

static int capability(void) {
    const char *given = getenv("FAKE_CUDA_CC");
    return given && atoi(given) ? atoi(given) : 86;
}

static int multiprocessors(void) { return capability() >= 90 ? 132 : capability() == 86 ? 82 : 108; }

/* Shared memory that a block may opt in to, by compute capability (CUDA C++ Programming Guide, technical
 * specifications). */
static size_t shared_memory(void) {
    switch (capability()) {
    case 75:
        return 65536;
    case 80:
        return 166912;
    case 86:
    case 89:
        return 101376;
    default:
        return 232448;
    }
}

static cudaError_t properties(struct cudaDeviceProp *p, int device) {
    unsigned long long bytes = fake_cuda_card_bytes(device);
    if (!bytes)
        return cudaErrorInvalidDevice;
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "simulated GPU sm_%d", capability());
    p->totalGlobalMem = bytes;
    p->major = capability() / 10;
    p->minor = capability() % 10;
    p->multiProcessorCount = multiprocessors();
    p->warpSize = 32;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->sharedMemPerBlock = 49152;
    p->sharedMemPerBlockOptin = shared_memory();
    p->sharedMemPerMultiprocessor = shared_memory() + 1024;
    p->reservedSharedMemPerBlock = 1024;
    p->totalConstMem = 65536;
    p->memPitch = 2147483647;
    p->textureAlignment = 512;
    p->texturePitchAlignment = 32;
    p->memoryBusWidth = 384;
    p->l2CacheSize = 6 << 20;
    p->pciBusID = device + 1;
    p->asyncEngineCount = 2;
    p->unifiedAddressing = p->concurrentKernels = p->canMapHostMemory = p->cooperativeLaunch = 1;
    p->streamPrioritiesSupported = 1;
    return cudaSuccess;
}

FAKE cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) { return properties(p, device); }
FAKE cudaError_t cudaGetDeviceProperties_v2(struct cudaDeviceProp *p, int device) { return properties(p, device); }

FAKE cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    struct cudaDeviceProp p;
    cudaError_t error = properties(&p, device);
    if (error)
        return error;
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxBlockDimX: *value = p.maxThreadsDim[0]; break;
    case cudaDevAttrMaxBlockDimY: *value = p.maxThreadsDim[1]; break;
    case cudaDevAttrMaxBlockDimZ: *value = p.maxThreadsDim[2]; break;
    case cudaDevAttrMaxGridDimX: *value = p.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY: *value = p.maxGridSize[1]; break;
    case cudaDevAttrMaxGridDimZ: *value = p.maxGridSize[2]; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = p.maxBlocksPerMultiProcessor; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = p.regsPerBlock; break;
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = p.regsPerMultiprocessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)p.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; break;
    case cudaDevAttrClockRate:
    case cudaDevAttrMemoryClockRate: *value = 1500000; break;
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrCooperativeLaunch: *value = 1; break;
    default: *value = 0;
    }
    return cudaSuccess;
}

FAKE cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int device) {
    snprintf(text, (size_t)length, "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}

FAKE cudaError_t cudaDriverGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }
FAKE cudaError_t cudaRuntimeGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }

FAKE cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer) {
    memset(attributes, 0, sizeof *attributes);
    switch (fake_cuda_kind((uintptr_t)pointer)) {
    case 2:
        attributes->type = cudaMemoryTypeDevice;
        attributes->device = fake_cuda_device((uintptr_t)pointer);
        attributes->devicePointer = (void *)pointer;
        break;
    case 1:
        attributes->type = cudaMemoryTypeHost;
        attributes->devicePointer = attributes->hostPointer = (void *)pointer;
        break;
    default:
        attributes->type = cudaMemoryTypeUnregistered;
        attributes->device = -2;
        attributes->hostPointer = (void *)pointer;
    }
    return cudaSuccess;
}

FAKE cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
    (void)function;
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 32;
    attributes->ptxVersion = attributes->binaryVersion = capability();
    attributes->maxDynamicSharedSizeBytes = (int)shared_memory();
    return cudaSuccess;
}

static cudaError_t capture(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                           cudaGraph_t *graph, const cudaGraphNode_t **nodes, size_t *count) {
    unsigned long long found = fake_cuda_capture((uintptr_t)stream);
    *status = found ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    if (id)
        *id = found;
    if (graph)
        *graph = (cudaGraph_t)(uintptr_t)found;
    if (nodes)
        *nodes = NULL;
    if (count)
        *count = 0;
    return cudaSuccess;
}

#if CUDART_VERSION >= 13000
FAKE cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                          cudaGraph_t *graph, const cudaGraphNode_t **nodes,
                                          const cudaGraphEdgeData **edges, size_t *count) {
    if (edges)
        *edges = NULL;
    return capture(stream, status, id, graph, nodes, count);
}
#else
FAKE cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                          unsigned long long *id) {
    return capture(stream, status, id, NULL, NULL, NULL);
}
FAKE cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                             unsigned long long *id, cudaGraph_t *graph, const cudaGraphNode_t **nodes,
                                             size_t *count) {
    return capture(stream, status, id, graph, nodes, count);
}
#endif

FAKE const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNotReady: return "device not ready";
    default: return "an error of the fake CUDA runtime";
    }
}

FAKE const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    default: return "cudaErrorUnknown";
    }
}

/* A variable of a kernel: 64 KiB of its own. */
FAKE cudaError_t cudaGetSymbolAddress(void **address, const void *symbol) {
    (void)symbol;
    return cudaMalloc(address, 65536);
}

FAKE cudaError_t cudaUserObjectCreate(cudaUserObject_t *object, void *pointer, cudaHostFn_t destroy, unsigned count,
                                      unsigned flags) {
    (void)pointer, (void)destroy, (void)count, (void)flags;
    return *object = calloc(1, 64), cudaSuccess;
}

FAKE cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device) {
    return *pool = (cudaMemPool_t)(uintptr_t)(16 * (device + 1)), cudaSuccess;
}

FAKE cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value) {
    (void)pool, (void)attribute;
    return *(uint64_t *)value = 0, cudaSuccess;
}

FAKE cudaError_t cudaDeviceGetGraphMemAttribute(int device, enum cudaGraphMemAttributeType attribute, void *value) {
    (void)device, (void)attribute;
    return *(uint64_t *)value = 0, cudaSuccess;
}
