"""Page at `/docs` and the files that it loads; a worker sends it to browsers without a key, control to those with one."""
