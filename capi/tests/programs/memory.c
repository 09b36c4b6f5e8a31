/* Maps in memory: every operation, in the order of the header. */
#include "check.h"

static void writing_and_reading(void) {
    dirtymap_t *map;
    uint64_t n;
    bool yes;
    OK(dirtymap_new(16, 2, &map));
    CHECK(dirtymap_len(map) == 16 && dirtymap_granule(map) == 2);
    OK(dirtymap_set(map, 0, 9, &n));
    CHECK(n == 5);
    OK(dirtymap_reset_covering(map, 1, 3, &n));
    CHECK(n == 2);
    OK(dirtymap_set(map, 9, 2, NULL));
    OK(dirtymap_reset_covering(map, 5, 5, NULL));
    OK(dirtymap_get(map, 10, &yes));
    CHECK(yes && counted(map) == 1);
    OK(dirtymap_dirty_len(map, &n));
    CHECK(n == 2);
    FAILS(dirtymap_reset(map, 1, 3, &n), DIRTYMAP_E_UNALIGNED);
    OK(dirtymap_reset(map, 10, 2, &n));
    CHECK(n == 1);
    OK(dirtymap_is_empty(map, &yes));
    CHECK(yes);
    OK(dirtymap_set_all(map, &n));
    CHECK(n == 8);
    OK(dirtymap_is_full(map, &yes));
    CHECK(yes);
    OK(dirtymap_reset_within(map, 1, 15, &n));
    CHECK(n == 7);
    OK(dirtymap_reset_all(map, &n));
    CHECK(n == 1);
    const struct dirtymap_range ranges[] = {{0, 1}, {15, 1}};
    OK(dirtymap_set_ranges(map, ranges, 2, &n));
    CHECK(n == 2);
    OK(dirtymap_flush(map));
    OK(dirtymap_close(map));
}

static void what_reads_is_cut_off_and_what_changes_is_not(void) {
    dirtymap_t *map;
    uint64_t n;
    bool yes;
    struct dirtymap_range area;
    OK(dirtymap_new(1000, 64, &map));
    OK(dirtymap_set(map, 900, 100, NULL));
    OK(dirtymap_next_dirty(map, 0, DIRTYMAP_NONE, &n));
    CHECK(n == 896);
    OK(dirtymap_next_dirty(map, 950, DIRTYMAP_NONE, &n));
    CHECK(n == 950);
    OK(dirtymap_next_clean(map, 896, DIRTYMAP_NONE, &n));
    CHECK(n == DIRTYMAP_NONE);
    OK(dirtymap_next_clean(map, 0, 5, &n));
    CHECK(n == 0);
    OK(dirtymap_next_extent(map, 0, DIRTYMAP_NONE, DIRTYMAP_NONE, &area));
    CHECK(area.start == 896 && area.count == 104);
    OK(dirtymap_next_extent(map, 0, 5000, 7, &area));
    CHECK(area.start == 896 && area.count == 7);
    OK(dirtymap_next_extent(map, 0, 896, 7, &area));
    CHECK(area.count == 0);
    FAILS(dirtymap_next_extent(map, 0, 896, 0, &area), DIRTYMAP_E_ZERO_LENGTH);
    OK(dirtymap_run(map, 10, DIRTYMAP_NONE, &yes, &n));
    CHECK(!yes && n == 886);
    OK(dirtymap_run(map, 2000, 5, &yes, &n));
    CHECK(n == 0);
    OK(dirtymap_any(map, 890, 7, &yes));
    CHECK(yes);
    OK(dirtymap_all(map, 890, 7, &yes));
    CHECK(!yes);
    OK(dirtymap_count_range(map, 900, DIRTYMAP_NONE, &n));
    CHECK(n == 2);
    FAILS(dirtymap_get(map, 1000, &yes), DIRTYMAP_E_OUT_OF_RANGE);
    FAILS(dirtymap_set(map, 999, 2, &n), DIRTYMAP_E_OUT_OF_RANGE);
    FAILS(dirtymap_set(map, 5, DIRTYMAP_NONE, &n), DIRTYMAP_E_OUT_OF_RANGE);
    FAILS(dirtymap_reset(map, 960, 64, &n), DIRTYMAP_E_OUT_OF_RANGE);
    const struct dirtymap_range ranges[] = {{0, 1}, {1000, 1}};
    FAILS(dirtymap_set_ranges(map, ranges, 2, &n), DIRTYMAP_E_OUT_OF_RANGE);
    CHECK(counted(map) == 2);
    dirtymap_free(map);
}

