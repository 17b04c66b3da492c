"""Files inside of a folder: names that come from an index or a configuration lead nowhere else. No torch here."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from evomerge.errors import InputError

LONGEST = 255  # characters of a name that is worth looking for
SNAPSHOTS, BLOBS = "snapshots", "blobs"


def inside(folder: Path, name: str) -> Path | None:
    """The path of a file that something names inside of a folder; None when the name leads out of it.

    Links are followed: what they lead to must lie in the folder, too, or be content of the hub's cache, in which the
    files of `models--ORG--NAME/snapshots/COMMIT` are links into `models--ORG--NAME/blobs`.

    Args:
        folder: that exists.
        name: with forward slashes; of a file that may be missing.
    """
    given = PurePosixPath(name)
    if not name.isprintable() or len(name) > LONGEST or "\\" in name or given.is_absolute() or ".." in given.parts:
        return None
    path = folder / name
    return path if stays(path, folder) else None


def stays(path: Path, folder: Path) -> bool:
    """Whether a path, all links followed, lies in the folder or in the part of the hub's cache that belongs to it."""
    home = folder.resolve()
    try:
        found = path.resolve()
    except (OSError, RuntimeError):  # links that go round in circles
        return False
    if found.is_relative_to(home):
        return True
    return home.parent.name == SNAPSHOTS and found.is_relative_to(home.parent.parent / BLOBS)


def check_links(folder: Path) -> None:
    """Raise InputError when a file of a model's folder is a link to somewhere else; see `inside`."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.is_dir() and not stays(path, folder):
            raise InputError(
                f"{folder} must hold its own files, but {path.name} is a link to {str(path.resolve())!r}; name the "
                f"folder that holds it, or put a copy there"
            )
