"""What a program with the official SDK does, on the emulator. Arguments: host:port of region A, of region B."""
import logging
import os
import sys
import tempfile
import time

import requests
from qcloud_cos import CosConfig, CosS3Client, CosServiceError

logging.getLogger("qcloud_cos").setLevel(logging.CRITICAL)
ID, KEY = "AKIDEXAMPLE0000000000000000000000001", "exampleSecretKey0000000000000001"
A, B = "master-1250000000", "slave-1250000000"


def client(address, region, key=KEY, **more):
    ip, port = address.split(":")
    where = more or {"IP": ip, "Port": int(port)}
    return CosS3Client(CosConfig(Region=region, SecretId=ID, SecretKey=key, Scheme="http", **where), retry=0)


a = client(sys.argv[1], "ap-guangzhou")
b = client(sys.argv[2], "ap-shanghai")


def body(answer):
    return answer["Body"].get_raw_stream().read()


def refused(call, status, code):
    try:
        call()
    except CosServiceError as error:
        assert error.get_status_code() == status, error
        assert code is None or error.get_error_code() == code, error
    else:
        raise AssertionError(f"expected {status} {code}")


# Write and read, with awkward names and metadata.
for key in ["plain", "dir/a b+c~é(1).txt", "目录/文件", "q?x=1&y#z"]:
    put = a.put_object(Bucket=A, Key=key, Body=b"hello " + key.encode(), Metadata={"x-cos-meta-mode": "33188"}, EnableMD5=True)
    got = a.get_object(Bucket=A, Key=key)
    assert body(got) == b"hello " + key.encode()
    assert got["ETag"] == put["ETag"] and got["x-cos-meta-mode"] == "33188"
    assert a.head_object(Bucket=A, Key=key)["Content-Length"] == str(6 + len(key.encode()))
assert body(a.get_object(Bucket=A, Key="plain", Range="bytes=6-8")) == b"pla"
refused(lambda: a.get_object(Bucket=A, Key="missing"), 404, "NoSuchKey")
assert not a.object_exists(Bucket=A, Key="missing") and a.bucket_exists(Bucket=A)

# The same through a domain and through a proxy.
domain = client(sys.argv[1], "ap-guangzhou", Domain=sys.argv[1])
assert body(domain.get_object(Bucket=A, Key="plain")) == b"hello plain"
proxy = client(sys.argv[1], "ap-guangzhou", Proxies={"http": "http://" + sys.argv[1]})
assert body(proxy.get_object(Bucket=A, Key="plain")) == b"hello plain"

# List.
listed = a.list_objects(Bucket=A, Delimiter="/", EncodingType="url")
assert [p["Prefix"] for p in listed["CommonPrefixes"]] == ["dir/", "%E7%9B%AE%E5%BD%95/"], listed
first = a.list_objects(Bucket=A, MaxKeys=1)
assert first["IsTruncated"] == "true"
assert a.list_objects(Bucket=A, Marker=first["NextMarker"], MaxKeys=1)["Contents"][0]["Key"] == "plain"

# Copy, within a region and across.
source = {"Bucket": A, "Key": "dir/a b+c~é(1).txt", "Region": "ap-guangzhou"}
assert a.copy_object(Bucket=A, Key="copy", CopySource=source)["ETag"]
assert b.copy_object(Bucket=B, Key="copied-over", CopySource=source)["ETag"]
assert body(b.get_object(Bucket=B, Key="copied-over")).startswith(b"hello dir")

# Multipart by hand, with a part copy; then the SDK's own upload and download.
upload = a.create_multipart_upload(Bucket=A, Key="multi")["UploadId"]
part = a.upload_part(Bucket=A, Key="multi", UploadId=upload, PartNumber=1, Body=b"p" * (1 << 20), EnableMD5=True)
parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
copied = a.upload_part_copy(Bucket=A, Key="multi", UploadId=upload, PartNumber=2, CopySource=source)
parts.append({"PartNumber": 2, "ETag": copied["ETag"]})
assert len(a.list_parts(Bucket=A, Key="multi", UploadId=upload)["Part"]) == 2
done = a.complete_multipart_upload(Bucket=A, Key="multi", UploadId=upload, MultipartUpload={"Part": parts})
assert done["ETag"].strip('"').endswith("-2"), done
assert body(a.get_object(Bucket=A, Key="multi")).startswith(b"p" * (1 << 20) + b"hello dir")
left = a.create_multipart_upload(Bucket=A, Key="left")["UploadId"]
assert [u["UploadId"] for u in a.list_multipart_uploads(Bucket=A)["Upload"]] == [left]
a.abort_multipart_upload(Bucket=A, Key="left", UploadId=left)
refused(lambda: a.list_parts(Bucket=A, Key="left", UploadId=left), 404, "NoSuchUpload")

