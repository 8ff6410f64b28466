"""Hold what a suite skipped against the list that is committed, which can only shrink.

    python ci/skips.py REPORT.xml ci/skips/mlx.txt [--write]

The list has a line for each reason: how many tests it skips, and the reason.
"""

import argparse
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path


def skips_of(report: Path) -> Counter[str]:
    """Return how many tests were skipped for each reason; one that names a target without it."""
    found = [one.get("message", "") for one in ElementTree.parse(report).iter("skipped")]
    return Counter(re.sub(r"^[a-z]\S*: (?=\S+ )", "", reason).strip() for reason in found)


def read(path: Path) -> Counter[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return Counter({reason: int(n) for n, reason in (line.split(maxsplit=1) for line in lines)})


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("report", type=Path, help="what pytest wrote with --junitxml")
    parser.add_argument("list", type=Path, help="the list")
    parser.add_argument("--write", action="store_true", help="write a new list")
    args = parser.parse_args()

    found = skips_of(args.report)
    if args.write:
        lines = [f"{n:5} {reason}\n" for reason, n in sorted(found.items())]
        args.list.write_text("".join(lines), encoding="utf-8")
    allowed = read(args.list)
    for reason, n in sorted((found - allowed).items()):
        print(f"{n} more skipped than {args.list} has: {reason}")
    for reason, n in sorted((allowed - found).items()):
        print(f"{n} fewer skipped than {args.list} has: {reason}")
    print(f"{found.total()} tests skipped, of which {allowed.total()} may be")
    return bool(found - allowed)


if __name__ == "__main__":
    sys.exit(main())
