/* Writes a tar archive (POSIX pax) to a descriptor. */
#ifndef APPPOT_TAR_H
#define APPPOT_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

enum { TAR_BLOCK = 512 };

enum tar_type {
    TAR_FILE = '0',
    TAR_HARD_LINK = '1',
    TAR_SYMBOLIC_LINK = '2',
    TAR_CHARACTER_DEVICE = '3',
    TAR_BLOCK_DEVICE = '4',
    TAR_FOLDER = '5',
    TAR_FIFO = '6',
    TAR_DUMPED_FOLDER = 'D', /* GNU tar's: with the names of what is in it */
};

struct tar_entry {
    const char *path, *link;
    enum tar_type type;
    mode_t mode;
    uid_t uid;
    gid_t gid;
    uint64_t size;
    struct timespec time;
    unsigned major, minor;
    /* More pax records (tar_record()): extended attributes, or a map of holes. */
    const uint8_t *records;
    size_t records_size;
};

/* Where pax records are gathered. */
struct tar_records {
    uint8_t *bytes;
    size_t size, room;
};

/* Adds one pax record; false if there is no memory. */
bool tar_record(struct tar_records *records, const char *name, const char *suffix,
                const void *value, size_t size);

/* All return false once a write has failed, with the reason in errno. */
bool tar_begin(int fd);
bool tar_header(const struct tar_entry *entry);
bool tar_data(const void *bytes, size_t size);
/* Where data can be put without a copy: *room bytes, at most `wanted`, at least one; NULL once a
 * write has failed. tar_filled() says how much was put there. */
uint8_t *tar_room(uint64_t wanted, size_t *room);
void tar_filled(size_t size);
/* Fills the last block of `size` bytes of data. */
bool tar_pad(uint64_t size);
bool tar_end(void);

#endif
