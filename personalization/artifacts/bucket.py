"""One folder of a bucket of an S3-compatible object store; only whole objects, and creation that never overwrites."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from personalization.errors import ArtifactStoreAwayError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONNECT_SECONDS = 5
READ_SECONDS = 60


class Bucket:
    """Objects by key under one prefix; the credentials and the endpoint are those of the environment (``AWS_…``).

    Args:
        address: ``s3://bucket/prefix``.

    Raises:
        ArtifactStoreAwayError: the package for it is not installed.
    """

    def __init__(self, address: str) -> None:
        try:
            import botocore.exceptions  # noqa: PLC0415  # an extra, and half a second to import
            import s3fs  # noqa: PLC0415  # as above
        except ImportError:
            raise ArtifactStoreAwayError(
                "an artifact store at s3:// needs the package s3fs; install discreet[s3]"
            ) from None
        self.address = address.rstrip("/")
        self._root = self.address.removeprefix("s3://")
        self._failures = (OSError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
        self._files: Any = s3fs.S3FileSystem(
            use_listings_cache=False,
            skip_instance_cache=True,
            config_kwargs={
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
                "retries": {"max_attempts": 2},
            },
        )

    def create(self, key: str, data: bytes) -> bool:
        """Write a new object; return False where there is one already, which stays as it is."""
        try:
            with self._told(FileExistsError):
                self._files.pipe_file(self._path(key), data, mode="create")
        except FileExistsError:
            return False
        return True

    def write(self, key: str, data: bytes) -> None:
        """Write an object, over one that is there."""
        with self._told():
            self._files.pipe_file(self._path(key), data)

    def read(self, key: str, limit: int | None = None) -> bytes:
        """Return an object's bytes, or the first so many of them.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._told(FileNotFoundError):
            content: bytes = self._files.cat_file(self._path(key), end=limit)
        return content

    def written(self, prefix: str) -> dict[str, float]:
        """Return when each object under ``prefix`` was written, unix seconds by key."""
        with self._told():
            found = self._files.find(self._path(prefix), detail=True)
        return {
            path.removeprefix(f"{self._root}/"): entry["LastModified"].timestamp()
            for path, entry in found.items()
        }

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects one after the other, in this order; one that is not there is no error."""
        for key in keys:
            with suppress(FileNotFoundError), self._told(FileNotFoundError):
                self._files.rm_file(self._path(key))

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextmanager
    def _told(self, answer: type[OSError] | None = None) -> Iterator[None]:
        """Tell every failure as the store's, but ``answer``, which says something about the object."""
        try:
            yield
        except self._failures as error:
            if answer is not None and isinstance(error, answer):
                raise
            raise ArtifactStoreAwayError(
                f"the artifact store at {self.address} does not answer or refuses ({type(error).__name__}); "
                "nothing was lost"
            ) from error
