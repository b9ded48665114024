"""Export of traces, metrics and logs over OTLP, made from usage records (docs/OBSERVABILITY.md)."""
