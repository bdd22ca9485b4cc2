/*
 * Memory that programs share comes in pieces of many pages, with one fault and one mapping on the
 * host for each: shared mappings without a file, files in memory, and System V shared memory; as a
 * page is touched, and with fallocate() before. Two mappings of it show the same.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <unistd.h>

#define PAGE 4096L
#define SIZE (32L << 20)
#define MOST (SIZE / PAGE / 16) /* faults: 16 pages for each at least */

static long faults(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

static void write_and_read(const char *what, char *to, const char *from)
{
    long before = faults(), taken;

    if (to == MAP_FAILED || from == MAP_FAILED) {
        perror(what);
        exit(1);
    }
    for (long at = 0; at < SIZE; at += PAGE)
        to[at] = (char)(at / PAGE % 127 + 1);
    for (long at = 0; at < SIZE; at += PAGE) {
        if (from[at] != (char)(at / PAGE % 127 + 1) || from[at + 1]) {
            printf("%s: wrong at %ld\n", what, at);
            exit(1);
        }
    }
    taken = faults() - before;
    if (taken > (to == from ? MOST : 2 * MOST)) {
        printf("%s: %ld faults for %ld pages\n", what, taken, SIZE / PAGE);
        exit(1);
    }
}

static char *view(int fd)
{
    return mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

static void in_a_file(const char *what, int reserve)
{
    int fd = memfd_create("shared", 0);

    if (fd < 0 || (reserve ? posix_fallocate(fd, 0, SIZE) : ftruncate(fd, SIZE))) {
        perror(what);
        exit(1);
    }
    write_and_read(what, view(fd), view(fd));
    close(fd);
}

int main(void)
{
    char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int id = shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600);

    write_and_read("a mapping without a file", memory, memory);
    in_a_file("a file in memory", 0);
    in_a_file("a reserved file in memory", 1);
    memory = shmat(id, NULL, 0);
    shmctl(id, IPC_RMID, NULL);
    write_and_read("System V shared memory", memory, memory);
    puts("all right");
    return 0;
}
