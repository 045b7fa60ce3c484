"""The whole supervision tree as one literal, and the parts that outlive its actors.

`build_spec` is what `pipeline tree` prints and what `pipeline run` starts. `Parts` are made once per process and
lent to actors: the open log, mailboxes, consumers, the listening socket. A restarted actor finds them as they were.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs
import trio

from actors.aggregator.aggregator import Aggregator, AggregatorSpec
from actors.aggregator.core import CODE_VERSION
from actors.aggregator.store import durable_checkpoint
from actors.bridge.clickhouse import ClickHouse, ClickHouseSettings
from actors.bridge.delivery import Delivery
from actors.bridge.memory import Memory
from actors.bridge.memory_db import MemoryDatabase
from actors.bridge.port import Sink, SinkFactory
from actors.bridge.timescale import Timescale, TimescaleSettings
from actors.buffer.buffer import Buffer, CommitLimits
from actors.buffer.space import Keeping
from actors.downloader.addressed import AddressedStream, AddressedVendor
from actors.downloader.behind import ConfirmRules
from actors.downloader.downloader import HistoryDownloader
from actors.downloader.job_files import JobFiles, write_job
from actors.downloader.jobs import BackfillJob, CancelJob, HistoryJob
from actors.downloader.live import ClockPace, LiveDownloader
from actors.downloader.live_group import LiveLimits
from actors.downloader.memory import MemoryHistory, MemoryJobs, MemoryTicks, MemoryTrades, random_trades, random_walk
from actors.downloader.memory_live import MemoryLive, MemoryMarket, MemoryTime
from actors.downloader.polygon import PolygonHistory, PolygonLimits
from actors.downloader.polygon_stream import PolygonStream
from actors.downloader.port import HistorySource, JobStore, LiveSource, TimeSource
from actors.downloader.rejected import RejectedRows
from actors.downloader.seam import Seam
from actors.embedded.clickhouse import ClickHouseSpec
from actors.embedded.endpoints import FILE_NAME, EndpointsFile
from actors.embedded.market import MarketSpec
from actors.embedded.postgres import PostgresSpec
from actors.embedded.server import EmbeddedServer
from actors.embedded.spec import EmbeddedHome, ServerSpec
from actors.health.health import Health
from actors.health.listen import open_listener
from actors.health.port import BackfillRequest
from actors.health.probes import Probes
from actors.market.schema import KINDS, schema_message
from runtime.actor import Actor, Seams
from runtime.backoff import Backoff
from runtime.board import DependencyState
from runtime.clock import NS_PER_HOUR
from runtime.disk import RealDisk
from runtime.disk_memory import MemoryDisk
from runtime.disk_port import Disk
from runtime.errors import ConfigError, NotConnected, RetryableSinkError
from runtime.log.appender import Appender, AppendRequest
from runtime.log.cursor import NO_SPACE
from runtime.log.dead_letters import FOLDER as DEAD_LETTERS
from runtime.log.dead_letters import DeadLetters
from runtime.log.log import Log, LogSettings
from runtime.log.losses import Lost
from runtime.log.recovery import Damage
from runtime.log.retention import Retention
from runtime.mailbox import Mailbox
from runtime.market_clock import MarketClock
from runtime.ratelimit import BudgetLimits, RateLimit
from runtime.settings import Settings, SinkSettings
from supervisors.engine.child import ChildSpec, RestartIntensity, Strategy, SupervisorSpec
from supervisors.lost_rows import AskedFor, LostRowsFinder

VERSION = "0.1.0"
JOBS_WAITING_MAX = 100
LOSSES_WAITING_MAX = 64
MEMORY_MARKET_NS = 6 * NS_PER_HOUR
"""How far the market of --test-mode goes on."""
BETWEEN_CRASHES = Backoff(initial_s=0.1, max_s=2.0)
"""A bug that comes with the moment (a race, a burst) may be gone then; five waits make 5 s of a minute's budget."""
UNTIL_CALLED_BACK = Backoff(initial_s=0.2, max_s=10.0)
"""For children whose end is an outage or that everything else needs to be seen: restarted for as long as it takes."""