# The SDK's own way with large files: parts in parallel, checked by CRC, and back in ranges.
with tempfile.TemporaryDirectory() as folder:
    large = bytes(n * 31 >> 3 & 255 for n in range(5_500_000))
    here, back = os.path.join(folder, "here"), os.path.join(folder, "back")
    with open(here, "wb") as file:
        file.write(large)
    done = a.upload_file(Bucket=A, Key="large", LocalFilePath=here, PartSize=1, MAXThread=4, EnableMD5=True)
    assert done["ETag"].strip('"').endswith("-6"), done
    a.download_file(Bucket=A, Key="large", DestFilePath=back, PartSize=1, MAXThread=4, EnableCRC=True)
    with open(back, "rb") as file:
        assert file.read() == large
    # A copy of more than a part, by the SDK in parts.
    proxy.copy(Bucket=A, Key="large-copy", CopySource={"Bucket": A, "Key": "large", "Region": "ap-guangzhou"}, PartSize=1)
    assert a.head_object(Bucket=A, Key="large-copy")["x-cos-hash-crc64ecma"] == a.head_object(Bucket=A, Key="large")["x-cos-hash-crc64ecma"]
refused(lambda: a.upload_part(Bucket=A, Key="multi", UploadId=upload, PartNumber=1, Body=b"late"), 404, "NoSuchUpload")

# Versions.
v1 = a.put_object(Bucket=A, Key="v", Body=b"one")["x-cos-version-id"]
a.put_object(Bucket=A, Key="v", Body=b"two")
a.delete_object(Bucket=A, Key="v")
refused(lambda: a.get_object(Bucket=A, Key="v"), 404, "NoSuchKey")
assert body(a.get_object(Bucket=A, Key="v", VersionId=v1)) == b"one"
versions = a.list_objects_versions(Bucket=A, Prefix="v")
assert len(versions["Version"]) == 2 and versions["DeleteMarker"][0]["IsLatest"] == "true"
a.delete_object(Bucket=A, Key="v", VersionId=versions["DeleteMarker"][0]["VersionId"])
assert body(a.get_object(Bucket=A, Key="v")) == b"two"

# Delete many.
a.put_object(Bucket=A, Key="x & <y>", Body=b"")
gone = a.delete_objects(Bucket=A, Delete={"Object": [{"Key": "x & <y>"}, {"Key": "copy"}], "Quiet": "false"})
assert len(gone["Deleted"]) == 2, gone
assert not a.object_exists(Bucket=A, Key="copy")

# Configurations.
assert a.get_bucket_versioning(Bucket=A)["Status"] == "Enabled"
rules = a.get_bucket_replication(Bucket=A)
assert rules["Rule"][0]["Destination"]["Bucket"].endswith("::" + B)
a.delete_bucket_replication(Bucket=A)
refused(lambda: a.get_bucket_replication(Bucket=A), 404, "ReplicationConfigurationNotFoundError")
rule = {"ID": "again", "Status": "Enabled", "Prefix": "", "Destination": {"Bucket": f"qcs::cos:ap-shanghai::{B}"}}
a.put_bucket_replication(Bucket=A, ReplicationConfiguration={"Role": rules["Role"], "Rule": [rule]})
assert a.get_bucket_replication(Bucket=A)["Rule"][0]["ID"] == "again"

rules_before = {"Rule": [{"ID": "gc", "Status": "Enabled", "Filter": {"Prefix": ""}, "NoncurrentVersionExpiration": {"NoncurrentDays": 7}}]}
a.put_bucket_lifecycle(Bucket=A, LifecycleConfiguration=rules_before)
assert a.get_bucket_lifecycle(Bucket=A)["Rule"][0]["ID"] == "gc"
a.delete_bucket_lifecycle(Bucket=A)
refused(lambda: a.get_bucket_lifecycle(Bucket=A), 404, "NoSuchLifecycleConfiguration")
domain = {"DomainRule": [{"Name": "files.example.com", "Type": "REST", "Status": "ENABLED"}]}
a.put_bucket_domain(Bucket=A, DomainConfiguration=domain)
assert a.get_bucket_domain(Bucket=A)["DomainRule"][0]["Name"] == "files.example.com"
a.delete_bucket_domain(Bucket=A)

