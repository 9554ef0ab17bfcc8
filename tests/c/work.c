/* A thread whose piece of work begins before the library has started is known to the first safe
 * point. */
#include "check.h"
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1024 * 1024)

static pthread_barrier_t begun, seen;

/* Is inside a piece of work from before the first allocation on, and allocates nothing. */
static void *inside(void *unused) {
    CHECK(gk_begin_work(0) == GK_OK && gk_begin_work(0) == GK_OK && gk_end_work(0) == GK_OK);
    pthread_barrier_wait(&begun);
    pthread_barrier_wait(&seen);
    CHECK(gk_end_work(0) == GK_OK);
    return unused;
}

/* Has ended its work before the first allocation. */
static void *before(void *unused) {
    CHECK(gk_begin_work(0) == GK_OK && gk_end_work(0) == GK_OK && gk_end_work(0) == GK_OK);
    CHECK(gk_begin_work(99) == GK_OK && gk_begin_work(-1) == GK_ARGUMENT);
    return unused;
}

static struct gk_stats stats(void) {
    struct gk_stats stats;
    stats.size = sizeof stats;
    CHECK(gk_stats(0, &stats) == GK_OK);
    return stats;
}

/* Work whose scratch does not fit next to the weights. */
static void step(void) {
    for (int round = 0; round < 10; round++) {
        void *scratch[4];
        for (int i = 0; i < 4; i++)
            CHECK((scratch[i] = gk_malloc(4 * MIB, 0, NULL)));
        for (int i = 0; i < 4; i++)
            gk_free(scratch[i], 4 * MIB, 0, NULL);
    }
}

/* Weights that fill the card, and a step, between two safe points. */
static void first_step(void) {
    CHECK(gk_configure("reserve:auto,dedicated:64MiB") == GK_OK); /* nothing has started */
    for (int i = 0; i < 14; i++)
        CHECK(gk_malloc(4 * MIB, 0, NULL));
    CHECK(gk_safe_point(0, "step") == GK_OK);
    step();
    CHECK(gk_safe_point(0, "step") == GK_OK);
}

/* A child that is forked before the library has started does not have the other thread. */
static void a_child_has_one_thread(void) {
    int status = 1;
    pid_t child = fork();
    if (child == 0) {
        first_step();
        CHECK(stats().abstained == 0 && stats().migrations > 0);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

int main(void) {
    pthread_t other, ended;
    CHECK(!pthread_barrier_init(&begun, NULL, 2) && !pthread_barrier_init(&seen, NULL, 2));
    CHECK(!pthread_create(&ended, NULL, before, NULL) && !pthread_join(ended, NULL));
    CHECK(!pthread_create(&other, NULL, inside, NULL));
    pthread_barrier_wait(&begun);
    a_child_has_one_thread();
    first_step();
    CHECK(stats().abstained == 1 && stats().migrations == 0);
    pthread_barrier_wait(&seen);
    CHECK(!pthread_join(other, NULL));
    step();
    CHECK(gk_safe_point(0, "step") == GK_OK);
    CHECK(stats().abstained == 1 && stats().migrations > 0);
    printf("a thread at work was seen\n");
    return 0;
}
