// A CUDA driver whose device memory is host memory. Like the real one it wants a context and lets copies to the host
// arrive late; it counts what is held. So the tests see wrong arguments, work outside a context, results read before
// the stream is done, and leaks.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201 };

int stub_device_count = 1;
int stub_init_status = SUCCESS;
size_t stub_host_limit = 1 << 28;
int stub_held = 0;       // device memory, host memory, streams and context references
int stub_depth = 0;      // contexts pushed and not popped
int stub_pending = 0;    // copies to the host that wait for the synchronisation

static char context, stream;
static struct { void *to, *from; size_t size; } pending[16];

#define NEED_CONTEXT if (stub_depth == 0) return INVALID_CONTEXT

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : stub_init_status; }

int cuGetErrorName(int status, const char **name) {
    *name = status == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : status == INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT"
        : status == 100 ? "CUDA_ERROR_NO_DEVICE" : NULL;
    return *name ? SUCCESS : INVALID_VALUE;
}

int cuDeviceGetCount(int *count) { *count = stub_device_count; return SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return ordinal < stub_device_count ? SUCCESS : 101; }

int cuDriverGetVersion(int *version) { *version = 13010; return SUCCESS; }
int cuDeviceGetName(char *name, int size, int device) {
    strncpy(name, "Stand-in", size);
    return device < 40 ? INVALID_VALUE : SUCCESS;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1;
    return device < 40 ? INVALID_VALUE : SUCCESS;
}
int cuDeviceTotalMem_v2(size_t *size, int device) { *size = 8u << 28; return device < 40 ? INVALID_VALUE : SUCCESS; }

int cuDevicePrimaryCtxRetain(void **out, int device) {
    if (device < 40) return INVALID_VALUE;
    *out = &context;
    stub_held++;
    return SUCCESS;
}
int cuDevicePrimaryCtxRelease_v2(int device) { stub_held--; return device < 40 ? INVALID_VALUE : SUCCESS; }

int cuCtxPushCurrent_v2(void *pushed) { stub_depth++; return pushed == &context ? SUCCESS : INVALID_CONTEXT; }
int cuCtxPopCurrent_v2(void **popped) { NEED_CONTEXT; stub_depth--; *popped = &context; return SUCCESS; }

int cuStreamCreate(void **out, unsigned flags) {
    NEED_CONTEXT;
    *out = &stream;
    stub_held++;
    return flags == 1 ? SUCCESS : INVALID_VALUE;
}
int cuStreamSynchronize(void *which) {
    NEED_CONTEXT;
    for (; stub_pending > 0; stub_pending--) {
        memcpy(pending[stub_pending - 1].to, pending[stub_pending - 1].from, pending[stub_pending - 1].size);
    }
    return which == &stream ? SUCCESS : INVALID_VALUE;
}
int cuStreamDestroy_v2(void *which) { NEED_CONTEXT; stub_held--; return which == &stream ? SUCCESS : INVALID_VALUE; }

// Device addresses are offset from the memory they stand for, so that mixing them up with host ones crashes.
#define OFFSET ((uint64_t)1 << 60)

int cuMemAlloc_v2(uint64_t *address, size_t size) {
    NEED_CONTEXT;
    *address = (uint64_t)malloc(size) + OFFSET;
    stub_held++;
    return SUCCESS;
}
int cuMemFree_v2(uint64_t address) { NEED_CONTEXT; free((void *)(address - OFFSET)); stub_held--; return SUCCESS; }

int cuMemAllocHost_v2(void **out, size_t size) {
    NEED_CONTEXT;
    if (size > stub_host_limit) return OUT_OF_MEMORY;
    *out = malloc(size);
    stub_held++;
    return SUCCESS;
}
int cuMemFreeHost(void *host) { NEED_CONTEXT; free(host); stub_held--; return SUCCESS; }

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *which) {
    NEED_CONTEXT;
    memcpy((void *)(to - OFFSET), from, size);
    return which == &stream ? SUCCESS : INVALID_VALUE;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *which) {
    NEED_CONTEXT;
    if (stub_pending == 16) return OUT_OF_MEMORY;
    pending[stub_pending].to = to;
    pending[stub_pending].from = (void *)(from - OFFSET);
    pending[stub_pending].size = size;
    stub_pending++;
    return which == &stream ? SUCCESS : INVALID_VALUE;
}
