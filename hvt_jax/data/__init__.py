"""From a path to a batch: numpy, PyAV and Grain; nothing in here touches jax.

A video passes, from its path to its row of a batch: `batches` (rows), `sampling` (which frames), `storages` (where it is
kept), `readers` (how frames are asked for), then `decode`, `containers`, `indexing` for a video file or a storage and
`images` for single frames, and `transforms` (made to fit). `profiling` can time what happens on the way. Around it:
`dataset` (what a data set is), `catalog` (one file a data set), `pipeline` (batches by Grain), `views` (several windows and
crops of each video), `manifest` (which videos are bad, beforehand), `quarantine` (while training). Conversions, scans
and the loader's doctor are in `tools`.
"""
