/* Folders as GNU tar's incremental archives have them: with the names of all that is in them.
 *
 * The list is a sequence of texts, ended by an empty one. Their first character is Y for a file in
 * the archive, N for one that is not, D for a folder. What a list does not name is deleted.
 */
#include "dump.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    char *bytes;
    size_t size, room;
} list;

static bool add(char kind, const char *name)
{
    size_t length = strlen(name) + 2;
    if (list.size + length + 1 > list.room) {
        size_t room = 2 * (list.size + length + 1);
        char *bytes = realloc(list.bytes, room);
        if (bytes == NULL)
            return false;
        list.bytes = bytes;
        list.room = room;
    }
    list.bytes[list.size] = kind;
    memcpy(list.bytes + list.size + 1, name, length - 1);
    list.size += length;
    list.bytes[list.size] = 0;
    return true;
}

static bool add_all(DIR *folder, int upper)
{
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(folder);
        if (entry == NULL)
            return errno == 0;
        const char *name = entry->d_name;
        struct stat found;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
            fstatat(dirfd(folder), name, &found, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        bool is_folder = S_ISDIR(found.st_mode);
        bool is_here = fstatat(upper, name, &found, AT_SYMLINK_NOFOLLOW) == 0;
        if (!add(is_folder ? 'D' : is_here ? 'Y' : 'N', name))
            return false;
    }
}

bool dump_folder(struct tar_entry *entry, int merged, int upper)
{
    int copy = openat(merged, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = copy >= 0 ? fdopendir(copy) : NULL;
    if (folder == NULL)
        return false;
    list.size = 0;
    bool good = add_all(folder, upper);
    closedir(folder);
    entry->type = TAR_DUMPED_FOLDER;
    entry->size = list.size + 1;
    return good && tar_header(entry) && tar_data(list.size > 0 ? list.bytes : "", list.size + 1) &&
           tar_pad(list.size + 1);
}
