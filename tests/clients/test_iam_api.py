"""The IAM's interface of a running grid, as Terraform's AWS provider calls it: each resource is made,
read back, planned again without a difference, changed, and destroyed, by the provider's own
sequence of SDK calls.

Reads NEXUSGRID_S3 (the endpoint), AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (an administrator's
key). Makes identities of its own and removes them.
"""

import json
import os
import urllib.parse
import uuid

import boto3
import pytest
from botocore.exceptions import ClientError

NAME = f"tf-{uuid.uuid4().hex[:8]}"
TAGS = [{"Key": "team", "Value": "red"}, {"Key": "made-by", "Value": "terraform"}]


def service(name):
    return boto3.client(name, endpoint_url=os.environ["NEXUSGRID_S3"], region_name="us-east-1")


@pytest.fixture(scope="module")
def iam():
    return service("iam")


def document(*actions, effect="Allow"):
    statement = {"Effect": effect, "Action": list(actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def trust(who):
    statement = {"Effect": "Allow", "Principal": {"AWS": who}, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def tags(found):
    return {tag["Key"]: tag["Value"] for tag in found}


def gone(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["Error"]["Code"] == "NoSuchEntity"


def same(text, wanted):
    """Whether a document was read back as it was written; boto3 decodes some of them."""
    found = text if isinstance(text, dict) else json.loads(urllib.parse.unquote(text))
    assert found == json.loads(wanted)


def read_policy(iam, arn, wanted):
    """`aws_iam_policy` is read by two calls."""
    policy = iam.get_policy(PolicyArn=arn)["Policy"]
    version = iam.get_policy_version(PolicyArn=arn, VersionId=policy["DefaultVersionId"])
    same(version["PolicyVersion"]["Document"], wanted)
    assert version["PolicyVersion"]["IsDefaultVersion"]
    return policy


def test_a_policy(iam):
    gone(iam.get_policy, PolicyArn=f"arn:aws:iam::000000000001:policy/{NAME}")
    first = document("s3:GetObject")
    made = iam.create_policy(
        PolicyName=NAME, Path="/team/", PolicyDocument=first, Description="for tests", Tags=TAGS
    )["Policy"]
    arn = made["Arn"]
    policy = read_policy(iam, arn, first)
    assert (policy["Path"], policy["Description"]) == ("/team/", "for tests")
    assert tags(policy["Tags"]) == tags(TAGS) == tags(iam.list_policy_tags(PolicyArn=arn)["Tags"])
    # Seven changes: the oldest of five versions goes before another comes.
    for number in range(7):
        changed = document(f"s3:Get*{number}")
        versions = iam.list_policy_versions(PolicyArn=arn)["Versions"]
        if len(versions) >= 5:
            others = [version for version in versions if not version["IsDefaultVersion"]]
            oldest = min(others, key=lambda version: int(version["VersionId"][1:]))
            iam.delete_policy_version(PolicyArn=arn, VersionId=oldest["VersionId"])
        iam.create_policy_version(PolicyArn=arn, PolicyDocument=changed, SetAsDefault=True)
        read_policy(iam, arn, changed)
    iam.untag_policy(PolicyArn=arn, TagKeys=["team"])
    iam.tag_policy(PolicyArn=arn, Tags=[{"Key": "made-by", "Value": "opentofu"}])
    assert tags(iam.get_policy(PolicyArn=arn)["Policy"]["Tags"]) == {"made-by": "opentofu"}
    for version in iam.list_policy_versions(PolicyArn=arn)["Versions"]:
        if not version["IsDefaultVersion"]:
            iam.delete_policy_version(PolicyArn=arn, VersionId=version["VersionId"])
    iam.delete_policy(PolicyArn=arn)
    gone(iam.get_policy, PolicyArn=arn)


def test_a_role_with_policies(iam):
    account = service("sts").get_caller_identity()["Account"]
    first, other = trust(f"arn:aws:iam::{account}:root"), trust("*")
    policy = iam.create_policy(PolicyName=NAME, PolicyDocument=document("s3:*"))["Policy"]["Arn"]
    gone(iam.get_role, RoleName=NAME)
    made = iam.create_role(
        RoleName=NAME,
        Path="/team/",
        AssumeRolePolicyDocument=first,
        Description="nightly",
        MaxSessionDuration=7200,
        Tags=TAGS,
    )["Role"]

    def read():
        role = iam.get_role(RoleName=NAME)["Role"]
        inline = iam.list_role_policies(RoleName=NAME)["PolicyNames"]
        attached = iam.list_attached_role_policies(RoleName=NAME)["AttachedPolicies"]
        return role, inline, [one["PolicyArn"] for one in attached]

    role, inline, attached = read()
    assert (role["Arn"], role["RoleId"]) == (made["Arn"], made["RoleId"])
    same(role["AssumeRolePolicyDocument"], first)
    assert (role["Description"], role["MaxSessionDuration"]) == ("nightly", 7200)
    assert (tags(role["Tags"]), inline, attached) == (tags(TAGS), [], [])
    # aws_iam_role_policy, aws_iam_role_policy_attachment.
    mine = document("s3:ListBucket")
    iam.put_role_policy(RoleName=NAME, PolicyName="mine", PolicyDocument=mine)
    same(iam.get_role_policy(RoleName=NAME, PolicyName="mine")["PolicyDocument"], mine)
    iam.attach_role_policy(RoleName=NAME, PolicyArn=policy)
    iam.attach_role_policy(RoleName=NAME, PolicyArn=policy)
    assert read()[1:] == (["mine"], [policy])
    holders = iam.list_entities_for_policy(PolicyArn=policy)
    assert [one["RoleName"] for one in holders["PolicyRoles"]] == [NAME]
    assert iam.get_policy(PolicyArn=policy)["Policy"]["AttachmentCount"] == 1
    # Changes of the role.
    iam.update_assume_role_policy(RoleName=NAME, PolicyDocument=other)
    iam.update_role_description(RoleName=NAME, Description="")
    iam.update_role(RoleName=NAME, MaxSessionDuration=3600)
    iam.put_role_permissions_boundary(RoleName=NAME, PermissionsBoundary=policy)
    iam.untag_role(RoleName=NAME, TagKeys=["team"])
    iam.tag_role(RoleName=NAME, Tags=[{"Key": "made-by", "Value": "opentofu"}])
    role = read()[0]
    same(role["AssumeRolePolicyDocument"], other)
    assert role["MaxSessionDuration"] == 3600 and not role.get("Description")
    assert role["PermissionsBoundary"]["PermissionsBoundaryArn"] == policy
    assert tags(role["Tags"]) == {"made-by": "opentofu"}
    # Destroyed in the provider's order; what is still held is not let go.
    with pytest.raises(ClientError) as caught:
        iam.delete_role(RoleName=NAME)
    assert caught.value.response["Error"]["Code"] == "DeleteConflict"
    iam.delete_role_permissions_boundary(RoleName=NAME)
    iam.detach_role_policy(RoleName=NAME, PolicyArn=policy)
    gone(iam.detach_role_policy, RoleName=NAME, PolicyArn=policy)
    iam.delete_role_policy(RoleName=NAME, PolicyName="mine")
    gone(iam.get_role_policy, RoleName=NAME, PolicyName="mine")
    assert iam.list_instance_profiles_for_role(RoleName=NAME)["InstanceProfiles"] == []
    iam.delete_role(RoleName=NAME)
    gone(iam.get_role, RoleName=NAME)
    gone(iam.list_instance_profiles_for_role, RoleName=NAME)
    iam.delete_policy(PolicyArn=policy)


def test_a_user_in_a_group_with_a_key(iam):
    gone(iam.get_user, UserName=NAME)
    made = iam.create_user(UserName=NAME, Path="/", Tags=TAGS)["User"]
    assert iam.get_user(UserName=NAME)["User"]["UserId"] == made["UserId"]
    iam.create_group(GroupName=NAME)
    iam.add_user_to_group(GroupName=NAME, UserName=NAME)
    assert [user["UserName"] for user in iam.get_group(GroupName=NAME)["Users"]] == [NAME]
    iam.put_group_policy(GroupName=NAME, PolicyName="p", PolicyDocument=document("s3:List*"))
    key = iam.create_access_key(UserName=NAME)["AccessKey"]["AccessKeyId"]
    iam.update_access_key(UserName=NAME, AccessKeyId=key, Status="Inactive")
    listed = iam.list_access_keys(UserName=NAME)["AccessKeyMetadata"]
    assert [(one["AccessKeyId"], one["Status"]) for one in listed] == [(key, "Inactive")]
    iam.update_user(UserName=NAME, NewPath="/team/")
    iam.untag_user(UserName=NAME, TagKeys=["team", "made-by"])
    user = iam.get_user(UserName=NAME)["User"]
    assert user["Path"] == "/team/" and user["UserId"] == made["UserId"] and not user.get("Tags")
    # `force_destroy` looks for whatever a user may have.
    for group in iam.list_groups_for_user(UserName=NAME)["Groups"]:
        iam.remove_user_from_group(GroupName=group["GroupName"], UserName=NAME)
    for one in iam.list_access_keys(UserName=NAME)["AccessKeyMetadata"]:
        iam.delete_access_key(UserName=NAME, AccessKeyId=one["AccessKeyId"])
    assert iam.list_ssh_public_keys(UserName=NAME)["SSHPublicKeys"] == []
    assert iam.list_virtual_mfa_devices(AssignmentStatus="Assigned")["VirtualMFADevices"] == []
    assert iam.list_mfa_devices(UserName=NAME)["MFADevices"] == []
    gone(iam.delete_login_profile, UserName=NAME)
    assert iam.list_signing_certificates(UserName=NAME)["Certificates"] == []
    found = iam.list_service_specific_credentials(UserName=NAME)
    assert found["ServiceSpecificCredentials"] == []
    assert iam.list_user_policies(UserName=NAME)["PolicyNames"] == []
    assert iam.list_attached_user_policies(UserName=NAME)["AttachedPolicies"] == []
    iam.delete_user(UserName=NAME)
    gone(iam.get_user, UserName=NAME)
    iam.delete_group_policy(GroupName=NAME, PolicyName="p")
    iam.delete_group(GroupName=NAME)


def test_a_provider(iam):
    made = iam.create_open_id_connect_provider(
        Url=f"https://{NAME}.example.com", ClientIDList=["a"], ThumbprintList=["0" * 40], Tags=TAGS
    )
    arn = made["OpenIDConnectProviderArn"]
    iam.add_client_id_to_open_id_connect_provider(OpenIDConnectProviderArn=arn, ClientID="b")
    iam.remove_client_id_from_open_id_connect_provider(OpenIDConnectProviderArn=arn, ClientID="a")
    iam.untag_open_id_connect_provider(OpenIDConnectProviderArn=arn, TagKeys=["team"])
    found = iam.get_open_id_connect_provider(OpenIDConnectProviderArn=arn)
    assert (found["Url"], found["ClientIDList"]) == (f"{NAME}.example.com", ["b"])
    listed = iam.list_open_id_connect_provider_tags(OpenIDConnectProviderArn=arn)["Tags"]
    assert tags(found["Tags"]) == tags(listed) == {"made-by": "terraform"}
    iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=arn)
    gone(iam.get_open_id_connect_provider, OpenIDConnectProviderArn=arn)
