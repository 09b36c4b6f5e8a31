#ifndef DIRTYMAP_H
#define DIRTYMAP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#define DIRTYMAP_CHECKED __attribute__((warn_unused_result))
#else
#define DIRTYMAP_CHECKED
#endif
#define DIRTYMAP_NONE UINT64_MAX
typedef struct dirtymap dirtymap_t;
typedef struct dirtymap_options dirtymap_options_t;
typedef struct dirtymap_new_file dirtymap_new_file_t;
typedef struct dirtymap_queue dirtymap_queue_t;
typedef struct dirtymap_report dirtymap_report_t;
typedef struct dirtymap_uuid {
    uint8_t bytes[16];
} dirtymap_uuid_t;
struct dirtymap_range {
    uint64_t start;
    uint64_t count;
};
typedef struct dirtymap_cursor {
    uint64_t opaque[8];
} dirtymap_cursor_t;
typedef struct dirtymap_write {
    uint64_t opaque[8];
} dirtymap_write_t;
enum dirtymap_error {
    DIRTYMAP_OK = 0,
    DIRTYMAP_E_OUT_OF_RANGE = 1,
    DIRTYMAP_E_UNALIGNED = 2,
    DIRTYMAP_E_GEOMETRY = 3,
    DIRTYMAP_E_NOT_SERIALIZABLE = 4,
    DIRTYMAP_E_CHUNK_SIZE = 5,
    DIRTYMAP_E_STRAY_BITS = 6,
    DIRTYMAP_E_ZERO_LENGTH = 7,
    DIRTYMAP_E_MISMATCH = 8,
    DIRTYMAP_E_OUT_OF_MEMORY = 9,
    DIRTYMAP_E_IO = 10,
    DIRTYMAP_E_NOT_FOUND = 11,
    DIRTYMAP_E_PERMISSION = 12,
    DIRTYMAP_E_NO_SPACE = 13,
    DIRTYMAP_E_IS_A_DIRECTORY = 14,
    DIRTYMAP_E_NOT_A_DIRTYMAP = 15,
    DIRTYMAP_E_UNSUPPORTED = 16,
    DIRTYMAP_E_CORRUPT = 17,
    DIRTYMAP_E_LOCKED = 18,
    DIRTYMAP_E_EXISTS = 19,
    DIRTYMAP_E_READ_ONLY = 20,
    DIRTYMAP_E_UNUSABLE = 21,
    DIRTYMAP_E_OUTSTANDING = 22,
    DIRTYMAP_E_NO_CHECKPOINT = 23,
    DIRTYMAP_E_NO_POINT = 24,
    DIRTYMAP_E_BUSY = 25,
    DIRTYMAP_E_INTERRUPTED = 26,
    DIRTYMAP_E_REFUSED = 27,
    DIRTYMAP_E_NULL = 100,
    DIRTYMAP_E_TEXT = 101,
    DIRTYMAP_E_WRONG_KIND = 102,
    DIRTYMAP_E_LOADING = 103,
    DIRTYMAP_E_IN_USE = 104,
    DIRTYMAP_E_NO_WRITE = 105,
    DIRTYMAP_E_ARGUMENT = 106,
    DIRTYMAP_E_PANIC = 107,
    DIRTYMAP_E_POISONED = 108,
    DIRTYMAP_AGAIN = 109
};
const char *dirtymap_error_message(void);
const char *dirtymap_error_kind(int code);
uint32_t dirtymap_error_cause(void);
int dirtymap_error_errno(void);
const char *dirtymap_version(void);
enum dirtymap_access {
    DIRTYMAP_EXCLUSIVE = 0,
    DIRTYMAP_SHARED = 1,
    DIRTYMAP_READ_ONLY = 2
};
enum dirtymap_durability {
    DIRTYMAP_POWER_LOSS = 1,
    DIRTYMAP_PROCESS = 2
};
enum dirtymap_step {
    DIRTYMAP_STEP_OTHER = 0,
    DIRTYMAP_STEP_CREATING = 1,
    DIRTYMAP_STEP_OPENING = 2,
    DIRTYMAP_STEP_RECOVERING = 3,
    DIRTYMAP_STEP_SETTING = 4,
    DIRTYMAP_STEP_RESETTING = 5,
    DIRTYMAP_STEP_FREEZING = 6,
    DIRTYMAP_STEP_WAITING = 7,
    DIRTYMAP_STEP_PUTTING_BACK = 8,
    DIRTYMAP_STEP_FLUSHING = 9,
    DIRTYMAP_STEP_RESIZING = 10
};
struct dirtymap_progress {
    uint32_t step;
    uint32_t reserved;
    uint64_t done;
    uint64_t total;
};
typedef int (*dirtymap_progress_fn)(const struct dirtymap_progress *progress, void *opaque);
DIRTYMAP_CHECKED int dirtymap_options_new(dirtymap_options_t **options);
void dirtymap_options_free(dirtymap_options_t *options);
DIRTYMAP_CHECKED int dirtymap_options_granule(dirtymap_options_t *options, uint64_t items);
DIRTYMAP_CHECKED int dirtymap_options_label(dirtymap_options_t *options, const char *label);
DIRTYMAP_CHECKED int dirtymap_options_durability(dirtymap_options_t *options, uint32_t durability);
DIRTYMAP_CHECKED int dirtymap_options_dirty(dirtymap_options_t *options, bool dirty);
DIRTYMAP_CHECKED int dirtymap_options_added_dirt(dirtymap_options_t *options, uint32_t reasons);
DIRTYMAP_CHECKED int dirtymap_options_image(dirtymap_options_t *options, int fd);
DIRTYMAP_CHECKED int dirtymap_options_like(dirtymap_options_t *options, int fd);
DIRTYMAP_CHECKED int dirtymap_options_access(dirtymap_options_t *options, uint32_t access);
DIRTYMAP_CHECKED int dirtymap_options_armed_bound(dirtymap_options_t *options, uint64_t items);
DIRTYMAP_CHECKED int dirtymap_options_intent_bound(dirtymap_options_t *options, uint64_t items);
DIRTYMAP_CHECKED int dirtymap_options_flush_interval(dirtymap_options_t *options, uint64_t milliseconds);
DIRTYMAP_CHECKED int dirtymap_options_wait(dirtymap_options_t *options, uint64_t milliseconds);
DIRTYMAP_CHECKED int dirtymap_options_freeze_timeout(dirtymap_options_t *options, uint64_t milliseconds);
DIRTYMAP_CHECKED int dirtymap_options_lock_timeout(dirtymap_options_t *options, uint64_t milliseconds);
DIRTYMAP_CHECKED int dirtymap_options_writes_outlive(dirtymap_options_t *options, bool outlive);
DIRTYMAP_CHECKED int dirtymap_options_beside_snapshot(dirtymap_options_t *options, bool beside);
DIRTYMAP_CHECKED int dirtymap_options_progress(dirtymap_options_t *options, dirtymap_progress_fn told,
                                               void *opaque);
