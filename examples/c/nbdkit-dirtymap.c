/*
 * An nbdkit plugin that serves a raw image, and tells a map of each write before it is done.
 *
 *     cc -shared -fPIC nbdkit-dirtymap.c -o nbdkit-dirtymap-plugin.so $(pkg-config --cflags --libs nbdkit dirtymap)
 *     nbdkit ./nbdkit-dirtymap-plugin.so image=disk.raw map=disk.map
 *
 * A map that is not there is made, all dirty. nbdkit brings TLS, rate limits and other filters; a backup goes by the map
 * meanwhile (backup.c, or `dirtymap backup`).
 */
#define NBDKIT_API_VERSION 2
#define _GNU_SOURCE
#include <dirtymap.h>
#include <errno.h>
#include <fcntl.h>
#include <nbdkit-plugin.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static char *image_path, *map_path;
static int image = -1;
static int64_t size;
static dirtymap_t *map;

/* 0, or -1 with the error of the library told. */
static int checked(int code) {
    if (code == 0)
        return 0;
    nbdkit_error("%s: %s", map_path, dirtymap_error_message());
    errno = code == DIRTYMAP_E_NO_SPACE ? ENOSPC : EIO;
    nbdkit_set_error(errno);
    return -1;
}

static int set_config(const char *key, const char *value) {
    char **path = strcmp(key, "image") == 0 ? &image_path : strcmp(key, "map") == 0 ? &map_path : NULL;
    if (path == NULL) {
        nbdkit_error("there is no parameter '%s'", key);
        return -1;
    }
    free(*path);
    *path = nbdkit_absolute_path(value);
    return *path == NULL ? -1 : 0;
}

static int config_complete(void) {
    if (image_path && map_path)
        return 0;
    nbdkit_error("image=FILE and map=FILE are needed");
    return -1;
}

static int open_image(void) {
    struct stat now;
    image = open(image_path, O_RDWR | O_CLOEXEC);
    if (image < 0 || fstat(image, &now) != 0) {
        nbdkit_error("%s: %m", image_path);
        return -1;
    }
    if (!S_ISREG(now.st_mode)) {
        nbdkit_error("%s is no regular file", image_path); /* the size of a device is not in st_size */
        return -1;
    }
    size = now.st_size;
    return 0;
}

/* Here and not before: a map is of the process that has opened it, and nbdkit forks. */
static int open_map(void) {
    dirtymap_options_t *options;
    if (checked(dirtymap_options_new(&options)) != 0)
        return -1;
    int code = dirtymap_options_image(options, image);
    if (code == 0)
        code = dirtymap_options_like(options, image);
    if (code == 0)
        code = dirtymap_options_access(options, DIRTYMAP_SHARED);
    if (code == 0)
        code = dirtymap_options_flush_interval(options, 30000);
    if (code == 0)
        code = dirtymap_open(map_path, options, &map);
    if (code == DIRTYMAP_E_NOT_FOUND) {
        code = dirtymap_options_dirty(options, true);
        if (code == 0)
            code = dirtymap_create(map_path, (uint64_t)size, options, &map);
    }
    dirtymap_options_free(options);
    if (checked(code) != 0)
        return -1;
    if (dirtymap_len(map) == (uint64_t)size)
        return 0;
    nbdkit_error("%s is of an image of another length", map_path);
    return -1;
}

static void close_map(void) {
    if (map && fsync(image) != 0)
        nbdkit_error("%s: sync: %m; its map is not closed", image_path);
    else if (map && checked(dirtymap_close_with_image(map, image)) == 0)
        map = NULL;
    /* What could not be closed is recovered when it is opened next. */
    dirtymap_free(map);
    map = NULL;
}

static void unload(void) {
    if (image >= 0)
        close(image);
    free(image_path);
    free(map_path);
}

static void *open_client(int readonly) {
    (void)readonly;
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t get_size(void *handle) {
    (void)handle;
    return size;
}

static int yes(void *handle) {
    (void)handle;
    return 1;
}

static int can_fua(void *handle) {
    (void)handle;
    return NBDKIT_FUA_EMULATE;
}

static int read_image(void *handle, void *buffer, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle, (void)flags;
    for (uint32_t done = 0; done < count;) {
        ssize_t got = pread(image, (char *)buffer + done, count - done, (off_t)(offset + done));
        if (got <= 0) {
            if (got == 0)
                errno = EIO; /* somebody has cut the image off */
            nbdkit_error("%s: read: %m", image_path);
            return -1;
        }
        done += (uint32_t)got;
    }
    return 0;
}

static int write_image(void *handle, const void *buffer, uint32_t count, uint64_t offset, uint32_t flags) {
    dirtymap_write_t write;
    (void)handle, (void)flags;
    if (checked(dirtymap_begin_write(map, offset, count, &write)) != 0)
        return -1; /* and nothing is written */
    int result = 0;
    for (uint32_t done = 0; done < count && result == 0;) {
        ssize_t written = pwrite(image, (const char *)buffer + done, count - done, (off_t)(offset + done));
        if (written < 0) {
            nbdkit_error("%s: write: %m", image_path);
            result = -1;
        } else {
            done += (uint32_t)written;
        }
    }
    return checked(dirtymap_end_write(&write)) != 0 ? -1 : result;
}

/* Zeros and trims, by fallocate. If the file system has no such thing, nbdkit writes zeros, by the function above. */
static int punch(int mode, uint32_t count, uint64_t offset) {
    dirtymap_write_t write;
    if (checked(dirtymap_begin_write(map, offset, count, &write)) != 0)
        return -1;
    int result = fallocate(image, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)count), error = errno;
    if (checked(dirtymap_end_write(&write)) != 0)
        return -1;
    if (result != 0)
        nbdkit_set_error(error == ENOTSUP || error == EOPNOTSUPP ? EOPNOTSUPP : error);
    errno = error;
    return result;
}

static int zero_image(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle;
    return punch(flags & NBDKIT_FLAG_MAY_TRIM ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE, count, offset);
}

static int trim_image(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
    (void)handle, (void)flags;
    /* A trim is a wish: where the file system has no holes, the data stays. */
    int result = punch(FALLOC_FL_PUNCH_HOLE, count, offset);
    return result != 0 && (errno == ENOTSUP || errno == EOPNOTSUPP) ? 0 : result;
}

static int flush_image(void *handle, uint32_t flags) {
    (void)handle, (void)flags;
    if (fdatasync(image) == 0)
        return 0;
    nbdkit_error("%s: sync: %m", image_path);
    return -1;
}

static struct nbdkit_plugin plugin = {
    .name = "dirtymap",
    .longname = "a raw image whose writes are tracked",
    .config = set_config,
    .config_complete = config_complete,
    .config_help = "image=FILE  (required) The image.\nmap=FILE    (required) Its map, made if it is not there.",
    .get_ready = open_image,
    .after_fork = open_map,
    .cleanup = close_map,
    .unload = unload,
    .open = open_client,
    .get_size = get_size,
    .can_multi_conn = yes,
    .can_fua = can_fua,
    .pread = read_image,
    .pwrite = write_image,
    .zero = zero_image,
    .trim = trim_image,
    .flush = flush_image,
    .errno_is_preserved = 1,
};

NBDKIT_REGISTER_PLUGIN(plugin)
