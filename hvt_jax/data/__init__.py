"""From files to batches: numpy, PyAV and Grain; nothing in here touches jax.

Read in this order: `sampling` (which frames), `decode` (from a file to frames), `sources` (what a data set is),
`catalog` (one file a data set), `storages` (one file a way to keep frames), `pipeline` and `clip_batches` (batches for
training and evaluation), `views` and `view_batches` (several windows and crops of each video). Beside it: `scan` and
`manifest` (which videos are bad, beforehand), `quarantine` (while training), `killable` (children that may crash);
`doctor`, `bare_decoding` and `advice` (how fast batches come, and why), watching what functions name by `stages`.
"""
