#!/usr/bin/env python3
"""The law tests can fail: each is run on a small tree that breaks it, and on one that does not."""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]

GOOD = {
    "core/a.c": '#include "core/a.h"\n/* an example: "cpu:0" */ int type = CS_DEVICE_TYPE_CPU;\n',
    "core/a.h": '#include "consort/plugin.h"\n',
    "core/include/consort/plugin.h": "\n",
    "models/m.c": '#include "core/a.h"\n',
    "scheduler/s.c": '#include "models/m.h"\n#include "consort/consort.h"\n',
    "models/m.h": "\n",
    "scheduler/include/consort/consort.h": "\n",
    "plugins/sdk/include/consort/sdk.h": '#include "consort/plugin.h"\n',
    "backends/x/x.c": '#include "x.h"\n#include "consort/sdk.h"\n#include <cuda.h>\n',
    "backends/x/x.h": "\n",
    "backends/y/y.h": "\n",
    "cli/main.c": '#include "consort/consort.h"\n',
    "plugins/conformance/whole_model.c": '#include "models/m.h"\n',
}

BAD = {
    "includes.py": [("core/b.c", '#include "models/m.h"\n'),
                    ("models/b.c", '#include "scheduler/s.c"\n'),
                    ("backends/x/b.c", '#include "core/a.h"\n'),
                    ("backends/x/b.c", '#include "../y/y.h"\n'),
                    ("plugins/z/b.c", '#include "models/m.h"\n'),
                    ("plugins/conformance/b.c", '#include "models/m.h"\n'),
                    ("cli/b.c", '#include "core/a.h"\n')],
    "names.py": [("core/b.c", 'const char *name = "cpu:0";\n'),
                 ("models/b.c", "int use_cuda = 1;\n"),
                 ("scheduler/b.c", "void open_opencl_device(void);\n")],
}


def run(script, root):
    return subprocess.run([sys.executable, str(HERE / script), str(root)], capture_output=True,
                          text=True).returncode


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def check(condition, what):
    if not condition:
        sys.exit(f"failed: {what}")


with tempfile.TemporaryDirectory() as folder:
    tree = pathlib.Path(folder).resolve()
    for file_path, content in GOOD.items():
        write(tree, file_path, content)
    for law, breaches in BAD.items():
        check(run(law, tree) == 0, f"{law} accepts a good tree")
        for file_path, content in breaches:
            write(tree, file_path, content)
            check(run(law, tree) != 0, f"{law} notices {file_path}: {content}")
            (tree / file_path).unlink()

with tempfile.TemporaryDirectory() as folder:
    tree = pathlib.Path(folder).resolve()
    shutil.copytree(ROOT / "core" / "include", tree / "core" / "include")
    shutil.copytree(ROOT / "core" / "abi", tree / "core" / "abi")
    check(run("abi_layout.py", tree) == 0, "abi_layout.py accepts the recorded layout")
    header = tree / "core" / "include" / "consort" / "types.h"
    text = header.read_text()
    header.write_text(text.replace("uint64_t offset_bytes;", "uint32_t offset_bytes;"))
    check(run("abi_layout.py", tree) != 0, "abi_layout.py notices a narrower field")
    header.write_text(re.sub(r"(CS_DTYPE_BF16 +)3", r"\g<1>9", text))
    check(run("abi_layout.py", tree) != 0, "abi_layout.py notices a number with a new meaning")
print("holds: the law tests notice breaches")
