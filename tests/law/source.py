"""What the law tests share: the tree's C sources, without comments, and their includes."""
import pathlib
import re
import sys

SOURCE_SUFFIXES = {".c", ".h", ".cl"}
FOLDERS = ["core", "backends", "plugins", "models", "scheduler", "cli", "docs"]

COMMENT_OR_STRING = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)


def files(root, folders=FOLDERS):
    """Every C source and header under the folders, as paths relative to root."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and path.suffix in SOURCE_SUFFIXES:
                yield path.relative_to(root)


def without_comments(text):
    """The text with every comment blanked out; line numbers stay."""
    def blank(match):
        token = match.group(0)
        return re.sub(r"[^\n]", " ", token) if token.startswith(("//", "/*")) else token
    return COMMENT_OR_STRING.sub(blank, text)


def read(root, path):
    return without_comments((root / path).read_text(encoding="utf-8", errors="replace"))


def includes(text):
    """(line, quoted, name) of every include."""
    for match in INCLUDE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match.group(1) == '"', match.group(2)


def root_from_arguments():
    if len(sys.argv) > 1:
        return pathlib.Path(sys.argv[1]).resolve()
    return pathlib.Path(__file__).resolve().parents[2]


def finish(faults, what):
    for fault in faults:
        print(fault)
    if faults:
        sys.exit(f"{len(faults)} breaches of the law: {what}")
    print(f"holds: {what}")
