"""What there is in the stores, for `apppot images`, `inspect` and `rm`."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from apppot.errors import ImageError
from apppot.image import model, writer
from apppot.image import store as stores_
from apppot.image.cleaning import Cleaned
from apppot.image.missing import not_found
from apppot.image.reference import parse, parse_name
from apppot.image.sizes import human

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from apppot.image.store import Entry, Store

SHORT_DIGEST = 12


@dataclass(frozen=True)
class Line:
    """An image in a store; `problem` says what is wrong with it."""

    reference: str
    digest: str
    size: int
    created: str
    architecture: str
    store: str
    problem: str = ""


@dataclass(frozen=True)
class Listing:
    """All images, and what is wrong with whole stores."""

    images: tuple[Line, ...]
    problems: tuple[str, ...]

    def json(self) -> list[dict[str, Any]]:
        """Return the images for machines to read."""
        return [asdict(line) for line in self.images]


def listing() -> Listing:
    """Return all images of all stores, damaged ones too; raises nothing for a damaged one."""
    lines: list[Line] = []
    problems: list[str] = []
    for store in stores_.stores():
        try:
            entries = store.entries()
        except ImageError as error:
            problems.append(error.message)
            continue
        lines.extend(_line(store, entry) for entry in entries if not entry.cache)
    return Listing(tuple(lines), tuple(problems))


def _line(store: Store, entry: Entry) -> Line:
    """Return one image's line."""
    name, digest = entry.reference, entry.manifest.digest
    try:
        image = store.image(entry)
    except ImageError as error:
        return Line(name, digest, 0, "", "", store.path, error.message)
    size = sum(layer.size for layer in image.layers)
    return Line(name, digest, size, image.config.created, image.config.architecture, store.path)


def table(lines: Sequence[Line]) -> str:
    """Return the images as aligned text; '' if there are none."""
    if not lines:
        return ""
    rows: list[tuple[str, ...]] = [("REFERENCE", "DIGEST", ">SIZE", "CREATED", "STORE")]
    for line in lines:
        size = "damaged" if line.problem else human(line.size)
        digest = line.digest.removeprefix("sha256:")[:SHORT_DIGEST]
        created = _printable(line.created[:10]) or "-"
        rows.append((line.reference or "-", digest, size, created, line.store))
    return columns(rows)


def columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as aligned text; columns whose head begins with '>' are put to the right."""
    right = [head.startswith(">") for head in rows[0]]
    cells = [tuple(text.removeprefix(">") for text in rows[0]), *rows[1:]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[-1] = widths[-1] if right[-1] else 0
    return "".join(
        "  ".join(
            f"{text:>{width}}" if side else f"{text:{width}}"
            for text, width, side in zip(row, widths, right, strict=True)
        )
        + "\n"
        for row in cells
    )


def _printable(text: str) -> str:
    """Return a text that a terminal cannot take for commands."""
    return text if text.isprintable() else ascii(text)[1:-1]


def inspect(text: str, *, verify: bool = False) -> dict[str, Any]:
    """Return everything about an image, for JSON; with `verify` all its blobs are read.

    Raises UsageError or ImageError.
    """
    store, entry = stores_.find(text)
    image = store.image(entry)
    manifest = store.manifest(entry)
    blob = model.descriptor(manifest["config"], "the manifest")
    if verify:
        for layer in image.layers:
            verify_blob(layer.path, layer.digest)
    same = [e.reference for e in store.entries() if e.manifest.digest == image.digest]
    return {
        "reference": entry.reference,
        "references": same,
        "digest": image.digest,
        "store": store.path,
        "size": sum(layer.size for layer in image.layers),
        "layers": [asdict(layer) for layer in image.layers],
        "manifest": manifest,
        "config": store.document(blob, "configuration"),
        **({"verified": True} if verify else {}),
    }


def tag(text: str, new: str, *, replace: bool = False) -> str:
    """Give an image one more name, in the store that is written to; return its digest.

    The layers of an image of another store stay there. Raises UsageError or ImageError.
    """
    name = parse_name(new).full
    store, entry = stores_.find(text)
    image = store.image(entry)
    own = stores_.stores()[0]
    with own.writer() as adding:
        manifest = entry.manifest
        if own.path != store.path:
            document = store.manifest(entry)
            config = model.descriptor(document["config"], "the manifest")
            for blob in (config, manifest):
                with open(store.blob_path(blob.digest), "rb") as file:
                    adding.add(file.read(), blob.media_type)
        noted = {model.ORIGIN_DIGEST: entry.origin} if entry.origin else None
        adding.tag(name, manifest, replace=replace, annotations=noted)
    return image.digest


def verify_blob(path: str, digest: str) -> None:
    """Read a blob and compare its digest; raises ImageError."""
    try:
        with open(path, "rb") as file:
            found, _ = writer.digest_of(file)
    except OSError as error:
        raise ImageError(f"cannot read the blob {path}: {error.strerror}") from error
    if found != digest:
        raise ImageError(
            f"damaged image: blob {path} has the digest {found}",
            hint="remove the image with 'apppot rm IMAGE', and make or fetch it again",
        )


def remove(texts: Iterable[str], *, force: bool = False) -> Cleaned:
    """Remove images from the store that is written to: all of them, or none if one is wrong.

    With `force` it does not matter if one is not there, or if a digest has several names.
    Raises UsageError or ImageError.
    """
    store, *others = stores_.stores()
    entries = store.entries()
    names: dict[str, None] = {}
    for text in texts:
        try:
            found = _named(text, store, entries, others)
        except ImageError:
            if not force:
                raise
            continue
        if len(found) > 1 and not force:
            raise ImageError(
                f"'{text}' has several names: {', '.join(e.reference for e in found)}",
                hint="remove them by name, or all with --force",
            )
        names.update(dict.fromkeys(e.reference or e.manifest.digest for e in found))
    if not os.path.isdir(store.path):
        return Cleaned()
    return store.remove(names)


def _named(
    text: str, store: Store, entries: Sequence[Entry], others: Sequence[Store]
) -> list[Entry]:
    """Return the entries that `text` names in the store; raises UsageError or ImageError."""
    wanted = parse(text)
    found = [entry for entry in entries if stores_.matches(entry, wanted)]
    if not found and wanted.prefix:
        found = [
            entry
            for entry in entries
            if any(digest.startswith(f"sha256:{wanted.prefix}") for digest in entry.digests)
        ]
        if len({entry.manifest.digest for entry in found}) > 1:
            raise ImageError(f"several images have a digest that begins with {wanted.prefix}")
    if found:
        return found
    for other in others:
        if any(stores_.matches(entry, wanted) for entry in other.entries()):
            raise ImageError(
                f"the image '{wanted}' is in the store {other.path}, which is only read from",
                hint=f"if it is yours: APPPOT_STORE={other.path} apppot rm {wanted}",
            )
    raise not_found(wanted, [(store, tuple(entries))], ())
