"""The configuration as one document: compared with what is stored, and made true in one transaction."""