static void cursors(void) {
    dirtymap_t *map;
    dirtymap_cursor_t cursor, copy;
    uint64_t item, index, word;
    struct dirtymap_range area;
    OK(dirtymap_new(1000, 8, &map));
    OK(dirtymap_set(map, 80, 20, NULL));
    OK(dirtymap_set(map, 600, 1, NULL));
    dirtymap_cursor_init(&cursor, 0, DIRTYMAP_NONE);
    OK(dirtymap_cursor_next(map, &cursor, &item));
    CHECK(item == 80 && dirtymap_cursor_position(&cursor) == 88);
    copy = cursor;
    OK(dirtymap_reset(map, 88, 8, NULL));
    OK(dirtymap_cursor_peek(map, &cursor, &item));
    CHECK(item == 96);
    dirtymap_cursor_advance(&cursor, 200);
    OK(dirtymap_cursor_next_extent(map, &cursor, &area));
    CHECK(area.start == 600 && area.count == 8);
    OK(dirtymap_cursor_next(map, &cursor, &item));
    CHECK(item == DIRTYMAP_NONE);
    OK(dirtymap_cursor_next_extent(map, &cursor, &area));
    CHECK(area.count == 0);
    OK(dirtymap_cursor_next(map, &copy, &item));
    CHECK(item == 96);
    dirtymap_cursor_init(&cursor, 0, 601);
    OK(dirtymap_cursor_next_word(map, &cursor, &index, &word));
    CHECK(index == 0 && word == ((1ull << 10) | (1ull << 12)));
    OK(dirtymap_cursor_next_word(map, &cursor, &index, &word));
    CHECK(index == 1 && word == 1ull << 11);
    OK(dirtymap_cursor_next_word(map, &cursor, &index, &word));
    CHECK(index == DIRTYMAP_NONE && word == 0);
    /* Zeros are a cursor that has come to its end. */
    memset(&cursor, 0, sizeof cursor);
    OK(dirtymap_cursor_next(map, &cursor, &item));
    CHECK(item == DIRTYMAP_NONE);
    dirtymap_free(map);
}

static void several_maps(void) {
    dirtymap_t *a, *b, *c, *made;
    uint64_t n;
    bool yes;
    OK(dirtymap_new(1000, 64, &a));
    OK(dirtymap_new(1000, 4, &b));
    OK(dirtymap_new(1000, 4, &c));
    OK(dirtymap_set(b, 70, 1, NULL));
    OK(dirtymap_can_merge(a, b, &yes));
    CHECK(yes);
    OK(dirtymap_merge(a, b, &n));
    CHECK(n == 1);
    OK(dirtymap_merge(a, a, &n));
    CHECK(n == 0);
    FAILS(dirtymap_subtract(a, b, &n), DIRTYMAP_E_MISMATCH);
    OK(dirtymap_set_to_union(c, a, b, &n));
    CHECK(n == 16);
    OK(dirtymap_set_to_union(c, c, c, &n));
    CHECK(n == 0);
    OK(dirtymap_set_to_union(b, c, b, &n));
    CHECK(n == 15);
    OK(dirtymap_equal(b, c, &yes));
    CHECK(yes);
    OK(dirtymap_reset(c, 64, 8, NULL));
    OK(dirtymap_difference(b, c, &made));
    CHECK(counted(made) == 2);
    OK(dirtymap_intersect(b, made, &n));
    CHECK(n == 14);
    dirtymap_free(made);
    OK(dirtymap_intersection(b, c, &made));
    CHECK(counted(made) == 0);
    dirtymap_free(made);
    OK(dirtymap_copy(b, &made));
    OK(dirtymap_equal(b, made, &yes));
    CHECK(yes);
    OK(dirtymap_equal(b, a, &yes));
    CHECK(!yes);
    OK(dirtymap_intersect(b, b, &n));
    CHECK(n == 0 && counted(b) == 2);
    OK(dirtymap_subtract(b, b, &n));
    CHECK(n == 2);
    dirtymap_free(made);
    dirtymap_free(a);
    dirtymap_free(b);
    dirtymap_free(c);
}

