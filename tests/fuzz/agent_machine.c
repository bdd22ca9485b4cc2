/* Fuzzes the machine specification: what is accepted has terminated texts inside the buffer. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *begin, *end;

static void check(const char *text)
{
    assert(text != NULL && text >= begin && text <= end);
    assert(strlen(text) <= (size_t)(end - text));
}

static void check_optional(const char *text)
{
    if (text != NULL)
        check(text);
}

static void check_list(const struct text_list *list)
{
    assert(list->count <= list->limit);
    for (size_t i = 0; i < list->count; i++)
        check(list->items[i]);
}

static void check_machine(const struct machine_spec *spec)
{
    check_optional(spec->hostname);
    check_optional(spec->scratch);
    check_optional(spec->shell);
    assert(spec->layer_count > 0 && spec->layer_count <= LAYERS_MAX);
    for (size_t i = 0; i < spec->layer_count; i++) {
        check(spec->layers[i].device);
        check_optional(spec->layers[i].type);
    }
    assert(!spec->layer_is_root || spec->layer_count == 1);
    check_list(&spec->addresses);
    check_list(&spec->gateways);
    check_list(&spec->name_servers);
    check_list(&spec->search);
    check_list(&spec->hosts);
    for (size_t i = 0; i < spec->hosts.count; i++)
        assert(strchr(spec->hosts.items[i], '\n') == NULL);
    for (size_t i = 0; i < spec->share_count; i++) {
        check(spec->shares[i].type);
        check(spec->shares[i].source);
        check(spec->shares[i].target);
        check_optional(spec->shares[i].options);
        assert(spec->shares[i].target[0] == '/');
    }
    if (spec->uid != 0) {
        check(spec->user);
        check(spec->home);
        assert(strpbrk(spec->user, ":\n/") == NULL && strpbrk(spec->home, ":\n") == NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct machine_spec spec;
    uint8_t *bytes = malloc(size + 1);
    if (bytes == NULL)
        return 0;
    memcpy(bytes, data, size);
    begin = (const char *)bytes;
    end = begin + size;
    if (machine_decode(bytes, size, &spec) == NULL)
        check_machine(&spec);
    free(bytes);
    return 0;
}
