#!/usr/bin/env python3
"""List everything that is wrong with a data set, and what is in it.

Data sets are named as for training: shapes_train, voc_2007_trainval, or FOLDER:SET for a folder of your own in the
layout of PASCAL VOC: FOLDER/JPEGImages/NAME.jpg, FOLDER/Annotations/NAME.xml, FOLDER/ImageSets/Main/SET.txt with one
NAME per line. Coordinates count pixels from 1, as PASCAL's do; write FOLDER:SET:zero-based if yours count from 0.
Errors (training would refuse the data set) end with exit status 1; warnings do not.
"""

import argparse
import sys
from collections import Counter

import _common

from detection import datasets
from detection.datasets.check import check, summary
from detection.errors import DatasetError


def main(args) -> int:
    return max([report(name, args) for name in args.dataset])


def report(name: str, args: argparse.Namespace) -> int:
    """Print the findings and the contents of one data set; 1 if it has errors, else 0."""
    try:
        dataset = datasets.get(name, args.data)
        findings = check(dataset, args.decode)
    except DatasetError as e:
        print(f"error: {e}")
        return 1
    names = dataset.classes[1:]
    print(f"{dataset.name}: {len(dataset)} images, {len(names)} class(es), in {dataset.folder}: {', '.join(names)}")
    folded = Counter(map(str.casefold, names))
    if alike := [name for name in names if folded[name.casefold()] > 1]:
        print(f"\nwarning: classes whose names differ in case only: {', '.join(alike)}")
    kinds = Counter((not finding.is_error, finding.kind) for finding in findings)
    for (is_warning, kind), count in sorted(kinds.items()):
        print(f"\n{'warning' if is_warning else 'error'}: {kind}: {count}")
        of_kind = [finding for finding in findings if finding.kind == kind and finding.is_error != is_warning]
        shown = of_kind[: args.limit or None]
        print("\n".join(f"  {finding}" for finding in shown))
        if count > len(shown):
            print(f"  ... and {count - len(shown)} more (--limit 0 prints all)")
    if any(finding.is_error for finding in findings):
        return 1
    print(f"\n{summary(dataset)}\n\nno errors")
    return 0


if __name__ == "__main__":
    parser = _common.parser(__doc__)
    parser.add_argument("dataset", nargs="+", help=datasets.NAMES)
    parser.add_argument(
        "--data", default=datasets.DATA, help="folder that holds named data sets (default: %(default)s)"
    )
    parser.add_argument("--decode", action="store_true", help="decode every image, which finds damaged files (slower)")
    parser.add_argument(
        "--limit", type=int, default=20, help="findings printed of each kind (default: %(default)s; 0: all)"
    )
    sys.exit(_common.run(main, parser.parse_args()))
