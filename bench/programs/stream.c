/* stream pour BYTES: write zeros to standard output; stream drain [BYTES]: read standard
 * input to its end, or that many bytes.
 * The nanoseconds from the first byte to the last, and the bytes, go to standard error. */
#include "clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char buffer[1 << 16];

static size_t piece(unsigned long long left)
{
    return left < sizeof buffer ? (size_t)left : sizeof buffer;
}

int main(int argc, char **argv)
{
    unsigned long long total = 0;
    uint64_t begin = now(CLOCK_MONOTONIC);
    if (argc == 3 && !strcmp(argv[1], "pour")) {
        unsigned long long left = strtoull(argv[2], NULL, 10);
        while (left > 0) {
            ssize_t done = write(1, buffer, piece(left));
            if (done <= 0)
                return 1;
            left -= (unsigned long long)done;
            total += (unsigned long long)done;
        }
    } else if ((argc == 2 || argc == 3) && !strcmp(argv[1], "drain")) {
        unsigned long long all = argc == 3 ? strtoull(argv[2], NULL, 10) : ~0ull;
        ssize_t got = 0;
        while (total < all && (got = read(0, buffer, piece(all - total))) > 0) {
            if (!total)
                begin = now(CLOCK_MONOTONIC);
            total += (unsigned long long)got;
        }
        if (got < 0)
            return 1;
    } else {
        return 2;
    }
    fprintf(stderr, "%llu %llu\n", (unsigned long long)(now(CLOCK_MONOTONIC) - begin), total);
    return 0;
}
