"""Request a provider's list of models, which is free, to test whether the provider can be called now."""

from __future__ import annotations

import asyncio

from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.provider_calls.pool_factory import PoolFactory
from llm_gateway.provider_calls.results import FAULTS, result_of_fault, result_of_response
from llm_gateway.upstream.pool import Pool, RequestNotSent


class ModelLists:
    """Lists of models of providers, requested over new connections from `pools`."""

    def __init__(self, pools: PoolFactory) -> None:
        self._pools = pools

    async def get(self, provider: Provider, timeout_s: float) -> UpstreamResult:
        """GET the provider's model list, within `timeout_s` seconds.

        It uses a new connection and closes it, to test whether one can be made now. Never raises for what the network
        or the provider does.
        """
        pool: Pool | None = None
        try:
            if provider.target is None:
                raise RequestNotSent("The provider is not ready yet")
            async with asyncio.timeout(timeout_s):
                pool = await self._pools.make(provider, provider.target.models_url)
                return result_of_response(await pool.get(timeout_s))
        except FAULTS as error:
            return result_of_fault(error)
        finally:
            if pool is not None:
                pool.close()
