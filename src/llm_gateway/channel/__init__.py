"""Channel between processes: send the configuration to the workers, and their state back, over a Unix socket.

Control: `ChannelServer`. Worker: `ChannelClient`. The messages are in `messages.py`:

    worker ── Hello ──────────────────────────────────────────────▶ control
           ◀─ Refill* (only a worker that has just started) ───────
           ◀─ Begin, Accounts*, Overrides*, Keys*, Prices*, End ───
           ── Applied ────────────────────────────────────────────▶
           ◀─ Begin … End: the changes of each later version ──────
           ◀─ Passed, AskReport ── Report ────────────────────────▶
           ◀─ ControlBeat, 4 a second ── WorkerBeat ──────────────▶

A worker that connects again gets everything again. It asks for everything (`NeedAll`), too, if changes build on a
version that it has not. The last messages of a worker that ends are `Report` and `Goodbye`.
"""
