"""Archives of changes, in OCI's form."""

from __future__ import annotations

import io
import tarfile


def archive(*files: tuple[str, bytes | None]) -> io.BytesIO:
    """Return an archive of files; None makes a folder."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            if data is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data or b""))
    made.seek(0)
    return made
