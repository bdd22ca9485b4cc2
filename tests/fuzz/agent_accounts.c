/* Fuzzes the reading of account files: an image's /etc/passwd and /etc/group may hold anything. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char wanted[16];
    size_t length = size > 0 ? data[0] % sizeof wanted : 0;
    if (size < 1 + length)
        return 0;
    memcpy(wanted, data + 1, length);
    wanted[length] = 0;
    size -= 1 + length;
    char *bytes = malloc(size + 1);
    if (bytes == NULL)
        return 0;
    memcpy(bytes, data + 1 + length, size);
    struct table table = {.bytes = bytes, .size = size};
    struct slice line = {0}, found;
    size_t lines = 0;
    while (table_next(table, &line)) {
        assert(line.start >= bytes && line.start + line.length <= bytes + size);
        assert(memchr(line.start, '\n', line.length) == NULL);
        for (int i = 0; i < 9; i++) {
            unsigned number;
            struct slice field = table_field(line, i);
            assert(field.start >= line.start);
            assert(field.start + field.length <= line.start + line.length);
            if (slice_number(field, &number))
                assert(number != 0xffffffffu);
        }
        assert(++lines <= size);
    }
    for (int i = 0; i < 4; i++)
        if (table_find(table, i, wanted, &found))
            assert(slice_is(table_field(found, i), wanted));
    free(bytes);
    return 0;
}