static void saving_and_loading(void) {
    dirtymap_t *map, *other;
    uint64_t align, size, n;
    uint8_t bytes[64], hash[32], its[32];
    bool yes;
    OK(dirtymap_new(1000, 1, &map));
    OK(dirtymap_new(1000, 1, &other));
    OK(dirtymap_set(map, 3, 5, NULL));
    OK(dirtymap_serialization_align(map, &align));
    CHECK(align == 64);
    OK(dirtymap_serialized_size(map, 0, 64, &size));
    CHECK(size == 8);
    FAILS(dirtymap_serialized_size(map, 0, 65, &size), DIRTYMAP_E_UNALIGNED);
    FAILS(dirtymap_serialize_part(map, 0, 64, bytes, 7), DIRTYMAP_E_CHUNK_SIZE);
    OK(dirtymap_serialize_part(map, 0, 64, bytes, 8));
    CHECK(bytes[0] == 0xf8 && bytes[1] == 0 && bytes[7] == 0);
    OK(dirtymap_load_part(other, 64, 64, bytes, 8, &n));
    CHECK(n == 5);
    OK(dirtymap_load_begin(other));
    FAILS(dirtymap_count(other, &n), DIRTYMAP_E_LOADING);
    FAILS(dirtymap_set(other, 0, 1, &n), DIRTYMAP_E_LOADING);
    FAILS(dirtymap_load_begin(other), DIRTYMAP_E_LOADING);
    CHECK(dirtymap_len(other) == 1000);
    OK(dirtymap_load_chunk(other, 0, 64, bytes, 8));
    OK(dirtymap_load_ones(other, 960, 40));
    OK(dirtymap_load_zeroes(other, 64, 64));
    memset(bytes, 0xff, sizeof bytes);
    FAILS(dirtymap_load_chunk(other, 960, 40, bytes, 8), DIRTYMAP_E_STRAY_BITS);
    OK(dirtymap_load_finish(other));
    FAILS(dirtymap_load_finish(other), DIRTYMAP_E_WRONG_KIND);
    CHECK(counted(other) == 45);
    OK(dirtymap_reset(other, 960, 40, NULL));
    OK(dirtymap_sha256(map, hash));
    OK(dirtymap_sha256(other, its));
    CHECK(memcmp(hash, its, 32) == 0);
    /* Half a load that is given up. */
    OK(dirtymap_load_begin(other));
    OK(dirtymap_equal(map, map, &yes));
    dirtymap_free(other);
    dirtymap_free(map);
}

static void changes_and_lengths(void) {
    dirtymap_t *map, *changes, *seen;
    uint64_t n;
    bool yes;
    OK(dirtymap_new(MIB, 1, &map));
    OK(dirtymap_changes_any(map, &yes));
    CHECK(!yes);
    OK(dirtymap_changes_copy(map, &changes));
    CHECK(changes == NULL);
    OK(dirtymap_changes_attach(map, 10));
    OK(dirtymap_set(map, 5000, 4000, NULL));
    OK(dirtymap_changes_copy(map, &changes));
    CHECK(dirtymap_granule(changes) == 1024 && counted(changes) == 5);
    OK(dirtymap_next_dirty(changes, 0, DIRTYMAP_NONE, &n));
    CHECK(n == 4096);
    dirtymap_free(changes);
    OK(dirtymap_changes_clear(map, 0, 6000));
    OK(dirtymap_new(MIB, 1024, &seen));
    OK(dirtymap_changes_take_into(map, seen, &yes));
    CHECK(yes && counted(seen) == 4);
    FAILS(dirtymap_changes_take_into(map, map, NULL), DIRTYMAP_E_ARGUMENT);
    OK(dirtymap_changes_any(map, &yes));
    CHECK(!yes);
    OK(dirtymap_reset_all(map, NULL));
    OK(dirtymap_changes_take(map, &changes));
    CHECK(counted(changes) > 4);
    dirtymap_free(changes);
    OK(dirtymap_changes_detach(map));
    OK(dirtymap_changes_take_into(map, seen, &yes));
    CHECK(!yes);
    OK(dirtymap_set(map, 0, MIB, NULL));
    OK(dirtymap_truncate(map, 100));
    CHECK(dirtymap_len(map) == 100 && counted(map) == 100);
    OK(dirtymap_truncate(map, 200));
    CHECK(dirtymap_len(map) == 200 && counted(map) == 100);
    FAILS(dirtymap_truncate(map, UINT64_MAX), DIRTYMAP_E_GEOMETRY);
    dirtymap_free(seen);
    dirtymap_free(map);
}

static void what_only_a_file_can(void) {
    dirtymap_t *map;
    dirtymap_uuid_t uuid;
    dirtymap_write_t write;
    OK(dirtymap_new(100, 1, &map));
    FAILS(dirtymap_freeze(map, NULL, &uuid), DIRTYMAP_E_WRONG_KIND);
    FAILS(dirtymap_begin_write(map, 0, 1, &write), DIRTYMAP_E_WRONG_KIND);
    OK(dirtymap_verify_session(map));
    dirtymap_free(map);
    FAILS(dirtymap_new(100, 3, &map), DIRTYMAP_E_GEOMETRY);
    FAILS(dirtymap_new(UINT64_MAX, 65536, &map), DIRTYMAP_E_GEOMETRY);
}

int main(void) {
    writing_and_reading();
    what_reads_is_cut_off_and_what_changes_is_not();
    cursors();
    several_maps();
    saving_and_loading();
    changes_and_lengths();
    what_only_a_file_can();
    return 0;
}
