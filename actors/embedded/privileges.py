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
import stat
import subprocess
from pathlib import Path

from runtime.errors import ConfigError, NotConnected

UNSHARE = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
CLUSTER = "data"
"""Below the folder, once there is a cluster."""
TRIAL_TIMEOUT_S = 10.0
TRIALS_MAX = 3
"""One that is killed or hangs says nothing, so it is asked again, and then it is "not now"."""
FIRST_SIGNAL_CODE = 128
"""A shell's word for death by signal; Python's own is negative."""
CAN_RUN = 'test -x "$1" && test -r "$1"'
TRIAL = f'{CAN_RUN} && test -w "$2" && test -x "$2"'
CAN_ENTER = f'{CAN_RUN} && test -x "$2"'


def unprivileged_prefix(folder: Path, binary: Path) -> tuple[str, ...]:
    """What to put before a command that must not be root and works in `folder` (which exists). Blocking, ~10 ms.

    May give `folder` to another user (case 3, data that root owned), as its last step and only before there is a
    cluster in it. A folder that was parted from its cluster is given back.
    Raises: ConfigError when there is no way, NotConnected when a trial was cut short and nothing is known.
    """
    if os.geteuid() != 0:
        return ()
    owner = _owner_with_its_cluster(folder)
    prefix = _setpriv(owner) if owner != 0 else UNSHARE
    if _works(prefix, TRIAL, folder, binary):
        return prefix
    uid = owner or _nearest_user(folder)
    if owner == 0 and (folder / CLUSTER).exists():
        raise ConfigError(
            f"{folder / CLUSTER} belongs to root, made where root may use user namespaces, and here it may not "
            f"(`unshare --user` failed). Allow them again, or stop the pipeline and give the data to a user who can "
            f"enter there: chown -R {_name(uid)} {folder}"
        )
    prefix = _setpriv(uid)
    if owner == 0 and _works(prefix, CAN_RUN, folder, binary):
        room = folder.parent
        mode = stat.S_IMODE(room.stat().st_mode)
        room.chmod(0o711)  # to be passed through; what is in it stays private file by file
        if _works(prefix, CAN_ENTER, room, binary):
            os.chown(folder, uid, pwd.getpwuid(uid).pw_gid)
            return prefix
        room.chmod(mode)
    raise ConfigError(
        f"embedded PostgreSQL cannot run as root here: user namespaces are not available (`unshare --user` failed), "
        f"and user {_name(uid)} cannot use {folder} or {binary}. Run the pipeline as an ordinary user, or put the "
        f"clone and pipeline.data_dir where that user can enter, or set sinks.timescale.dsn to a server of your own"
    )


def _owner_with_its_cluster(folder: Path) -> int:
    """Who owns `folder`; it goes with its cluster, which no other user can serve.

    An earlier version gave the folder of root's cluster to `nobody` when Ctrl-C killed the trial of `unshare`.
    """
    owner = folder.stat().st_uid
    try:
        cluster = (folder / CLUSTER).stat()
    except FileNotFoundError:
        return owner
    if cluster.st_uid == owner:
        return owner
    os.chown(folder, cluster.st_uid, cluster.st_gid)
    if cluster.st_uid == 0:
        folder.parent.chmod(0o700)
    return cluster.st_uid


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


def _works(prefix: tuple[str, ...], trial: str, folder: Path, binary: Path) -> bool:
    """Try it: whether under `prefix` the shell says yes to `trial` of the binary ($1) and the folder ($2).

    Raises: NotConnected when no trial came to its end.
    """
    if shutil.which(prefix[0]) is None:
        return False
    command = [*prefix, "/bin/sh", "-c", trial, "sh", str(binary), str(folder)]
    why = ""
    for _ in range(TRIALS_MAX):
        try:
            # A session of its own: Ctrl-C at the terminal is for the pipeline, not for the trial.
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TRIAL_TIMEOUT_S,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            why = str(exc)
            continue
        if 0 <= done.returncode < FIRST_SIGNAL_CODE:
            return done.returncode == 0
        why = f"it ended with code {done.returncode}"
    raise NotConnected(
        f"whether PostgreSQL can run under `{prefix[0]}` is not known, {TRIALS_MAX} trials failed: {why}"
    )
