"""Programs as users run them, from one image: native, in a stock User-Mode Linux, and in AppPot.

The native side runs the very same files: the image's root file system, unpacked, with bwrap.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.peers import APPPOT, Peer, export
from bench.series import CaseError, Section
from bench.sides import compare, native

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.measures import Bench

_FILES = """cd "$(mktemp -d)" && i=0
while [ $i -lt 30 ]; do
    printf '#include <stdio.h>\\n#include <stdlib.h>\\nint f%d(int n) { return printf("%%d", n) + abs(n); }\\n' $i >$i.c
    i=$((i + 1))
done
begin=$(date +%s%N)
"""  # noqa: E501
_END = "\necho $(($(date +%s%N) - begin))\n"
COMPILE = _FILES + 'for file in *.c; do gcc -O1 -c "$file" || exit 1; done' + _END
MAKE = _FILES + "make -s -j2 CFLAGS=-O1 $(seq -f %.0f.o 0 29) || exit 1" + _END

NUMPY = """
import time, numpy
a = numpy.random.default_rng(1).random((1600, 1600))
a @ a
begin = time.monotonic_ns()
for _ in range(8):
    b = a @ a
print(time.monotonic_ns() - begin)
"""

# One large transaction with an index; then small ones, each of which has to reach the disk.
SQLITE = """db=$(mktemp -p "$1")
begin=$(date +%s%N)
sqlite3 "$db" "CREATE TABLE t(a INTEGER PRIMARY KEY, b INTEGER, c TEXT);
WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < $2)
INSERT INTO t SELECT x, x * 7919 % 100003, 'row number ' || x FROM n;
CREATE INDEX i ON t(b);" &&
seq $3 | sed 's/.*/INSERT INTO t(b, c) VALUES(&, "one more");/' | sqlite3 "$db" || exit 1
echo $(($(date +%s%N) - begin))
[ "$(sqlite3 "$db" 'SELECT count(*) FROM t')" = $(($2 + $3)) ] || exit 1
rm "$db"
"""

# A box of water, made by GROMACS's own tools, and relaxed: as made, it would burst.
WATER = """rm -rf water && mkdir water && cd water || exit 1
gmx="gmx -quiet -nobackup"
$gmx solvate -cs spc216 -box 3 3 3 -o box.gro >log 2>&1 || exit 1
cat >topol.top <<END
#include "oplsaa.ff/forcefield.itp"
#include "oplsaa.ff/spc.itp"
[ system ]
water
[ molecules ]
SOL $(grep -c ' OW ' box.gro)
END
common="cutoff-scheme=Verlet coulombtype=PME rcoulomb=0.9 rvdw=0.9"
printf '%s\\n' $common integrator=steep nsteps=100 >em.mdp
printf '%s\\n' $common integrator=md dt=0.002 nsteps=500 tcoupl=v-rescale tc-grps=System \\
    tau-t=0.5 ref-t=300 gen-vel=yes gen-temp=300 gen-seed=1 ld-seed=1 constraints=h-bonds >md.mdp
$gmx grompp -f em.mdp -c box.gro -p topol.top -o em.tpr -maxwarn 2 >>log 2>&1 &&
$gmx mdrun -deffnm em -ntmpi 1 -ntomp 1 -pin off >>log 2>&1 &&
$gmx grompp -f md.mdp -c em.gro -p topol.top -o md.tpr -maxwarn 2 >>log 2>&1
"""
GROMACS = """cd "$(mktemp -d)" || exit 1
gmx -quiet mdrun -s /job/water/md.tpr -ntmpi 1 -ntomp $1 -pin off -nsteps $2 >log 2>&1 || {
    tail -n 1 log >&2
    exit 1
}
awk '$1 == "Time:" { printf "%.0f\\n", $3 * 1e9 }' md.log
"""


def _side(
    bench: Bench,
    title: str,
    script: str,
    *words: str,
    program: tuple[str, ...] = ("/bin/sh", "-c"),
    cpus: int = 1,
    memory: int = 2048,
    note: str = "",
) -> Section:
    section = Section(title, "s", digits=2, note=note)
    root = _root(bench)
    command = (*program, script, *(("-", *words) if words else ()))

    def measure(peer: Peer) -> float:
        return bench.run(peer, *command).number() / 1e9

    return compare(
        bench,
        section,
        measure,
        cpus=cpus,
        image=bench.programs_image,
        root=root,
        memory=memory,
        runs=max(3, bench.runs // 6),
    )


def _root(bench: Bench) -> str:
    """Return the folder with the image's root, unpacked at the first call; raises CaseError."""
    if not bench.programs_image:
        raise CaseError("no --programs-image was given")
    root = os.path.join(bench.work, "programs")
    if not os.path.isdir(root):
        bench.said("exporting the image with the programs")
        os.mkdir(root)
        export(bench.apppot, bench.programs_image, root)
    return root


def compiling(bench: Bench) -> list[Section]:
    """Compile small files, one after the other."""
    section = _side(bench, "gcc of 30 small files, one after the other", COMPILE)
    section.times_baseline(APPPOT, most=2)
    return [section]


def making(bench: Bench) -> list[Section]:
    """Compile them two at a time."""
    return [_side(bench, "gcc of 30 small files, make -j2 on 2 CPUs", MAKE, cpus=2)]


def numpy(bench: Bench) -> list[Section]:
    """Multiply matrices with NumPy, on one CPU and on two."""
    sections = []
    for cpus in (1, 2):
        section = _side(
            bench,
            f"NumPy matrix product, {cpus} CPU{'s' * (cpus > 1)}",
            NUMPY,
            program=("python3", "-c"),
            cpus=cpus,
            note="8 products of 1600 x 1600 in double precision, with OpenBLAS",
        )
        section.times_baseline(APPPOT, least_speed=0.9)
        sections.append(section)
    return sections


def sqlite(bench: Bench) -> list[Section]:
    """Insert rows with sqlite3: in the machine's own file system, and in the shared folder."""
    rows, single = (50_000, 100) if bench.quick else (300_000, 500)
    note = f"{rows} rows in one statement, an index, and {single} rows in transactions of their own"
    return [
        _side(
            bench, f"sqlite insert test in {where}", SQLITE, path, str(rows), str(single), note=note
        )
        for where, path in (("/tmp", "/tmp"), ("the shared folder", "."))
    ]


def gromacs(bench: Bench) -> list[Section]:
    """Run a short molecular dynamics of water with GROMACS, on one CPU and on two."""
    before = native(bench, 1, _root(bench))
    bench.run(before, "/bin/sh", "-c", WATER)
    steps = 200 if bench.quick else 2000
    sections = []
    for cpus in (1, 2):
        section = _side(
            bench,
            f"GROMACS, {cpus} CPU{'s' * (cpus > 1)}",
            GROMACS,
            str(cpus),
            str(steps),
            cpus=cpus,
            note=f"mdrun of {steps} steps of a box of water, 3 nm wide, with PME;"
            " its own clock, without its start",
        )
        section.times_baseline(APPPOT, least_speed=0.9)
        sections.append(section)
    return sections


MEASURES: dict[str, Callable[[Bench], list[Section]]] = {
    "compile": compiling,
    "make": making,
    "numpy": numpy,
    "sqlite": sqlite,
    "gromacs": gromacs,
}