DIRTYMAP_CHECKED int dirtymap_new(uint64_t len, uint64_t granule, dirtymap_t **map);
DIRTYMAP_CHECKED int dirtymap_create(const char *path, uint64_t len, const dirtymap_options_t *options,
                                     dirtymap_t **map);
DIRTYMAP_CHECKED int dirtymap_create_closed(const char *path, uint64_t len, const dirtymap_options_t *options);
DIRTYMAP_CHECKED int dirtymap_create_unpublished(const char *path, uint64_t len,
                                                 const dirtymap_options_t *options, dirtymap_t **map,
                                                 dirtymap_new_file_t **file);
DIRTYMAP_CHECKED int dirtymap_publish(dirtymap_new_file_t *file);
void dirtymap_discard(dirtymap_new_file_t *file);
DIRTYMAP_CHECKED int dirtymap_open(const char *path, const dirtymap_options_t *options, dirtymap_t **map);
DIRTYMAP_CHECKED int dirtymap_close(dirtymap_t *map);
DIRTYMAP_CHECKED int dirtymap_close_with_image(dirtymap_t *map, int image);
void dirtymap_free(dirtymap_t *map);
DIRTYMAP_CHECKED int dirtymap_copy(const dirtymap_t *map, dirtymap_t **copy);
uint64_t dirtymap_len(const dirtymap_t *map);
uint64_t dirtymap_granule(const dirtymap_t *map);
DIRTYMAP_CHECKED int dirtymap_truncate(dirtymap_t *map, uint64_t len);
DIRTYMAP_CHECKED int dirtymap_set(dirtymap_t *map, uint64_t start, uint64_t count, uint64_t *changed);
DIRTYMAP_CHECKED int dirtymap_set_ranges(dirtymap_t *map, const struct dirtymap_range *ranges, size_t n,
                                         uint64_t *changed);
