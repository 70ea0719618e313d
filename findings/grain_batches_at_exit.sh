#!/usr/bin/env bash
# Grain 0.2.18 with decoding processes: a batch that is alive at the end of a script leaks its shared memory.
#
# `SharedMemoryArray.__del__` and `DatasetIterator.__del__` run when modules are gone already: AttributeErrors on the
# console, and the resource tracker counts what was not freed.
# Ends with 0 while this is so, with another code once it is not. Needs Python 3.11 or later, and the network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check grain==0.2.18 absl-py==2.5.1 numpy==2.4.6
cat > "$folder/load.py" <<'PYTHON'
import sys

import grain
import numpy as np
from absl import flags


class Pictures:
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return np.full((64, 64, 3), index, np.uint8)


if __name__ == "__main__":
    flags.FLAGS(sys.argv[:1])
    options = grain.MultiprocessingOptions(num_workers=2, per_worker_buffer_size=1)
    batches = iter(grain.MapDataset.source(Pictures()).batch(4).to_iter_dataset().mp_prefetch(options))
    batch = next(batches)  # a script that ends while it has a batch and an iterator
PYTHON
"$folder/venv/bin/python" "$folder/load.py" 2> "$folder/errors" && code=$? || code=$?
leaked=$(grep -c "leaked shared_memory objects" "$folder/errors" || true)
attribute=$(grep -c "AttributeError: 'NoneType' object has no attribute" "$folder/errors" || true)
version=$("$folder/venv/bin/pip" list 2> /dev/null | awk '$1 == "grain" {print $2}')
echo "grain $version: a script that ends with a batch in its hands: exit code $code," \
  "$attribute AttributeErrors of __del__, $leaked warning(s) of the resource tracker:"
grep -o "There appear to be [0-9].*" "$folder/errors" || true
[ "$code" = 0 ] && [ "$leaked" -ge 1 ] && [ "$attribute" -ge 1 ]
