"""A page of Markdown as what somebody does who follows it: files to write, commands to run, output to expect.

    ```bash                  commands; a line that ends in a backslash goes on
    ```console               the same after a "$ ", with output between, which is not compared
    ```text                  what the `bash` before it prints; … stands for anything
    ```python title="x.py"   a file of this name, written before the next commands run

It knows no command. README.md's blocks have no language: those that begin with a command are `bash`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

FENCE = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:make|pip|telltale|\.venv/bin/\w+|TELLTALE_\w+=\S+) ")


@dataclass
class Step:
    """One block of commands, the files that it needs, and what it should print (None: nobody says)."""

    commands: list[str]
    files: dict[str, str] = field(default_factory=dict)
    output: str | None = None


def steps(page: str) -> list[Step]:
    """The steps of a page, in order."""
    found: list[Step] = []
    files: dict[str, str] = {}
    after = ""
    for language, title, body in FENCE.findall(page):
        if language == "bash" or (not language and COMMAND.match(body)):
            found.append(Step(commands(body), files))
            files = {}
        elif language == "console":
            found.append(Step(prompted(body)))
        elif title:
            files[title] = body
        elif language == "text" and after == "bash":
            found[-1].output = body
        after = "bash" if found and language == "bash" else language
    return found


def commands(block: str) -> list[str]:
    """A block's commands, without comments, each in one piece."""
    found = [""]
    for line in re.sub(r"\\\n\s*", "", block).splitlines():
        bare = re.sub(r"(^|\s+)# .*$", "", line)
        found[-1] += f"\n{bare}" if found[-1] else bare.strip()
        if found[-1] and _is_whole(found[-1]):
            found.append("")
    return [command for command in found if command]


def prompted(block: str) -> list[str]:
    """The commands after each prompt, with the lines that a quote or a backslash has them go on in."""
    found: list[str] = []
    whole = True
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(line.removeprefix("$ "))
        elif not whole:
            found[-1] += f"\n{line}"
        whole = _is_whole(found[-1])
    return [command for lines in found for command in commands(lines)]


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\")


def matches(expected: str, printed: str) -> bool:
    """Whether output is as the page shows it: … is anything, and runs of spaces are one."""
    # Between two columns there may be others, or none.
    pattern = re.escape(_plain(expected)).replace("\\ …\\ ", "\\ (?:.*? )?").replace("…", ".*?")
    return re.fullmatch(rf"\s*{pattern}\s*", _plain(printed), re.DOTALL) is not None


def _plain(text: str) -> str:
    """Lines without what only lays them out."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line.strip(" ─"))
