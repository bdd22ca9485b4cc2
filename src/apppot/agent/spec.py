"""What a machine and a command are asked to be, and their records on the wire."""

from __future__ import annotations

from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator


def _records(pairs: Iterator[tuple[int, int | str | bytes]]) -> bytes:
    from apppot.agent.frames import records  # not before the kernel boots

    return records(pairs)


@dataclass(frozen=True)
class GuestShare:
    """A shared folder as the guest mounts it."""

    filesystem: str
    source: str
    target: bytes
    options: str
    read_only: bool
    single_file: bool = False
    part: bytes = b""  # the one file of the source that appears at the target


@dataclass(frozen=True)
class GuestLayer:
    """A layer as the guest mounts it; `offset` in bytes, of the file system in the device."""

    device: str
    type: str = ""  # "": EROFS
    offset: int = 0
    size: int = 0  # with it, the layer is a partition that the agent makes


@dataclass(frozen=True)
class GuestUser:
    """The user that the guest provides for the payload."""

    uid: int
    gid: int
    name: str
    home: str
    sudo: bool = True


@dataclass(frozen=True)
class GuestNetwork:
    """Addresses of the guest's only interface."""

    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    name_servers: tuple[str, ...]
    search: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class GuestSpec:
    """The `MACHINE` specification."""

    hostname: str
    layers: tuple[GuestLayer, ...]
    layer_is_root: bool = False  # no overlay: the only layer is written to
    scratch: str = ""
    scratch_limit: int = 0
    scratch_is_kept: bool = False
    shares: tuple[GuestShare, ...] = ()
    network: GuestNetwork | None = None
    user: GuestUser | None = None
    clock: int = 0

    def encode(self) -> bytes:
        """Return the specification's records."""
        return _records(self._pairs())

    def _pairs(self) -> Iterator[tuple[int, int | str | bytes]]:
        yield 1, self.hostname
        yield from self._layers()
        if self.scratch:
            yield 3, self.scratch
        yield 4, self.scratch_limit
        for share in self.shares:
            yield 5, share.filesystem
            yield 6, share.source
            yield 7, share.target
            yield 8, share.options
            yield 9, int(share.read_only) | int(share.single_file) << 1
            if share.part:
                yield 27, share.part
        if self.network:
            for tag, texts in (
                (10, self.network.addresses),
                (11, self.network.gateways),
                (12, self.network.name_servers),
                (13, self.network.search),
                (14, self.network.hosts),
            ):
                for text in texts:
                    yield tag, text
        if self.user:
            yield 20, self.user.uid
            yield 21, self.user.gid
            yield 22, self.user.name
            yield 23, self.user.home
            yield 25, int(self.user.sudo)
        if self.scratch_is_kept:
            yield 26, 1
        if self.clock:
            yield 30, self.clock

    def _layers(self) -> Iterator[tuple[int, int | str]]:
        for layer in self.layers:
            yield 2, layer.device
            if layer.offset:
                yield 16, layer.offset
            if layer.type:
                yield 17, layer.type
            if layer.size:
                yield 19, layer.size
        if self.layer_is_root:
            yield 18, 1


@dataclass(frozen=True)
class Terminal:
    """The size of a command's terminal, in characters."""

    rows: int = 24
    columns: int = 80


@dataclass(frozen=True)
class CommandSpec:
    """The `COMMAND` specification; arguments and environment are bytes and stay as they are."""

    arguments: tuple[bytes, ...]
    environment: tuple[bytes, ...]
    directory: bytes
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    terminal: Terminal | None = None
    umask: int = 0o022
    user: str = ""  # a name of the guest's; takes the place of uid, gid and groups
    builtin: bytes = b""  # of the agent's, which gets the arguments; no program of the guest's

    def encode(self) -> bytes:
        """Return the specification's records."""
        return _records(self._pairs())

    def _pairs(self) -> Iterator[tuple[int, int | str | bytes]]:
        for argument in self.arguments:
            yield 1, argument
        for setting in self.environment:
            yield 2, setting
        yield 3, self.directory
        yield 4, self.uid
        yield 5, self.gid
        for group in self.groups:
            yield 6, group
        if self.terminal:
            yield 7, 1
            yield 8, self.terminal.rows
            yield 9, self.terminal.columns
        yield 10, self.umask
        if self.user:
            yield 11, self.user
        if self.builtin:
            yield 12, self.builtin
