"""What an artefact consists of, and whether it is still whole.  Needs neither torch nor transformers."""

import hashlib
import json
from pathlib import Path

FORMAT = 1  # raised when an older reader could not read what we write; every older format keeps its reader
MANIFEST = "manifest.json"


def too_new(folder: object, found: int) -> str:
    """What to say of an artefact of a later format."""
    return (
        f"{folder} has artefact format {found}, and this version reads up to format {FORMAT}; "
        "upgrade with: pip install --upgrade gossamer"
    )


def digest(file: Path) -> str:
    """The sha256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
    if not (folder / MANIFEST).is_file():
        return
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files, found = manifest["files"].items(), int(manifest["format"])
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST} is damaged ({error}); copy it again from its source") from error
    if found > FORMAT:
        raise ValueError(too_new(folder, found))
    for name, expected in files:
        if not (folder / name).is_file():
            raise ValueError(f"{folder} lacks {name}, which its manifest lists; copy it again from its source")
        if name.endswith(".md"):
            continue  # people edit model cards
        if digest(folder / name) != expected:
            raise ValueError(
                f"{folder / name} is damaged: its sha256 is not the one in {MANIFEST}; "
                "copy the artefact again from its source"
            )
