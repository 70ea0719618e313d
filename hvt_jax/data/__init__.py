"""From a path to a batch: numpy, PyAV and Grain; nothing in here touches jax.

Read in this order: `sampling` (which frames), `decode` (from a file to frames), `dataset` (what a data set is),
`catalog` (one file a data set), `storages` (one file a way to keep frames), `pipeline` and `clip_batches` (batches for
training and evaluation), `views` and `view_batches` (several windows and crops of each video). Beside it: `manifest`
(which videos are bad, beforehand), `quarantine` (while training), `stages` (where the time of functions goes).
Conversions, scans and the loader's doctor are in `tools`.
"""
