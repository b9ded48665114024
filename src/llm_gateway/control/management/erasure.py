"""Endpoint that erases a customer: its label in stored usage is replaced by a random one."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field
from starlette.convertors import StringConvertor, register_url_convertor

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.management.fields import Id
from llm_gateway.control.management.freshness import UpToDate
from llm_gateway.control.management.router import Router
from llm_gateway.errors import NotFound
from llm_gateway.store.erasure import Erasure
from llm_gateway.store.overrides import OverrideStore


class LabelConvertor(StringConvertor):
    """A customer's label in a path. It may contain slashes, but a path that ends in one is another path."""

    regex = r"(?s:.*[^/])"


register_url_convertor("label", LabelConvertor())


class ErasedCustomer(BaseModel):
    """Result of an erasure. Only this answer links the old label to the new one."""

    records: Annotated[int, Field(description="number of records that were changed; older ones are sums only")]
    erased_as: Annotated[str, Field(description="the label in records and reports now")]
    overrides: Annotated[list[Id], Field(description="the customer's overrides, which stay: delete them if need be")]


def erasure_router(erasure: Erasure, overrides: OverrideStore, up_to_date: UpToDate) -> Router:
    """Build the endpoint of erasure. It includes the requests that were answered before it was called."""
    router = Router("/api/v1/usage/customers", "usage")

    @router.delete("/{user_id:label}", responses=problems(404, 422))
    def erase_customer(user_id: str) -> ErasedCustomer:
        erased = erasure.run(user_id, up_to_date())
        if erased is None:
            raise NotFound("There is no usage of this customer: give its user_id exactly, as the reports show it.")
        kept = [override.id for override in overrides.list(user_id)]
        return ErasedCustomer(records=erased.records, erased_as=erased.label, overrides=kept)

    return router
