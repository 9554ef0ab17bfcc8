/* giant-kitten: a PyTorch CUDA allocator with two tiers of GPU-addressable memory, in C.
 *
 * dedicated  the card's own memory (VRAM)
 * shared     host memory mapped into the GPU's address space, read over the link
 *
 * Sizes are bytes. Every function may be called from any thread at any time, except the actions
 * (gk_activate, gk_disable, gk_free_vram, gk_move): no other thread may launch work on the device
 * during an action. An action waits for the pieces of work that other threads have begun
 * (gk_begin_work), and is refused where that takes more than 30 seconds. No function may be called
 * from a signal handler: the call that it interrupts may hold a lock. Functions that return int
 * return GK_OK or a code below, except gk_pinned and gk_prefer; gk_last_error() then has the text
 * of the error, for the calling thread.
 *
 * Addresses of live blocks never change; an action moves the memory under them. On drivers that can
 * only pin host memory (gk_stats: migrates is 0, and "rung" of gk_stats_json is "pinned") a block
 * stays in the tier where it was allocated. The actions do everything else there, and return
 * GK_IMMOVABLE if blocks should have moved.
 *
 * Options come from the environment variable GIANT_KITTEN, as in
 * GIANT_KITTEN=reserve:1.6GiB,persist:0,sort:reversed (docs/options.md lists them).
 * GIANT_KITTEN_LOG sets what is logged to stderr: error, warn (the default), info, debug.
 *
 * Functions that return char * return a text of the library's: JSON, in UTF-8, or null after an
 * error. The caller frees it with gk_text_free. The files in schemas/ describe each text (JSON
 * Schema, draft 2020-12). docs/versions.md says what later versions keep, docs/glossary.md has the
 * words.
 *
 * History
 *   0.1.0  Not released yet. Before, the functions ..._json wrote to a buffer of the caller's, and
 *          were called twice; and the hooks of pools took the two integers of a name.
 */
#ifndef GIANT_KITTEN_H
#define GIANT_KITTEN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    GK_OK = 0,
    GK_OUT_OF_MEMORY = 1, /* neither tier has room */
    GK_ARGUMENT = 2,      /* invalid argument */
    GK_NOT_ALLOCATED = 3, /* an address is in no live block */
    GK_REFUSED = 4,       /* not now; the text says what to do */
    GK_DRIVER = 5,        /* a driver call failed */
    GK_INTERNAL = 6,      /* a bug in giant-kitten */
    GK_IMMOVABLE = 7      /* blocks cannot change tier on this driver; the rest is done */
};

enum { GK_DEDICATED = 0, GK_SHARED = 1 };
enum { GK_LOADING = 0, GK_ACTIVE = 1, GK_DISABLED = 2, GK_FREED = 3 };

/* ---- What PyTorch calls -------------------------------------------------------------------- */

/* Allocates at least `size` bytes on `device`, aligned to 512, for work on `stream` (a
 * cudaStream_t; null is the default stream). Returns null for size 0. Returns null also if the
 * request cannot be satisfied: gk_last_error() then says why, with the figures of both tiers. */
void *gk_malloc(size_t size, int device, void *stream);

/* gk_malloc for PyTorch, which does not check for null: a failure is thrown as a C++ exception of
 * PyTorch's own, out of memory as torch.OutOfMemoryError. In a process without PyTorch this is
 * gk_malloc. */
void *gk_torch_malloc(size_t size, int device, void *stream);

/* Frees a block. Work on `stream` may reuse it at once; that must be the last stream that uses the
 * block (for others, see gk_record_stream). Null is allowed. `size` is ignored. A pointer that is
 * not the start of a live block is logged, and nothing else happens. */
void gk_free(void *ptr, size_t size, int device, void *stream);

/* Hook init: does nothing. */
void gk_init(int device_count);

/* Hook reset (torch.cuda.empty_cache): returns idle memory to the driver, on all devices in use. It
 * may be called from any thread, at any time, during any work: no live memory moves. Does nothing
 * while active, and while a graph is captured. */
void gk_reset(void);

