"""Random scenarios: a tree and what happens to it. Written once, run by both engines, printed as Erlang terms.

Two things that chance alone brings about too rarely are helped along: all significant children of one supervisor end
after one another, and one child crashes on both sides of a wait.
"""

from __future__ import annotations

from random import Random

import attrs

RESTARTS = ("permanent", "transient", "temporary")
STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")
PERIOD_S = 3
"""Steps between two waits take far less, waits far more (both in OTP's whole seconds), so no run is near a boundary."""
WAIT_MS = 4200
AUTO_WEIGHTS = (6, 2, 4)
"""all_significant has the most ways to be wrong, and needs several ends of the right children to be told apart."""


@attrs.frozen
class Worker:
    """A leaf."""

    id: str
    restart: str
    significant: bool = False

    def erlang(self) -> str:
        return f"{{work,{self.id},{self.restart},{str(self.significant).lower()}}}"


@attrs.frozen
class Sup:
    """A supervisor."""

    id: str
    strategy: str
    intensity: int
    auto_shutdown: str
    restart: str
    significant: bool
    children: tuple[Worker | Sup, ...]

    def erlang(self) -> str:
        children = ",".join(c.erlang() for c in self.children)
        flags = f"{self.strategy},{self.intensity},{PERIOD_S},{self.auto_shutdown}"
        return f"{{sup,{self.id},{flags},{self.restart},{str(self.significant).lower()},[{children}]}}"


@attrs.frozen
class Scenario:
    """`steps` are tuples (verb, operand, …); leading fail/ignore steps hold for the first start."""

    number: int
    tree: Sup
    steps: tuple[tuple[object, ...], ...]

    def erlang(self) -> str:
        return f"{{scenario,{self.number},{self.tree.erlang()},[{','.join(map(_term, self.steps))}]}}.\n"


def _term(step: tuple[object, ...]) -> str:
    parts = [s.erlang() if isinstance(s, Worker) else str(s) for s in step]
    return "{" + ",".join(parts) + "}"


class _Maker:
    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.workers: list[str] = []
        self.homes: dict[str, list[str]] = {}
        """Ids of the children of each supervisor."""
        self.significant: list[list[str]] = []
        """The significant workers of each supervisor that waits for all of its significant children, if several."""

    def sup(self, depth: int, parent_auto: str, name: str) -> Sup:
        rng = self.rng
        auto = rng.choices(("never", "any_significant", "all_significant"), AUTO_WEIGHTS)[0]
        restart = rng.choices(RESTARTS, (8, 1, 1))[0] if auto == "never" else rng.choice(RESTARTS[1:])
        self.homes[name] = []
        children: list[Worker | Sup] = []
        for _ in range(rng.choices((0, 1, 2, 3, 4), (1, 4, 8, 6, 3))[0]):
            if depth > 0 and rng.random() < 0.35:
                child: Worker | Sup = self.sup(depth - 1, auto, f"s{len(self.homes)}")
            else:
                child = self.worker(auto)
            self.homes[name].append(child.id)
            children.append(child)
        last_ones = [c.id for c in children if isinstance(c, Worker) and c.significant]
        if auto == "all_significant" and len(last_ones) > 1:
            self.significant.append(last_ones)
        significant = parent_auto != "never" and restart != "permanent" and rng.random() < 0.5
        strategy, intensity = rng.choice(STRATEGIES), rng.choices((0, 1, 2, 3, 5), (2, 4, 4, 3, 2))[0]
        return Sup(name, strategy, intensity, auto, restart, significant, tuple(children))

    def worker(self, parent_auto: str) -> Worker:
        name = f"w{len(self.workers)}"
        self.workers.append(name)
        restart = self.rng.choices(RESTARTS, (5, 3, 2) if parent_auto == "never" else (2, 5, 3))[0]
        significant = parent_auto != "never" and restart != "permanent" and self.rng.random() < 0.8
        return Worker(name, restart, significant)

    def step(self) -> tuple[object, ...]:
        rng = self.rng
        victim = rng.choice(self.workers)
        home = rng.choice([*self.homes])
        child = rng.choice([*self.homes[home], victim])
        kind = rng.choices(
            ("exit", "fail", "ignore", "terminate", "restart", "delete", "start"), (60, 10, 4, 6, 6, 3, 4)
        )[0]
        match kind:
            case "exit":
                reason = rng.choices(("crash", "normal", "shutdown", "{shutdown,t}"), (6, 3, 1, 1))[0]
                return ("exit", victim, reason)
            case "fail":
                return ("fail", victim, rng.choice((1, 1, 2, 3)))
            case "ignore":
                return ("ignore", victim, 1)
            case "start":
                new = self.worker("never")
                self.homes[home].append(new.id)
                return ("start", home, new)
        return (kind, home, child)


def make(seed: int, number: int, *, waits: bool = True) -> Scenario:
    """Scenario `number` of `seed`; always the same."""
    rng = Random(f"{seed}/{number}")
    maker = _Maker(rng)
    tree = maker.sup(2, "never", "root")
    while not maker.workers:
        maker = _Maker(rng)
        tree = maker.sup(2, "never", "root")
    steps = [maker.step() for _ in range(rng.randint(1, 10))]
    if maker.significant and rng.random() < 0.5:
        ends = rng.choice(maker.significant)
        steps[:0] = [("exit", name, "normal") for name in rng.sample(ends, len(ends))]
    if waits and rng.random() < 0.15:
        crash, at = ("exit", rng.choice(maker.workers), "crash"), rng.randrange(len(steps) + 1)
        steps[at:at] = [crash, ("wait", WAIT_MS), crash]
    if rng.random() < 0.1:
        steps.insert(0, ("fail", rng.choice(maker.workers), 1))
    return Scenario(number, tree, tuple(steps))
