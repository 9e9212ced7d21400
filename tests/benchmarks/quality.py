"""The quality benchmark as a script; all of it is ``discreet bench quality`` with the same options.

python tests/benchmarks/quality.py --data DIR --tenant kafka --holdout-tenants tldr --json quality.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from streams.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", "quality", *sys.argv[1:]]))
