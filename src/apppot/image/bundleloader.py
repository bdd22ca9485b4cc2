"""The first Python of a bundle: unpack AppPot's own files once per host, and hand over to them.

Runs alone, before there is an `apppot` to import. The bundle's header has checked that all of this
text is there. `open_bundle` is called with the place of the index that follows.
"""

import json
import os
import sys

ALIGNMENT = 4096
FAILED = 125
NO_EXECUTION = 8  # ST_NOEXEC
WRITABLE, KIND, IS_FOLDER = 0o022, 0o170000, 0o040000  # of st_mode


def fail(message: str) -> None:
    """Say what is wrong and end as AppPot's own failures do."""
    sys.stderr.write(f"apppot: {message}\n")
    sys.exit(FAILED)


def open_bundle(path: str, offset: int, length: int, words: list[str]) -> None:
    """Check the bundle, make its files ready, and run what was asked for."""
    with open(path, "rb") as file:
        file.seek(offset)
        text = file.read(length)
        size = os.fstat(file.fileno()).st_size
    try:
        index = json.loads(text)
        whole = index["total"]
    except (ValueError, KeyError, TypeError):
        fail(f"the bundle {path} is damaged: its index makes no sense. Get it again.")
    if size != whole:
        fail(f"the bundle {path} is damaged: {size} of {whole} bytes are there. Get it again.")
    data = -(-(offset + length) // ALIGNMENT) * ALIGNMENT
    folder, cache = unpacked(path, index["code"], data)
    if index["kit"]:
        os.environ.setdefault("APPPOT_KIT", os.path.join(folder, "kit"))
    os.environ.setdefault("APPPOT_CACHE", cache)
    sys.path.insert(0, os.path.join(folder, "lib"))
    from apppot import bundled  # type: ignore[attr-defined,unused-ignore]

    bundled.main(path, index, data, words)


def unpacked(path: str, code: dict, data: int) -> tuple[str, str]:  # type: ignore[type-arg]
    """Return the folder of the unpacked files, and the cache that it is in."""
    problems = []
    for cache in caches():
        problem = unusable(cache)
        folder = os.path.join(cache, "bundles", code["sha256"])
        if not problem:
            try:
                if os.path.isdir(folder) or unpack(path, code, data, folder):
                    return folder, cache
            except OSError as error:
                problem = error.strerror or str(error)
        problems.append(f"{cache}: {problem}")
    fail(
        "no folder for AppPot's own files: " + "; ".join(problems) + "\n"
        "  hint: set APPPOT_CACHE to a folder of yours from which programs may be run"
    )
    raise AssertionError


def caches() -> list[str]:
    """Return the folders in which files may be kept, the best first."""
    if os.environ.get("APPPOT_CACHE"):
        return [os.path.abspath(os.environ["APPPOT_CACHE"])]
    found = []
    if os.environ.get("XDG_CACHE_HOME", "").startswith("/"):
        found.append(os.path.join(os.environ["XDG_CACHE_HOME"], "apppot"))
    home = os.path.expanduser("~")
    if home.startswith("/") and home != "/":
        found.append(os.path.join(home, ".cache", "apppot"))
    if os.environ.get("XDG_RUNTIME_DIR", "").startswith("/"):
        found.append(os.path.join(os.environ["XDG_RUNTIME_DIR"], "apppot-cache"))
    temporary = os.environ.get("TMPDIR", "")
    bases = (temporary, "/tmp", "/var/tmp")  # noqa: S108  checked by `unusable`
    return found + [
        os.path.join(base, f"apppot-cache-{os.getuid()}") for base in bases if base.startswith("/")
    ]


def unusable(cache: str) -> str:
    """Make a folder; return why it is not safe or of no use, or ''."""
    bundles = os.path.join(cache, "bundles")
    try:
        os.makedirs(cache, mode=0o700, exist_ok=True)
        os.makedirs(bundles, mode=0o700, exist_ok=True)
        for path in (cache, bundles):
            found = os.lstat(path)
            if found.st_uid != os.getuid():
                return f"belongs to user {found.st_uid}"
            if found.st_mode & WRITABLE or found.st_mode & KIND != IS_FOLDER:
                return "other users can write to it"
        if os.statvfs(bundles).f_flag & NO_EXECUTION:
            return "programs cannot be run from it"
    except OSError as error:
        return error.strerror or str(error)
    return "" if os.access(bundles, os.W_OK | os.X_OK) else "not writable"


def unpack(path: str, code: dict, data: int, folder: str) -> bool:  # type: ignore[type-arg]
    """Unpack the files beside their place, and rename: several may do so at once."""
    import hashlib
    import io
    import shutil
    import tempfile
    import zipfile

    with open(path, "rb") as file:
        file.seek(data + code["at"])
        content = file.read(code["size"])
    if hashlib.sha256(content).hexdigest() != code["sha256"]:
        fail(
            f"the bundle {path} is damaged: AppPot's own files are not as they were. Get it again."
        )
    aside = tempfile.mkdtemp(prefix=".new-", dir=os.path.dirname(folder))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                target = archive.extract(member, aside)
                os.chmod(target, (member.external_attr >> 16 & 0o755) | 0o400)
        os.rename(aside, folder)
    except OSError:
        if not os.path.isdir(folder):  # another one was faster
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return True
