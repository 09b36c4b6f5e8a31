/*
 * A tracked write: the map is told first, then the image is written.
 *
 *     cc tracker.c -o tracker $(pkg-config --cflags --libs dirtymap)
 *     truncate -s 1G disk.raw
 *     echo hello | ./tracker disk.raw disk.map 4096
 */
#include <dirtymap.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Ends the program unless a call has succeeded. What was acknowledged stays: the next open recovers the map. */
static void check(int code, const char *what) {
    if (code != 0)
        errx(1, "%s: %s (%s)", what, dirtymap_error_message(), dirtymap_error_kind(code));
}

/* Opens the map of an image, or makes one that begins all dirty, so that the first backup copies everything. */
static dirtymap_t *map_of(int image, const char *path) {
    dirtymap_options_t *options;
    dirtymap_t *map;
    struct dirtymap_recovery found;
    check(dirtymap_options_new(&options), "options");
    check(dirtymap_options_image(options, image), "image");
    check(dirtymap_options_like(options, image), "image");
    check(dirtymap_options_access(options, DIRTYMAP_SHARED), "access"); /* a backup may run meanwhile */
    int code = dirtymap_open(path, options, &map);
    if (code == DIRTYMAP_E_NOT_FOUND) {
        struct stat now;
        if (fstat(image, &now) != 0)
            err(1, "fstat");
        check(dirtymap_options_dirty(options, true), "dirty");
        code = dirtymap_create(path, (uint64_t)now.st_size, options, &map);
    }
    check(code, "open");
    dirtymap_options_free(options);
    check(dirtymap_recovery(map, &found, sizeof found), "recovery");
    if (found.image_changed)
        fprintf(stderr, "everything is dirty: %s\n", found.why_image_changed);
    return map;
}

/* Writes all of it. Whatever part of it was written is marked already. */
static void write_all(int image, const char *data, size_t size, off_t at) {
    while (size > 0) {
        ssize_t written = pwrite(image, data, size, at);
        if (written < 0)
            err(1, "pwrite");
        data += written, size -= (size_t)written, at += written;
    }
}

int main(int argc, char **argv) {
    static char data[65536];
    dirtymap_write_t write;
    uint64_t dirty;
    ssize_t size;
    if (argc != 4)
        errx(2, "usage: tracker IMAGE MAP OFFSET < DATA");
    char *end;
    errno = 0;
    uint64_t at = strtoull(argv[3], &end, 0);
    if (errno != 0 || end == argv[3] || *end != 0 || argv[3][0] == '-')
        errx(2, "%s is no offset", argv[3]);
    int image = open(argv[1], O_RDWR);
    if (image < 0)
        err(1, "%s", argv[1]);
    dirtymap_t *map = map_of(image, argv[2]);

    while ((size = read(STDIN_FILENO, data, sizeof data)) > 0) {
        /* First this: on an error the data must not be written. */
        check(dirtymap_begin_write(map, at, (uint64_t)size, &write), "begin_write");
        write_all(image, data, (size_t)size, (off_t)at);
        check(dirtymap_end_write(&write), "end_write");
        at += (uint64_t)size;
    }
    if (size < 0)
        err(1, "read");
    check(dirtymap_dirty_len(map, &dirty), "dirty_len");
    printf("%" PRIu64 " of %" PRIu64 " bytes are dirty\n", dirty, dirtymap_len(map));

    /* So that the map knows the image again, also after a power cut. */
    if (fsync(image) != 0)
        err(1, "fsync");
    check(dirtymap_close_with_image(map, image), "close");
    return 0;
}
