"""Judges a run of scripts/demo: what the mount shows, and what an independent client finds in bucket B.

python demo-report.py WORK_DIRECTORY MOUNT FAULT_TIME JOURNAL_RECORDS
"""

import hashlib
import json
import logging
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

from qcloud_cos import CosConfig, CosS3Client

logging.disable(logging.CRITICAL)
work, mount, fault_at, records = sys.argv[1:]
fault_at, records = float(fault_at), int(records)
STALL_MAX = 5.0


def sha256(path):
    return hashlib.sha256(open(path, "rb").read()).hexdigest()


def failures_file():
    path = f"{work}/failures"
    return open(path).read().splitlines() if os.path.exists(path) else []


def expected_files():
    """Key in the bucket -> local file with the right content."""
    tree = f"{work}/tree"
    files = {}
    for folder, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(folder, name)
            inside = os.path.relpath(path, tree)
            files[f"unpacked/{inside}"] = path
            if inside.startswith("doc/"):
                files[f"doc.moved/{inside[4:]}"] = path
    files["tree.tar"] = f"{work}/tree.tar"
    return {key: path for key, path in files.items() if not os.path.islink(path)}


def bucket_b():
    config = open(f"{work}/emulator.toml").read()
    second = config.split("[b]")[1]
    value = lambda name, text: re.search(name + r'\s*=\s*"([^"]+)"', text)[1]
    port = int(value("endpoint", second).rsplit(":", 1)[1])
    client = CosS3Client(
        CosConfig(
            Region=value("region", second),
            SecretId=value("secret_id", config),
            SecretKey=value("secret_key", config),
            Scheme="http",
            IP="127.0.0.1",
            Port=port,
        )
    )
    return client, value("bucket", second)


def first_on_b(methods, wanted=lambda entry: True):
    """Seconds from the fault to the first answered request of this kind in region B."""
    log = json.load(open(f"{work}/log-b.json"))
    times = [
        entry["time"] / 1e6 - fault_at
        for entry in log
        if entry["method"] in methods and entry["status"] and entry["status"] < 300 and wanted(entry)
    ]
    times = [t for t in times if t > 0]
    return min(times) if times else None


probe = json.load(open(f"{work}/probe.json"))
failures = failures_file() + probe["failures"]
expected = expected_files()
client, bucket = bucket_b()
lines = int(open(f"{work}/appended").read())
log = "".join(f"line {n}\n" for n in range(lines))


def compare(item):
    key, path = item
    right = sha256(path)
    in_mount = os.path.exists(f"{mount}/{key}") and sha256(f"{mount}/{key}") == right
    body = client.get_object(Bucket=bucket, Key=key)["Body"].get_raw_stream().read()
    return in_mount, hashlib.sha256(body).hexdigest() == right


with ThreadPoolExecutor(8) as pool:
    results = list(pool.map(compare, expected.items()))
mount_right, bucket_right = sum(a for a, _ in results), sum(b for _, b in results)
log_in_mount = open(f"{mount}/app.log").read() == log
log_in_b = client.get_object(Bucket=bucket, Key="app.log")["Body"].get_raw_stream().read().decode() == log
longest = max(probe["longest"].values())
which = max(probe["longest"], key=probe["longest"].get)
write = first_on_b({"PUT"})
# Listings of directories and contents of files; not what the mount compares in the background.
read = first_on_b({"GET"}, lambda entry: entry["key"] or "delimiter" in entry["query"])
seconds = lambda value: f"{value:.2f} s" if value is not None else "none"

rows = [
    ("longest stall of any operation", f"{longest:.2f} s ({which})", longest <= STALL_MAX),
    ("fault to first write on B", seconds(write), write is not None),
    ("fault to first read on B", seconds(read), read is not None),
    ("operations of the prober", probe["count"], probe["count"] > 0),
    ("failed operations", len(failures), not failures),
    ("files equal by SHA-256 in the mount", f"{mount_right} of {len(expected)}", mount_right == len(expected)),
    ("files equal by SHA-256 in bucket B", f"{bucket_right} of {len(expected)}", bucket_right == len(expected)),
    ("log lines, mount and bucket B", lines, log_in_mount and log_in_b),
    ("writes not yet in both buckets", records, records == 0),
]
print()
for what, value, good in rows:
    print(f"  {what:40} {value!s:>18}   {'ok' if good else 'NOT OK'}")
for failure in failures[:10]:
    print(" ", failure)
print()
sys.exit(0 if all(good for _, _, good in rows) else 1)
