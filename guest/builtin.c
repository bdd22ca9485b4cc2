/* Commands that the agent itself can do: `archive` and `unpack`. */
#include "builtin.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "archive.h"
#include "files.h"
#include "machine.h"
#include "unpack.h"

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

static int (*find(const char *name))(char **)
{
    if (strcmp(name, "archive") == 0)
        return archive_main;
    return strcmp(name, "unpack") == 0 ? unpack_main : NULL;
}

/* Other commands' ends of pipes, and the channel, are not for it. */
static void let_go(void)
{
    syscall(SYS_close_range, 3, SCRATCH_DESCRIPTOR - 1, 0);
    syscall(SYS_close_range, LAYERS_DESCRIPTOR + 1, UINT_MAX, 0);
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

pid_t builtin_start(struct child *child)
{
    int (*builtin)(char **) = find(child->spec->builtin);
    if (builtin == NULL) {
        child->error = ENOENT;
        snprintf(child->failure, sizeof child->failure, "execute the builtin %s",
                 child->spec->builtin);
    }
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    if (builtin == NULL)
        _exit(1);
    setsid();
    for (int i = 0; i < 3; i++)
        dup2(child->descriptors[i], i);
    let_go();
    set_kernel_value("/proc/self/oom_score_adj", "0");
    umask(0);
    if (chdir("/") != 0)
        _exit(1);
    signal(SIGPIPE, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    _exit(builtin(child->argv));
}
