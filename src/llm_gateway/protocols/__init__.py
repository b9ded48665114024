"""Wire protocols of chat, a file each side: documents and streams to canonical form and back. Pure, no I/O."""
