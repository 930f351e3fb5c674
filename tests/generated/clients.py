"""The clients: how each is generated from openapi.yaml and built with its producer and its consumer, and how they run.

The options name packages and nothing else. What a user's build file would hold (tsconfig.json, go.mod) is in the folder
of the programs.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.generated import toolchain
from tests.generated.toolchain import CONTRACT, HERE, INSTALL, PINS, cached, run

# The targets of openapi-generator, with their options.
TARGETS: dict[str, dict[str, object]] = {
    "csharp": {"packageName": "KestrelGateway"},
    "go": {"packageName": "kestrel", "withGoMod": False},
    "java": {"invokerPackage": "kestrel", "apiPackage": "kestrel.api", "modelPackage": "kestrel.model"},
    "php": {"invokerPackage": "KestrelGateway"},
    "python": {"packageName": "kestrel_gateway"},
    "ruby": {"gemName": "kestrel_gateway"},
    "typescript-fetch": {},
}


@dataclass(frozen=True, slots=True)
class Client:
    """A generated client library with the two programs that use it.

    name: of the folder with the programs. needs: commands and files without which it cannot be made.
    build: generates, compiles or type-checks, in a new folder that has the programs. command: starts a program in it.
    """

    name: str
    needs: tuple[str | Path, ...]
    build: Callable[[Path], None]
    command: Callable[[Path, str], list[str | Path]]

    def missing(self) -> list[str]:
        """What it needs and this machine lacks."""
        return [str(need) for need in self.needs if not shutil.which(need) and not Path(need).exists()]

    def made(self) -> Path:
        """The folder in which its programs run."""

        def fill(folder: Path) -> None:
            shutil.copytree(HERE / self.name, folder, dirs_exist_ok=True)
            self.build(folder)

        return cached(self.name, [CONTRACT, PINS, INSTALL, HERE / self.name, Path(__file__)], fill)


def openapi_generator(target: str) -> Path:
    """What openapi-generator makes for one target. One run makes all targets, since most of its time is its start."""

    def fill(folder: Path) -> None:
        files = []
        for name, options in TARGETS.items():
            file = folder / f"{name}.json"
            config = {"generatorName": name, "inputSpec": str(CONTRACT), "outputDir": str(folder / name)}
            file.write_text(json.dumps(config | {"additionalProperties": options}))
            files.append(file)
        said = run("java", "-jar", toolchain.generator_jar(), "batch", "--threads", "2", *files)
        assert f"Batch generation finished {len(TARGETS)} generators successfully" in said, said

    return cached("openapi-generator", [CONTRACT, PINS, INSTALL, Path(__file__)], fill) / target


def typed(folder: Path) -> None:
    """Checks the types of both Python programs."""
    mypy = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", os.devnull]
    run(*mypy, "--python-executable", toolchain.python(), "producer.py", "consumer.py", cwd=folder)


def python_of_openapi_generator(folder: Path) -> None:
    shutil.copytree(openapi_generator("python") / "kestrel_gateway", folder / "kestrel_gateway")
    typed(folder)


def python_of_openapi_python_client(folder: Path) -> None:
    generate: list[str | Path] = [
        toolchain.python("openapi-python-client"),
        "generate",
        "--path",
        CONTRACT,
        "--meta",
        "none",
    ]
    said = run(*generate, "--output-path", folder / "kestrel_gateway", cwd=folder)
    assert "Endpoint will not be generated" not in said, said
    typed(folder)


def tsc(folder: Path) -> None:
    (folder / "node_modules").symlink_to(toolchain.node_modules())
    run(toolchain.node_modules() / ".bin/tsc", "--project", folder)


def typescript_fetch(folder: Path) -> None:
    shutil.copytree(openapi_generator("typescript-fetch"), folder / "kestrel")
    tsc(folder)


def openapi_fetch(folder: Path) -> None:
    run(toolchain.node_modules() / ".bin/openapi-typescript", CONTRACT, "--output", folder / "kestrel.d.ts")
    tsc(folder)


def go(folder: Path) -> None:
    run("go", "vet", "./producer", "./consumer", "./kestrel", cwd=folder)
    run("go", "build", "-o", f"{folder}/bin/", "./producer", "./consumer", cwd=folder)


def go_of_openapi_generator(folder: Path) -> None:
    shutil.copytree(openapi_generator("go"), folder / "kestrel", ignore=shutil.ignore_patterns("test"))
    go(folder)


def go_of_oapi_codegen(folder: Path) -> None:
    (folder / "kestrel").mkdir()
    generate: list[str | Path] = [toolchain.oapi_codegen(), "-package", "kestrel", "-generate", "types,client"]
    run(*generate, "-o", folder / "kestrel/kestrel.go", CONTRACT)
    go(folder)


def class_path() -> str:
    return ":".join(str(jar) for jar in toolchain.jars())


def java(folder: Path) -> None:
    sources = [*(openapi_generator("java") / "src/main/java").rglob("*.java"), *folder.glob("*.java")]
    run("javac", "-nowarn", "-d", folder / "classes", "-cp", class_path(), *sources)


def php(folder: Path) -> None:
    shutil.copytree(openapi_generator("php") / "lib", folder / "kestrel")
    for file in sorted(folder.rglob("*.php")):
        run("php", "-l", file)


def ruby(folder: Path) -> None:
    shutil.copytree(openapi_generator("ruby") / "lib", folder / "kestrel")
    run("ruby", "-wc", *sorted(folder.rglob("*.rb")))


def script(interpreter: str | Path, suffix: str) -> Callable[[Path, str], list[str | Path]]:
    return lambda folder, role: [interpreter, folder / f"{role}{suffix}"]


def binary(folder: Path, role: str) -> list[str | Path]:
    return [folder / "bin" / role]


def java_class(folder: Path, role: str) -> list[str | Path]:
    return ["java", "-cp", f"{class_path()}:{folder}/classes", role.title()]


GENERATOR = ("java", toolchain.generator_jar())
PYTHON = (toolchain.python(), toolchain.python("openapi-python-client"))
TYPESCRIPT = ("node", toolchain.node_modules() / ".bin/tsc", toolchain.node_modules() / ".bin/openapi-typescript")
python_script = script(toolchain.python(), ".py")
node_script = script("node", ".js")

CLIENTS = [
    Client("python-openapi-generator", GENERATOR + PYTHON, python_of_openapi_generator, python_script),
    Client("python-openapi-python-client", PYTHON, python_of_openapi_python_client, python_script),
    Client("typescript-fetch", GENERATOR + TYPESCRIPT, typescript_fetch, node_script),
    Client("openapi-fetch", TYPESCRIPT, openapi_fetch, node_script),
    Client("go-openapi-generator", (*GENERATOR, "go"), go_of_openapi_generator, binary),
    Client("go-oapi-codegen", ("go", toolchain.oapi_codegen()), go_of_oapi_codegen, binary),
    Client("java", (*GENERATOR, "javac"), java, java_class),
    Client("php", (*GENERATOR, "php"), php, script("php", ".php")),
    Client("ruby", (*GENERATOR, "ruby"), ruby, script("ruby", ".rb")),
]
