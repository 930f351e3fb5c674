"""`python -m stability [--renew]`: names what openapi.yaml breaks for the clients of the last release.

Exit code 0: nothing, or only what allowed.toml allows. 1: something. 2: it could not be found out.
"""

from __future__ import annotations

import argparse
import sys

from stability import allowed, baseline, changes
from stability.contract import ContractError

EMPTY = "# Breaking changes since the baseline that are meant, each with its reason: see allowed.py.\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m stability", description=__doc__)
    parser.add_argument("--renew", action="store_true", help="make today's contract the baseline, for a release")
    if parser.parse_args().renew:
        return renew()
    tag = baseline.last_tag()
    print(f"baseline: {tag}" if tag else "baseline: stability/baseline.yaml (this clone has no version tag)")
    try:
        found = changes.breaking(baseline.BASELINE, baseline.CONTRACT)
        refused, unused = allowed.sift(found, allowed.read())
    except (changes.OasdiffMissingError, ContractError, ValueError) as exc:
        print(exc, file=sys.stderr)
        return 2
    mistakes = [f"breaking: {change}" for change in refused]
    mistakes += [f"allowed.toml allows what has not changed: {entry.text} [{entry.rule}]" for entry in unused]
    mistakes += [each for each in [baseline.fault()] if each]
    print("\n".join(mistakes) or f"no breaking change, {len(found)} allowed")
    return 1 if mistakes else 0


def renew() -> int:
    version = baseline.renew()
    allowed.FILE.write_text(EMPTY)
    print(f"stability/baseline.yaml is the contract of version {version} now. Commit it, then tag that commit:")
    print(f"git tag -a v{version} -m 'kestrel-gateway {version}'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
