/*
 * The clocks that a program reads by itself tell the same time as the system calls do.
 *
 * clocks order: readings of the library and of the system call follow each other in order, for all
 *     clocks and in several threads.
 * clocks set: that too after the machine's clock was set, and in a time namespace. This is for the
 *     root of a virtual machine: it changes the time of day!
 * clocks silent: the library reads the clocks where the system calls for it are forbidden.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#define THREADS 4
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const clockid_t clocks[] = {
    CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI, CLOCK_MONOTONIC_RAW,
    CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE,
};

static volatile int over;
static int64_t newest; /* of CLOCK_MONOTONIC, in any thread */

static void fail(const char *what, clockid_t clock, int64_t a, int64_t b, int64_t c)
{
    printf("%s, clock %d: %lld %lld %lld\n", what, (int)clock, (long long)a, (long long)b,
           (long long)c);
    exit(1);
}

static int64_t nanoseconds(const struct timespec *time)
{
    return time->tv_sec * 1000000000LL + time->tv_nsec;
}

static int64_t by_call(clockid_t clock)
{
    struct timespec time;

    syscall(SYS_clock_gettime, clock, &time);
    return nanoseconds(&time);
}

static int64_t by_library(clockid_t clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return nanoseconds(&time);
}

static void check_order(const char *when)
{
    for (unsigned i = 0; i < COUNT(clocks); i++) {
        int64_t a = by_call(clocks[i]);
        int64_t b = by_library(clocks[i]);
        int64_t again = by_library(clocks[i]);
        int64_t c = by_call(clocks[i]);

        if (a > b || again < b || again > c)
            fail(when, clocks[i], a, b, c);
    }
}

static void check_others(const char *when)
{
    struct timeval time_of_day;
    int64_t a = by_call(CLOCK_REALTIME);
    int64_t b, c;

    gettimeofday(&time_of_day, NULL);
    c = by_call(CLOCK_REALTIME);
    b = time_of_day.tv_sec * 1000000LL + time_of_day.tv_usec;
    if (a / 1000 > b || b > c / 1000)
        fail(when, -1, a, b, c);

    a = syscall(SYS_time, NULL);
    b = time(NULL);
    c = syscall(SYS_time, NULL);
    if (a > b || b > c)
        fail(when, -2, a, b, c);
}

/* No thread sees a time before one that another has seen already. */
static void check_between_threads(void)
{
    for (int i = 0; i < 100; i++) {
        int64_t before = __atomic_load_n(&newest, __ATOMIC_SEQ_CST);
        int64_t now = by_library(CLOCK_MONOTONIC);

        if (now < before)
            fail("between threads", CLOCK_MONOTONIC, before, now, 0);
        __atomic_compare_exchange_n(&newest, &before, now, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
}

static void *check_all(void *when)
{
    while (!over) {
        check_order(when);
        check_others(when);
        check_between_threads();
    }
    return NULL;
}

static void in_threads(const char *when)
{
    pthread_t threads[THREADS];

    over = 0;
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, check_all, (void *)when) != 0)
            fail("no thread", 0, i, 0, 0);
    sleep(1);
    over = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static void check_resolutions(void)
{
    for (unsigned i = 0; i < COUNT(clocks); i++) {
        struct timespec a = {-1, -1}, b = {-2, -2};

        syscall(SYS_clock_getres, clocks[i], &a);
        clock_getres(clocks[i], &b);
        if (a.tv_sec != b.tv_sec || a.tv_nsec != b.tv_nsec)
            fail("resolution", clocks[i], nanoseconds(&a), nanoseconds(&b), 0);
    }
}

static void set_clock(int seconds)
{
    struct timespec time;
    int64_t before = by_library(CLOCK_REALTIME);
    int64_t change;

    clock_gettime(CLOCK_REALTIME, &time);
    time.tv_sec += seconds;
    if (clock_settime(CLOCK_REALTIME, &time) != 0)
        fail("clock_settime", CLOCK_REALTIME, errno, 0, 0);
    check_order("at once after setting the clock");
    change = by_library(CLOCK_REALTIME) - before - seconds * 1000000000LL;
    if (change < 0 || change > 10000000000LL)
        fail("setting the clock", CLOCK_REALTIME, before, change, 0);
}

static void in_time_namespace(void)
{
    static const char offsets[] = "monotonic 1000000 5\nboottime 2000000 7\n";
    int64_t before = by_library(CLOCK_MONOTONIC);
    int status, file;

    if (unshare(CLONE_NEWTIME) != 0)
        fail("unshare", 0, errno, 0, 0);
    file = open("/proc/self/timens_offsets", O_WRONLY);
    if (write(file, offsets, strlen(offsets)) < 0)
        fail("timens_offsets", 0, errno, 0, 0);
    if (fork() == 0) {
        int64_t moved = by_library(CLOCK_MONOTONIC) - before;

        newest = 0;
        if (moved < 1000000000000005LL || moved > 1000060000000005LL)
            fail("moved by", CLOCK_MONOTONIC, moved, 0, 0);
        in_threads("in a time namespace");
        exit(0);
    }
    wait(&status);
    if (status != 0)
        exit(1);
}

static void forbid(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_gettime, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_getres, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_gettimeofday, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_time, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {COUNT(filter), filter};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        fail("seccomp", 0, errno, 0, 0);
}

static void silent(void)
{
    int64_t sum = 0;

    forbid();
    for (int i = 0; i < 1000000; i++) {
        struct timeval time_of_day;

        sum += by_library(clocks[i % COUNT(clocks)]);
        if (i % 4 == 0) {
            gettimeofday(&time_of_day, NULL);
            sum += time_of_day.tv_sec + time(NULL);
        }
    }
    if (sum == 0)
        fail("no time", 0, 0, 0, 0);
}

int main(int count, char **words)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *what = count == 2 ? words[1] : "";

    if (strcmp(what, "silent") == 0) {
        silent();
    } else if (strcmp(what, "order") == 0) {
        in_threads("as found");
        /* What the kernel finds out of its timers as it starts, the library learns at a tick. */
        check_resolutions();
    } else if (strcmp(what, "set") == 0) {
        set_clock(100000);
        in_threads("later");
        set_clock(-200000);
        in_threads("earlier");
        set_clock(100000);
        in_time_namespace();
    } else {
        return 2;
    }
    puts("ok");
    return 0;
}