PROGRESS_S = 120.0
"""An actor that holds work and shows no progress for so long is stalled: restarted, and systemd is not fed meanwhile.
Longer than anything it may wait for without a sign of life."""
HEALTH_PROGRESS_S = 30.0
DELIVERY_PROGRESS_S = 660.0
"""Behind the longest call to a sink: counting rows for verification may take ten minutes."""


@attrs.frozen(kw_only=True)
class Plan:
    """What this process is to do, beside the configuration."""

    history: tuple[HistoryJob, ...]
    live: bool = False
    """Stream the symbols of the standing history too."""
    test_mode: bool = False
    adopt: bool = False


@attrs.define(kw_only=True)
class Parts:
    """What is made once and lent."""

    settings: Settings
    plan: Plan
    seams: Seams
    disk: Disk
    log: Log
    listener: socket.socket
    appends: Mailbox[AppendRequest]
    losses: Mailbox[AppendRequest]
    """Records of what is lost on a full disk."""
    new_jobs: Mailbox[BackfillJob | CancelJob]
    jobs: JobStore
    home: EmbeddedHome
    endpoints: EndpointsFile
    budget: RateLimit
    market: MarketClock
    """The vendor's clock; with a live stream the downloaders measure by it."""
    seam: Seam
    """What the live and the history downloader tell each other."""
    letters: DeadLetters
    """Rows that nobody took; opened when the first one comes."""
    memory_sinks: dict[str, MemoryDatabase] = attrs.field(factory=dict)
    memory_market: MemoryMarket | None = None
    """--test-mode."""

    @property
    def probes(self) -> Probes:
        """The rules of /healthz."""
        return Probes(
            service=self.settings.pipeline.name,
            stalled_after_s=self.settings.health.stalled_after_s,
            inboxes={"buffer": self.appends, "downloader.history": self.new_jobs},
        )

    @property
    def appender(self) -> Appender:
        """For producers."""
        return Appender(inbox=self.appends, lookup=self.log.producer, reserve=self.losses)

    def close(self) -> None:
        """Blocking: both logs, at the end of the process. Raises LogSyncFailed, when both are closed."""
        try:
            self.letters.close()
        finally:
            self.log.close()

    def verified(self) -> int:
        """Blocking: below it every sink has verified and the aggregator's state is durable, so the log may be cut."""
        checkpoint = durable_checkpoint(self.disk, aggregator_folder(self.settings), self.log.log_id, CODE_VERSION)
        return min(checkpoint, self.log.verified_by(f"bridge.{name}" for name in self.settings.sinks))

    async def refetch_lost(self, damage: Damage, lost: Lost) -> None:
        """Bit rot took these rows of the log: their slices are fetched again, once, however often the rot is met.

        Raises: NotConnected (too many jobs, or no space for them now: to be tried again).
        """
        asked = AskedFor(self.disk, log_folder(self.settings), self.log.log_id)
        finder = LostRowsFinder(
            log=self.log, symbols=self.settings.pipeline.symbols, kinds=self.settings.downloader.kinds
        )
        try:
            if await self.seams.offload(lambda: asked.knows(damage)):
                return
            for number, request in enumerate(await self.seams.offload(lambda: finder.requests(lost))):
                # The same name at the next try, so that the same job is made again and no second one.
                await self.submit_backfill(request, name=f"lost-{damage.position}-{damage.end_position}-{number}")
            await self.seams.offload(lambda: asked.note(damage))
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            raise NotConnected(f"no job for what the log lost: {error.strerror}") from error

    async def submit_backfill(self, request: BackfillRequest, *, name: str = "") -> str:
        """Make a backfill durable and tell the downloader; returns its id. Raises: NotConnected when too many wait."""
        job = BackfillJob(
            id=name or self.seams.entropy.new_id(),
            symbols=request.symbols,
            kinds=request.kinds,
            from_ns=request.from_ns,
            to_ns=request.to_ns,
            refetch=request.refetch,
            rebuild=request.rebuild,
        )
        self.seams.board.jobs_idle = False  # before anybody can ask whether we are idle
        if isinstance(self.jobs, MemoryJobs):
            if job not in self.jobs.jobs:
                self.jobs.jobs.append(job)
        else:
            await self.seams.offload(lambda: write_job(jobs_folder(self.settings), job))
        self._tell(job)
        return job.id

    async def cancel_backfill(self, job_id: str) -> None:
        """Forget a backfill, durably, then tell the downloader; asked again it does the same.

        Raises: ConfigError when there is none of that name, NotConnected when the downloader cannot be told now.
        """
        shown = {key.partition("/")[0] for key, job in self.seams.board.jobs.items() if not (job.finished or job.error)}
        known = (shown | {job.id for job in await self.jobs.load()}) - {"history"}
        if job_id not in known:
            raise ConfigError(unknown_job(job_id, known))
        await self.jobs.done(job_id)
        self._tell(CancelJob(id=job_id))

    def _tell(self, order: BackfillJob | CancelJob) -> None:
        try:
            self.new_jobs.send_nowait(order)
        except trio.WouldBlock:
            raise NotConnected(f"{JOBS_WAITING_MAX} jobs are waiting already: try again later") from None


