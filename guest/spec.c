/* The two specifications that a host sends, decoded. */
#include "spec.h"

#include <string.h>

#include "frame.h"
#include "record.h"

enum kind { TEXT, LINE, NUMBER, FLAG };

struct field {
    uint16_t tag;
    enum kind kind;
    bool list;
};

static const char MALFORMED[] = "malformed record";

/* A LINE is a text that ends up in a file of lines, so a newline would forge another entry. */
static const char *check_value(const struct field *field, const struct record *record)
{
    switch (field->kind) {
    case TEXT:
    case LINE:
        if (memchr(record->data, 0, record->length) != NULL)
            return "NUL byte in a text";
        if (field->kind == LINE && memchr(record->data, '\n', record->length) != NULL)
            return "newline in a text of one line";
        return NULL;
    case NUMBER:
        return record->length == 8 ? NULL : "number not of 8 bytes";
    case FLAG:
        if (record->length != 8 || get_u64(record->data) > 1)
            return "flag neither 0 nor 1";
        return NULL;
    }
    return MALFORMED;
}

static const char *check_record(const struct field *fields, size_t count,
                                const struct record *record, uint64_t *seen)
{
    for (size_t i = 0; i < count; i++) {
        if (fields[i].tag != record->tag)
            continue;
        uint64_t bit = (uint64_t)1 << i;
        if (!fields[i].list && (*seen & bit) != 0)
            return "repeated record";
        *seen |= bit;
        return check_value(&fields[i], record);
    }
    return "unknown record tag";
}

static bool append(struct text_list *list, const char *text)
{
    if (list->count == list->limit)
        return false;
    list->items[list->count++] = text;
    return true;
}

static const struct field machine_fields[] = {
    {1, LINE, false},    {2, TEXT, true},     {3, TEXT, false},    {4, NUMBER, false},
    {5, TEXT, true},     {6, TEXT, true},     {7, TEXT, true},     {8, TEXT, true},
    {9, NUMBER, true},     {10, TEXT, true},    {11, TEXT, true},    {12, LINE, true},
    {13, LINE, true},    {14, LINE, true},    {15, NUMBER, false}, {16, NUMBER, true},
    {17, TEXT, true},    {18, FLAG, false},   {19, NUMBER, true},
    {20, NUMBER, false}, {21, NUMBER, false}, {22, LINE, false},   {23, LINE, false},
    {24, LINE, false},   {25, FLAG, false},   {26, FLAG, false},   {27, TEXT, true},
    {30, NUMBER, false},
};

static const char *share_record(struct machine_spec *spec, const struct record *record)
{
    const char *text = (const char *)record->data;
    if (record->tag == 5) {
        if (spec->share_count == SHARES_MAX)
            return "too many shared folders";
        spec->shares[spec->share_count++] = (struct share_spec){.type = text};
        return NULL;
    }
    if (spec->share_count == 0)
        return "record of a shared folder before its type";
    struct share_spec *share = &spec->shares[spec->share_count - 1];
    const char **place = record->tag == 6   ? &share->source
                         : record->tag == 7 ? &share->target
                         : record->tag == 8 ? &share->options
                                            : &share->part;
    if (record->tag == 9) {
        uint64_t flags = get_u64(record->data);
        share->read_only = (flags & 1) != 0;
        share->single_file = (flags & 2) != 0;
        return flags <= 3 ? NULL : "unknown flag of a shared folder";
    }
    if (*place != NULL)
        return "repeated record of a shared folder";
    *place = text;
    return NULL;
}

static const char *layer_record(struct machine_spec *spec, const struct record *record)
{
    if (record->tag == 2) {
        if (spec->layer_count == LAYERS_MAX)
            return "too many layers";
        spec->layers[spec->layer_count++] = (struct layer_spec){
            .device = (const char *)record->data, .type = NULL, .offset = 0, .size = 0};
        return NULL;
    }
    if (spec->layer_count == 0)
        return "record of a layer before its device";
    struct layer_spec *layer = &spec->layers[spec->layer_count - 1];
    if (record->tag == 16 || record->tag == 19) {
        *(record->tag == 16 ? &layer->offset : &layer->size) = get_u64(record->data);
        return NULL;
    }
    if (layer->type != NULL)
        return "repeated record of a layer";
    layer->type = (const char *)record->data;
    return NULL;
}

