"""The pure restart decision against a second, naive reading of the rules (must-show 3)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from supervisors.engine.child import AutoShutdown, Restart, RestartIntensity, Strategy
from supervisors.engine.exits import ExitKind
from supervisors.engine.restart import (
    ChildView,
    Decision,
    Policy,
    RestartWindow,
    Verdict,
    decide_exit,
    decide_restart,
    restart_scope,
)

QUARTERS = st.integers(0, 40).map(lambda n: n / 4)


@given(st.integers(0, 5), QUARTERS.filter(bool), st.lists(QUARTERS, max_size=60), st.booleans())
def test_the_window_is_otps_list_read_literally(most: int, period_s: float, gaps: list[float], whole: bool) -> None:
    """R18: R = [now] + takewhile(r >= now - period, R); restart iff len(R) <= intensity. Closed at its far end."""
    window = RestartWindow(RestartIntensity(restarts_max=most, period_s=period_s, whole_seconds=whole))
    kept: list[float] = []
    now_s = 100.0
    for gap_s in gaps:
        now_s += gap_s
        cut_s = float(int(now_s)) if whole else now_s
        recent: list[float] = []
        for at_s in kept:
            if not at_s >= cut_s - period_s:
                break
            recent.append(at_s)
        kept = [cut_s, *recent]
        assert window.spend(now_s) is (len(kept) <= most)


@given(st.sampled_from(Strategy), st.integers(1, 6), st.data())
def test_the_scope_is_one_all_or_a_suffix(strategy: Strategy, count: int, data: st.DataObject) -> None:
    ids = [f"c{n}" for n in range(count)]
    failed = data.draw(st.sampled_from(ids))
    scope = restart_scope(strategy, ids, failed)
    expected = {
        Strategy.ONE_FOR_ONE: [failed],
        Strategy.ONE_FOR_ALL: ids,
        Strategy.REST_FOR_ONE: [i for i in ids if i >= failed],
    }
    assert list(scope) == expected[strategy]


class SupervisorModel(RuleBasedStateMachine):
    """Children come, end and are ended; every decision is compared with what the manual's sentences say."""

    @initialize(
        strategy=st.sampled_from(Strategy),
        auto=st.sampled_from(AutoShutdown),
        most=st.integers(0, 3),
        children=st.lists(st.tuples(st.sampled_from(Restart), st.booleans()), min_size=1, max_size=5),
    )
    def setup(self, strategy: Strategy, auto: AutoShutdown, most: int, children: list) -> None:
        self.policy = Policy(strategy, auto)
        self.window = RestartWindow(RestartIntensity(restarts_max=most, period_s=5.0))
        self.most, self.now_s = most, 0.0
        self.restarted_s: list[float] = []
        self.types: dict[str, Restart] = {}
        self.significant: set[str] = set()
        for n, (restart, significant) in enumerate(children):
            self.types[f"c{n}"] = restart
            if significant and restart is not Restart.PERMANENT and auto is not AutoShutdown.NEVER:
                self.significant.add(f"c{n}")
        self.running = set(self.types)
        self.retrying: str | None = None
        self.over = False

    def views(self) -> list[ChildView]:
        return [
            ChildView(i, t, i in self.running or i == self.retrying, i in self.significant)
            for i, t in self.types.items()
        ]

    @rule(seconds=QUARTERS)
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(data=st.data(), kind=st.sampled_from(ExitKind))
    def a_child_ends(self, data: st.DataObject, kind: ExitKind) -> None:
        if self.over or not self.running:
            return
        failed = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(failed)
        decision = decide_exit(kind, failed, self.views(), policy=self.policy, window=self.window, now_s=self.now_s)
        restart = self.types[failed]
        if kind is ExitKind.OUTAGE and restart is not Restart.TEMPORARY:
            assert decision == Decision(verdict=Verdict.WAIT, start=(failed,))
            self.running.add(failed)
        elif restart is Restart.PERMANENT or (
            restart is Restart.TRANSIENT and kind not in (ExitKind.NORMAL, ExitKind.SHUTDOWN)
        ):
            self.check_restart(failed, decision)
        else:
            self.check_end(failed, restart, decision)

    @rule(data=st.data())
    def a_restart_failed_and_is_retried(self, data: st.DataObject) -> None:
        if self.over or self.retrying is None:
            return
        failed = self.retrying
        self.check_restart(
            failed,
            decide_restart(failed, self.views(), policy=self.policy, window=self.window, now_s=self.now_s),
        )

    @rule(data=st.data())
    def a_running_child_fails_to_come_back(self, data: st.DataObject) -> None:
        """As after a group restart in which it could not start."""
        if not self.over and self.running and self.retrying is None:
            candidates = sorted(i for i in self.running if self.types[i] is not Restart.TEMPORARY)
            if candidates:
                self.retrying = data.draw(st.sampled_from(candidates))
                self.running.discard(self.retrying)

    def check_restart(self, failed: str, decision: Decision) -> None:
        self.restarted_s.append(self.now_s)
        recent = [at_s for at_s in self.restarted_s if self.now_s - at_s <= 5.0]
        if len(recent) > self.most:
            assert decision.verdict is Verdict.GIVE_UP
            self.over = True
            return
        assert decision.verdict is Verdict.RESTART
        ids = list(self.types)
        match self.policy.strategy:
            case Strategy.ONE_FOR_ONE:
                others = []
            case Strategy.ONE_FOR_ALL:
                others = [i for i in ids if i != failed]
            case Strategy.REST_FOR_ONE:
                others = ids[ids.index(failed) + 1 :]
        assert list(decision.stop) == others[::-1]
        gone = {i for i in others if self.types[i] is Restart.TEMPORARY}
        assert set(decision.remove) == gone
        assert list(decision.start) == [i for i in ids if i == failed or (i in others and i not in gone)]
        for i in gone:
            del self.types[i]
        self.running = (self.running - gone) | set(decision.start)
        if self.retrying in decision.start:
            self.retrying = None

    def check_end(self, failed: str, restart: Restart, decision: Decision) -> None:
        active = [i for i in self.types if i in self.running or i == self.retrying]
        triggers = failed in self.significant and (
            self.policy.auto_shutdown is AutoShutdown.ANY_SIGNIFICANT or not any(i in self.significant for i in active)
        )
        if triggers:
            assert decision.verdict is Verdict.SHUT_DOWN
            self.over = True
        elif restart is Restart.TEMPORARY:
            assert decision.verdict is Verdict.REMOVE
            del self.types[failed]
        else:
            assert decision.verdict is Verdict.LEAVE

    @invariant()
    def the_budget_left_is_never_more_than_allowed(self) -> None:
        if hasattr(self, "window"):
            left = self.window.left(self.now_s)
            assert left is not None
            assert 0 <= left <= self.most


TestSupervisorModel = SupervisorModel.TestCase
TestSupervisorModel.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