def aggregator_folder(settings: Settings) -> Path:
    """The aggregator's state."""
    return settings.pipeline.data_dir / "aggregator"


def unknown_job(job_id: str, known: Iterable[str]) -> str:
    """That there is no such backfill, and which there are. Pure."""
    there = ", ".join(sorted(known))
    return f"no backfill {job_id!r} is under way" + (f": there is {there}" if there else "; nor any other")


def log_folder(settings: Settings) -> Path:
    """The durable log."""
    return settings.pipeline.data_dir / "log"


def jobs_folder(settings: Settings) -> Path:
    """Where backfill jobs wait."""
    return settings.pipeline.data_dir / "jobs"


def open_parts(settings: Settings, plan: Plan, seams: Seams) -> Parts:
    """Lock the data directory, recover the log, bind the port, in this order. Blocking: in a worker thread.

    Raises: ConfigError for everything a person must mend, LogFull, LogSyncFailed.
    """
    data_dir = settings.pipeline.data_dir
    disk: Disk = MemoryDisk() if plan.test_mode else RealDisk()
    seams.board.facts["vendor"] = settings.downloader.vendors[0]
    if settings.uses_simulator:
        seams.board.facts["market"] = "SIMULATED: prices come from the embedded market simulator, not from a vendor"
    log = Log.open(
        disk,
        log_folder(settings),
        settings=LogSettings(
            partitions=settings.log.partitions,
            segment_bytes=settings.log.segment_bytes,
            background_upkeep=True,
            retention=Retention(seconds=settings.log.retention_s, bytes=settings.log.retention_bytes),
        ),
        schemas={kind: schema_message(kind) for kind in KINDS},
        wall_ns=seams.clock.wall_ns,
        entropy=seams.entropy,
        offload=seams.offload,
    )
    try:
        listener = open_listener(settings.health.listen)
    except BaseException:
        log.close()
        raise
    seams.board.consumers_expected = frozenset({"aggregator", *(f"bridge.{name}" for name in settings.sinks)})
    home = EmbeddedHome(data_dir=data_dir)
    minute = settings.vendors.polygon.requests_per_minute
    return Parts(
        settings=settings,
        plan=plan,
        seams=seams,
        disk=disk,
        log=log,
        listener=listener,
        appends=Mailbox("buffer", settings.buffer.mailbox_groups),
        losses=Mailbox("buffer.losses", LOSSES_WAITING_MAX),
        new_jobs=Mailbox("downloader.history", JOBS_WAITING_MAX),
        jobs=MemoryJobs() if plan.test_mode else JobFiles(folder=jobs_folder(settings), offload=seams.offload),
        home=home,
        endpoints=EndpointsFile(path=data_dir / FILE_NAME),
        budget=RateLimit(BudgetLimits(requests_max=minute or None)),
        market=MarketClock(seams.clock),
        seam=Seam(log.producer),
        letters=DeadLetters(
            disk=disk, directory=data_dir / DEAD_LETTERS, wall_ns=seams.clock.wall_ns, entropy=seams.entropy
        ),
    )


