/* The hook that begins a pool, with filters as PyTorch for Windows passes them: a `std::function` of
 * Microsoft's library, whose object lies inside it or elsewhere. Each object is destroyed once, and
 * one that lies elsewhere is freed. */
#include "../c/check.h"

#include <string.h>

static const size_t MIB = (size_t)1 << 20;

struct type_info {
    void *functions, *readable;
    char name[80];
};

/* What is in a filter: a function that accepts one stream. */
struct object {
    const void *const *functions;
    void *accepted;
    char unused[64];
};

struct function {
    void *storage[7];
    struct object *object;
};

static int live, freed;
static const void *const small[], *const large[];
static struct type_info capture = {NULL, NULL, ".?AV<lambda_1>@?1??capture_begin@CUDAGraph@cuda@at@@QEAAX@Z@"};

static struct object *copy_small(const struct object *self, void *where) {
    live++;
    memcpy(where, self, 2 * sizeof(void *));
    return (struct object *)where;
}

static struct object *copy_large(const struct object *self, void *where) {
    (void)where;
    live++;
    struct object *copy = (struct object *)malloc(sizeof *copy);
    CHECK(copy);
    memcpy(copy, self, sizeof *copy);
    return copy;
}

static struct object *relocate(struct object *self, void *where) {
    (void)self, (void)where;
    CHECK(!"a filter is moved");
    return NULL;
}

static _Bool call(const struct object *self, void *const *stream) {
    return *stream == self->accepted;
}

static const void *type(const struct object *self) {
    (void)self;
    return &capture;
}

static void destroy(struct object *self, _Bool is_elsewhere) {
    CHECK(is_elsewhere == (self->functions == large));
    live--;
    if (is_elsewhere) {
        freed++;
        free(self);
    }
}

static const void *target(const struct object *self) {
    return self;
}

static const void *const small[] = {(void *)copy_small, (void *)relocate, (void *)call,
                                    (void *)type,       (void *)destroy,  (void *)target};
static const void *const large[] = {(void *)copy_large, (void *)relocate, (void *)call,
                                    (void *)type,       (void *)destroy,  (void *)target};

/* Allocates in a pool whose filter accepts the default stream, and outside of it. */
static void use(struct gk_pool pool, struct function *filter) {
    gk_begin_allocate_to_pool(0, pool, filter);
    CHECK(live == 1 && gk_pool_holds(0, pool.a, pool.b) == 1);
    void *inside = gk_malloc(MIB, 0, NULL);
    CHECK(inside);
    gk_end_allocate_to_pool(0, pool);
    CHECK(live == 0);
    gk_free(inside, MIB, 0, NULL);
    void *outside = gk_malloc(MIB, 0, NULL);
    CHECK(outside && outside != inside);
    gk_free(outside, MIB, 0, NULL);
    gk_release_pool(0, pool);
    CHECK(gk_pool_holds(0, pool.a, pool.b) == 0);
}

int main(void) {
    const struct gk_pool first = {5, 6}, second = {7, 8}, third = {9, 10};
    struct function inside = {{(void *)small, NULL}, NULL};
    inside.object = (struct object *)inside.storage;
    live = 1;
    use(first, &inside);
    CHECK(freed == 0);

    struct object *object = (struct object *)calloc(1, sizeof *object);
    CHECK(object);
    object->functions = large;
    struct function elsewhere = {{NULL}, object};
    live = 1;
    use(second, &elsewhere);
    CHECK(freed == 2);

    struct function empty = {{NULL}, NULL};
    gk_begin_allocate_to_pool(0, third, &empty);
    gk_end_allocate_to_pool(0, third);
    gk_release_pool(0, third);
    puts("each filter was destroyed once");
    return 0;
}
