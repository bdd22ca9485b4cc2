/* What is in a file: its data with its holes, its extended attributes, its other names. */
#include "contents.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/limits.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "overlay.h"

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

enum { HOLE_MIN = 65536, SHORT_FILE = 4 << 20, NUMBER_LINE = 24, MOST_OPEN = 256 };

/* A path by which the extended attributes of any kind of file can be had, without following it. */
static void attribute_path(char *text, size_t size, int folder, const char *name)
{
    snprintf(text, size, "/proc/self/fd/%d/%s", folder, name);
}

static bool one_attribute(int fd, const char *path, const char *name, struct tar_records *records)
{
    static char value[XATTR_SIZE_MAX];
    if (overlay_is_note(name))
        return true;
    ssize_t size = fd >= 0 ? fgetxattr(fd, name, value, sizeof value)
                           : lgetxattr(path, name, value, sizeof value);
    if (size < 0)
        return errno == ENODATA || errno == EOPNOTSUPP;
    return tar_record(records, "SCHILY.xattr.", name, value, (size_t)size);
}

/* Of an open file, or else of what is at the path. */
static bool attributes(int fd, const char *path, struct tar_records *records)
{
    static char names[XATTR_LIST_MAX];
    ssize_t size = fd >= 0 ? flistxattr(fd, names, sizeof names)
                           : llistxattr(path, names, sizeof names);
    if (size < 0)
        return errno == EOPNOTSUPP || errno == ENOSYS || errno == ENOENT;
    for (const char *at = names; at < names + size; at += strlen(at) + 1)
        if (!one_attribute(fd, path, at, records))
            return false;
    return true;
}

bool contents_attributes(int folder, const char *name, struct tar_records *records)
{
    char path[64 + 256];
    if (strcmp(name, ".") == 0)
        return attributes(folder, NULL, records);
    attribute_path(path, sizeof path, folder, name);
    return attributes(-1, path, records);
}

/* Files are closed many at a time: a call for each would be a fifth of all calls. */
static void close_later(int fd)
{
    static unsigned first, count;
    if (count > 0 && ((unsigned)fd != first + count || count == MOST_OPEN)) {
        syscall(SYS_close_range, first, first + count - 1, 0);
        count = 0;
    }
    if (count == 0)
        first = (unsigned)fd;
    count++;
}

/* Exactly `size` bytes: a file that has become shorter ends in zeros. */
static bool copy(int fd, uint64_t start, uint64_t size)
{
    bool ended = false;
    while (size > 0) {
        size_t room;
        uint8_t *place = tar_room(size, &room);
        if (place == NULL)
            return false;
        ssize_t got = ended ? 0 : pread(fd, place, room, (off_t)start);
        if (got < 0)
            return false;
        if (got == 0) {
            ended = true;
            memset(place, 0, room);
            got = (ssize_t)room;
        }
        tar_filled((size_t)got);
        start += (uint64_t)got;
        size -= (uint64_t)got;
    }
    return true;
}

struct map {
    struct extent {
        uint64_t start, size;
    } *extents;
    size_t count, room;
    uint64_t data;
};

static bool add_extent(struct map *map, uint64_t start, uint64_t end)
{
    struct extent *last = map->count > 0 ? &map->extents[map->count - 1] : NULL;
    if (last != NULL && start - (last->start + last->size) < HOLE_MIN) {
        map->data += end - (last->start + last->size);
        last->size = end - last->start;
        return true;
    }
    if (map->count == map->room) {
        size_t room = map->room * 2 + 64;
        struct extent *more = realloc(map->extents, room * sizeof *more);
        if (more == NULL)
            return false;
        map->extents = more;
        map->room = room;
    }
    map->extents[map->count++] = (struct extent){start, end - start};
    map->data += end - start;
    return true;
}

/* Where the data is. Holes that are not worth an entry count as data. */
static bool find_extents(int fd, uint64_t size, struct map *map)
{
    map->count = 0;
    map->data = 0;
    for (uint64_t at = 0; at < size;) {
        off_t start = lseek(fd, (off_t)at, SEEK_DATA);
        if (start < 0 && errno == ENXIO)
            break;
        if (start < 0)
            return add_extent(map, 0, size);
        off_t end = lseek(fd, start, SEEK_HOLE);
        if (end < 0 || (uint64_t)end > size)
            end = (off_t)size;
        if ((uint64_t)start >= size || end <= start)
            break;
        if (!add_extent(map, (uint64_t)start, (uint64_t)end))
            return false;
        at = (uint64_t)end;
    }
    return true;
}

