"""Benchmarks: each module is one command (`python -m bench.NAME`) that runs peers and us in turn and prints ratios.

They are not tests and assert nothing. Clients and peers come from Debian (dcmtk, orthanc), everybody with TCP_NODELAY=1.
"""
