/*
 * An incremental backup: copies what was written since the last one to a target, while others go on writing.
 *
 *     cc backup.c -o backup $(pkg-config --cflags --libs dirtymap)
 *     ./backup disk.raw disk.map backup.raw
 */
#include <dirtymap.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

static void check(int code, const char *what) {
    if (code != 0)
        errx(1, "%s: %s (%s)", what, dirtymap_error_message(), dirtymap_error_kind(code));
}

static dirtymap_t *opened(int image, const char *path) {
    dirtymap_options_t *options;
    dirtymap_t *map;
    check(dirtymap_options_new(&options), "options");
    check(dirtymap_options_image(options, image), "image");
    check(dirtymap_options_access(options, DIRTYMAP_SHARED), "access");
    check(dirtymap_options_wait(options, 10000), "wait");
    check(dirtymap_open(path, options, &map), "open");
    dirtymap_options_free(options);
    return map;
}

/* Copies the work list; -1 if that fails. */
static int copy(const dirtymap_t *work, int image, int target, uint64_t *copied) {
    static char buffer[1 << 20];
    dirtymap_cursor_t cursor;
    struct dirtymap_range area;
    /* What is forgotten here may not be lost there: by a power cut the image would fall behind its copy. */
    if (fsync(image) != 0 || ftruncate(target, (off_t)dirtymap_len(work)) != 0)
        return -1;
    dirtymap_cursor_init(&cursor, 0, DIRTYMAP_NONE);
    for (;;) {
        check(dirtymap_cursor_next_extent(work, &cursor, &area), "next_extent");
        if (area.count == 0)
            return fsync(target);
        for (uint64_t done = 0; done < area.count;) {
            size_t part = area.count - done < sizeof buffer ? (size_t)(area.count - done) : sizeof buffer;
            ssize_t got = pread(image, buffer, part, (off_t)(area.start + done));
            /* A write that goes on here meanwhile is dirty for the next backup. */
            ssize_t put = got > 0 ? pwrite(target, buffer, (size_t)got, (off_t)(area.start + done)) : got;
            if (put == 0)
                errno = ENODATA; /* the image ends before its map */
            if (put <= 0)
                return -1;
            done += (uint64_t)put, *copied += (uint64_t)put;
        }
    }
}

int main(int argc, char **argv) {
    dirtymap_t *work;
    struct dirtymap_checkpoint left;
    dirtymap_uuid_t frozen;
    uint32_t same;
    uint64_t copied = 0;
    if (argc != 4)
        errx(2, "usage: backup IMAGE MAP TARGET");
    int image = open(argv[1], O_RDONLY), target = open(argv[3], O_RDWR | O_CREAT, 0600);
    if (image < 0 || target < 0)
        err(1, "%s", argv[image < 0 ? 1 : 3]);
    dirtymap_t *map = opened(image, argv[2]);

    /* One backup at a time: so an outstanding checkpoint is of one that died. */
    check(dirtymap_claim_backup(map), "claim_backup");
    check(dirtymap_checkpoint(map, &left, sizeof left), "checkpoint");
    if (left.state != DIRTYMAP_NO_CHECKPOINT)
        check(dirtymap_abort(map, &left.uuid), "abort");
    /* Is this what the last backup wrote? If not, or if nothing proves it (a reboot), all of it is copied. */
    check(dirtymap_compare(map, DIRTYMAP_TARGET, target, &same), "compare");
    if (same != DIRTYMAP_SAME)
        check(dirtymap_set_all(map, NULL), "set_all");

    check(dirtymap_freeze(map, NULL, &frozen), "freeze");
    check(dirtymap_frozen(map, &frozen, &work), "frozen");
    check(dirtymap_begin_backup(map, target), "begin_backup");
    if (copy(work, image, target, &copied) != 0) {
        warn("copy");
        check(dirtymap_abort(map, &frozen), "abort");
        return 1;
    }
    check(dirtymap_commit_backup(map, &frozen, false, target, 0), "commit_backup");
    printf("copied %" PRIu64 " of %" PRIu64 " bytes\n", copied, dirtymap_len(map));
    dirtymap_free(work);
    /* Without the image: who writes it says what it is like. */
    check(dirtymap_close(map), "close");
    return 0;
}
