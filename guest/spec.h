/* The two specifications that a host sends, decoded. Pure: from bytes to structs. */
#ifndef APPPOT_SPEC_H
#define APPPOT_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SPEC_MAX (8u << 20)

enum {
    LAYERS_MAX = 256,
    SHARES_MAX = 64,
    ADDRESSES_MAX = 16,
    RESOLVER_MAX = 32,
    HOSTS_MAX = 256,
};

struct text_list {
    const char **items;
    size_t count;
    size_t limit;
};

struct share_spec {
    const char *type, *source, *target, *options;
    /* The one file of the source that is mounted; NULL: the source is it. */
    const char *part;
    bool read_only, single_file;
};

struct layer_spec {
    const char *device, *type;
    /* Bytes before the file system in the device, and its own: 0: up to the end. */
    uint64_t offset, size;
};

struct machine_spec {
    const char *hostname;
    struct layer_spec layers[LAYERS_MAX];
    size_t layer_count;
    /* No overlay: the only layer is the root, and is written to. */
    bool layer_is_root;
    const char *scratch;
    uint64_t scratch_size;
    /* Scratch outlives the machine, and is used by others after it. */
    bool scratch_is_kept;
    struct text_list addresses, gateways, name_servers, search, hosts;
    struct share_spec shares[SHARES_MAX];
    size_t share_count;
    uint64_t mtu;
    uint64_t uid, gid;
    const char *user, *home, *shell;
    bool may_become_root;
    uint64_t clock;
    const char *address_items[ADDRESSES_MAX], *gateway_items[ADDRESSES_MAX];
    const char *server_items[RESOLVER_MAX], *search_items[RESOLVER_MAX];
    const char *hosts_items[HOSTS_MAX];
};

struct command_spec {
    size_t argc, envc, group_count;
    const char *directory;
    /* A builtin of the agent's, whose arguments `argv` holds; NULL: a program of the guest's. */
    const char *builtin;
    /* A name to look up in the guest; NULL: the numbers below. */
    const char *user;
    bool has_uid, has_gid;
    uint32_t uid, gid;
    bool terminal;
    uint16_t rows, columns;
    mode_t umask;
};

/* Both need one writable byte behind the specification (`bytes[size]`): texts get their
 * terminating NUL in place, over what has already been read. The structs then point into `bytes`.
 * They return NULL, or what is wrong. */
const char *machine_decode(uint8_t *bytes, size_t size, struct machine_spec *spec);
const char *command_decode(uint8_t *bytes, size_t size, struct command_spec *spec);

/* After command_decode() has counted and accepted them: fills `argv` (argc + 1 places),
 * `environment` (envc + 1) and `groups`, and terminates every text of the specification. */
void command_vectors(uint8_t *bytes, size_t size, char **argv, char **environment, gid_t *groups);

#endif
