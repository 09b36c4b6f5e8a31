/* Maps in files: options, opening, closing, sharing, loading, lengths, snapshots, what is known of them. */
#include "check.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *dir;

static void a_map_outlives_its_handle(void) {
    const char *path = in(dir, "plain");
    dirtymap_t *map = created(path, GIB), *again;
    uint64_t n;
    CHECK(dirtymap_len(map) == GIB && dirtymap_granule(map) == 64 * KIB);
    OK(dirtymap_set(map, 4096, 4096, &n));
    CHECK(n == 1);
    FAILS(dirtymap_create(path, GIB, NULL, &again), DIRTYMAP_E_EXISTS);
    FAILS(dirtymap_open(path, NULL, &again), DIRTYMAP_E_LOCKED);
    CHECK(dirtymap_error_cause() == 1 && strstr(dirtymap_error_message(), "process"));
    OK(dirtymap_close(map));
    OK(dirtymap_open(path, NULL, &map));
    CHECK(counted(map) == 1);
    OK(dirtymap_set(map, GIB - 1, 1, &n));
    OK(dirtymap_flush(map));
    /* Not closed: the next open recovers it. */
    dirtymap_free(map);
    OK(dirtymap_open(path, NULL, &map));
    struct dirtymap_recovery recovery;
    OK(dirtymap_recovery(map, &recovery, sizeof recovery));
    CHECK(recovery.unclean && !recovery.damaged && counted(map) == 2);
    OK(dirtymap_reset_all(map, &n));
    CHECK(n == 2);
    OK(dirtymap_close(map));
}

static int stop(const struct dirtymap_progress *progress, void *opaque) {
    *(uint64_t *)opaque += progress->total > 0;
    return progress->step == DIRTYMAP_STEP_WAITING;
}

