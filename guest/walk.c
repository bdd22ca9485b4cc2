/* Walks through a folder and writes what it finds to a tar archive. */
#include "walk.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "contents.h"
#include "dump.h"
#include "listing.h"
#include "made.h"
#include "overlay.h"

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif

enum { DEPTH_MAX = 1000 };

/* A folder under way. Its header is written when something in it is. */
struct folder {
    struct folder *parent;
    const struct stat *found;
    int fd;
    bool written;
    /* Nothing of the layers shows through. */
    bool is_new;
    unsigned depth;
    size_t length;
};

/* The path of what is looked at, without a slash before it; "" is the top. */
static char path[PATH_MAX];
/* Where folders' names are looked up for `walk.dump`; -1: no names. */
static int dump_merged = -1;

static bool walk_folder(struct walk *walk, struct folder *folder, bool overlay);

static bool stop(struct walk *walk)
{
    int error = errno;
    snprintf(walk->failed_at, sizeof walk->failed_at, "/%s", path);
    errno = error;
    return false;
}

int walk_open_tree(const char *at)
{
    return (int)syscall(SYS_open_tree, AT_FDCWD, at, OPEN_TREE_CLONE | O_CLOEXEC);
}

int walk_open_inside(int root, const char *at)
{
    struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_IN_ROOT};
    return (int)syscall(SYS_openat2, root, at, &how, sizeof how);
}

static bool is_excluded(const struct walk *walk)
{
    for (char **pattern = walk->excludes; pattern != NULL && *pattern != NULL; pattern++)
        if (fnmatch(*pattern, path, 0) == 0)
            return true;
    return false;
}

static struct tar_entry entry_of(const struct stat *found)
{
    return (struct tar_entry){
        .path = path[0] != 0 ? path : ".",
        .mode = found->st_mode,
        .uid = found->st_uid,
        .gid = found->st_gid,
        .time = found->st_mtim,
    };
}

