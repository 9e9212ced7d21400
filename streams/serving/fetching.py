"""How a serving process reads artifacts that lie elsewhere: the addresses that the client itself does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.artifacts.bucket import Bucket
from personalization.errors import ArtifactStoreAwayError

if TYPE_CHECKING:
    from collections.abc import Callable


class BucketFetcher:
    """Reads ``s3://`` addresses; connects when it is first asked, with the credentials of the environment."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def __call__(self, uri: str, limit_bytes: int) -> bytes:
        """Return at most so many bytes of an object.

        Raises:
            OSError: it is not there, or the store does not answer.
        """
        folder, _, name = uri.rpartition("/")
        bucket_name = folder.removeprefix("s3://").partition("/")[0]
        try:
            bucket = self._buckets.setdefault(bucket_name, Bucket(f"s3://{bucket_name}"))
            return bucket.read(
                f"{folder.removeprefix(f's3://{bucket_name}').lstrip('/')}/{name}", limit_bytes
            )
        except ArtifactStoreAwayError as error:
            raise OSError(str(error)) from error


def fetchers() -> dict[str, Callable[[str, int], bytes]]:
    """Return what reads each kind of address beside the client's own."""
    return {"s3": BucketFetcher()}