static void options(void) {
    dirtymap_options_t *options;
    dirtymap_t *map, *reader;
    struct dirtymap_info info;
    uint64_t told = 0, n;
    int image = open(in(dir, "image"), O_RDWR | O_CREAT, 0640);
    CHECK(image >= 0 && ftruncate(image, GIB) == 0);
    OK(dirtymap_options_new(&options));
    FAILS(dirtymap_options_granule(options, 3000), DIRTYMAP_E_GEOMETRY);
    OK(dirtymap_options_granule(options, 4096));
    OK(dirtymap_options_label(options, "disk 1"));
    FAILS(dirtymap_options_label(options, "\xff"), DIRTYMAP_E_TEXT);
    OK(dirtymap_options_durability(options, DIRTYMAP_POWER_LOSS));
    FAILS(dirtymap_options_durability(options, 7), DIRTYMAP_E_ARGUMENT);
    OK(dirtymap_options_dirty(options, true));
    OK(dirtymap_options_added_dirt(options, 32));
    OK(dirtymap_options_image(options, image));
    FAILS(dirtymap_options_image(options, -1), DIRTYMAP_E_ARGUMENT);
    OK(dirtymap_options_like(options, image));
    OK(dirtymap_options_access(options, DIRTYMAP_SHARED));
    OK(dirtymap_options_armed_bound(options, 2 * GIB));
    OK(dirtymap_options_intent_bound(options, DIRTYMAP_NONE));
    OK(dirtymap_options_flush_interval(options, 30000));
    OK(dirtymap_options_wait(options, 10));
    OK(dirtymap_options_freeze_timeout(options, 60000));
    OK(dirtymap_options_lock_timeout(options, 1000));
    OK(dirtymap_options_writes_outlive(options, false));
    OK(dirtymap_options_progress(options, stop, &told));
    OK(dirtymap_create(in(dir, "optioned"), GIB, options, &map));
    OK(dirtymap_info(map, &info, sizeof info));
    CHECK(strcmp(info.label, "disk 1") == 0 && info.granularity == 12 && info.has_image && !info.has_target);
    CHECK(info.verdict == DIRTYMAP_SUPERSET && info.state == DIRTYMAP_OPEN && info.created > 1700000000);
    CHECK(info.dirty_granules == GIB / 4096 && info.dirty_len == GIB && strstr(info.reasons, "imported"));
    struct stat stat_;
    CHECK(stat(in(dir, "optioned"), &stat_) == 0 && (stat_.st_mode & 0777) == 0640);
    OK(dirtymap_options_access(options, DIRTYMAP_READ_ONLY));
    OK(dirtymap_open(in(dir, "optioned"), options, &reader));
    FAILS(dirtymap_set(reader, 0, 1, NULL), DIRTYMAP_E_READ_ONLY);
    OK(dirtymap_reset_all(map, NULL));
    /* What others share is seen as it happens. */
    CHECK(counted(reader) == 0);
    OK(dirtymap_set(map, 8192, 1, NULL));
    CHECK(counted(reader) == 1);
    OK(dirtymap_flush(map));
    /* Long work asks, and is stopped. */
    dirtymap_write_t write;
    dirtymap_uuid_t uuid;
    OK(dirtymap_begin_write(map, 8192, 1, &write));
    FAILS(dirtymap_freeze(map, NULL, &uuid), DIRTYMAP_E_INTERRUPTED);
    CHECK(told > 0 && counted(map) == 1);
    OK(dirtymap_end_write(&write));
    OK(dirtymap_close_with_image(map, image));
    FAILS(dirtymap_get(reader, 0, &(bool){0}), DIRTYMAP_E_UNUSABLE);
    FAILS(dirtymap_count(reader, &n), DIRTYMAP_E_UNUSABLE);
    CHECK(dirtymap_error_cause() == 4);
    OK(dirtymap_close(reader));
    OK(dirtymap_inspect(in(dir, "optioned"), &info, sizeof info));
    CHECK(info.state == DIRTYMAP_CLEAN);

    /* The image is not as it was: everything is dirty, and the map says why. Also by options that were used before. */
    CHECK(pwrite(image, "untracked", 9, 0) == 9);
    OK(dirtymap_options_access(options, DIRTYMAP_EXCLUSIVE));
    OK(dirtymap_options_progress(options, NULL, NULL));
    OK(dirtymap_open(in(dir, "optioned"), options, &map));
    struct dirtymap_recovery recovery;
    OK(dirtymap_recovery(map, &recovery, sizeof recovery));
    CHECK(recovery.image_changed && recovery.why_image_changed[0] && counted(map) == GIB / 4096);
    uint32_t same;
    OK(dirtymap_compare(map, DIRTYMAP_TARGET, image, &same));
    CHECK(same == DIRTYMAP_NOT_RECORDED);
    OK(dirtymap_compare(map, DIRTYMAP_IMAGE, image, &same));
    CHECK(same == DIRTYMAP_SAME || same == DIRTYMAP_UNPROVEN || same == DIRTYMAP_CHANGED);
    FAILS(dirtymap_close_with_image(map, -1), DIRTYMAP_E_ARGUMENT);
    OK(dirtymap_close(map));
    dirtymap_options_free(options);
    dirtymap_options_free(NULL);
    close(image);
}

static void structs_of_other_versions(void) {
    dirtymap_t *map = created(in(dir, "structs"), GIB);
    struct {
        struct dirtymap_stats stats;
        uint64_t later, guard;
    } longer;
    memset(&longer, 0xaa, sizeof longer);
    /* A caller of a later header gets zeros for what this library does not know, and one of an older header no more than it asked for. */
    OK(dirtymap_stats(map, &longer.stats, sizeof longer.stats + sizeof longer.later));
    CHECK(longer.later == 0 && longer.guard == 0xaaaaaaaaaaaaaaaaull);
    memset(&longer, 0xaa, sizeof longer);
    OK(dirtymap_stats(map, &longer.stats, 2 * sizeof(uint64_t)));
    CHECK(longer.stats.arms != 0xaaaaaaaaaaaaaaaaull && longer.stats.flushes == 0xaaaaaaaaaaaaaaaaull);
    OK(dirtymap_close(map));
}

