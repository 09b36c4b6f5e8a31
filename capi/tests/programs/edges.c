/* Wrong arguments, forks, signals, events: what a careless caller meets. */
#include "check.h"
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *dir;

static void null_is_an_error_and_never_a_crash(void) {
    dirtymap_t *map;
    uint64_t n;
    bool yes;
    struct dirtymap_info info;
    FAILS(dirtymap_set(NULL, 0, 1, &n), DIRTYMAP_E_NULL);
    FAILS(dirtymap_count(NULL, &n), DIRTYMAP_E_NULL);
    FAILS(dirtymap_open(NULL, NULL, &map), DIRTYMAP_E_NULL);
    FAILS(dirtymap_open("nowhere", NULL, NULL), DIRTYMAP_E_NULL);
    FAILS(dirtymap_new(1, 1, NULL), DIRTYMAP_E_NULL);
    FAILS(dirtymap_close(NULL), DIRTYMAP_E_NULL);
    FAILS(dirtymap_truncate(NULL, 1), DIRTYMAP_E_NULL);
    FAILS(dirtymap_end_write(NULL), DIRTYMAP_E_NULL);
    FAILS(dirtymap_queue_new(NULL, NULL), DIRTYMAP_E_NULL);
    FAILS(dirtymap_options_granule(NULL, 1), DIRTYMAP_E_NULL);
    FAILS(dirtymap_inspect(NULL, &info, sizeof info), DIRTYMAP_E_NULL);
    FAILS(dirtymap_report_item(NULL, 0, NULL, 8), DIRTYMAP_E_NULL);
    FAILS(dirtymap_publish(NULL), DIRTYMAP_E_NULL);
    CHECK(dirtymap_len(NULL) == 0 && dirtymap_granule(NULL) == 0 && dirtymap_queue_fd(NULL) == -1);
    CHECK(dirtymap_cursor_position(NULL) == DIRTYMAP_NONE);
    dirtymap_cursor_init(NULL, 0, 1);
    dirtymap_cursor_advance(NULL, 1);
    dirtymap_free(NULL);
    dirtymap_discard(NULL);
    OK(dirtymap_new(100, 1, &map));
    FAILS(dirtymap_merge(map, NULL, &n), DIRTYMAP_E_NULL);
    FAILS(dirtymap_copy(map, NULL), DIRTYMAP_E_NULL);
    FAILS(dirtymap_set_ranges(map, NULL, 2, &n), DIRTYMAP_E_NULL);
    FAILS(dirtymap_cursor_next(map, NULL, &n), DIRTYMAP_E_NULL);
    FAILS(dirtymap_serialize_part(map, 0, 64, NULL, 8), DIRTYMAP_E_NULL);
    FAILS(dirtymap_load_part(map, 0, 64, NULL, 8, NULL), DIRTYMAP_E_NULL);
    /* Answers that are not wanted. */
    OK(dirtymap_set_ranges(map, NULL, 0, NULL));
    OK(dirtymap_set(map, 0, 1, NULL));
    OK(dirtymap_count(map, NULL));
    OK(dirtymap_run(map, 0, 1, &yes, NULL));
    dirtymap_free(map);
}

static void codes_have_names(void) {
    CHECK(strcmp(dirtymap_error_kind(0), "ok") == 0 && strcmp(dirtymap_error_kind(27), "refused") == 0);
    CHECK(strcmp(dirtymap_error_kind(100), "null") == 0 && strcmp(dirtymap_error_kind(109), "again") == 0);
    CHECK(strcmp(dirtymap_error_kind(99), "unknown") == 0 && strcmp(dirtymap_error_kind(-1), "unknown") == 0);
    CHECK(strcmp(dirtymap_error_kind(INT_MIN), "unknown") == 0 && strcmp(dirtymap_error_kind(INT_MAX), "unknown") == 0);
    CHECK(strcmp(dirtymap_error_kind(110), "unknown") == 0 && strcmp(dirtymap_version(), "0.1.0") == 0);
}

