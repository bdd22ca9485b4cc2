/* Reads a tar archive (ustar, POSIX pax). Pure: from bytes to structs. */
#include "untar.h"

#include <string.h>

static const char malformed[] = "the archive has a malformed record";

/* The fields of a header: where they begin, and how long they are. */
enum {
    NAME = 0, NAME_SIZE = 100, MODE = 100, UID = 108, GID = 116, SIZE = 124, MTIME = 136,
    CHECKSUM = 148, TYPE = 156, LINK = 157, MAGIC = 257, MAJOR = 329, MINOR = 337, PREFIX = 345,
    PREFIX_SIZE = 155, SHORT_NUMBER = 8, LONG_NUMBER = 12,
};

/* Octal digits, or a big-endian number marked by the first bit (GNU). */
static bool parse_number(const uint8_t *field, size_t width, uint64_t *number)
{
    uint64_t value = 0;
    size_t i = 0;
    if ((field[0] & 0x80) != 0) {
        for (value = field[0] & 0x7f, i = 1; i < width; i++) {
            if (value >> 55 != 0)
                return false;
            value = value << 8 | field[i];
        }
        *number = value;
        return true;
    }
    while (i < width && field[i] == ' ')
        i++;
    for (; i < width && field[i] >= '0' && field[i] <= '7'; i++)
        value = value << 3 | (uint64_t)(field[i] - '0');
    *number = value;
    return i == width || field[i] == 0 || field[i] == ' ';
}

static bool checksum_is_right(const uint8_t *block)
{
    uint64_t wanted, sum = 0;
    for (size_t i = 0; i < TAR_BLOCK; i++)
        sum += i >= CHECKSUM && i < CHECKSUM + SHORT_NUMBER ? ' ' : block[i];
    return parse_number(block + CHECKSUM, SHORT_NUMBER, &wanted) && wanted == sum;
}

static bool is_zero(const uint8_t *block)
{
    for (size_t i = 0; i < TAR_BLOCK; i++)
        if (block[i] != 0)
            return false;
    return true;
}

static size_t text_length(const uint8_t *field, size_t width)
{
    const uint8_t *end = memchr(field, 0, width);
    return end != NULL ? (size_t)(end - field) : width;
}

static void header_names(const uint8_t *block, struct tar_member *member)
{
    size_t used = 0;
    if (memcmp(block + MAGIC, "ustar", 6) == 0 && block[PREFIX] != 0) {
        used = text_length(block + PREFIX, PREFIX_SIZE);
        memcpy(member->path, block + PREFIX, used);
        member->path[used++] = '/';
    }
    size_t length = text_length(block + NAME, NAME_SIZE);
    memcpy(member->path + used, block + NAME, length);
    member->path[used + length] = 0;
    length = text_length(block + LINK, NAME_SIZE);
    memcpy(member->link, block + LINK, length);
    member->link[length] = 0;
}

struct pax {
    const char *name;
    size_t name_length;
    const uint8_t *value;
    size_t size;
};

/* "LENGTH NAME=VALUE\n" at `*at`. 1: read; 0: no more; -1: malformed. */
static int next_record(const uint8_t *bytes, size_t size, size_t *at, struct pax *pax)
{
    size_t length = 0, i = *at;
    if (i >= size || bytes[i] == 0)
        return 0;
    for (; i < size && bytes[i] >= '0' && bytes[i] <= '9'; i++) {
        length = length * 10 + (size_t)(bytes[i] - '0');
        if (length > size)
            return -1;
    }
    if (i == *at || i >= size || bytes[i] != ' ' || length > size - *at || length < i - *at + 3 ||
        bytes[*at + length - 1] != '\n')
        return -1;
    const uint8_t *name = bytes + i + 1, *end = bytes + *at + length - 1;
    const uint8_t *equals = memchr(name, '=', (size_t)(end - name));
    if (equals == NULL)
        return -1;
    *pax = (struct pax){(const char *)name, (size_t)(equals - name), equals + 1,
                        (size_t)(end - equals - 1)};
    *at += length;
    return 1;
}

static bool is_named(const struct pax *pax, const char *name)
{
    return pax->name_length == strlen(name) && memcmp(pax->name, name, pax->name_length) == 0;
}

static bool decimal(const uint8_t *text, size_t size, uint64_t *number)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9' || value > (UINT64_MAX - 9) / 10)
            return false;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    *number = value;
    return size > 0;
}