DIRTYMAP_CHECKED int dirtymap_set_all(dirtymap_t *map, uint64_t *changed);
DIRTYMAP_CHECKED int dirtymap_reset(dirtymap_t *map, uint64_t start, uint64_t count, uint64_t *changed);
DIRTYMAP_CHECKED int dirtymap_reset_within(dirtymap_t *map, uint64_t start, uint64_t count, uint64_t *changed);
DIRTYMAP_CHECKED int dirtymap_reset_covering(dirtymap_t *map, uint64_t start, uint64_t count,
                                             uint64_t *changed);
DIRTYMAP_CHECKED int dirtymap_reset_all(dirtymap_t *map, uint64_t *changed);
DIRTYMAP_CHECKED int dirtymap_flush(dirtymap_t *map);
DIRTYMAP_CHECKED int dirtymap_begin_write(dirtymap_t *map, uint64_t start, uint64_t count,
                                          dirtymap_write_t *write);
DIRTYMAP_CHECKED int dirtymap_begin_writes(dirtymap_t *map, const struct dirtymap_range *ranges, size_t n,
                                           dirtymap_write_t *write);
int dirtymap_end_write(dirtymap_write_t *write);
DIRTYMAP_CHECKED int dirtymap_queue_new(dirtymap_t *map, dirtymap_queue_t **queue);
int dirtymap_queue_fd(const dirtymap_queue_t *queue);
DIRTYMAP_CHECKED int dirtymap_queue_begin(dirtymap_queue_t *queue, const struct dirtymap_range *ranges,
                                          size_t n, uint64_t tag, dirtymap_write_t *write);
DIRTYMAP_CHECKED int dirtymap_queue_next(dirtymap_queue_t *queue, uint64_t *tag, dirtymap_write_t *write);
void dirtymap_queue_free(dirtymap_queue_t *queue);
DIRTYMAP_CHECKED int dirtymap_get(const dirtymap_t *map, uint64_t item, bool *dirty);
DIRTYMAP_CHECKED int dirtymap_count(const dirtymap_t *map, uint64_t *granules);
DIRTYMAP_CHECKED int dirtymap_dirty_len(const dirtymap_t *map, uint64_t *items);
DIRTYMAP_CHECKED int dirtymap_count_range(const dirtymap_t *map, uint64_t start, uint64_t count,
                                          uint64_t *granules);
DIRTYMAP_CHECKED int dirtymap_is_empty(const dirtymap_t *map, bool *empty);
DIRTYMAP_CHECKED int dirtymap_is_full(const dirtymap_t *map, bool *full);
DIRTYMAP_CHECKED int dirtymap_any(const dirtymap_t *map, uint64_t start, uint64_t count, bool *any);
DIRTYMAP_CHECKED int dirtymap_all(const dirtymap_t *map, uint64_t start, uint64_t count, bool *all);
DIRTYMAP_CHECKED int dirtymap_next_dirty(const dirtymap_t *map, uint64_t start, uint64_t count, uint64_t *item);
DIRTYMAP_CHECKED int dirtymap_next_clean(const dirtymap_t *map, uint64_t start, uint64_t count, uint64_t *item);
DIRTYMAP_CHECKED int dirtymap_next_extent(const dirtymap_t *map, uint64_t start, uint64_t count,
                                          uint64_t max_count, struct dirtymap_range *extent);
DIRTYMAP_CHECKED int dirtymap_run(const dirtymap_t *map, uint64_t start, uint64_t count, bool *dirty,
                                  uint64_t *same);
DIRTYMAP_CHECKED int dirtymap_sha256(const dirtymap_t *map, uint8_t *hash);
DIRTYMAP_CHECKED int dirtymap_equal(const dirtymap_t *map, const dirtymap_t *other, bool *equal);
DIRTYMAP_CHECKED int dirtymap_get_since_freeze(const dirtymap_t *map, uint64_t item, bool *dirty);
DIRTYMAP_CHECKED int dirtymap_any_since_freeze(const dirtymap_t *map, bool *any);
DIRTYMAP_CHECKED int dirtymap_verify_session(const dirtymap_t *map);
void dirtymap_cursor_init(dirtymap_cursor_t *cursor, uint64_t start, uint64_t count);
uint64_t dirtymap_cursor_position(const dirtymap_cursor_t *cursor);
void dirtymap_cursor_advance(dirtymap_cursor_t *cursor, uint64_t item);
DIRTYMAP_CHECKED int dirtymap_cursor_next(const dirtymap_t *map, dirtymap_cursor_t *cursor, uint64_t *item);
DIRTYMAP_CHECKED int dirtymap_cursor_peek(const dirtymap_t *map, const dirtymap_cursor_t *cursor,
                                          uint64_t *item);
