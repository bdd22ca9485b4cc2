/* Reads a tar archive (ustar, POSIX pax). Pure: from bytes to structs. */
#ifndef APPPOT_UNTAR_H
#define APPPOT_UNTAR_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "tar.h"

enum { UNTAR_RECORDS_MAX = 4 << 20 };

struct tar_member {
    /* A type of enum tar_type, 'x' or 'g' (records of the next entry, or of all), or 0: the end. */
    char type;
    mode_t mode;
    uint64_t uid, gid, size;
    struct timespec time;
    unsigned major, minor;
    char path[PATH_MAX], link[PATH_MAX];
    /* The pax records that the member had before its header; attributes are read from them. */
    const uint8_t *records;
    size_t records_size;
};

/* `records` (may be empty) take precedence over the header. NULL, or what is wrong. */
const char *untar_header(const uint8_t *block, const uint8_t *records, size_t records_size,
                         struct tar_member *member);

struct tar_attribute {
    const char *name;
    size_t name_length;
    const uint8_t *value;
    size_t size;
};

/* Steps through the extended attributes of a member: begin with `*at` = 0. */
bool untar_attribute(const struct tar_member *member, size_t *at, struct tar_attribute *attribute);

#endif
