"""The bucket of tests that need one, in an AWS in memory."""

import boto3
from botocore.config import Config

from sluice.storage import Storage

BUCKET = "sluice-test"


def make_bucket() -> Storage:
    """Make the bucket, with versions as the template's has them."""
    client = boto3.client("s3", config=Config(signature_version="s3v4"))
    client.create_bucket(Bucket=BUCKET)
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    return Storage(client, BUCKET)
