"""The fixture of the Slurm tests: one private cluster for all of them."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.integration.slurm import cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = os.environ.get("APPPOT_TEST_IMAGE", "debian:bookworm")


@pytest.fixture(scope="session")
def slurm() -> Iterator[cluster.Cluster]:
    """Give a running cluster, or skip with the reason."""
    reason = cluster.missing()
    if reason:
        pytest.skip(f"no Slurm cluster: {reason}")
    from apppot import kit
    from apppot.image.store import find

    store, _ = find(IMAGE)  # says what to do if there is no image
    with cluster.running(kit.find().path, store.path) as found:
        yield found


@pytest.fixture
def job_folder(slurm: cluster.Cluster) -> Iterator[str]:
    """Give a job's folder; nothing of the test's jobs may be left on the nodes."""
    folder = slurm.new_folder()
    yield folder
    assert slurm.left() == []
    shutil.rmtree(folder)
