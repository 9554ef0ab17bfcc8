/* Calls every function of the interface, with valid and invalid arguments. C11 and C++17. */
#include "check.h"

#include <string.h>

static const size_t MIB = (size_t)1 << 20;

static struct gk_stats stats_of(int device) {
    struct gk_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.size = sizeof stats;
    CHECK(gk_stats(device, &stats) == GK_OK);
    CHECK(stats.size == sizeof stats && stats.version == 1);
    return stats;
}

static void options(void) {
    CHECK(gk_configure("reserve:1.6") == GK_ARGUMENT && strstr(gk_last_error(), "1.6GiB"));
    CHECK(gk_configure("colour:red") == GK_ARGUMENT && strstr(gk_last_error(), "colour"));
    CHECK(gk_configure(NULL) == GK_ARGUMENT);
    CHECK(gk_configure("persist:1MiB,sort:reversed") == GK_OK);
    CHECK(gk_configure("persist:0,sort:normal") == GK_OK);
}

static void blocks(void) {
    CHECK(gk_malloc(0, 0, NULL) == NULL);
    CHECK(gk_malloc((size_t)-1, 0, NULL) == NULL && strstr(gk_last_error(), "out of memory"));
    CHECK(gk_malloc(1, 99, NULL) == NULL && strstr(gk_last_error(), "99"));
    CHECK(gk_malloc(1, -1, NULL) == NULL && strstr(gk_last_error(), "-1"));
    void *block = gk_malloc(3 * MIB, 0, NULL);
    CHECK(block);
    memset(block, 7, 3 * MIB); /* the simulated GPU's memory is this process's */
    size_t length = 0;
    CHECK(gk_base_alloc((char *)block + 5, &length) == block && length == 3 * MIB);
    CHECK(gk_base_alloc(block, NULL) == block);
    CHECK(gk_base_alloc(&length, NULL) == NULL);
    gk_record_stream(NULL, NULL);
    gk_record_stream(block, (void *)2);
    gk_free(block, 3 * MIB, 0, NULL);
    gk_free(block, 3 * MIB, 0, NULL); /* freed twice: reported, nothing else happens */
    CHECK(strstr(gk_last_error(), "not the start of a live block"));
    gk_free(&length, 1, 0, NULL);
    gk_free(NULL, 0, 0, NULL);
    CHECK(stats_of(0).blocks == 0 && stats_of(0).zero_mallocs == 1);
}