def build_spec(settings: Settings, parts: Parts | None = None, *, test_mode: bool = False) -> SupervisorSpec:
    """The tree. Without parts it can be looked at, not started."""
    make = _Factories(parts)
    servers = () if test_mode else tuple(n for n in EMBEDDED if n in settings.embedded_servers())
    children: list[SupervisorSpec | ChildSpec] = [
        # Whatever ends it, it comes back and costs nobody's budget: who looks at a sick pipeline needs it most.
        ChildSpec(
            "health",
            make.health,
            backoff=UNTIL_CALLED_BACK,
            outages=(Exception,),
            progress_timeout_s=HEALTH_PROGRESS_S,
        ),
    ]
    if servers:
        # One server's trouble is nobody else's; a server that ends is an outage, never a crash of ours.
        embedded = tuple(
            ChildSpec(
                f"embedded.{name}",
                lambda name=name: make.server(name),  # type: ignore[misc]
                backoff=UNTIL_CALLED_BACK,
                outages=(NotConnected,),
                shutdown_grace_s=35.0,  # PostgreSQL: 20 s of its own, then SIGKILL
            )
            for name in servers
        )
        children.append(SupervisorSpec("embedded", Strategy.ONE_FOR_ONE, embedded, intensity=None))
    children.append(core(settings, make, live=settings.streams if parts is None else parts.plan.live))
    # Only core can escalate to here, and then it has tried what restarts can do: 6 crashes of one actor make its
    # supervisor give up, 2 of those flow, 2 of those core: 24 crashes, about half a minute. The rest is a new process.
    return SupervisorSpec(
        "pipeline", Strategy.ONE_FOR_ONE, tuple(children), RestartIntensity(restarts_max=0, period_s=60.0)
    )


def core(settings: Settings, make: _Factories, *, live: bool) -> SupervisorSpec:
    """rest_for_one: producers and consumers cannot outlive the log's writer, the writer can outlive them."""
    storage = SupervisorSpec(
        "storage",
        Strategy.ONE_FOR_ALL,  # the buffer and, later, the dead letters share one disk and one fate
        (
            ChildSpec(
                "buffer", make.buffer, shutdown_grace_s=10.0, backoff=BETWEEN_CRASHES, progress_timeout_s=PROGRESS_S
            ),
        ),
        RestartIntensity(restarts_max=3, period_s=30.0),
    )
    return SupervisorSpec(
        "core",
        Strategy.REST_FOR_ONE,
        (storage, flow(settings, make, live=live)),
        RestartIntensity(restarts_max=1, period_s=60.0),
    )


