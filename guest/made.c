/* What the agent itself has put into the root: it is the machine's, and no change of its user's. */
#include "made.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum { MADE_MAX = 1024, TEXTS_MAX = 128 * 1024 };

struct made {
    const char *path, *line;
    bool sealed;
    ino_t inode;
    mode_t mode;
    uid_t uid;
    gid_t gid;
    struct timespec changed;
};

static struct made table[MADE_MAX];
static size_t count;
static char texts[TEXTS_MAX];
static size_t texts_used;

static const char *keep(const char *text)
{
    size_t size = strlen(text) + 1;
    if (size > TEXTS_MAX - texts_used)
        return NULL;
    char *place = texts + texts_used;
    memcpy(place, text, size);
    texts_used += size;
    return place;
}

static struct made *find(const char *path)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(table[i].path + 1, path) == 0)
            return &table[i];
    return NULL;
}

/* A full table only means that more is kept of what the machine has made. */
static struct made *add(const char *path)
{
    struct made *made = find(path + 1);
    if (made != NULL)
        return made;
    const char *kept = count < MADE_MAX ? keep(path) : NULL;
    if (kept == NULL)
        return NULL;
    made = &table[count++];
    made->path = kept;
    return made;
}

static bool load(int fd, void *place, size_t size)
{
    return pread(fd, place, size, (off_t)(uintptr_t)place) == (ssize_t)size;
}

/* The program is linked to fixed addresses, so that even the pointers are right. */
bool made_load(void)
{
    int fd = open("/proc/1/mem", O_RDONLY | O_CLOEXEC);
    bool good = fd >= 0 && load(fd, table, sizeof table) && load(fd, &count, sizeof count) &&
                load(fd, texts, sizeof texts);
    if (fd >= 0)
        close(fd);
    return good;
}

void made_path(const char *path)
{
    add(path);
}

void made_line(const char *path, const char *line)
{
    struct made *made = add(path);
    char *kept = made != NULL ? (char *)(size_t)keep(line) : NULL;
    if (kept == NULL)
        return;
    kept[strcspn(kept, "\n")] = 0;
    made->line = kept;
}

void made_seal(int upper)
{
    struct stat found;
    for (size_t i = 0; i < count; i++) {
        struct made *made = &table[i];
        if (fstatat(upper, made->path + 1, &found, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        made->sealed = true;
        made->inode = found.st_ino;
        made->mode = found.st_mode;
        made->uid = found.st_uid;
        made->gid = found.st_gid;
        made->changed = found.st_ctim;
    }
}

/* A folder's time changes with what is put into it, which is looked at by itself. A file that is
 * still the one that the agent has made is never kept, as others do with /etc/hosts. A file with
 * an added line is the image's. */
bool made_is_untouched(const char *path, const struct stat *now)
{
    const struct made *made = find(path);
    if (made == NULL || !made->sealed || now->st_mode != made->mode)
        return false;
    if (S_ISDIR(now->st_mode))
        return now->st_uid == made->uid && now->st_gid == made->gid;
    if (made->line == NULL)
        return now->st_ino == made->inode;
    return now->st_ctim.tv_sec == made->changed.tv_sec &&
           now->st_ctim.tv_nsec == made->changed.tv_nsec;
}

/* The copies that useradd and others make of a table have the line too: /etc/passwd- and so on. */
const char *made_line_of(const char *path)
{
    size_t length = strlen(path);
    for (size_t i = 0; i < count; i++) {
        const char *name = table[i].path + 1;
        size_t own = strlen(name);
        if (table[i].line != NULL && strncmp(name, path, own) == 0 &&
            (length == own || (length == own + 1 && path[own] == '-')))
            return table[i].line;
    }
    return NULL;
}
