"""Probe /dev/kvm by running guest code: a device that opens is not yet one that works.

Where KVM has no hardware behind it, its instruction emulator runs ordinary guests at about a
million instructions a second: a kernel then crawls, or stops at an instruction that the emulator
does not know. So the guest here computes, and is timed.
"""

from __future__ import annotations

import ctypes
import fcntl
import glob
import mmap
import os
import struct
import time
from typing import Any

from apppot import process
from apppot.errors import ProcessError
from apppot.machine.probes import system
from apppot.machine.probes.finding import Finding, Outcome

DEVICE = "/dev/kvm"
DEADLINE = 10.0
# 4000 rounds of 4096 steps of 3 instructions: 30 ms on any hardware, most of a minute emulated.
ROUNDS, STEPS = 4000, 4096
PATIENCE = 1.5  # seconds of CPU time
REAL_ROUNDS, TRAP_ROUNDS = 1000, 100

_CREATE_VM, _GET_SUPPORTED_CPUID, _GET_MMAP_SIZE = 0xAE01, 0xC008AE05, 0xAE04
_CREATE_VCPU, _SET_TSS_ADDR, _SET_MEMORY, _RUN = 0xAE41, 0xAE47, 0x4020AE46, 0xAE80
_SET_REGS, _GET_SREGS, _SET_SREGS, _SET_CPUID2 = 0x4090AE82, 0x8138AE83, 0x4138AE84, 0x4008AE90
_EXIT_IO, _EXIT_HLT, _EXIT_SHUTDOWN, _EXIT_FAIL_ENTRY, _EXIT_INTERNAL = 2, 5, 8, 9, 17

MEMORY = 2 << 20
_PML4, _PDPT, _PD, _GDT, _IDT, _CODE16, _CODE64 = (n << 12 for n in range(1, 8))
_HANDLER, _COUNTER, _STACK, _DATA = 0x9000, 0x9800, 0x20000, 0x40000

CODE16 = (
    b"\xb9" + struct.pack("<H", REAL_ROUNDS)  #      mov cx, rounds
    + b"\xbf\x00\xa0"  #                             mov di, 0xa000
    + b"\x89\x0d\x8b\x05\xe7\x10\x47\x47\xe2\xf6"  # l: mov [di], cx; mov ax, [di]; out 16, ax;
    + b"\xf4"  #                                     inc di; inc di; loop l.  hlt
)  # fmt: skip


def code64(rounds: int, *, trap: bool) -> bytes:
    """Return the long-mode program; `trap`: each round takes an exception through the IDT."""
    return (
        b"\xbb" + struct.pack("<I", rounds)  #             mov ebx, rounds
        + b"\x48\xc7\xc7" + struct.pack("<I", _DATA)  # r: mov rdi, data
        + b"\xb9" + struct.pack("<I", STEPS)  #            mov ecx, steps
        + b"\x48\x01\x4c\xcf\xf8"  #                    s: add [rdi+rcx*8-8], rcx
        + b"\x48\xff\xc9\x75\xf6"  #                       dec rcx; jnz s
        + (b"\xcc" if trap else b"\x90")  #                int3, or nop
        + b"\x89\xd8\xe7\x10"  #                           mov eax, ebx; out 16, eax
        + b"\xff\xcb\x75\xe1\xf4"  #                       dec ebx; jnz r; hlt
    )  # fmt: skip


HANDLER = b"\xff\x04\x25" + struct.pack("<I", _COUNTER) + b"\x48\xcf"  # inc [counter]; iretq