static const char *machine_record(struct machine_spec *spec, const struct record *record)
{
    static const char too_many[] = "too many records of one kind";
    const char *text = (const char *)record->data;
    switch (record->tag) {
    case 1: spec->hostname = text; return NULL;
    case 2:
    case 16:
    case 17:
    case 19: return layer_record(spec, record);
    case 3: spec->scratch = text; return NULL;
    case 4: spec->scratch_size = get_u64(record->data); return NULL;
    case 10: return append(&spec->addresses, text) ? NULL : too_many;
    case 11: return append(&spec->gateways, text) ? NULL : too_many;
    case 12: return append(&spec->name_servers, text) ? NULL : too_many;
    case 13: return append(&spec->search, text) ? NULL : too_many;
    case 14: return append(&spec->hosts, text) ? NULL : too_many;
    case 15: spec->mtu = get_u64(record->data); return NULL;
    case 18: spec->layer_is_root = get_u64(record->data) == 1; return NULL;
    case 20: spec->uid = get_u64(record->data); return NULL;
    case 21: spec->gid = get_u64(record->data); return NULL;
    case 22: spec->user = text; return NULL;
    case 23: spec->home = text; return NULL;
    case 24: spec->shell = text; return NULL;
    case 25: spec->may_become_root = get_u64(record->data) == 1; return NULL;
    case 26: spec->scratch_is_kept = get_u64(record->data) == 1; return NULL;
    case 30: spec->clock = get_u64(record->data); return NULL;
    default: return share_record(spec, record);
    }
}

static const char *machine_check(const struct machine_spec *spec)
{
    if (spec->layer_count == 0)
        return "machine without layers";
    if (spec->layer_is_root && spec->layer_count != 1)
        return "several layers cannot be the root themselves";
    for (size_t i = 0; i < spec->share_count; i++) {
        const struct share_spec *share = &spec->shares[i];
        if (share->source == NULL || share->target == NULL)
            return "shared folder without source or mount point";
        if (share->target[0] != '/')
            return "mount point of a shared folder is not absolute";
        const char *part = share->part;
        if (part != NULL && (part[0] == 0 || strchr(part, '/') != NULL ||
                             strcmp(part, ".") == 0 || strcmp(part, "..") == 0))
            return "part of a shared folder is not a name";
    }
    if (spec->uid >= UINT32_MAX || spec->gid >= UINT32_MAX || spec->mtu > UINT32_MAX)
        return "number out of range";
    if (spec->uid != 0) {
        if (spec->user == NULL || spec->home == NULL)
            return "user without name or home folder";
        if (spec->user[0] == 0 || strlen(spec->user) > 255 || strpbrk(spec->user, ":/") != NULL)
            return "name of the user cannot be used";
        if (spec->home[0] != '/' || strchr(spec->home, ':') != NULL)
            return "home folder of the user cannot be used";
        if (spec->shell != NULL && strchr(spec->shell, ':') != NULL)
            return "shell of the user cannot be used";
    }
    return NULL;
}

static struct text_list list_of(const char **items, size_t limit)
{
    return (struct text_list){.items = items, .count = 0, .limit = limit};
}

