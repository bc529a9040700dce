"""Durable landing, the journal between acknowledgement and index, and the tiers. The only user of fsspec."""
