/* What a new process does before it is the program. */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "account.h"
#include "agent.h"
#include "files.h"

static const char default_path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/* The memory is the agent's, so the reason needs no pipe to get there. */
static _Noreturn void give_up(struct child *child, int error, const char *what, const char *name)
{
    child->error = error;
    snprintf(child->failure, sizeof child->failure, "%s %s", what, name);
    _exit(127);
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

/* By system call: the C library's functions act on all threads that it knows, and it believes
 * that it is still in the agent. */
static bool set_ids(uid_t uid, gid_t gid, const gid_t *groups, size_t count)
{
    return syscall(SYS_setgroups, count, groups) == 0 && syscall(SYS_setgid, gid) == 0 &&
           syscall(SYS_setuid, uid) == 0;
}

/* So that a program can open /dev/stderr by its name, as where its user's shell made the pipe.
 * Where it fails only that is lost. A terminal has its owner already. */
static void give_streams(const struct command_spec *spec, uid_t uid, gid_t gid)
{
    for (int i = 0; i < 3 && !spec->terminal; i++)
        if (fchown(i, uid, gid) != 0)
            return;
}

static void set_default(struct child *child, const char *name, const char *value)
{
    char **at = child->environment;
    size_t length = strlen(name);
    for (; *at != NULL; at++)
        if (strncmp(*at, name, length) == 0 && (*at)[length] == '=')
            return;
    char *text = child->texts[child->text_count++];
    snprintf(text, sizeof child->texts[0], "%s=%s", name, value);
    at[0] = text;
    at[1] = NULL;
}

static void become_account(struct child *child)
{
    static struct account account;
    const char *wanted = child->spec->user;
    if (!account_find(wanted, &account))
        give_up(child, ENOENT, "user", wanted);
    give_streams(child->spec, account.uid, account.gid);
    if (!set_ids(account.uid, account.gid, account.groups, account.group_count))
        give_up(child, errno, "user", wanted);
    set_default(child, "HOME", account.home[0] != 0 ? account.home : "/");
    set_default(child, "USER", account.name);
    set_default(child, "LOGNAME", account.name);
}

static void become_user(struct child *child)
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
    give_streams(spec, spec->uid, spec->gid);
    if (!set_ids(spec->uid, spec->gid, child->groups, spec->group_count))
        give_up(child, errno, "user", number);
}

static int run(void *argument)
{
    struct child *child = argument;
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

/* As vfork(2) does, but on a stack of its own: a copy of the address space, thrown away at once by
 * execve(2), costs milliseconds on User-Mode Linux. */
pid_t child_start(struct child *child)
{
    static char stack[128 * 1024] __attribute__((aligned(16)));
    return clone(run, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, child);
}