static void a_forked_child_opens_its_own(void) {
    const char *path = in(dir, "forked");
    dirtymap_t *map = created(path, GIB);
    dirtymap_t *set;
    dirtymap_write_t write, other;
    dirtymap_queue_t *queue;
    const struct dirtymap_range cold = {512 * MIB, 1};
    uint64_t tag;
    OK(dirtymap_set(map, 0, 1, NULL));
    OK(dirtymap_flush(map));
    OK(dirtymap_dirty_set(map, &set));
    OK(dirtymap_queue_new(map, &queue));
    int waits = dirtymap_queue_begin(queue, &cold, 1, 7, &other);
    CHECK(waits == 0 || waits == DIRTYMAP_AGAIN);
    OK(dirtymap_begin_write(map, MIB, 1, &write));
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        uint64_t n;
        bool yes;
        dirtymap_cursor_t cursor;
        dirtymap_cursor_init(&cursor, 0, DIRTYMAP_NONE);
        /* Also what one look would answer in the parent, and what the library answers without an error. */
        FAILS(dirtymap_set(map, 0, 1, &n), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_get(map, 0, &yes), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_count(map, &n), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_is_empty(map, &yes), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_cursor_next(map, &cursor, &n), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_sha256(map, (uint8_t[32]){0}), DIRTYMAP_E_UNUSABLE);
        CHECK(dirtymap_error_cause() == 1);
        /* What was known when the map was opened, and what has nothing to do, are no exceptions. */
        struct dirtymap_stats stats;
        struct dirtymap_recovery recovery;
        struct dirtymap_checkpoint checkpoint;
        size_t points;
        FAILS(dirtymap_stats(map, &stats, sizeof stats), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_recovery(map, &recovery, sizeof recovery), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_checkpoint(map, &checkpoint, sizeof checkpoint), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_points(map, NULL, 1, 0, &points), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_merge(map, map, &n), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_intersect(map, map, &n), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_can_merge(map, set, &yes), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_serialization_align(map, &n), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_serialized_size(map, 0, GIB, &n), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_queue_begin(queue, &cold, 1, 8, &other), DIRTYMAP_E_UNUSABLE);
        FAILS(dirtymap_queue_next(queue, &n, &other), DIRTYMAP_E_UNUSABLE);
        CHECK(n == DIRTYMAP_NONE);
        dirtymap_queue_free(queue);
        /* A set stays what it was. */
        CHECK(counted(set) == 1);
        dirtymap_free(set);
        dirtymap_free(map);
        OK(dirtymap_end_write(&write));
        dirtymap_t *own;
        FAILS(dirtymap_open(path, NULL, &own), DIRTYMAP_E_LOCKED);
        own = created(in(dir, "of the child"), GIB);
        OK(dirtymap_close(own));
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    /* The child has taken nothing from the queue, and has not silenced its descriptor. */
    if (waits == DIRTYMAP_AGAIN) {
        struct pollfd poller = {dirtymap_queue_fd(queue), POLLIN, 0};
        CHECK(poll(&poller, 1, -1) == 1);
        OK(dirtymap_queue_next(queue, &tag, &other));
        CHECK(tag == 7);
    }
    OK(dirtymap_end_write(&other));
    dirtymap_queue_free(queue);
    dirtymap_free(set);
    OK(dirtymap_set(map, 2 * MIB, 1, NULL));
    CHECK(counted(map) == 4);
    OK(dirtymap_end_write(&write));
    OK(dirtymap_close(map));
}

static volatile sig_atomic_t ticks;

static void tick(int signal) {
    (void)signal;
    ticks++;
}

static void a_call_that_a_signal_interrupts_goes_on(void) {
    const struct sigaction action = {.sa_handler = tick};
    const struct itimerval often = {{0, 5000}, {0, 5000}}, never = {{0, 0}, {0, 0}};
    dirtymap_t *map;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
    for (int round = 0; round < 3 || ticks < 20; round++) {
        dirtymap_uuid_t uuid;
        char name[32];
        snprintf(name, sizeof name, "interrupted %d", round);
        map = created(in(dir, name), GIB);
        for (uint64_t at = 0; at < GIB; at += 64 * MIB)
            OK(dirtymap_set(map, at, 1, NULL));
        OK(dirtymap_freeze(map, NULL, &uuid));
        OK(dirtymap_commit(map, &uuid, false));
        OK(dirtymap_close(map));
        OK(dirtymap_open(in(dir, name), NULL, &map));
        OK(dirtymap_close(map));
    }
    /* The handler stays. Under valgrind a last signal may come only after the timer has ended. */
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
}