const char *machine_decode(uint8_t *bytes, size_t size, struct machine_spec *spec)
{
    memset(spec, 0, sizeof *spec);
    spec->addresses = list_of(spec->address_items, ADDRESSES_MAX);
    spec->gateways = list_of(spec->gateway_items, ADDRESSES_MAX);
    spec->name_servers = list_of(spec->server_items, RESOLVER_MAX);
    spec->search = list_of(spec->search_items, RESOLVER_MAX);
    spec->hosts = list_of(spec->hosts_items, HOSTS_MAX);
    struct record_reader reader = {.bytes = bytes, .size = size, .at = 0};
    struct record record;
    uint64_t seen = 0;
    int got;
    for (size_t end = 0; (got = record_next(&reader, &record)) > 0; end = reader.at) {
        if (end > 0)
            bytes[end] = 0;
        const char *why = check_record(machine_fields,
                                       sizeof machine_fields / sizeof *machine_fields, &record,
                                       &seen);
        if (why == NULL)
            why = machine_record(spec, &record);
        if (why != NULL)
            return why;
    }
    bytes[size] = 0;
    return got < 0 ? MALFORMED : machine_check(spec);
}

static const struct field command_fields[] = {
    {1, TEXT, true},    {2, TEXT, true},   {3, TEXT, false},   {4, NUMBER, false},
    {5, NUMBER, false}, {6, NUMBER, true}, {7, FLAG, false},   {8, NUMBER, false},
    {9, NUMBER, false}, {10, NUMBER, false}, {11, TEXT, false}, {12, TEXT, false},
};

static const char *command_record(struct command_spec *spec, const struct record *record)
{
    static const char range[] = "number out of range";
    uint64_t number = record->tag > 3 && record->tag < 11 ? get_u64(record->data) : 0;
    switch (record->tag) {
    case 1: spec->argc++; return NULL;
    case 2: spec->envc++; return NULL;
    case 3: spec->directory = (const char *)record->data; return NULL;
    case 4:
        spec->has_uid = true;
        spec->uid = (uint32_t)(number & UINT32_MAX);
        return number < UINT32_MAX ? NULL : range;
    case 5:
        spec->has_gid = true;
        spec->gid = (uint32_t)(number & UINT32_MAX);
        return number < UINT32_MAX ? NULL : range;
    case 6: spec->group_count++; return number < UINT32_MAX ? NULL : range;
    case 7: spec->terminal = number == 1; return NULL;
    case 8: spec->rows = (uint16_t)(number & UINT16_MAX); return number <= UINT16_MAX ? NULL : range;
    case 9:
        spec->columns = (uint16_t)(number & UINT16_MAX);
        return number <= UINT16_MAX ? NULL : range;
    case 11: spec->user = (const char *)record->data; return NULL;
    case 12: spec->builtin = (const char *)record->data; return NULL;
    default: spec->umask = (mode_t)(number & 0777); return number <= 0777 ? NULL : range;
    }
}

const char *command_decode(uint8_t *bytes, size_t size, struct command_spec *spec)
{
    *spec = (struct command_spec){.umask = 022};
    struct record_reader reader = {.bytes = bytes, .size = size, .at = 0};
    struct record record;
    uint64_t seen = 0;
    int got;
    while ((got = record_next(&reader, &record)) > 0) {
        const char *why = check_record(command_fields,
                                       sizeof command_fields / sizeof *command_fields, &record,
                                       &seen);
        if (why == NULL)
            why = command_record(spec, &record);
        if (why != NULL)
            return why;
    }
    if (got < 0)
        return MALFORMED;
    return spec->argc == 0 ? "command without arguments" : NULL;
}

void command_vectors(uint8_t *bytes, size_t size, char **argv, char **environment, gid_t *groups)
{
    struct record_reader reader = {.bytes = bytes, .size = size, .at = 0};
    struct record record;
    for (size_t end = 0; record_next(&reader, &record) > 0; end = reader.at) {
        if (end > 0)
            bytes[end] = 0;
        char *text = (char *)bytes + (record.data - bytes);
        if (record.tag == 1)
            *argv++ = text;
        else if (record.tag == 2)
            *environment++ = text;
        else if (record.tag == 6)
            *groups++ = (gid_t)get_u64(record.data);
    }
    bytes[size] = 0;
    *argv = NULL;
    *environment = NULL;
}
