/* The user that a machine provides: passwd, group, shadow, home, sudo. */
#include "user.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "channel.h"
#include "failure.h"
#include "files.h"
#include "made.h"
#include "table.h"

static bool has_entry(struct table table, int number, const char *wanted)
{
    struct slice line;
    return table_find(table, number, wanted, &line);
}

static const char *free_name(struct table table, const char *wanted, char *spare, size_t size,
                             uint64_t number)
{
    if (!has_entry(table, 0, wanted))
        return wanted;
    static const char *const others[] = {"user", "apppot"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!has_entry(table, 0, others[i]))
            return others[i];
    snprintf(spare, size, "apppot%" PRIu64, number);
    return spare;
}

/* One write(2), so that a file cannot get half a line. */
static bool append_line(const char *path, struct table table, const char *line)
{
    char text[1024];
    bool open_end = table.size > 0 && table.bytes[table.size - 1] != '\n';
    int length = snprintf(text, sizeof text, "%s%s", open_end ? "\n" : "", line);
    if (length < 0 || (size_t)length >= sizeof text)
        return fail("user", ENAMETOOLONG, "add the user to %s", path);
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd >= 0)
        made_line(path, line);
    else
        fd = create_file(path, 0644);
    ssize_t done = fd < 0 ? -1 : write(fd, text, (size_t)length);
    int error = done < 0 ? errno : ENOSPC;
    if (fd >= 0)
        close(fd);
    return done == length ? true : fail("user", error, "add the user to %s", path);
}

static const char *choose_shell(const char *wanted)
{
    if (wanted != NULL && wanted[0] == '/' && access(wanted, X_OK) == 0)
        return wanted;
    return access("/bin/bash", X_OK) == 0 ? "/bin/bash" : "/bin/sh";
}

static bool add_group(const struct machine_spec *spec)
{
    char number[24], spare[32], line[1024];
    struct table groups = table_map("/etc/group");
    snprintf(number, sizeof number, "%" PRIu64, spec->gid);
    bool good = true;
    if (!has_entry(groups, 2, number)) {
        const char *name = free_name(groups, spec->user, spare, sizeof spare, spec->gid);
        snprintf(line, sizeof line, "%s:x:%s:\n", name, number);
        good = append_line("/etc/group", groups, line);
    }
    table_unmap(groups);
    return good;
}

static bool add_shadow(const char *name)
{
    char line[1024];
    struct table shadow = table_map("/etc/shadow");
    bool good = true;
    if (shadow.size > 0 && !has_entry(shadow, 0, name)) {
        snprintf(line, sizeof line, "%s:*:19000:0:99999:7:::\n", name);
        good = append_line("/etc/shadow", shadow, line);
    }
    table_unmap(shadow);
    return good;
}

static bool add_user(const struct machine_spec *spec)
{
    char number[24], spare[32], line[1024];
    struct table users = table_map("/etc/passwd");
    snprintf(number, sizeof number, "%" PRIu64, spec->uid);
    bool good = true;
    if (!has_entry(users, 2, number)) {
        const char *name = free_name(users, spec->user, spare, sizeof spare, spec->uid);
        if (name != spec->user)
            channel_notice(0, "the image has another user '%s'; in it you are '%s'", spec->user,
                           name);
        int length = snprintf(line, sizeof line, "%s:x:%s:%" PRIu64 "::%s:%s\n", name, number,
                              spec->gid, spec->home, choose_shell(spec->shell));
        good = length > 0 && (size_t)length < sizeof line
                   ? append_line("/etc/passwd", users, line) && add_shadow(name)
                   : fail("user", ENAMETOOLONG, "add the user to /etc/passwd");
    }
    table_unmap(users);
    return good;
}

static bool allow_root(const struct machine_spec *spec)
{
    struct stat found;
    if (!spec->may_become_root || stat("/etc/sudoers.d", &found) != 0 || !S_ISDIR(found.st_mode))
        return true;
    int fd = create_file("/etc/sudoers.d/apppot", 0440);
    if (fd < 0 || fchmod(fd, 0440) != 0 ||
        dprintf(fd, "#%" PRIu64 " ALL=(ALL:ALL) NOPASSWD: ALL\n", spec->uid) < 0)
        return fail("user", errno, "write /etc/sudoers.d/apppot");
    close(fd);
    return true;
}

bool user_provide(const struct machine_spec *spec)
{
    if (spec->uid == 0)
        return true;
    if (make_folders(spec->home, spec->home, (uid_t)spec->uid, (gid_t)spec->gid) != 0)
        return fail("user", errno, "make the home folder %s", spec->home);
    return add_group(spec) && add_user(spec) && allow_root(spec);
}
