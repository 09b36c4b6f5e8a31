/* An event loop: writes that begin without a wait, and a descriptor that says when. */
#include "check.h"
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#define WRITES 128

static const char *dir;

/* Waits until the queue may have something. A test that hangs is ended from outside. */
static void wait_for(dirtymap_queue_t *queue) {
    struct pollfd poller = {dirtymap_queue_fd(queue), POLLIN, 0};
    CHECK(poll(&poller, 1, -1) == 1);
}

static void many_requests_cost_few_syncs(void) {
    dirtymap_t *map = created(in(dir, "queue"), 1ull << 40);
    dirtymap_queue_t *queue;
    dirtymap_write_t writes[WRITES];
    bool begun[WRITES] = {0};
    uint64_t tag = 0;
    int waiting = 0;
    OK(dirtymap_queue_new(map, &queue));
    CHECK(dirtymap_queue_next(queue, &tag, &writes[0]) == DIRTYMAP_AGAIN);
    for (uint64_t i = 0; i < WRITES; i++) {
        const struct dirtymap_range range = {i << 32, 4096};
        int code = dirtymap_queue_begin(queue, &range, 1, i, &writes[i]);
        CHECK(code == 0 || code == DIRTYMAP_AGAIN);
        begun[i] = code == 0;
        waiting += code != 0;
    }
    CHECK(waiting > 0);
    while (waiting) {
        dirtymap_write_t write;
        int code = dirtymap_queue_next(queue, &tag, &write);
        if (code == DIRTYMAP_AGAIN) {
            wait_for(queue);
            continue;
        }
        OK(code);
        CHECK(tag < WRITES && !begun[tag]);
        begun[tag] = true;
        writes[tag] = write;
        waiting--;
    }
    CHECK(counted(map) == WRITES);
    struct dirtymap_stats stats;
    OK(dirtymap_stats(map, &stats, sizeof stats));
    CHECK(stats.arms > 0 && stats.arms < WRITES / 2);
    FAILS(dirtymap_close(map), DIRTYMAP_E_IN_USE);
    for (int i = 0; i < WRITES; i++)
        OK(dirtymap_end_write(&writes[i]));
    /* What is armed begins at once. */
    for (uint64_t i = 0; i < WRITES; i++) {
        const struct dirtymap_range range = {i << 32, 4096};
        OK(dirtymap_queue_begin(queue, &range, 1, i, &writes[i]));
        OK(dirtymap_end_write(&writes[i]));
    }
    const struct dirtymap_range outside = {1ull << 40, 1};
    FAILS(dirtymap_queue_begin(queue, &outside, 1, 7, &writes[0]), DIRTYMAP_E_OUT_OF_RANGE);
    /* Nothing was left behind to be told. */
    struct pollfd poller = {dirtymap_queue_fd(queue), POLLIN, 0};
    CHECK(dirtymap_queue_next(queue, &tag, &writes[0]) == DIRTYMAP_AGAIN && poll(&poller, 1, 0) == 0);
    FAILS(dirtymap_close(map), DIRTYMAP_E_IN_USE);
    dirtymap_queue_free(queue);
    OK(dirtymap_close(map));
}

static void one_take_for_each_poll_is_enough(void) {
    dirtymap_t *map = created(in(dir, "one by one"), 1ull << 40);
    dirtymap_queue_t *queue;
    dirtymap_write_t write;
    uint64_t tag;
    int waiting = 0;
    OK(dirtymap_queue_new(map, &queue));
    for (uint64_t i = 0; i < WRITES; i++) {
        const struct dirtymap_range range = {i << 32, 4096};
        int code = dirtymap_queue_begin(queue, &range, 1, i, &write);
        CHECK(code == 0 || code == DIRTYMAP_AGAIN);
        if (code == 0)
            OK(dirtymap_end_write(&write));
        waiting += code != 0;
    }
    CHECK(waiting > 0);
    for (; waiting; waiting--) {
        wait_for(queue);
        OK(dirtymap_queue_next(queue, &tag, &write));
        OK(dirtymap_end_write(&write));
    }
    struct pollfd poller = {dirtymap_queue_fd(queue), POLLIN, 0};
    CHECK(poll(&poller, 1, 0) == 0);
    dirtymap_queue_free(queue);
    OK(dirtymap_close(map));
}

static void what_waits_is_given_up_with_its_queue(void) {
    dirtymap_t *map = created(in(dir, "given up"), 1ull << 40);
    dirtymap_queue_t *queue;
    dirtymap_write_t write;
    OK(dirtymap_queue_new(map, &queue));
    for (uint64_t i = 0; i < WRITES; i++) {
        const struct dirtymap_range range = {i << 32, 4096};
        if (dirtymap_queue_begin(queue, &range, 1, i, &write) == 0)
            OK(dirtymap_end_write(&write));
    }
    dirtymap_queue_free(queue);
    dirtymap_queue_free(NULL);
    /* Nothing is in flight: a freeze need not wait, and the map can be closed. */
    dirtymap_uuid_t uuid;
    OK(dirtymap_freeze(map, NULL, &uuid));
    OK(dirtymap_commit(map, &uuid, false));
    OK(dirtymap_close(map));
}

struct writer {
    dirtymap_t *map;
    uint64_t first;
};

static void *write_many(void *opaque) {
    struct writer *writer = opaque;
    for (uint64_t i = 0; i < 200; i++) {
        dirtymap_write_t write;
        OK(dirtymap_begin_write(writer->map, (writer->first + i) * MIB, 4096, &write));
        OK(dirtymap_end_write(&write));
        /* Messages are of the thread. */
        if (writer->first == 0) {
            FAILS(dirtymap_set(writer->map, DIRTYMAP_NONE, 1, NULL), DIRTYMAP_E_OUT_OF_RANGE);
        }
    }
    CHECK((dirtymap_error_message()[0] != 0) == (writer->first == 0));
    return NULL;
}

static void threads_share_a_handle(void) {
    dirtymap_t *map = created(in(dir, "threads"), 1ull << 40);
    struct writer writers[4];
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        writers[i] = (struct writer){map, 1000ull * i};
        CHECK(pthread_create(&threads[i], NULL, write_many, &writers[i]) == 0);
    }
    /* A backup meanwhile: what it has frozen and what came later is everything that was set. */
    dirtymap_uuid_t uuid;
    dirtymap_t *frozen;
    OK(dirtymap_freeze(map, NULL, &uuid));
    OK(dirtymap_frozen(map, &uuid, &frozen));
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(counted(map) == 800);
    OK(dirtymap_commit(map, &uuid, false));
    CHECK(counted(map) + counted(frozen) >= 800);
    dirtymap_free(frozen);
    OK(dirtymap_close(map));
}

int main(int argc, char **argv) {
    (void)argc;
    dir = argv[1];
    many_requests_cost_few_syncs();
    one_take_for_each_poll_is_enough();
    what_waits_is_given_up_with_its_queue();
    threads_share_a_handle();
    return 0;
}
