"""Probe the hypervisors that only run machines where they are installed: Xen and VirtualBox."""

from __future__ import annotations

from apppot import process
from apppot.machine import virtualbox as vbox
from apppot.machine import xen as domains
from apppot.machine.probes.finding import Finding, Outcome

_PATIENCE = 20.0
_NOT_NEEDED = "none needed where another engine works"


def xen() -> Finding:
    """Ask xl for the hypervisor's version, and what its machines can be."""
    without = "the engine xen cannot run appliances"
    if reason := domains.problem():
        return Finding("xen", Outcome.UNKNOWN, reason, without, _NOT_NEEDED)
    done = process.run([domains.program(), "info"], check=False, timeout=_PATIENCE)
    facts = {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition(":")
        facts[name.strip()] = value.strip()
    if done.returncode != 0:
        return Finding("xen", Outcome.FAILS, "xl cannot ask the hypervisor", without, "xl info")
    found = (
        f"Xen {facts.get('xen_version', '')}, machines are {domains.kind()},"
        f" {facts.get('free_memory', '?')} MiB free"
    )
    return Finding("xen", Outcome.WORKS, found, "the engine xen can run appliances", "", facts)


def virtualbox() -> Finding:
    """Ask VBoxManage for its version; without the driver there are no machines."""
    without = "the engine virtualbox cannot run appliances"
    if reason := vbox.problem():
        return Finding("virtualbox", Outcome.UNKNOWN, reason, without, _NOT_NEEDED)
    manage = process.find_program("VBoxManage")
    done = process.run([manage, "--version"], check=False, timeout=_PATIENCE)
    lines = done.stdout.decode("utf-8", "replace").split()
    if done.returncode != 0 or not lines:
        return Finding("virtualbox", Outcome.FAILS, "VBoxManage does not run", without)
    return Finding(
        "virtualbox",
        Outcome.WORKS,
        f"VirtualBox {lines[-1]} with its driver; no machine was started",
        "the engine virtualbox can run appliances",
    )
