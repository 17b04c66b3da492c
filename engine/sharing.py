"""Memory that processes of one host have in common: files that one of them fills and all of them map, read-only.

A file lies in /dev/shm where there is room, else in a folder on disk. What it is for is in its name, a digest; what
state it is in, its lock (flock) says: held exclusively it is being filled, held shared it is in use, and one that
nobody holds is of no use to any living process, whatever it contains: whoever starts next removes it. The kernel lets
go of a lock when its process ends, however it ends. A file counts as filled once its header is written, which comes
last (docs/decisions/0021-shared-memory.md).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import platform
import stat
import struct
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evomerge.sizes import readable

SUPPORTED = os.name == "posix"
"""Whether files can be shared here; elsewhere each process has its own memory."""

if SUPPORTED:
    import fcntl

MEMORY = Path("/dev/shm")
"""A file system in memory, where the system has one."""

SPARE = 2**26
"""Bytes that are left free in there for other programs."""

DATA = 4096
"""Where the contents begin, after the header."""

HEADER = struct.Struct("<8sQQ")
"""Of a filled file: `MAGIC`, the bytes of the contents and of the JSON after them; a checksum of it all follows."""

MAGIC = b"evomerge"
CHECK = struct.Struct("<I")

PAUSE = 0.01
"""Seconds between two looks at a file that another process fills."""

STALLED = 60.0
"""Seconds after which a process that gives no sign of filling a file is taken for stopped."""

Alive = Callable[[], None]
"""What a process calls every now and then while it fills a file."""

Fill = Callable[[np.ndarray, Alive], dict[str, Any]]
"""Writes the contents, uint8 [nbytes], zeros before; returns what else is to be known of them, as JSON."""


class Held(NamedTuple):
    """A file in use; it is let go of when nothing refers to `memory` any more.

    Attributes:
        contents: uint8 [nbytes], read-only.
        told: what was said of them by the process that filled them.
        memory: the mapping.
        descriptor: of the file, open for reading and writing.
    """

    contents: np.ndarray
    told: dict[str, Any]
    memory: mmap.mmap
    descriptor: int


class Sharing:
    """What processes of one user on one host have in common when they agree on a key.

    Args:
        folder: on disk, for what has no room in memory; made when it is needed.
        key: what the contents depend on.
        tell: told, line by line and each line once, of what is not shared and what is waited for.
    """

    def __init__(self, folder: Path, key: str, tell: Callable[[str], None] = lambda line: None) -> None:
        self.folder = folder
        self._key = f"{boot()}\0{key}"
        self._tell, self._told = tell, set[str]()
        sweep(folder)

    def hold(self, name: str, nbytes: int, fill: Fill, *, sparse: bool = False) -> Held | None:
        """The contents called `name`: mapped, or made by `fill` if no living process has them.

        Of processes that ask at the same time one fills and the others wait for it. If it dies, another fills.

        Args:
            name: says, with the key, what the contents are.
            nbytes: their size.
            fill: makes them; what it raises is raised.
            sparse: whether memory is taken only as it is written, rather than at once.

        Returns:
            None where files cannot be shared or have no room, of which the user is told.
        """
        if not SUPPORTED:
            self._say("memory is not shared between processes: this system has no flock")
            return None
        reasons = []
        for path in self._paths(name, nbytes):
            try:
                self._check_room(path, 0 if sparse else nbytes)
                return self._hold(path, nbytes, fill, sparse=sparse)
            except OSError as error:
                reasons.append(f"{path.parent}: {error.strerror or type(error).__name__}")
        self._say(f"memory is not shared between processes ({'; '.join(reasons)}): each keeps its own")
        return None

    def has(self, name: str, nbytes: int) -> bool:
        """Whether another process has, or is making, the contents of that name and size."""
        return SUPPORTED and any(path.exists() for path in self._paths(name, nbytes))

    def has_room(self, nbytes: int) -> bool:
        """Whether new files may take so many bytes; otherwise the user is told of what there is."""
        free = {place: _free(place) for place in (MEMORY, self.folder)}
        if SUPPORTED and nbytes <= sum(free.values()):
            return True
        found = ", ".join(f"{readable(room)} in {place}" for place, room in free.items())
        self._say(f"memory is not shared between processes: that takes {readable(nbytes)}, and free are {found}")
        return False

    def _paths(self, name: str, nbytes: int) -> list[Path]:
        """Where the contents may be, first where they are."""
        digest = hashlib.sha256(f"{self._key}\0{name}\0{nbytes}".encode()).hexdigest()[:32]
        paths = [place / f"{_prefix(place)}{digest}" for place in (MEMORY, self.folder)]
        return sorted(paths, key=lambda path: not path.exists())

    def _check_room(self, path: Path, nbytes: int) -> None:
        """Raise OSError where a file has no room; for one that is there already it is not needed."""
        if path.parent == self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() and nbytes > _free(path.parent):
            raise OSError(errno.ENOSPC, f"{readable(_free(path.parent))} free, {readable(nbytes)} needed")

    def _hold(self, path: Path, nbytes: int, fill: Fill, *, sparse: bool) -> Held:
        since = time.monotonic()
        while True:
            descriptor = _opened(path)
            try:
                told = _enter(path, descriptor, nbytes, fill, sparse=sparse)
                if told is not None:
                    return _mapped(path, descriptor, nbytes, told)
                self._wait(path, descriptor, since)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _wait(self, path: Path, descriptor: int, since: float) -> None:
        """Wait a little for the process that fills the file; one that has stopped is left to itself."""
        waited = time.monotonic() - since
        if waited > 1.0:
            self._say("another process reads the models; waiting for it")
        if waited > STALLED and time.time() - os.fstat(descriptor).st_mtime > STALLED and _is_at(path, descriptor):
            self._say("the process that reads the models has stopped; reading them here")
            path.unlink(missing_ok=True)
        time.sleep(PAUSE)

    def _say(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._tell(line)


def sweep(*folders: Path) -> None:
    """Remove this user's files from /dev/shm and the folders that no living process holds. Never raises."""
    if not SUPPORTED:
        return
    for path in _files(folders):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if _is_own(descriptor) and _locked(descriptor, fcntl.LOCK_EX) and _is_at(path, descriptor):
                    path.unlink()
            finally:
                os.close(descriptor)


