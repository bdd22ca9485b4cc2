/* Fuzzes the command specification: the vectors are as long as counted, their texts terminated. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "record.h"
#include "spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_vector(char *const *vector, size_t count, const uint8_t *bytes, size_t size)
{
    const char *begin = (const char *)bytes;
    for (size_t i = 0; i < count; i++) {
        assert(vector[i] >= begin && vector[i] <= begin + size);
        assert(strlen(vector[i]) <= size - (size_t)(vector[i] - begin));
    }
    assert(vector[count] == NULL);
}

/* The texts are those of the records, byte for byte and in order. */
static void check_arguments(const uint8_t *data, size_t size, char *const *argv)
{
    struct record_reader reader = {.bytes = data, .size = size};
    struct record record;
    while (record_next(&reader, &record) > 0) {
        if (record.tag != 1)
            continue;
        assert(strlen(*argv) == record.length);
        assert(memcmp(*argv, record.data, record.length) == 0);
        argv++;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct command_spec spec;
    uint8_t *bytes = malloc(size + 1);
    if (bytes == NULL)
        return 0;
    memcpy(bytes, data, size);
    if (command_decode(bytes, size, &spec) == NULL) {
        assert(spec.argc > 0 && (spec.argc + spec.envc + spec.group_count) * 8 <= size);
        assert(spec.umask <= 0777);
        char **argv = calloc(spec.argc + 1, sizeof *argv);
        char **environment = calloc(spec.envc + 1, sizeof *environment);
        gid_t *groups = calloc(spec.group_count + 1, sizeof *groups);
        command_vectors(bytes, size, argv, environment, groups);
        check_vector(argv, spec.argc, bytes, size);
        check_vector(environment, spec.envc, bytes, size);
        check_arguments(data, size, argv);
        if (spec.directory != NULL)
            assert(strlen(spec.directory) <= size);
        if (spec.user != NULL)
            assert(strlen(spec.user) <= size);
        free(argv);
        free(environment);
        free(groups);
    }
    free(bytes);
    return 0;
}
