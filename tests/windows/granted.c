/* What Windows grants of a card's memory, on a driver that creates more than that: the fake
 * nvcuda.dll, which answers for dxgi.dll too. First the fake is asked through Microsoft's own
 * declarations, so that what the library has laid out by hand is compared with them. */
#define COBJMACROS
#define INITGUID
#include "../c/check.h"

#include <dxgi1_4.h>
#include <string.h>
#include <windows.h>

static const size_t MIB = (size_t)1 << 20;
static const uint64_t DEDICATED = 1024, SHARED = 4096;

typedef HRESULT(WINAPI *create)(REFIID, void **);
typedef int (*luid_of)(char *, unsigned *, int);
typedef void (*grant)(int, uint64_t, uint64_t);
typedef uint64_t (*spilled)(void);

static HMODULE fake;

static struct gk_stats stats(void) {
    struct gk_stats stats = {.size = sizeof stats};
    CHECK(gk_stats(0, &stats) == GK_OK);
    return stats;
}

static void set_grant(uint64_t dedicated, uint64_t shared) {
    ((grant)(void *)GetProcAddress(fake, "fake_cuda_grant"))(0, dedicated * MIB, shared * MIB);
    Sleep(2100); /* The library asks every two seconds at most. */
}

static void ask_by_the_declarations(void) {
    LUID luid;
    unsigned nodes;
    IDXGIFactory4 *factory;
    IDXGIAdapter3 *adapter;
    CHECK(((luid_of)(void *)GetProcAddress(fake, "cuDeviceGetLuid"))((char *)&luid, &nodes, 0) == 0);
    create make = (create)(void *)GetProcAddress(fake, "CreateDXGIFactory1");
    CHECK(make(&IID_IDXGIFactory4, (void **)&factory) == S_OK);
    CHECK(IDXGIFactory4_EnumAdapterByLuid(factory, luid, &IID_IDXGIAdapter3, (void **)&adapter) == S_OK);
    for (int group = 0; group < 2; group++) {
        DXGI_QUERY_VIDEO_MEMORY_INFO info;
        CHECK(IDXGIAdapter3_QueryVideoMemoryInfo(adapter, 0, (DXGI_MEMORY_SEGMENT_GROUP)group, &info) == S_OK);
        CHECK(info.Budget == (group ? SHARED : DEDICATED) * MIB);
    }
    luid.HighPart++;
    CHECK(IDXGIFactory4_EnumAdapterByLuid(factory, luid, &IID_IDXGIAdapter3, (void **)&adapter) ==
          DXGI_ERROR_NOT_FOUND);
}

int main(void) {
    fake = LoadLibraryA(getenv("GIANT_KITTEN_CUDA_DRIVER"));
    CHECK(fake != NULL);
    ask_by_the_declarations();
    CHECK(gk_configure("headroom:64MiB,shared:2GiB") == GK_OK);
    void *blocks[20];
    for (int i = 0; i < 20; i++)
        CHECK((blocks[i] = gk_malloc(100 * MIB, 0, NULL)) != NULL);
    struct gk_stats full = stats();
    printf("%llu of %llu MiB\n", (unsigned long long)full.dedicated_reserved / MIB, (unsigned long long)DEDICATED);
    CHECK(full.dedicated_granted == DEDICATED * MIB && full.shared_granted == SHARED * MIB);
    CHECK(full.dedicated_reserved <= (DEDICATED - 64) * MIB && full.dedicated_reserved >= 900 * MIB);
    CHECK(full.shared_allocated >= 1000 * MIB);
    /* The others in the list go, and what they leave is idle. */
    for (int i = 4; i < 20; i++)
        gk_free(blocks[i], 0, 0, NULL);
    set_grant(600, SHARED);
    CHECK(gk_safe_point(0, "after the budget has shrunk") == GK_OK);
    CHECK(stats().dedicated_reserved <= 536 * MIB && stats().dedicated_allocated == 400 * MIB);
    set_grant(DEDICATED, SHARED);
    CHECK(gk_malloc(500 * MIB, 0, NULL) != NULL);
    CHECK(stats().dedicated_allocated == 900 * MIB);
    CHECK(((spilled)(void *)GetProcAddress(fake, "fake_cuda_spilled"))() == 0);
    char *device = gk_device_json(0);
    CHECK(strstr(device, "\"granted_unknown\":\"\"") != NULL);
    gk_text_free(device);
    puts("never more than the budget");
    return 0;
}
