/* micro getppid|spawn|fault|create DIR: print the nanoseconds that one such operation takes. */
#include "clock.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int calls(int count)
{
    for (int i = 0; i < count; i++)
        syscall(SYS_getppid);
    return 0;
}

static int spawns(int count, char *self)
{
    char *arguments[] = {self, "nothing", NULL};
    for (int i = 0; i < count; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            execv(self, arguments);
            _exit(1);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status)
            return 1;
    }
    return 0;
}

static int faults(int count)
{
    size_t size = (size_t)count * 4096;
    char *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED)
        return 1;
    madvise(area, size, MADV_NOHUGEPAGE);
    for (int i = 0; i < count; i++)
        ((volatile char *)area)[(size_t)i * 4096] = 1;
    return munmap(area, size);
}

static int creations(int count, const char *folder)
{
    char name[4096];
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s/micro.%d.%d", folder, (int)getpid(), i);
        int file = open(name, O_CREAT | O_EXCL | O_WRONLY, 0600);
        if (file < 0 || write(file, "x", 1) != 1 || close(file) || unlink(name))
            return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    int count, failed;
    if (!strcmp(what, "nothing"))
        return 0;
    uint64_t begin = now(CLOCK_MONOTONIC);
    if (!strcmp(what, "getppid"))
        failed = calls(count = 200000);
    else if (!strcmp(what, "spawn"))
        failed = spawns(count = 200, "/proc/self/exe");
    else if (!strcmp(what, "fault"))
        failed = faults(count = 20000);
    else if (!strcmp(what, "create") && argc == 3)
        failed = creations(count = 500, argv[2]);
    else
        return 2;
    uint64_t end = now(CLOCK_MONOTONIC);
    if (failed) {
        perror(what);
        return 1;
    }
    printf("%llu\n", (unsigned long long)(end - begin) / (unsigned)count);
    return 0;
}