/* Hook memory fraction: limits dedicated memory to this part of the card, 0 to 1. */
void gk_memory_fraction(double fraction, int device);

/* Hook base allocation: returns the start of the block that holds `ptr`, and writes its length to
 * *size unless that is null. Returns null for a foreign pointer. */
void *gk_base_alloc(void *ptr, size_t *size);

/* Hook record stream: `stream` uses the block that holds `ptr` too. Once freed, the block waits for
 * that work. */
void gk_record_stream(void *ptr, void *stream);

/* The name of a memory pool: PyTorch's MempoolId_t, a std::pair that is passed by value. */
struct gk_pool {
    uint64_t a, b;
};

/* Hooks of memory pools: those of CUDA graph captures, and those that programs use themselves.
 * `filter` points to a std::function<bool(cudaStream_t)>, or is null to accept every stream. The
 * function is of the C++ library that PyTorch is built with: libstdc++, or on Windows Microsoft's.
 * Microsoft's is destroyed here, as its calling convention has it. Memory that is allocated between
 * begin and end, on streams that the filter accepts, belongs to the pool until the pool has been
 * released as often as it was begun. If several pools accept an allocation, the one that was begun
 * last serves it. A release may come before the end. */
void gk_begin_allocate_to_pool(int device, struct gk_pool pool, const void *filter);
void gk_end_allocate_to_pool(int device, struct gk_pool pool);
/* The first two as PyTorch 2.1 has them: the capture is of one stream, which replaces the filter
 * and names the capture at its end. */
void gk_begin_allocate_stream_to_pool(int device, void *stream, struct gk_pool pool);
void gk_end_allocate_stream_to_pool(int device, void *stream);
void gk_release_pool(int device, struct gk_pool pool);
/* Keeps a pool, as an object that owns it does, on every device from its first use there.
 * gk_drop_pool ends that, and returns the pool's idle memory to the driver. */
int gk_keep_pool(uint64_t pool_a, uint64_t pool_b);
void gk_drop_pool(uint64_t pool_a, uint64_t pool_b);
/* The number of holders of the pool on all devices: those that keep it, and those that began to
 * allocate from it, less those that released it. 0 if there is no such pool. */
uint64_t gk_pool_holds(int device, uint64_t pool_a, uint64_t pool_b);

/* ---- Control -------------------------------------------------------------------------------- */

/* Puts a device to use, as its first allocation would: creates a context, and the backing of the
 * reserve. Queries never do that: for a device that is not in use, statistics and maps say only
 * that. */
int gk_open(int device);

/* Sets options, over those of the environment variable. Works only before the first allocation, and
 * returns GK_REFUSED after it. Returns GK_ARGUMENT, with a sentence, for a text that is invalid;
 * nothing has changed then. */
int gk_configure(const char *options);

/* A reserve that is found from what the work allocates. */
#define GK_AUTO UINT64_MAX

/* The property by which blocks are sorted. */
#define GK_BY_SIZE 0
#define GK_BY_READS 1
#define GK_BY_RECENCY 2

struct gk_activation {
    uint64_t reserve;  /* dedicated bytes that live blocks leave to scratch, or GK_AUTO */
    uint64_t persist;  /* dedicated bytes withheld altogether */
    int sort_reversed; /* not 0: large blocks claim dedicated memory first, instead of small ones */
    int ignore_model;  /* not 0: blocks marked as the model's are not placed before the others */
    int sort_by;       /* GK_BY_SIZE; by reported reads, GK_BY_READS or GK_BY_RECENCY */
};

/* Writes the activation that the options describe, so that a caller can change a part of it. */
int gk_defaults(struct gk_activation *activation);

/* Places every live block: the model's first, then the others, each group sorted by size, into the
 * dedicated memory less reserve less persist; the rest into shared. Then freezes: nothing is
 * released or moved until the next action, except by the automatic mode, and new blocks get the
 * reserve first. Null takes the options. GK_ARGUMENT or GK_REFUSED: nothing was moved.
 * GK_IMMOVABLE: the device is active, and live blocks stay where they are; the reserve is only as
 * large as they leave. */
