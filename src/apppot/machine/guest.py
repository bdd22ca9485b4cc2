"""What the agent is asked to set up, from a machine's description: the same under every engine."""

from __future__ import annotations

from apppot.agent.spec import GuestLayer, GuestSpec
from apppot.lean import TYPE_CHECKING
from apppot.machine import network
from apppot.machine.model import Network

if TYPE_CHECKING:
    from apppot.agent.spec import GuestShare
    from apppot.machine.model import MachineSpec


def common(
    spec: MachineSpec, disks: str, shares: tuple[GuestShare, ...], *, scratch: bool
) -> GuestSpec:
    """Return it; `disks` is what the guest's names of disks begin with: layers, then scratch."""
    names = [f"/dev/{disk_name(disks, n)}" for n in range(len(spec.layers) + 1)]
    return GuestSpec(
        hostname=spec.hostname,
        layers=tuple(
            GuestLayer(name, layer.type, layer.offset, layer.size)
            for name, layer in zip(names[:-1], spec.layers, strict=True)
        ),
        layer_is_root=spec.write_layer,
        scratch=names[-1] if scratch else "",
        scratch_is_kept=bool(spec.scratch_file),
        shares=shares,
        network=network.guest_network(host_loopback=spec.host_loopback)
        if spec.network is Network.USER
        else None,
        user=spec.user,
    )


def disk_name(prefix: str, number: int) -> str:
    """Return the guest's name of a disk: vda to vdz, then vdaa and so on."""
    high, low = divmod(number, 26)
    return prefix + (chr(ord("a") + high - 1) if high else "") + chr(ord("a") + low)
