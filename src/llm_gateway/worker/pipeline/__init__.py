"""The steps of an LLM call: cache, translate, admit, attempt, fail over, relay, record; `worker/gateway.py` calls them.

`availability/` keeps the state of each provider between calls: circuit breakers, rate-limit gates, account pauses.
"""
