/* cuDNN 8 and 9: the queries of its frontend on the way to a convolution or an attention, through
 * descriptors that remember their attributes, and the sizes and algorithms of the older interface.
 * FAKE_CUDNN_WORKSPACE is the bytes of workspace that every algorithm needs. */
#include "fake.h"

/* 8.9.2 and 9.26.0, in the notation of each. */
enum { VERSION = MAJOR == 8 ? 8902 : 92600, POINTER_LIKE = 8 };

static size_t workspace(void) {
    const char *given = getenv("FAKE_CUDNN_WORKSPACE");
    return given ? strtoull(given, NULL, 0) : 0;
}

FAKE size_t cudnnGetVersion(void) { return VERSION; }
FAKE size_t cudnnGetCudartVersion(void) { return 13000; }
FAKE int cudnnGetProperty(int part, int *value) {
    return *value = part == 0 ? MAJOR : part == 1 ? VERSION / 100 % (MAJOR == 8 ? 10 : 100) : VERSION % 100, 0;
}
FAKE int cudnnGetStream(any handle, any *stream) { return (void)handle, *stream = NULL, 0; }

/* A descriptor: a list of its attributes. */
struct attribute {
    int name, type;
    int64_t count;
    void *values;
    struct attribute *next;
};
struct descriptor {
    int type;
    struct attribute *first;
};

/* Bytes of one value, by cudnnBackendAttributeType_t. */
static size_t bytes_of(int type) {
    switch (type) {
    case 0:  /* handle */
    case 3:  /* int64 */
    case 5:  /* double */
    case 6:  /* void pointer */
    case 15: /* descriptor */
        return POINTER_LIKE;
    case 2:  /* boolean */
    case 24: /* char */
        return 1;
    case 26: /* fraction */
        return 16;
    default:
        return 4;
    }
}

FAKE int cudnnBackendCreateDescriptor(int type, any *made) {
    struct descriptor *descriptor = calloc(1, 4096);
    descriptor->type = type;
    return *made = descriptor, 0;
}

FAKE int cudnnBackendDestroyDescriptor(any given) {
    struct descriptor *descriptor = given;
    if (!descriptor)
        return 0;
    for (struct attribute *at = descriptor->first; at;) {
        struct attribute *next = at->next;
        free(at->values);
        free(at);
        at = next;
    }
    free(descriptor);
    return 0;
}

static struct attribute *find(struct descriptor *descriptor, int name) {
    struct attribute *at = descriptor->first;
    while (at && at->name != name)
        at = at->next;
    return at;
}

FAKE int cudnnBackendSetAttribute(any given, int name, int type, int64_t count, const void *values) {
    struct descriptor *descriptor = given;
    struct attribute *attribute = find(descriptor, name);
    if (!attribute) {
        attribute = calloc(1, sizeof *attribute);
        attribute->next = descriptor->first;
        descriptor->first = attribute;
    }
    free(attribute->values);
    size_t bytes = (size_t)count * bytes_of(type);
    *attribute = (struct attribute){name, type, count, malloc(bytes + 1), attribute->next};
    if (values)
        memcpy(attribute->values, values, bytes);
    return 0;
}

FAKE int cudnnBackendGetAttribute(any given, int name, int type, int64_t wanted, int64_t *found, void *out) {
    int64_t unwanted;
    if (!found)
        found = &unwanted;
    *found = 1;
    int room = out && wanted > 0;
    switch (name) {
    case 202: /* the engine configurations of a heuristic: one */
    case 300: /* its engine */
        return 0;
    case 303: /* workspace of an engine configuration */
    case 402: /* and of a plan */
        if (room)
            *(int64_t *)out = (int64_t)workspace();
        return 0;
    case 304: /* shared memory */
        if (room)
            *(int32_t *)out = 0;
        return 0;
    case 802: /* how many intermediates there are */
        if (room)
            *(int64_t *)out = 1;
        return 0;
    case 405:  /* a plan as JSON */
    case 2402:
    case 2702:
        *found = 3;
        if (out && wanted >= 3)
            memcpy(out, "{}", 3);
        return 0;
    }
    struct attribute *attribute = find(given, name);
    *found = attribute ? attribute->count : 0;
    if (attribute && room) {
        int64_t count = attribute->count < wanted ? attribute->count : wanted;
        memcpy(out, attribute->values, (size_t)count * bytes_of(type));
    }
    return 0;
}

