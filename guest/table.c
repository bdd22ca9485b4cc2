/* The account files: lines of fields separated by colons. */
#include "table.h"

#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct table table_map(const char *path)
{
    struct table table = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat found;
    if (fd >= 0 && fstat(fd, &found) == 0 && S_ISREG(found.st_mode) && found.st_size > 0) {
        void *bytes = mmap(NULL, (size_t)found.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes != MAP_FAILED)
            table = (struct table){.bytes = bytes, .size = (size_t)found.st_size};
    }
    if (fd >= 0)
        close(fd);
    return table;
}

void table_unmap(struct table table)
{
    if (table.size > 0)
        munmap((void *)(uintptr_t)table.bytes, table.size);
}

bool table_next(struct table table, struct slice *line)
{
    size_t at = line->start == NULL ? 0 : (size_t)(line->start - table.bytes) + line->length + 1;
    if (at >= table.size)
        return false;
    const char *start = table.bytes + at;
    const char *end = memchr(start, '\n', table.size - at);
    line->start = start;
    line->length = end != NULL ? (size_t)(end - start) : table.size - at;
    return true;
}

struct slice table_field(struct slice line, int number)
{
    for (;;) {
        const char *colon = line.length > 0 ? memchr(line.start, ':', line.length) : NULL;
        size_t length = colon != NULL ? (size_t)(colon - line.start) : line.length;
        if (number-- == 0)
            return (struct slice){.start = line.start, .length = length};
        if (colon == NULL)
            return (struct slice){.start = line.start, .length = 0};
        line.start += length + 1;
        line.length -= length + 1;
    }
}

bool table_find(struct table table, int number, const char *wanted, struct slice *line)
{
    *line = (struct slice){0};
    while (table_next(table, line))
        if (slice_is(table_field(*line, number), wanted))
            return true;
    return false;
}

bool slice_is(struct slice slice, const char *text)
{
    return slice.length == strlen(text) && memcmp(slice.start, text, slice.length) == 0;
}

bool slice_number(struct slice slice, unsigned *number)
{
    uint64_t value = 0;
    for (size_t i = 0; i < slice.length; i++) {
        if (slice.start[i] < '0' || slice.start[i] > '9' || value > UINT_MAX)
            return false;
        value = value * 10 + (uint64_t)(slice.start[i] - '0');
    }
    *number = (unsigned)(value & UINT_MAX);
    return slice.length > 0 && value < UINT_MAX;
}