def flow(settings: Settings, make: _Factories, *, live: bool) -> SupervisorSpec:
    """one_for_one: nobody here may take a neighbour down; they meet only in the log."""
    deliveries = tuple(
        ChildSpec(
            f"bridge.{name}",
            lambda name=name: make.delivery(name),  # type: ignore[misc]
            shutdown_grace_s=25.0,
            backoff=BETWEEN_CRASHES,
            progress_timeout_s=DELIVERY_PROGRESS_S,
        )
        for name in settings.sinks
    )
    vendor_s = PROGRESS_S + 2 * settings.vendors.polygon.request_timeout_s  # a page, and its next try
    stream = ChildSpec(
        "downloader.live",
        make.live,
        shutdown_grace_s=15.0,
        backoff=BETWEEN_CRASHES,
        progress_timeout_s=vendor_s,
    )
    small = RestartIntensity(restarts_max=5, period_s=60.0)
    return SupervisorSpec(
        "flow",
        Strategy.ONE_FOR_ONE,
        (
            SupervisorSpec("deliveries", Strategy.ONE_FOR_ONE, deliveries, small),
            SupervisorSpec(
                "aggregation",
                Strategy.ONE_FOR_ONE,
                (
                    ChildSpec(
                        "aggregator",
                        make.aggregator,
                        shutdown_grace_s=15.0,
                        backoff=BETWEEN_CRASHES,
                        progress_timeout_s=PROGRESS_S,
                    ),
                ),
                small,
            ),
            SupervisorSpec(
                "ingest",
                Strategy.ONE_FOR_ONE,
                (
                    *((stream,) if live else ()),
                    ChildSpec(
                        "downloader.history",
                        make.history,
                        shutdown_grace_s=15.0,
                        backoff=BETWEEN_CRASHES,
                        progress_timeout_s=vendor_s,
                    ),
                ),
                small,
            ),
        ),
        RestartIntensity(restarts_max=1, period_s=60.0),
    )


EMBEDDED = ("postgres", "clickhouse", "market")
"""In start order."""
SINK_SERVER = {"timescale": "postgres", "clickhouse": "clickhouse"}
"""Kind of a sink -> the embedded server that speaks it."""


def server_spec(name: str, settings: Settings, home: EmbeddedHome, *, live: bool = False) -> ServerSpec:
    """One embedded server as data. `live`: a recording is played; otherwise all of it has happened already."""
    if name == "postgres":
        return PostgresSpec(home=home)
    if name == "clickhouse":
        return ClickHouseSpec(home=home)
    embedded = settings.embedded
    recording = Path(embedded.recording) if embedded.recording else None
    arguments: tuple[str, ...] = ()
    if embedded.latency_ms:
        arguments += ("--latency-ms", str(embedded.latency_ms))
    if embedded.requests_per_minute:
        arguments += ("--requests-per-minute", str(embedded.requests_per_minute))
    speed = float(embedded.replay_speed) if live else 0.0
    return MarketSpec(home=home, seed=embedded.seed, recording=recording, replay_speed=speed, arguments=arguments)


def sink_factory(name: str, settings: Settings, home: EmbeddedHome, *, adopt: bool = False) -> SinkFactory:
    """The adapter of `[sinks.NAME]`, with its address asked anew at every connection when it is embedded."""
    sink = settings.sinks[name]
    return AddressedSink(sink_name=name, settings=sink, home=home, adopt=adopt)


@attrs.frozen(kw_only=True)
class AddressedSink:
    """A `SinkFactory` whose address is known only when the embedded server runs."""

    sink_name: str
    settings: SinkSettings
    home: EmbeddedHome
    adopt: bool

    @property
    def stores(self) -> frozenset[str]:
        """Kinds it keeps."""
        return frozenset(self.settings.stores)

    def __call__(self, seams: Seams) -> AbstractAsyncContextManager[Sink]:
        """An unopened sink. Raises: RetryableSinkError while the embedded server was never up."""
        kind, dsn = self.settings.kind, self.settings.dsn
        if dsn == "embedded":
            dsn = self._embedded_dsn(seams)
        if kind == "timescale":
            timescale = TimescaleSettings(name=self.sink_name, dsn=dsn, stores=self.stores, adopt=self.adopt)
            return Timescale(settings=timescale)(seams)
        clickhouse = ClickHouseSettings(name=self.sink_name, dsn=dsn, stores=self.stores, adopt=self.adopt)
        return ClickHouse(settings=clickhouse)(seams)

    def _embedded_dsn(self, seams: Seams) -> str:
        name = SINK_SERVER[self.settings.kind]
        server = seams.board.dependencies.get(f"embedded.{name}")
        if server is not None and server.state is not DependencyState.UP:
            why = NotConnected(server.reason or "it is starting")
            raise RetryableSinkError(f"the embedded {name} does not serve: {why}") from why
        spec = PostgresSpec(home=self.home) if name == "postgres" else ClickHouseSpec(home=self.home)
        try:
            return spec.dsn_for_pipeline()
        except NotConnected as exc:
            raise RetryableSinkError(str(exc)) from exc