int gk_activate(int device, const struct gk_activation *activation);

/* A safe point of the automatic mode: the caller asserts that no thread launches work on the device
 * until the call returns. The mode is on from the beginning if no reserve is given, and after an
 * activation with GK_AUTO; any other action ends it. `kind` names the work that comes next, in any
 * words that are the same for the same work ("unet"), or is null. If it pays, room is made now for
 * the scratch that overflowed since the last safe point, and for the scratch that this kind of work
 * needed before. Resident memory moves, no address changes, and nothing is done if everything fits.
 *
 * The assertion is checked as far as an allocator can see. Nothing moves this time ("abstained"
 * counts it) if another thread has allocated or freed on the device since the last safe point,
 * called that safe point, or is inside a piece of work (below); if a graph is captured; or if the
 * device is at work again after the wait for it. An allocator cannot see a thread that launches and
 * never allocates, unless its work is running just then: for that, the assertion alone counts. */
int gk_safe_point(int device, const char *kind);

/* A piece of work of the calling thread begins, and ends: no safe point of another thread moves
 * anything in between. Pieces may be nested. A piece may begin before the first allocation on the
 * device, and does not put it to use. */
int gk_begin_work(int device);
int gk_end_work(int device);

/* The calling thread will launch nothing before it allocates, frees or begins a piece of work
 * again: safe points of other threads disregard what it did before. */
int gk_rest(int device);

/* The caller asserts, for its next safe point, that all other threads are at rest, although they
 * were seen. The assertion does not cover threads inside a piece of work. */
int gk_vouch(int device);

/* A pass of work of a kind begins on a device, right after its safe point, and its weights may be
 * lent from the ring of copies. Passes may be nested; an inner one belongs to the outer. A pass is
 * its thread's: while one goes on, the passes of other threads read in place.
 * `placement` gets 0 if nothing has to be lent in this pass, and otherwise a number that changes
 * whenever other weights than before should be lent. `all` gets 1 if every weight should be
 * lent, since the order of their use is being learned; otherwise those suffice of which something
 * lies in the shared tier (gk_tier). Both may be null. */
int gk_begin_pass(int device, const char *kind, void *stream, uint64_t *placement, int *all);

/* The weight at `ptr` is for the calling thread to use on `stream`, in passes that begin later, as
 * if it had been lent there before. Only such weights are copied ahead, since the copies wait for
 * nothing but the work of that stream before the pass. To be called where a model's passes go on in
 * another thread or on another stream; otherwise the first one there reads in place. */
int gk_adopt(int device, const void *ptr, void *stream);

/* The weight of `bytes` at `ptr` is about to be used on `stream`. Returns where to read it: a slot
 * of the ring, or `ptr` itself. Work on `stream` waits for the copy; the host never does. */
void *gk_lend(int device, const void *ptr, size_t bytes, void *stream);

/* How a weight that was lent is given back. */
enum {
    GK_READ = 0,    /* it was read, or was not used */
    GK_WRITTEN = 1, /* it was written: the slot is copied back to the weight */
    GK_KEPT = 2,    /* someone holds the slot: it is not reused before it is released */
    GK_RELEASED = 3 /* nobody uses the slot any more that was kept, or whose user is gone; also
                     * outside a pass */
};

/* A weight was used on `stream`: work that comes later there does not touch its slot. `lent` is
 * what gk_lend returned, also where that was the weight itself. GK_RELEASED with the address of a
 * weight ends all lending of it, except for slots that were kept. */
int gk_give_back(int device, const void *lent, void *stream, int how);

/* The pass that the calling thread began last on a device ends; `whole` is 0 if it did not come to
 * its end. */
int gk_end_pass(int device, int whole);

/* Reports to the automatic mode that the work between two safe points reads `bytes` of the block
 * that holds `ptr`. Without reports, every block that is live at a safe point counts as read
 * once. */
int gk_touch(const void *ptr, size_t bytes);

/* Places every live block in the same order, with all of the dedicated memory, and thaws. Of
 * `activation` only the order counts; null takes the options. */
