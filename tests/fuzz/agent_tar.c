/* Fuzzes the reader of tar archives: what it accepts lies inside the buffers, and is terminated. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "untar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tar_member member;
    if (size < TAR_BLOCK)
        return 0;
    /* Copies of just the right size, so that the sanitizer sees each step beyond them. */
    size_t records_size = size - TAR_BLOCK;
    uint8_t *block = malloc(TAR_BLOCK), *records = malloc(records_size + 1);
    if (block != NULL && records != NULL) {
        memcpy(block, data, TAR_BLOCK);
        /* A fuzzer does not find the sums by itself. */
        unsigned sum = 8 * ' ';
        for (size_t i = 0; i < TAR_BLOCK; i++)
            sum += i >= 148 && i < 156 ? 0 : block[i];
        for (size_t i = 0; i < 6; i++)
            block[148 + i] = (uint8_t)('0' + (sum >> (3 * (5 - i)) & 7));
        block[154] = 0;
        block[155] = ' ';
        uint8_t *exact = realloc(records, records_size > 0 ? records_size : 1);
        records = exact != NULL ? exact : records;
        memcpy(records, data + TAR_BLOCK, records_size);
        if (untar_header(block, records, records_size, &member) == NULL && member.type != 0) {
            assert(strlen(member.path) < sizeof member.path);
            assert(strlen(member.link) < sizeof member.link);
            assert(member.size <= INT64_MAX && member.time.tv_nsec >= 0 &&
                   member.time.tv_nsec < 1000000000);
            struct tar_attribute attribute;
            for (size_t at = 0; untar_attribute(&member, &at, &attribute);)
                assert(attribute.value + attribute.size <= records + records_size);
        }
    }
    free(block);
    free(records);
    return 0;
}