DIRTYMAP_CHECKED int dirtymap_cursor_next_extent(const dirtymap_t *map, dirtymap_cursor_t *cursor,
                                                 struct dirtymap_range *extent);
DIRTYMAP_CHECKED int dirtymap_cursor_next_word(const dirtymap_t *map, dirtymap_cursor_t *cursor,
                                               uint64_t *index, uint64_t *word);
DIRTYMAP_CHECKED int dirtymap_can_merge(const dirtymap_t *map, const dirtymap_t *other, bool *can);
DIRTYMAP_CHECKED int dirtymap_merge(dirtymap_t *map, const dirtymap_t *other, uint64_t *changed);
DIRTYMAP_CHECKED int dirtymap_subtract(dirtymap_t *map, const dirtymap_t *other, uint64_t *changed);
DIRTYMAP_CHECKED int dirtymap_intersect(dirtymap_t *map, const dirtymap_t *other, uint64_t *changed);
DIRTYMAP_CHECKED int dirtymap_set_to_union(dirtymap_t *map, const dirtymap_t *a, const dirtymap_t *b,
                                           uint64_t *changed);
DIRTYMAP_CHECKED int dirtymap_difference(const dirtymap_t *map, const dirtymap_t *other, dirtymap_t **made);
DIRTYMAP_CHECKED int dirtymap_intersection(const dirtymap_t *map, const dirtymap_t *other, dirtymap_t **made);
DIRTYMAP_CHECKED int dirtymap_serialization_align(const dirtymap_t *map, uint64_t *items);
DIRTYMAP_CHECKED int dirtymap_serialized_size(const dirtymap_t *map, uint64_t start, uint64_t count,
                                              uint64_t *size);
DIRTYMAP_CHECKED int dirtymap_serialize_part(const dirtymap_t *map, uint64_t start, uint64_t count,
                                             void *buffer, size_t size);
DIRTYMAP_CHECKED int dirtymap_load_part(dirtymap_t *map, uint64_t start, uint64_t count, const void *bytes,
                                        size_t size, uint64_t *changed);
DIRTYMAP_CHECKED int dirtymap_load_begin(dirtymap_t *map);
DIRTYMAP_CHECKED int dirtymap_load_chunk(dirtymap_t *map, uint64_t start, uint64_t count, const void *bytes,
                                         size_t size);
DIRTYMAP_CHECKED int dirtymap_load_zeroes(dirtymap_t *map, uint64_t start, uint64_t count);
DIRTYMAP_CHECKED int dirtymap_load_ones(dirtymap_t *map, uint64_t start, uint64_t count);
DIRTYMAP_CHECKED int dirtymap_load_finish(dirtymap_t *map);
DIRTYMAP_CHECKED int dirtymap_changes_attach(dirtymap_t *map, uint32_t chunk);
DIRTYMAP_CHECKED int dirtymap_changes_detach(dirtymap_t *map);
DIRTYMAP_CHECKED int dirtymap_changes_any(const dirtymap_t *map, bool *any);
DIRTYMAP_CHECKED int dirtymap_changes_copy(const dirtymap_t *map, dirtymap_t **changes);
DIRTYMAP_CHECKED int dirtymap_changes_take(dirtymap_t *map, dirtymap_t **changes);
DIRTYMAP_CHECKED int dirtymap_changes_take_into(dirtymap_t *map, dirtymap_t *into, bool *attached);
DIRTYMAP_CHECKED int dirtymap_changes_clear(dirtymap_t *map, uint64_t start, uint64_t count);
DIRTYMAP_CHECKED int dirtymap_freeze(dirtymap_t *map, const char *name, dirtymap_uuid_t *checkpoint);
typedef int (*dirtymap_settle_fn)(const dirtymap_uuid_t *checkpoint, void *opaque);
DIRTYMAP_CHECKED int dirtymap_freeze_snapshot(dirtymap_t *map, const char *name, dirtymap_settle_fn settle,
                                              void *opaque, dirtymap_uuid_t *checkpoint);
