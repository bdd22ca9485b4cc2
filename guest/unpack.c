/* The builtin `unpack`: the files of a tar archive, into a folder of the guest.
 *
 *   unpack FOLDER [--chown USER[:GROUP]]
 *   unpack PATH --file [--chown USER[:GROUP]]
 *
 * Folders that are there stay, and links to folders are followed, as by `cp -a`; everything else
 * that is in the way is replaced. With --file, the archive has one entry, which becomes PATH, or
 * goes into it if that is a folder.
 */
#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "account.h"
#include "files.h"
#include "untar.h"

enum { PIECE = 1 << 18, NAME_LIMIT = 255 };

static struct {
    size_t start, end;
    uint8_t bytes[PIECE];
} input;

static bool has_owner;
static uid_t owner;
static gid_t owner_group;
/* Was not there: it gets the owner, and what the archive's entry `.` says. */
static bool folder_is_new;
/* With --file: the entry's new name. */
static const char *new_name;

/* Folders get their times last: what is put into them changes these. */
static struct times {
    char *path;
    struct timespec time;
} *folders;
static size_t folder_count, folder_room;

static bool wrong(const char *text, const char *path)
{
    fprintf(stderr, "%s%s%s%s%s\n", text, path[0] != 0 ? " " : "", path, errno != 0 ? ": " : "",
            errno != 0 ? strerror(errno) : "");
    return false;
}

static bool fill(void)
{
    ssize_t got;
    do {
        got = read(STDIN_FILENO, input.bytes, sizeof input.bytes);
    } while (got < 0 && errno == EINTR);
    input.start = 0;
    input.end = got > 0 ? (size_t)got : 0;
    if (got == 0)
        errno = 0;
    return got > 0;
}

static bool take(uint8_t *target, size_t size)
{
    while (size > 0) {
        if (input.start == input.end && !fill())
            return wrong("the archive ends too early", "");
        size_t some = input.end - input.start < size ? input.end - input.start : size;
        memcpy(target, input.bytes + input.start, some);
        input.start += some;
        target += some;
        size -= some;
    }
    return true;
}

static bool copy_out(int fd, uint64_t size)
{
    uint64_t padding = (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
    for (uint64_t left = size + padding; left > 0;) {
        if (input.start == input.end && !fill())
            return wrong("the archive ends too early", "");
        size_t some = input.end - input.start;
        some = some < left ? some : (size_t)left;
        size_t data = size < some ? (size_t)size : some;
        for (size_t done = 0; fd >= 0 && done < data;) {
            ssize_t written = write(fd, input.bytes + input.start + done, data - done);
            if (written < 0)
                return false;
            done += (size_t)written;
        }
        size -= data;
        left -= some;
        input.start += some;
    }
    return true;
}

/* Relative to the folder, which is the working directory; "" if it leads out of it. */
static const char *plain_path(char *path)
{
    while (path[0] == '/' || (path[0] == '.' && path[1] == '/'))
        path++;
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        path[--length] = 0;
    for (const char *part = path; *part != 0; part += strcspn(part, "/"), part += *part == '/')
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == 0))
            return "";
    return path[0] != 0 ? path : ".";
}

static bool is_folder(const char *path)
{
    struct stat found;
    return stat(path, &found) == 0 && S_ISDIR(found.st_mode);
}

/* Removes what is in the way of something that is no folder. */
static bool make_way(const char *path)
{
    struct stat found;
    if (lstat(path, &found) != 0)
        return errno == ENOENT ? make_parents(path, NULL, 0, 0) == 0 : false;
    if (S_ISDIR(found.st_mode)) {
        errno = EISDIR;
        return false;
    }
    return unlink(path) == 0;
}

static bool keep_times(const char *path, struct timespec time)
{
    if (folder_count == folder_room) {
        size_t room = folder_room * 2 + 256;
        struct times *more = realloc(folders, room * sizeof *more);
        if (more == NULL)
            return false;
        folders = more;
        folder_room = room;
    }
    char *copy = strdup(path);
    if (copy == NULL)
        return false;
    folders[folder_count++] = (struct times){copy, time};
    return true;
}

