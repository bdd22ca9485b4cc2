/* What is in a folder, in the archive's order.
 *
 * The host makes a layer of an archive while it comes, and needs the files in order for that. */
#include "listing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char mark[] = ".wh.";
enum { MARK = sizeof mark - 1, ENTRIES_SIZE = 32768 };
/* struct linux_dirent64 */
enum { LENGTH_AT = 16, TYPE_AT = 18, NAME_AT = 19 };

static bool is_deleted(int folder, const char *name, unsigned char type)
{
    struct stat found;
    if (type != DT_CHR && type != DT_UNKNOWN)
        return false;
    return fstatat(folder, name, &found, AT_SYMLINK_NOFOLLOW) == 0 && S_ISCHR(found.st_mode) &&
           found.st_rdev == 0;
}

/* Adds a line: 'd' for a deleted file or 'f', the mark, the name. */
static bool add(struct listing *listing, const char *name, bool deleted)
{
    size_t size = 1 + MARK + strlen(name) + 1;
    if (listing->used + size > listing->room) {
        size_t more = 2 * (listing->room + size) + 1024;
        char *text = realloc(listing->text, more);
        if (text == NULL)
            return false;
        listing->text = text;
        listing->room = more;
    }
    char *at = listing->text + listing->used;
    *at = deleted ? 'd' : 'f';
    memcpy(at + 1, mark, MARK);
    strcpy(at + 1 + MARK, name);
    listing->used += size;
    listing->count++;
    return true;
}

static int compare(const void *one, const void *other)
{
    return strcmp(((const struct listed *)one)->key, ((const struct listed *)other)->key);
}

static bool sort(struct listing *listing)
{
    listing->files = calloc(listing->count + 1, sizeof *listing->files);
    if (listing->files == NULL)
        return false;
    const char *at = listing->text;
    for (size_t i = 0; i < listing->count; i++) {
        const char *name = at + 1 + MARK;
        listing->files[i] = (struct listed){.key = *at == 'd' ? at + 1 : name, .name = name};
        at = name + strlen(name) + 1;
    }
    qsort(listing->files, listing->count, sizeof *listing->files, compare);
    return true;
}

/* What getdents64(2) has given. */
static bool take(struct listing *listing, int folder, bool overlay, const char *entries,
                 size_t size)
{
    uint16_t length;
    for (const char *at = entries; at < entries + size; at += length) {
        const char *name = at + NAME_AT;
        memcpy(&length, at + LENGTH_AT, sizeof length);
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        bool deleted = overlay && is_deleted(folder, name, (unsigned char)at[TYPE_AT]);
        if (!add(listing, name, deleted))
            return false;
    }
    return true;
}

/* Without opendir(3), which makes five system calls where none is needed. */
static bool read_all(struct listing *listing, int folder, bool overlay)
{
    static char entries[ENTRIES_SIZE];
    long size;
    while ((size = syscall(SYS_getdents64, folder, entries, sizeof entries)) > 0)
        if (!take(listing, folder, overlay, entries, (size_t)size))
            return false;
    return size == 0;
}

bool listing_read(struct listing *listing, int folder, bool overlay)
{
    *listing = (struct listing){0};
    if (read_all(listing, folder, overlay) && sort(listing))
        return true;
    int error = errno;
    listing_free(listing);
    errno = error;
    return false;
}

void listing_free(struct listing *listing)
{
    free(listing->files);
    free(listing->text);
    *listing = (struct listing){0};
}
