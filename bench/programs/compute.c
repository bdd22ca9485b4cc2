/* compute float|integer|memory: do a fixed amount of work, print the nanoseconds it took. */
#include "clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t begin;

static double floating(void)
{
    double x = 0.5, sum = 0;
    for (int i = 0; i < 60000000; i++) {
        x = 3.7 * x * (1.0 - x);
        sum += x;
    }
    return sum;
}

static double integer(void)
{
    uint64_t x = 88172645463325252u, sum = 0;
    for (int i = 0; i < 150000000; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        sum += x >> 60;
    }
    return (double)sum;
}

static double memory(void)
{
    size_t size = 48u << 20; /* beyond the caches */
    unsigned char *from = malloc(size), *to = malloc(size);
    if (!from || !to)
        exit(1);
    for (size_t i = 0; i < size; i += 64) /* volatile: a compiler drops a useless memset */
        ((volatile unsigned char *)from)[i] = ((volatile unsigned char *)to)[i] = 1;
    begin = now(CLOCK_MONOTONIC); /* page faults are a measure of their own */
    for (int i = 0; i < 24; i++) {
        memcpy(to, from, size);
        from[(size_t)i * 4096] = to[i];
    }
    return to[size / 2];
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    double result;
    begin = now(CLOCK_MONOTONIC);
    if (!strcmp(what, "float"))
        result = floating();
    else if (!strcmp(what, "integer"))
        result = integer();
    else if (!strcmp(what, "memory"))
        result = memory();
    else
        return 2;
    uint64_t end = now(CLOCK_MONOTONIC);
    printf("%llu\n", (unsigned long long)(end - begin));
    return result == 0.125; /* the result is used, so the work is done */
}