/* GNU tar's sparse format 1.0: the map precedes the data, as lines of decimal numbers. */
static bool put_sparse(struct tar_entry *entry, int fd, uint64_t size, const struct map *map,
                       struct tar_records *records)
{
    char number[NUMBER_LINE], *text = calloc(map->count * 2 + 1, NUMBER_LINE);
    if (text == NULL)
        return false;
    int used = sprintf(text, "%zu\n", map->count);
    for (size_t i = 0; i < map->count; i++)
        used += sprintf(text + used, "%" PRIu64 "\n%" PRIu64 "\n", map->extents[i].start,
                        map->extents[i].size);
    uint64_t head = ((uint64_t)used + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
    snprintf(number, sizeof number, "%" PRIu64, size);
    bool good = tar_record(records, "GNU.sparse.major", "", "1", 1) &&
                tar_record(records, "GNU.sparse.minor", "", "0", 1) &&
                tar_record(records, "GNU.sparse.name", "", entry->path, strlen(entry->path)) &&
                tar_record(records, "GNU.sparse.realsize", "", number, strlen(number));
    entry->size = head + map->data;
    entry->records = records->bytes;
    entry->records_size = records->size;
    good = good && tar_header(entry) && tar_data(text, (size_t)used) && tar_pad((uint64_t)used);
    free(text);
    for (size_t i = 0; good && i < map->count; i++)
        good = copy(fd, map->extents[i].start, map->extents[i].size);
    return good && tar_pad(map->data);
}

bool contents_file(struct tar_entry *entry, int folder, const char *name, const struct stat *found)
{
    static struct tar_records records;
    static struct map map;
    const int flags = O_RDONLY | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK | O_NOATIME | O_CLOEXEC;
    records.size = 0;
    int fd = openat(folder, name, flags);
    if (fd < 0 || !attributes(fd, NULL, &records))
        return false;
    uint64_t size = (uint64_t)found->st_size;
    bool good = true, sparse = false;
    if ((uint64_t)found->st_blocks * TAR_BLOCK + HOLE_MIN < size) {
        good = find_extents(fd, size, &map);
        sparse = good && size - map.data >= HOLE_MIN;
    }
    if (sparse) {
        good = put_sparse(entry, fd, size, &map, &records);
    } else if (good) {
        entry->size = size;
        entry->records = records.bytes;
        entry->records_size = records.size;
        good = tar_header(entry) && copy(fd, 0, size) && tar_pad(size);
    }
    int error = errno;
    close_later(fd);
    errno = error;
    return good;
}

/* The text without the line; returns its new length. */
static size_t cut_line(char *text, size_t size, const char *line)
{
    size_t length = strlen(line);
    for (char *at = text; at < text + size;) {
        char *end = memchr(at, '\n', (size_t)(text + size - at));
        char *next = end != NULL ? end + 1 : text + size;
        if ((size_t)((end != NULL ? end : next) - at) == length && memcmp(at, line, length) == 0) {
            memmove(at, next, (size_t)(text + size - next));
            return size - (size_t)(next - at);
        }
        at = next;
    }
    return size;
}

bool contents_without_line(struct tar_entry *entry, int folder, const char *name, const char *line)
{
    static struct tar_records records;
    records.size = 0;
    char *text = malloc(SHORT_FILE);
    int fd = text != NULL ? openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (fd < 0 || !contents_attributes(folder, name, &records)) {
        free(text);
        return false;
    }
    size_t size = 0;
    for (ssize_t got; size < SHORT_FILE; size += (size_t)got)
        if ((got = read(fd, text + size, SHORT_FILE - size)) <= 0)
            break;
    close(fd);
    size = cut_line(text, size, line);
    entry->size = size;
    entry->records = records.bytes;
    entry->records_size = records.size;
    bool good = tar_header(entry) && tar_data(text, size) && tar_pad(size);
    free(text);
    return good;
}

struct name {
    dev_t device;
    ino_t inode;
    char path[];
};

static int compare(const void *one, const void *other)
{
    const struct name *a = one, *b = other;
    if (a->inode != b->inode)
        return a->inode < b->inode ? -1 : 1;
    return a->device < b->device ? -1 : a->device > b->device;
}

const char *contents_first_name(const struct stat *found, const char *path)
{
    static void *names;
    size_t size = strlen(path) + 1;
    struct name *name = malloc(sizeof *name + size);
    if (name == NULL || S_ISDIR(found->st_mode)) {
        free(name);
        return NULL;
    }
    name->device = found->st_dev;
    name->inode = found->st_ino;
    memcpy(name->path, path, size);
    struct name **there = tsearch(name, &names, compare);
    if (there == NULL || *there == name)
        return NULL;
    free(name);
    return (*there)->path;
}
