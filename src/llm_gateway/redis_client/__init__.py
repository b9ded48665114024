"""Client of a Redis or Valkey server: one connection, one write for all commands of a loop's turn, no long waits.

`address.py` reads the URL, `connection.py` speaks the protocol, `client.py` keeps the connection.
"""
