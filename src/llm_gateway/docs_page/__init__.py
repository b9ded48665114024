"""Page at `/docs` and the files that it loads. A worker sends it to browsers without a key, control to the others."""
