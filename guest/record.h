/* Records: the tagged values that specifications and results are made of. Pure. */
#ifndef APPPOT_RECORD_H
#define APPPOT_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORD_HEADER 8u

struct record {
    uint16_t tag;
    uint32_t length;
    const uint8_t *data;
};

struct record_reader {
    const uint8_t *bytes;
    size_t size;
    size_t at;
};

/* 1: `*record` is the next record; 0: there are no more; -1: the bytes are no record. */
int record_next(struct record_reader *reader, struct record *record);

struct record_writer {
    uint8_t *bytes;
    size_t capacity;
    size_t used;
};

/* Both leave the record out if it does not fit, so that what is written is always well formed. */
void record_put_number(struct record_writer *writer, uint16_t tag, uint64_t value);
void record_put_text(struct record_writer *writer, uint16_t tag, const char *text, size_t length);

#endif
