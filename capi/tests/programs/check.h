/* What the test programs share: checks that say where they failed, and a directory of their own as the first argument. */
#ifndef CHECK_H
#define CHECK_H

#include "dirtymap.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(what)                                                                         \
    do {                                                                                    \
        if (!(what)) {                                                                      \
            fprintf(stderr, "%s:%d: not so: %s (last error: %s)\n", __FILE__, __LINE__, #what, \
                    dirtymap_error_message());                                              \
            abort();                                                                        \
        }                                                                                   \
    } while (0)

/* The call succeeds. */
#define OK(call) CHECK((call) == DIRTYMAP_OK)

/* The call fails with this code, and says why: not what another one has said before it. */
#define FAILS(call, code)                                                                              \
    do {                                                                                               \
        CHECK(dirtymap_publish(NULL) == DIRTYMAP_E_NULL);                                              \
        CHECK((call) == (code) && dirtymap_error_message()[0] != 0);                                   \
        CHECK((code) == DIRTYMAP_E_NULL || strcmp(dirtymap_error_message(), NO_FILE) != 0);            \
    } while (0)

/* What dirtymap_publish(NULL) says. */
#define NO_FILE "NULL was given for the file"

#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define GIB (1ull << 30)

/* A path in the directory of the program; one of eight that are good until it is called as often again. */
static inline const char *in(const char *directory, const char *name) {
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

/* A new map without a thread. */
static inline dirtymap_t *created(const char *path, uint64_t len) {
    dirtymap_t *map;
    OK(dirtymap_create(path, len, NULL, &map));
    return map;
}

static inline uint64_t counted(const dirtymap_t *map) {
    uint64_t count;
    OK(dirtymap_count(map, &count));
    return count;
}

#endif
