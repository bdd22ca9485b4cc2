/* What overlayfs notes in its upper folder, and how it compares with the layers below. */
#include "overlay.h"

#include <fcntl.h>
#include <linux/limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "machine.h"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

static const char note[] = "trusted.overlay.";
static const char opaque[] = "trusted.overlay.opaque", redirect[] = "trusted.overlay.redirect";

bool overlay_is_note(const char *name)
{
    return strncmp(name, note, sizeof note - 1) == 0;
}

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

static int find(unsigned layer, const char *path)
{
    char name[16];
    snprintf(name, sizeof name, "%u", layer);
    int root = openat(LAYERS_DESCRIPTOR, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return -1;
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
                           .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH};
    int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof how);
    close(root);
    return fd;
}

int overlay_lower(unsigned layers, const char *path)
{
    int fd = -1;
    for (unsigned i = layers; i > 0 && fd < 0; i--)
        fd = find(i - 1, path);
    return fd;
}

static bool same_value(int one, int other, const char *name)
{
    static char values[2][XATTR_SIZE_MAX];
    ssize_t size = fgetxattr(one, name, values[0], sizeof values[0]);
    return size >= 0 && fgetxattr(other, name, values[1], sizeof values[1]) == size &&
           memcmp(values[0], values[1], (size_t)size) == 0;
}

/* Whether the other has all attributes of this one, overlayfs's notes aside. */
static bool has_all(int one, int other)
{
    static char names[XATTR_LIST_MAX];
    ssize_t size = flistxattr(one, names, sizeof names);
    if (size < 0)
        return true; /* its file system has none */
    for (const char *at = names; at < names + size; at += strlen(at) + 1)
        if (!overlay_is_note(at) && !same_value(one, other, at))
            return false;
    return true;
}

bool overlay_same_folder(int one, int other)
{
    struct stat found, lower;
    return fstat(one, &found) == 0 && fstat(other, &lower) == 0 &&
           found.st_mode == lower.st_mode && found.st_uid == lower.st_uid &&
           found.st_gid == lower.st_gid && has_all(one, other) && has_all(other, one);
}
