"""The archive itself: DICOM, storage, index and network. Works without the flow engine (it never imports prefect or dask)."""
