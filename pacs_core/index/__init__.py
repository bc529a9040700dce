"""The index: a DuckLake (Parquet files, catalog in PostgreSQL) and the small operational tables beside its catalog.

The only package that knows DuckDB and PostgreSQL; their exceptions leave it as IndexUnavailable.
"""
