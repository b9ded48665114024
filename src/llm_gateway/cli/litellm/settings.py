"""Convert LiteLLM's fallbacks and model aliases, and advise on settings that have no counterpart here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm_gateway.cli.litellm.budgets import SETTINGS as OF_BUDGETS
from llm_gateway.cli.litellm.budgets import carried_budgets
from llm_gateway.cli.litellm.models import USUAL_PRIORITY, Models, Place

NO_SETTING = "the gateway has no such setting (docs/SETUP.md lists those that it has)"
RETRIES = "a failed call is tried again, then at the next provider, without a setting"
HEALTH = "a provider that fails is left out for a while by itself (circuit breakers), without a setting"
OBSERVE = "the gateway has usage reports, a log line for each request and metrics at /metrics instead"
ONE_HOST = "the gateway needs no Redis: its workers share their state"
PER_CUSTOMER = "add a budget with per: user_id to the section budgets"
PER_KEY = "add a budget with per: key, or per: team, to the section budgets"
KEYS = "make service keys in the section keys, or with `llm-gateway keys add`"
ADVICE = {
    "litellm_settings": {
        "num_retries": RETRIES,
        "allowed_fails": HEALTH,
        "cooldown_time": HEALTH,
        "cache": "set LLM_GATEWAY_CACHE_TTL_SECONDS",
        "cache_params": "set LLM_GATEWAY_CACHE_TTL_SECONDS and LLM_GATEWAY_CACHE_MAX_BYTES; the cache is in memory",
        "drop_params": "fields that a provider does not take are an error, or lead to another provider",
        "context_window_fallbacks": "the gateway passes over models whose context window is too small: list the larger "
        "models under the same alias",
        "content_policy_fallbacks": "a refusal is the answer, and is not sent to another provider",
        **dict.fromkeys(("success_callback", "failure_callback", "callbacks", "service_callbacks"), OBSERVE),
        **dict.fromkeys(("set_verbose", "json_logs"), "set LLM_GATEWAY_LOG_LEVEL and LLM_GATEWAY_LOG_FORMAT"),
        "turn_off_message_logging": "the gateway logs no prompts and answers",
        "max_end_user_budget": PER_CUSTOMER,
        "budget_reset_time": "set the anchor of a budget per day, the hour at which it begins",
        **dict.fromkeys(("max_internal_user_budget", "internal_user_budget_duration"), PER_KEY),
    },
    "router_settings": {
        "routing_strategy": "providers are asked by priority, then by the fewest calls in flight",
        **dict.fromkeys(("num_retries", "retry_after", "retry_policy"), RETRIES),
        **dict.fromkeys(("allowed_fails", "allowed_fails_policy", "cooldown_time", "disable_cooldowns"), HEALTH),
        **dict.fromkeys(("redis_host", "redis_port", "redis_password", "redis_url"), ONE_HOST),
        "enable_pre_call_checks": "the gateway looks at context windows before each call",
        "context_window_fallbacks": "list the larger models under the same alias",
        "content_policy_fallbacks": "a refusal is the answer, and is not sent to another provider",
        "provider_budget_config": "add a budget for each provider to the section budgets, such as match: "
        "{provider: openai}",
    },
    "general_settings": {
        "master_key": "set LLM_GATEWAY_SERVICE_KEYS to NAME:KEY:admin, with a new key of `llm-gateway keys new`",
        "database_url": "LiteLLM's database stays with it: the gateway makes its own (LLM_GATEWAY_DATABASE_URL)",
        "database_connection_pool_limit": "the gateway opens as many connections as it needs",
        "max_parallel_requests": "set max_parallel of service keys",
        "global_max_parallel_requests": "set LLM_GATEWAY_MAX_IN_FLIGHT",
        "store_model_in_db": "the gateway keeps its configuration in its database, and `llm-gateway export` writes it",
        **dict.fromkeys(
            ("max_budget", "budget_duration"),
            "LiteLLM has it in litellm_settings: move it there, or add a budget to the section budgets",
        ),
        "alerting": OBSERVE,
        "custom_auth": KEYS,
        "enable_jwt_auth": KEYS,
        "background_health_checks": HEALTH,
        "maximum_spend_logs_retention_period": "set LLM_GATEWAY_USAGE_RETENTION_DAYS",
    },
}
HANDLED = {
    "litellm_settings": {"fallbacks", "default_fallbacks", "request_timeout", *OF_BUDGETS},
    "router_settings": {"fallbacks", "default_fallbacks", "model_group_alias", "timeout"},
    "general_settings": set(),
}
OTHER_SECTIONS = {
    "environment_variables": "set these variables where the gateway starts",
    "guardrails": "the gateway has no guardrails",
    "mcp_servers": "the gateway passes tools on, and runs none",
    "callback_settings": OBSERVE,
    "files_settings": "the gateway has no files API",
    "finetune_settings": "the gateway has no fine-tuning API",
    "include": "import each file that it names",
}
KNOWN = {"model_list", "credential_list", *ADVICE}


def carry_over(config: dict[str, Any], models: Models) -> list[dict[str, Any]]:
    """Carry aliases of models and fallbacks over to the providers, and note all other settings.

    Returns the budgets.
    """
    router = _section(config, "router_settings")
    aliases = router.get("model_group_alias")
    for alias, target in (aliases if isinstance(aliases, dict) else {}).items():
        _alias(models, alias, target, ("router_settings", "model_group_alias", alias))
    _carry_fallbacks(config, models)
    for section, advice in ADVICE.items():
        for name in _section(config, section):
            if name not in HANDLED[section]:
                models.note((section, name), f"{name} is not carried over: {advice.get(name, NO_SETTING)}")
    for name in config:
        if name not in KNOWN:
            models.note((name,), f"{name} is not carried over: {OTHER_SECTIONS.get(name, NO_SETTING)}")
    return carried_budgets(_section(config, "litellm_settings"), models)


def _carry_fallbacks(config: dict[str, Any], models: Models) -> None:
    own = {name: dict(served) for name, served in models.targets.items()}  # without what becomes a fallback here
    order = Order(models)
    for section in ("litellm_settings", "router_settings"):
        for name, fallbacks, place in _fallbacks(_section(config, section), section, models):
            for fallback in fallbacks:
                problem = _fall_back(models, order, own, (name, fallback))
                if problem is not None:
                    models.note(place, f"the fallback of {name} to {fallback} is not carried over: {problem}")
    order.set_priorities()


def request_timeout(config: dict[str, Any]) -> float | None:
    """Return the timeout of all deployments without one of their own, in seconds."""
    for section, name in (("router_settings", "timeout"), ("litellm_settings", "request_timeout")):
        value = _section(config, section).get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
    return None


def credentials(config: dict[str, Any]) -> dict[str, Any]:
    """Return the values of `credential_list`, by name."""
    found = config.get("credential_list")
    entries = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    return {str(each.get("credential_name")): each.get("credential_values") for each in entries}


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _alias(models: Models, alias: str, target: Any, place: Place) -> None:
    name = target.get("model") if isinstance(target, dict) else target
    served = models.targets.get(str(name))
    if not served:
        models.note(place, f"the alias {alias} is not carried over: no provider serves {name}")
        return
    for provider, model in list(served.items()):
        if not models.serve(alias, provider, model):
            models.note(place, f"{provider} has another model named {alias}: the alias is not carried over to it")


def _fallbacks(settings: dict[str, Any], section: str, models: Models) -> Iterator[tuple[str, list[str], Place]]:
    """Yield names of models with their fallbacks."""
    listed = settings.get("fallbacks")
    for position, each in enumerate(listed if isinstance(listed, list) else []):
        for name, fallbacks in (each if isinstance(each, dict) else {}).items():
            names = (
                [fallback for fallback in fallbacks if isinstance(fallback, str)] if isinstance(fallbacks, list) else []
            )
            yield name, names, (section, "fallbacks", position, name)
    default = settings.get("default_fallbacks")
    names = [name for name in default if isinstance(name, str)] if isinstance(default, list) else []
    for name in list(models.targets) if names else ():
        yield name, [each for each in names if each != name], (section, "default_fallbacks")


class Order:
    """Which providers must be asked after which others, and the priorities that follow."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._above: dict[str, set[str]] = {}

    def put(self, lower: str, above: set[str]) -> bool:
        """Ask a provider after others. Returns False if it must be asked before one of them already."""
        if any(lower in self._all_above(each) or each == lower for each in above):
            return False
        self._above.setdefault(lower, set()).update(above)
        return True

    def set_priorities(self) -> None:
        """Lower the priorities of the providers that come after others."""
        for name in self._above:
            self._models.provider(name)["priority"] = self._priority(name)

    def _priority(self, name: str) -> int:
        usual: int = self._models.provider(name).get("priority", USUAL_PRIORITY)
        return min([usual, *(self._priority(each) - 1 for each in self._above.get(name, ()))])

    def _all_above(self, name: str) -> set[str]:
        above = self._above.get(name, set())
        return above.union(*(self._all_above(each) for each in above))


def _fall_back(models: Models, order: Order, targets: dict[str, dict[str, str]], names: tuple[str, str]) -> str | None:
    """Let the providers of a fallback serve a name, too, after its own. Returns what prevents it."""
    name, fallback = names
    own, served = targets.get(name), targets.get(fallback)
    if not own or not served:
        return f"no provider serves {fallback if own else name}"
    others = {provider: model for provider, model in served.items() if provider not in own}
    if not others:
        return "the same provider serves both, and requests fall back to other providers only"
    for provider, model in others.items():
        # A model's own name comes before every alias, whatever the priorities.
        aliased = {each for each, target in own.items() if target != name}
        if aliased and not order.put(provider, aliased):
            return "another fallback asks these providers in the opposite order"
        if not models.serve(name, provider, model):
            return f"{provider} has another model named {name}"
    return None