# Versioning: refused while there are rules, then suspended and on again.
refused(lambda: a.put_bucket_versioning(Bucket=A, Status="Suspended"), 409, "InvalidBucketState")
a.delete_bucket_replication(Bucket=A)
a.put_bucket_versioning(Bucket=A, Status="Suspended")
assert a.get_bucket_versioning(Bucket=A)["Status"] == "Suspended"
assert "x-cos-version-id" not in a.put_object(Bucket=A, Key="null", Body=b"1")
assert a.list_objects_versions(Bucket=A, Prefix="null")["Version"][0]["VersionId"] == "null"
a.put_bucket_versioning(Bucket=A, Status="Enabled")
assert "x-cos-version-id" in a.put_object(Bucket=A, Key="null", Body=b"2")
a.put_bucket_replication(Bucket=A, ReplicationConfiguration={"Role": rules["Role"], "Rule": [rule]})

# Appending, tags, access lists, archive.
first = a.append_object(Bucket=A, Key="log", Position=0, Data=b"one")
assert first["x-cos-next-append-position"] == "3", first
a.append_object(Bucket=A, Key="log", Position=3, Data=b"two")
refused(lambda: a.append_object(Bucket=A, Key="log", Position=3, Data=b"x"), 409, "AppendPositionErr")
assert body(a.get_object(Bucket=A, Key="log")) == b"onetwo"
a.put_object_tagging(Bucket=A, Key="plain", Tagging={"TagSet": {"Tag": [{"Key": "a", "Value": "1 é"}]}})
assert a.get_object_tagging(Bucket=A, Key="plain")["TagSet"]["Tag"] == [{"Key": "a", "Value": "1 é"}]
a.delete_object_tagging(Bucket=A, Key="plain")
anonymous = "http://" + sys.argv[1] + "/plain"
assert requests.get(anonymous).status_code == 403
a.put_object_acl(Bucket=A, Key="plain", ACL="public-read")
assert requests.get(anonymous).content == b"hello plain"
a.put_object_acl(Bucket=A, Key="plain", ACL="private")
a.put_object(Bucket=A, Key="cold", Body=b"cold", StorageClass="ARCHIVE")
refused(lambda: a.get_object(Bucket=A, Key="cold"), 403, "InvalidObjectState")
a.restore_object(Bucket=A, Key="cold", RestoreRequest={"Days": 1, "CASJobParameters": {"Tier": "Expedited"}})
assert a.head_object(Bucket=A, Key="cold")["x-cos-restore"] == 'ongoing-request="true"'

# Presigned URLs: to write, with a parameter that is signed, of a version; and what they are not good for.
url = a.get_presigned_url(Method="PUT", Bucket=A, Key="by url", Expired=60)
assert requests.put(url, data=b"by url").status_code == 200
assert requests.get(url).status_code == 403
named = {"response-content-type": "text/x"}
answer = requests.get(a.get_presigned_url(Method="GET", Bucket=A, Key="by url", Params=named, Expired=60))
assert (answer.content, answer.headers["Content-Type"]) == (b"by url", "text/x")
answer = requests.get(a.get_presigned_url(Method="GET", Bucket=A, Key="v", Params={"versionId": v1}, Expired=60))
assert answer.content == b"one", answer.text
assert requests.get(a.get_presigned_url(Method="GET", Bucket=A, Key="by url", Expired=-100)).status_code == 403

# A presigned URL, and replication to the other region.
url = a.get_presigned_url(Method="GET", Bucket=A, Key="plain", Expired=60)
plain = requests.get(url)
assert plain.content == b"hello plain", plain.text
put = a.put_object(Bucket=A, Key="over", Body=b"there")
for _ in range(1000):
    if b.object_exists(Bucket=B, Key="over"):
        break
    time.sleep(0.01)
assert b.head_object(Bucket=B, Key="over")["x-cos-version-id"] == put["x-cos-version-id"]

# A wrong key.
wrong = client(sys.argv[1], "ap-guangzhou", key="wrong")
refused(lambda: wrong.get_object(Bucket=A, Key="plain"), 403, "SignatureDoesNotMatch")
refused(lambda: wrong.put_object(Bucket=A, Key="plain", Body=b"no"), 403, "SignatureDoesNotMatch")
assert body(a.get_object(Bucket=A, Key="plain")) == b"hello plain"
print("all steps done")
