"""`s3://bucket/prefix`: objects of S3 or what speaks its protocol (AWS_ENDPOINT_URL), with AWS's usual credential chain."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from urllib3.exceptions import HTTPError

from transcriber_repository.disk import CHUNK_BYTES
from transcriber_repository.errors import Reason, RepositoryError, SourceInterruptedError
from transcriber_repository.request import Source
from transcriber_repository.sources.remote import RemoteFile, refuse, required_files

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

DENIED: Final = ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
RANGE_PAST_END: Final = ("416", "InvalidRange")
CONFIG: Final = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 3})


def list_bucket(field_path: str, source: Source, credentials: Mapping[str, str]) -> list[RemoteFile]:
    """List `s3://bucket/prefix`; `credentials` may hold accessKeyId and secretAccessKey. Raises RepositoryError."""
    parts = urlsplit(source.uri)
    if not parts.netloc or parts.query or parts.fragment:
        raise refuse(f"{field_path}.uri", f"{source.uri!r} is not of the form s3://bucket/prefix")
    prefix = parts.path.strip("/")
    client = boto3.client(
        "s3",
        aws_access_key_id=credentials.get("accessKeyId"),
        aws_secret_access_key=credentials.get("secretAccessKey"),
        config=CONFIG,
    )
    return [
        _file(client, field_path, parts.netloc, f"{prefix}/{path}" if prefix else path, path, sha256)
        for path, sha256 in required_files(field_path, source).items()
    ]


def _file(client: "S3Client", field_path: str, bucket: str, key: str, path: str, sha256: str) -> RemoteFile:
    subject = f"{field_path}.files {path!r}"
    try:
        size = client.head_object(Bucket=bucket, Key=key)["ContentLength"]
    except NoCredentialsError:
        raise refuse(subject, "no AWS credentials: name a credentialsSecret, or give the build's ServiceAccount a role") from None
    except ClientError as error:
        if error.response["Error"]["Code"] in DENIED:
            raise refuse(subject, f"may not be read in s3://{bucket}/{key}: allow s3:GetObject to these credentials") from None
        raise RepositoryError(Reason.SOURCE_UNAVAILABLE, subject, f"s3://{bucket}/{key}: {error}") from None
    except BotoCoreError as error:
        raise RepositoryError(Reason.SOURCE_UNAVAILABLE, subject, str(error)) from None

    def read_from(offset: int) -> Iterator[bytes]:
        try:
            yield from client.get_object(Bucket=bucket, Key=key, Range=f"bytes={offset}-")["Body"].iter_chunks(CHUNK_BYTES)
        except ClientError as error:
            if error.response["Error"]["Code"] not in RANGE_PAST_END:
                raise SourceInterruptedError(str(error)) from error
        except (BotoCoreError, HTTPError) as error:
            raise SourceInterruptedError(str(error)) from error

    return RemoteFile(path, read_from, size, sha256)
