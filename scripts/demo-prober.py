"""Times single file operations on a mount until a stop file appears.

python3 demo-prober.py DIRECTORY STOP_FILE RESULT_FILE
Writes {"longest": {operation: seconds}, "stalls": [...], "count": n, "failures": [...]} as JSON.
"""

import json
import os
import sys
import time

directory, stop, result = sys.argv[1:]
os.makedirs(directory, exist_ok=True)
longest, stalls, failures, count = {}, [], [], 0


def timed(name, work):
    global count
    began = time.time()
    try:
        work()
    except OSError as error:
        failures.append(f"{name}: {error}")
    took = time.time() - began
    count += 1
    longest[name] = max(longest.get(name, 0), took)
    if took > 1:
        stalls.append({"operation": name, "at": began, "seconds": took})


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def read(path, data):
    with open(path, "rb") as file:
        found = file.read()
    if found != data:
        failures.append(f"read {path}: {len(found)} bytes, not what was written")


turn = 0
while not os.path.exists(stop):
    path = f"{directory}/{turn % 20}"
    data = f"turn {turn} ".encode() * 500
    timed("write", lambda: write(path, data))
    timed("read", lambda: read(path, data))
    timed("stat", lambda: os.stat(path))
    timed("list", lambda: os.listdir(directory))
    timed("rename", lambda: os.rename(path, path + ".moved"))
    timed("delete", lambda: os.unlink(path + ".moved"))
    turn += 1
    time.sleep(0.02)
with open(result, "w") as file:
    json.dump({"longest": longest, "stalls": stalls, "count": count, "failures": failures}, file)
