"""The campaign: kills, hostile flags, damaged files, poor environments.

    python tests/robustness                            everything, about half an hour
    python tests/robustness --part=kills --kills=20
    python tests/robustness --bounded                  what the tests do

It exits with 1 where something was found, and writes all counts to a file.
"""

import argparse
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

PARTS = ("kills", "flags", "files", "environments")


def main() -> int:
    """Runs the campaign of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="absent, all")
    parser.add_argument("--only", default="", help="part of the names of the cases to try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=130)
    parser.add_argument("--flags-in-full", type=int, default=200)
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--files-by-scripts", type=int, default=220)
    parser.add_argument("--bounded", action="store_true", help="a few minutes in all")
    parser.add_argument("--place", type=Path, help="a folder to work in; absent, a temporary one")
    parser.add_argument("--desk", type=Path, help="a desk that is set already, or is to be kept")
    parser.add_argument("--programs", type=Path, help="a folder of compiled programs")
    parser.add_argument("--results", type=Path, help="file of all counts and faults, as JSON")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="robustness-")) if options.place is None else options.place
    place = place.absolute()
    programs = (options.programs or place / "programs").absolute()
    # Compiled in haste, and once: compilation is most of a small run.
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "MPLBACKEND": "Agg",
    }
    programs.mkdir(mode=0o700, parents=True, exist_ok=True)

    import desk
    from report import Report

    desk.warm_up()
    table = (options.desk or place / "desk").absolute()
    if not table.exists():
        desk.set_desk(table, few=options.bounded)
    report = Report()
    for part in options.part or PARTS:
        _part(part, table, place / part, report, options)
    if options.results:
        report.write(options.results)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(u.ru_utime + u.ru_stime for u in used)
    sys.stdout.write(f"\n{report.table()}\n\n{len(report.faults)} faults, {cpu:.0f} CPU s\n")
    if options.place is None and not report.faults:
        shutil.rmtree(place)
    return 1 if report.faults else 0


def _part(part: str, table: Path, folder: Path, report, options) -> None:
    folder.mkdir(parents=True)
    few = options.bounded
    if part == "kills":
        import kills

        number = 10 if few else options.kills
        kills.campaign(
            table, folder, report, kills=number, seed=options.seed, only=options.only, few=few
        )
    elif part == "flags":
        import fuzz_flags

        number = 4 if few else options.flags_in_full
        fuzz_flags.campaign(
            table, folder, report, in_full=number, seed=options.seed, only=options.only, few=few
        )
    elif part == "files":
        import fuzz_files

        number, scripts = (300, 6) if few else (options.files, options.files_by_scripts)
        fuzz_files.campaign(
            table,
            folder,
            report,
            trials=number,
            scripts=scripts,
            seed=options.seed,
            only=options.only,
        )
    else:
        import environments

        environments.campaign(table, folder, report, only=options.only, few=few)


if __name__ == "__main__":
    raise SystemExit(main())
