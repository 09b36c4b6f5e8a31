/* Checkpoints, points, backups, check and repair. */
#include "check.h"
#include <fcntl.h>
#include <unistd.h>

static const char *dir;

static void freezing_committing_and_aborting(void) {
    dirtymap_options_t *options;
    dirtymap_t *map, *frozen, *copy;
    dirtymap_uuid_t uuid, other;
    struct dirtymap_checkpoint checkpoint;
    dirtymap_write_t write;
    uint64_t n, len;
    bool yes;
    OK(dirtymap_options_new(&options));
    OK(dirtymap_options_freeze_timeout(options, 1));
    OK(dirtymap_create(in(dir, "frozen"), GIB, options, &map));
    dirtymap_options_free(options);
    OK(dirtymap_set(map, 0, 1, NULL));
    OK(dirtymap_can_freeze(map, "monday"));
    FAILS(dirtymap_can_freeze(map, ""), DIRTYMAP_E_REFUSED);
    /* A freeze waits for writes that had begun before it. */
    const struct dirtymap_range two[] = {{0, 1}, {GIB / 2, 1}};
    OK(dirtymap_begin_writes(map, two, 2, &write));
    FAILS(dirtymap_freeze(map, NULL, &uuid), DIRTYMAP_E_BUSY);
    OK(dirtymap_end_write(&write));
    OK(dirtymap_freeze(map, "monday", &uuid));
    FAILS(dirtymap_freeze(map, NULL, &other), DIRTYMAP_E_OUTSTANDING);
    FAILS(dirtymap_truncate(map, GIB / 2), DIRTYMAP_E_REFUSED);
    CHECK(dirtymap_error_cause() == 5);
    OK(dirtymap_checkpoint(map, &checkpoint, sizeof checkpoint));
    CHECK(checkpoint.state == DIRTYMAP_FROZEN && memcmp(&checkpoint.uuid, &uuid, 16) == 0);
    CHECK(strcmp(checkpoint.name, "monday") == 0 && checkpoint.time > 1700000000);
    OK(dirtymap_get_since_freeze(map, 0, &yes));
    CHECK(!yes);
    OK(dirtymap_any_since_freeze(map, &yes));
    CHECK(!yes);
    OK(dirtymap_frozen(map, &uuid, &frozen));
    OK(dirtymap_frozen_len(map, &uuid, &n, &len));
    CHECK(n == 2 && len == 128 * KIB && counted(frozen) == 2);
    FAILS(dirtymap_set(frozen, 0, 1, NULL), DIRTYMAP_E_READ_ONLY);
    OK(dirtymap_copy(frozen, &copy));
    OK(dirtymap_equal(copy, frozen, &yes));
    CHECK(yes);
    OK(dirtymap_set(map, MIB, 1, NULL));
    OK(dirtymap_commit(map, &uuid, true));
    OK(dirtymap_commit(map, &uuid, true));
    CHECK(counted(map) == 1 && counted(frozen) == 2);
    FAILS(dirtymap_abort(map, &uuid), DIRTYMAP_E_NO_CHECKPOINT);
    OK(dirtymap_freeze(map, NULL, &uuid));
    OK(dirtymap_abort(map, &uuid));
    CHECK(counted(map) == 1);
    OK(dirtymap_checkpoint(map, &checkpoint, sizeof checkpoint));
    CHECK(checkpoint.state == DIRTYMAP_NO_CHECKPOINT && checkpoint.name[0] == 0);
    dirtymap_free(copy);
    dirtymap_free(frozen);
    OK(dirtymap_close(map));
}

static void points(void) {
    dirtymap_t *map = created(in(dir, "points"), GIB), *set, *opened;
    dirtymap_uuid_t uuid;
    const char *names[] = {"monday", "tuesday"};
    for (int i = 0; i < 2; i++) {
        OK(dirtymap_set(map, i * MIB, 1, NULL));
        OK(dirtymap_freeze(map, names[i], &uuid));
        OK(dirtymap_commit(map, &uuid, true));
    }
    OK(dirtymap_set(map, 2 * MIB, 1, NULL));
    struct dirtymap_point found[2];
    size_t n = 0;
    OK(dirtymap_points(map, NULL, sizeof found[0], 0, &n));
    CHECK(n == 2);
    OK(dirtymap_points(map, found, sizeof found[0], 1, &n));
    CHECK(n == 2 && strcmp(found[0].name, "monday") == 0 && found[0].since_granules == DIRTYMAP_NONE);
    OK(dirtymap_count_points(map, found, sizeof found[0], 2, &n));
    CHECK(found[0].since_granules == 2 && found[0].until_next_granules == 1 && found[1].since_len == 64 * KIB);
    CHECK(strcmp(found[1].name, "tuesday") == 0 && !found[1].damaged && !found[1].has_target);
    OK(dirtymap_since(map, "monday", &set));
    CHECK(counted(set) == 2);
    dirtymap_free(set);
    OK(dirtymap_between(map, "monday", "tuesday", &set));
    uint64_t item;
    OK(dirtymap_next_dirty(set, 0, DIRTYMAP_NONE, &item));
    CHECK(counted(set) == 1 && item == MIB);
    dirtymap_free(set);
    FAILS(dirtymap_between(map, "tuesday", "monday", &set), DIRTYMAP_E_REFUSED);
    FAILS(dirtymap_since(map, "sunday", &set), DIRTYMAP_E_NO_POINT);
    FAILS(dirtymap_since(map, NULL, &set), DIRTYMAP_E_NULL);
    OK(dirtymap_dirty_set(map, &set));
    CHECK(counted(set) == 1);
    dirtymap_free(set);
    OK(dirtymap_export_since(map, "monday", in(dir, "since")));
    OK(dirtymap_export_between(map, "monday", "tuesday", in(dir, "between")));
    OK(dirtymap_open(in(dir, "since"), NULL, &opened));
    CHECK(counted(opened) == 2);
    OK(dirtymap_close(opened));
    OK(dirtymap_drop_point(map, "monday"));
    FAILS(dirtymap_drop_point(map, "monday"), DIRTYMAP_E_NO_POINT);
    OK(dirtymap_close(map));
}

