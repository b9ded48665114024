"""`make bench`: what a request costs, measured beside a plain nginx and held against the budget.

`python -m benchmarks --help` lists the options. The mock vendor behind the gateway is `tests.upstream`.
"""
