/*
 * dirtymap: which blocks of a disk image were written since the last backup, surviving any crash.
 *
 *     dirtymap_t *map;
 *     if (dirtymap_open("disk.map", NULL, &map) != 0)
 *         errx(1, "%s", dirtymap_error_message());
 *     dirtymap_write_t write;
 *     if (dirtymap_begin_write(map, 4096, 4096, &write) != 0)   // first this; on an error do not write
 *         errx(1, "%s", dirtymap_error_message());
 *     ssize_t written = pwrite(image, data, 4096, 4096);        // then that
 *     dirtymap_end_write(&write);                               // whether it succeeded or not
 *     if (written != 4096)
 *         err(1, "pwrite");
 *     if (dirtymap_close(map) != 0)
 *         errx(1, "%s", dirtymap_error_message());
 *
 * A tracker makes the map with dirtymap_create(), all dirty (dirtymap_options_dirty()), and opens it
 * afterwards; DIRTYMAP_E_NOT_FOUND says that there is none yet. It calls dirtymap_begin_write() before each
 * write and dirtymap_end_write() after it. A plain dirtymap_set() instead is right only where no freeze can
 * begin before the write has ended. With dirtymap_options_image() the map finds out what was written without
 * it. Then close with dirtymap_close_with_image().
 *
 * A backup, also while others write; a process of its own opens the map as they do, with DIRTYMAP_SHARED:
 *
 *     dirtymap_claim_backup(map)                  no other backup runs now
 *     dirtymap_checkpoint(map, &left, size)       one that is there is of a backup that died: dirtymap_abort()
 *     dirtymap_compare(map, DIRTYMAP_TARGET, target, &same)
 *                                                 not DIRTYMAP_SAME: dirtymap_set_all(), all of it is copied
 *     dirtymap_freeze(map, NULL, &checkpoint)     waits for the writes that have begun
 *     fsync(image)                                what is forgotten here may not be lost there
 *     dirtymap_begin_backup(map, target)          before the target is changed
 *     ftruncate(target, dirtymap_len(map))        it may be longer
 *     dirtymap_frozen(map, &checkpoint, &set)     what to copy, by dirtymap_cursor_next_extent()
 *     fsync(target)                               when it is copied
 *     dirtymap_commit_backup(map, &checkpoint, false, target, 0)
 *                                                 dirtymap_abort(), if anything has failed
 *     dirtymap_close_with_image(map, image)       if the map was opened with the image (dirtymap_options_image()),
 *                                                 and only trackers have written that since. Else dirtymap_close():
 *                                                 an image that was found changed is found so again
 *
 * Errors. A function that returns int returns 0, or a positive code (enum dirtymap_error) that never changes
 * its meaning. Then dirtymap_error_message() says for this thread what was found and what to do. After an
 * error nothing has changed, and no answer was written, unless the function says otherwise. A place for a
 * write is zeros then, which are none.
 *
 * Arguments. Positions, lengths and counts are in items: bytes, for a disk image. A range is a start and a
 * count. What reads cuts a range off at the end of the map; what changes the map refuses one that reaches
 * past it. A bit stands for a granule of items, a power of two. An answer that is not wanted may be NULL
 * where that is said. Paths are any bytes; labels and names are UTF-8.
 *
 * Threads. A map in a file may be used by any number of threads at once, but for what is marked "alone": no
 * other call with the same handle may run meanwhile. A map in memory (dirtymap_new, and whatever is a copy) is
 * like any variable: many may read it, or one may change it. A set (dirtymap_frozen, dirtymap_since) never
 * changes, and may outlive its map. Queues and reports: see there. Other processes may share a map:
 * DIRTYMAP_SHARED. What is below of writes under way, checkpoints, backups and of what is known of a map is of
 * maps in files.
 *
 * Forks. A child must not use a map in a file that it has inherited, or a queue: every call returns
 * DIRTYMAP_E_UNUSABLE. dirtymap_free() only frees memory there, dirtymap_queue_free() forgets the queue and
 * leaves its descriptor open, dirtymap_end_write() ends nothing and returns 0; length, granule and sets stay
 * known. It opens its own. A child that goes on without exec keeps the locks of a parent that has died.
 *
 * What may wait. For a device sync: whatever makes, opens, changes or closes a map in a file, but for
 * dirtymap_queue_begin(). For other processes: what takes a lock that they hold, as long as the options say.
 * For writes: a freeze. For the clock, 25 milliseconds as a rule and 2.5 seconds at most, until the times of a
 * file that was just written can tell a later write: what looks at an image or a target (making and opening a
 * map by options with dirtymap_options_image(); dirtymap_close_with_image(), dirtymap_begin_backup(),
 * dirtymap_commit_backup(), dirtymap_complete_backup(), dirtymap_bind_image(), dirtymap_compare()). For a
 * thread of the map, if it has one: closing, and whichever call frees the map at last, which may be
 * dirtymap_queue_free() or dirtymap_end_write().
 *
 * What runs on its own: nothing. No thread, unless a flush interval is asked for or a queue has something to
 * wait for, and then one that takes no signals; no signal handler and no atexit. A call that a signal
 * interrupts goes on.
 *
 * A bug in the library that would end the process becomes DIRTYMAP_E_PANIC instead. The handle is of no use
 * afterwards (DIRTYMAP_E_POISONED) but to be freed; nothing that was acknowledged is lost, and the map can be
 * opened again. Memory by the length of a map that cannot be had is DIRTYMAP_E_OUT_OF_MEMORY; a lack of a few
 * MiB aborts the process.
 */
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

/* No position, and "not known" among numbers. No map is as long. */
#define DIRTYMAP_NONE UINT64_MAX

/* A map: in a file, in memory, or a set that stays as it is. */
typedef struct dirtymap dirtymap_t;

/* How to create and open a map. */
typedef struct dirtymap_options dirtymap_options_t;

/* A file that has no name yet. */
typedef struct dirtymap_new_file dirtymap_new_file_t;

/* Writes that begin without a wait. */
typedef struct dirtymap_queue dirtymap_queue_t;

/* What a check found, or what a repair does. */
typedef struct dirtymap_report dirtymap_report_t;

/* The identity of a map or checkpoint. */
typedef struct dirtymap_uuid {
    uint8_t bytes[16];
} dirtymap_uuid_t;

/* count items from start on. */
struct dirtymap_range {
    uint64_t start;
    uint64_t count;
};

/* A place in a map: plain data without pointers, for the stack. It may be copied and thrown away. It begins
 * with dirtymap_cursor_init(), or as zeros, which are at the end; no other bytes are a cursor. */