static void actions(void) {
    unsigned char *block = (unsigned char *)gk_malloc(9 * MIB, 0, NULL);
    CHECK(block && gk_mark(block, 1) == GK_OK);
    CHECK(gk_mark(&block, 1) == GK_NOT_ALLOCATED);
    memset(block, 42, 9 * MIB);
    uint64_t dedicated = 0, shared = 0;
    struct gk_activation activation;
    memset(&activation, 0, sizeof activation);
    activation.reserve = 100 * MIB;
    CHECK(gk_activate(0, &activation) == GK_OK && stats_of(0).phase == GK_ACTIVE);
    CHECK(stats_of(0).reserve == 100 * MIB);
    activation.reserve = 1000000 * MIB;
    CHECK(gk_activate(0, &activation) == GK_ARGUMENT && strstr(gk_last_error(), "choose smaller"));
    CHECK(gk_activate(7, NULL) == GK_ARGUMENT);
    gk_reset();
    CHECK(gk_move(block, GK_SHARED) == GK_OK);
    CHECK(gk_tier(block, &dedicated, &shared) == GK_OK && dedicated == 0 && shared == 9 * MIB);
    CHECK(gk_move(block, 5) == GK_ARGUMENT);
    CHECK(gk_pinned(block) == GK_NO_TIER && gk_pin(block, GK_SHARED) == GK_OK && gk_pinned(block + 5) == GK_SHARED);
    CHECK(gk_disable(0, NULL) == GK_OK && gk_tier(block, &dedicated, NULL) == GK_OK && dedicated == 0);
    CHECK(gk_pin(block, GK_NO_TIER) == GK_OK && gk_pin(block, 2) == GK_ARGUMENT && gk_pin(&block, 1) == GK_NOT_ALLOCATED);
    CHECK(gk_pinned(&block) == GK_NO_TIER);
    CHECK(gk_safe_point(0, "unet") == GK_OK && stats_of(0).automatic == 0);
    activation.reserve = GK_AUTO;
    CHECK(gk_activate(0, &activation) == GK_OK && stats_of(0).automatic == 1);
    CHECK(gk_touch(block + 5, 9 * MIB) == GK_OK && gk_touch(&block, 1) == GK_NOT_ALLOCATED);
    CHECK(gk_safe_point(0, NULL) == GK_OK && stats_of(0).safe_points == 1);
    CHECK(gk_safe_point(99, "") == GK_ARGUMENT && strstr(gk_last_error(), "99"));
    uint64_t placement = 9;
    int all = 9;
    CHECK(gk_begin_pass(0, "unet", NULL, &placement, &all) == GK_OK && all == 0);
    CHECK(gk_adopt(0, block, NULL) == GK_OK && gk_adopt(99, block, NULL) == GK_ARGUMENT);
    CHECK(gk_lend(0, block, 9 * MIB, NULL) == block && gk_lend(99, block, 1, NULL) == block);
    CHECK(gk_give_back(0, block, NULL, GK_READ) == GK_OK);
    CHECK(gk_give_back(0, block, NULL, 7) == GK_ARGUMENT && strstr(gk_last_error(), "7"));
    CHECK(gk_end_pass(0, 1) == GK_OK && gk_end_pass(0, 1) == GK_OK && gk_end_pass(99, 1) == GK_ARGUMENT);
    CHECK(gk_begin_pass(0, NULL, NULL, NULL, NULL) == GK_ARGUMENT);
    CHECK(gk_begin_loading(0, &activation) == GK_OK && stats_of(0).phase == GK_LOADING);
    activation.reserve = 1000000 * MIB;
    CHECK(gk_begin_loading(0, &activation) == GK_ARGUMENT && gk_begin_loading(9, NULL) == GK_ARGUMENT);
    CHECK(gk_disable(0, NULL) == GK_OK && stats_of(0).phase == GK_DISABLED);
    CHECK(stats_of(0).migrates == 1 && stats_of(0).stayed == 0 && stats_of(0).graph_pools == 0);
    char *text = gk_claims_json(0, NULL);
    CHECK(text && strstr(text, "\"size\":9437184,\"model\":true,\"pinned\":-1,\"stream\":0"));
    gk_text_free(text);
    CHECK(!gk_claims_json(9, NULL) && strstr(gk_last_error(), "no device 9"));
    CHECK(gk_tier(block, &dedicated, NULL) == GK_OK && dedicated == 9 * MIB);
    CHECK(gk_free_vram(0) == GK_OK && stats_of(0).phase == GK_FREED && stats_of(0).dedicated_reserved == 0);
    CHECK(gk_tier(block + 9 * MIB, NULL, NULL) == GK_NOT_ALLOCATED);
    for (size_t i = 0; i < 9 * MIB; i++)
        CHECK(block[i] == 42);
    CHECK(gk_reset_peaks(0) == GK_OK && gk_reset_totals(0) == GK_OK);
    gk_memory_fraction(0.5, 0);
    gk_memory_fraction(2.0, 0);
    CHECK(strstr(gk_last_error(), "between 0 and 1"));
    gk_free(block, 9 * MIB, 0, NULL);
}

