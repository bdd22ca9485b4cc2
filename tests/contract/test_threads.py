"""Contract: threads of one process run at the same time on a machine with several CPUs."""

from __future__ import annotations

import os
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


@pytest.mark.sample
def test_threads_of_one_process_run_at_the_same_time(apppot: AppPot) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("needs a C compiler (cc or gcc) that links static programs")
    words = [compiler, "-O1", "-static", "-pthread", "-x", "c", "-", "-o", apppot.path("turns")]
    subprocess.run(words, input=_PROGRAM, text=True, check=True)
    done = apppot.run("./turns", options=("--cpus", "2"))
    assert (done.status, done.stdout) == (0, b"1\n")


@pytest.mark.only_on("uml", reason="the host places QEMU's virtual CPUs")
def test_each_virtual_cpu_stays_on_a_cpu_of_its_own(apppot: AppPot) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("only one CPU may be used here")
    # Both virtual CPUs have run a program by the time that the shell speaks.
    script = "for n in 1 2 3 4; do (i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done) & done; wait"
    command = ("sh", "-c", f"{script}; echo up; exec sleep 1000")
    with apppot.start(command, options=("--network", "none", "--cpus", "2")) as running:
        running.expect(b"up\n")
        tasks = os.listdir(f"/proc/{running.kernel()}/task")
        places = [tuple(os.sched_getaffinity(int(task))) for task in tasks]
    alone = {place for place in places if len(place) == 1}
    assert len(alone) == 2, places
