/* The loops of cost/main.rs, as a C program has them. */
#include "../dirtymap.h"

int loop_set(dirtymap_t *map, const uint64_t *starts, size_t n, uint64_t count) {
    int failed = 0;
    for (size_t i = 0; i < n; i++)
        failed |= dirtymap_set(map, starts[i], count, NULL);
    return failed;
}

int loop_get(dirtymap_t *map, const uint64_t *starts, size_t n, uint64_t count) {
    int failed = 0;
    bool dirty;
    (void)count;
    for (size_t i = 0; i < n; i++)
        failed |= dirtymap_get(map, starts[i], &dirty);
    return failed;
}

int loop_write(dirtymap_t *map, const uint64_t *starts, size_t n, uint64_t count) {
    int failed = 0;
    for (size_t i = 0; i < n; i++) {
        dirtymap_write_t write;
        failed |= dirtymap_begin_write(map, starts[i], count, &write);
        failed |= dirtymap_end_write(&write);
    }
    return failed;
}

int loop_extents(dirtymap_t *map, const uint64_t *starts, size_t n, uint64_t count) {
    int failed = 0;
    struct dirtymap_range extent;
    (void)starts, (void)count;
    for (size_t found = 0; found < n;) {
        dirtymap_cursor_t cursor;
        dirtymap_cursor_init(&cursor, 0, DIRTYMAP_NONE);
        while (!(failed |= dirtymap_cursor_next_extent(map, &cursor, &extent)) && extent.count)
            found++;
        if (failed)
            break;
    }
    return failed;
}
