#!/usr/bin/env python3
"""Reproduce the paper's experiments: a study of experiments/ is a table or figure, its rows the numbers.

  tools/reproduce.py list                        the studies and their rows
  tools/reproduce.py show table1                 the plan: trainings, memory, time, and what is missing
  tools/reproduce.py run table1                  the plan, then train, test and report; what is finished is not done
                                                 again
  tools/reproduce.py run table6 --row s_stagewise --gpu 0
  tools/reproduce.py run table1 --scale-down     the whole way in minutes, on a small generated data set
  tools/reproduce.py run shapes --seed 3 4 5     each row once per seed; the report tells mean and spread
  tools/reproduce.py report table1               write the report again; with --scale-down that of scaled-down rows

Results, pictures and the report go to output/experiments/STUDY, with --scale-down to
output/experiments/scaled_down/STUDY. A run that is stopped, by Ctrl-C or otherwise, goes on from its newest snapshot
when it is started again. docs/reproducing.md says more.
"""

import sys
from pathlib import Path

import _common

from detection.experiments import plan, requirements, run, study
from detection.experiments.scale_down import ScaleDown


def main(args) -> None:
    if args.action == "list":
        for name in study.names():
            one = study.read(name)
            print(f"{name:10} {one.title} ({one.source})\n{'':10} rows: {', '.join(row.name for row in one.rows)}")
        return
    scale = ScaleDown() if args.scale_down else None
    output = Path(args.output or run.OUTPUT) / "scaled_down" if scale else Path(args.output or run.OUTPUT)
    settings = run.Settings(output, scale, args.iters, args.selective_search)
    chosen = study.read(args.study)
    names = args.row or [row.name for row in chosen.rows]
    if args.action != "report":
        rows = [settings.applied(chosen.row(name)) for name in names]
        print("\n".join(plan.lines(chosen, rows, scale)), flush=True)
    if args.action == "show":
        print(requirements.told(rows) or "data and weights are all there")
        return
    if args.action == "run":
        run.run_seeds(chosen, names, settings, args.seed or (None,))
    print(f"report: {run.write_report(chosen, settings)}")


if __name__ == "__main__":
    parser = _common.parser(__doc__)
    parser.add_argument("action", choices=("list", "show", "run", "report"))
    parser.add_argument("study", nargs="?", metavar="STUDY", help="a name that `list` tells, or a file .yml")
    parser.add_argument("--row", nargs="+", metavar="NAME", help="these rows only")
    parser.add_argument("--scale-down", action="store_true", help="small data, few iterations, random weights")
    parser.add_argument("--iters", type=int, metavar="N", help="iterations of every stage (default: the study's)")
    parser.add_argument(
        "--selective-search", action="store_true", help="make proposals here where published ones are asked for"
    )
    parser.add_argument("--seed", type=int, nargs="+", metavar="N", help="once with each (default: 3, RNG_SEED)")
    parser.add_argument("--output", metavar="DIR", help=f"default: {run.OUTPUT}")
    _common.add_device(parser)
    args = parser.parse_args()
    if args.action != "list" and not args.study:
        parser.error(f"{args.action} needs a STUDY; `list` tells them")
    sys.exit(_common.run(main, args))
