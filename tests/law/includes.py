#!/usr/bin/env python3
"""Includes run one way: cli -> scheduler -> models -> core <- backends, and plugins -> core.

A backend or plugin sees only installed headers (the ABI and the SDK), exactly as one out of the
tree does; the conformance kit's whole-model check alone may use models. The program and the
examples see the facade only. Usage: includes.py [ROOT]"""
import pathlib

import source

INCLUDE_DIRS = ["core/include", "plugins/sdk/include", "scheduler/include", "backends"]
SHARED_BY_BACKENDS = "backends/clc"  # kernels and op rules; knows no driver
SEAMS = {"core/include": "abi", "plugins/sdk/include": "sdk", "scheduler/include": "facade"}
WHOLE_MODEL = "plugins/conformance/whole_model"


def layer(path):
    """The layer a file belongs to: a seam, a top folder, or one backend or plugin."""
    text = path.as_posix()
    for folder, seam in SEAMS.items():
        if text.startswith(folder + "/"):
            return seam
    parts = path.parts
    return "/".join(parts[:2]) if parts[0] in ("backends", "plugins") and len(parts) > 2 else parts[0]


def allowed(path):
    own = layer(path)
    if own == "facade":
        return {"facade", "abi"}
    if own == "abi":
        return {"abi"}
    if own in ("sdk", "docs"):
        return {own, "abi", "sdk", "facade"} if own == "docs" else {"sdk", "abi"}
    below = {"core": {"abi"}, "models": {"core", "abi"},
             "scheduler": {"facade", "models", "core", "abi"}, "cli": {"facade", "abi"}}
    if own in below:
        return below[own] | {own}
    extra = {"models", "core"} if path.as_posix().startswith(WHOLE_MODEL) else set()
    shared = {SHARED_BY_BACKENDS} if own.startswith("backends/") else set()
    return {own, "abi", "sdk"} | extra | shared


def resolve(root, path, name):
    """The file of the tree that an include means, or None for one from outside."""
    for base in [path.parent] + [pathlib.Path(d) for d in ["."] + INCLUDE_DIRS]:
        candidate = root / base / name
        if candidate.is_file() and candidate.resolve().is_relative_to(root):
            return candidate.resolve().relative_to(root)
    return None


def main():
    root = source.root_from_arguments()
    faults = []
    for path in source.files(root):
        if "template" in path.parts:
            continue
        for line, quoted, name in source.includes(source.read(root, path)):
            target = resolve(root, path, name)
            if target is None:
                continue
            if layer(target) not in allowed(path):
                faults.append(f"{path}:{line}: {layer(path)} includes {target} ({layer(target)})")
    source.finish(faults, "includes run one way")


main()
