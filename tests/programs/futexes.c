/* futexes SECONDS: threads wake each other by futex(), each time, waited for or not; print "ok" if none is forgotten. */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PAIRS = 3, PATIENCE = 20 };

static struct pair {
    _Atomic int turn;
    _Atomic long rounds;
    char apart[240]; /* some of them share a place in whatever is counted by address */
} pairs[PAIRS];

static _Atomic int over, lost, gate;

static long futex(_Atomic int *word, int what, int value, const struct timespec *limit)
{
    return syscall(SYS_futex, word, what | FUTEX_PRIVATE_FLAG, value, limit, NULL, ~0);
}

static void pause_for(unsigned long times)
{
    while (times--)
        __asm__ volatile("pause");
}

/* Wait until the word is no more what it was. No time limit but for telling of a wake that was lost. */
static void await(_Atomic int *word, int old, int what)
{
    struct timespec limit = {.tv_sec = PATIENCE};
    if (what == FUTEX_WAIT_BITSET) {
        clock_gettime(CLOCK_MONOTONIC, &limit);
        limit.tv_sec += PATIENCE;
    }
    while (atomic_load(word) == old && !atomic_load(&over))
        if (futex(word, what, old, &limit) && errno == ETIMEDOUT && atomic_load(word) != old)
            atomic_store(&lost, 1);
}

static void *play(void *argument)
{
    long me = (long)argument, side = me & 1;
    struct pair *pair = &pairs[me / 2];
    unsigned seed = (unsigned)me;

    while (!atomic_load(&over)) {
        await(&pair->turn, side ? 0 : 1, rand_r(&seed) & 1 ? FUTEX_WAIT : FUTEX_WAIT_BITSET);
        pause_for((unsigned)rand_r(&seed) % 400);
        atomic_store(&pair->turn, side ? 0 : 1);
        futex(&pair->turn, FUTEX_WAKE, 1, NULL);
        atomic_fetch_add(&pair->rounds, 1);
        pause_for((unsigned)rand_r(&seed) % 400);
    }
    futex(&pair->turn, FUTEX_WAKE, 99, NULL);
    return NULL;
}

/* Signals end system calls, which go on with restart_syscall(2), at any moment. */
static void caught(int number)
{
    (void)number;
}

static void *wait_at_gate(void *argument)
{
    (void)argument;
    await(&gate, 0, FUTEX_WAIT);
    return NULL;
}

/* A waiter that was moved to another futex must be found there. */
static int requeued(void)
{
    pthread_t thread;
    int woken = 0, moved = 0;
    static _Atomic int other;

    pthread_create(&thread, NULL, wait_at_gate, NULL);
    for (int i = 0; i < 2000 && moved == 0; i++) {
        moved = (int)syscall(SYS_futex, &gate, FUTEX_REQUEUE_PRIVATE, 0, 1L, &other, 0);
        usleep(1000);
    }
    atomic_store(&gate, 1);
    for (int i = 0; i < 2000 && moved == 1 && woken == 0; i++) {
        woken = (int)futex(&other, FUTEX_WAKE, 1, NULL);
        usleep(1000);
    }
    pthread_join(thread, NULL);
    return moved == 1 && woken == 1;
}

/* What is wrong with a call is told, whether or not somebody waits. */
static int wrong_calls(void)
{
    _Atomic int words[2] = {0};
    int right = 1;
    right &= futex((void *)((char *)words + 1), FUTEX_WAKE, 1, NULL) == -1 && errno == EINVAL;
    right &= futex((void *)~0xfffUL, FUTEX_WAKE, 1, NULL) == -1 && errno == EFAULT;
    right &= futex(words, FUTEX_WAKE, 1, NULL) == 0;
    return right;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = caught, .sa_flags = SA_RESTART};
    int seconds = argc > 1 ? atoi(argv[1]) : 3;
    pthread_t threads[2 * PAIRS];
    long fewest = 1L << 60;

    sigaction(SIGUSR1, &action, NULL);
    if (!wrong_calls())
        return puts("wrong calls are not told"), 1;
    for (long i = 0; i < 2 * PAIRS; i++)
        pthread_create(&threads[i], NULL, play, (void *)i);
    for (time_t end = time(NULL) + seconds; time(NULL) < end; usleep(500))
        pthread_kill(threads[rand() % (2 * PAIRS)], SIGUSR1);
    atomic_store(&over, 1);
    for (int i = 0; i < PAIRS; i++) {
        fewest = pairs[i].rounds < fewest ? pairs[i].rounds : fewest;
        futex(&pairs[i].turn, FUTEX_WAKE, 99, NULL);
    }
    for (int i = 0; i < 2 * PAIRS; i++)
        pthread_join(threads[i], NULL);
    if (argc > 2)
        printf("%ld rounds at least\n", fewest);
    atomic_store(&over, 0);
    if (!requeued())
        return puts("a waiter was lost on its way to another futex"), 1;
    puts(atomic_load(&lost) || fewest < 100 ? "a wake was lost" : "ok");
    return 0;
}