static bool set_times(const char *path, struct timespec time)
{
    const struct timespec both[2] = {time, time};
    return utimensat(AT_FDCWD, path, both, AT_SYMLINK_NOFOLLOW) == 0;
}

static bool set_attributes(const struct tar_member *member, const char *path)
{
    struct tar_attribute attribute;
    char name[NAME_LIMIT + 1];
    for (size_t at = 0; untar_attribute(member, &at, &attribute);) {
        if (attribute.name_length > NAME_LIMIT) {
            errno = ENAMETOOLONG;
            return false;
        }
        memcpy(name, attribute.name, attribute.name_length);
        name[attribute.name_length] = 0;
        if (lsetxattr(path, name, attribute.value, attribute.size, 0) != 0)
            return false;
    }
    return true;
}

/* Owner before mode, since a change of owner takes set-user-ID away; attributes after both. */
static bool dress(const struct tar_member *member, const char *path)
{
    uid_t uid = has_owner ? owner : (uid_t)member->uid;
    gid_t gid = has_owner ? owner_group : (gid_t)member->gid;
    if (lchown(path, uid, gid) != 0)
        return false;
    if (member->type != (char)TAR_SYMBOLIC_LINK && chmod(path, member->mode) != 0)
        return false;
    return set_attributes(member, path);
}

static bool make_file(const struct tar_member *member, const char *path)
{
    if (!make_way(path))
        return wrong("cannot replace", path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return wrong("cannot make", path);
    bool good = copy_out(fd, member->size);
    if (!good)
        wrong("cannot write", path);
    if (close(fd) != 0)
        good = wrong("cannot write", path);
    return good && ((dress(member, path) && set_times(path, member->time)) ||
                    wrong("cannot set the owner, mode or attributes of", path));
}

static bool make_folder(const struct tar_member *member, const char *path)
{
    struct stat found;
    if (!is_folder(path)) {
        if (lstat(path, &found) == 0 && unlink(path) != 0)
            return wrong("cannot replace", path);
        if (make_parents(path, NULL, 0, 0) != 0 || mkdir(path, 0700) != 0)
            return wrong("cannot make", path);
    }
    char real[PATH_MAX];
    if (realpath(path, real) == NULL || !dress(member, real) || !keep_times(real, member->time))
        return wrong("cannot set the owner, mode or attributes of", path);
    return true;
}

static bool make_other(struct tar_member *member, const char *path)
{
    if (!make_way(path))
        return wrong("cannot replace", path);
    int done;
    switch ((enum tar_type)member->type) {
    case TAR_HARD_LINK: {
        const char *target = plain_path(member->link);
        done = target[0] != 0 ? linkat(AT_FDCWD, target, AT_FDCWD, path, 0) : -1;
        return done == 0 ? true : wrong("cannot link", path);
    }
    case TAR_SYMBOLIC_LINK: done = symlink(member->link, path); break;
    case TAR_FIFO: done = mknod(path, S_IFIFO | 0600, 0); break;
    case TAR_CHARACTER_DEVICE:
        done = mknod(path, S_IFCHR | 0600, makedev(member->major, member->minor));
        break;
    case TAR_BLOCK_DEVICE:
        done = mknod(path, S_IFBLK | 0600, makedev(member->major, member->minor));
        break;
    case TAR_FILE:
    case TAR_FOLDER:
    default:
        errno = 0;
        return wrong("the archive has an entry of an unknown type:", path);
    }
    if (done != 0)
        return wrong("cannot make", path);
    return (dress(member, path) && set_times(path, member->time)) ||
           wrong("cannot set the owner, mode or attributes of", path);
}

static bool make_member(struct tar_member *member)
{
    const char *path = new_name != NULL ? new_name : plain_path(member->path);
    errno = 0;
    if (path[0] == 0)
        return wrong("an entry of the archive leads out of it:", member->path);
    /* A folder that was there keeps what it has. */
    if (strcmp(path, ".") == 0 && !(folder_is_new && member->type == (char)TAR_FOLDER))
        return copy_out(-1, member->size);
    if (member->type == (char)TAR_FILE)
        return make_file(member, path);
    bool good = member->type == (char)TAR_FOLDER ? make_folder(member, path)
                                                  : make_other(member, path);
    return good && copy_out(-1, member->size);
}

static bool read_records(uint8_t *records, uint64_t size)
{
    uint8_t rest[TAR_BLOCK];
    return take(records, (size_t)size) && take(rest, (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK);
}

static bool unpack(void)
{
    static struct tar_member member;
    uint8_t block[TAR_BLOCK], *records = malloc(UNTAR_RECORDS_MAX);
    size_t records_size = 0;
    if (records == NULL)
        return wrong("cannot read the archive", "");
    for (;;) {
        if (!take(block, sizeof block))
            return false;
        const char *why = untar_header(block, records, records_size, &member);
        errno = 0;
        if (why != NULL)
            return wrong(why, "");
        if (member.type == 0)
            return true;
        records_size = 0;
        if (member.type == 'x' || member.type == 'g') {
            if (member.size > UNTAR_RECORDS_MAX)
                return wrong("the archive has a record that is too long", "");
            if (!read_records(records, member.size))
                return false;
            records_size = member.type == 'x' ? (size_t)member.size : 0;
        } else if (!make_member(&member)) {
            return false;
        }
    }
}

static bool find_owner(const char *text)
{
    static struct account account;
    errno = 0;
    if (!account_find(text, &account))
        return wrong("there is no such user or group in the image:", text);
    has_owner = true;
    owner = account.uid;
    owner_group = account.gid;
    return true;
}

/* The part of a path that is the first one to be missing; "" if all are there. */
static void first_missing(const char *path, char *part)
{
    size_t length = strlen(path);
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != 0)
            continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (!is_folder(part))
            return;
    }
    part[0] = 0;
}

