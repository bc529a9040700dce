"""HTTP: whether the archive lives, is ready and is well."""