typedef struct dirtymap_cursor {
    uint64_t opaque[8];
} dirtymap_cursor_t;

/* A data write under way, kept by the caller. It may be moved, but must be ended once only. Zeros are none, and
 * are what a call leaves that has begun none. Whatever begins a write overwrites what was there. */
typedef struct dirtymap_write {
    uint64_t opaque[8];
} dirtymap_write_t;

/* ---------------------------------------------------------------------------------------------- errors */

enum dirtymap_error {
    DIRTYMAP_OK = 0,
    DIRTYMAP_E_OUT_OF_RANGE = 1,      /* a range or item is not in the map */
    DIRTYMAP_E_UNALIGNED = 2,         /* a granule, or a chunk, is covered only in part */
    DIRTYMAP_E_GEOMETRY = 3,          /* no map can have this length or granule */
    DIRTYMAP_E_NOT_SERIALIZABLE = 4,  /* the granule is too large to save a map in chunks */
    DIRTYMAP_E_CHUNK_SIZE = 5,        /* a chunk has another size than its range asks for */
    DIRTYMAP_E_STRAY_BITS = 6,        /* a chunk has bits behind the end of the map */
    DIRTYMAP_E_ZERO_LENGTH = 7,       /* max_count is 0 */
    DIRTYMAP_E_MISMATCH = 8,          /* two maps differ in length, or in granule */
    DIRTYMAP_E_OUT_OF_MEMORY = 9,
    DIRTYMAP_E_IO = 10,               /* the system refused something: dirtymap_error_errno() */
    DIRTYMAP_E_NOT_FOUND = 11,
    DIRTYMAP_E_PERMISSION = 12,
    DIRTYMAP_E_NO_SPACE = 13,
    DIRTYMAP_E_IS_A_DIRECTORY = 14,
    DIRTYMAP_E_NOT_A_DIRTYMAP = 15,
    DIRTYMAP_E_UNSUPPORTED = 16,      /* a later version has written the file */
    DIRTYMAP_E_CORRUPT = 17,
    DIRTYMAP_E_LOCKED = 18,           /* another process has it; dirtymap_error_cause() says what */
    DIRTYMAP_E_EXISTS = 19,
    DIRTYMAP_E_READ_ONLY = 20,
    DIRTYMAP_E_UNUSABLE = 21,         /* free the handle and open the map again */
    DIRTYMAP_E_OUTSTANDING = 22,      /* a checkpoint is outstanding */
    DIRTYMAP_E_NO_CHECKPOINT = 23,
    DIRTYMAP_E_NO_POINT = 24,
    DIRTYMAP_E_BUSY = 25,             /* writes did not end in time */
    DIRTYMAP_E_INTERRUPTED = 26,      /* the progress function had it stopped */
    DIRTYMAP_E_REFUSED = 27,          /* not here; the message says what to do instead */
    DIRTYMAP_E_NULL = 100,            /* NULL was given where that means nothing */
    DIRTYMAP_E_TEXT = 101,            /* a text is not UTF-8 */
    DIRTYMAP_E_WRONG_KIND = 102,      /* a map of another kind can do that */
    DIRTYMAP_E_LOADING = 103,         /* the map is being loaded */
    DIRTYMAP_E_IN_USE = 104,          /* writes have not ended, or a queue is not freed */
    DIRTYMAP_E_NO_WRITE = 105,        /* there is no write to be ended */
    DIRTYMAP_E_ARGUMENT = 106,        /* a number that means nothing here */
    DIRTYMAP_E_PANIC = 107,           /* a bug of this library */
    DIRTYMAP_E_POISONED = 108,        /* the handle met one before */
    DIRTYMAP_AGAIN = 109              /* no error: nothing is ready yet */
};

/* What the last error of this thread says: never NULL, and as it is until the next error of this thread. */
const char *dirtymap_error_message(void);

/* The name of a code, for instance "out-of-range", which never changes either. Never NULL. */
const char *dirtymap_error_kind(int code);

/* The cause of the last error of this thread within its kind, for DIRTYMAP_E_LOCKED, DIRTYMAP_E_CORRUPT,
 * DIRTYMAP_E_UNUSABLE and DIRTYMAP_E_REFUSED; 0 for others. docs/c.md has the numbers. */
uint32_t dirtymap_error_cause(void);

/* What the system said in the last error of this thread, as errno has it; 0 if it was not the system. */
int dirtymap_error_errno(void);

/* The version of this library, for instance "0.1.0". */
const char *dirtymap_version(void);

/* --------------------------------------------------------------------------------------------- options */

enum dirtymap_access {
    DIRTYMAP_EXCLUSIVE = 0,  /* for writing, alone */
    DIRTYMAP_SHARED = 1,     /* for writing, with up to 256 others who open it so */
    DIRTYMAP_READ_ONLY = 2   /* for reading; what those who share the map set is seen */
};

enum dirtymap_durability {
    DIRTYMAP_POWER_LOSS = 1,  /* survives everything */
    DIRTYMAP_PROCESS = 2      /* survives the death of processes; everything is dirty after anything worse */
};