int gk_disable(int device, const struct gk_activation *activation);

/* Moves every live block to shared, and returns dedicated memory to the driver. Blocks stay
 * usable. */
int gk_free_vram(int device);

/* Goes back to loading: thaws, unmaps idle memory, and withholds reserve and persist from
 * allocations until the next action, as the options do from the start. Nothing moves; of
 * `activation` only reserve and persist count. With it a program can place blocks that cannot move:
 * free them, begin to load, and allocate them again in the order of gk_claims_json. */
int gk_begin_loading(int device, const struct gk_activation *activation);

/* The live blocks, except those of graph pools, as a JSON list (schemas/claims.json), in the order
 * in which an action would let them claim dedicated memory. Of `activation` only the order counts;
 * null takes the options. */
char *gk_claims_json(int device, const struct gk_activation *activation);

/* Marks the block that holds `ptr` as the model's (`model` is not 0), or removes the mark (0). */
int gk_mark(void *ptr, int model);

/* Pins the block that holds `ptr` to a tier (GK_DEDICATED, GK_SHARED), or unpins it (GK_NO_TIER).
 * Neither the automatic mode nor an activation moves a pinned block out of its tier, until it is
 * freed. gk_free_vram moves blocks that are pinned to the card for as long as it lasts. Nothing
 * moves now. */
#define GK_NO_TIER (-1)
int gk_pin(void *ptr, int tier);

/* The tier that the block that holds `ptr` is pinned to, or GK_NO_TIER, also for a foreign
 * pointer. */
int gk_pinned(void *ptr);

/* Writes how many bytes of the block that holds `ptr` lie in each tier; either may be null. */
int gk_tier(void *ptr, uint64_t *dedicated, uint64_t *shared);

/* Moves the block that holds `ptr` to GK_DEDICATED or GK_SHARED, together with small blocks that
 * share its granules. Returns GK_IMMOVABLE if it cannot. */
int gk_move(void *ptr, int tier);

/* Statistics of a device. Set `size` to sizeof(struct gk_stats) before the call; an older library
 * fills in less, and writes to `size` how much. */
