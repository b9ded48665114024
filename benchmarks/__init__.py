"""Benchmarks of the gateway: CPU time, latency and memory beside a plain nginx, compared with a budget (`make bench`).

`python -m benchmarks --help` lists the options. The mock vendor behind the gateway is `tests.upstream`.
"""
