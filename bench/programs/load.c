/* load scatter MB: first touch of pages in shuffled order, in nanoseconds for each.
 * load write MB FILE: a file written in pieces of 1 MiB; nanoseconds in all.
 * load files N FOLDER: N files of 32 bytes made in a new folder; nanoseconds for each. */
#include "clock.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096 };

static uint64_t scatter(size_t megabytes)
{
    size_t count = megabytes * 256;
    volatile char *area = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t *order = malloc(count * sizeof *order);
    if (area == MAP_FAILED || order == NULL)
        return 0;
    uint64_t random = 88172645463325252u;
    for (size_t i = 0; i < count; i++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        size_t other = random % (i + 1);
        order[i] = order[other];
        order[other] = (uint32_t)i;
    }
    uint64_t begin = now(CLOCK_MONOTONIC);
    for (size_t i = 0; i < count; i++)
        area[(size_t)order[i] * PAGE] = 1;
    return (now(CLOCK_MONOTONIC) - begin) / count;
}

static uint64_t write_file(size_t megabytes, const char *path)
{
    static char piece[1 << 20];
    unlink(path);
    uint64_t begin = now(CLOCK_MONOTONIC);
    int file = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
    for (size_t i = 0; i < megabytes; i++)
        if (write(file, piece, sizeof piece) != sizeof piece)
            return 0;
    if (close(file) != 0)
        return 0;
    uint64_t end = now(CLOCK_MONOTONIC);
    unlink(path);
    return end - begin;
}

static uint64_t make_files(size_t count, const char *parent)
{
    char folder[4096], name[4200];
    snprintf(folder, sizeof folder, "%s/load-XXXXXX", parent);
    if (mkdtemp(folder) == NULL)
        return 0;
    uint64_t begin = now(CLOCK_MONOTONIC);
    for (size_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s/%zu", folder, i);
        int file = open(name, O_CREAT | O_EXCL | O_WRONLY, 0600);
        if (write(file, "thirty-two bytes of some result\n", 32) != 32 || close(file) != 0)
            return 0;
    }
    uint64_t end = now(CLOCK_MONOTONIC);
    for (size_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s/%zu", folder, i);
        unlink(name);
    }
    rmdir(folder);
    return (end - begin) / count;
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[1] : "";
    size_t amount = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    uint64_t found;
    if (!strcmp(what, "scatter") && argc == 3)
        found = scatter(amount);
    else if (!strcmp(what, "write") && argc == 4)
        found = write_file(amount, argv[3]);
    else if (!strcmp(what, "files") && argc == 4)
        found = make_files(amount, argv[3]);
    else
        return 2;
    if (found == 0) {
        perror(what);
        return 1;
    }
    printf("%llu\n", (unsigned long long)found);
    return 0;
}
