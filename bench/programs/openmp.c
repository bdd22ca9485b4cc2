/* openmp N: how many times faster is a loop with N threads than with one? */
#include "clock.h"
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

static double loop(int threads)
{
    double sum = 0;
    uint64_t begin = now(CLOCK_MONOTONIC);
#pragma omp parallel for num_threads(threads) reduction(+ : sum)
    for (int i = 1; i < 200000000; i++)
        sum += 1.0 / i;
    uint64_t end = now(CLOCK_MONOTONIC);
    return sum > 19 && sum < 20 ? (double)(end - begin) : 0;
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 0;
    if (threads < 1)
        return 2;
    loop(threads); /* the threads are made here */
    double one = loop(1), all = loop(threads);
    if (one == 0 || all == 0)
        return 1;
    printf("%.3f\n", one / all);
    return 0;
}
