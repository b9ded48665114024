"""Conversion of a configuration of LiteLLM's proxy to a configuration file of the gateway.

The format is described at https://docs.litellm.ai/docs/proxy/configs and https://docs.litellm.ai/docs/proxy/config_settings.
"""
