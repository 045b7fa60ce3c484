"""The only place that draws randomness and makes ids."""

from __future__ import annotations

import random
import secrets
import uuid
from typing import Protocol


class Entropy(Protocol):
    """Where randomness comes from."""

    def uniform(self) -> float:
        """A float in [0, 1)."""
        ...

    def new_id(self) -> str:
        """A fresh 32-digit hex id."""
        ...

    def new_secret(self) -> str:
        """A fresh url-safe secret of at least 128 bits."""
        ...


class SystemEntropy:
    """The operating system's randomness."""

    def uniform(self) -> float:
        """A float in [0, 1)."""
        return random.random()

    def new_id(self) -> str:
        """A random uuid4 as hex."""
        return uuid.uuid4().hex

    def new_secret(self) -> str:
        """24 random bytes, url-safe."""
        return secrets.token_urlsafe(24)


class SeededEntropy:
    """Everything follows from one seed: for tests and simulation."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def uniform(self) -> float:
        """A float in [0, 1)."""
        return self._random.random()

    def new_id(self) -> str:
        """A hex id from the seed."""
        return uuid.UUID(int=self._random.getrandbits(128), version=4).hex

    def new_secret(self) -> str:
        """A predictable secret: tests only."""
        return f"{self._random.getrandbits(192):048x}"
