/* Check every word of memory through fork, copy-on-write, mprotect, mremap, munmap and madvise.
 *
 *   memory [-m MEGABYTES] [-t THREADS] [-r ROUNDS] [-s SEED] [-w] FOLDER
 *
 * Each thread owns regions of several kinds (anonymous or of a file in FOLDER, private or shared) and
 * does random operations on them; with -w it first writes all of them, page by page in no order. It
 * knows what each page has to hold: word i of a page is a function of the region, the page's place in
 * it and a generation that grows with each write. Prints "all right" and ends with status 0, or says
 * which word is wrong and ends with status 1. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pages.h"

enum { REGIONS = 8 };

struct worker {
    pthread_t thread;
    uint64_t random;
    int number;
    struct region regions[REGIONS];
    size_t pages, rounds;
    int write_all;
};

static const char *folder;
static __thread sigjmp_buf caught;
static __thread volatile int expecting;

static uint64_t next(struct worker *worker)
{
    uint64_t x = worker->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return worker->random = x;
}

static size_t below(struct worker *worker, size_t limit)
{
    return (size_t)(next(worker) >> 16) % limit;
}

/* Touches pages in no particular order: a step that has no factor in common with the number. */
static void write_shuffled(struct worker *worker, struct region *region)
{
    size_t step = region->pages / 2 + 1 + below(worker, region->pages / 2 + 1), at = 0;
    size_t a = step, b = region->pages;
    while (b != 0) {
        size_t rest = a % b;
        a = b;
        b = rest;
    }
    if (a != 1)
        step = 1;
    for (size_t i = 0; i < region->pages; i++, at = (at + step) % region->pages)
        write_page(region, at);
}

static void make_file(struct region *region)
{
    char path[4096];
    uint64_t words[WORDS];
    snprintf(path, sizeof path, "%s/memory-XXXXXX", folder);
    region->fd = mkstemp(path);
    check_call(region->fd >= 0, "make a file");
    unlink(path);
    region->file_pages = region->pages;
    for (size_t page = 0; page < region->file_pages; page++) {
        for (size_t i = 0; i < WORDS; i++)
            words[i] = word(region->seed, page, 0, i);
        check_call(write(region->fd, words, PAGE) == PAGE, "write a file");
    }
}

static void make_region(struct worker *worker, struct region *region, int kind)
{
    *region = (struct region){.fd = -1, .shared = kind & 1, .seed = next(worker)};
    region->pages = worker->pages / REGIONS / 2 + 1 + below(worker, worker->pages / REGIONS);
    region->generation = calloc(region->pages, sizeof *region->generation);
    check_call(region->generation != NULL, "allocate");
    if (kind & 2)
        make_file(region);
    region->start = mmap(NULL, region->pages * PAGE, PROT_READ | PROT_WRITE,
                         (region->shared ? MAP_SHARED : MAP_PRIVATE) |
                             (region->fd < 0 ? MAP_ANONYMOUS : 0),
                         region->fd, 0);
    check_call(region->start != MAP_FAILED, "mmap");
}

static void drop_region(struct region *region)
{
    check_call(munmap(region->start, region->pages * PAGE) == 0, "munmap");
    if (region->fd >= 0)
        close(region->fd);
    free(region->generation);
}

static void pick(struct worker *worker, const struct region *region, size_t *first, size_t *count)
{
    size_t most = region->pages < 700 ? region->pages : 700;
    *count = 1 + below(worker, most);
    *first = below(worker, region->pages - *count + 1);
}

static void on_fault(int number)
{
    if (!expecting) {
        static const char text[] = "wrong: a fault that should not be\n";
        if (write(1, text, sizeof text - 1) < 0)
            _exit(2);
        signal(number, SIG_DFL);
        return;
    }
    siglongjmp(caught, 1);
}

/* Whether touching an address faults. */
static int faults(char *address, int writing)
{
    volatile int found = 0;
    if (sigsetjmp(caught, 1) == 0) {
        expecting = 1;
        if (writing)
            *(volatile char *)address = *(volatile char *)address;
        else
            (void)*(volatile char *)address;
    } else {
        found = 1;
    }
    expecting = 0;
    return found;
}