static bool enter(const char *folder)
{
    char missing[PATH_MAX];
    if (strlen(folder) >= sizeof missing) {
        errno = ENAMETOOLONG;
        return false;
    }
    first_missing(folder, missing);
    folder_is_new = missing[0] != 0;
    return make_folders(folder, has_owner ? missing : NULL, owner, owner_group) == 0 &&
           chdir(folder) == 0;
}

/* Cuts the last name off a path that is no folder; "" is the root. */
static const char *cut_name(char *path)
{
    char *slash = strrchr(path, '/');
    if (is_folder(path) || slash == NULL || slash[1] == 0)
        return path;
    *slash = 0;
    new_name = slash + 1;
    return path[0] != 0 ? path : "/";
}

int unpack_main(char **argv)
{
    const char *folder = argv[1];
    char **option = argv + (folder != NULL ? 2 : 1);
    bool is_file = *option != NULL && strcmp(*option, "--file") == 0;
    option += is_file ? 1 : 0;
    if (folder == NULL || (*option != NULL && (strcmp(*option, "--chown") != 0 || option[1] == NULL))) {
        fprintf(stderr, "unpack: FOLDER [--file] [--chown USER[:GROUP]]\n");
        return 1;
    }
    umask(0);
    if (*option != NULL && !find_owner(option[1]))
        return 1;
    if (is_file)
        folder = cut_name(argv[1]);
    if (!enter(folder))
        return !wrong("cannot use the folder", folder);
    bool good = unpack();
    while (good && folder_count > 0) {
        folder_count--;
        good = set_times(folders[folder_count].path, folders[folder_count].time) ||
               wrong("cannot set the time of", folders[folder_count].path);
    }
    /* The sender is not to be told that nobody reads what follows the archive's end. */
    while (fill()) {
    }
    return good ? 0 : 1;
}