static bool dump(struct tar_entry *entry, int folder)
{
    int merged = openat(dump_merged, entry->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool good = merged >= 0 && dump_folder(entry, merged, folder);
    if (merged >= 0)
        close(merged);
    return good;
}

/* With the extended attributes of the open file, or of the path in the folder. */
static bool put(struct tar_entry *entry, int folder, const char *name)
{
    static struct tar_records records;
    records.size = 0;
    if (!contents_attributes(folder, name, &records))
        return false;
    entry->records = records.bytes;
    entry->records_size = records.size;
    if (entry->type == TAR_FOLDER && dump_merged >= 0)
        return dump(entry, folder);
    return tar_header(entry);
}

static bool write_folders(struct folder *folder)
{
    if (folder == NULL || folder->written)
        return true;
    if (!write_folders(folder->parent))
        return false;
    char whole[PATH_MAX];
    memcpy(whole, path, sizeof whole);
    path[folder->length] = 0;
    struct tar_entry entry = entry_of(folder->found);
    entry.type = TAR_FOLDER;
    bool good = put(&entry, folder->fd, ".");
    memcpy(path, whole, sizeof whole);
    folder->written = true;
    return good;
}

/* An empty file with a meaning. `name` takes the place of the path's last part, or follows it. */
static bool write_mark(struct folder *folder, const char *prefix, const char *name)
{
    if (dump_merged >= 0)
        return write_folders(folder);
    char mark[PATH_MAX + 16];
    char at[PATH_MAX];
    memcpy(at, path, sizeof at);
    at[folder->length] = 0;
    snprintf(mark, sizeof mark, "%s%s%s%s", at, at[0] != 0 ? "/" : "", prefix, name);
    struct tar_entry entry = {.path = mark, .type = TAR_FILE, .mode = 0644};
    return write_folders(folder) && tar_header(&entry);
}

static bool write_special(struct folder *folder, const char *name, const struct stat *found)
{
    struct tar_entry entry = entry_of(found);
    char target[PATH_MAX];
    if (S_ISLNK(found->st_mode)) {
        ssize_t length = readlinkat(folder->fd, name, target, sizeof target - 1);
        if (length < 0)
            return false;
        target[length] = 0;
        entry.link = target;
        entry.type = TAR_SYMBOLIC_LINK;
    } else if (S_ISFIFO(found->st_mode)) {
        entry.type = TAR_FIFO;
    } else {
        entry.type = S_ISCHR(found->st_mode) ? TAR_CHARACTER_DEVICE : TAR_BLOCK_DEVICE;
        entry.major = major(found->st_rdev);
        entry.minor = minor(found->st_rdev);
    }
    return put(&entry, folder->fd, name);
}

static bool write_file(struct folder *folder, const char *name, const struct stat *found)
{
    struct tar_entry entry = entry_of(found);
    entry.type = TAR_FILE;
    const char *line = made_line_of(path);
    if (line != NULL)
        return contents_without_line(&entry, folder->fd, name, line);
    return contents_file(&entry, folder->fd, name, found);
}

static bool write_entry(struct walk *walk, struct folder *folder, const char *name,
                        const struct stat *found)
{
    if (S_ISSOCK(found->st_mode))
        return true;
    if (!write_folders(folder))
        return stop(walk);
    const char *first = found->st_nlink > 1 ? contents_first_name(found, path) : NULL;
    bool good;
    if (first != NULL) {
        struct tar_entry entry = entry_of(found);
        entry.type = TAR_HARD_LINK;
        entry.link = first;
        good = tar_header(&entry);
    } else {
        good = S_ISREG(found->st_mode) ? write_file(folder, name, found)
                                       : write_special(folder, name, found);
    }
    return good ? true : stop(walk);
}

/* In the place of a folder that was renamed: what it holds, from the tree as the guest sees it. */
static bool walk_renamed(struct walk *walk, struct folder *below)
{
    struct folder folder = *below;
    folder.fd = openat(walk->merged, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    folder.is_new = true;
    bool good = folder.fd >= 0 && walk_folder(walk, &folder, false);
    if (folder.fd >= 0)
        close(folder.fd);
    return good ? true : stop(walk);
}

/* A folder of the upper folder: what it says about the layers' folder of that name. */
static bool walk_overlaid(struct walk *walk, struct folder *folder, const struct stat *found)
{
    struct overlay_notes notes = overlay_notes(folder->fd);
    if (walk->exact) {
        bool good = write_folders(folder) &&
                    (!notes.opaque || write_mark(folder, "", ".wh..wh..opq"));
        return good ? walk_folder(walk, folder, true) : stop(walk);
    }
    int lower =
        folder->is_new ? -1 : overlay_lower(walk->layers, path[0] != 0 ? path : ".");
    bool over = lower >= 0;
    folder->is_new = folder->is_new || !over || notes.opaque || notes.renamed;
    bool own = walk->leave_made_out && made_is_untouched(path, found);
    bool changed = !own && (!over || !overlay_same_folder(folder->fd, lower));
    if (over)
        close(lower);
    if ((changed || notes.renamed || (over && notes.opaque)) && !write_folders(folder))
        return stop(walk);
    if (over && (notes.opaque || notes.renamed) && !write_mark(folder, "", ".wh..wh..opq"))
        return stop(walk);
    return notes.renamed ? walk_renamed(walk, folder) : walk_folder(walk, folder, true);
}

static bool descend(struct walk *walk, struct folder *parent, const char *name,
                    const struct stat *found, bool overlay)
{
    struct folder folder = {.parent = parent,
                            .found = found,
                            .is_new = parent->is_new,
                            .depth = parent->depth + 1,
                            .length = strlen(path)};
    if (folder.depth > DEPTH_MAX) {
        errno = ELOOP;
        return stop(walk);
    }
    folder.fd = openat(parent->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder.fd < 0)
        return stop(walk);
    bool good = overlay ? walk_overlaid(walk, &folder, found)
                        : write_folders(&folder) && walk_folder(walk, &folder, false);
    close(folder.fd);
    return good;
}

static bool walk_one(struct walk *walk, struct folder *folder, const char *name, bool overlay)
{
    struct stat found;
    if (fstatat(folder->fd, name, &found, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? true : stop(walk); /* it has just gone */
    if (is_excluded(walk))
        return true;
    if (S_ISDIR(found.st_mode))
        return descend(walk, folder, name, &found, overlay);
    if (overlay && S_ISCHR(found.st_mode) && found.st_rdev == 0) {
        if (folder->is_new)
            return true;
        return write_mark(folder, ".wh.", name) ? true : stop(walk);
    }
    if (walk->leave_made_out && made_is_untouched(path, &found))
        return true;
    return write_entry(walk, folder, name, &found);
}

static bool walk_folder(struct walk *walk, struct folder *folder, bool overlay)
{
    struct listing listing;
    if (!listing_read(&listing, folder->fd, overlay))
        return stop(walk);
    bool good = true;
    for (size_t i = 0; good && i < listing.count; i++) {
        const char *name = listing.files[i].name;
        size_t length = folder->length;
        if (length + strlen(name) + 2 > sizeof path) {
            errno = ENAMETOOLONG;
            good = stop(walk);
            break;
        }
        snprintf(path + length, sizeof path - length, "%s%s", length > 0 ? "/" : "", name);
        good = walk_one(walk, folder, name, overlay);
        path[length] = 0;
    }
    int error = errno;
    listing_free(&listing);
    errno = error;
    return good;
}

bool walk_upper(struct walk *walk, int fd)
{
    struct stat found;
    if (fstat(fd, &found) != 0)
        return stop(walk);
    path[0] = 0;
    dump_merged = walk->dump ? walk->merged : -1;
    struct folder top = {.found = &found, .fd = fd};
    return walk_overlaid(walk, &top, &found);
}

bool walk_tree(struct walk *walk, const char *wanted)
{
    struct stat found;
    while (wanted[0] == '/' || (wanted[0] == '.' && wanted[1] == '/'))
        wanted++;
    if (strlen(wanted) >= sizeof path) {
        errno = ENAMETOOLONG;
        return stop(walk);
    }
    bool whole = wanted[0] == 0 || strcmp(wanted, ".") == 0;
    strcpy(path, whole ? "" : wanted);
    if (fstatat(walk->merged, whole ? "." : path, &found, AT_SYMLINK_NOFOLLOW) != 0)
        return stop(walk);
    struct stat top_found;
    if (fstat(walk->merged, &top_found) != 0)
        return stop(walk);
    struct folder top = {.found = &top_found, .fd = walk->merged, .written = !whole, .is_new = true};
    if (whole)
        return lseek(walk->merged, 0, SEEK_SET) == 0 && write_folders(&top) &&
               walk_folder(walk, &top, false);
    if (S_ISDIR(found.st_mode))
        return descend(walk, &top, path, &found, false);
    return write_entry(walk, &top, path, &found);
}

/* What `walk_file` has written last: the folders above it need not be written again. */
static char last_file[PATH_MAX];

static bool write_last(struct walk *walk, struct folder *folder, const char *name,
                       const struct stat *found)
{
    if (S_ISDIR(found->st_mode) || S_ISSOCK(found->st_mode))
        return true;
    strcpy(last_file, path);
    return write_entry(walk, folder, name, found);
}

/* Without following links: a file is at one place alone. */
static bool walk_down(struct walk *walk, struct folder *parent, const char *rest)
{
    char name[NAME_MAX + 1];
    size_t size = strcspn(rest, "/"), before = strlen(path);
    if (size == 0 || size > NAME_MAX)
        return true;
    memcpy(name, rest, size);
    name[size] = 0;
    snprintf(path + before, sizeof path - before, "%s%s", before > 0 ? "/" : "", name);
    struct stat found;
    if (fstatat(parent->fd, name, &found, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? true : stop(walk);
    if (rest[size] == 0)
        return write_last(walk, parent, name, &found);
    if (!S_ISDIR(found.st_mode))
        return true;
    size_t length = before + size + (before > 0);
    bool again = strncmp(last_file, path, length) == 0 && last_file[length] == '/';
    struct folder folder = {
        .parent = parent, .found = &found, .is_new = true, .written = again, .length = length};
    folder.fd = openat(parent->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder.fd < 0)
        return stop(walk);
    bool good = walk_down(walk, &folder, rest + size + 1);
    close(folder.fd);
    return good;
}

bool walk_file(struct walk *walk, const char *wanted)
{
    struct folder top = {.fd = walk->merged, .written = true, .is_new = true};
    path[0] = 0;
    return strlen(wanted) < sizeof path ? walk_down(walk, &top, wanted) : true;
}
