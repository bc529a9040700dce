"""Data sets: reading headers, matching, file meta, transfer syntaxes. Pure: bytes and values in, values out."""