/* What long work is busy with. */
enum dirtymap_step {
    DIRTYMAP_STEP_OTHER = 0,
    DIRTYMAP_STEP_CREATING = 1,
    DIRTYMAP_STEP_OPENING = 2,
    DIRTYMAP_STEP_RECOVERING = 3,
    DIRTYMAP_STEP_SETTING = 4,
    DIRTYMAP_STEP_RESETTING = 5,
    DIRTYMAP_STEP_FREEZING = 6,
    DIRTYMAP_STEP_WAITING = 7,  /* a freeze, for writes; done and total are seconds */
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

/* Told how far long work is, from whichever thread does it. Anything but 0 ends the work with
 * DIRTYMAP_E_INTERRUPTED, and nothing is lost. It must not call this library, whose locks are held, but for
 * dirtymap_error_message() and its like; and it must return, and not by longjmp or an exception. */
typedef int (*dirtymap_progress_fn)(const struct dirtymap_progress *progress, void *opaque);

/* Options with the defaults, to be changed by the functions below. They are not looked at any more once a map
 * is open. */
DIRTYMAP_CHECKED int dirtymap_options_new(dirtymap_options_t **options);

/* Frees options. NULL is nothing. */
void dirtymap_options_free(dirtymap_options_t *options);

/* Items behind each bit, a power of two: 65536 by default. For creating. */
DIRTYMAP_CHECKED int dirtymap_options_granule(dirtymap_options_t *options, uint64_t items);

/* Text that is kept in the file, at most 252 bytes: creating refuses a longer one. For creating. */
DIRTYMAP_CHECKED int dirtymap_options_label(dirtymap_options_t *options, const char *label);

/* What the map survives: DIRTYMAP_POWER_LOSS by default. For creating. */
DIRTYMAP_CHECKED int dirtymap_options_durability(dirtymap_options_t *options, uint32_t durability);

/* Whether a new map begins all dirty: not by default. For creating. */
DIRTYMAP_CHECKED int dirtymap_options_dirty(dirtymap_options_t *options, bool dirty);

/* Why a new map may say more than was written, as a sum of bits (docs/c.md): nothing by default. For creating. */
DIRTYMAP_CHECKED int dirtymap_options_added_dirt(dirtymap_options_t *options, uint32_t reasons);

/* The image that the map belongs to, by a descriptor that has to be open whenever the options are used: it is
 * looked at then, each time. A new map records it. Opening compares it: if it is another one, or was changed
 * since the map was closed, everything becomes dirty (dirtymap_recovery() says so). Of those who share a map,
 * the first that has the image compares its times, and later ones all else: the others write to it. */
DIRTYMAP_CHECKED int dirtymap_options_image(dirtymap_options_t *options, int fd);

/* Has a new map the owner, group and mode of this file, as far as that is allowed; by default only the owner
 * may use it. */
DIRTYMAP_CHECKED int dirtymap_options_like(dirtymap_options_t *options, int fd);

/* Who else may have the map open: DIRTYMAP_EXCLUSIVE by default. */
DIRTYMAP_CHECKED int dirtymap_options_access(dirtymap_options_t *options, uint32_t access);

/* Most items that a crash may make dirty because they were armed: a sixteenth of the map by default, at least
 * 32 GiB. */
DIRTYMAP_CHECKED int dirtymap_options_armed_bound(dirtymap_options_t *options, uint64_t items);

/* How many items of what the last checkpoint has frozen stay armed. DIRTYMAP_NONE, the default: up to four
 * times what was frozen. 0: none. */
DIRTYMAP_CHECKED int dirtymap_options_intent_bound(dirtymap_options_t *options, uint64_t items);

/* How often a thread of the map flushes it. 0, the default: there is no thread, and the caller flushes now and
 * then, so that a crash does not make dirty what is no longer written. 30000 is a good choice. */
DIRTYMAP_CHECKED int dirtymap_options_flush_interval(dirtymap_options_t *options, uint64_t milliseconds);

/* How long opening waits for somebody else who has the map: not at all by default. */
DIRTYMAP_CHECKED int dirtymap_options_wait(dirtymap_options_t *options, uint64_t milliseconds);

/* How long a freeze waits for writes that had begun before it: 60000 by default. */
DIRTYMAP_CHECKED int dirtymap_options_freeze_timeout(dirtymap_options_t *options, uint64_t milliseconds);

/* How long a call waits for a lock that another process holds: 30000 by default. */
DIRTYMAP_CHECKED int dirtymap_options_lock_timeout(dirtymap_options_t *options, uint64_t milliseconds);

/* Whether data writes of this process may reach the image after its death, as with a remote device: not by
 * default. */
DIRTYMAP_CHECKED int dirtymap_options_writes_outlive(dirtymap_options_t *options, bool outlive);

/* Whether to open a map for writing while a snapshot is outstanding in it (dirtymap_freeze_snapshot()): not by
 * default, but DIRTYMAP_E_OUTSTANDING. For a program that goes on with the snapshot, ends it, or does not write
 * the image. */
DIRTYMAP_CHECKED int dirtymap_options_beside_snapshot(dirtymap_options_t *options, bool beside);

/* Who is told how far long work is: nobody by default. The function is called as long as the map is open. */
DIRTYMAP_CHECKED int dirtymap_options_progress(dirtymap_options_t *options, dirtymap_progress_fn told,
                                               void *opaque);

/* ---------------------------------------------------------------------------- making, opening, closing */

/* A clean map in memory, of len items. */
DIRTYMAP_CHECKED int dirtymap_new(uint64_t len, uint64_t granule, dirtymap_t **map);

/* Makes a map of len items in a new file and opens it for writing. The name appears when the file is complete
 * and durable. options may be NULL for the defaults, here and below. */
DIRTYMAP_CHECKED int dirtymap_create(const char *path, uint64_t len, const dirtymap_options_t *options,
                                     dirtymap_t **map);

/* The same, but the map is not opened. */
DIRTYMAP_CHECKED int dirtymap_create_closed(const char *path, uint64_t len, const dirtymap_options_t *options);

/* As dirtymap_create(), but the name appears only by dirtymap_publish(), for a map that is to be filled and
 * closed before. */
DIRTYMAP_CHECKED int dirtymap_create_unpublished(const char *path, uint64_t len,
                                                 const dirtymap_options_t *options, dirtymap_t **map,
                                                 dirtymap_new_file_t **file);

/* Gives a new file its name. The file is given back, also after an error: then there is no such map. */
DIRTYMAP_CHECKED int dirtymap_publish(dirtymap_new_file_t *file);

/* Gives a new file up. NULL is nothing. */
void dirtymap_discard(dirtymap_new_file_t *file);

/* Opens the map in a file, after recovering it if need be. */
DIRTYMAP_CHECKED int dirtymap_open(const char *path, const dirtymap_options_t *options, dirtymap_t **map);

/* Flushes a map, leaves its file clean, and frees the handle; the last one to close a shared map does that.
 * After an error the map is open as before, to be closed again or to be freed. DIRTYMAP_E_IN_USE while writes
 * have not ended or queues are not freed. For maps in memory and sets it is dirtymap_free(). Alone. */
DIRTYMAP_CHECKED int dirtymap_close(dirtymap_t *map);

/* The same, and records the image as it is now, by a descriptor, for a map that belongs to an image: after the
 * last tracked write, and after fsync if it is to match after a power cut. Only if the map was opened with the
 * image (dirtymap_options_image()) and nothing has written that untracked since: no later open would notice. A
 * plain close keeps what was recorded before. After tracked writes, or where the image was found changed, every
 * later open finds it changed, and all is dirty; after a recovery no times are recorded, and the next open does
 * not notice untracked writes. Alone. */
DIRTYMAP_CHECKED int dirtymap_close_with_image(dirtymap_t *map, int image);

/* Frees a handle without closing the map, which loses nothing: the next open recovers it. As long as a write of
 * it has not ended, or a queue is not freed, only the handle is gone: the file stays locked, a thread of the
 * map goes on, and the progress function may still be called. NULL is nothing. Alone. */
void dirtymap_free(dirtymap_t *map);

/* A copy in memory of any map. */
DIRTYMAP_CHECKED int dirtymap_copy(const dirtymap_t *map, dirtymap_t **copy);

/* Length in items. 0 for NULL. */
uint64_t dirtymap_len(const dirtymap_t *map);

/* Items behind each bit. 0 for NULL. */
uint64_t dirtymap_granule(const dirtymap_t *map);

/* Changes the length. New granules are clean, unless the target that was recorded is longer than the
 * map was; bits past the end are forgotten. The handle stays. A map in a
 * file must not be open elsewhere, and no checkpoint outstanding. If writing the header fails, the map is
 * DIRTYMAP_E_UNUSABLE. Alone. */
DIRTYMAP_CHECKED int dirtymap_truncate(dirtymap_t *map, uint64_t len);

/* --------------------------------------------------------------------------------------------- writing */

/* Marks every granule that the range touches; changed, which may be NULL, is how many were clean. When it has
 * returned 0, no crash takes that back. After an error do not write the data; some granules may be marked.
 * Right before a data write only where no freeze can begin before the write has ended: a backup would take the
 * mark and not the data, and the next one would not copy it. Else dirtymap_begin_write().
 * Costs one memory load where everything is marked and flushed, and a device sync where a region turns hot. */
DIRTYMAP_CHECKED int dirtymap_set(dirtymap_t *map, uint64_t start, uint64_t count, uint64_t *changed);

/* The same for n ranges, which cost one sync together. For data writes beside a backup:
 * dirtymap_begin_writes(). */
DIRTYMAP_CHECKED int dirtymap_set_ranges(dirtymap_t *map, const struct dirtymap_range *ranges, size_t n,
                                         uint64_t *changed);

/* Marks everything. */
DIRTYMAP_CHECKED int dirtymap_set_all(dirtymap_t *map, uint64_t *changed);

/* Clears whole granules; changed, which may be NULL, is how many were dirty. DIRTYMAP_E_UNALIGNED if one is
 * covered only in part, since that would forget dirt. Only for data whose copy is durable. Durable after
 * dirtymap_flush(); a crash before that brings the dirt back. What a checkpoint has frozen stays dirty. */
DIRTYMAP_CHECKED int dirtymap_reset(dirtymap_t *map, uint64_t start, uint64_t count, uint64_t *changed);

/* Clears the granules that lie wholly in the range; the last one counts as whole when the range reaches the
 * end. */
DIRTYMAP_CHECKED int dirtymap_reset_within(dirtymap_t *map, uint64_t start, uint64_t count, uint64_t *changed);

/* Clears every granule that the range touches. LOSES DIRT: what was written beside the range in the granules
 * at its ends is forgotten with it. */
DIRTYMAP_CHECKED int dirtymap_reset_covering(dirtymap_t *map, uint64_t start, uint64_t count,
                                             uint64_t *changed);

/* Clears everything. */
DIRTYMAP_CHECKED int dirtymap_reset_all(dirtymap_t *map, uint64_t *changed);

/* Makes resets durable, and what is set exact after a crash. After an error nothing is lost, and it can be
 * tried again. */
DIRTYMAP_CHECKED int dirtymap_flush(dirtymap_t *map);

/* As dirtymap_set(), and says that a data write has begun. A freeze waits until it has ended, by
 * dirtymap_end_write(), in any thread. */
DIRTYMAP_CHECKED int dirtymap_begin_write(dirtymap_t *map, uint64_t start, uint64_t count,
                                          dirtymap_write_t *write);

/* The same for n ranges, or for n writes that end together. */
DIRTYMAP_CHECKED int dirtymap_begin_writes(dirtymap_t *map, const struct dirtymap_range *ranges, size_t n,
                                           dirtymap_write_t *write);

/* The data write has ended, whether it succeeded or not. DIRTYMAP_E_NO_WRITE if it had ended already. */
int dirtymap_end_write(dirtymap_write_t *write);

/* ---------------------------------------------------------------------------- writing in an event loop */

/* A queue of writes that begin without a wait, for a map in a file. Any thread may use it. Free it before the
 * map is closed. */
DIRTYMAP_CHECKED int dirtymap_queue_new(dirtymap_t *map, dirtymap_queue_t **queue);

/* A descriptor (an eventfd) to poll for reading: readable when dirtymap_queue_next() may have something. It
 * stays the queue's. -1 for NULL. */
int dirtymap_queue_fd(const dirtymap_queue_t *queue);

/* As dirtymap_begin_writes(), and never waits. 0: the write has begun, and the data may be written; no system
 * call was made. DIRTYMAP_AGAIN: a thread of the map syncs, for all that wait at once; dirtymap_queue_next()
 * gives the write later, with this tag. */
DIRTYMAP_CHECKED int dirtymap_queue_begin(dirtymap_queue_t *queue, const struct dirtymap_range *ranges,
                                          size_t n, uint64_t tag, dirtymap_write_t *write);

/* Takes one that is ready. 0: tag is whose, and the write has begun. DIRTYMAP_AGAIN: none is; poll the
 * descriptor. Any other code: the one of this tag has failed, and its data must not be written; where none was
 * taken, as with DIRTYMAP_E_NULL and DIRTYMAP_E_PANIC, tag is DIRTYMAP_NONE. */
DIRTYMAP_CHECKED int dirtymap_queue_next(dirtymap_queue_t *queue, uint64_t *tag, dirtymap_write_t *write);

/* Frees a queue. What still waits there is given up; some of it may be marked. NULL is nothing. Alone. */
void dirtymap_queue_free(dirtymap_queue_t *queue);

/* --------------------------------------------------------------------------------------------- reading */

/* Whether the granule of an item is dirty. DIRTYMAP_E_OUT_OF_RANGE for an item behind the end. */
DIRTYMAP_CHECKED int dirtymap_get(const dirtymap_t *map, uint64_t item, bool *dirty);

/* How many granules are dirty. */
DIRTYMAP_CHECKED int dirtymap_count(const dirtymap_t *map, uint64_t *granules);

/* How many items they have; the last granule may be a part. */
DIRTYMAP_CHECKED int dirtymap_dirty_len(const dirtymap_t *map, uint64_t *items);

/* How many dirty granules the range touches. */
DIRTYMAP_CHECKED int dirtymap_count_range(const dirtymap_t *map, uint64_t start, uint64_t count,
                                          uint64_t *granules);

/* Whether nothing is dirty. */
DIRTYMAP_CHECKED int dirtymap_is_empty(const dirtymap_t *map, bool *empty);

/* Whether everything is dirty. */
DIRTYMAP_CHECKED int dirtymap_is_full(const dirtymap_t *map, bool *full);

/* Whether any item of the range is dirty; not of an empty one. */
DIRTYMAP_CHECKED int dirtymap_any(const dirtymap_t *map, uint64_t start, uint64_t count, bool *any);

/* Whether all items of the range are dirty; so are those of an empty one. */
DIRTYMAP_CHECKED int dirtymap_all(const dirtymap_t *map, uint64_t start, uint64_t count, bool *all);

/* The first dirty item of the range, or DIRTYMAP_NONE. */
DIRTYMAP_CHECKED int dirtymap_next_dirty(const dirtymap_t *map, uint64_t start, uint64_t count, uint64_t *item);

/* The first clean item of the range, or DIRTYMAP_NONE. */
DIRTYMAP_CHECKED int dirtymap_next_clean(const dirtymap_t *map, uint64_t start, uint64_t count, uint64_t *item);

/* The first dirty area of the range, cut off at max_count items and at the ends of the range. If there is
 * none, its count is 0. */
DIRTYMAP_CHECKED int dirtymap_next_extent(const dirtymap_t *map, uint64_t start, uint64_t count,
                                          uint64_t max_count, struct dirtymap_range *extent);

/* Whether the range starts dirty, and how many of its items are so, or clean, from there on; 0 for an empty
 * one. */
DIRTYMAP_CHECKED int dirtymap_run(const dirtymap_t *map, uint64_t start, uint64_t count, bool *dirty,
                                  uint64_t *same);

/* SHA-256 of the bits, 32 bytes: equal for equal bits, without what a checkpoint has frozen. */
DIRTYMAP_CHECKED int dirtymap_sha256(const dirtymap_t *map, uint8_t *hash);

/* Whether two maps have the same length, granule and dirt. */
DIRTYMAP_CHECKED int dirtymap_equal(const dirtymap_t *map, const dirtymap_t *other, bool *equal);

/* Whether the granule of an item was set since the outstanding checkpoint was frozen. */
DIRTYMAP_CHECKED int dirtymap_get_since_freeze(const dirtymap_t *map, uint64_t item, bool *dirty);

/* Whether anything was. */
DIRTYMAP_CHECKED int dirtymap_any_since_freeze(const dirtymap_t *map, bool *any);

/* DIRTYMAP_E_UNUSABLE when a map that was opened for reading has lost those who had it open. Other calls ask
 * this themselves. */
DIRTYMAP_CHECKED int dirtymap_verify_session(const dirtymap_t *map);

/* Puts a cursor before the first item of a range. */
void dirtymap_cursor_init(dirtymap_cursor_t *cursor, uint64_t start, uint64_t count);

/* The first item that the cursor has not passed. */
uint64_t dirtymap_cursor_position(const dirtymap_cursor_t *cursor);

/* Moves a cursor forward to an item; does nothing if it is there or further. */
void dirtymap_cursor_advance(dirtymap_cursor_t *cursor, uint64_t item);

/* The first item of the next dirty granule, or DIRTYMAP_NONE. Each step asks the map anew: it may change
 * meanwhile, and nothing is found twice. */
DIRTYMAP_CHECKED int dirtymap_cursor_next(const dirtymap_t *map, dirtymap_cursor_t *cursor, uint64_t *item);

/* The same without moving the cursor. */
DIRTYMAP_CHECKED int dirtymap_cursor_peek(const dirtymap_t *map, const dirtymap_cursor_t *cursor,
                                          uint64_t *item);

/* The next dirty area; its count is 0 if there is none. */
DIRTYMAP_CHECKED int dirtymap_cursor_next_extent(const dirtymap_t *map, dirtymap_cursor_t *cursor,
                                                 struct dirtymap_range *extent);

/* The next 64 granules that are not all clean: their number, granule / 64, and a bit for each, masked to the
 * range. DIRTYMAP_NONE if there are none. */
DIRTYMAP_CHECKED int dirtymap_cursor_next_word(const dirtymap_t *map, dirtymap_cursor_t *cursor,
                                               uint64_t *index, uint64_t *word);

/* ---------------------------------------------------------------------------------------- several maps */

/* Whether other can be merged into map: both have the same length, and map can be changed. */
DIRTYMAP_CHECKED int dirtymap_can_merge(const dirtymap_t *map, const dirtymap_t *other, bool *can);

/* Marks in map what is dirty in other. Lengths must be equal; granules may differ, and are rounded outward. */
DIRTYMAP_CHECKED int dirtymap_merge(dirtymap_t *map, const dirtymap_t *other, uint64_t *changed);

/* Clears in map what is dirty in other; lengths and granules must be equal. */
DIRTYMAP_CHECKED int dirtymap_subtract(dirtymap_t *map, const dirtymap_t *other, uint64_t *changed);

/* Clears in map what is clean in other; lengths and granules must be equal. */
DIRTYMAP_CHECKED int dirtymap_intersect(dirtymap_t *map, const dirtymap_t *other, uint64_t *changed);

/* Makes a map in memory exactly the union of two others, whatever it held; it may be one of them. */
DIRTYMAP_CHECKED int dirtymap_set_to_union(dirtymap_t *map, const dirtymap_t *a, const dirtymap_t *b,
                                           uint64_t *changed);

/* A new map in memory: dirty in map and clean in other. */
DIRTYMAP_CHECKED int dirtymap_difference(const dirtymap_t *map, const dirtymap_t *other, dirtymap_t **made);

/* A new map in memory: dirty in both. */
DIRTYMAP_CHECKED int dirtymap_intersection(const dirtymap_t *map, const dirtymap_t *other, dirtymap_t **made);

/* ---------------------------------------------------------------------------------- saving and loading */

/* What chunks start at multiples of, and are multiples of in length, but for the last one: 64 granules, in
 * items. */
DIRTYMAP_CHECKED int dirtymap_serialization_align(const dirtymap_t *map, uint64_t *items);

/* How many bytes a chunk takes. A range of chunks is never cut off. */
DIRTYMAP_CHECKED int dirtymap_serialized_size(const dirtymap_t *map, uint64_t start, uint64_t count,
                                              uint64_t *size);

/* Writes a chunk to a buffer of exactly that size, the same on every system. With DIRTYMAP_E_UNUSABLE what is
 * in the buffer does not count. */
DIRTYMAP_CHECKED int dirtymap_serialize_part(const dirtymap_t *map, uint64_t start, uint64_t count,
                                             void *buffer, size_t size);

/* Replaces a chunk by one that was saved; changed, which may be NULL, is how many granules changed. What it
 * sets survives any crash, what it clears is durable after a flush. */
DIRTYMAP_CHECKED int dirtymap_load_part(dirtymap_t *map, uint64_t start, uint64_t count, const void *bytes,
                                        size_t size, uint64_t *changed);

/* Begins to load many chunks. Until dirtymap_load_finish() the map cannot be read: DIRTYMAP_E_LOADING. Alone,
 * as the four below. */
DIRTYMAP_CHECKED int dirtymap_load_begin(dirtymap_t *map);

/* Loads a chunk that was saved, in any order. */
DIRTYMAP_CHECKED int dirtymap_load_chunk(dirtymap_t *map, uint64_t start, uint64_t count, const void *bytes,
                                         size_t size);

/* Loads a chunk without dirt. */
DIRTYMAP_CHECKED int dirtymap_load_zeroes(dirtymap_t *map, uint64_t start, uint64_t count);

/* Loads a chunk full of dirt. */
DIRTYMAP_CHECKED int dirtymap_load_ones(dirtymap_t *map, uint64_t start, uint64_t count);

/* Makes what was loaded durable, and the map one that can be read. After an error it can be read, and what was
 * loaded is not durable: dirtymap_flush(). */
DIRTYMAP_CHECKED int dirtymap_load_finish(dirtymap_t *map);

/* ------------------------------------------------------------------------------- what changed of a map */

/* Attaches a change bitmap, with a bit for each chunk of 2^chunk granules: which parts of the map to look at
 * again. It is in memory, and holds what this handle changed. */
DIRTYMAP_CHECKED int dirtymap_changes_attach(dirtymap_t *map, uint32_t chunk);

/* Drops the change bitmap, if there is one. */
DIRTYMAP_CHECKED int dirtymap_changes_detach(dirtymap_t *map);

/* Whether anything has changed; not if no change bitmap is attached. */
DIRTYMAP_CHECKED int dirtymap_changes_any(const dirtymap_t *map, bool *any);

/* A copy of the change bitmap; NULL if none is attached. */
DIRTYMAP_CHECKED int dirtymap_changes_copy(const dirtymap_t *map, dirtymap_t **changes);

/* What has changed, which is forgotten then; NULL if no change bitmap is attached. */
DIRTYMAP_CHECKED int dirtymap_changes_take(dirtymap_t *map, dirtymap_t **changes);

/* The same, merged into another map, in memory and of the same length. attached, which may be NULL: whether
 * there is a change bitmap. */
DIRTYMAP_CHECKED int dirtymap_changes_take_into(dirtymap_t *map, dirtymap_t *into, bool *attached);

/* Forgets what has changed in the chunks that lie wholly in the range. */
DIRTYMAP_CHECKED int dirtymap_changes_clear(dirtymap_t *map, uint64_t start, uint64_t count);

/* ------------------------------------------------------------------------------ checkpoints and points */

/* Moves what is dirty to a checkpoint, and waits for the writes that had begun before. Then what
 * dirtymap_frozen() says is the work list of a backup, which may read the image after fsync; writers go on
 * meanwhile. name, which may be NULL, is for keeping it as a point. DIRTYMAP_E_OUTSTANDING if there is a
 * checkpoint already; DIRTYMAP_E_BUSY if writes do not end in time (dirtymap_options_freeze_timeout()). */
DIRTYMAP_CHECKED int dirtymap_freeze(dirtymap_t *map, const char *name, dirtymap_uuid_t *checkpoint);

/* Called by dirtymap_freeze_snapshot(), in its thread, when the writes that had begun before have ended and
 * nothing is frozen yet. It marks by dirtymap_set() what was copied meanwhile, and may call other functions of
 * this library as well; of this handle not those that want it alone. Anything but 0 ends the freeze with
 * DIRTYMAP_E_INTERRUPTED, and nothing is lost. It must return, and not by longjmp or an exception. */
typedef int (*dirtymap_settle_fn)(const dirtymap_uuid_t *checkpoint, void *opaque);

/* As dirtymap_freeze(), for a program that copies old data before each of its writes, from before this call on,
 * so that the image can be read as it was frozen: a snapshot. settle may be NULL. Nobody else may have the map
 * open for writing (DIRTYMAP_E_LOCKED), nor open it until the checkpoint is over (DIRTYMAP_E_OUTSTANDING), but
 * with dirtymap_options_beside_snapshot(). If the copies are lost, as by a power cut, abort the checkpoint. */
DIRTYMAP_CHECKED int dirtymap_freeze_snapshot(dirtymap_t *map, const char *name, dirtymap_settle_fn settle,
                                              void *opaque, dirtymap_uuid_t *checkpoint);

/* Whether dirtymap_freeze() with this name would be refused at once. */
DIRTYMAP_CHECKED int dirtymap_can_freeze(dirtymap_t *map, const char *name);

/* The backup is complete and its copy durable: what was frozen is clean now, unless it was set again. keep: as
 * a point, by the name of the freeze. Doing it twice is no error. */
DIRTYMAP_CHECKED int dirtymap_commit(dirtymap_t *map, const dirtymap_uuid_t *checkpoint, bool keep);

/* The backup has failed: what was frozen is dirty as before, durably. */
DIRTYMAP_CHECKED int dirtymap_abort(dirtymap_t *map, const dirtymap_uuid_t *checkpoint);

enum dirtymap_checkpoint_state {
    DIRTYMAP_NO_CHECKPOINT = 0,
    DIRTYMAP_FREEZING = 1,
    DIRTYMAP_FROZEN = 2,
    DIRTYMAP_ABORTING = 3
};

struct dirtymap_checkpoint {
    dirtymap_uuid_t uuid;
    int64_t time; /* of its freeze, in seconds since 1970 */
    uint32_t state;
    uint32_t snapshot; /* it is one of dirtymap_freeze_snapshot() */
    char name[72];     /* empty for none */
};

/* The outstanding checkpoint, which may be of a backup that died: commit or abort it. If there is none, 0 is
 * returned and state is DIRTYMAP_NO_CHECKPOINT. One that is not DIRTYMAP_FROZEN can be aborted only. size is
 * sizeof *checkpoint. */
DIRTYMAP_CHECKED int dirtymap_checkpoint(const dirtymap_t *map, struct dirtymap_checkpoint *checkpoint,
                                         size_t size);

/* What a checkpoint has frozen, as a set, to be freed by dirtymap_free(). */
DIRTYMAP_CHECKED int dirtymap_frozen(const dirtymap_t *map, const dirtymap_uuid_t *checkpoint,
                                     dirtymap_t **set);

/* How many granules that are, and items. Either may be NULL. */
DIRTYMAP_CHECKED int dirtymap_frozen_len(const dirtymap_t *map, const dirtymap_uuid_t *checkpoint,
                                         uint64_t *granules, uint64_t *items);

/* A checkpoint that was kept. */
struct dirtymap_point {
    dirtymap_uuid_t uuid;
    int64_t time;                 /* of its freeze, in seconds since 1970 */
    uint64_t since_granules;      /* written since; DIRTYMAP_NONE unless it was counted */
    uint64_t since_len;           /* the items of these */
    uint64_t until_next_granules; /* written before the next point was frozen */
    uint64_t until_next_len;
    uint32_t damaged;    /* what was written since is not known, and counts as everything */
    uint32_t has_target; /* a backup was complete with it */
    char name[72];
};

/* The points that are kept, oldest first: at most 63. Fills as many of the places as there are points, and
 * says in n how many there are. size is sizeof points[0]. */
DIRTYMAP_CHECKED int dirtymap_points(const dirtymap_t *map, struct dirtymap_point *points, size_t size,
                                     size_t places, size_t *n);

/* The same, and counts what was written since each of them. */
DIRTYMAP_CHECKED int dirtymap_count_points(const dirtymap_t *map, struct dirtymap_point *points, size_t size,
                                           size_t places, size_t *n);

/* What was written since a point was frozen, as a set. */
DIRTYMAP_CHECKED int dirtymap_since(const dirtymap_t *map, const char *name, dirtymap_t **set);

/* What was written from one point until another, a newer one, was frozen. */
DIRTYMAP_CHECKED int dirtymap_between(const dirtymap_t *map, const char *from, const char *to,
                                      dirtymap_t **set);

/* Everything that is dirty now, as a set. */
DIRTYMAP_CHECKED int dirtymap_dirty_set(const dirtymap_t *map, dirtymap_t **set);

/* Makes a new, closed map of what dirtymap_since() says. */
DIRTYMAP_CHECKED int dirtymap_export_since(const dirtymap_t *map, const char *name, const char *path);

/* Makes a new, closed map of what dirtymap_between() says. */
DIRTYMAP_CHECKED int dirtymap_export_between(const dirtymap_t *map, const char *from, const char *to,
                                             const char *path);

/* Forgets a point. What others say stays the same. */
DIRTYMAP_CHECKED int dirtymap_drop_point(dirtymap_t *map, const char *name);

/* --------------------------------------------------------------------------------------------- backups */

/* Claims the map for a backup, until this handle is closed: DIRTYMAP_E_LOCKED while another one makes a backup
 * by it. */
DIRTYMAP_CHECKED int dirtymap_claim_backup(dirtymap_t *map);

/* Records that a backup is about to write target, an open file, so that it is known again if the backup does
 * not end. */
DIRTYMAP_CHECKED int dirtymap_begin_backup(dirtymap_t *map, int target);

/* As dirtymap_commit(), and in the same moment records target, after fsync, as the last backup. audited: how
 * many clean granules were compared and equal, or 0. */
DIRTYMAP_CHECKED int dirtymap_commit_backup(dirtymap_t *map, const dirtymap_uuid_t *checkpoint, bool keep,
                                            int target, uint64_t audited);

/* For a backup without a checkpoint, which has reset what it copied: flushes, and records target as the last
 * backup. */
DIRTYMAP_CHECKED int dirtymap_complete_backup(dirtymap_t *map, int target);

/* Has a map that belongs to no image belong to this one. */
DIRTYMAP_CHECKED int dirtymap_bind_image(dirtymap_t *map, int image);

/* Records that an audit of so many clean granules has found one that differs: everything becomes dirty. */
DIRTYMAP_CHECKED int dirtymap_record_miss(dirtymap_t *map, uint64_t audited);

enum dirtymap_recorded {
    DIRTYMAP_IMAGE = 1,  /* the image that the map belongs to */
    DIRTYMAP_TARGET = 2, /* what the last complete backup wrote */
    DIRTYMAP_BEGUN = 3   /* the target of a backup that has not ended */
};

enum dirtymap_comparison {
    DIRTYMAP_NOT_RECORDED = 0,
    DIRTYMAP_SAME = 1,
    DIRTYMAP_UNPROVEN = 2, /* the same, as far as can be known: writes since may not be noticed */
    DIRTYMAP_CHANGED = 3,  /* the same file, written since */
    DIRTYMAP_ANOTHER = 4
};

/* Whether an open file is one that the map has recorded (enum dirtymap_recorded), as an enum
 * dirtymap_comparison. DIRTYMAP_BEGUN is never DIRTYMAP_SAME: DIRTYMAP_UNPROVEN is the same file with the size
 * that it had when the backup began, and writes since are not noticed; with another size it is
 * DIRTYMAP_CHANGED. A file that is DIRTYMAP_TARGET is DIRTYMAP_CHANGED after a backup that was killed while it
 * wrote to it. When the checkpoint of that is aborted, and until something is committed or reset, the target of
 * a backup in the order above lacks only what is dirty, if nothing else wrote to it. Nothing proves that:
 * compare what is clean with the image, or mark everything, as the order above does: after a backup that was
 * killed it copies everything. */
DIRTYMAP_CHECKED int dirtymap_compare(const dirtymap_t *map, uint32_t recorded, int fd, uint32_t *comparison);

/* ------------------------------------------------------------------------------ what is known of a map */

enum dirtymap_state {
    DIRTYMAP_CLEAN = 0,  /* closed */
    DIRTYMAP_OPEN = 1,   /* open for writing */
    DIRTYMAP_UNCLEAN = 2 /* whoever had it died; the next open recovers it */
};

enum dirtymap_verdict {
    DIRTYMAP_EXACT = 0,    /* what is dirty was written */
    DIRTYMAP_SUPERSET = 1, /* recovery has added dirt */
    DIRTYMAP_DAMAGED = 2   /* something fails, and counts as dirty */
};

/* Times are seconds since 1970, 0 for never. Texts are cut off where they do not fit. */
struct dirtymap_info {
    dirtymap_uuid_t uuid;
    uint64_t len;
    uint32_t granularity; /* log2 of the granule */
    uint32_t durability;
    uint32_t state;
    uint32_t verdict;
    uint64_t dirty_granules; /* DIRTYMAP_NONE for a file that another process has open alone */
    uint64_t dirty_len;
    uint64_t armed_len;  /* items that a crash now would make dirty */
    uint64_t intent_len; /* those of them that only the write intent covers */
    uint64_t sequence;   /* of the newest commit */
    int64_t created;
    int64_t last_clean;
    int64_t last_open;
    int64_t dirt_time; /* when recovery added dirt */
    int64_t backup_time;
    int64_t audit_time;
    uint64_t audited;
    uint64_t audit_missed;
    dirtymap_uuid_t committed; /* the last checkpoint that was; zeros for none */
    int64_t committed_time;
    uint32_t checkpoint_state;
    uint32_t points;
    uint32_t has_image;
    uint32_t has_target;
    uint32_t has_begun;
    uint32_t format_version;
    char label[256];
    char reasons[256]; /* why it is a superset */
};

/* What opening found, and mended. */
struct dirtymap_recovery {
    uint32_t unclean;       /* the file was not closed */
    uint32_t added_dirt;    /* there may be more dirt than was set */
    uint32_t damaged;       /* something that a crash does not explain */
    uint32_t cache_trusted; /* of a DIRTYMAP_PROCESS map after an unclean end: 1 yes, 2 no */
    uint64_t armed_len;
    uint64_t intent_len;
    uint64_t interrupted_pages;
    uint64_t damaged_pages;
    uint64_t damaged_headers;
    uint64_t lost_granules; /* everything became dirty */
    uint32_t lost_commit;   /* everything became dirty */
    uint32_t image_changed; /* everything became dirty */
    dirtymap_uuid_t aborted; /* a checkpoint that was not frozen yet; zeros for none */
    char why_image_changed[512];
};

/* What a map has done since it was opened. */
struct dirtymap_stats {
    uint64_t arms; /* commits that armed something */
    uint64_t syncs;
    uint64_t flushes;
    uint64_t bytes_written;
    uint64_t slow_sets; /* sets that waited */
    uint64_t recovered_len;
    uint64_t failed_pages;
    uint64_t damaged_headers;
};

/* What is known of an open map and its file. size is sizeof *info, here and below. */
DIRTYMAP_CHECKED int dirtymap_info(const dirtymap_t *map, struct dirtymap_info *info, size_t size);

/* The same of a file, which is not opened for writing, and may be open elsewhere. */
DIRTYMAP_CHECKED int dirtymap_inspect(const char *path, struct dirtymap_info *info, size_t size);

/* What opening has found. */
DIRTYMAP_CHECKED int dirtymap_recovery(const dirtymap_t *map, struct dirtymap_recovery *recovery, size_t size);

/* What the map has done since it was opened. */
DIRTYMAP_CHECKED int dirtymap_stats(const dirtymap_t *map, struct dirtymap_stats *stats, size_t size);

/* ------------------------------------------------------------------------------------ check and repair */

enum dirtymap_severity {
    DIRTYMAP_FINE = 0,
    DIRTYMAP_NOTE = 1,
    DIRTYMAP_LEFT_UNCLEAN = 2, /* what a crash leaves, and the next open mends */
    DIRTYMAP_DAMAGE = 3        /* what a crash does not explain */
};

/* A report in numbers. What does not apply, or is not known, is DIRTYMAP_NONE. */
struct dirtymap_summary {
    uint64_t items;    /* findings, or actions */
    uint32_t severity; /* the worst of them */
    uint32_t in_use;
    uint64_t omitted; /* findings that are left out, since there are too many */
    uint64_t pages_checked;
    uint64_t verified_granules; /* known to be dirty */
    uint64_t verified_len;
    uint64_t length_before; /* of the file, for a repair */
    uint64_t length_after;
    uint64_t dirty_granules; /* of the recovered, or of the repaired map */
    uint64_t dirty_len;
    uint64_t needless_len; /* at most so many items of a repaired map are dirty only because nobody knows better */
};

/* A finding of a check. Of a repair's action there is only the text of repair; the others are empty. Texts
 * live as long as the report. */
struct dirtymap_finding {
    uint32_t severity;
    uint32_t all_dirty; /* by this alone everything counts as dirty */
    uint64_t count;     /* neighbouring pages that it is about */
    const char *place;
    const char *found;
    const char *expected;
    const char *consequence; /* for the next backup */
    const char *repair;      /* what dirtymap_repair() would do, or does */
};

/* Checks a file without changing it. after_power_loss: what would be true of it if the power went now. told
 * may be NULL; it is told pages, and what it returns does not matter, here and below. A report is used by one
 * thread at a time. */
DIRTYMAP_CHECKED int dirtymap_check(const char *path, bool after_power_loss, dirtymap_progress_fn told,
                                    void *opaque, dirtymap_report_t **report);

/* What dirtymap_repair() would do. Reads only. */
DIRTYMAP_CHECKED int dirtymap_plan_repair(const char *path, dirtymap_progress_fn told, void *opaque,
                                          dirtymap_report_t **report);

/* Repairs a file; nothing that counts as dirty becomes clean. undo, which may be NULL, is a new file that
 * keeps what is changed. */
DIRTYMAP_CHECKED int dirtymap_repair(const char *path, const char *undo, uint64_t wait_milliseconds,
                                     dirtymap_progress_fn told, void *opaque, dirtymap_report_t **report);

/* Puts back what a repair has changed; bytes, which may be NULL, is how many. The undo file stays. */
DIRTYMAP_CHECKED int dirtymap_undo_repair(const char *path, const char *undo, uint64_t wait_milliseconds,
                                          uint64_t *bytes);

/* The numbers of a report. size is sizeof *summary. */
DIRTYMAP_CHECKED int dirtymap_report_summary(const dirtymap_report_t *report, struct dirtymap_summary *summary,
                                             size_t size);

/* Item i of a report, from 0 on. size is sizeof *finding. */
DIRTYMAP_CHECKED int dirtymap_report_item(const dirtymap_report_t *report, uint64_t i,
                                          struct dirtymap_finding *finding, size_t size);

/* Frees a report. NULL is nothing. */
void dirtymap_report_free(dirtymap_report_t *report);

/* ---------------------------------------------------------------------------------------------- events */

enum dirtymap_level {
    DIRTYMAP_SILENT = 0,
    DIRTYMAP_ERROR = 1, /* a durable write has failed */
    DIRTYMAP_WARN = 2,
    DIRTYMAP_EVENTS = 3, /* opened, recovered, closed, truncated */
    DIRTYMAP_DEBUG = 4   /* armed, flushed */
};

/* Something that happened; the texts live as long as the call. */
struct dirtymap_event {
    int level;
    int reserved;
    const char *name; /* for instance "opened" */
    const char *text; /* its fields, as in: path=/var/lib/disk.map len=1073741824 */
};

/* Told of events, from any thread, with locks of the map held: it must not call this library, and must return.
 * */
typedef void (*dirtymap_event_fn)(const struct dirtymap_event *event, void *opaque);

/* Has a function told of the events of all maps of the process, up to a level. NULL, or DIRTYMAP_SILENT:
 * nobody any more; a call that had begun may still be running then. */
DIRTYMAP_CHECKED int dirtymap_events(int level, dirtymap_event_fn told, void *opaque);

#ifdef __cplusplus
}
#endif

#endif
