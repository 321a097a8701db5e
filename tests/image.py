"""Builds the image of the Dockerfile without a container engine and runs it as compose.yaml says: `make test-image`.

Each stage is a layer over this machine's own system in the place of the base image. So its Python is that of this
machine, and what the real base image lacks is not noticed. Needs Linux, root and a mount namespace of its own.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import Any

import yaml

from tests import replicas

ROOT = Path(__file__).resolve().parent.parent
PLACE = Path("/mnt")
PYTHON = Path(sys.executable).resolve()


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


class Stage:
    def __init__(self, place: Path) -> None:
        self.settings = {"WORKDIR": "/", "USER": "0:0"}
        self.commands: dict[str, list[str]] = {}
        self.env = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        self.root, layer, work = (place / name for name in ("root", "layer", "work"))
        run("mkdir", "-p", self.root, layer, work)
        run("mount", "-t", "overlay", "-o", f"lowerdir=/,upperdir={layer},workdir={work}", "overlay", self.root)
        run("mount", "--rbind", "/dev", self.root / "dev")
        # Files of the repository have to be copied by the Dockerfile.
        run("mount", "-t", "tmpfs", "none", self.inside(ROOT))
        run("chmod", "o+x", *map(self.inside, PYTHON.parents))
        run("rm", "-f", self.inside("/usr/local/bin/python"))
        self.inside("/usr/local/bin/python").write_text(f'#!/bin/sh\nexec {PYTHON} "$@"\n')
        run("chmod", "755", self.inside("/usr/local/bin/python"))

    def inside(self, path: str | Path) -> Path:
        return self.root / Path(self.settings["WORKDIR"], path).relative_to("/")

    def command(self, words: list[str], env: dict[str, str]) -> list[str]:
        variables = [f"{name}={value}" for name, value in (self.env | env).items()]
        entered = ["chroot", f"--userspec={self.settings['USER']}", str(self.root)]
        return [*entered, "env", "-i", "-C", self.settings["WORKDIR"], *variables, *words]

    def do(self, instruction: str, rest: str, stages: dict[str, "Stage"]) -> None:
        """Do one line of the Dockerfile. An unknown instruction is an error."""
        if instruction == "RUN":
            ours = {name: value for name, value in os.environ.items() if name == "HOME" or name.startswith("PIP_")}
            run(*self.command(["sh", "-c", rest], ours | {"PIP_QUIET": "1"}))
        elif instruction == "COPY":
            *sources, target = rest.split()
            self.copy(sources, target, stages)
        elif instruction == "ENV":
            words = shlex.split(Template(rest).safe_substitute(self.env))
            self.env |= dict(word.split("=", 1) for word in words)
        elif instruction in self.settings:
            self.settings[instruction] = rest
            run("mkdir", "-p", self.inside("."))
        elif instruction in ("CMD", "HEALTHCHECK"):
            self.commands[instruction] = json.loads(rest[rest.index("[") :])
        elif instruction not in ("VOLUME", "EXPOSE", "ARG", "LABEL"):
            raise SystemExit(f"Dockerfile: can't replay {instruction}")

    def copy(self, sources: list[str], target: str, stages: dict[str, "Stage"]) -> None:
        origin = ROOT
        if sources[0].startswith("--from="):
            origin = stages[sources.pop(0).removeprefix("--from=")].root
        for source in sources:
            found, to = origin / source.lstrip("/"), self.inside(target)
            if origin == ROOT and f"!{source}" not in (ROOT / ".dockerignore").read_text().splitlines():
                raise SystemExit(f".dockerignore keeps {source} out")
            run("mkdir", "-p", to if found.is_dir() or target.endswith("/") else to.parent)
            run("cp", "-a", "--no-preserve=ownership", f"{found}/." if found.is_dir() else found, to)

    def mount(self, service: dict[str, Any]) -> None:
        """The file systems of a service of compose.yaml."""
        if service["read_only"]:
            run("mount", "-o", "remount,bind,ro", self.root)
        for path in (self.inside(volume.split(":")[1]) for volume in service["volumes"]):
            # A new volume begins with the content of the image at that path.
            run("mount", "-t", "tmpfs", "-o", f"uid={path.stat().st_uid},mode=755", "none", path)
        for folder in service["tmpfs"]:
            run("mount", "-t", "tmpfs", "-o", "mode=1777", "none", self.inside(folder.split(":")[0]))


def build() -> Stage:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", "")
    stages: dict[str, Stage] = {}
    for line in filter(None, text.splitlines()):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            last = stages[rest.split()[-1]] = Stage(PLACE / str(len(stages)))
        else:
            last.do(instruction, rest, stages)
    return last


def main() -> None:
    run("mount", "-t", "tmpfs", "-o", "mode=755", "none", PLACE)
    image = build()
    services = replicas.Services(image, PLACE, yaml.safe_load((ROOT / "compose.yaml").read_text())["services"])
    with services.all():
        replicas.check(services)
    sys.stdout.write(f"The image works as user {image.settings['USER']} with {PYTHON.name}\n")


if __name__ == "__main__":
    main()
