#!/usr/bin/env bash
# tensorflow-datasets 4.9.10 with etils 1.15: a data set whose builder lives in a package cannot be generated.
#
# For such a builder tensorflow-datasets imports `importlib_resources`, but asks for it on Python before 3.9 only; it used
# to come along with etils, which no longer needs it. So a fresh environment lacks it, and `download_and_prepare` raises.
# A builder in a script of its own is generated, and data sets that were generated before can be read.
# Ends with 0 while this is so, with another code once it is not. Needs Python 3.11 or later, and the network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-datasets==4.9.10 etils==1.15.0
mkdir "$folder/builders"
touch "$folder/builders/__init__.py"
cat > "$folder/builders/three_numbers.py" <<'PYTHON'
import numpy as np
import tensorflow_datasets as tfds


class Numbers(tfds.core.GeneratorBasedBuilder):
    """Three numbers."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"number": np.int64}))

    def _split_generators(self, dl_manager):
        return {"train": ((n, {"number": n}) for n in range(3))}

    def _generate_examples(self):
        return ()

PYTHON
cat > "$folder/generate.py" <<'PYTHON'
import sys

import tensorflow_datasets as tfds
from builders.three_numbers import Numbers

try:
    Numbers(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
    seen = "is generated"
except ModuleNotFoundError as error:
    seen = f"ModuleNotFoundError: {error}"
print(f"tensorflow-datasets {tfds.__version__}, a data set of three numbers: {seen}")
raise SystemExit("importlib_resources" not in seen)
PYTHON
(cd "$folder" && venv/bin/python -W ignore generate.py "$folder/data")
