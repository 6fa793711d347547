"""What an artefact consists of, and whether it is still whole.  Needs neither torch nor transformers."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

FORMAT = 1  # raised when an older reader could not read what we write; every older format keeps its reader
MANIFEST = "manifest.json"
NUMBERS = ".safetensors"  # whoever reads a damaged one gets other numbers, and no other trouble
AT_ONCE = 2**22  # bytes: read and hashed while other threads run, whom every turn of this one would stop


def too_new(folder: object, found: int) -> str:
    """What to say of an artefact of a later format."""
    return (
        f"{folder} has artefact format {found}, and this version reads up to format {FORMAT}; "
        "upgrade with: pip install --upgrade gossamer"
    )


def digest(file: Path) -> str:
    """The sha256 of a file's content."""
    found = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        part = memoryview(bytearray(min(AT_ONCE, file.stat().st_size) or 1))
        while size := stream.readinto(part):
            found.update(part[:size])
    return found.hexdigest()


def seal(folder: Path) -> None:
    """Write down the sha256 of every file of an artefact."""
    files = {f.relative_to(folder).as_posix(): digest(f) for f in sorted(folder.rglob("*")) if f.is_file()}
    files.pop(MANIFEST, None)
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=2) + "\n")


def check(folder: Path) -> None:
    """Compare every file of an artefact with its manifest; a folder without a manifest is not ours to judge.

    Raises:
        ValueError: a file is missing or differs, or the artefact has a newer format than this version reads.
    """
    _compare(folder, _listed(folder).items())


@contextmanager
def checked(folder: Path) -> Iterator[None]:
    """Inside the block, an artefact is being opened, whose weights are compared meanwhile and all else before.

    Raises:
        ValueError: as `check` does, whatever exception the block raises.
    """
    files = _listed(folder)
    weights = {name: expected for name, expected in files.items() if name.endswith(NUMBERS)}
    _compare(folder, [one for one in files.items() if one[0] not in weights])
    trouble: list[Exception] = []

    def compare() -> None:
        try:
            _compare(folder, weights.items())
        except Exception as error:  # whatever it is, it is for who waits below
            trouble.append(error)

    def settled() -> None:
        aside.join()
        if trouble:
            raise trouble[0]

    aside = Thread(target=compare, daemon=True)  # who interrupts the block does not wait for it
    aside.start()
    try:
        yield
    except Exception:
        settled()
        raise
    settled()


def _listed(folder: Path) -> dict[str, str]:
    """The sha256 of each file by the manifest, {} where there is none; none of them is missing."""
    if not (folder / MANIFEST).is_file():
        return {}
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files, found = dict(manifest["files"].items()), int(manifest["format"])
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST} is damaged ({error}); copy it again from its source") from error
    if found > FORMAT:
        raise ValueError(too_new(folder, found))
    for name in files:
        if not (folder / name).is_file():
            raise ValueError(f"{folder} lacks {name}, which its manifest lists; copy it again from its source")
    return files


def _compare(folder: Path, files: Iterable[tuple[str, str]]) -> None:
    for name, expected in files:
        if name.endswith(".md"):
            continue  # people edit model cards
        if digest(folder / name) != expected:
            raise ValueError(
                f"{folder / name} is damaged: its sha256 is not the one in {MANIFEST}; "
                "copy the artefact again from its source"
            )