static void a_backup_and_its_target(void) {
    dirtymap_t *map = created(in(dir, "backed"), MIB);
    struct dirtymap_info info;
    dirtymap_uuid_t uuid;
    uint32_t same;
    int target = open(in(dir, "target"), O_RDWR | O_CREAT, 0600);
    CHECK(target >= 0 && ftruncate(target, MIB) == 0);
    OK(dirtymap_bind_image(map, target));
    OK(dirtymap_claim_backup(map));
    OK(dirtymap_set(map, 0, 1, NULL));
    OK(dirtymap_freeze(map, NULL, &uuid));
    OK(dirtymap_begin_backup(map, target));
    OK(dirtymap_compare(map, DIRTYMAP_BEGUN, target, &same));
    CHECK(same == DIRTYMAP_UNPROVEN || same == DIRTYMAP_SAME);
    CHECK(pwrite(target, "copied", 6, 0) == 6 && fsync(target) == 0);
    OK(dirtymap_commit_backup(map, &uuid, false, target, 3));
    OK(dirtymap_info(map, &info, sizeof info));
    CHECK(info.has_target && !info.has_begun && info.audited == 3 && counted(map) == 0 && info.backup_time > 0);
    CHECK(memcmp(&info.committed, &uuid, 16) == 0);
    OK(dirtymap_compare(map, DIRTYMAP_TARGET, target, &same));
    CHECK(same == DIRTYMAP_SAME);
    int other = open(in(dir, "other"), O_RDWR | O_CREAT, 0600);
    OK(dirtymap_compare(map, DIRTYMAP_TARGET, other, &same));
    CHECK(same == DIRTYMAP_ANOTHER);
    FAILS(dirtymap_compare(map, 9, other, &same), DIRTYMAP_E_ARGUMENT);
    OK(dirtymap_begin_backup(map, other));
    OK(dirtymap_complete_backup(map, other));
    OK(dirtymap_record_miss(map, 5));
    OK(dirtymap_info(map, &info, sizeof info));
    CHECK(info.audit_missed == 1 && info.dirty_granules == 16 && info.verdict == DIRTYMAP_SUPERSET);
    OK(dirtymap_close(map));
    close(target);
    close(other);
}

static int told(const struct dirtymap_progress *progress, void *opaque) {
    *(uint64_t *)opaque = progress->total;
    return 0;
}

static void check_and_repair(void) {
    const char *path = in(dir, "damaged"), *undo = in(dir, "undo");
    dirtymap_report_t *report;
    struct dirtymap_summary summary;
    struct dirtymap_finding finding;
    uint64_t pages = 0, bytes;
    dirtymap_t *map = created(path, GIB);
    OK(dirtymap_set(map, 0, 1, NULL));
    OK(dirtymap_close(map));
    OK(dirtymap_check(path, false, told, &pages, &report));
    OK(dirtymap_report_summary(report, &summary, sizeof summary));
    CHECK(summary.items == 0 && summary.severity == DIRTYMAP_FINE && pages > 0 && summary.verified_granules == 1);
    dirtymap_report_free(report);

    int file = open(path, O_RDWR);
    CHECK(pwrite(file, "x", 1, 100) == 1 && close(file) == 0);
    OK(dirtymap_check(path, true, NULL, NULL, &report));
    OK(dirtymap_report_summary(report, &summary, sizeof summary));
    CHECK(summary.items == 1 && summary.severity == DIRTYMAP_DAMAGE && summary.length_before == DIRTYMAP_NONE);
    OK(dirtymap_report_item(report, 0, &finding, sizeof finding));
    CHECK(finding.severity == DIRTYMAP_DAMAGE && strstr(finding.place, "header copy 0") && finding.consequence[0]);
    FAILS(dirtymap_report_item(report, 1, &finding, sizeof finding), DIRTYMAP_E_ARGUMENT);
    dirtymap_report_free(report);

    OK(dirtymap_plan_repair(path, NULL, NULL, &report));
    OK(dirtymap_report_summary(report, &summary, sizeof summary));
    OK(dirtymap_report_item(report, 0, &finding, sizeof finding));
    CHECK(summary.items > 0 && finding.repair[0] && !finding.place[0] && summary.dirty_granules == 1);
    dirtymap_report_free(report);
    OK(dirtymap_repair(path, undo, 0, NULL, NULL, &report));
    dirtymap_report_free(report);
    OK(dirtymap_check(path, false, NULL, NULL, &report));
    OK(dirtymap_report_summary(report, &summary, sizeof summary));
    CHECK(summary.items == 0);
    dirtymap_report_free(report);
    OK(dirtymap_undo_repair(path, undo, 0, &bytes));
    CHECK(bytes > 0);
    OK(dirtymap_repair(path, NULL, 0, NULL, NULL, &report));
    dirtymap_report_free(report);
    dirtymap_report_free(NULL);
    FAILS(dirtymap_check(in(dir, "nothing"), false, NULL, NULL, &report), DIRTYMAP_E_NOT_FOUND);
}

int main(int argc, char **argv) {
    (void)argc;
    dir = argv[1];
    freezing_committing_and_aborting();
    points();
    a_backup_and_its_target();
    check_and_repair();
    return 0;
}