static void protect(struct worker *worker, struct region *region)
{
    size_t first, count;
    pick(worker, region, &first, &count);
    char *start = region->start + first * PAGE, *somewhere = start + below(worker, count) * PAGE;
    int how = below(worker, 2) ? PROT_READ : PROT_NONE;
    check_call(mprotect(start, count * PAGE, how) == 0, "mprotect");
    if (!faults(somewhere, 1))
        fail("a protected page could be written");
    if (faults(somewhere, 0) != (how == PROT_NONE))
        fail("a page that is %s", how == PROT_NONE ? "closed was read" : "read-only was not readable");
    if (how == PROT_NONE) { /* the kernel must not read it either */
        int ends[2];
        check_call(pipe(ends) == 0, "pipe");
        if (write(ends[1], somewhere, 8) != -1 || errno != EFAULT)
            fail("the kernel read a page that is closed");
        close(ends[0]);
        close(ends[1]);
    } else {
        for (size_t i = 0; i < count; i++)
            check_page(region, first + i);
    }
    check_call(mprotect(start, count * PAGE, PROT_READ | PROT_WRITE) == 0, "mprotect back");
    for (size_t i = 0; i < count; i++)
        check_page(region, first + i);
}

static void discard(struct worker *worker, struct region *region)
{
    size_t first, count;
    pick(worker, region, &first, &count);
    check_call(madvise(region->start + first * PAGE, count * PAGE, MADV_DONTNEED) == 0, "madvise");
    if (!region->shared)
        memset(region->generation + first, 0, count * sizeof *region->generation);
    for (size_t i = 0; i < count; i++)
        check_page(region, first + i);
}

