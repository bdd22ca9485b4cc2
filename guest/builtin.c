/* Commands that the agent itself can do: `archive`, `unpack` and `tidy`. */
#include "builtin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
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
#include "made.h"
#include "tidy.h"
#include "unpack.h"

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

static int (*find(const char *name))(char **)
{
    if (strcmp(name, "archive") == 0)
        return archive_main;
    if (strcmp(name, "tidy") == 0)
        return tidy_main;
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

static bool borrow(int number)
{
    char name[32];
    snprintf(name, sizeof name, "/proc/1/fd/%d", number);
    int fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fd == number)
        return fd == number;
    bool good = dup3(fd, number, O_CLOEXEC) == number;
    close(fd);
    return good;
}

int builtin_inside(char **argv)
{
    int (*builtin)(char **) = find(argv[0]);
    if (builtin == NULL) {
        fprintf(stderr, "there is no builtin %s\n", argv[0]);
        return 2;
    }
    if (!borrow(SCRATCH_DESCRIPTOR) || !borrow(LAYERS_DESCRIPTOR) || !made_load()) {
        fprintf(stderr, "cannot see the machine's changes (only root can): %s\n", strerror(errno));
        return 1;
    }
    let_go();
    return builtin(argv);
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
