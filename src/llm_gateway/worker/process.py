"""Application of a worker process: the data plane behind the gate, a journal writer, and connections to control."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from llm_gateway import wall_clock
from llm_gateway.channel.client import ChannelClient, ChannelHandlers
from llm_gateway.channel.messages import NAME, WorkerBeat
from llm_gateway.docs_page.page import build_page
from llm_gateway.domain.configuration import Configuration
from llm_gateway.domain.metric_families import MetricFamily, gauge, with_label
from llm_gateway.domain.usage import RecentCalls, UsageRecord
from llm_gateway.errors import ConfigurationError
from llm_gateway.forwarding.control_socket import ControlSocket
from llm_gateway.forwarding.forwarder import Forwarder
from llm_gateway.forwarding.lease_questions import LeaseQuestions
from llm_gateway.forwarding.token_questions import TokenQuestions
from llm_gateway.gate.authentication import Gate, Keyring
from llm_gateway.gate.dashboard_limit import DashboardLimit
from llm_gateway.gate.jwt_callers import TokenCallers
from llm_gateway.gate.reverse_proxy import ReverseProxy
from llm_gateway.host_memory import HostMemory, UnusableMemory
from llm_gateway.host_memory.workers import WorkerPlace
from llm_gateway.journal.committed_journal import CommittedJournal
from llm_gateway.journal.writer import JournalWriter
from llm_gateway.limiter import open_key_limiter, open_limiter
from llm_gateway.limiter.base import Limiter
from llm_gateway.process_application import ProcessApplication
from llm_gateway.providers.account_assembler import AccountAssembler
from llm_gateway.providers.registry import DIALECTS
from llm_gateway.routing.snapshot import SnapshotBuilder
from llm_gateway.settings import Settings
from llm_gateway.telemetry.failed_authentications import FailedAuthentications
from llm_gateway.telemetry.metrics import Metrics
from llm_gateway.telemetry.process_log import ProcessLog
from llm_gateway.telemetry.refused_requests import RefusalCounter
from llm_gateway.upstream.egress import Egress
from llm_gateway.worker.app import Worker, WorkerDependencies
from llm_gateway.worker.dispatch import ManagementElsewhere
from llm_gateway.worker.endpoints.health import health_endpoints
from llm_gateway.worker.endpoints.metrics import METRICS_PATH, MetricsEndpoint
from llm_gateway.worker.loop_lag import LoopLag
from llm_gateway.worker.lost_journal import wait_until_lost
from llm_gateway.worker.measurements import call_gauges, commit_metrics, process_gauges

if TYPE_CHECKING:
    from llm_gateway.worker.shared_redis import SharedRedis

COMMITS_S = 5.0
"""Seconds without a word of control after which its last word, that the database answers, is not believed any more:
more than a control process needs that takes the place of another one."""

BEHIND_S = 60.0
"""Seconds that usage may wait for the database before health says so."""


class WorkerProcess(ProcessApplication):
    """The application of a worker process, which `Server` serves. It starts once control has sent a configuration.

    `on_lost_journal` is called when only another worker can record usage.
    """

    def __init__(self, settings: Settings, output: ProcessLog, *, number: int = 1, memory: int | None = None) -> None:
        super().__init__()
        self._settings = settings
        self._number = number
        self._host = _join(memory, number, settings.workers)
        self._output = output
        self._log = output.log if settings.workers == 1 else partial(output.log, worker=number)
        self._serving = False
        self.on_lost_journal: Callable[[], None] = lambda: None
        self._journal: JournalWriter | None = None
        self._committed: CommittedJournal | None = None
        self._channel: ChannelClient | None = None
        self._worker: Worker | None = None
        self._recent = RecentCalls([], [])
        self._redis = self._share()
        self._metrics = Metrics(self._gauges, lambda: output.writer.dropped)
        self._failed = FailedAuthentications()
        self.refusals = RefusalCounter(self._log, self._failed.count)
        """The log for refused requests, which counts them."""
        self._loop_lag = LoopLag()
        assembler = AccountAssembler(dialects=DIALECTS, learn=output.redact.learn)
        self._snapshots = SnapshotBuilder(assembler.assemble, self._cannot_be_used)
        self._snapshot = self._snapshots.build(Configuration())

    @property
    def place(self) -> WorkerPlace | None:
        """This worker's place in the memory that workers share; None without one."""
        return None if self._host is None else self._host[1]

    def _share(self) -> SharedRedis | None:
        """Return the connection to the Redis of several hosts, which is not open yet; None without one."""
        settings = self._settings
        if not settings.redis_url:
            return None
        # Imported late: a worker without Redis needs none of it.
        from llm_gateway.redis_client.address import parse_address  # noqa: PLC0415
        from llm_gateway.worker.shared_redis import SharedRedis  # noqa: PLC0415

        address = parse_address(settings.redis_url)
        self._output.redact.learn([address.password])
        return SharedRedis(
            address,
            settings.data_dir.absolute(),
            self._number,
            self._log,
            hosts=self.hosts,
            name=settings.name_of_host if settings.journal == "database" else None,
        )

    def stop_serving(self) -> None:
        """Make the readiness probe fail from now on. Requests are still answered."""
        self._serving = False

    def is_serving(self) -> bool:
        """Return whether requests are accepted: the process is neither starting nor stopping."""
        return self._serving

    def can_record(self) -> bool:
        """Return whether the journal can be written."""
        return self._journal is not None and self._journal.is_writable

    def can_commit(self) -> bool:
        """Return whether the database stores usage, if each record must be there before its answer."""
        return self._committed is None or self._committed.can_commit()

    def has_database(self) -> bool:
        """Return whether control answers, and said last that the database does."""
        channel = self._channel
        if channel is None or channel.last_beat is None:
            return False
        return channel.is_alive() and channel.last_beat.database_ok

    def is_behind(self) -> bool:
        """Return whether control said last that usage has waited for the database for more than a minute."""
        beat = None if self._channel is None else self._channel.last_beat
        return beat is not None and beat.shipping_lag_s > BEHIND_S

    def hosts(self) -> int:
        """Return the number of gateways on the database, as control said last; 0 if only one can use it."""
        beat = None if self._channel is None else self._channel.last_beat
        return 0 if beat is None else beat.hosts

    def has_redis(self) -> bool | None:
        """Return whether the Redis of several hosts answers; None without one."""
        return None if self._redis is None else self._redis.is_up()

    async def _open(self) -> ASGIApp:
        """Connect to control, wait for the first configuration, then open the journal and the data plane.

        The stack closes them in reverse order: the data plane ends before its journal, which then has all its records.
        The journal is opened after the first configuration: before it, control deletes the directories that killed
        workers were making.

        Raises:
            ConfigurationError: the journal cannot be written; the message says what to set.
        """
        settings, stack = self._settings, self._stack
        channel = self._connect()
        await channel.first_configuration()
        journal = self._journal = self._open_journal(channel)
        stack.push_async_callback(journal.sync_and_close)
        if self._redis is not None:
            await self._redis.open(stack)
        leases = None if settings.url.startswith("sqlite") else LeaseQuestions(self._open_forwarder(channel))
        worker = self._worker = self._build_worker(journal, leases)
        stack.push_async_callback(worker.close)
        recent, self._recent = self._recent, RecentCalls([], [])
        worker.refill(recent, wall_clock.now_ms())
        worker.changed(self._snapshot)
        self._background(worker.transport.recheck())
        self._background(self._loop_lag.run())
        self._background(self._leave_lost_journal(journal, worker))
        management: ASGIApp = DashboardLimit(self._open_forwarder(channel))
        # A forwarder of its own: calls with a new token must not wait for requests of the management API.
        tokens = TokenCallers(TokenQuestions(self._open_forwarder(channel))) if settings.jwt_issuer else None
        metrics: dict[str, ASGIApp] = {METRICS_PATH: self._metrics_endpoint(channel, management)}
        if settings.admin_port:
            management, metrics = ManagementElsewhere(management), {}
        self._serving = True
        return self._build_gate(worker.build({**health_endpoints(self, management), **metrics}, management), tokens)

    def _open_journal(self, channel: ChannelClient) -> JournalWriter:
        """Open this worker's journal.

        Raises:
            ConfigurationError: it cannot be written.
        """
        path, fsync = self._settings.data_dir.absolute(), self._settings.journal_fsync
        if self._settings.journal == "disk":
            return JournalWriter.open(path, fsync=fsync, log=self._log)
        # Never synced: what counts is in the database.
        journal = self._committed = CommittedJournal.open(path, fsync="off", log=self._log)

        def has_database() -> bool:
            beat = channel.last_beat
            return beat is not None and beat.database_ok and beat.is_storing and channel.has_heard(COMMITS_S)

        journal.connect(partial(channel.ask_commit, journal.name), has_database)
        return journal

    async def _leave_lost_journal(self, journal: JournalWriter, worker: Worker) -> None:
        await wait_until_lost(journal.directory, lambda: worker.in_flight.count)
        self._log(
            "the usage journal is lost: this worker ends, and another one makes a new journal",
            level="warning",
            directory=str(journal.directory.path),
        )
        self.on_lost_journal()

    def _stored(self, entries: int) -> None:
        """Let the answers leave whose records are in the database."""
        if self._committed is not None:
            self._committed.stored(entries)

    def _metrics_endpoint(self, channel: ChannelClient, management: ASGIApp) -> MetricsEndpoint:
        """Build the endpoint that reports this worker's own metrics while control is away."""
        return MetricsEndpoint(
            lambda: with_label(self._metrics.report(), "worker", str(self._number)), channel.is_alive, management
        )

    def _connect(self) -> ChannelClient:
        """Begin to connect to control."""
        address = ControlSocket(self._settings.data_dir, name=NAME)
        self._stack.callback(address.close)
        handlers = ChannelHandlers(
            on_configuration=self._configure,
            on_passed=self._lift,
            on_refill=self._keep_recent,
            report=lambda: [*self._metrics.report(), self._failed.family()],
            state=lambda: WorkerBeat(is_ready=self.is_serving(), can_record=self.can_record()),
            on_stored=self._stored,
        )
        channel = self._channel = ChannelClient(address, handlers, number=self._number, log=self._log)
        channel.start()
        self._stack.push_async_callback(channel.close)
        return channel

    def _configure(self, configuration: Configuration) -> None:
        """Put a configuration in force."""
        snapshot = self._snapshot = self._snapshots.build(configuration)
        if self._worker is not None:
            self._worker.changed(snapshot)

    def _keep_recent(self, calls: RecentCalls) -> None:
        """Keep the calls of the last minute until the limiters are there."""
        self._recent = calls

    def _lift(self, provider_id: str) -> None:
        """Call a provider again at once, since it has passed its test."""
        if self._worker is not None:
            self._worker.availability.lift(provider_id, "its test passed")

    def _gauges(self) -> list[MetricFamily]:
        """Return what this worker measures at this moment."""
        writable = float(self.can_record())
        measured = [
            *process_gauges(self._number),
            gauge("llm_gateway_journal_writable", "1 if usage can be recorded", writable, worker=str(self._number)),
            self.refusals.family(),
            self._loop_lag.family(),
            *(self._redis.gauges() if self._redis is not None else ()),
            *(commit_metrics(self._committed, self._number) if self._committed is not None else ()),
        ]
        if self._worker is not None:
            measured += call_gauges(self._worker, self._snapshot, asyncio.get_running_loop())
        return measured

    def _build_worker(self, journal: JournalWriter, leases: LeaseQuestions | None) -> Worker:
        """Build the data plane, and the functions that see each of its usage records."""
        settings, count, write_line = self._settings, self._metrics, self._output.request_lines()

        limiter, key_limiter = self._open_limiters()
        cache = None
        if self._redis is not None:
            limiter, key_limiter = self._redis.limiters(limiter, key_limiter)
            cache = self._redis.cache(settings.cache_max_bytes // settings.workers, settings.encryption_keys)

        def observe(record: UsageRecord) -> None:
            count(record)
            if write_line is not None:
                write_line(record)

        return Worker(
            WorkerDependencies(
                settings=settings,
                snapshot=lambda: self._snapshot,
                egress=Egress(strict=settings.env == "production", private_hosts=settings.private_hosts),
                journal=journal,
                observe=observe,
                redact=self._output.redact,
                log=self._log,
                limiter=limiter,
                key_limiter=key_limiter,
                cache=cache,
                host=self._host,
                ask_lease=leases,
            )
        )

    def _open_limiters(self) -> tuple[Limiter, Limiter]:
        """Open the limiters of providers and of service keys: one worker counts in its own memory, which is faster.

        Raises:
            ConfigurationError: there are several workers and no memory that they share.
        """
        if self._settings.workers == 1:
            return open_limiter(), open_key_limiter()
        if self._host is None:
            raise ConfigurationError(
                "Several workers share memory for their limits, which the system refused at the start: raise the "
                "limits of memory and of file sizes (ulimit -f) and restart, or set LLM_GATEWAY_WORKERS=1."
            )
        memory = self._host[0]
        return open_limiter(memory, self._number), open_key_limiter(memory, self._number)

    def _open_forwarder(self, channel: ChannelClient) -> Forwarder:
        address = ControlSocket(self._settings.data_dir)
        self._stack.callback(address.close)
        forwarder = Forwarder(address, is_alive=channel.is_alive, is_handed_over=channel.is_handed_over, log=self._log)
        self._stack.callback(forwarder.close)
        return forwarder

    def _build_gate(self, app: ASGIApp, tokens: TokenCallers | None) -> ASGIApp:
        settings = self._settings
        gate = Gate(
            app,
            Keyring(settings.callers(), lambda: self._snapshot, tokens=tokens),
            local_only=settings.env == "dev",
            log=self.refusals,
            dev_key=settings.dev_key,
            allowed_hosts=settings.own_hosts,
            sign_in_page=None if settings.admin_port else build_page(settings.dev_key),
        )
        networks = settings.proxy_networks
        return ReverseProxy(gate, networks, settings.root_path) if networks or settings.root_path else gate

    def _cannot_be_used(self, name: str, reason: str) -> None:
        self._log("provider cannot be used", level="error", provider=name, reason=reason)


def _join(memory: int | None, number: int, workers: int) -> tuple[HostMemory, WorkerPlace] | None:
    """Open the memory that workers share, and take this worker's place in it.

    Memory of another version, which a reload to new code can meet, is left out by a worker that is alone.

    Raises:
        UnusableMemory: it is of another version, and there are several workers.
    """
    if memory is None:
        return None
    try:
        shared = HostMemory(memory)
    except UnusableMemory:
        if workers > 1:
            raise
        return None
    return shared, WorkerPlace(shared, number)
