#!/usr/bin/env bash
# array_record 0.8.6: `reader.read([a, b, ...])` hands the records to threads that wait for work by spinning, also with
# `max_parallelism:0`, and takes several times the time of the processor that `reader.read(a, a + 1)` for one record after
# the other takes. The bytes are the same. Little of it shows on a clock while cores are idle.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check array_record==0.8.6 absl-py etils==1.15.0
"$folder/venv/bin/python" - "$folder/records" <<'PY'
import random
import sys
import time

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

RECORDS, WANTED, CLIPS = 1000, 16, 300
draw = random.Random(0)
writer = ArrayRecordWriter(sys.argv[1], "group_size:1,uncompressed")
for _ in range(RECORDS):
    writer.write(draw.randbytes(8000))
writer.close()
reader = ArrayRecordReader(sys.argv[1], "readahead_buffer_size:0,max_parallelism:0")
clips = [list(range(start, start + 4 * WANTED, 4)) for start in (draw.randrange(RECORDS - 4 * WANTED) for _ in range(CLIPS))]


def by_list(numbers):
    return reader.read(numbers)


def one_by_one(numbers):
    return [reader.read(number, number + 1)[0] for number in numbers]


assert all(list(by_list(numbers)) == one_by_one(numbers) for numbers in clips)
seconds = {by_list: [], one_by_one: []}
for _ in range(5):
    for read in seconds:
        began = time.process_time()
        for numbers in clips:
            read(numbers)
        seconds[read].append(time.process_time() - began)
ratio = min(seconds[by_list]) / min(seconds[one_by_one])
print(f"{WANTED} records of 8 kB: by a list {1e3 * min(seconds[by_list]) / CLIPS:.3f} ms of processor time, "
      f"one by one {1e3 * min(seconds[one_by_one]) / CLIPS:.3f} ms: {ratio:.1f} times as much")
sys.exit(ratio < 2)
PY
