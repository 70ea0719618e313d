"""From a path to a batch: numpy, PyAV and Grain; nothing in here touches jax.

On its way from a path to its row of a batch a video passes `batches` (rows), `sampling` (which frames), `storages`
(where it is kept) and `readers` (how frames are asked for); then `decode`, `containers` and `indexing` for video files,
or a storage with `shards` and `images` for single frames; and `transforms` (made to fit). `profiling` can time it.

Around it: `dataset` (what a data set is), `catalog` (one file a data set), `pipeline` (batches by Grain), `views`
(several windows and crops of each video), `manifest` (which videos are bad, beforehand), `quarantine` (while training).
Conversions, scans and the loader's doctor are in `tools`.
"""
