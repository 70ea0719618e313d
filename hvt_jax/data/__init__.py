"""From files to batches: numpy, PyAV and Grain; nothing in here touches jax.

Read in this order: `sampling` (which frames), `decode` (from a file to frames), `sources` (what a data set is),
`catalog` (one file a data set), `storages` (one file a way to keep frames), `pipeline` (batches for training and
evaluation).
"""