static bool parse_time(const uint8_t *text, size_t size, struct timespec *time)
{
    bool negative = size > 0 && text[0] == '-';
    const uint8_t *start = text + (negative ? 1 : 0);
    size -= negative ? 1 : 0;
    const uint8_t *point = size > 0 ? memchr(start, '.', size) : NULL;
    size_t whole = point != NULL ? (size_t)(point - start) : size;
    uint64_t seconds;
    if (!decimal(start, whole, &seconds) || seconds > INT64_MAX / 2)
        return false;
    long fraction = 0, unit = 100000000;
    for (size_t i = whole + 1; i < size; i++, unit /= 10) {
        if (start[i] < '0' || start[i] > '9')
            return false;
        fraction += (start[i] - '0') * unit;
    }
    *time = (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = fraction};
    if (negative)
        *time = (struct timespec){.tv_sec = -(time_t)seconds - (fraction > 0),
                                  .tv_nsec = fraction > 0 ? 1000000000 - fraction : 0};
    return true;
}

static bool copy_name(char *target, const struct pax *pax)
{
    if (pax->size >= PATH_MAX || memchr(pax->value, 0, pax->size) != NULL)
        return false;
    memcpy(target, pax->value, pax->size);
    target[pax->size] = 0;
    return true;
}

static bool use_record(const struct pax *pax, struct tar_member *member)
{
    if (is_named(pax, "path"))
        return copy_name(member->path, pax);
    if (is_named(pax, "linkpath"))
        return copy_name(member->link, pax);
    if (is_named(pax, "size"))
        return decimal(pax->value, pax->size, &member->size);
    if (is_named(pax, "uid"))
        return decimal(pax->value, pax->size, &member->uid);
    if (is_named(pax, "gid"))
        return decimal(pax->value, pax->size, &member->gid);
    if (is_named(pax, "mtime"))
        return parse_time(pax->value, pax->size, &member->time);
    return true;
}

const char *untar_header(const uint8_t *block, const uint8_t *records, size_t records_size,
                         struct tar_member *member)
{
    uint64_t mode, seconds, device[2];
    member->type = 0;
    member->records = records;
    member->records_size = records_size;
    if (is_zero(block))
        return NULL;
    if (!checksum_is_right(block))
        return "the archive is damaged: a header's checksum is wrong";
    if (!parse_number(block + MODE, SHORT_NUMBER, &mode) ||
        !parse_number(block + UID, SHORT_NUMBER, &member->uid) ||
        !parse_number(block + GID, SHORT_NUMBER, &member->gid) ||
        !parse_number(block + SIZE, LONG_NUMBER, &member->size) ||
        !parse_number(block + MTIME, LONG_NUMBER, &seconds) ||
        !parse_number(block + MAJOR, SHORT_NUMBER, &device[0]) ||
        !parse_number(block + MINOR, SHORT_NUMBER, &device[1]))
        return "the archive is damaged: a header has a malformed number";
    member->type = block[TYPE] == 0 ? (char)TAR_FILE : (char)block[TYPE];
    member->mode = (mode_t)(mode & 07777);
    member->time = (struct timespec){.tv_sec = (time_t)(seconds & INT64_MAX)};
    member->major = (unsigned)(device[0] & UINT32_MAX);
    member->minor = (unsigned)(device[1] & UINT32_MAX);
    header_names(block, member);
    struct pax pax;
    size_t at = 0;
    int got;
    while ((got = next_record(records, records_size, &at, &pax)) > 0)
        if (!use_record(&pax, member))
            return malformed;
    if (got < 0)
        return malformed;
    if (member->uid >= UINT32_MAX || member->gid >= UINT32_MAX || member->size > INT64_MAX)
        return "the archive has a number that is out of range";
    return NULL;
}

bool untar_attribute(const struct tar_member *member, size_t *at, struct tar_attribute *attribute)
{
    static const char prefix[] = "SCHILY.xattr.";
    const size_t length = sizeof prefix - 1;
    struct pax pax;
    while (next_record(member->records, member->records_size, at, &pax) > 0) {
        if (pax.name_length <= length || memcmp(pax.name, prefix, length) != 0)
            continue;
        *attribute = (struct tar_attribute){pax.name + length, pax.name_length - length, pax.value,
                                            pax.size};
        return true;
    }
    return false;
}
