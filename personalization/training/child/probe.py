"""Ask torch, in a process of its own, which GPU it would use."""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection


def main(connection: Connection) -> None:
    """Send the name and capability of the GPU that torch would use over ``connection``, empty where there is none."""
    import torch  # noqa: PLC0415  only this process loads it

    name = ""
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        name = f"{torch.cuda.get_device_name()} {major}.{minor}"
    connection.send_bytes(name.encode())
    connection.close()


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
