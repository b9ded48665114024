"""Pass requests for the management API from a worker process to the control process, over a Unix socket.

Worker: `Forwarder`, an ASGI app behind the gate. Control: `ControlServer`, which serves an app behind `RestoreCaller`.
"""
