/* micro getppid|turns|spawn|fault|touch|create DIR: print the nanoseconds that one such operation takes. */
#include "clock.h"
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* As many as a third of a second takes: some kinds of machines are a hundred times slower. */
static int calls(void)
{
    int count = 0;
    for (uint64_t end = now(CLOCK_MONOTONIC) + 333000000u; now(CLOCK_MONOTONIC) < end;)
        for (int i = 0; i < 1000; i++, count++)
            syscall(SYS_getppid);
    return count;
}

/* Two processes wake each other through a word that they share: what a system call of a guest is. */
static int turns(int count)
{
    int *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (word == MAP_FAILED)
        return 1;
    pid_t child = fork();
    if (child < 0)
        return 1;
    int own = child == 0, status;
    for (int i = 0; i < count; i++) {
        while (__atomic_load_n(word, __ATOMIC_SEQ_CST) != own)
            syscall(SYS_futex, word, FUTEX_WAIT, !own, NULL, NULL, 0);
        __atomic_store_n(word, !own, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
    }
    if (child == 0)
        _exit(0);
    return waitpid(child, &status, 0) != child || status;
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

static int faults(int count, int alone)
{
    size_t size = (size_t)count * 4096;
    char *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED)
        return 1;
    if (alone)
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
        failed = (count = calls()) == 0;
    else if (!strcmp(what, "turns"))
        failed = turns(count = 50000);
    else if (!strcmp(what, "spawn"))
        failed = spawns(count = 200, "/proc/self/exe");
    else if (!strcmp(what, "fault"))
        failed = faults(count = 20000, 1);
    else if (!strcmp(what, "touch")) {
        failed = faults(20000, 0); /* once for nothing: the first use of memory is "load scatter" */
        begin = now(CLOCK_MONOTONIC);
        for (count = 0; count < 80000 && !failed; count += 20000)
            failed = faults(20000, 0);
    }
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