static void pools(void) {
    const struct gk_pool first = {1, 2}, second = {5, 6}, kept_pool = {7, 8}, of_a_stream = {3, 4};
    gk_begin_allocate_to_pool(0, first, NULL);
    void *captured = gk_malloc(MIB, 0, NULL);
    CHECK(captured);
    CHECK(gk_free_vram(0) == GK_OK); /* a program's region is not a capture: nothing waits */
    gk_end_allocate_to_pool(0, first);
    gk_end_allocate_to_pool(0, first);
    CHECK(strstr(gk_last_error(), "it has ended"));
    gk_free(captured, MIB, 0, NULL);
    void *eager = gk_malloc(MIB, 0, NULL);
    CHECK(eager && eager != captured);
    CHECK(gk_pool_holds(0, 1, 2) == 1);
    gk_release_pool(0, first);
    CHECK(gk_pool_holds(0, 1, 2) == 0);
    gk_free(eager, MIB, 0, NULL);

    gk_begin_allocate_to_pool(0, second, NULL);
    gk_release_pool(0, second); /* before its end: the context goes on to serve */
    gk_release_pool(0, second);
    CHECK(strstr(gk_last_error(), "released by everyone"));
    captured = gk_malloc(MIB, 0, NULL);
    gk_end_allocate_to_pool(0, second);
    eager = gk_malloc(MIB, 0, NULL);
    CHECK(captured && eager && gk_pool_holds(0, 5, 6) == 0);
    gk_free(captured, MIB, 0, NULL);
    gk_free(eager, MIB, 0, NULL);

    CHECK(gk_keep_pool(7, 8) == GK_OK && gk_pool_holds(0, 7, 8) == 1);
    gk_begin_allocate_to_pool(0, kept_pool, NULL);
    void *kept = gk_malloc(MIB, 0, NULL);
    CHECK(gk_pool_holds(0, 7, 8) == 2);
    gk_end_allocate_to_pool(0, kept_pool);
    gk_release_pool(0, kept_pool);
    gk_free(kept, MIB, 0, NULL);
    gk_begin_allocate_to_pool(0, kept_pool, NULL);
    CHECK(gk_malloc(MIB, 0, NULL) == kept); /* free memory of a pool that is kept stays its own */
    gk_end_allocate_to_pool(0, kept_pool);
    gk_release_pool(0, kept_pool);
    gk_free(kept, MIB, 0, NULL);
    gk_drop_pool(7, 8);
    CHECK(gk_pool_holds(0, 7, 8) == 0);

    gk_begin_allocate_stream_to_pool(0, NULL, of_a_stream);
    captured = gk_malloc(MIB, 0, NULL);
    gk_end_allocate_stream_to_pool(0, NULL);
    gk_free(captured, MIB, 0, NULL);
    eager = gk_malloc(MIB, 0, NULL);
    CHECK(captured && eager && eager != captured);
    gk_end_allocate_stream_to_pool(0, NULL);
    CHECK(strstr(gk_last_error(), "no pool context is open on stream"));
    gk_release_pool(0, of_a_stream);
    gk_free(eager, MIB, 0, NULL);
}

static void history(void) {
    CHECK(gk_record(100, 4, 0) == GK_ARGUMENT && strstr(gk_last_error(), "stacks"));
    CHECK(gk_record(100, GK_STACKS_OF_ALL, 1 << 1) == GK_OK); /* there is no Python here */
    gk_free(gk_malloc(3 * MIB, 0, NULL), 3 * MIB, 0, NULL);
    char *text = gk_history_json(0);
    CHECK(text);
    CHECK(strstr(text, "\"action\":\"alloc\"") && strstr(text, "\"size\":3145728") && strstr(text, "\"stacks\":[[]]"));
    CHECK(strstr(text, "\"action\":\"free_completed\"") && !strstr(text, "\"action\":\"free_requested\""));
    gk_text_free(text);
    CHECK(gk_record(0, 0, 0) == GK_OK && (text = gk_history_json(0)));
    CHECK(strcmp(text, "{\"events\":[],\"stacks\":[]}") == 0);
    gk_text_free(text);
}

