/* Print the time of day, in nanoseconds, as the first thing that is done. */
#include "clock.h"
#include <stdio.h>

int main(void)
{
    uint64_t t = now(CLOCK_REALTIME);
    printf("%llu\n", (unsigned long long)t);
    return 0;
}