/* Unmaps a part of a private anonymous region, sees that it is gone, and maps it anew. */
static void punch(struct worker *worker, struct region *region)
{
    size_t first, count;
    if (region->shared || region->fd >= 0)
        return;
    pick(worker, region, &first, &count);
    char *start = region->start + first * PAGE;
    check_call(mmap(start, count * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
                   start, "mmap over");
    if (!faults(start + below(worker, count) * PAGE, 0))
        fail("a page that was unmapped could be read");
    int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | (below(worker, 2) ? MAP_POPULATE : 0);
    check_call(mmap(start, count * PAGE, PROT_READ | PROT_WRITE, how, -1, 0) == start, "mmap anew");
    memset(region->generation + first, 0, count * sizeof *region->generation);
    for (size_t i = 0; i < count; i++)
        check_page(region, first + i);
}

static void move(struct worker *worker, struct region *region)
{
    size_t length = region->pages * PAGE;
    size_t gap = (1 + below(worker, 600)) * PAGE;
    char *place = mmap(NULL, length + gap, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check_call(place != MAP_FAILED, "mmap a place");
    char *moved = mremap(region->start, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, place + gap);
    if (moved == MAP_FAILED && errno == EFAULT) { /* several mappings by now */
        check_call(munmap(place, length + gap) == 0, "munmap");
        return;
    }
    check_call(moved == place + gap, "mremap");
    check_call(munmap(place, gap) == 0, "munmap the rest");
    region->start = moved;
}

static void resize(struct worker *worker, struct region *region)
{
    if (region->shared || region->fd >= 0 || region->pages < 8)
        return;
    size_t pages = region->pages / 2 + below(worker, region->pages);
    char *start = mremap(region->start, region->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
    if (start == MAP_FAILED && errno == EFAULT) /* several mappings by now */
        return;
    check_call(start != MAP_FAILED, "mremap to another size");
    region->start = start;
    region->generation = realloc(region->generation, pages * sizeof *region->generation);
    check_call(region->generation != NULL, "allocate");
    for (size_t page = region->pages; page < pages; page++)
        region->generation[page] = 0;
    region->pages = pages;
    check_all(region);
}

/* The kernel copies in and out, over page boundaries. */
static void through_kernel(struct worker *worker, struct region *region)
{
    size_t page = below(worker, region->pages), other = below(worker, region->pages);
    int ends[2];
    static __thread uint64_t copy[WORDS];
    check_call(pipe(ends) == 0, "pipe");
    check_call(write(ends[1], region->start + page * PAGE, PAGE) == PAGE, "write to a pipe");
    check_call(read(ends[0], copy, PAGE) == PAGE, "read from a pipe");
    for (size_t i = 0; i < WORDS; i++)
        if (copy[i] != expected(region, page, i))
            fail("the kernel read a wrong word");
    uint32_t generation = ++region->generation[other];
    for (size_t i = 0; i < WORDS; i++)
        copy[i] = word(region->seed, other, generation, i);
    check_call(write(ends[1], copy, PAGE) == PAGE, "write to a pipe");
    check_call(read(ends[0], region->start + other * PAGE, PAGE) == PAGE, "read from a pipe");
    check_page(region, other);
    close(ends[0]);
    close(ends[1]);
}

static void write_some(struct worker *worker, struct region *region)
{
    size_t first, count;
    pick(worker, region, &first, &count);
    for (size_t i = 0; i < count; i++)
        write_page(region, first + i);
}

/* A child sees all, writes to what is private, and changes nothing for its parent. Other threads go
 * on meanwhile, so it looks only at what belongs to this one. */
static void fork_and_check(struct worker *worker)
{
    pid_t pid = fork();
    check_call(pid >= 0, "fork");
    if (pid == 0) {
        for (int i = 0; i < REGIONS; i++)
            check_all(&worker->regions[i]);
        for (int i = 0; i < REGIONS; i++) {
            struct region *region = &worker->regions[i];
            if (region->shared)
                continue;
            write_some(worker, region);
            discard(worker, region);
            check_all(region);
        }
        _exit(0);
    }
    for (int i = 0; i < REGIONS; i++) /* copy-on-write from this side, while the child looks */
        if (!worker->regions[i].shared)
            write_some(worker, &worker->regions[i]);
    int status;
    check_call(waitpid(pid, &status, 0) == pid, "wait");
    if (status != 0)
        fail("a child ended with wait status %#x", status);
}

/* A child writes to shared memory, and its parent sees it. */
static void fork_and_share(struct worker *worker, struct region *region)
{
    size_t page = below(worker, region->pages);
    if (!region->shared)
        return;
    pid_t pid = fork();
    check_call(pid >= 0, "fork");
    if (pid == 0) {
        write_page(region, page);
        _exit(0);
    }
    int status;
    check_call(waitpid(pid, &status, 0) == pid && status == 0, "wait");
    region->generation[page]++;
    check_page(region, page);
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    for (int i = 0; i < REGIONS; i++)
        make_region(worker, &worker->regions[i], i);
    for (int i = 0; i < REGIONS && worker->write_all; i++)
        write_shuffled(worker, &worker->regions[i]);
    for (size_t round = 0; round < worker->rounds; round++) {
        struct region *region = &worker->regions[below(worker, REGIONS)];
        switch (below(worker, 16)) {
        case 0: write_shuffled(worker, region); break;
        case 1: protect(worker, region); break;
        case 2: discard(worker, region); break;
        case 3: punch(worker, region); break;
        case 4: move(worker, region); break;
        case 5: resize(worker, region); break;
        case 6: fork_and_check(worker); break;
        case 7: fork_and_share(worker, region); break;
        case 8: check_all(region); break;
        case 9:
            drop_region(region);
            make_region(worker, region, (int)below(worker, 4));
            break;
        case 10:
        case 11: through_kernel(worker, region); break;
        default: write_some(worker, region); break;
        }
    }
    for (int i = 0; i < REGIONS; i++) {
        check_all(&worker->regions[i]);
        drop_region(&worker->regions[i]);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    size_t megabytes = 64, threads = 2, rounds = 100;
    int write_all = 0;
    uint64_t seed = 1;
    for (int option; (option = getopt(argc, argv, "m:t:r:s:w")) != -1;) {
        unsigned long value = optarg != NULL ? strtoul(optarg, NULL, 10) : 0;
        switch (option) {
        case 'm': megabytes = value; break;
        case 't': threads = value; break;
        case 'r': rounds = value; break;
        case 's': seed = value; break;
        case 'w': write_all = 1; break;
        default: return 2;
        }
    }
    if (optind + 1 != argc || threads == 0)
        return 2;
    folder = argv[optind];
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
    check_call(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0,
               "sigaction");
    struct worker *workers = calloc(threads, sizeof *workers);
    check_call(workers != NULL, "allocate");
    for (size_t i = 0; i < threads; i++) {
        workers[i] = (struct worker){.number = (int)i,
                                     .random = (seed * 1000 + i + 1) * 0x9e3779b97f4a7c15u,
                                     .pages = megabytes * 256 / threads,
                                     .rounds = rounds,
                                     .write_all = write_all};
        check_call(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0, "make a thread");
    }
    for (size_t i = 0; i < threads; i++)
        pthread_join(workers[i].thread, NULL);
    free(workers);
    printf("all right\n");
    return 0;
}
