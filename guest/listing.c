/* What is in a folder, in the archive's order.
 *
 * The host makes a layer of an archive while it comes, and needs the files in order for that. */
#include "listing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char mark[] = ".wh.";
enum { MARK = sizeof mark - 1 };

static bool is_deleted(int folder, const struct dirent *entry)
{
    struct stat found;
    if (entry->d_type != DT_CHR && entry->d_type != DT_UNKNOWN)
        return false;
    return fstatat(folder, entry->d_name, &found, AT_SYMLINK_NOFOLLOW) == 0 &&
           S_ISCHR(found.st_mode) && found.st_rdev == 0;
}

/* Adds a line: 'd' for a deleted file or 'f', the mark, the name. */
static bool add(struct listing *listing, size_t *used, size_t *room, const char *name, bool deleted)
{
    size_t size = 1 + MARK + strlen(name) + 1;
    if (*used + size > *room) {
        size_t more = 2 * (*room + size) + 1024;
        char *text = realloc(listing->text, more);
        if (text == NULL)
            return false;
        listing->text = text;
        *room = more;
    }
    char *at = listing->text + *used;
    *at = deleted ? 'd' : 'f';
    memcpy(at + 1, mark, MARK);
    strcpy(at + 1 + MARK, name);
    *used += size;
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

static bool read_all(struct listing *listing, DIR *stream, int folder, bool overlay)
{
    size_t used = 0, room = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(stream);
        if (entry == NULL)
            return errno == 0;
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        if (!add(listing, &used, &room, name, overlay && is_deleted(folder, entry)))
            return false;
    }
}

bool listing_read(struct listing *listing, int folder, bool overlay)
{
    *listing = (struct listing){0};
    int copy = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = copy >= 0 ? fdopendir(copy) : NULL;
    if (stream == NULL) {
        if (copy >= 0)
            close(copy);
        return false;
    }
    bool good = read_all(listing, stream, folder, overlay) && sort(listing);
    int error = errno;
    closedir(stream);
    if (!good)
        listing_free(listing);
    errno = error;
    return good;
}

void listing_free(struct listing *listing)
{
    free(listing->files);
    free(listing->text);
    *listing = (struct listing){0};
}
