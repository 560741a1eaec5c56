"""Make C++ of Metal kernels: the same text, with the few things changed that no macro can.

    translate.py --from GGML_METAL_DIR --to DIR [--also FILE] [--select REGEX] FILE...

Every .metal and .h file of its kernels/, and --also one, is written to DIR with each of its lines in its place:

- `constant T FC_x [[function_constant(N)]];`      an object that is set when a pipeline is made
- `threadgroup T name[N];` in a kernel             static: one threadgroup runs at a time
- `T name[N] = { [0 ... N-1] = value };`           not C++; a loop
- `template [[host_name("x")]] kernel ... f<...>;` an entry of the table of kernels, if x matches REGEX, else nothing

The attributes of a kernel's arguments move to a list behind it. For each FILE there is a NAME.cpp that includes it.
And ggml_metal_device_supports_op(), C in the midst of Objective-C, is copied to supports-op.inc.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

FUNCTION_CONSTANT = re.compile(r"^constant\s+(\w+)\s+(FC_\w+)\s*\[\[function_constant\(([^()]*)\)\]\];")
THREADGROUP_ARRAY = re.compile(r"^(\s+)threadgroup\s+(\w+\s+\w+\s*\[[^=]*\];)")
RANGE_INITIALIZER = re.compile(r"^(\s*)(\w+)\s+(\w+)\[(\w+)\] = \{ \[0 \.\.\. \4-1\] = (.+?) \};")
INSTANTIATION = re.compile(r'^template \[\[host_name\("(\w+)"\s*\)\]\]\s+kernel\s+\w+\s+(\w+)(<.*>);')
KERNEL = re.compile(r"^(?:\[\[host_name\(\"\w+\"\)\]\]\s*)?kernel\s+void\s+(\w+)\s*\(")
ATTRIBUTE = re.compile(r"\[\[\s*(\w+)(?:\((\w+)\))?\s*\]\]")

# a library of its own in Metal: its names are its own
UNIT = """#include "msl-kernel.h"
#include <metal_stdlib>
namespace {{
#include "{name}"
}}
"""


class TranslationError(ValueError):
    """One sentence: which file, and what was not understood."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, required=True)
    parser.add_argument("--to", dest="target", type=Path, required=True)
    parser.add_argument("--also", type=Path, action="append", default=[])
    parser.add_argument("--select", default="", help="host names of templates to compile; kernels without template always are")
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    try:
        kernels = options.source / "kernels"
        for path in sorted([*kernels.glob("*.metal"), *kernels.glob("*.h"), *options.also]):
            text = translated(path.read_text(), path.name, re.compile(options.select))
            write(options.target / path.name, text)
        for name in options.files:
            if not (options.target / name).is_file():
                raise TranslationError(f"{kernels} has no {name}")
            write((options.target / name).with_suffix(".cpp"), UNIT.format(name=name))
        write(options.target / "supports-op.inc", supports_op((options.source / "ggml-metal-device.m").read_text()))
    except (TranslationError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def translated(text: str, file: str, select: re.Pattern[str]) -> str:
    lines = text.splitlines()
    result: list[str] = []
    kernel = ""  # whose body we are in
    is_template = False
    for number, line in enumerate(lines):
        found = KERNEL.match(line)
        if found:
            kernel = found[1]
            is_template = follows_template(lines, number)
        line = translated_line(line, select, number)
        if kernel and line == "}":
            arguments = ", ".join(f'"{what}"' for what in argument_list("\n".join(lines), kernel, file))
            line += f" static const std::vector<std::string> msl_arguments_{kernel} = {{ {arguments} }};"
            if not is_template:
                line += f' static const msl::kernel_entry msl_entry_{kernel}("{kernel}", msl_arguments_{kernel}, {kernel});'
            kernel = ""
        result.append(line)
    return "\n".join(result) + "\n"


def translated_line(line: str, select: re.Pattern[str], number: int) -> str:
    found = INSTANTIATION.match(line)
    if found:
        name, function, arguments = found.groups()
        if not select.fullmatch(name):
            return ""
        entry = f'static const msl::kernel_entry msl_entry_{number}("{name}", msl_arguments_{function}, {function}{arguments});'
        return entry + line[found.end() :]
    line = FUNCTION_CONSTANT.sub(r'static msl::function_constant<\1> \2("\2", \3);', line)
    line = RANGE_INITIALIZER.sub(r"\1\2 \3[\4]; for (auto & x : \3) { x = \5; }", line)
    line = THREADGROUP_ARRAY.sub(r"\1static \2", line)
    return ATTRIBUTE.sub("", line)


def follows_template(lines: list[str], number: int) -> bool:
    """What stands above the line of a kernel ends a list of template parameters."""
    above = [line.split("//")[0].strip() for line in lines[:number]]
    return next((line for line in reversed(above) if line), "").endswith(">")


def argument_list(text: str, kernel: str, file: str) -> list[str]:
    """For each argument of a kernel: "buffer N", "threadgroup N" or the attribute of a built-in."""
    start = re.search(rf"kernel\s+void\s+{kernel}\s*\(", text)
    assert start is not None
    end = text.find(") {", start.end())
    if end < 0:
        raise TranslationError(f"{file}: the arguments of {kernel} have no end")
    result = []
    n_buffers = 0
    for declaration in re.sub(r"//.*", "", text[start.end() : end]).split(","):
        found = ATTRIBUTE.search(declaration)
        if found is None:
            result.append(f"buffer {n_buffers}")
            n_buffers += 1
        elif found[1] in ("buffer", "threadgroup"):
            result.append(f"{found[1]} {found[2]}")
            n_buffers = max(n_buffers, int(found[2]) + 1) if found[1] == "buffer" else n_buffers
        else:
            result.append(found[1])
    return result


def supports_op(text: str) -> str:
    """What the device says it can do, and the functions in front of it that it calls."""
    end = text.find("\nbool ggml_metal_device_supports_op(")
    start = text.find("\nstatic bool ggml_metal_supports_mul_mat_op(")
    if not 0 <= start < end:
        raise TranslationError("ggml-metal-device.m has no ggml_metal_device_supports_op where it was")
    return text[start : text.index("\n}\n", end) + 3]


def write(path: Path, text: str) -> None:
    """Only if it differs, so that nothing is compiled again for nothing."""
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
