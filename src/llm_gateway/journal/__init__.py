"""Usage journal: an append-only log on disk for usage records on their way to the database.

`writer.py` appends to it, `shipper.py` moves finished records to the database, `replay.py` recovers the journals of
processes that ended without shipping everything.
"""
