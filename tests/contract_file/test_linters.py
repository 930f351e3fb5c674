"""openapi.yaml before linters of three makes: no error and no warning, in the file and as it is served."""

import copy
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.api.keyring import Keyring
from tests.lab.gateway import running
from tests.lab.yaml_text import parse_yaml

FOLDER = Path(os.environ.get("KESTREL_GATEWAY_TEST_LINTERS", Path.home() / ".cache/kestrel-gateway/linters"))
RULES = Path(__file__).with_name("spectral.yaml")
SILENT = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
# Valid by the specification's own schema, and yet no linter's idea of good: a component that nothing uses.
UNUSED = "    LeaseHandle:\n", "    Unused: { type: string }\n    LeaseHandle:\n"


@pytest.fixture(scope="module")
def documents(root, gateway, tmp_path_factory):
    """The file, what is served without keys, and what is served with them."""
    folder = tmp_path_factory.mktemp("documents")
    keyring = Keyring(folder / "keys.toml")
    keyring.add("web")
    with gateway.client() as http:
        open_to_all = http.get("/openapi.yaml").text
    with running(folder / "data", "--keys", str(keyring.path)) as keyed, keyring.client(keyed, "web") as http:
        with_keys = http.get("/openapi.yaml").text
    texts = {"file": (root / "openapi.yaml").read_text(), "open": open_to_all, "keyed": with_keys}
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return [folder / f"{name}.yaml" for name in texts]


def run(program, *arguments):
    """What the linter found, as JSON. Without the program it skips, and fails in CI."""
    path = FOLDER / "node_modules" / ".bin" / program
    if not path.exists():
        reason = f"{program} is missing: .ci/install/linters.sh"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    found = subprocess.run(
        [path, "lint", *arguments], env=os.environ | SILENT, capture_output=True, text=True, timeout=120
    )
    assert found.stdout, found.stderr
    return json.loads(found.stdout)


def redocly(*files):
    """The name of the file and the rule, for each finding."""
    return [
        (file.stem, each["ruleId"]) for file in files for each in run("redocly", "--format", "json", file)["problems"]
    ]


def spectral(*files):
    """As `redocly`."""
    found = run("spectral", "--format", "json", "--quiet", "--ruleset", str(RULES), *files)
    return [(Path(each["source"]).stem, each["code"]) for each in found]


@pytest.mark.slow
@pytest.mark.parametrize(("lint", "rule"), [(redocly, "no-unused-components"), (spectral, "oas3-unused-component")])
def test_the_linter_finds_nothing(documents, tmp_path, lint, rule):
    """Not even a warning, with the recommended rules; a component that nothing uses shows that the linter looks."""
    broken = tmp_path / "broken.yaml"
    broken.write_text(documents[0].read_text().replace(*UNUSED))
    assert lint(*documents, broken) == [("broken", rule)]


@pytest.mark.slow
def test_it_is_an_openapi_document(documents):
    """By the schema of the specification itself and its validator's further rules."""
    import openapi_spec_validator  # two seconds that every process of a run would need
    from openapi_spec_validator.validation.exceptions import OpenAPIValidationError

    read = [parse_yaml(file.read_text()) for file in documents]
    different = [each for number, each in enumerate(read) if each not in read[:number]]
    for each in different if os.environ.get("CI") else different[-1:]:  # a document costs two seconds of CPU
        openapi_spec_validator.validate(each)
    broken = copy.deepcopy(read[0])
    broken["paths"] = {"/livez": broken["paths"]["/livez"]}
    broken["paths"]["/livez"]["get"]["responses"]["200"].pop("description")
    with pytest.raises(OpenAPIValidationError):
        openapi_spec_validator.validate(broken)