def boot() -> str:
    """What tells this host, since it was started, from others that see the same folder."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for place in (MEMORY, *folders):
        with contextlib.suppress(OSError):
            yield from list(place.glob(f"{_prefix(place)}*"))


def _prefix(place: Path) -> str:
    """How names begin. A folder may be seen by other hosts, whose locks not every network file system tells of."""
    host = "" if place == MEMORY else f"{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}-"
    return f"evomerge-{os.geteuid()}-{host}"


def _free(place: Path) -> int:
    """Bytes of a file system that may be taken; 0 where it is not there."""
    while not place.exists() and place not in (MEMORY, place.parent):
        place = place.parent  # the folder that would hold it
    try:
        found = os.statvfs(place)
    except OSError:
        return 0
    return max(found.f_bavail * found.f_frsize - SPARE, 0)


def _opened(path: Path) -> int:
    """The file, made if need be. Raises PermissionError when another user has made it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if not _is_own(descriptor):
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "a file of another user has its name")
    return descriptor


def _is_own(descriptor: int) -> bool:
    found = os.fstat(descriptor)
    return found.st_uid == os.geteuid() and stat.S_ISREG(found.st_mode) and not found.st_mode & 0o077


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one that the path names, and not one that was removed from there."""
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except OSError:
        return False


def _locked(descriptor: int, kind: int) -> bool:
    """Take a lock of that kind in place of the one that is held, if any; whether that was possible at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _enter(path: Path, descriptor: int, nbytes: int, fill: Fill, *, sparse: bool) -> dict[str, Any] | None:
    """Hold the file shared and say what it tells; None when another process is at it just now.

    A file that is held by nobody and not filled is filled first.
    """
    if _locked(descriptor, fcntl.LOCK_EX):
        if not _is_at(path, descriptor):
            return None
        told = _told(descriptor, nbytes)
        if told is None:
            told = _filled(path, descriptor, nbytes, fill, sparse=sparse)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return told
    if _locked(descriptor, fcntl.LOCK_SH) and _is_at(path, descriptor):
        return _told(descriptor, nbytes)
    return None


def _filled(path: Path, descriptor: int, nbytes: int, fill: Fill, *, sparse: bool) -> dict[str, Any]:
    """Make the contents; the header comes last. A file that could not be filled is removed."""
    try:
        os.ftruncate(descriptor, 0)
        if sparse or not hasattr(os, "posix_fallocate"):
            os.ftruncate(descriptor, DATA + nbytes)
        else:
            os.posix_fallocate(descriptor, 0, DATA + nbytes)  # a mapping that outgrows its file system is a crash
        memory = mmap.mmap(descriptor, DATA + nbytes)
        told = fill(np.frombuffer(memory, np.uint8, nbytes, DATA), lambda: os.utime(descriptor))
        text = json.dumps(told).encode()
        write(descriptor, text, DATA + nbytes)
        header = HEADER.pack(MAGIC, nbytes, len(text))
        write(descriptor, header + CHECK.pack(zlib.crc32(header + text)), 0)
    except BaseException:
        if _is_at(path, descriptor):
            path.unlink(missing_ok=True)
        raise
    return told


def write(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of the data at that place of a file. Raises OSError where there is no space for them."""
    if os.pwrite(descriptor, data, offset) != len(data):
        raise OSError(errno.ENOSPC, "no space left on device")


def _told(descriptor: int, nbytes: int) -> dict[str, Any] | None:
    """What the header of a filled file says; None where it is not filled."""
    header, check = (os.pread(descriptor, part.size, at) for part, at in ((HEADER, 0), (CHECK, HEADER.size)))
    length = os.fstat(descriptor).st_size - DATA - nbytes
    if length <= 0 or header != HEADER.pack(MAGIC, nbytes, length):
        return None
    text = os.pread(descriptor, length, DATA + nbytes)
    if check != CHECK.pack(zlib.crc32(header + text)):
        return None
    told: dict[str, Any] = json.loads(text)
    return told


def _mapped(path: Path, descriptor: int, nbytes: int, told: dict[str, Any]) -> Held:
    memory = mmap.mmap(descriptor, DATA + nbytes, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    weakref.finalize(memory, _release, path, descriptor, os.getpid())
    return Held(np.frombuffer(memory, np.uint8, nbytes, DATA), told, memory, descriptor)


def _release(path: Path, descriptor: int, owner: int) -> None:
    """Let go of a file; the last one to do so removes it. A fork holds its parent's lock and leaves it alone."""
    if os.getpid() != owner:
        return
    with contextlib.suppress(OSError):
        if _locked(descriptor, fcntl.LOCK_EX) and _is_at(path, descriptor):
            path.unlink()
    os.close(descriptor)