/* A program that waits for a signal blocks it in all its threads; those of a map are not its own. */
static void signals_are_not_taken_by_a_thread_of_a_map(void) {
    dirtymap_options_t *options;
    dirtymap_queue_t *queue;
    dirtymap_t *flushed, *queued = created(in(dir, "queued"), GIB);
    dirtymap_write_t write;
    const struct dirtymap_range cold = {0, 1};
    sigset_t blocked;
    int signal;
    OK(dirtymap_options_new(&options));
    OK(dirtymap_options_flush_interval(options, 30000));
    OK(dirtymap_create(in(dir, "flushed"), GIB, options, &flushed));
    dirtymap_options_free(options);
    OK(dirtymap_queue_new(queued, &queue));
    int code = dirtymap_queue_begin(queue, &cold, 1, 7, &write);
    CHECK(code == 0 || code == DIRTYMAP_AGAIN);
    CHECK(sigemptyset(&blocked) == 0 && sigaddset(&blocked, SIGTERM) == 0);
    CHECK(sigprocmask(SIG_BLOCK, &blocked, NULL) == 0);
    CHECK(kill(getpid(), SIGTERM) == 0);
    CHECK(sigwait(&blocked, &signal) == 0 && signal == SIGTERM);
    CHECK(sigprocmask(SIG_UNBLOCK, &blocked, NULL) == 0);
    CHECK(dirtymap_end_write(&write) == (code == 0 ? DIRTYMAP_OK : DIRTYMAP_E_NO_WRITE));
    dirtymap_queue_free(queue);
    OK(dirtymap_close(queued));
    OK(dirtymap_close(flushed));
}

static pthread_key_t last;

/* Also where a thread has nothing of its own left, not even what a message is kept in. */
static void use_all(void *path) {
    dirtymap_options_t *options;
    dirtymap_t *map;
    dirtymap_queue_t *queue;
    dirtymap_write_t write;
    dirtymap_uuid_t uuid;
    const struct dirtymap_range range = {MIB, 1};
    OK(dirtymap_options_new(&options));
    OK(dirtymap_options_flush_interval(options, 10));
    OK(dirtymap_create(path, GIB, options, &map));
    dirtymap_options_free(options);
    OK(dirtymap_begin_write(map, 0, 1, &write));
    OK(dirtymap_end_write(&write));
    CHECK(dirtymap_set(map, GIB, 1, NULL) == DIRTYMAP_E_OUT_OF_RANGE && dirtymap_error_message() != NULL);
    OK(dirtymap_queue_new(map, &queue));
    if (dirtymap_queue_begin(queue, &range, 1, 7, &write) == 0)
        OK(dirtymap_end_write(&write));
    dirtymap_queue_free(queue);
    OK(dirtymap_freeze(map, NULL, &uuid));
    OK(dirtymap_commit(map, &uuid, false));
    OK(dirtymap_close(map));
}

static void *end_with(void *path) {
    /* What this leaves to the thread is taken away before its last function runs. */
    use_all((void *)in(dir, "before the end"));
    CHECK(pthread_setspecific(last, path) == 0);
    return NULL;
}

