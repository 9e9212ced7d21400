"""A real S3 server in this process (moto's), and the environment that leads to it."""

from __future__ import annotations

import os
import urllib.request
from contextlib import contextmanager

NAMES = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server(bucket="adapters"):
    """Run the server with one empty bucket; yields it. Clients that are made meanwhile find it."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = {name: os.environ.get(name) for name in (*NAMES, "AWS_ENDPOINT_URL")}
    os.environ.update({**NAMES, "AWS_ENDPOINT_URL": f"http://{host}:{port}"})
    try:
        put = urllib.request.Request(f"http://{host}:{port}/{bucket}", method="PUT")
        urllib.request.urlopen(put, timeout=30).close()
        yield server
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