/* Sizes: they are written to the last argument, except the RNN's. */
FAKE int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(any h, int m, int o, any a, any b, any c, any d, any e, size_t *n) {
    return (void)h, (void)m, (void)o, (void)a, (void)b, (void)c, (void)d, (void)e, *n = workspace(), 0;
}
FAKE int cudnnGetBatchNormalizationBackwardExWorkspaceSize(any h, int m, int o, any a, any b, any c, any d, any e, any f, any g,
                                                           size_t *n) {
    return (void)h, (void)m, (void)o, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, *n = workspace(), 0;
}
FAKE int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(any h, int m, int o, any a, any b, size_t *n) {
    return (void)h, (void)m, (void)o, (void)a, (void)b, *n = workspace(), 0;
}
#define CONVOLUTION_SIZE(name)                                                                                                     \
    FAKE int name(any h, any a, any b, any c, any d, int algorithm, size_t *n) {                                                   \
        return (void)h, (void)a, (void)b, (void)c, (void)d, (void)algorithm, *n = workspace(), 0;                                  \
    }
CONVOLUTION_SIZE(cudnnGetConvolutionForwardWorkspaceSize)
CONVOLUTION_SIZE(cudnnGetConvolutionBackwardDataWorkspaceSize)
CONVOLUTION_SIZE(cudnnGetConvolutionBackwardFilterWorkspaceSize)
FAKE int cudnnDropoutGetStatesSize(any h, size_t *n) { return (void)h, *n = workspace(), 0; }
FAKE int cudnnGetRNNWeightSpaceSize(any h, any d, size_t *n) { return (void)h, (void)d, *n = workspace(), 0; }
FAKE int cudnnGetRNNTempSpaceSizes(any h, any d, int mode, any x, size_t *work, size_t *reserve) {
    (void)h, (void)d, (void)mode, (void)x;
    if (work)
        *work = workspace();
    if (reserve)
        *reserve = workspace();
    return 0;
}

/* Algorithms: the same one for everything. */
struct performance {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

static int one(int *found, struct performance *performance) {
    *performance = (struct performance){.algorithm = 1, .time = 1, .memory = workspace(), .determinism = 1};
    return *found = 1, 0;
}

#define ALGORITHM(name)                                                                                                            \
    FAKE int name(any h, any a, any b, any c, any d, int wanted, int *found, struct performance *p) {                              \
        return (void)h, (void)a, (void)b, (void)c, (void)d, (void)wanted, one(found, p);                                           \
    }
ALGORITHM(cudnnGetConvolutionForwardAlgorithm_v7)
ALGORITHM(cudnnGetConvolutionBackwardDataAlgorithm_v7)
ALGORITHM(cudnnGetConvolutionBackwardFilterAlgorithm_v7)

#define TRIED_ALGORITHM(name)                                                                                                      \
    FAKE int name(any h, any a, any x, any b, any w, any c, any d, any y, int wanted, int *found, struct performance *p, any space, \
                  size_t n) {                                                                                                      \
        (void)h, (void)a, (void)x, (void)b, (void)w, (void)c, (void)d, (void)y, (void)wanted, (void)space, (void)n;                \
        return one(found, p);                                                                                                      \
    }
TRIED_ALGORITHM(cudnnFindConvolutionForwardAlgorithmEx)
TRIED_ALGORITHM(cudnnFindConvolutionBackwardDataAlgorithmEx)
TRIED_ALGORITHM(cudnnFindConvolutionBackwardFilterAlgorithmEx)
