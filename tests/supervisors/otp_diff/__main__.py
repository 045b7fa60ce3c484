"""`python -m tests.supervisors.otp_diff --seed S --scenarios N`: our engine against OTP's supervisor."""

from __future__ import annotations

import argparse
import sys

from tests.supervisors.otp_diff.diff import NOT_COVERED, compare, explain, has_erlang

BATCH = 500


def main() -> int:
    """0 = no difference (or NOT COVERED), 1 = at least one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenarios", type=int, default=2000)
    options = parser.parse_args()
    if not has_erlang():
        print(NOT_COVERED)
        return 0
    found = 0
    for first in range(0, options.scenarios, BATCH):
        count = min(BATCH, options.scenarios - first)
        for difference in compare(options.seed, count, first=first):
            found += 1
            print(explain(*difference))
        print(f"seed {options.seed}: {first + count} scenarios, {found} differences", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
