"""One program of the fault matrix: works in a folder of its own, checks every byte it reads, notes how long each operation took.

Arguments: number, seed, root of the mount, file whose appearance ends the work. Prints one JSON object.
"""

import hashlib
import json
import os
import random
import sys
import time

me, seed, root, stop = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
rng = random.Random(seed * 1000 + me)
home = os.path.join(root, f"w{me}")
steps, wrong, mine, gone = [], [], {}, []
cold, count = [], 0


def content(name, size):
    """What the cold files hold: the same on the other side of the matrix (`cold_bytes`)."""
    block = hashlib.sha256(name.encode()).digest()
    return (block * (size // len(block) + 1))[:size]


def step(what, work):
    began = time.time()
    error, result = None, None
    try:
        result = work()
    except OSError as failure:
        error = f"{failure.strerror} ({failure.filename})"
    steps.append([what, began, time.time() - began, error])
    return result, error is None


def put(path, data, mode="wb"):
    with open(path, mode) as file:
        file.write(data)


def get(path):
    with open(path, "rb") as file:
        return file.read()


def check(what, name, found, expected):
    if found != expected:
        wrong.append(f"{what} {name}: {len(found)} bytes, {len(expected)} expected, first difference at "
                     f"{next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), 'the end')}")


def fresh():
    global count
    count += 1
    return f"f{count}"


def write():
    name, data = fresh(), rng.randbytes(rng.randrange(1, 20000))
    if step("write", lambda: put(os.path.join(home, name), data))[1]:
        mine[name] = data


def replace():
    name, data = rng.choice(sorted(mine)), rng.randbytes(rng.randrange(1, 20000))
    if step("write", lambda: put(os.path.join(home, name), data))[1]:
        mine[name] = data
    else:
        del mine[name]


def append():
    name = rng.choice(sorted(mine))
    if step("append", lambda: put(os.path.join(home, name), b"more", "ab"))[1]:
        mine[name] += b"more"
    else:
        del mine[name]


def rename():
    old, new = rng.choice(sorted(mine)), fresh()
    data = mine.pop(old)
    if step("rename", lambda: os.rename(os.path.join(home, old), os.path.join(home, new)))[1]:
        mine[new] = data
        gone.append(old)


def unlink():
    name = rng.choice(sorted(mine))
    del mine[name]
    if step("unlink", lambda: os.unlink(os.path.join(home, name)))[1]:
        gone.append(name)


def read_warm():
    name = rng.choice(sorted(mine))
    found, fine = step("read warm", lambda: get(os.path.join(home, name)))
    if fine:
        check("read warm", name, found, mine[name])


def read_cold():
    if not cold:
        return
    name = cold.pop()
    found, fine = step("read cold", lambda: get(os.path.join(root, "cold", name)))
    if fine:
        check("read cold", name, found, content(name, 4096 + me))


def look():
    name = rng.choice(sorted(mine))
    found, fine = step("stat", lambda: os.stat(os.path.join(home, name)).st_size)
    if fine and found != len(mine[name]):
        wrong.append(f"stat {name}: {found}, {len(mine[name])} expected")
    if gone and rng.random() < 0.3 and os.path.exists(os.path.join(home, gone[-1])):
        wrong.append(f"{gone[-1]} came back")


def listing():
    found, fine = step("list", lambda: set(os.listdir(home)))
    if fine and found != set(mine):
        missing, extra = sorted(set(mine) - found), sorted(found - set(mine) - {"big"})
        if missing or extra:
            wrong.append(f"list: {missing} missing, {extra} too many")


def large():
    """Sixteen MiB out and back, in pieces, by one program; the others have no time for it."""
    path, piece = os.path.join(home, "big"), rng.randbytes(1 << 20)

    def out():
        with open(path, "wb") as file:
            for n in range(16):
                file.write(bytes([n]) + piece[1:])

    if step("large write", out)[1]:
        found, fine = step("large read", lambda: get(path))
        if fine:
            check("large read", "big", found, b"".join(bytes([n]) + piece[1:] for n in range(16)))
        step("large unlink", lambda: os.unlink(path))


os.mkdir(home)
cold = sorted(os.listdir(os.path.join(root, "cold")))
cold = [name for name in cold if int(name[1:]) % 8 == me]
rng.shuffle(cold)
for _ in range(5):
    write()
plan = [(write, 5), (replace, 3), (append, 3), (rename, 2), (unlink, 2), (read_warm, 6), (read_cold, 6), (look, 4), (listing, 2)]
if me == 0:
    plan.append((large, 1))
works, weights = [work for work, _ in plan], [weight for _, weight in plan]
while not os.path.exists(stop):
    if len(mine) < 5:
        write()
    rng.choices(works, weights)[0]()
    time.sleep(rng.uniform(0.01, 0.09))
print(json.dumps({"steps": steps, "wrong": wrong,
                  "files": {name: hashlib.sha256(data).hexdigest() for name, data in mine.items()}}))
