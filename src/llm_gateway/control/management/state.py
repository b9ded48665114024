"""Endpoint of the gateway's state: workers, journal, telemetry, sign-in, and the settings in force."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from starlette.requests import Request

from llm_gateway import __version__
from llm_gateway.control.management.router import Router
from llm_gateway.control.workers import Workers
from llm_gateway.domain.metric_families import MetricFamily
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext
from llm_gateway.settings import PREFIX, SECRETS, Settings, SettingsFromSources
from llm_gateway.store.people import PeopleStore

HIDDEN = "(secret)"
"""What is shown in the place of a secret setting."""


class WorkerState(BaseModel):
    """A worker that is connected to control."""

    name: str
    is_ready: Annotated[bool, Field(description="it accepts requests")]
    can_record: Annotated[bool, Field(description="it can write its usage journal")]
    configuration_version: Annotated[int, Field(description="of the configuration that it applies")]


class JournalState(BaseModel):
    """Usage on its way to the database, and the disk that it is kept on."""

    waiting_bytes: int
    oldest_waiting_seconds: float
    disk_bytes: int
    available_bytes: Annotated[int | None, Field(description="null: the disk does not answer")]
    quarantined_records: Annotated[int, Field(description="records that the database refused")]


class TelemetryState(BaseModel):
    """The export of traces, metrics and logs over OTLP."""

    endpoint: str
    is_up: Annotated[bool, Field(description="the collector takes what it is sent")]
    waiting_bytes: int
    lost_records: int


class SignInState(BaseModel):
    """Ways to sign in to the dashboard, and how many people have one of their own."""

    people: Annotated[int, Field(description="people with a password")]
    identity_provider: Annotated[str | None, Field(description="issuer for people; null: none is set")]
    token_issuer: Annotated[str | None, Field(description="issuer of tokens that are taken in the place of keys")]


class Resting(BaseModel):
    """A model or an account that is not called for a while, or a worker that cannot record."""

    kind: Literal["provider.breaker_open", "provider.paused", "journal.unwritable"]
    provider: str | None
    model: str | None
    worker: str | None


class LimitsUsed(BaseModel):
    """Used share of an enabled provider's limits a minute, 0 to 1, as workers said in the last five seconds."""

    provider: str
    requests: float
    tokens: float


class SettingOut(BaseModel):
    """A setting in force. Of a secret only whether it is set is shown."""

    name: str
    value: Annotated[str | None, Field(description="null: not set")]
    is_default: bool
    origin: Annotated[
        str, Field(description="environment, option, the path of a file, default, or other settings that imply it")
    ]


class State(BaseModel):
    """State of the whole gateway."""

    version: str
    environment: str
    configuration_version: Annotated[int, Field(description="of the newest configuration")]
    workers: list[WorkerState]
    resting: list[Resting]
    limits_used: list[LimitsUsed]
    journal: JournalState
    telemetry: Annotated[TelemetryState | None, Field(description="null: no endpoint is set")]
    sign_in: SignInState
    settings: Annotated[list[SettingOut] | None, Field(description="null without the scope admin")]


def state_router(settings: Settings, workers: Workers, people: PeopleStore) -> Router:
    """Build the endpoint of the state."""
    router = Router("/api/v1/state", "health")

    @router.get("")
    def gateway_state(request: Request) -> State:
        """Return what the workers, the journal and the export last said, and for admins the settings."""
        context: RequestContext = request.scope[REQUEST_CONTEXT]
        value = _reader(workers.measured())
        return State(
            version=__version__,
            environment=settings.env,
            configuration_version=workers.newest_version,
            workers=[
                WorkerState(
                    name=each.name,
                    is_ready=each.is_ready,
                    can_record=each.can_record,
                    configuration_version=each.version,
                )
                for each in workers.connected()
            ],
            resting=[_resting(trouble.kind, trouble.data) for trouble in workers.troubles()],
            limits_used=[
                LimitsUsed(provider=name, requests=used.get("requests", 0.0), tokens=used.get("tokens", 0.0))
                for name, used in sorted(workers.limits_used().items())
            ],
            journal=_journal(value),
            telemetry=_telemetry(settings, value),
            sign_in=SignInState(
                people=people.count(),
                identity_provider=settings.oidc_issuer or None,
                token_issuer=settings.jwt_issuer or None,
            ),
            settings=_shown(settings) if "admin" in context.caller.scopes else None,
        )

    return router


def _reader(families: Iterable[MetricFamily]) -> Callable[[str], float | None]:
    """Return a function that returns the sum of a metric's samples, None if it is not there."""
    found = {family.name: sum(sample.value for sample in family.samples) for family in families}
    return found.get


def _journal(value: Callable[[str], float | None]) -> JournalState:
    available = value("llm_gateway_journal_filesystem_available_bytes")
    return JournalState(
        waiting_bytes=int(value("llm_gateway_journal_bytes") or 0),
        oldest_waiting_seconds=value("llm_gateway_journal_oldest_unshipped_seconds") or 0.0,
        disk_bytes=int(value("llm_gateway_journal_disk_bytes") or 0),
        available_bytes=None if available is None else int(available),
        quarantined_records=int(value("llm_gateway_quarantined_records") or 0),
    )


def _telemetry(settings: Settings, value: Callable[[str], float | None]) -> TelemetryState | None:
    if not settings.otlp_endpoint:
        return None
    return TelemetryState(
        endpoint=settings.otlp_endpoint,
        is_up=value("llm_gateway_otlp_up") == 1,
        waiting_bytes=int(value("llm_gateway_otlp_backlog_bytes") or 0),
        lost_records=int(value("llm_gateway_otlp_lost_records") or 0),
    )


def _resting(kind: Any, data: dict[str, Any]) -> Resting:
    return Resting(kind=kind, provider=data.get("provider"), model=data.get("model"), worker=data.get("worker"))


def _shown(settings: Settings) -> list[SettingOut]:
    """Return all settings by name, with words in the place of secrets."""
    defaults, found = Settings(), []
    origins = settings.origins if isinstance(settings, SettingsFromSources) else {}
    for name in sorted(Settings.__struct_fields__):
        value, default = getattr(settings, name), getattr(defaults, name)
        is_set = value is not None and value != ""
        shown = None if not is_set else HIDDEN if name in SECRETS else str(value)
        origin = origins.get(name) or ("default" if value == default else "other settings")
        setting = f"{PREFIX}{name.upper()}"
        found.append(SettingOut(name=setting, value=shown, is_default=value == default, origin=origin))
    return found
