"""Convert LiteLLM's `model_list`: group deployments by vendor, address and key into providers."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from llm_gateway.cli.litellm.vendors import ANY_OTHER, NOT_CARRIED, VENDORS, Vendor, split
from llm_gateway.cli.secret_references import Mistake
from llm_gateway.cli.vendor_key import NO_KEY
from llm_gateway.providers.presets import load_presets

Place = tuple[str | int, ...]
UNLIMITED_RPM, UNLIMITED_TPM = 1_000_000, 1_000_000_000
"""Limits of a provider whose deployments have none: LiteLLM's default, where the gateway's are 60 and 100,000."""
PER_MILLION = 1_000_000
USUAL_PRIORITY = 10
KEYLESS = frozenset(
    {"", "none", "na", "n/a", "empty", "dummy", "fake-key", "fake", "not-needed", "anything", "sk-none"}
)
CARRIED = frozenset(
    {
        *("model", "api_key", "api_base", "base_url", "rpm", "tpm", "timeout", "order", "weight", "api_version"),
        *("input_cost_per_token", "output_cost_per_token", "litellm_credential_name", "custom_llm_provider"),
    }
)
OTHER_KINDS = frozenset(
    {
        *("image_generation", "audio_transcription", "audio_speech", "rerank", "moderation", "video_generation"),
        *("ocr", "search"),
    }
)
DEFAULTS = (
    "the gateway adds no defaults to requests: let clients send it, or limit it with a service key (max_tokens, "
    "max_reasoning_effort)"
)
ADVICE = {
    "stream_timeout": "a provider has one timeout_s for each attempt",
    "api_version": "Azure's /openai/v1 needs none",
    "weight": "among providers of equal priority, the one with the fewest calls in flight is asked",
    "organization": "give each organization a key of its own, and a provider",
    "extra_headers": "a provider has no headers of its own",
    "max_parallel_requests": "set max_parallel of service keys",
    "max_retries": "a failed call is tried again, then at the next provider, without a setting",
    **dict.fromkeys(
        ("max_budget", "budget_duration"), "add a budget to the section budgets, such as match: {model: gpt-4o}"
    ),
}


class Deployment(NamedTuple):
    """An entry of `model_list` that can be carried over. `key` is a reference to a variable, or the word unused."""

    group: str
    model: str
    vendor: Vendor
    base_url: str | None
    key: str
    order: int
    params: dict[str, Any]
    info: dict[str, Any]
    place: Place


class Models:
    """The providers of a `model_list`.

    `providers` are entries of the gateway's file. `targets` has, for each `model_name`, the providers that serve it and
    the name of the model there. `notes` is what could not be carried over.
    """

    def __init__(self, entries: list[Any], credentials: dict[str, Any], timeout_s: float | None) -> None:
        self.providers: list[dict[str, Any]] = []
        self.targets: dict[str, dict[str, str]] = {}
        self.notes: list[Mistake] = []
        self._credentials = credentials
        self._timeout_s = timeout_s
        self._presets = load_presets()
        self._grouped: list[tuple[tuple[Any, ...], dict[str, Any], list[Deployment]]] = []
        for position, entry in enumerate(entries):
            found = self._deployment(entry, ("model_list", position))
            if found is not None:
                self._add(found)
        for _, provider, deployments in self._grouped:
            self._set_limits(provider, deployments)

    def note(self, place: Place, sentence: str) -> None:
        """Note what cannot be carried over."""
        self.notes.append(Mistake(place, sentence))

    def provider(self, name: str) -> dict[str, Any]:
        """Return a provider by its name."""
        return next(each for each in self.providers if each["name"] == name)

    def serve(self, name: str, provider: str, model: str) -> bool:
        """Let a provider serve a model under a further name. Returns False if the name means another model there."""
        entry = self.provider(provider)
        if model != name:
            if name in entry["models"] or entry.get("model_aliases", {}).get(name, model) != model:
                return False
            entry.setdefault("model_aliases", {})[name] = model
        elif name in entry.get("model_aliases", {}):
            return False
        self.targets.setdefault(name, {})[provider] = model
        return True

    def _deployment(self, entry: Any, place: Place) -> Deployment | None:
        name = entry.get("model_name") if isinstance(entry, dict) else None
        params = entry.get("litellm_params") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(params, dict) or not isinstance(params.get("model"), str):
            self.note(place, "an entry needs model_name, and litellm_params with a model: it is left out")
            return None
        params = {**self._credential(params, place), **params}
        info = entry["model_info"] if isinstance(entry.get("model_info"), dict) else {}
        at = (*place, "litellm_params")
        vendor_name, model = split(params["model"])
        vendor_name = params.get("custom_llm_provider", vendor_name)
        if "*" in model:
            self.note((*at, "model"), f"{params['model']} stands for many models: list them in models of a provider")
            return None
        if info.get("mode") in OTHER_KINDS:
            self.note((*place, "model_info", "mode"), f"the gateway serves no {info['mode']}: {name} is left out")
            return None
        vendor = VENDORS.get(str(vendor_name))
        if vendor is None:
            advice = NOT_CARRIED.get(str(vendor_name), ANY_OTHER)
            self.note((*at, "model"), f"{params['model']} is left out: {advice}")
            return None
        base_url, is_known = self._base_url(params, vendor, at)
        if not is_known:
            return None
        self._note_params(params, at)
        order = params.get("order")
        order = order if isinstance(order, int) else 1
        key = self._key(params, vendor, base_url, at)
        return Deployment(name, model, vendor, base_url, key, order, params, info, place)

    def _credential(self, params: dict[str, Any], place: Place) -> dict[str, Any]:
        name = params.get("litellm_credential_name")
        if name is None:
            return {}
        found = self._credentials.get(name)
        if not isinstance(found, dict):
            self.note(
                (*place, "litellm_params", "litellm_credential_name"), f"credential_list has no {name}: set the API key"
            )
            return {}
        return found

    def _base_url(self, params: dict[str, Any], vendor: Vendor, at: Place) -> tuple[str | None, bool]:
        """Return the base URL, and whether it is known."""
        field = "api_base" if "api_base" in params else "base_url"
        given = params.get(field)
        if isinstance(given, str) and given.startswith("os.environ/"):
            variable = given.removeprefix("os.environ/")
            given = os.environ.get(variable)
            if not given:
                self.note(
                    (*at, field), f"{params['model']} is left out: export {variable}, its address, and import again"
                )
                return None, False
        if not given:
            if vendor.needs_base:
                self.note(at, f"{params['model']} is left out: it has no api_base, so its address is not known")
            return None, not vendor.needs_base
        base = str(given).rstrip("/")
        if vendor.name == "azure":
            base = base.partition("/openai")[0]
        return base if base.endswith(vendor.suffix) else base + vendor.suffix, True

    def _key(self, params: dict[str, Any], vendor: Vendor, base_url: str | None, at: Place) -> str:
        """Return a reference to the API key. A key in the file is never repeated."""
        given = params.get("api_key")
        if isinstance(given, str) and given.startswith("os.environ/"):
            return f"${{{given.removeprefix('os.environ/')}}}"
        if given is None and vendor.variable is not None and not (vendor.is_open and base_url):
            return f"${{{vendor.variable}}}"
        if given is None or (str(given).lower() in KEYLESS and (vendor.is_open or base_url)):
            return NO_KEY
        variable = vendor.variable or f"{vendor.name.upper().replace('-', '_')}_API_KEY"
        used = sum(1 for key, *_ in self._grouped if str(key[2]).startswith(f"${{{variable}"))
        variable = variable if not used else f"{variable}_{used + 1}"
        for key, *_ in self._grouped:  # the same key as that of a deployment before
            if key[3] == given:
                return str(key[2])
        self.note((*at, "api_key"), f"the key in the file is not carried over: export it as {variable}")
        return f"${{{variable}}}"

    def _note_params(self, params: dict[str, Any], at: Place) -> None:
        for name in params:
            if name in ADVICE:
                self.note((*at, name), f"{name} is not carried over: {ADVICE[name]}")
            elif name.startswith(("aws_", "vertex_", "azure_")):
                self.note((*at, name), f"{name} is not carried over: a provider has one API key")
            elif name not in CARRIED:
                self.note((*at, name), f"{name} is not carried over: {DEFAULTS}")

    def _add(self, found: Deployment) -> None:
        literal = found.params.get("api_key")
        key = (
            found.vendor.name,
            found.base_url,
            found.key,
            literal if found.key.startswith("$") else None,
            found.order,
        )
        for known, provider, deployments in self._grouped:
            if known == key and self._join(provider, found):
                deployments.append(found)
                return
        names = {each["name"] for each in self.providers}
        name, number = found.vendor.name, 2
        if found.vendor.name == "openai" and found.base_url is not None:
            name = "server"
        base = name
        while name in names:
            name, number = f"{base}-{number}", number + 1
        made: dict[str, Any] = {"name": name, "api_key": found.key, "models": []}
        if name != found.vendor.name:  # else its preset has the kind and the address
            made["kind"] = {"anthropic": "anthropic", "gemini": "gemini"}.get(found.vendor.name, "openai")
        elif found.vendor.kind is not None:
            made["kind"] = found.vendor.kind
        if found.base_url is not None:
            made["base_url"] = found.base_url
        elif name != found.vendor.name:
            made["base_url"] = self._presets[found.vendor.name].base_url
        if found.order != 1:
            made["priority"] = USUAL_PRIORITY + 1 - found.order
        self.providers.append(made)
        self._join(made, found)
        self._grouped.append((key, made, [found]))

    def _join(self, provider: dict[str, Any], found: Deployment) -> bool:
        """Add a deployment's model to a provider. Returns False if its name means another model there."""
        if not self.serve(found.group, provider["name"], found.model):
            return False
        if found.model not in provider["models"]:
            provider["models"].append(found.model)
        self._set_model(provider, found)
        return True

    def _set_model(self, provider: dict[str, Any], found: Deployment) -> None:
        """Carry over what is known of the model: its price and its sizes."""
        facts = {**found.info, **{name: found.params[name] for name in CARRIED if name in found.params}}
        prices = [_number(facts.get(f"{kind}_cost_per_token")) for kind in ("input", "output")]
        if prices[0] is not None and prices[1] is not None:
            by_kind = {"input": round(prices[0] * PER_MILLION, 9), "output": round(prices[1] * PER_MILLION, 9)}
            provider.setdefault("prices", {})[found.model] = by_kind
        for field, names in (("context_window", ("max_input_tokens",)), ("max_output_tokens", ("max_output_tokens",))):
            size = next((_number(facts[name]) for name in names if name in facts), None)
            if size is not None and size >= 1:
                provider.setdefault(field, {})[found.model] = int(size)

    def _set_limits(self, provider: dict[str, Any], deployments: list[Deployment]) -> None:
        """Carry over limits and timeouts, which a provider has for all its models together."""
        for field, name, unlimited in (
            ("rate_limit_rpm", "rpm", UNLIMITED_RPM),
            ("rate_limit_tpm", "tpm", UNLIMITED_TPM),
        ):
            values = [_number(each.params.get(name)) for each in deployments]
            given = [value for value in values if value is not None and value >= 1]
            provider[field] = int(sum(given)) if len(given) == len(values) else unlimited
            if given and len(values) > 1:
                place = next(each.place for each in deployments if name in each.params)
                what = "the sum" if len(given) == len(values) else "none, since some of its models have none"
                self.note(
                    (*place, "litellm_params", name),
                    f"{name} is a limit of each model, but {provider['name']} has one for all of them: it is {what}",
                )
        times = [_number(each.params.get("timeout")) or self._timeout_s for each in deployments]
        known = [time for time in times if time]
        if known:
            provider["timeout_s"] = min(max(known), 3600.0)


def _number(value: Any) -> float | None:
    """Return a number, also one that is written as text, such as 1e-6."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str) and not re.fullmatch(r"[0-9.]+([eE][-+]?[0-9]+)?", value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
