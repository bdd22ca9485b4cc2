/* What overlayfs notes in its upper folder, and how it compares with the layers below. */
#include "overlay.h"

#include <fcntl.h>
#include <linux/limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "machine.h"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

static const char opaque[] = "trusted.overlay.opaque", redirect[] = "trusted.overlay.redirect";

struct overlay_notes overlay_notes(int folder)
{
    static char names[XATTR_LIST_MAX];
    struct overlay_notes notes = {0};
    char value;
    ssize_t size = flistxattr(folder, names, sizeof names);
    if (size < 0)
        return notes;
    for (const char *at = names; at < names + size; at += strlen(at) + 1) {
        if (strcmp(at, opaque) == 0)
            notes.opaque = fgetxattr(folder, opaque, &value, 1) == 1 && value == 'y';
        else if (strcmp(at, redirect) == 0)
            notes.renamed = fgetxattr(folder, redirect, NULL, 0) > 0;
    }
    return notes;
}

static bool find(unsigned layer, const char *path, struct stat *found)
{
    char name[16];
    snprintf(name, sizeof name, "%u", layer);
    int root = openat(LAYERS_DESCRIPTOR, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return false;
    struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
                           .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH};
    int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof how);
    bool good = fd >= 0 && fstat(fd, found) == 0 && S_ISDIR(found->st_mode);
    if (fd >= 0)
        close(fd);
    close(root);
    return good;
}

bool overlay_lower(unsigned layers, const char *path, struct stat *found)
{
    for (unsigned i = layers; i > 0; i--)
        if (find(i - 1, path, found))
            return true;
    return false;
}

bool overlay_same_folder(const struct stat *one, const struct stat *other)
{
    return one->st_mode == other->st_mode && one->st_uid == other->st_uid &&
           one->st_gid == other->st_gid;
}
