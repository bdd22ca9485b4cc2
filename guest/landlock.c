/* Landlock: what a process and its children may reach, given up for good. */
#include "landlock.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel's headers of the build host may be older than the kernel that this runs on, so the
 * interface (linux/landlock.h) is written out here. */
enum { SYS_CREATE = 444, SYS_ADD = 445, SYS_RESTRICT = 446 };
enum { CREATE_VERSION = 1, RULE_PATH_BENEATH = 1 };

#define FS_EXECUTE (UINT64_C(1) << 0)
#define FS_WRITE_FILE (UINT64_C(1) << 1)
#define FS_READ_FILE (UINT64_C(1) << 2)
#define FS_READ_DIR (UINT64_C(1) << 3)
#define FS_REFER (UINT64_C(1) << 13)
#define FS_TRUNCATE (UINT64_C(1) << 14)
#define FS_IOCTL_DEV (UINT64_C(1) << 15)
#define FS_VERSION_1 ((UINT64_C(1) << 13) - 1)
#define NET_TCP (UINT64_C(3))
#define SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS (UINT64_C(3))

struct ruleset_attributes {
    uint64_t file_system, network, scope;
};

struct __attribute__((packed)) path_rule {
    uint64_t allowed;
    int32_t fd;
};

static uint64_t known_rights(int version)
{
    uint64_t rights = FS_VERSION_1;
    if (version >= 2)
        rights |= FS_REFER;
    if (version >= 3)
        rights |= FS_TRUNCATE;
    if (version >= 5)
        rights |= FS_IOCTL_DEV;
    return rights;
}

int landlock_version(void)
{
    long version = syscall(SYS_CREATE, NULL, (size_t)0, CREATE_VERSION);
    return version < 0 ? 0 : (int)version;
}

int landlock_make(int version, bool no_tcp)
{
    struct ruleset_attributes attributes = {.file_system = known_rights(version)};
    size_t size = offsetof(struct ruleset_attributes, network);
    if (version >= 4) {
        attributes.network = no_tcp ? NET_TCP : 0;
        size = offsetof(struct ruleset_attributes, scope);
    }
    if (version >= 6) {
        attributes.scope = SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS;
        size = sizeof attributes;
    }
    return (int)syscall(SYS_CREATE, &attributes, size, 0);
}

static uint64_t rights_for(enum access access, bool folder)
{
    const uint64_t read = FS_READ_FILE | (folder ? FS_READ_DIR : 0);
    switch (access) {
    case ACCESS_LIST: return folder ? FS_READ_DIR : 0;
    case ACCESS_READ: return read;
    case ACCESS_EXECUTE: return read | FS_EXECUTE;
    case ACCESS_WRITE: break;
    }
    if (!folder)
        return read | FS_WRITE_FILE | FS_TRUNCATE | FS_IOCTL_DEV;
    /* All but running programs and talking to devices that may lie there. */
    return (FS_VERSION_1 & ~FS_EXECUTE) | FS_REFER | FS_TRUNCATE;
}

int landlock_allow(int ruleset, int version, int fd, enum access access)
{
    struct stat found;
    if (fstat(fd, &found) != 0)
        return -1;
    struct path_rule rule = {
        .allowed = rights_for(access, S_ISDIR(found.st_mode)) & known_rights(version),
        .fd = fd,
    };
    long done = syscall(SYS_ADD, ruleset, RULE_PATH_BENEATH, &rule, 0);
    /* Pipes, sockets and anonymous files are in no folder: Landlock leaves them alone. */
    return done != 0 && errno == EBADFD ? 0 : (int)done;
}

int landlock_enforce(int ruleset)
{
    return (int)syscall(SYS_RESTRICT, ruleset, 0);
}
