"""Backfill jobs as files DATA_DIR/jobs/ID.json: the `JobStore` of a real run. All file work off the Trio thread."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from actors.downloader.jobs import JOB_ID, BackfillJob
from runtime.actor import Offload

JOBS_MAX = 1_000
FILE_BYTES_MAX = 1 << 20


def write_job(folder: Path, job: BackfillJob) -> Path:
    """Ask for `job`: its file appears whole or not at all, and is durable when this returns. For the CLI and HTTP."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{job.id}.json"
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            file.write(job.to_json())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)  # on a full disk its space is needed
        raise
    _sync_folder(folder)
    return path


@attrs.frozen(kw_only=True)
class JobFiles:
    """Reads and removes; a file that is no job becomes ID.bad, one that cannot succeed ID.failed, beside its reason."""

    folder: Path
    offload: Offload

    async def load(self) -> list[BackfillJob]:
        """All jobs, oldest first."""
        return await self.offload(self._load)

    async def done(self, job_id: str) -> None:
        """Remove its file, durably: one that was cancelled must not come back."""
        path = self._path(job_id)
        await self.offload(lambda: _forget(path))

    async def failed(self, job_id: str, reason: str) -> None:
        """Rename its file to ID.failed, the reason beside it in ID.reason."""
        path = self._path(job_id)
        await self.offload(lambda: _set_aside(path, ".failed", reason))

    def _path(self, job_id: str) -> Path:
        if not JOB_ID.fullmatch(job_id):
            raise ValueError(f"job id {job_id!r}")
        return self.folder / f"{job_id}.json"

    def _load(self) -> list[BackfillJob]:
        if not self.folder.is_dir():
            return []
        found = sorted(self.folder.glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        jobs = []
        for path in found[:JOBS_MAX]:
            try:
                jobs.append(_read(path))
            except ValueError as exc:
                _set_aside(path, ".bad", str(exc))
        return jobs


def _read(path: Path) -> BackfillJob:
    if path.stat().st_size > FILE_BYTES_MAX:
        raise ValueError(f"larger than {FILE_BYTES_MAX} bytes")
    job = BackfillJob.from_json(path.read_bytes())
    if job.id != path.stem:
        raise ValueError(f"file {path.name} holds job {job.id}")
    return job


def _forget(path: Path) -> None:
    if path.exists():
        path.unlink(missing_ok=True)
        _sync_folder(path.parent)


def _set_aside(path: Path, suffix: str, reason: str) -> None:
    if path.exists():
        path.with_suffix(".reason").write_text(reason + "\n")
        path.replace(path.with_suffix(suffix))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