SIMULATOR_KEY = "embedded"


def polygon(parts: Parts, url: str, key: str) -> PolygonHistory:
    """The client of Polygon's REST API."""
    patience_s = float(parts.settings.vendors.polygon.request_timeout_s)
    return PolygonHistory(
        rest_url=url,
        api_key=key,
        budget=parts.budget,
        clock=parts.seams.clock,
        market=parts.market if parts.plan.live else None,
        offload=parts.seams.offload,
        limits=PolygonLimits(page_s=patience_s, read_s=min(15.0, patience_s), connect_s=min(5.0, patience_s)),
    )


@attrs.frozen
class _Factories:
    """A new actor for each incarnation."""

    _parts: Parts | None

    @property
    def parts(self) -> Parts:
        if self._parts is None:
            raise AssertionError("this tree is only to be looked at")
        return self._parts

    def health(self) -> Actor:
        p = self.parts
        return Health(
            listener=p.listener,
            listen=p.settings.health.listen,
            service=p.settings.pipeline.name,
            version=VERSION,
            kinds=p.settings.downloader.kinds,
            submit=p.submit_backfill,
            cancel=p.cancel_backfill,
            inboxes=p.probes.inboxes,
            stalled_after_s=p.settings.health.stalled_after_s,
            consumer=p.log.consumer("health.candles"),
        )

    def server(self, name: str) -> Actor:
        p = self.parts
        return EmbeddedServer(
            spec=server_spec(name, p.settings, p.home, live=p.plan.live), home=p.home, endpoints=p.endpoints
        )

    def buffer(self) -> Actor:
        p = self.parts
        limits = CommitLimits(linger_s=p.settings.log.sync_linger_ms / 1000)
        keeping = Keeping(retention_bytes=p.settings.log.retention_bytes, verified=p.verified, on_loss=p.refetch_lost)
        return Buffer(log=p.log, inbox=p.appends, limits=limits, keeping=keeping, reserve=p.losses)

    def delivery(self, name: str) -> Actor:
        p = self.parts
        sink: SinkFactory = (
            self._memory_sink(name) if p.plan.test_mode else sink_factory(name, p.settings, p.home, adopt=p.plan.adopt)
        )
        n = p.log.partitions
        lanes = (("live", range(n)), ("history", range(n, 2 * n)))
        live, history = (p.log.consumer(f"bridge.{name}.{lane}", partitions=frozenset(of)) for lane, of in lanes)
        return Delivery(
            sink=sink,
            consumers=(live, history),
            cursor=p.log.cursor(f"bridge.{name}"),
            letters=p.letters,
            version=VERSION,
        )

    def _memory_sink(self, name: str) -> SinkFactory:
        sink = self.parts.settings.sinks[name]
        database = self.parts.memory_sinks.setdefault(name, MemoryDatabase(keeps_marks=sink.kind == "timescale"))
        return Memory(database=database, sink_name=name, stores=frozenset(sink.stores))

    def aggregator(self) -> Actor:
        p = self.parts
        wanted = p.settings.aggregator
        return Aggregator(
            consumer=p.log.consumer("aggregator"),
            appender=p.appender,
            disk=p.disk,
            directory=aggregator_folder(p.settings),
            spec=AggregatorSpec(timeframes=wanted.timeframes, bases=wanted.bases, lateness_s=float(wanted.lateness_s)),
        )

    def live(self) -> Actor:
        p = self.parts
        wanted, minute = p.settings.downloader, p.settings.vendors.polygon.requests_per_minute
        limits = LiveLimits(
            rows_max=p.settings.buffer.frame_rows_max,
            linger_s=p.settings.buffer.linger_ms / 1000,
            clock_wait_s=self._clock_wait_s,
        )
        return LiveDownloader(
            source=self._stream(),
            time=self._time(),
            appender=p.appender,
            partitions=p.log.partitions,
            feeds=tuple((job.symbol, job.kind) for job in p.plan.history),
            seam=p.seam,
            market=p.market,
            confirm=wanted.confirm,
            limits=limits,
            # A tenth of the plan's requests at most.
            pace=ClockPace(poll_s=max(1.0, 600.0 / minute), calm_s=max(10.0, 600.0 / minute))
            if minute
            else ClockPace(),
        )

    @property
    def _clock_wait_s(self) -> float:
        """A simulator always tells its time, and it may be years from ours."""
        return math.inf if self.parts.settings.uses_simulator else LiveLimits().clock_wait_s

    def history(self) -> Actor:
        p = self.parts
        wanted = p.settings.downloader
        return HistoryDownloader(
            source=self._source(),
            appender=p.appender,
            partitions=p.log.partitions,
            history=p.plan.history,
            jobs=p.jobs,
            new_jobs=p.new_jobs,
            rejected=RejectedRows(letters=p.letters, seams=p.seams, version=VERSION),
            market=p.market if p.plan.live else None,
            seam=p.seam if p.plan.live else None,
            rules=ConfirmRules(
                confirm=wanted.confirm, settle_s=float(wanted.settle_s), clock_wait_s=self._clock_wait_s
            ),
        )

    def _source(self) -> HistorySource:
        p = self.parts
        if p.plan.test_mode:
            market = self._memory_market()
            return MemoryHistory(ticks=market.ticks, visible_to_ns=market.now_ns if p.plan.live else None)
        if p.settings.uses_simulator:
            return self._simulator()
        return polygon(p, p.settings.rest_url, self._key)

    def _time(self) -> TimeSource:
        p = self.parts
        if p.plan.test_mode:
            return MemoryTime(market=self._memory_market())
        if p.settings.uses_simulator:
            return self._simulator()
        return polygon(p, p.settings.rest_url, self._key)

    def _simulator(self) -> AddressedVendor:
        p = self.parts
        return AddressedVendor(address=self._simulator_url, make=lambda url: polygon(p, url, SIMULATOR_KEY))

    def _simulator_url(self) -> str:
        return self.parts.seams.board.endpoints.get("market", "")

    def _stream(self) -> LiveSource:
        p = self.parts
        if p.plan.test_mode:
            return MemoryLive(market=self._memory_market())
        if p.settings.uses_simulator:
            return AddressedStream(
                address=lambda: self._simulator_url().replace("http://", "ws://", 1),
                make=lambda url: PolygonStream(stream_url=url, api_key=SIMULATOR_KEY),
            )
        return PolygonStream(stream_url=p.settings.stream_url, api_key=self._key)

    @property
    def _key(self) -> str:
        key = self.parts.settings.vendors.polygon.api_key
        return key.reveal() if key else ""

    def _memory_market(self) -> MemoryMarket:
        """One for the process: the vendor outlives an incarnation of ours."""
        p = self.parts
        if p.memory_market is None:
            now_ns = p.seams.clock.wall_ns()
            ticks: dict[str, MemoryTicks | MemoryTrades] = {}
            for number, job in enumerate(p.plan.history):
                walk = random_walk(number, job.from_ns, job.to_ns or now_ns + MEMORY_MARKET_NS)
                ticks[job.symbol] = walk if job.kind == "quotes" else random_trades(walk)
            p.memory_market = MemoryMarket(ticks=ticks, start_ns=now_ns)
        return p.memory_market
