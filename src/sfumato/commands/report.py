"""sfumato report: all that is known of a run, or of several side by side, as one HTML file."""

from pathlib import Path

from ..arguments import Report, UsageError
from ..page import write_comparison, write_page
from ..pictures import replacing
from ..places import find

MARK = '<meta name="generator" content="sfumato">'  # of the pages that may be written anew


def run_report(args: Report) -> None:
    """Write the page and say where it is."""
    folders = list(dict.fromkeys(find(name) for name in args.runs))
    if not folders:
        raise UsageError("report of which run? Give its folder, its name in runs/, or 'last'.")
    if args.out is not None:
        check_out(args.out)
    path = of_one(folders[0], args.out) if len(folders) == 1 else of_several(folders, args.out)
    print(f"Written: {path}, {path.stat().st_size / 1e6:.1f} MB. Open it in a browser.")


def check_out(out: Path) -> None:
    """Raise UsageError where a file is there that no report is."""
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; give the name of a file in it.")
    if out.is_file() and MARK not in out.read_text(encoding="utf-8", errors="replace")[:1000]:
        raise UsageError(f"--out {out} is there already, and no page of ours; choose another name.")


def of_one(folder: Path, out: Path | None) -> Path:
    """RUN/index.html, written anew, and a copy of it where --out says."""
    page = write_page(folder)
    if out is None:
        return page
    with replacing(out) as draft:
        draft.write_bytes(page.read_bytes())
    return out


def of_several(folders: list[Path], out: Path | None) -> Path:
    """The comparison, beside the first run unless --out says where."""
    return write_comparison(folders, out or folders[0].parent / "comparison.html")
