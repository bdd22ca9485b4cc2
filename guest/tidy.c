/* The builtin `tidy`: renames and deletions of an incremental archive of GNU tar.
 *
 *   tidy [SECONDS NANOSECONDS]
 *
 * Standard input has orders, made of texts that end with NUL: "M" FROM TO renames; "K" FOLDER NAME...
 * "" deletes what is in a folder and not named, if its status was last changed before that time:
 * what has come later was not deleted by the archive's maker. Other mounts are never entered, and
 * links are never followed.
 */
#include "tidy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "files.h"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif

enum { INPUT_MAX = 256 << 20, DEPTH_MAX = 500 };

static struct timespec limit;
static char *input;
static size_t input_size;

static bool wrong(const char *what, const char *path)
{
    fprintf(stderr, "%s %s: %s\n", what, path, strerror(errno));
    return false;
}

static bool read_input(void)
{
    for (size_t room = 0;;) {
        if (input_size + 1 >= room) {
            room = room * 2 + 65536;
            char *more = room <= INPUT_MAX ? realloc(input, room) : NULL;
            if (more == NULL) {
                errno = ENOMEM;
                return wrong("cannot read", "the orders");
            }
            input = more;
        }
        ssize_t got = read(STDIN_FILENO, input + input_size, room - input_size - 1);
        if (got < 0 && errno != EINTR)
            return wrong("cannot read", "the orders");
        if (got == 0)
            return true;
        input_size += got > 0 ? (size_t)got : 0;
    }
}

/* The text at `*at`; NULL at the end, or if it has no end. */
static const char *next(size_t *at)
{
    const char *text = input + *at;
    const char *end = *at < input_size ? memchr(text, 0, input_size - *at) : NULL;
    if (end == NULL)
        return NULL;
    *at += (size_t)(end - text) + 1;
    return text;
}

static int open_folder(int below, const char *path)
{
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV};
    return (int)syscall(SYS_openat2, below, path, &how, sizeof how);
}

static bool is_older(const struct stat *found)
{
    return found->st_ctim.tv_sec < limit.tv_sec ||
           (found->st_ctim.tv_sec == limit.tv_sec && found->st_ctim.tv_nsec <= limit.tv_nsec);
}

static int compare(const void *one, const void *other)
{
    return strcmp(*(const char *const *)one, *(const char *const *)other);
}

struct names {
    const char **items;
    size_t count;
};

static bool sweep(int folder, const struct names *kept, unsigned depth);

/* What cannot be deleted stays: a mount point, or a folder with something younger in it. */
static void delete(int folder, const char *name, unsigned depth)
{
    struct stat found;
    if (fstatat(folder, name, &found, AT_SYMLINK_NOFOLLOW) != 0)
        return;
    if (!S_ISDIR(found.st_mode)) {
        if (is_older(&found))
            unlinkat(folder, name, 0);
        return;
    }
    int inner = open_folder(folder, name);
    if (inner < 0)
        return;
    static const struct names none = {NULL, 0};
    bool was_older = is_older(&found);
    sweep(inner, &none, depth + 1);
    close(inner);
    if (was_older)
        unlinkat(folder, name, AT_REMOVEDIR);
}

static bool sweep(int folder, const struct names *kept, unsigned depth)
{
    int copy = depth < DEPTH_MAX ? openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    DIR *listing = copy >= 0 ? fdopendir(copy) : NULL;
    if (listing == NULL)
        return false;
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        if (kept->count > 0 &&
            bsearch(&name, kept->items, kept->count, sizeof *kept->items, compare) != NULL)
            continue;
        delete(folder, name, depth);
    }
    closedir(listing);
    return true;
}

static const char *relative(const char *path)
{
    while (path[0] == '/' || (path[0] == '.' && path[1] == '/'))
        path++;
    return path[0] != 0 ? path : ".";
}

static bool keep(int root, size_t *at)
{
    const char *path = next(at), *name;
    struct names kept = {NULL, 0};
    size_t room = 0;
    while ((name = path != NULL ? next(at) : NULL) != NULL && name[0] != 0) {
        if (kept.count == room) {
            room = room * 2 + 64;
            const char **items = realloc(kept.items, room * sizeof *items);
            if (items == NULL)
                return wrong("cannot hold the names of", path);
            kept.items = items;
        }
        kept.items[kept.count++] = name;
    }
    if (name == NULL) {
        errno = EPROTO;
        return wrong("cannot read", "the orders");
    }
    if (kept.count > 0)
        qsort(kept.items, kept.count, sizeof *kept.items, compare);
    int folder = open_folder(root, relative(path));
    if (folder >= 0) {
        sweep(folder, &kept, 0);
        close(folder);
    }
    free(kept.items);
    return true;
}

static bool move(int root, size_t *at)
{
    const char *from = next(at), *to = from != NULL ? next(at) : NULL;
    if (to == NULL) {
        errno = EPROTO;
        return wrong("cannot read", "the orders");
    }
    if (strstr(from, "..") != NULL || strstr(to, "..") != NULL) {
        errno = EINVAL;
        return wrong("cannot rename", from);
    }
    /* A folder that the base does not have any more cannot be renamed: not an error. */
    if (renameat(root, relative(from), root, relative(to)) != 0 && errno != ENOENT)
        return wrong("cannot rename", from);
    return true;
}

int tidy_main(char **argv)
{
    if (argv[1] != NULL && argv[2] != NULL)
        limit = (struct timespec){.tv_sec = strtoll(argv[1], NULL, 10),
                                  .tv_nsec = strtol(argv[2], NULL, 10)};
    int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = root >= 0 && read_input();
    for (size_t at = 0; good && at < input_size;) {
        const char *order = next(&at);
        if (order != NULL && strcmp(order, "K") == 0)
            good = keep(root, &at);
        else if (order != NULL && strcmp(order, "M") == 0)
            good = move(root, &at);
        else
            good = (errno = EPROTO, wrong("cannot read", "the orders"));
    }
    return good ? 0 : 1;
}
