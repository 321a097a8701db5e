"""Builds the images of the Dockerfile without a container engine and runs them as compose.yaml says: `make test-image`.

Each stage is a layer over this machine's own system in the place of the base image. So Python and Caddy are those of
this machine, and what the real base images lack is not noticed. The sources are those of a clone with umask 077: only
its owner can read them. Needs Linux, root and a mount namespace of its own.
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
SOURCES = PLACE / "sources"
PYTHON = Path(sys.executable).resolve()


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


class Stage:
    def __init__(self, place: Path, base: "Stage | None") -> None:
        self.settings = {"WORKDIR": "/", "USER": "0:0"}
        self.commands: dict[str, list[str]] = {}
        # An engine sets both.
        self.env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/"}
        self.root, layer, work = (place / name for name in ("root", "layer", "work"))
        run("mkdir", "-p", self.root, layer, work)
        below = base.layers if base else ["/"]
        self.layers = [str(layer), *below]
        options = f"lowerdir={':'.join(below)},upperdir={layer},workdir={work}"
        run("mount", "-t", "overlay", "-o", options, "overlay", self.root)
        run("mount", "--rbind", "/dev", self.root / "dev")
        # Files of the repository have to be copied by the Dockerfile.
        run("mount", "-t", "tmpfs", "none", self.inside(ROOT))
        run("chmod", "o+x", *map(self.inside, PYTHON.parents))
        run("rm", "-f", self.inside("/usr/local/bin/python"))
        self.inside("/usr/local/bin/python").write_text(f'#!/bin/sh\nexec {PYTHON} "$@"\n')
        run("chmod", "755", self.inside("/usr/local/bin/python"))

    def inside(self, path: str | Path) -> Path:
        return self.root / Path(self.settings["WORKDIR"], path).relative_to("/")

    def command(self, words: list[str], env: dict[str, str], user: str | None = None) -> list[str]:
        variables = [f"{name}={value}" for name, value in (self.env | env).items()]
        entered = ["chroot", f"--userspec={user or self.settings['USER']}", str(self.root)]
        return [*entered, "env", "-i", "-C", self.settings["WORKDIR"], *variables, *words]

    def do(self, instruction: str, rest: str, stages: dict[str, "Stage"]) -> None:
        """Do one line of the Dockerfile. An unknown instruction is an error."""
        if instruction == "RUN":
            ours = {name: value for name, value in os.environ.items() if name == "HOME" or name.startswith("PIP_")}
            run(*self.command(["sh", "-c", rest], ours | {"PIP_QUIET": "1"}))
        elif instruction == "COPY":
            self.copy(rest.split(), stages)
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

    def copy(self, words: list[str], stages: dict[str, "Stage"]) -> None:
        options = dict(word.split("=", 1) for word in words if word.startswith("--"))
        *sources, target = words[len(options) :]
        origin = stages[options.pop("--from")].root if "--from" in options else SOURCES
        for source in sources:
            found, to = origin / source.lstrip("/"), self.inside(target)
            if not found.exists():
                raise SystemExit(f"{source} does not exist, or .dockerignore keeps it out")
            run("mkdir", "-p", to if found.is_dir() or target.endswith("/") else to.parent)
            run("cp", "-a", "--no-preserve=ownership", f"{found}/." if found.is_dir() else found, to)
            if mode := options.get("--chmod"):
                run("chmod", "-R", mode, to / found.name if found.is_file() and to.is_dir() else to)
        if options.keys() - {"--chmod"}:
            raise SystemExit(f"Dockerfile: can't replay COPY with {options}")

    def mount(self, service: dict[str, Any]) -> None:
        """The file systems of a service of compose.yaml."""
        if service["read_only"]:
            run("mount", "-o", "remount,bind,ro", self.root)
        for path in (self.inside(volume.split(":")[1]) for volume in service.get("volumes", ())):
            # A new volume begins with the content of the image at that path.
            run("mount", "-t", "tmpfs", "-o", f"uid={path.stat().st_uid},mode=755", "none", path)
        for folder in service["tmpfs"]:
            run("mount", "-t", "tmpfs", "-o", "mode=1777", "none", self.inside(folder.split(":")[0]))


def prepare_sources() -> None:
    """The files of this folder that .dockerignore lets through, readable by their owner alone."""
    run("mkdir", SOURCES)
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            run("cp", "-a", "--no-preserve=ownership", ROOT / line[1:], SOURCES)
    run("chmod", "-R", "u=rwX,go=", SOURCES)


def build() -> dict[str, Stage]:
    """All stages of the Dockerfile by their names. The last one is the image."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", "")
    stages: dict[str, Stage] = {}
    for line in filter(None, text.splitlines()):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            last = stages[name or "image"] = Stage(PLACE / str(len(stages)), stages.get(base))
        else:
            last.do(instruction, rest, stages)
    return stages


def main() -> None:
    # As in a container that an engine starts.
    os.umask(0o022)
    run("mount", "-t", "tmpfs", "-o", "mode=755", "none", PLACE)
    prepare_sources()
    stages = build()
    services = replicas.Services(stages, PLACE, yaml.safe_load((ROOT / "compose.yaml").read_text()))
    with services.all():
        replicas.check(services)
    sys.stdout.write(f"The image works as user {stages['image'].settings['USER']} with {PYTHON.name}\n")


if __name__ == "__main__":
    main()
