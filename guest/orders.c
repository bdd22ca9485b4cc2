/* What an exported disk's machine is to be and do: the records on its partition for orders. */
#include "orders.h"

#include <string.h>

#include "frame.h"
#include "record.h"
#include "spec.h"

enum { MACHINE = 1, PAYLOAD = 2, LOGIN = 3, STAYS = 4, NETWORK = 5, SCRIPT = 6, SSH = 7, KEY = 8 };

size_t orders_size(const uint8_t *header)
{
    if (memcmp(header, ORDERS_MAGIC, sizeof ORDERS_MAGIC - 1) != 0)
        return 0;
    uint64_t size = get_u64(header + sizeof ORDERS_MAGIC - 1);
    return size <= 3 * (SPEC_MAX + RECORD_HEADER) ? (size_t)size : 0;
}

static bool number_is_set(const struct record *record, const char **why)
{
    if (record->length != 8)
        *why = "a number of the wrong length";
    return record->length == 8 && get_u64(record->data) != 0;
}

const char *orders_decode(const uint8_t *bytes, size_t size, struct orders *orders)
{
    *orders = (struct orders){0};
    struct record_reader reader = {.bytes = bytes, .size = size};
    struct record record;
    const char *why = NULL;
    int got = 0;
    while (why == NULL && (got = record_next(&reader, &record)) > 0) {
        struct bytes content = {record.data, record.length};
        switch (record.tag) {
        case MACHINE: orders->machine = content; break;
        case PAYLOAD: orders->payload = content; break;
        case SCRIPT: orders->script = content; break;
        case SSH: orders->ssh = content; break;
        case KEY: orders->key = content; break;
        case LOGIN: orders->login = content; break;
        case STAYS: orders->stays = number_is_set(&record, &why); break;
        case NETWORK: orders->network = number_is_set(&record, &why); break;
        default: why = "an unknown record"; break;
        }
        if (content.size > SPEC_MAX)
            why = "a specification that is too long";
    }
    if (why == NULL && got < 0)
        why = "bytes that are no record";
    if (why == NULL && orders->machine.size == 0)
        why = "no machine in it";
    if (why == NULL && orders->payload.size == 0)
        why = "no command for scripts in it";
    return why;
}