static void a_map_that_is_filled_before_it_has_a_name(void) {
    dirtymap_t *map;
    dirtymap_new_file_t *file;
    struct dirtymap_info info;
    OK(dirtymap_create_unpublished(in(dir, "new"), GIB, NULL, &map, &file));
    OK(dirtymap_set(map, 0, 1, NULL));
    OK(dirtymap_close(map));
    FAILS(dirtymap_inspect(in(dir, "new"), &info, sizeof info), DIRTYMAP_E_NOT_FOUND);
    CHECK(dirtymap_error_errno() == 2);
    OK(dirtymap_publish(file));
    OK(dirtymap_inspect(in(dir, "new"), &info, sizeof info));
    CHECK(info.dirty_granules == 1 && info.state == DIRTYMAP_CLEAN);
    OK(dirtymap_create_unpublished(in(dir, "never"), GIB, NULL, &map, &file));
    dirtymap_free(map);
    dirtymap_discard(file);
    CHECK(access(in(dir, "never"), F_OK) != 0);
    OK(dirtymap_create_closed(in(dir, "closed"), GIB, NULL));
    OK(dirtymap_inspect(in(dir, "closed"), &info, sizeof info));
}

static void loading_combining_and_lengths(void) {
    dirtymap_t *map = created(in(dir, "loaded"), GIB), *memory, *made;
    uint64_t align, n;
    const uint64_t word = 5;
    bool yes;
    OK(dirtymap_serialization_align(map, &align));
    OK(dirtymap_load_begin(map));
    FAILS(dirtymap_close(map), DIRTYMAP_E_LOADING);
    OK(dirtymap_load_chunk(map, 0, align, &word, 8));
    OK(dirtymap_load_ones(map, align, align));
    OK(dirtymap_load_finish(map));
    CHECK(counted(map) == 66);
    OK(dirtymap_new(GIB, 64 * KIB, &memory));
    OK(dirtymap_merge(memory, map, &n));
    CHECK(n == 66);
    OK(dirtymap_subtract(map, memory, &n));
    CHECK(n == 66);
    OK(dirtymap_merge(map, memory, &n));
    OK(dirtymap_subtract(map, map, &n));
    CHECK(n == 66);
    OK(dirtymap_set(map, 0, 1, NULL));
    OK(dirtymap_difference(memory, map, &made));
    CHECK(counted(made) == 65);
    FAILS(dirtymap_set_to_union(map, memory, made, &n), DIRTYMAP_E_WRONG_KIND);
    OK(dirtymap_changes_attach(map, 3));
    OK(dirtymap_set(map, GIB / 2, 1, NULL));
    OK(dirtymap_changes_any(map, &yes));
    CHECK(yes);
    dirtymap_free(made);
    dirtymap_free(memory);
    OK(dirtymap_truncate(map, GIB / 4));
    CHECK(dirtymap_len(map) == GIB / 4 && counted(map) == 1);
    dirtymap_write_t write;
    OK(dirtymap_begin_write(map, 0, 1, &write));
    FAILS(dirtymap_truncate(map, GIB), DIRTYMAP_E_IN_USE);
    FAILS(dirtymap_close(map), DIRTYMAP_E_IN_USE);
    FAILS(dirtymap_load_begin(map), DIRTYMAP_E_IN_USE);
    OK(dirtymap_end_write(&write));
    FAILS(dirtymap_end_write(&write), DIRTYMAP_E_NO_WRITE);
    OK(dirtymap_close(map));
}

struct settled {
    dirtymap_t *map;
    dirtymap_uuid_t uuid;
    int answer, calls;
};

/* What was copied meanwhile is marked again, in a map that is not locked. */
static int settle(const dirtymap_uuid_t *checkpoint, void *opaque) {
    struct settled *settled = opaque;
    settled->calls++;
    settled->uuid = *checkpoint;
    OK(dirtymap_set(settled->map, MIB, 1, NULL));
    return settled->answer;
}

/* Tries what must not happen to the map of the call that it is called by. */
static int meddle(const dirtymap_uuid_t *checkpoint, void *opaque) {
    struct settled *settled = opaque;
    dirtymap_uuid_t uuid;
    dirtymap_write_t write;
    FAILS(dirtymap_close(settled->map), DIRTYMAP_E_IN_USE);
    FAILS(dirtymap_truncate(settled->map, MIB), DIRTYMAP_E_IN_USE);
    FAILS(dirtymap_load_begin(settled->map), DIRTYMAP_E_IN_USE);
    FAILS(dirtymap_freeze(settled->map, NULL, &uuid), DIRTYMAP_E_OUTSTANDING);
    FAILS(dirtymap_freeze_snapshot(settled->map, NULL, meddle, opaque, &uuid), DIRTYMAP_E_OUTSTANDING);
    FAILS(dirtymap_commit(settled->map, checkpoint, false), DIRTYMAP_E_NO_CHECKPOINT);
    OK(dirtymap_begin_write(settled->map, 5 * MIB, 1, &write));
    OK(dirtymap_end_write(&write));
    OK(dirtymap_flush(settled->map));
    if (settled->answer)
        OK(dirtymap_abort(settled->map, checkpoint));
    return 0;
}

