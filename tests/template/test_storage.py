"""The bucket: nobody but the functions gets at it, and what is deleted by mistake can be brought back."""

from typing import Any, cast

from tests.template.stack import Stack


def bucket(stack: Stack) -> dict[str, Any]:
    return cast("dict[str, Any]", stack.resources["Bucket"]["Properties"])


def test_it_is_private_and_encrypted(stack: Stack) -> None:
    properties = bucket(stack)
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(properties["PublicAccessBlockConfiguration"]) == 4
    (encryption,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert encryption["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    assert properties["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}


def test_it_refuses_plain_http(stack: Stack) -> None:
    (statement,) = stack.resources["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Resource"] == [{"Fn::GetAtt": ["Bucket", "Arn"]}, {"Fn::Sub": "${Bucket.Arn}/*"}]
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_it_outlives_the_stack_and_keeps_versions_for_a_while(stack: Stack) -> None:
    assert stack.resources["Bucket"]["DeletionPolicy"] == "Retain"
    assert stack.resources["Bucket"]["UpdateReplacePolicy"] == "Retain"
    properties = bucket(stack)
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    rules = {rule["Id"]: rule for rule in properties["LifecycleConfiguration"]["Rules"]}
    assert rules["LeftOvers"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 7}
    # What a row names is deleted by the sweep only, never by its age.
    assert not [rule for rule in rules.values() if "ExpirationInDays" in rule or "ExpirationDate" in rule]


def test_a_worker_s_disk_holds_what_ten_requests_may_need(stack: Stack, processed: dict[str, Any]) -> None:
    most, disk = (processed["Parameters"][name]["Default"] for name in ("MaxStoredBytes", "WorkerDisk"))
    # Of an image both the answer, in base64, and the image.
    assert int(most) * 10 * (4 / 3 + 1) <= int(disk) * 2**20
    for name in ("WorkerFunction", "ForegroundFunction"):
        assert stack.resources[name]["Properties"]["EphemeralStorage"] == {"Size": {"Ref": "WorkerDisk"}}