DIRTYMAP_CHECKED int dirtymap_can_freeze(dirtymap_t *map, const char *name);
DIRTYMAP_CHECKED int dirtymap_commit(dirtymap_t *map, const dirtymap_uuid_t *checkpoint, bool keep);
DIRTYMAP_CHECKED int dirtymap_abort(dirtymap_t *map, const dirtymap_uuid_t *checkpoint);
enum dirtymap_checkpoint_state {
    DIRTYMAP_NO_CHECKPOINT = 0,
    DIRTYMAP_FREEZING = 1,
    DIRTYMAP_FROZEN = 2,
    DIRTYMAP_ABORTING = 3
};
struct dirtymap_checkpoint {
    dirtymap_uuid_t uuid;
    int64_t time;
    uint32_t state;
    uint32_t snapshot;
    char name[72];
};
DIRTYMAP_CHECKED int dirtymap_checkpoint(const dirtymap_t *map, struct dirtymap_checkpoint *checkpoint,
                                         size_t size);
DIRTYMAP_CHECKED int dirtymap_frozen(const dirtymap_t *map, const dirtymap_uuid_t *checkpoint,
                                     dirtymap_t **set);
DIRTYMAP_CHECKED int dirtymap_frozen_len(const dirtymap_t *map, const dirtymap_uuid_t *checkpoint,
                                         uint64_t *granules, uint64_t *items);
struct dirtymap_point {
    dirtymap_uuid_t uuid;
    int64_t time;
    uint64_t since_granules;
    uint64_t since_len;
    uint64_t until_next_granules;
    uint64_t until_next_len;
    uint32_t damaged;
    uint32_t has_target;
    char name[72];
};
DIRTYMAP_CHECKED int dirtymap_points(const dirtymap_t *map, struct dirtymap_point *points, size_t size,
                                     size_t places, size_t *n);
DIRTYMAP_CHECKED int dirtymap_count_points(const dirtymap_t *map, struct dirtymap_point *points, size_t size,
                                           size_t places, size_t *n);
DIRTYMAP_CHECKED int dirtymap_since(const dirtymap_t *map, const char *name, dirtymap_t **set);
DIRTYMAP_CHECKED int dirtymap_between(const dirtymap_t *map, const char *from, const char *to,
                                      dirtymap_t **set);
DIRTYMAP_CHECKED int dirtymap_dirty_set(const dirtymap_t *map, dirtymap_t **set);
DIRTYMAP_CHECKED int dirtymap_export_since(const dirtymap_t *map, const char *name, const char *path);
DIRTYMAP_CHECKED int dirtymap_export_between(const dirtymap_t *map, const char *from, const char *to,
                                             const char *path);
DIRTYMAP_CHECKED int dirtymap_drop_point(dirtymap_t *map, const char *name);
DIRTYMAP_CHECKED int dirtymap_claim_backup(dirtymap_t *map);
DIRTYMAP_CHECKED int dirtymap_begin_backup(dirtymap_t *map, int target);
DIRTYMAP_CHECKED int dirtymap_commit_backup(dirtymap_t *map, const dirtymap_uuid_t *checkpoint, bool keep,
                                            int target, uint64_t audited);
