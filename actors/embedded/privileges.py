"""PostgreSQL refuses to run as root: the command prefix under which it runs all the same.

1. Not root: none.
2. Root: a user namespace in which we are an ordinary user (`unshare`). No file changes its owner, and it works below a
   0700 directory such as a clone in root's home, because to the file system the process is still root, without
   root's powers.
3. Where the kernel or a sandbox forbids namespaces, or where the data belongs to an ordinary user: drop to the owner
   of the data (`setpriv`), or to `nobody` for data that root owns. That user must be able to reach the folder.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from runtime.errors import ConfigError

UNSHARE = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
TRIAL_TIMEOUT_S = 10.0
TRIAL = 'test -x "$1" && test -r "$1" && test -w "$2" && test -x "$2"'


def unprivileged_prefix(folder: Path, binary: Path) -> tuple[str, ...]:
    """What to put before a command that must not be root and works in `folder` (which exists). Blocking, ~10 ms.

    May give `folder` to another user (case 3, data that root owned).
    Raises: ConfigError when there is no way.
    """
    if os.geteuid() != 0:
        return ()
    owner = folder.stat().st_uid
    candidates = [_setpriv(owner)] if owner != 0 else [UNSHARE]
    for prefix in candidates:
        if _works(prefix, folder, binary):
            return prefix
    uid = owner or _nearest_user(folder)
    prefix = _setpriv(uid)
    if owner == 0 and _works(prefix, binary.parent, binary, writable=False):
        os.chown(folder, uid, pwd.getpwuid(uid).pw_gid)
        folder.parent.chmod(0o711)  # to be passed through; what is in it stays private file by file
        if _works(prefix, folder, binary):
            return prefix
        os.chown(folder, 0, 0)
    raise ConfigError(
        f"embedded PostgreSQL cannot run as root here: user namespaces are not available (`unshare --user` failed), "
        f"and user {_name(uid)} cannot use {folder} or {binary}. Run the pipeline as an ordinary user, or put the "
        f"clone and pipeline.data_dir where that user can enter, or set sinks.timescale.dsn to a server of your own"
    )


def _setpriv(uid: int) -> tuple[str, ...]:
    try:
        gid = pwd.getpwuid(uid).pw_gid
    except KeyError:
        gid = uid
    return ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--inh-caps=-all")


def _nearest_user(folder: Path) -> int:
    """Who owns the nearest folder above that root does not own; else `nobody`."""
    for parent in folder.parents:
        uid = parent.stat().st_uid
        if uid != 0:
            return uid
    return pwd.getpwnam("nobody").pw_uid


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _works(prefix: tuple[str, ...], folder: Path, binary: Path, *, writable: bool = True) -> bool:
    """Try it: whether under `prefix` the binary can be run and the folder written."""
    if shutil.which(prefix[0]) is None:
        return False
    trial = TRIAL if writable else 'test -x "$1" && test -r "$1"'
    command = [*prefix, "/bin/sh", "-c", trial, "sh", str(binary), str(folder)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
