/* yields: sched_yield() lets others run at once, is seen by who watches, and is no different where it does nothing; print "ok". */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 400, FEW = 20, SOME = 200, MOST = ROUNDS * 3 / 4, TRACED = 50, PERIODS = 10 };

static _Atomic int turn, coming, here;
static _Atomic long yields;

static void fail(const char *what, long number)
{
    printf("%s: %ld\n", what, number);
    exit(1);
}

static void stay_on(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set))
        fail("sched_setaffinity", errno);
}

static void *take_turns(void *argument)
{
    int me = argument != NULL;

    for (int i = 0; i < ROUNDS; i++) {
        while (atomic_load(&turn) != me) {
            sched_yield();
            atomic_fetch_add(&yields, 1);
        }
        atomic_store(&turn, !me);
    }
    return NULL;
}

/* Two that are always ready to run, on one CPU: each yields to the other, not to nobody until its time is up. */
static void two_that_are_ready(void)
{
    pthread_t other;

    stay_on(0); /* where the other one begins, too */
    pthread_create(&other, NULL, take_turns, "other");
    take_turns(NULL);
    pthread_join(other, NULL);
    if (atomic_load(&yields) > FEW * ROUNDS)
        fail("yields that nobody noticed, of two that are ready", atomic_load(&yields));
}

/* It comes from another CPU, if there is one, and does not preempt who runs where it comes to. */
static void *visit(void *argument)
{
    struct sched_param none = {0};
    (void)argument;

    pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
    for (int i = 1; i <= ROUNDS; i++) {
        stay_on(sysconf(_SC_NPROCESSORS_ONLN) > 1);
        usleep(500);
        atomic_store(&coming, i);
        stay_on(0);
        atomic_store(&here, i);
    }
    return NULL;
}

/* One that yields for long, alone, notices soon when another CPU sends somebody else. */
static void one_that_is_alone(void)
{
    pthread_t visitor;
    int late = 0;

    stay_on(0);
    pthread_create(&visitor, NULL, visit, NULL);
    for (int i = 1; i <= ROUNDS; i++) {
        long yielded = 0;
        while (atomic_load(&here) < i) {
            yielded += atomic_load(&coming) == i;
            sched_yield();
        }
        late += yielded > SOME;
    }
    pthread_join(visitor, NULL);
    if (late > MOST) /* the others may be a busy host's, which has the visitor's CPU wait */
        fail("visitors that one who yields alone noticed late", late);
}

/* A tracer sees each call. */
static void traced(void)
{
    int status, stops = 0;
    pid_t child = fork();

    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        for (int i = 0; i < TRACED; i++)
            sched_yield();
        _exit(0);
    }
    for (waitpid(child, &status, 0); WIFSTOPPED(status); waitpid(child, &status, 0)) {
        stops += WSTOPSIG(status) == SIGTRAP;
        ptrace(PTRACE_SYSCALL, child, NULL, NULL);
    }
    if (stops < 2 * TRACED)
        fail("stops that a tracer saw", stops);
}

/* A filter rules each call. */
static void filtered(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sched_yield, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDOM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    int status;
    pid_t child = fork();

    if (child == 0) {
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
            _exit(2);
        for (int i = 0; i < 100; i++)
            if (sched_yield() != -1 || errno != EDOM)
                _exit(1);
        _exit(0);
    }
    waitpid(child, &status, 0);
    if (status)
        fail("status of a process with a filter", status);
}

/* A deadline task that yields has done its work until its next period. */
static void with_a_deadline(void)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attributes = {sizeof(attributes), 6 /* SCHED_DEADLINE */, 0, 0, 0, 2000000, 10000000, 10000000};
    struct timespec begin, end;
    int status;
    pid_t child = fork();

    if (child == 0) {
        cpu_set_t all;
        memset(&all, 0xff, sizeof(all));
        sched_setaffinity(0, sizeof(all), &all);
        if (syscall(SYS_sched_setattr, 0, &attributes, 0))
            _exit(errno == EPERM ? 0 : 2);
        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (int i = 0; i < PERIODS; i++)
            sched_yield();
        clock_gettime(CLOCK_MONOTONIC, &end);
        _exit((end.tv_sec - begin.tv_sec) * 1000 + (end.tv_nsec - begin.tv_nsec) / 1000000 < 10 * (PERIODS - 2));
    }
    waitpid(child, &status, 0);
    if (status)
        fail("status of a process with deadlines", status);
}

int main(void)
{
    two_that_are_ready();
    one_that_is_alone();
    traced();
    filtered();
    with_a_deadline();
    puts("ok");
    return 0;
}
