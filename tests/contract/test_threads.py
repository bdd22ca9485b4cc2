"""Contract: threads of one process run at the same time on a machine with several CPUs."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.harness import AppPot

# Two threads pass a turn to each other, and wait for it without letting the CPU go. Where they
# take turns on one CPU, each of them spins for a time slice, so that a second sees some hundred
# turns; where both run it sees millions, and a busy host still leaves them some moments together.
_PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include <time.h>

static volatile unsigned long turn;
static volatile int over;

static void *spin(void *me)
{
    while (!over) {
        while ((turn & 1) != (unsigned long)me && !over)
            ;
        turn++;
    }
    return NULL;
}

int main(void)
{
    pthread_t other;
    time_t begin = time(NULL);

    pthread_create(&other, NULL, spin, (void *)1);
    for (unsigned long rounds = 0; turn < 200000; rounds++) {
        for (long i = 0; (turn & 1) && i < 100000; i++)
            ;
        if (!(turn & 1))
            turn++;
        if (rounds % 256 == 0 && time(NULL) - begin > 20)
            break;
    }
    printf("%d\n", turn >= 200000);
    over = 1;
    pthread_join(other, NULL);
    return 0;
}
"""


def test_threads_of_one_process_run_at_the_same_time(apppot: AppPot) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("needs a C compiler (cc or gcc) that links static programs")
    words = [compiler, "-O1", "-static", "-pthread", "-x", "c", "-", "-o", apppot.path("turns")]
    subprocess.run(words, input=_PROGRAM, text=True, check=True)
    done = apppot.run("./turns", options=("--cpus", "2"))
    assert (done.status, done.stdout) == (0, b"1\n")
