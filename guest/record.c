/* Records: the tagged values that specifications and results are made of. */
#include "record.h"

#include <string.h>

#include "frame.h"

int record_next(struct record_reader *reader, struct record *record)
{
    size_t left = reader->size - reader->at;
    if (left == 0)
        return 0;
    const uint8_t *at = reader->bytes + reader->at;
    if (left < RECORD_HEADER || get_u16(at + 2) != 0)
        return -1;
    record->tag = get_u16(at);
    record->length = get_u32(at + 4);
    record->data = at + RECORD_HEADER;
    if (record->length > left - RECORD_HEADER)
        return -1;
    reader->at += RECORD_HEADER + record->length;
    return 1;
}

static uint8_t *begin(struct record_writer *writer, uint16_t tag, size_t length)
{
    size_t left = writer->capacity - writer->used;
    if (left < RECORD_HEADER || left - RECORD_HEADER < length || length > UINT32_MAX)
        return NULL;
    uint8_t *at = writer->bytes + writer->used;
    put_u16(at, tag);
    put_u16(at + 2, 0);
    put_u32(at + 4, (uint32_t)length);
    writer->used += RECORD_HEADER + length;
    return at + RECORD_HEADER;
}

void record_put_number(struct record_writer *writer, uint16_t tag, uint64_t value)
{
    uint8_t *at = begin(writer, tag, 8);
    if (at != NULL)
        put_u64(at, value);
}

void record_put_text(struct record_writer *writer, uint16_t tag, const char *text, size_t length)
{
    uint8_t *at = begin(writer, tag, length);
    if (at != NULL && length > 0)
        memcpy(at, text, length);
}
