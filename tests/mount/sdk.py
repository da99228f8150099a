"""Are both buckets what this folder holds? Arguments: the folder, host:port of region A, of region B."""
import logging
import os
import sys

from qcloud_cos import CosConfig, CosS3Client

logging.getLogger("qcloud_cos").setLevel(logging.CRITICAL)
ID, KEY = "AKIDEXAMPLE0000000000000000000000001", "exampleSecretKey0000000000000001"

folder, *addresses = sys.argv[1:]
expected = {}
for where, _, names in os.walk(folder):
    for name in names:
        path = os.path.join(where, name)
        expected[os.path.relpath(path, folder)] = open(path, "rb").read()

wrong = []
for address, region, bucket in zip(addresses, ["ap-guangzhou", "ap-shanghai"], ["master-1250000000", "slave-1250000000"]):
    ip, port = address.split(":")
    client = CosS3Client(CosConfig(Region=region, SecretId=ID, SecretKey=KEY, Scheme="http", IP=ip, Port=int(port)), retry=0)
    found, marker = set(), ""
    while True:
        page = client.list_objects(Bucket=bucket, Marker=marker, MaxKeys=50)
        found |= {entry["Key"] for entry in page.get("Contents", []) if not entry["Key"].endswith("/")}
        if page["IsTruncated"] != "true":
            break
        marker = page["NextMarker"]
    wrong += [f"{bucket}: {key} is missing" for key in expected.keys() - found]
    wrong += [f"{bucket}: {key} is not in the mount" for key in found - expected.keys()]
    for key in sorted(expected.keys() & found):
        if client.get_object(Bucket=bucket, Key=key)["Body"].get_raw_stream().read() != expected[key]:
            wrong.append(f"{bucket}: {key} has other bytes")

assert expected and not wrong, wrong
print(f"2 buckets agree with {len(expected)} files")
