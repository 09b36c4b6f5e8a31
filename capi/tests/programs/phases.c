/* What a program does with a map, phase by phase, each announced by a write that fails: for strace. */
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

static void phase(const char *name) {
    char text[64];
    int size = snprintf(text, sizeof text, "phase:%s", name);
    CHECK(write(-1, text, (size_t)size) == -1);
}

int main(int argc, char **argv) {
    const char *path = in(argv[1], "map");
    dirtymap_options_t *options;
    dirtymap_t *map, *frozen;
    dirtymap_uuid_t uuid;
    dirtymap_cursor_t cursor;
    dirtymap_queue_t *queue;
    dirtymap_write_t write;
    struct dirtymap_range area;
    uint64_t n, tag;
    (void)argc;
    int image = open(in(argv[1], "image"), O_RDWR | O_CREAT, 0600);
    CHECK(image >= 0 && ftruncate(image, GIB) == 0);
    OK(dirtymap_options_new(&options));

    for (int shared = 0; shared <= 1; shared++) {
        path = in(argv[1], shared ? "shared" : "alone");
        phase("create");
        OK(dirtymap_options_image(options, image));
        OK(dirtymap_options_access(options, shared ? DIRTYMAP_SHARED : DIRTYMAP_EXCLUSIVE));
        OK(dirtymap_create(path, GIB, options, &map));
        phase("close");
        OK(dirtymap_close_with_image(map, image));
        phase("open");
        OK(dirtymap_options_image(options, image));
        OK(dirtymap_open(path, options, &map));
        phase("set, region turns hot");
        for (uint64_t at = 0; at < GIB; at += 64 * MIB)
            OK(dirtymap_set(map, at, 1, NULL));
        phase("set, hot");
        for (uint64_t at = 0; at < GIB; at += 64 * MIB) {
            OK(dirtymap_set(map, at, 1, NULL));
            OK(dirtymap_set(map, at + 64 * KIB, 1, NULL));
            OK(dirtymap_begin_write(map, at, 4096, &write));
            OK(dirtymap_end_write(&write));
        }
        phase("read");
        dirtymap_cursor_init(&cursor, 0, DIRTYMAP_NONE);
        do {
            OK(dirtymap_cursor_next_extent(map, &cursor, &area));
        } while (area.count);
        OK(dirtymap_count(map, &n));
        phase("flush");
        OK(dirtymap_flush(map));
        phase("backup");
        OK(dirtymap_claim_backup(map));
        OK(dirtymap_freeze(map, "monday", &uuid));
        OK(dirtymap_frozen(map, &uuid, &frozen));
        OK(dirtymap_begin_backup(map, image));
        OK(dirtymap_commit_backup(map, &uuid, true, image, 0));
        dirtymap_free(frozen);
        phase("queue");
        OK(dirtymap_queue_new(map, &queue));
        for (uint64_t at = 32 * MIB; at < GIB; at += 64 * MIB) {
            area = (struct dirtymap_range){at, 4096};
            int code = dirtymap_queue_begin(queue, &area, 1, at, &write);
            while (code == DIRTYMAP_AGAIN) {
                struct pollfd poller = {dirtymap_queue_fd(queue), POLLIN, 0};
                code = dirtymap_queue_next(queue, &tag, &write);
                if (code == DIRTYMAP_AGAIN)
                    CHECK(poll(&poller, 1, -1) == 1);
            }
            OK(code);
            OK(dirtymap_end_write(&write));
        }
        dirtymap_queue_free(queue);
        phase("close");
        OK(dirtymap_close_with_image(map, image));
    }
    phase("end");
    dirtymap_options_free(options);
    close(image);
    return 0;
}
