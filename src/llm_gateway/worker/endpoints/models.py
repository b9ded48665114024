"""Endpoints that list the models clients may name, and describe single ones, in the shape of each vendor's protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import parse_qsl, unquote

from starlette.types import Receive, Scope, Send

from llm_gateway.domain.catalog import Snapshot, Tiers
from llm_gateway.domain.model_aliases import is_glob
from llm_gateway.domain.service_key import ServiceKey
from llm_gateway.error_format.responses import JSON, send_body
from llm_gateway.error_format.send_error import send_error
from llm_gateway.errors import GatewayError, MethodNotAllowed, UnknownModel
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext
from llm_gateway.protocols.descriptor import ListedModel, ModelList
from llm_gateway.protocols.registry import PROTOCOLS, protocol_of
from llm_gateway.routing.restricted_plan import allows_model
from llm_gateway.routing.route import AUTO


class ModelsEndpoint:
    """The model list at `path` and single models below it, read from the current configuration."""

    def __init__(self, path: str, snapshot: Callable[[], Snapshot]) -> None:
        self._path = path
        self._snapshot = snapshot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the list, or one model, in the format of the client's protocol (ASGI)."""
        context: RequestContext = scope[REQUEST_CONTEXT]
        protocol = protocol_of(scope["path"], context.headers, scope["query_string"])
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise MethodNotAllowed("This path accepts only GET.", allow=("GET", "HEAD"))
            if protocol.models is None:
                raise TypeError(f"{protocol.name} has no list of models.")
            body = self._encoded(scope["path"], protocol.models, scope["query_string"], context.caller.key)
        except GatewayError as error:
            await send_error(send, scope, error)
            return
        await send_body(send, 200, body, JSON, [(name, context.echo) for name in protocol.id_headers])

    def _encoded(self, path: str, shape: ModelList, query: bytes, key: ServiceKey | None) -> bytes:
        snapshot = self._snapshot()
        if path == self._path:
            return shape.write(_listed(snapshot, key), dict(parse_qsl(query.decode("latin-1"))))
        wanted = unquote(path.removeprefix(f"{self._path}/"))
        if wanted == AUTO:
            return shape.write_one(_auto(snapshot))
        found = snapshot.resolve(wanted)
        if found is not None and _may_use(key, wanted, found.tiers):
            return shape.write_one(_described(wanted, found.tiers))
        raise UnknownModel(
            f"No enabled provider has the model {wanted[:100]!r}: GET {self._path} lists the available models."
        )


def _listed(snapshot: Snapshot, key: ServiceKey | None) -> list[ListedModel]:
    """Return `auto`, all models by name and by provider/name, and the aliases that are no globs.

    Those that the key may not use are left out.
    """
    tiers_by_name = dict(snapshot.tiers_by_model)
    tiers_by_name.pop(AUTO, None)  # a model of that name, such as another gateway's, is provider/auto
    if snapshot.aliases is not None:
        for alias in snapshot.aliases.names():
            found = None if is_glob(alias) or alias in tiers_by_name else snapshot.resolve(alias)
            if found is not None:
                tiers_by_name[alias] = found.tiers
    described = [_described(name, tiers) for name, tiers in sorted(tiers_by_name.items()) if _may_use(key, name, tiers)]
    return [_auto(snapshot), *described]


def _may_use(key: ServiceKey | None, name: str, tiers: Tiers) -> bool:
    """Return whether a key may use the model that a name leads to."""
    rights = None if key is None else key.rights
    if rights is None:
        return True
    if rights.fixed_model is not None and name != rights.fixed_model:
        return False
    return not rights.models or allows_model(rights.models, name, tuple(each for tier in tiers for each in tier))


def _auto(snapshot: Snapshot) -> ListedModel:
    protocols = _protocols(snapshot.tiers)
    return ListedModel(AUTO, "llm-gateway", 0, has_chat=_has_chat(protocols), has_embeddings=_has_embeddings(protocols))


def _described(name: str, tiers: Tiers) -> ListedModel:
    """Describe the model that a name leads to: the facts of the preferred provider, else of the next that has them."""
    candidates = [candidate for tier in tiers for candidate in tier]
    windows = [candidate.provider.context_window_by_model.get(candidate.model) for candidate in candidates]
    outputs = [candidate.provider.max_output_of(candidate.model) for candidate in candidates]
    protocols = _protocols(tiers)
    provider = candidates[0].provider
    return ListedModel(
        name,
        provider.name,
        provider.created_at_ms,
        context_window=next(filter(None, windows), None),
        max_output_tokens=next(filter(None, outputs), None),
        price=candidates[0].price,
        has_chat=_has_chat(protocols),
        has_embeddings=_has_embeddings(protocols),
    )


def _protocols(tiers: Tiers) -> set[str]:
    return {protocol for tier in tiers for candidate in tier for protocol in candidate.provider.codecs}


def _has_chat(protocols: Iterable[str]) -> bool:
    return any(PROTOCOLS[protocol].is_translatable for protocol in protocols)


def _has_embeddings(protocols: Iterable[str]) -> bool:
    return any(not PROTOCOLS[protocol].is_translatable for protocol in protocols)