class _Guest:
    """One virtual CPU with 2 MiB of memory."""

    def __init__(self, device: int) -> None:
        vm = fcntl.ioctl(device, _CREATE_VM, 0)
        fcntl.ioctl(vm, _SET_TSS_ADDR, 0x7FFBD000)  # beyond the memory; Intel wants it
        self.memory = mmap.mmap(-1, MEMORY, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        fcntl.ioctl(vm, _SET_MEMORY, struct.pack("IIQQQ", 0, 0, 0, MEMORY, address))
        self.cpu = fcntl.ioctl(vm, _CREATE_VCPU, 0)
        cpuid = bytearray(8 + 40 * 256)
        struct.pack_into("I", cpuid, 0, 256)
        fcntl.ioctl(device, _GET_SUPPORTED_CPUID, cpuid)
        fcntl.ioctl(self.cpu, _SET_CPUID2, cpuid)
        self.run_page = mmap.mmap(self.cpu, fcntl.ioctl(device, _GET_MMAP_SIZE))

    def put(self, address: int, data: bytes) -> None:
        self.memory[address : address + len(data)] = data

    def start_at(self, address: int, *, long: bool) -> None:
        """Set the registers: real mode, or long mode with paging, a GDT and an IDT."""
        sregs = bytearray(fcntl.ioctl(self.cpu, _GET_SREGS, bytes(312)))
        if long:
            code = struct.pack("QIHBBBBBBBBBB", 0, 0xFFFFFFFF, 8, 11, 1, 0, 0, 1, 1, 1, 0, 0, 0)
            data = struct.pack("QIHBBBBBBBBBB", 0, 0xFFFFFFFF, 16, 3, 1, 0, 1, 1, 0, 1, 0, 0, 0)
            sregs[0:144] = code + data * 5
            struct.pack_into("QHxxxxxxQHxxxxxx", sregs, 192, _GDT, 23, _IDT, 4095)
            struct.pack_into("QQQQQQ", sregs, 224, 0x80010033, 0, _PML4, 0x20, 0, 0x500)
        else:
            struct.pack_into("QIH", sregs, 0, 0, 0xFFFF, 0)
        fcntl.ioctl(self.cpu, _SET_SREGS, bytes(sregs))
        registers = [0] * 18
        registers[6], registers[16], registers[17] = _STACK, address, 2
        fcntl.ioctl(self.cpu, _SET_REGS, struct.pack("18Q", *registers))

    def step(self) -> int | None:
        """Run up to the next port access and return what was written; None at the halt."""
        while True:
            try:
                fcntl.ioctl(self.cpu, _RUN, 0)
                break
            except InterruptedError:
                continue
        (reason,) = struct.unpack_from("I", self.run_page, 8)
        if reason == _EXIT_HLT:
            return None
        if reason == _EXIT_IO:
            _, size, _, _, offset = struct.unpack_from("BBHIQ", self.run_page, 32)
            return int.from_bytes(self.run_page[offset : offset + size], "little")
        (code,) = struct.unpack_from("Q", self.run_page, 32)
        raise OSError(0, _exit_text(reason, code))


def _exit_text(reason: int, code: int) -> str:
    return {
        _EXIT_SHUTDOWN: "the guest crashed (triple fault)",
        _EXIT_FAIL_ENTRY: f"the processor refused the guest (entry failure {code:#x})",
        _EXIT_INTERNAL: f"KVM internal error, suberror {code & 0xFFFFFFFF}",
    }.get(reason, f"the guest stopped for reason {reason}")


def run_guest() -> dict[str, Any]:
    """Run the guest programs and check what they computed; to be called in a child."""
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    guest = _Guest(device)
    _lay_out(guest)
    guest.put(_CODE16, CODE16)
    guest.start_at(_CODE16, long=False)
    real = _count_down(guest, REAL_ROUNDS, "real mode")
    guest.put(_CODE64, code64(ROUNDS, trap=False))
    guest.start_at(_CODE64, long=True)
    rounds, spent = _count_down(guest, ROUNDS, "long mode")
    result: dict[str, Any] = {
        "real_mode_seconds": round(real[1], 4),
        "long_mode_seconds": round(spent, 4),
        "finished": rounds == ROUNDS,
        "instructions_per_second": int(rounds * STEPS * 3 / max(spent, 1e-6)),
    }
    if rounds == ROUNDS:
        guest.put(_CODE64, code64(TRAP_ROUNDS, trap=True))
        guest.start_at(_CODE64, long=True)
        traps, _ = _count_down(guest, TRAP_ROUNDS, "a guest with exceptions")
        result["right"] = traps == TRAP_ROUNDS and _sums_are_right(guest)
    return result


def _count_down(guest: _Guest, rounds: int, what: str) -> tuple[int, float]:
    """Run until the guest halts or PATIENCE is used up; return rounds done and CPU seconds."""
    begin = time.process_time()
    spent = 0.0
    for expected in range(rounds, 0, -1):
        if (got := guest.step()) != expected:
            raise OSError(0, f"{what} computed {got} instead of {expected}")
        spent = time.process_time() - begin
        if spent > PATIENCE:
            return rounds - expected + 1, spent
    if guest.step() is not None:
        raise OSError(0, f"{what} did not halt")
    return rounds, spent


def _lay_out(guest: _Guest) -> None:
    guest.put(_PML4, struct.pack("Q", _PDPT | 3))
    guest.put(_PDPT, struct.pack("Q", _PD | 3))
    guest.put(_PD, struct.pack("Q", 0x83))  # one page of 2 MiB
    guest.put(_GDT, struct.pack("QQQ", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF))
    guest.put(_IDT + 3 * 16, struct.pack("HHBBHII", _HANDLER, 8, 0, 0x8E, 0, 0, 0))
    guest.put(_HANDLER, HANDLER)


def _sums_are_right(guest: _Guest) -> bool:
    sums = struct.unpack_from(f"{STEPS}Q", guest.memory, _DATA)
    (breaks,) = struct.unpack_from("I", guest.memory, _COUNTER)
    total = ROUNDS + TRAP_ROUNDS
    return breaks == TRAP_ROUNDS and all(n == (i + 1) * total for i, n in enumerate(sums))


def kvm() -> Finding:
    """Open /dev/kvm, make a machine, run and time guest code in it."""
    problem = _open_problem()
    if problem:
        return problem
    details = backend()
    try:
        result = process.in_child(run_guest, DEADLINE)
    except ProcessError as error:
        text = error.message
        if error.returncode == 124:  # noqa: PLR2004  the deadline
            text = f"guest code did not end within {DEADLINE:g} s"
        return _unusable(text, details)
    details |= result
    return judge(result, details)


def judge(result: dict[str, Any], details: dict[str, Any]) -> Finding:
    """Return the finding for what run_guest() measured."""
    speed = result["instructions_per_second"] / 1e6
    if not result["finished"]:
        return _unusable(f"guest code crawls: {speed:.1f} million instructions a second", details)
    if not result["right"]:
        return _unusable("guest code computed wrong results", details)
    found = f"guest code ran: {speed:.0f} million instructions a second"
    return Finding("kvm", Outcome.WORKS, found, "the engine kvm can run appliances", "", details)


def _unusable(what: str, details: dict[str, Any]) -> Finding:
    modules, hardware = details.get("modules", []), details.get("hardware")
    if modules and not set(modules) & {"kvm_intel", "kvm_amd"}:
        what += f" (behind {DEVICE} is {', '.join(modules)})"
    if hardware is False:
        what += "; the processor shows no vmx or svm, so KVM has no hardware to use"
    return Finding(
        "kvm",
        Outcome.FAILS,
        f"{DEVICE} opens, but {what}",
        "the engine kvm is not used here; uml is",
        "none needed; for KVM use a physical computer, or a host with nested virtualization",
        details,
    )


def backend() -> dict[str, Any]:
    """Return what stands behind /dev/kvm: module names, and whether the processor can help."""
    modules = sorted(os.path.basename(path) for path in glob.glob("/sys/module/kvm_*"))
    flags = next(
        (line for line in system.text("/proc/cpuinfo").splitlines() if line.startswith("flags")), ""
    )
    return {"modules": modules, "hardware": bool({"vmx", "svm"} & set(flags.split()))}


def _open_problem() -> Finding | None:
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        found = f"there is no {DEVICE}"
        advice = "none needed; for KVM load kvm_intel or kvm_amd, or ask for nested virtualization"
    except OSError as error:
        found = f"{DEVICE} cannot be opened: {error.strerror}"
        advice = "none needed; for KVM join the group of the device (often 'kvm') and log in again"
    else:
        return None
    return Finding(
        "kvm", Outcome.FAILS, found, "the engine kvm is not used here; uml is", advice, backend()
    )
