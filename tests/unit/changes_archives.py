"""Archives of changes, in OCI's form."""

from __future__ import annotations

import io
import tarfile

LINK = b"is a hard link to "


def archive(*files: tuple[str, bytes | None]) -> io.BytesIO:
    """Return an archive of files; None makes a folder, LINK and a path a hard link to that."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            if data is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            elif data.startswith(LINK):
                member.type, member.linkname = tarfile.LNKTYPE, data.removeprefix(LINK).decode()
            else:
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data or b""))
    made.seek(0)
    return made
