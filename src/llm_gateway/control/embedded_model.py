"""Start the embedded model's process if needed; in dev without any provider, also register it as a provider."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.errors import ConfigurationError
from llm_gateway.local_model import NOT_INSTALLED, LocalModel, find_model
from llm_gateway.model_hand_over import ModelHandOver
from llm_gateway.model_process import ModelProcess
from llm_gateway.settings import Settings
from llm_gateway.store.providers import ProviderDraft, ProviderStore


class OnlyModelWarning:
    """A warning, logged when the embedded model becomes the only one that answers. Call it with each new snapshot."""

    def __init__(self, log: Callable[..., None]) -> None:
        self._log = log
        self._is_only = False

    def __call__(self, snapshot: Snapshot) -> None:
        """Compare the snapshot with the one before it."""
        answering = [candidate for tier in snapshot.tiers for candidate in tier]
        was_only, self._is_only = self._is_only, len(answering) == 1 and answering[0].provider.is_embedded
        if self._is_only and not was_only:
            self._log(
                "only the embedded model answers, which is small and invents things: add a provider with "
                "POST /api/v1/providers or `llm-gateway providers add`",
                level="warning",
                model=answering[0].model,
            )


async def start_embedded_model(
    settings: Settings,
    providers: ProviderStore,
    stack: AsyncExitStack,
    log: Callable[..., None],
    hand_over: ModelHandOver | None = None,
) -> LocalModel | None:
    """Start the embedded model, if enabled, and return it. `stack` stops it.

    One that another control process has left in `hand_over` goes on, or ends if it is not wanted any more.

    With LLM_GATEWAY_LOCAL_MODEL=auto it starts if a provider uses it, or in dev if no provider is configured yet. That
    first start registers it as a provider with priority 0, below the default of providers added later.

    Raises:
        ConfigurationError: the setting requires the model, and its packages are missing or it does not answer.
    """
    configured = providers.list()
    is_configured = any(p.kind == "local" and p.base_url is None for p in configured)
    first_start = settings.env == "dev" and not configured
    wanted = {"true": True, "false": False, "auto": first_start or is_configured}[settings.local_model]
    path = find_model() if wanted else None
    if path is None:
        if settings.local_model == "true":
            raise ConfigurationError(NOT_INSTALLED)
        left = None if hand_over is None else ModelProcess.find(hand_over.read())
        if left is not None:
            await left.end()
        return None
    model = LocalModel(path, log=log)
    if hand_over is not None:
        await model.take_over(hand_over)
    if not model.is_found:
        log("loading the embedded local model")
    stack.push_async_callback(model.stop)
    await model.start()
    if not is_configured and first_start:
        providers.create(
            ProviderDraft(
                name="local",
                display_name="Embedded local model",
                api_key="unused",
                kind="local",
                models=(model.model_name,),
                rate_limit_rpm=6000,
                rate_limit_tpm=10_000_000,
                priority=0,
            )
        )
    return model