DIRTYMAP_CHECKED int dirtymap_complete_backup(dirtymap_t *map, int target);
DIRTYMAP_CHECKED int dirtymap_bind_image(dirtymap_t *map, int image);
DIRTYMAP_CHECKED int dirtymap_record_miss(dirtymap_t *map, uint64_t audited);
enum dirtymap_recorded {
    DIRTYMAP_IMAGE = 1,
    DIRTYMAP_TARGET = 2,
    DIRTYMAP_BEGUN = 3
};
enum dirtymap_comparison {
    DIRTYMAP_NOT_RECORDED = 0,
    DIRTYMAP_SAME = 1,
    DIRTYMAP_UNPROVEN = 2,
    DIRTYMAP_CHANGED = 3,
    DIRTYMAP_ANOTHER = 4
};
DIRTYMAP_CHECKED int dirtymap_compare(const dirtymap_t *map, uint32_t recorded, int fd, uint32_t *comparison);
enum dirtymap_state {
    DIRTYMAP_CLEAN = 0,
    DIRTYMAP_OPEN = 1,
    DIRTYMAP_UNCLEAN = 2
};
enum dirtymap_verdict {
    DIRTYMAP_EXACT = 0,
    DIRTYMAP_SUPERSET = 1,
    DIRTYMAP_DAMAGED = 2
};
struct dirtymap_info {
    dirtymap_uuid_t uuid;
    uint64_t len;
    uint32_t granularity;
    uint32_t durability;
    uint32_t state;
    uint32_t verdict;
    uint64_t dirty_granules;
    uint64_t dirty_len;
    uint64_t armed_len;
    uint64_t intent_len;
    uint64_t sequence;
    int64_t created;
    int64_t last_clean;
    int64_t last_open;
    int64_t dirt_time;
    int64_t backup_time;
    int64_t audit_time;
    uint64_t audited;
    uint64_t audit_missed;
    dirtymap_uuid_t committed;
    int64_t committed_time;
    uint32_t checkpoint_state;
    uint32_t points;
    uint32_t has_image;
    uint32_t has_target;
    uint32_t has_begun;
    uint32_t format_version;
    char label[256];
    char reasons[256];
};
struct dirtymap_recovery {
    uint32_t unclean;
    uint32_t added_dirt;
    uint32_t damaged;
    uint32_t cache_trusted;
    uint64_t armed_len;
    uint64_t intent_len;
    uint64_t interrupted_pages;
    uint64_t damaged_pages;
    uint64_t damaged_headers;
    uint64_t lost_granules;
    uint32_t lost_commit;
    uint32_t image_changed;
    dirtymap_uuid_t aborted;
    char why_image_changed[512];
};
struct dirtymap_stats {
    uint64_t arms;
    uint64_t syncs;
    uint64_t flushes;
    uint64_t bytes_written;
    uint64_t slow_sets;
    uint64_t recovered_len;
    uint64_t failed_pages;
    uint64_t damaged_headers;
};
DIRTYMAP_CHECKED int dirtymap_info(const dirtymap_t *map, struct dirtymap_info *info, size_t size);
DIRTYMAP_CHECKED int dirtymap_inspect(const char *path, struct dirtymap_info *info, size_t size);
DIRTYMAP_CHECKED int dirtymap_recovery(const dirtymap_t *map, struct dirtymap_recovery *recovery, size_t size);
DIRTYMAP_CHECKED int dirtymap_stats(const dirtymap_t *map, struct dirtymap_stats *stats, size_t size);
enum dirtymap_severity {
    DIRTYMAP_FINE = 0,
    DIRTYMAP_NOTE = 1,
    DIRTYMAP_LEFT_UNCLEAN = 2,
    DIRTYMAP_DAMAGE = 3
};
struct dirtymap_summary {
    uint64_t items;
    uint32_t severity;
    uint32_t in_use;
    uint64_t omitted;
    uint64_t pages_checked;
    uint64_t verified_granules;
    uint64_t verified_len;
    uint64_t length_before;
    uint64_t length_after;
    uint64_t dirty_granules;
    uint64_t dirty_len;
    uint64_t needless_len;
};
struct dirtymap_finding {
    uint32_t severity;
    uint32_t all_dirty;
    uint64_t count;
    const char *place;
    const char *found;
    const char *expected;
    const char *consequence;
    const char *repair;
};
DIRTYMAP_CHECKED int dirtymap_check(const char *path, bool after_power_loss, dirtymap_progress_fn told,
                                    void *opaque, dirtymap_report_t **report);
DIRTYMAP_CHECKED int dirtymap_plan_repair(const char *path, dirtymap_progress_fn told, void *opaque,
                                          dirtymap_report_t **report);
DIRTYMAP_CHECKED int dirtymap_repair(const char *path, const char *undo, uint64_t wait_milliseconds,
                                     dirtymap_progress_fn told, void *opaque, dirtymap_report_t **report);
DIRTYMAP_CHECKED int dirtymap_undo_repair(const char *path, const char *undo, uint64_t wait_milliseconds,
                                          uint64_t *bytes);
DIRTYMAP_CHECKED int dirtymap_report_summary(const dirtymap_report_t *report, struct dirtymap_summary *summary,
                                             size_t size);
DIRTYMAP_CHECKED int dirtymap_report_item(const dirtymap_report_t *report, uint64_t i,
                                          struct dirtymap_finding *finding, size_t size);
void dirtymap_report_free(dirtymap_report_t *report);
enum dirtymap_level {
    DIRTYMAP_SILENT = 0,
    DIRTYMAP_ERROR = 1,
    DIRTYMAP_WARN = 2,
    DIRTYMAP_EVENTS = 3,
    DIRTYMAP_DEBUG = 4
};
struct dirtymap_event {
    int level;
    int reserved;
    const char *name;
    const char *text;
};
typedef void (*dirtymap_event_fn)(const struct dirtymap_event *event, void *opaque);
DIRTYMAP_CHECKED int dirtymap_events(int level, dirtymap_event_fn told, void *opaque);
#ifdef __cplusplus
}
#endif
#endif