static void a_snapshot(void) {
    const char *path = in(dir, "snapshot");
    dirtymap_options_t *options;
    dirtymap_t *map, *frozen, *other;
    dirtymap_uuid_t uuid;
    struct dirtymap_checkpoint checkpoint;
    uint64_t item;
    OK(dirtymap_options_new(&options));
    OK(dirtymap_options_access(options, DIRTYMAP_SHARED));
    OK(dirtymap_create(path, GIB, options, &map));
    OK(dirtymap_set(map, 0, 1, NULL));
    struct settled settled = {.map = map, .answer = 1};
    FAILS(dirtymap_freeze_snapshot(map, NULL, settle, &settled, &uuid), DIRTYMAP_E_INTERRUPTED);
    OK(dirtymap_checkpoint(map, &checkpoint, sizeof checkpoint));
    CHECK(checkpoint.state == DIRTYMAP_NO_CHECKPOINT && counted(map) == 2);
    OK(dirtymap_reset(map, MIB, 64 * KIB, NULL));
    uint64_t dirty = counted(map);
    FAILS(dirtymap_freeze_snapshot(map, NULL, meddle, &settled, &uuid), DIRTYMAP_E_NO_CHECKPOINT);
    CHECK(counted(map) == dirty + 1);
    settled.answer = 0;
    OK(dirtymap_freeze_snapshot(map, NULL, meddle, &settled, &uuid));
    OK(dirtymap_abort(map, &uuid));
    CHECK(counted(map) == dirty + 1);
    OK(dirtymap_reset(map, 5 * MIB, 64 * KIB, NULL));
    OK(dirtymap_freeze_snapshot(map, NULL, settle, &settled, &uuid));
    CHECK(settled.calls == 2 && memcmp(&settled.uuid, &uuid, sizeof uuid) == 0);
    OK(dirtymap_checkpoint(map, &checkpoint, sizeof checkpoint));
    CHECK(checkpoint.state == DIRTYMAP_FROZEN && checkpoint.snapshot == 1);
    OK(dirtymap_frozen(map, &uuid, &frozen));
    CHECK(counted(frozen) == 1);
    dirtymap_free(frozen);
    /* Nobody else writes the image, who copies nothing; but who knows may open the map. */
    FAILS(dirtymap_open(path, options, &other), DIRTYMAP_E_OUTSTANDING);
    OK(dirtymap_options_beside_snapshot(options, true));
    OK(dirtymap_open(path, options, &other));
    OK(dirtymap_commit(other, &uuid, false));
    FAILS(dirtymap_freeze_snapshot(other, NULL, NULL, NULL, &uuid), DIRTYMAP_E_LOCKED);
    OK(dirtymap_close(other));
    OK(dirtymap_next_dirty(map, 0, DIRTYMAP_NONE, &item));
    CHECK(counted(map) == 1 && item == MIB);
    OK(dirtymap_freeze_snapshot(map, "monday", NULL, NULL, &uuid));
    OK(dirtymap_abort(map, &uuid));
    OK(dirtymap_freeze(map, NULL, &uuid));
    OK(dirtymap_checkpoint(map, &checkpoint, sizeof checkpoint));
    CHECK(!checkpoint.snapshot);
    FAILS(dirtymap_freeze_snapshot(map, NULL, NULL, NULL, NULL), DIRTYMAP_E_NULL);
    OK(dirtymap_close(map));
    dirtymap_options_free(options);
}

int main(int argc, char **argv) {
    (void)argc;
    dir = argv[1];
    a_map_outlives_its_handle();
    options();
    structs_of_other_versions();
    a_map_that_is_filled_before_it_has_a_name();
    loading_combining_and_lengths();
    a_snapshot();
    return 0;
}
