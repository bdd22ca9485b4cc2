/* What a new process does between fork and exec. */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "account.h"
#include "agent.h"
#include "files.h"

static const char default_path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static _Noreturn void give_up(const struct child *child, int error, const char *what,
                              const char *name)
{
    struct report report = {.error = error};
    snprintf(report.text, sizeof report.text, "%s %s", what, name);
    ssize_t done = write(child->report, &report, sizeof report);
    _exit(done > 0 ? 127 : 126);
}

/* Replaces the process; returns only with the reason in errno. */
static void execute(const char *path, char **argv, char **environment)
{
    execve(path, argv, environment);
    if (errno == ENOEXEC) {
        char *first = argv[0];
        argv[-1] = (char[]){"/bin/sh"};
        argv[0] = (char *)(uintptr_t)path;
        execve("/bin/sh", argv - 1, environment);
        argv[0] = first;
        errno = ENOEXEC;
    } else if (errno == ENOENT && access(path, F_OK) == 0) {
        /* The program is there; what is missing is its interpreter or loader. */
        errno = ELIBACC;
    }
}

static const char *search_path(char *const *environment)
{
    for (; *environment != NULL; environment++)
        if (strncmp(*environment, "PATH=", 5) == 0)
            return *environment + 5;
    return default_path;
}

/* Tries the folders in order, as execvp(3) does. Returns the errno to report. */
static int search_and_execute(const char *name, char **argv, char **environment)
{
    char path[PATH_MAX + NAME_MAX + 2];
    size_t name_length = strlen(name);
    int worst = ENOENT;
    if (name_length == 0)
        return ENOENT;
    if (name_length > NAME_MAX)
        return ENAMETOOLONG;
    const char *folder = search_path(environment);
    while (folder != NULL) {
        size_t length = strcspn(folder, ":");
        if (length < PATH_MAX) {
            memcpy(path, folder, length);
            if (length > 0)
                path[length++] = '/';
            memcpy(path + length, name, name_length + 1);
            execute(path, argv, environment);
            if (errno == EACCES || errno == ELIBACC)
                worst = errno;
            else if (errno != ENOENT && errno != ENOTDIR && errno != ESTALE && errno != ENODEV &&
                     errno != ETIMEDOUT && errno != ENAMETOOLONG)
                return errno;
        }
        folder = strchr(folder, ':');
        if (folder != NULL)
            folder++;
    }
    return worst;
}

static void set_default(const struct child *child, const char *name, const char *value)
{
    static char texts[3][ACCOUNT_TEXT_MAX + 16];
    static size_t used;
    char **at = child->environment;
    size_t length = strlen(name);
    for (; *at != NULL; at++)
        if (strncmp(*at, name, length) == 0 && (*at)[length] == '=')
            return;
    snprintf(texts[used], sizeof texts[used], "%s=%s", name, value);
    at[0] = texts[used++];
    at[1] = NULL;
}

static void become_account(const struct child *child)
{
    static struct account account;
    const char *wanted = child->spec->user;
    if (!account_find(wanted, &account))
        give_up(child, ENOENT, "user", wanted);
    if (setgroups(account.group_count, account.groups) != 0 || setgid(account.gid) != 0 ||
        setuid(account.uid) != 0)
        give_up(child, errno, "user", wanted);
    set_default(child, "HOME", account.home[0] != 0 ? account.home : "/");
    set_default(child, "USER", account.name);
    set_default(child, "LOGNAME", account.name);
}

static void become_user(const struct child *child)
{
    const struct command_spec *spec = child->spec;
    if (spec->user != NULL) {
        become_account(child);
        return;
    }
    bool asked = spec->has_uid || spec->has_gid || spec->group_count > 0;
    if (!asked && agent_is_test())
        return;
    char number[16];
    snprintf(number, sizeof number, "%u", spec->uid);
    if (setgroups(spec->group_count, child->groups) != 0 || setgid(spec->gid) != 0 ||
        setuid(spec->uid) != 0)
        give_up(child, errno, "user", number);
}

_Noreturn void child_run(const struct child *child)
{
    const struct command_spec *spec = child->spec;
    setsid();
    if (spec->terminal && ioctl(child->descriptors[0], TIOCSCTTY, 0) != 0)
        give_up(child, errno, "machine: set the controlling", "terminal");
    for (int i = 0; i < 3; i++)
        if (dup2(child->descriptors[i], i) < 0)
            give_up(child, errno, "machine: arrange the", "streams");
    set_kernel_value("/proc/self/oom_score_adj", "0");
    umask(spec->umask);
    become_user(child);
    if (spec->directory != NULL && chdir(spec->directory) != 0)
        give_up(child, errno, "working directory", spec->directory);
    signal(SIGPIPE, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);

    const char *name = child->argv[0];
    int error;
    if (strchr(name, '/') != NULL) {
        execute(name, child->argv, child->environment);
        error = errno;
    } else {
        error = search_and_execute(name, child->argv, child->environment);
    }
    give_up(child, error, "execute", name);
}
