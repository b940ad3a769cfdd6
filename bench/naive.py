"""What people write first, and the fastest that the storage takes: the two baselines of the system around a model."""

import io
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from typing import Any
from uuid import uuid4

import boto3
from botocore.config import Config
from PIL import Image

from bench.photos import PHOTOS, photo
from shared.settings import Settings

THREADS = 4


class Bucket:
    """A bare boto3 client with its defaults, but for the checksums, which would only cost it time."""

    def __init__(self, settings: Settings):
        self.name = settings.s3_bucket
        config = Config(request_checksum_calculation="when_required", response_checksum_validation="when_required")
        self.client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=settings.s3_endpoint,
            region_name=settings.s3_region,
            aws_access_key_id=settings.s3_access_key.get_secret_value(),
            aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
            config=config,
        )
        self._written: list[str] = []
        self._pictures = [photo(number) for number in range(PHOTOS)]

    def puts_per_s(self, bodies: Sequence[bytes], count: int) -> float:
        """The bodies over and over, from a few threads at once."""
        with ThreadPoolExecutor(THREADS) as pool:
            start = time.perf_counter()
            for _ in pool.map(self._put, islice(cycle(bodies), count)):
                pass
            return count / (time.perf_counter() - start)

    def loop_per_s(self, count: int) -> float:
        """Batch 1, PNG as PIL writes it by default, one put, and the next."""
        start = time.perf_counter()
        for number in range(count):
            file = io.BytesIO()
            Image.fromarray(self._pictures[number % PHOTOS]).save(file, "PNG")
            self._put(file.getvalue())
        return count / (time.perf_counter() - start)

    def empty(self) -> None:
        """Remove what was put."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda key: self.client.delete_object(Bucket=self.name, Key=key), self._written))
        self._written.clear()

    def _put(self, body: bytes) -> None:
        key = f"bench/{uuid4().hex}.png"
        self.client.put_object(Bucket=self.name, Key=key, Body=body, ContentType="image/png")
        self._written.append(key)
