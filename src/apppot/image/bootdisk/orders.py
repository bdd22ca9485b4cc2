"""What an exported disk's machine is to be and do: its partition for orders. Pure."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apppot.agent.frames import records
from apppot.agent.spec import CommandSpec, GuestLayer, GuestSpec, Terminal
from apppot.image.model import DEFAULT_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from apppot.image.model import ImageConfig

MAGIC = b"APPPOT\0\2"
_RUN = b"""umask 077 && f=$(mktemp /tmp/payload-XXXXXX) && cat >"$f" && chmod 700 "$f" &&
umask 022 && exec "$f" </dev/null"""
_SSH = b"""key=$(cat); server=$(command -v sshd) && umask 077 && mkdir -p /root/.ssh || exit 0
keys=/root/.ssh/authorized_keys
grep -qsxF "$key" $keys || echo "$key" >>$keys
ssh-keygen -A >/dev/null 2>&1
umask 022; mkdir -p /run/sshd; exec "$server" -D -e"""
_SHELL = b"for s in bash sh; do command -v $s >/dev/null && exec $s -l; done"


@dataclass(frozen=True)
class Names:
    """The identities of a disk's parts; the same image and orders give the same ones."""

    disk: uuid.UUID
    orders: uuid.UUID
    layers: uuid.UUID
    data: uuid.UUID


def names(seed: str) -> Names:
    """Return identities that depend on `seed` alone."""
    space = uuid.UUID("d5b5d7a0-3b6c-5d2f-9a53-0b6a7c1d2e4f")
    return Names(*(uuid.uuid5(space, f"{part} {seed}") for part in ("disk", "o", "l", "d")))


def machine(identities: Names, offsets: Sequence[int], hostname: str) -> GuestSpec:
    """Return the machine: its layers begin at `offsets` in their partition, the lowest first."""
    device = f"PARTUUID={identities.layers}"
    return GuestSpec(
        hostname=hostname,
        layers=tuple(GuestLayer(device, offset=offset) for offset in offsets),
        scratch=f"PARTUUID={identities.data}",
        scratch_is_kept=True,
    )


def runner(config: ImageConfig) -> CommandSpec:
    """Return the command that runs a script which it gets on its standard input."""
    settings = {b"PATH": DEFAULT_PATH.encode()}
    for setting in map(str.encode, config.env):
        name, _, value = setting.partition(b"=")
        settings[name] = value
    return CommandSpec(
        arguments=(b"/bin/sh", b"-c", _RUN),
        environment=tuple(name + b"=" + value for name, value in settings.items()),
        directory=config.working_dir.encode() or b"/",
        uid=0,
        gid=0,
        user=config.user or "0",
    )


def ssh() -> CommandSpec:
    """Return the command that starts the image's SSH server, if any; the key is its input."""
    return _as_root(_SSH, b"HOME=/root")


def login() -> CommandSpec:
    """Return what each console shows: a shell of root's, as whoever has it has the machine."""
    return _as_root(_SHELL, b"TERM=vt102", terminal=Terminal())


def _as_root(script: bytes, setting: bytes, terminal: Terminal | None = None) -> CommandSpec:
    return CommandSpec(
        arguments=(b"/bin/sh", b"-c", script),
        environment=(f"PATH={DEFAULT_PATH}".encode(), setting),
        directory=b"/",
        uid=0,
        gid=0,
        terminal=terminal,
        user="0",
    )


def encode(
    spec: GuestSpec, run: CommandSpec, script: bytes, key: bytes = b"", *, stay: bool
) -> bytes:
    """Return the content of the partition; guest/orders.c reads it."""

    def pairs() -> Iterator[tuple[int, int | str | bytes]]:
        yield 1, spec.encode()
        yield 2, run.encode()
        yield 3, login().encode()
        yield 4, int(stay)
        yield 5, 1  # a network, by DHCP
        if script:
            yield 6, script
        yield 7, ssh().encode()
        if key:
            yield 8, key

    content = records(pairs())
    return MAGIC + struct.pack("<Q", len(content)) + content
