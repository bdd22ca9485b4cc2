/* GUID partition tables: the last partition is given the rest of a disk that has grown. Pure. */
#ifndef APPPOT_GPT_H
#define APPPOT_GPT_H

#include <stddef.h>
#include <stdint.h>

enum {
    GPT_SECTOR = 512,
    /* The protective MBR, the header, and 128 entries. */
    GPT_HEAD = 34 * GPT_SECTOR,
    /* The entries, and the second header. */
    GPT_TAIL = 33 * GPT_SECTOR,
};

struct extent {
    uint64_t first, count;
};

/* Changes the first sectors of a disk of `sectors`, writes what its last ones have to be, and says
 * where partition `number` is from now on. No sectors: the table cannot be changed, or has nothing
 * to gain; then nothing has been written. */
struct extent gpt_grow(uint8_t *head, uint8_t *tail, uint64_t sectors, unsigned number);

#endif