struct gk_stats {
    uint32_t size;
    uint32_t version;
    uint64_t granule;            /* the unit in which memory is backed and moved */
    uint64_t dedicated_capacity; /* the most that the tier may hold */
    uint64_t shared_capacity;
    uint64_t dedicated_allocated; /* live blocks, each rounded up to 512 */
    uint64_t dedicated_allocated_peak;
    uint64_t shared_allocated;
    uint64_t shared_allocated_peak;
    uint64_t dedicated_active; /* the same, and freed blocks that wait for other streams */
    uint64_t dedicated_active_peak;
    uint64_t shared_active;
    uint64_t shared_active_peak;
    uint64_t dedicated_mapped; /* backing mapped at addresses */
    uint64_t dedicated_mapped_peak;
    uint64_t shared_mapped;
    uint64_t shared_mapped_peak;
    uint64_t dedicated_reserved; /* backing held from the driver, mapped or in stock */
    uint64_t dedicated_reserved_peak;
    uint64_t shared_reserved;
    uint64_t shared_reserved_peak;
    uint64_t requested; /* bytes of active blocks before rounding */
    uint64_t requested_peak;
    uint64_t phase;              /* GK_LOADING, GK_ACTIVE, GK_DISABLED, GK_FREED */
    uint64_t reserve;            /* the reserve in force */
    uint64_t reserve_used;       /* dedicated bytes of live scratch */
    uint64_t reserve_high_water; /* its peak since the last action or reset of peaks */
    uint64_t persist;            /* persist in force */
    uint64_t mallocs;            /* calls, without those of size 0 */
    uint64_t frees;
    uint64_t zero_mallocs;
    uint64_t out_of_memory;        /* requests that neither tier could satisfy */
    uint64_t retries;              /* requests satisfied only after a wait for the device */
    uint64_t resets;               /* calls of gk_reset */
    uint64_t migrations;           /* granules that changed tier */
    uint64_t migrated_bytes;
    uint64_t fell_to_shared;       /* blocks that lay in shared from the start */
    uint64_t fell_to_shared_bytes;
    uint64_t retired_blocks; /* freed, but waiting for other streams */
    uint64_t blocks; /* live blocks, then small and large ones apart; _total: all ever */
    uint64_t blocks_peak;
    uint64_t blocks_total;
    uint64_t allocated;
    uint64_t allocated_peak;
    uint64_t allocated_total;
    uint64_t requested_total;
    uint64_t small_blocks;
    uint64_t small_blocks_peak;
    uint64_t small_blocks_total;
    uint64_t small_allocated;
    uint64_t small_allocated_peak;
    uint64_t small_allocated_total;
    uint64_t small_requested;
    uint64_t small_requested_peak;
    uint64_t small_requested_total;
    uint64_t large_blocks;
    uint64_t large_blocks_peak;
    uint64_t large_blocks_total;
    uint64_t large_allocated;
    uint64_t large_allocated_peak;
    uint64_t large_allocated_total;
    uint64_t large_requested;
    uint64_t large_requested_peak;
    uint64_t large_requested_total;
    uint64_t reserved; /* held from the driver in both tiers */
    uint64_t reserved_peak;
    uint64_t reserved_total;
    uint64_t automatic;           /* 1 if the reserve is found automatically */
    uint64_t safe_points;         /* at which the automatic mode looked */
    uint64_t rebalances;          /* at which it moved something */
    uint64_t rebalanced_demoted;  /* bytes that it moved to the shared tier */
    uint64_t rebalanced_promoted; /* bytes that it moved to the dedicated tier */
    uint64_t scratch_peak;        /* the most scratch at once since the last safe point */
    uint64_t migrates;            /* 1 if blocks can change tier, else 0 */
    uint64_t stayed;              /* bytes of blocks that the last action could not move */
    uint64_t graph_pools;         /* pools of graph captures that are not released */
    uint64_t active_blocks; /* blocks that are live or wait for other streams */
    uint64_t active_blocks_peak;
    uint64_t active; /* their bytes, rounded */
    uint64_t active_peak;
    uint64_t small_active_blocks;
    uint64_t small_active_blocks_peak;
    uint64_t small_active;
    uint64_t small_active_peak;
    uint64_t large_active_blocks;
    uint64_t large_active_blocks_peak;
    uint64_t large_active;
    uint64_t large_active_peak;
    uint64_t stitched_bytes; /* idle dedicated memory in short runs, mapped anew side by side */
    uint64_t small_splits;        /* free ranges next to small blocks, which cannot be returned */
    uint64_t small_split_bytes;
    uint64_t large_splits;        /* the same next to large blocks */
    uint64_t large_split_bytes;
    uint64_t abstained;           /* safe points that moved nothing because work was seen */
    uint64_t in_use;              /* 1 if the device is in use; otherwise everything else is 0 */
    uint64_t staging;             /* dedicated bytes of the ring of weights copied ahead */
    uint64_t kept_slots;          /* of the ring, held although their weights were given back */
    uint64_t lends;               /* of weights from the ring */
    uint64_t lent_bytes;          /* of those weights */
    uint64_t copied_ahead_bytes;  /* of the shared tier */
    uint64_t missed_lends;        /* weights in the shared tier that were read in place */
    uint64_t dropped_copies;      /* copies that nothing used */
    uint64_t written_back;        /* weights that were written in the ring and copied back */
    uint64_t dedicated_granted;   /* by the operating system to this process; 0: no account */
    uint64_t dedicated_usage;     /* by this process, by the same account */
    uint64_t shared_granted;      /* the same of shared memory */
    uint64_t shared_usage;
};
int gk_stats(int device, struct gk_stats *stats);

/* The same as one JSON object (schemas/stats.json): the fields above by name, the figures of each
 * tier under "tiers", and the device's name, its phase, how its reserve was found, and the rung of
 * its shared tier. */
char *gk_stats_json(int device);

