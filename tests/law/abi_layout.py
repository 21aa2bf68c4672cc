#!/usr/bin/env python3
"""The ABI's layout is the recorded one: sizes and offsets of every struct that crosses, and the
number behind every name, for 64-bit machines, in core/abi/layout-VERSION.txt.

A difference is an announcement that was forgotten: either take the change back, or raise
CS_ABI_VERSION (docs/abi.md says when) and record the new layout with --record.
Usage: abi_layout.py [--record] [ROOT]"""
import difflib
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import source

HEADERS = ["status.h", "types.h", "ops.h", "plugin.h"]
STRUCT = re.compile(r"typedef struct (\w+) \{(.*?)\} \1;", re.DOTALL)
FIELD = re.compile(r"\(\*(\w+)\)|(\w+)\s*(?:\[[^\]]*\])?\s*;")
MACRO = re.compile(r"^#define (CS_[A-Z0-9_]+)[ \t]+(?:\\\n[ \t]*)?(?!\()(\S+)", re.MULTILINE)
NOT_NUMBERS = ("_H", "_INIT", "_TABLE", "_EXPORT", "_SYMBOL", "_DECLARE")


def generate(root):
    """A program that prints the layout."""
    lines = []
    for header in HEADERS:
        text = source.read(root, pathlib.Path("core/include/consort") / header)
        for name, body in STRUCT.findall(text):
            lines.append(f'printf("struct {name} %zu\\n", sizeof({name}));')
            for match in FIELD.finditer(re.sub(r"(\(\*\w+\))\([^;]*\)", r"\1", body)):
                field = match.group(1) or match.group(2)
                lines.append(f'printf("  {field} %zu %zu\\n", offsetof({name}, {field}), '
                             f'sizeof((({name} *)0)->{field}));')
        for name, value in MACRO.findall(text):
            if name.endswith(NOT_NUMBERS) or name.startswith("CS_NMSE"):
                continue
            lines.append(f'printf("number {name} %llu\\n", (unsigned long long)({name}));')
    lines.append("#define PRINT(ID, ...) "
                 'printf("number CS_OP_" #ID " %d\\n", (int)CS_OP_##ID);')
    lines.append("CS_OP_TABLE(PRINT)")
    body = "\n".join(lines)
    return ('#include <stddef.h>\n#include <stdio.h>\n#include "consort/plugin.h"\n'
            f"int main(void) {{\n{body}\nreturn 0;\n}}\n")


def layout(root):
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "layout"
        code = program.with_suffix(".c")
        code.write_text(generate(root))
        subprocess.run([os.environ.get("CC", "cc"), "-std=c11", f"-I{root}/core/include",
                        str(code), "-o", str(program)], check=True)
        return subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout


def version(root):
    text = source.read(root, pathlib.Path("core/include/consort/plugin.h"))
    return re.search(r"#define CS_ABI_VERSION (\d+)", text).group(1)


def main():
    record = "--record" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--record"]
    root = source.root_from_arguments()
    if sys.maxsize < 2**32:
        print("skipped: the record is for 64-bit machines")
        sys.exit(77)
    path = root / "core" / "abi" / f"layout-{version(root)}.txt"
    now = layout(root)
    if record:
        path.parent.mkdir(exist_ok=True)
        path.write_text(now)
        return
    recorded = path.read_text() if path.is_file() else ""
    faults = list(difflib.unified_diff(recorded.splitlines(), now.splitlines(), str(path), "now",
                                       lineterm="", n=0))
    source.finish(faults, f"the ABI's layout is that of {path.name}")


main()
