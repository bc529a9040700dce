"""The only place that picks implementations and hands them their values from the settings.

A module for each surrounding of the archive, so that a command loads what it needs: `pacs sql` no DIMSE, a listener no flows.
"""