static void a_thread_may_use_maps_until_its_end(void) {
    pthread_t thread;
    char path[512];
    snprintf(path, sizeof path, "%s/at the end", dir);
    CHECK(pthread_key_create(&last, use_all) == 0);
    CHECK(pthread_create(&thread, NULL, end_with, path) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

struct heard {
    int opened, closed, flushed;
    char text[256];
};

static void hear(const struct dirtymap_event *event, void *opaque) {
    struct heard *heard = opaque;
    heard->opened += strcmp(event->name, "opened") == 0;
    heard->closed += strcmp(event->name, "closed") == 0;
    heard->flushed += strcmp(event->name, "flushed") == 0;
    snprintf(heard->text, sizeof heard->text, "%s", event->text);
}

static void events(void) {
    struct heard heard = {0};
    dirtymap_t *map;
    FAILS(dirtymap_events(9, hear, &heard), DIRTYMAP_E_ARGUMENT);
    OK(dirtymap_events(DIRTYMAP_EVENTS, hear, &heard));
    OK(dirtymap_create(in(dir, "events"), GIB, NULL, &map));
    OK(dirtymap_set(map, 0, 1, NULL));
    OK(dirtymap_flush(map));
    CHECK(heard.opened == 1 && heard.flushed == 0);
    OK(dirtymap_events(DIRTYMAP_DEBUG, hear, &heard));
    OK(dirtymap_set(map, MIB, 1, NULL));
    OK(dirtymap_flush(map));
    CHECK(heard.flushed == 1);
    OK(dirtymap_close(map));
    CHECK(heard.closed == 1 && strstr(heard.text, "path=") && strstr(heard.text, "events"));
    OK(dirtymap_events(DIRTYMAP_SILENT, NULL, NULL));
    OK(dirtymap_open(in(dir, "events"), NULL, &map));
    OK(dirtymap_close(map));
    CHECK(heard.opened == 1);
}

/* What a call that fails leaves where its answer would be. */
static void an_error_writes_no_answer(void) {
    dirtymap_t *map = created(in(dir, "answers"), GIB);
    dirtymap_write_t write, none = {{0}};
    dirtymap_queue_t *queue;
    const struct dirtymap_range outside = {GIB, 1};
    struct dirtymap_stats stats;
    uint8_t bytes[64];
    uint64_t n = 7;
    bool yes = true;
    memset(bytes, 0xaa, sizeof bytes);
    FAILS(dirtymap_serialize_part(map, 0, GIB / 256, bytes, sizeof bytes), DIRTYMAP_E_CHUNK_SIZE);
    FAILS(dirtymap_serialize_part(map, 0, 1, bytes, sizeof bytes), DIRTYMAP_E_UNALIGNED);
    for (size_t i = 0; i < sizeof bytes; i++)
        CHECK(bytes[i] == 0xaa);
    FAILS(dirtymap_set(map, GIB, 1, &n), DIRTYMAP_E_OUT_OF_RANGE);
    FAILS(dirtymap_get(map, GIB, &yes), DIRTYMAP_E_OUT_OF_RANGE);
    CHECK(n == 7 && yes);
    /* But for a write: none has begun, and none can be ended. */
    OK(dirtymap_queue_new(map, &queue));
    memset(&write, 0xaa, sizeof write);
    FAILS(dirtymap_begin_write(map, GIB, 1, &write), DIRTYMAP_E_OUT_OF_RANGE);
    CHECK(memcmp(&write, &none, sizeof write) == 0);
    memset(&write, 0xaa, sizeof write);
    FAILS(dirtymap_begin_writes(map, &outside, 1, &write), DIRTYMAP_E_OUT_OF_RANGE);
    CHECK(memcmp(&write, &none, sizeof write) == 0);
    memset(&write, 0xaa, sizeof write);
    FAILS(dirtymap_begin_write(NULL, 0, 1, &write), DIRTYMAP_E_NULL);
    CHECK(memcmp(&write, &none, sizeof write) == 0);
    memset(&write, 0xaa, sizeof write);
    FAILS(dirtymap_queue_begin(queue, &outside, 1, 5, &write), DIRTYMAP_E_OUT_OF_RANGE);
    CHECK(memcmp(&write, &none, sizeof write) == 0);
    memset(&write, 0xaa, sizeof write);
    CHECK(dirtymap_queue_next(queue, &n, &write) == DIRTYMAP_AGAIN);
    CHECK(memcmp(&write, &none, sizeof write) == 0 && n == DIRTYMAP_NONE);
    n = 7;
    FAILS(dirtymap_queue_next(NULL, &n, &write), DIRTYMAP_E_NULL);
    CHECK(n == DIRTYMAP_NONE);
    FAILS(dirtymap_end_write(&write), DIRTYMAP_E_NO_WRITE);
    dirtymap_queue_free(queue);
    /* Numbers that mean nothing. */
    FAILS(dirtymap_stats(map, &stats, 0), DIRTYMAP_E_ARGUMENT);
    FAILS(dirtymap_stats(map, &stats, SIZE_MAX), DIRTYMAP_E_ARGUMENT);
    FAILS(dirtymap_set_ranges(map, &outside, SIZE_MAX / 2, &n), DIRTYMAP_E_ARGUMENT);
    FAILS(dirtymap_load_part(map, 0, 1, bytes, SIZE_MAX, &n), DIRTYMAP_E_ARGUMENT);
    OK(dirtymap_close(map));
    /* A map that is read is not changed, not even with itself. */
    dirtymap_options_t *options;
    OK(dirtymap_options_new(&options));
    OK(dirtymap_options_access(options, DIRTYMAP_READ_ONLY));
    OK(dirtymap_open(in(dir, "answers"), options, &map));
    FAILS(dirtymap_merge(map, map, &n), DIRTYMAP_E_READ_ONLY);
    FAILS(dirtymap_intersect(map, map, &n), DIRTYMAP_E_READ_ONLY);
    OK(dirtymap_close(map));
    dirtymap_options_free(options);
}

int main(int argc, char **argv) {
    (void)argc;
    dir = argv[1];
    null_is_an_error_and_never_a_crash();
    codes_have_names();
    an_error_writes_no_answer();
    a_forked_child_opens_its_own();
    a_call_that_a_signal_interrupts_goes_on();
    signals_are_not_taken_by_a_thread_of_a_map();
    a_thread_may_use_maps_until_its_end();
    events();
    return 0;
}
