"""Command `explain`: how a request would be routed at this moment, without sending it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from llm_gateway.cli.client import HERE, Address, connect
from llm_gateway.cli.output import Column, Json, note, print_json, print_rows, printable

COLUMNS = (
    Column("rank", "Rank", "count"),
    Column("provider", "Provider"),
    Column("model", "Model"),
    Column("verdict", "Verdict"),
    Column("why", "Why not", missing=""),
)
VERDICTS = {"serves": "serves", "available": "if it fails", "passed_over": "passed over"}


@Parameter(name="*")
@dataclass(frozen=True)
class Sender:
    """The options that say who would send the request."""

    customer: Annotated[str, Parameter(help="whose request (the user_id of /generate)")] = "explain"
    service: Annotated[str, Parameter(help="the service that sends it")] = "explain"
    session: Annotated[str | None, Parameter(help="its session, which keeps to one of equal providers")] = None
    api_key: Annotated[str | None, Parameter(help="name of the key that sends it; yours without it")] = None

    def fields(self) -> dict[str, str]:
        """Return the fields of the API beside the body."""
        named = {"session": self.session, "key": self.api_key}
        return {name: value for name, value in named.items() if value is not None}


SOMEBODY = Sender()


def explain(
    prompt: Annotated[str, Parameter(help="text of the request; its length counts for limits")] = "Hello",
    /,
    *,
    model: Annotated[str | None, Parameter(help="the model that it names; without it the gateway chooses")] = None,
    sender: Sender = SOMEBODY,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Show which providers a request would go to now, in what order, and why some would be passed over.

    ```sh
    llm-gateway explain
    llm-gateway explain --customer alice --model gpt-4o
    llm-gateway explain --api-key shop --service docs
    ```
    """
    body = {"user_id": sender.customer, "service": sender.service, "prompt": prompt}
    if model is not None:
        body["model"] = model
    asked: dict[str, Any] = {"body": body, **sender.fields()}
    explanation = connect(gateway).post("/routing/explain", asked)
    if json:
        print_json(explanation)
        return
    rows = [{**each, "verdict": VERDICTS[each["verdict"]], "why": _why(each)} for each in explanation["candidates"]]
    print_rows(rows, COLUMNS, empty="No provider.")
    cached = "; a cached answer would be served" if explanation["cache"] == "hit" else ""
    note(f"Chosen by: {explanation['route']}{cached}.")
    if explanation["budgets"]:
        note(f"It counts in: {', '.join(map(printable, explanation['budgets']))}.")


def _why(candidate: dict[str, Any]) -> str:
    """Return the reasons in words, as one line."""
    said = []
    for reason in candidate["reasons"]:
        wait = f" for {reason['retry_after_s']:g} s" if reason.get("retry_after_s") else ""
        detail = f": {reason['detail']}" if reason.get("detail") else ""
        said.append(f"{reason['code']}{wait}{detail}")
    return ", ".join(said)
