"""A small ext4 of its own, whose power can be cut: FS_IOC_GOINGDOWN drops page cache and open journal (root)."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import attrs

FS_IOC_GOINGDOWN = 0x8004587D
NOLOGFLUSH = 2


class NotPossible(Exception):
    """This machine cannot do it; the message says why."""


@attrs.define
class Volume:
    """One image file, formatted and mounted on demand. `remove` in a `finally`."""

    size: int = 256 << 20
    folder: Path = attrs.field(factory=lambda: Path(tempfile.mkdtemp(prefix="holdfast-volume-")))
    options: str = "loop"
    mkfs: tuple[str, ...] = ()

    @property
    def mountpoint(self) -> Path:
        return self.folder / "mnt"

    def format(self) -> None:
        """New and empty, mounted."""
        check_possible()
        self.unmount()
        self.mountpoint.mkdir(exist_ok=True)
        image = self.folder / "image"
        image.unlink(missing_ok=True)
        with image.open("wb") as file:
            file.truncate(self.size)
        run("mkfs.ext4", "-q", "-F", "-m", "0", *self.mkfs, str(image))
        self.mount()

    def mount(self) -> None:
        run("mount", "-o", self.options, str(self.folder / "image"), str(self.mountpoint))

    def unmount(self) -> None:
        if self.mountpoint.is_mount():
            run("umount", str(self.mountpoint))

    def cut_power(self) -> None:
        """Nothing that is not on the device now will ever get there. Stop whoever writes first."""
        fd = os.open(self.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, FS_IOC_GOINGDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(fd)

    def remove(self) -> None:
        self.unmount()
        shutil.rmtree(self.folder, ignore_errors=True)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise NotPossible(f"{' '.join(command)}: {done.stderr.strip()}")


def check_possible() -> None:
    """Raises NotPossible: not root, no mkfs.ext4, no mount."""
    if os.geteuid() != 0:
        raise NotPossible("it needs root, to mount a file system of its own")
    for tool in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(tool) is None:
            raise NotPossible(f"{tool} is not installed")
