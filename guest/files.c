/* Small helpers for files and folders of the guest. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "failure.h"
#include "made.h"

static struct failure failure;

bool fail(const char *stage, int error, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    failure.stage = stage;
    failure.error = error;
    vsnprintf(failure.text, sizeof failure.text, format, values);
    va_end(values);
    return false;
}

const struct failure *last_failure(void)
{
    return &failure;
}

static bool is_below(const char *path, const char *folder)
{
    size_t length = folder == NULL ? 0 : strlen(folder);
    return length > 0 && strncmp(path, folder, length) == 0 &&
           (path[length] == 0 || path[length] == '/');
}

static int make_one(const char *path, const char *home, uid_t uid, gid_t gid)
{
    if (mkdir(path, 0755) == 0) {
        made_path(path);
        return is_below(path, home) ? chown(path, uid, gid) : 0;
    }
    struct stat found;
    if (errno == EEXIST && stat(path, &found) == 0 && !S_ISDIR(found.st_mode))
        errno = ENOTDIR;
    return errno == EEXIST ? 0 : -1;
}

int make_folders(const char *path, const char *home, uid_t uid, gid_t gid)
{
    char part[PATH_MAX];
    size_t length = strlen(path);
    if (length >= sizeof part) {
        errno = ENAMETOOLONG;
        return -1;
    }
    struct stat found;
    if (stat(path, &found) == 0 && S_ISDIR(found.st_mode))
        return 0;
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != 0)
            continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (make_one(part, home, uid, gid) != 0)
            return -1;
    }
    return 0;
}

int make_parents(const char *path, const char *home, uid_t uid, gid_t gid)
{
    char part[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (slash == NULL || slash == path || (size_t)(slash - path) >= sizeof part)
        return 0;
    memcpy(part, path, (size_t)(slash - path));
    part[slash - path] = 0;
    return make_folders(part, home, uid, gid);
}

int create_file(const char *path, mode_t mode)
{
    const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    int fd = open(path, flags, mode);
    made_path(path);
    if (fd < 0) {
        if (make_parents(path, NULL, 0, 0) != 0)
            return -1;
        unlink(path);
        fd = open(path, flags | O_NOFOLLOW, mode);
    }
    return fd;
}

void set_kernel_value(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (write(fd, text, strlen(text)) < 0)
        errno = 0;
    close(fd);
}

void read_small_file(const char *path, char *text, size_t size)
{
    size_t used = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && used < size - 1) {
        ssize_t got = read(fd, text + used, size - 1 - used);
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    text[used] = 0;
    if (fd >= 0)
        close(fd);
}