static void statistics(void) {
    char *text = gk_stats_json(0);
    CHECK(text && strlen(text) > 100);
    CHECK(strstr(text, "\"tiers\":{\"dedicated\":{\"capacity\":"));
    CHECK(strstr(text, "\"phase_name\":\"freed\"") && strstr(text, "\"rung\":\"host_numa\"") && strstr(text, "\"shared_capacity\":"));
    gk_text_free(text);
    gk_text_free(NULL);
    CHECK(!gk_stats_json(9) && !gk_stats_json(-1) && strstr(gk_last_error(), "no device -1"));
    CHECK(gk_torch_malloc(0, 0, NULL) == NULL && gk_torch_malloc(1, 99, NULL) == NULL);
    struct gk_activation defaults;
    struct gk_activation wrong;
    CHECK(gk_defaults(&wrong) == GK_OK && wrong.sort_by == GK_BY_SIZE);
    wrong.sort_by = 7;
    CHECK(gk_activate(0, &wrong) == GK_ARGUMENT && strstr(gk_last_error(), "sort_by 7"));
    CHECK(gk_defaults(NULL) == GK_ARGUMENT && gk_defaults(&defaults) == GK_OK && defaults.sort_reversed == 0);
    uint64_t bytes = 0, shared = 0;
    CHECK(gk_parse_size("1.5GiB", &bytes) == GK_OK && bytes == (uint64_t)1536 * MIB);
    CHECK(gk_parse_size("1.5", &bytes) == GK_ARGUMENT && gk_parse_size("1", NULL) == GK_ARGUMENT);
    CHECK(gk_prefer(GK_SHARED) == GK_DEDICATED);
    void *block = gk_malloc(5 * MIB, 0, NULL);
    CHECK(gk_prefer(GK_DEDICATED) == GK_SHARED && gk_prefer(GK_DEDICATED) == GK_DEDICATED);
    CHECK(gk_tier(block, &bytes, &shared) == GK_OK && bytes == 0 && shared == 5 * MIB);
    gk_free(block, 5 * MIB, 0, NULL);
    CHECK((text = gk_snapshot_json(0)) && strstr(text, "\"segments\":[{"));
    gk_text_free(text);
    struct gk_snapshot snapshot;
    CHECK(gk_snapshot(0, &snapshot) == GK_OK && strstr(snapshot.outline, "\"kinds\":[{"));
    CHECK(snapshot.count > 0 && snapshot.blocks[0].size > 0 && snapshot.blocks[0].kind == 0);
    gk_snapshot_free(&snapshot);
    gk_snapshot_free(NULL);
    CHECK(gk_snapshot(0, NULL) == GK_ARGUMENT && gk_snapshot(-1, &snapshot) == GK_ARGUMENT);
    CHECK((text = gk_map_json(0)) && strstr(text, "\"stock\":{\"dedicated\":"));
    gk_text_free(text);
    CHECK((text = gk_device_json(0)) && strstr(text, "\"shared_budget\":"));
    gk_text_free(text);
    CHECK(!gk_device_json(9));
    CHECK(gk_memory_info(0, GK_DEDICATED, &bytes, &shared) == GK_OK && bytes <= shared && shared > 0);
    CHECK(gk_memory_info(0, GK_SHARED, NULL, NULL) == GK_OK && gk_memory_info(0, 2, NULL, NULL) == GK_ARGUMENT);
    uint64_t of_shared = 0, together = 0;
    CHECK(gk_memory_info(0, GK_SHARED, NULL, &of_shared) == GK_OK);
    CHECK(gk_memory_info(0, GK_NO_TIER, NULL, &together) == GK_OK);
    CHECK(together == shared + of_shared);
    CHECK(gk_stats(0, NULL) == GK_ARGUMENT);
    struct gk_stats old;
    memset(&old, 0xee, sizeof old);
    old.size = 0;
    CHECK(gk_stats(0, &old) == GK_ARGUMENT && strstr(gk_last_error(), "size"));
    old.size = 16; /* a program that knows the first field only */
    CHECK(gk_stats(0, &old) == GK_OK && old.size == 16 && old.dedicated_capacity == 0xeeeeeeeeeeeeeeeeu);
}

int main(void) {
    CHECK(strlen(gk_version()) > 0 && strlen(gk_last_error()) == 0);
    options();
    gk_init(1);
    CHECK(gk_reset_peaks(0) == GK_OK && gk_reset_totals(0) == GK_OK);
    CHECK(stats_of(0).in_use == 0 && gk_safe_point(0, NULL) == GK_OK);
    char *none = gk_claims_json(0, NULL);
    CHECK(none && strcmp(none, "[]") == 0);
    gk_text_free(none);
    CHECK(gk_configure("persist:0") == GK_OK); /* nothing is in use yet */
    CHECK(gk_open(0) == GK_OK && gk_open(7) == GK_ARGUMENT && stats_of(0).in_use == 1);
    CHECK(gk_configure("persist:0") == GK_REFUSED);
    CHECK(gk_begin_work(0) == GK_OK && gk_end_work(0) == GK_OK && gk_rest(0) == GK_OK && gk_vouch(0) == GK_OK);
    CHECK(gk_vouch(7) == GK_ARGUMENT && stats_of(0).abstained == 0);
    blocks();
    actions();
    pools();
    history();
    statistics();
    gk_farewell();
    size_t forgotten = 1;
    CHECK(gk_forget("/no/such/program", &forgotten) == GK_OK && forgotten == 0);
    puts("everything was called");
    return 0;
}
