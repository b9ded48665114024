"""Outbound calls of both planes: to providers, and to the operator's own servers.

Those are the webhook, the mail server, the OTLP collector and the identity provider. Responses and faults are results.
"""