/* Writes how much of a tier (GK_NO_TIER: of both together) can still be allocated, and how much it
 * has in all for this process; either may be null. The driver is asked, so memory that others have
 * taken does not count; host memory is promised once, to all devices and all processes of a user
 * together. A device that is not in use is not put to use. */
int gk_memory_info(int device, int tier, uint64_t *free, uint64_t *total);

/* A device as it is found, and the memory that it would have, as one JSON object
 * (schemas/device.json). The device is not put to use, although the driver creates a context. */
char *gk_device_json(int device);

/* Sets where the calling thread's allocations go from now on: GK_SHARED, to the shared tier as long
 * as that has room; GK_DEDICATED, as usual. Returns the previous setting. */
int gk_prefer(int tier);

/* Reads a size as in the options ("1.6GiB", or bytes) into *bytes. */
int gk_parse_size(const char *text, uint64_t *bytes);

/* Every segment (a run of backed granules of one arena) and block of a device as one JSON object
 * (schemas/snapshot.json), in the words of PyTorch's memory snapshots, and the stacks that led to
 * the allocations of live blocks, as far as they are known. */
char *gk_snapshot_json(int device);

/* The same for programs that list many blocks: the blocks as structs, one segment after another,
 * and what they share as one JSON object (schemas/outline.json). gk_snapshot_free frees both, and
 * allows null. */
struct gk_block {
    uint64_t address;
    uint64_t size;
    uint64_t requested; /* before rounding; 0 for free space */
    uint64_t dedicated; /* bytes of it in that tier */
    uint64_t shared;
    uint64_t kind; /* its state, stream and stack: which of "kinds" */
};
struct gk_snapshot {
    char *outline;
    struct gk_block *blocks;
    size_t count;
};
int gk_snapshot(int device, struct gk_snapshot *snapshot);
void gk_snapshot_free(struct gk_snapshot *snapshot);

/* Which Python stacks a recording keeps: none; for each live block, the stack of its malloc; the
 * same with each event of the block; and with the events of a free, the stack of the free. */
enum { GK_NO_STACKS = 0, GK_STACKS_OF_BLOCKS = 1, GK_STACKS_OF_MALLOC = 2, GK_STACKS_OF_ALL = 3 };

/* Records the last `events` events of each device (at most 2^20); 0 ends the recording and discards
 * them. Events that were recorded before are kept as far as there is room, and the stack of a block
 * is known as long as the block is live. `skipped` has a bit for each action that is left out: 0
 * alloc, 1 free_requested, 2 free_completed, 3 segment_map, 4 segment_unmap, 5 oom.
 *
 * For stacks, the calling thread has to hold Python's lock. They are read in the interpreter of the
 * process, without running any Python. End the recording before the interpreter ends: once this
 * call has returned, no stack is read any more. */
int gk_record(size_t events, int stacks, uint32_t skipped);

/* The recorded events of a device as one JSON object (schemas/history.json), the oldest first, in
 * the words of PyTorch's memory snapshots, and the stacks that led to them. */
char *gk_history_json(int device);

/* The memory map of a device as one JSON object (schemas/map.json): the bytes of each kind of block
 * in each tier, the stock, and one letter per granule. */
char *gk_map_json(int device);

/* Frees a text that a function of this library returned as char *. Null is allowed. */
void gk_text_free(char *text);

/* Tells the allocator that the program ends. With the option reserve:remembered, the reserve that
 * this run would have wanted is remembered for the next one; otherwise one line is logged for each
 * device whose work overflowed for lack of a reserve. gk_forget deletes what is remembered of a
 * program, or of all (null), and writes the number of deleted files to *count, unless null. */
void gk_farewell(void);
int gk_forget(const char *program, size_t *count);

/* Sets the peaks of a device to the current values. */
int gk_reset_peaks(int device);

/* Resets the counters of a device that only grow: calls, totals, migrations. */
int gk_reset_totals(int device);

/* The text of the last error on this thread, or "". Valid until the next call on this thread. */
const char *gk_last_error(void);

/* The library's version. */
const char *gk_version(void);

#ifdef __cplusplus
}
#endif

#endif
